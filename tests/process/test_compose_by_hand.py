"""What deploy/compose runs, run by hand: nodes by their variables alone, and Debian's nginx in front of them by its very file."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from daemons import SERVE, Daemon, wait_until

from trio_eventlog.cli.loopback_ports import reserve_addresses

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "compose"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = [pytest.mark.process, pytest.mark.skipif(NGINX is None, reason="needs Debian's package nginx-light")]


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Runs nginx with these servers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(servers: str) -> None:
        assert NGINX is not None
        home = tmp_path / "nginx"
        home.mkdir()
        paths = " ".join(f"{name}_temp_path {home / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        configuration = home / "nginx.conf"
        configuration.write_text(
            f"daemon off; master_process off; pid {home / 'pid'}; error_log {home / 'error.log'};"
            f" events {{}} http {{ access_log off; {paths} {servers} }}"
        )
        started.append(subprocess.Popen([NGINX, "-p", str(home), "-e", str(home / "error.log"), "-c", str(configuration)]))

    yield start
    for process in started:
        process.kill()
        process.wait()


def ask(url: str, body: object = None) -> dict[str, object] | None:
    """None: no node is there to answer yet."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, {"content-type": "application/json"}), timeout=20) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def test_nodes_behind_nginx(tmp_path: Path, make_daemon: Callable[..., Daemon], start_nginx: Callable[[str], None]) -> None:
    """Written and read through it, tails arrive as they come, and one node less makes no difference."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    *addresses, front = reserve_addresses(4)
    places = dict(zip((f"n{number}:8400" for number in (1, 2, 3)), addresses, strict=True))

    def moved(text: str) -> str:
        return re.sub(r"\bn\d:8400\b", lambda found: places[found[0]], text)

    daemons = {}
    for name, address in zip(("n1", "n2", "n3"), addresses, strict=True):
        variables = {key: moved(value) for key, value in services[name]["environment"].items()}
        variables |= {"TRIO_EVENTLOG_LISTEN": address, "TRIO_EVENTLOG_DATA_DIR": str(tmp_path / name / "data")}
        daemons[name] = make_daemon(name, environment=variables, command=SERVE).launch()
    for daemon in daemons.values():
        daemon.wait_listening()
    start_nginx(moved((FOLDER / "nginx.conf").read_text()).replace("listen 8080;", f"listen {front};"))

    event = {"type": "UserCreated", "aggregate_id": "user-123", "payload": {"name": "John Doe"}}
    first = wait_until(lambda: ask(f"http://{front}/events", event), "the first event is taken", 60)
    assert first["success"] is True
    with urllib.request.urlopen(f"http://{front}/events/stream", timeout=30) as stream:
        wait_until(lambda: ask(f"http://{front}/events", {**event, "type": "UserRenamed"}), "a second event")
        line = b""
        while b"UserRenamed" not in line:
            line = stream.readline()
            assert line, "the stream has ended"
    daemons["n2"].kill()
    # What was written without an answer may be in the log; what was answered is.
    written = [wait_until(lambda: ask(f"http://{front}/events", event), "events without n2", 60) for _ in range(9)]
    read = wait_until(lambda: ask(f"http://{front}/events/user-123"), "events are read", 60)
    ids = [found["id"] for found in read["events"]]  # type: ignore[attr-defined]
    assert len(ids) == read["count"]
    assert {answer["event_id"] for answer in (first, *written)} <= set(ids)
