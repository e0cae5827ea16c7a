"""`trio-eventlog serve` as a newcomer types it, and what stands in its way."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon, run_command
from foreign import ForeignClient

pytestmark = pytest.mark.process

ANY_PORT = {"TRIO_EVENTLOG_LISTEN": "127.0.0.1:0"}
"""In place of the default port, which something else may use here."""


def test_serve_without_arguments(make_daemon: Callable[..., Daemon], make_client: Callable[..., ForeignClient]) -> None:
    """One node, data under ./trio-eventlog-data, topics on first use; everything is there after a stop, and after a kill."""
    daemon = make_daemon("fresh", environment=ANY_PORT).start()
    name = os.uname().nodename.split(".")[0]
    first_line = daemon.start_line
    assert first_line.startswith("listening on 127.0.0.1:")
    node_id = first_line.rpartition("id=")[2]
    assert f"node={name}-{node_id[:6]} id=" in first_line, "several nodes of one host have names of their own"
    assert (daemon.home / "trio-eventlog-data" / "node.toml").is_file()
    client = make_client([daemon.address])
    assert client.produce(0, "orders", [b"one", b"two"]).base_offset == 0
    assert client.produce(0, "invoices", [b"other"]).base_offset == 0
    assert client.stream_values(0, "orders", 2) == [b"one", b"two"]
    assert daemon.stop() == 0
    daemon.start()
    client = make_client([daemon.address])
    assert daemon.start_line.rpartition("id=")[2] == first_line.rpartition("id=")[2], "the same node"
    assert client.produce(0, "orders", [b"three"]).base_offset == 2
    daemon.kill()
    daemon.start()
    client = make_client([daemon.address])
    assert client.read_all(0, "orders") == [b"one", b"two", b"three"]
    assert client.read_all(0, "invoices") == [b"other"]
    assert daemon.stop() == 0


def test_ctrl_c_stops_gracefully(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("n0", environment=ANY_PORT).start()
    daemon.signal(signal.SIGINT)
    assert daemon.wait_exit() == 0
    assert "Traceback" not in daemon.log()


def test_idle_consumers_do_not_hold_a_stop_up(
    make_daemon: Callable[..., Daemon], make_client: Callable[..., ForeignClient]
) -> None:
    """Streams have no end of their own; a stop ends them, with an error that sends their clients elsewhere."""
    daemon = make_daemon("n0", "--shutdown-timeout-seconds", "60", environment=ANY_PORT).start()
    client = make_client([daemon.address])
    client.produce(0, "orders", [b"one"])
    call = client.method(0, "EventLog/ConsumeStream")(client.protocol.ConsumeRequest(topic="orders"))
    assert next(call).records[0].value == b"one"
    daemon.signal(signal.SIGTERM)
    with pytest.raises(Exception, match="stopping") as caught:
        next(call)
    assert dict(caught.value.trailing_metadata())["eventlog-error-code"] == "SHUTTING_DOWN"  # type: ignore[attr-defined]
    assert daemon.wait_exit(30) == 0


# What stands in the way: one line that says what, why and what to do; exit code 1, for usage 2; never a traceback.


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def serve(home: Path, *flags: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and complaint of a `serve` that cannot start."""
    done = run_command("serve", "--log-level", "error", *flags, home=home, environment=environment)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_directory_in_use_is_refused(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """With the pid of who holds it, who is not disturbed."""
    daemon = make_daemon("n0", environment=ANY_PORT).start()
    code, text = serve(tmp_path, "--data-dir", str(daemon.home / "trio-eventlog-data"), "--listen", "127.0.0.1:0")
    assert code == 1
    assert f"held by another process (pid {daemon.pid})" in one_line(text)
    assert daemon.stop() == 0


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    code, text = serve(tmp_path, "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert code == 1
    assert "a file is in the way" in one_line(text)
    assert (tmp_path / "data").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    code, text = serve(tmp_path, "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert code == 1
    assert "cannot be written" in one_line(text)


def test_a_damaged_node_file(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """An id with a flipped digit would be another node: refused, and nothing is touched."""
    daemon = make_daemon("n0", environment=ANY_PORT).start()
    assert daemon.stop() == 0
    node_file = daemon.home / "trio-eventlog-data" / "node.toml"
    text = node_file.read_text().replace('node_id = "', 'node_id = "f', 1)
    node_file.write_text(text)
    code, complaint = serve(tmp_path, "--data-dir", str(node_file.parent), "--listen", "127.0.0.1:0")
    assert code == 1
    assert "node.toml" in one_line(complaint)
    assert node_file.read_text() == text


def test_data_of_a_cluster_with_another_name(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """A directory that was taken for another: both names are in the complaint."""
    daemon = make_daemon("n0", "--cluster-name", "one", environment=ANY_PORT).start()
    daemon.wait_logged("cluster")
    assert daemon.stop() == 0
    data = str(daemon.home / "trio-eventlog-data")
    code, text = serve(tmp_path, "--data-dir", data, "--listen", "127.0.0.1:0", "--cluster-name", "two")
    assert code == 1
    assert "'one'" in one_line(text)
    assert "'two'" in text


def test_a_busy_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = serve(tmp_path, "--listen", address)
    assert code in (1, 2)
    assert address in one_line(text)
    assert "--listen" in text


def test_unknown_settings(tmp_path: Path) -> None:
    """By flag, variable and file: refused by name, with the nearest known one."""
    code, text = serve(tmp_path, "--segment-byte", "1MiB")
    assert code == 2
    assert "--segment-byte" in text
    code, text = serve(tmp_path, environment={"TRIO_EVENTLOG_SEGMENT_BYTE": "1MiB"})
    assert code == 2
    assert "TRIO_EVENTLOG_SEGMENT_BYTES" in one_line(text)
    (tmp_path / "settings.toml").write_text('segment_byte = "1MiB"\n')
    code, text = serve(tmp_path, "--config", str(tmp_path / "settings.toml"))
    assert code == 2
    assert "segment_bytes" in one_line(text)
    code, text = serve(tmp_path, "--config", str(tmp_path / "missing.toml"))
    assert code == 2
    assert "missing.toml" in one_line(text)


def test_settings_that_contradict_each_other(tmp_path: Path) -> None:
    code, text = serve(tmp_path, "--tls-cert", "cert.pem")
    assert code == 2
    assert "tls_key" in one_line(text)
    code, text = serve(tmp_path, "--election-timeout-ticks", "3", "--heartbeat-ticks", "2")
    assert code == 2
    assert "heartbeat_ticks" in one_line(text)
    code, text = serve(tmp_path, "--batch-bytes-max", "much")
    assert code == 2
    assert "batch_bytes_max" in one_line(text)


def test_certificates_that_are_not_there(tmp_path: Path) -> None:
    flags = ("--listen", "127.0.0.1:0", "--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    code, text = serve(tmp_path, *flags)
    assert code in (1, 2)
    assert "cert.pem" in one_line(text)


def test_python_without_assertions_is_refused(tmp_path: Path) -> None:
    code, text = serve(tmp_path, environment={"PYTHONOPTIMIZE": "1"})
    assert code == 2
    assert "python -O" in one_line(text)
