"""The command line against real daemons on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SECONDS_MAX = 60
START_LINE = re.compile(r"listening on (127\.0\.0\.1:\d+) node=(\S+) id=([0-9a-f]{16})\n")


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRIO_EVENTLOG")} | more


def run(*arguments: str, stdin: bytes = b"", target: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trio_eventlog", *arguments],
        input=stdin,
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
        env=environment(TRIO_EVENTLOG_TARGET=target),
    )


def output(*arguments: str, stdin: bytes = b"", target: str = "") -> str:
    finished = run(*arguments, stdin=stdin, target=target)
    assert finished.returncode == 0, finished.stderr.decode()
    assert not finished.stderr
    return finished.stdout.decode()


def start(directory: Path, *flags: str) -> tuple["subprocess.Popen[str]", str]:
    """A daemon that listens, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_eventlog", "serve", "--data-dir", str(directory), "--listen", "127.0.0.1:0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = START_LINE.fullmatch(line)
    if found is None:
        process.kill()
        raise AssertionError((line, process.communicate()))
    return process, found[1]


def stop(process: "subprocess.Popen[str]") -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=SECONDS_MAX)
    return process.returncode, errors


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process, address = start(tmp_path_factory.mktemp("node"), "--node-name", "solo")
    yield address
    code, errors = stop(process)
    assert code == 0, errors
    assert "Traceback" not in errors


def test_lines_in_lines_out(target: str) -> None:
    """`seq 1 100000 | trio-eventlog produce numbers`, and the same lines back in order."""
    lines = "".join(f"{number}\n" for number in range(1, 100_001))
    told = output("produce", "numbers", stdin=lines.encode(), target=target)
    assert told == "produced 100000 records, offsets 0..99999\n"
    assert output("consume", "numbers", "--from", "beginning", "--max-records", "100000", target=target) == lines
    assert output("consume", "numbers", target=target) == lines
    assert output("consume", "numbers", "--from", "99998", target=target) == "99999\n100000\n"
    assert output("consume", "numbers", "--max-records", "3", target=target) == "1\n2\n3\n"
    first = json.loads(output("consume", "numbers", "--format", "json", "--max-records", "1", target=target))
    assert (first["offset"], first["value"], first["partition"]) == (0, "1", 0)


def test_reader_that_has_had_enough(target: str) -> None:
    """As with `| head`: quiet, and no failure."""
    output("produce", "long", stdin=b"x" * 99 + b"\n" + b"y\n" * 200_000, target=target)
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_eventlog", "consume", "long", "--target", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"x" * 99 + b"\n"
    process.stdout.close()
    assert process.wait(SECONDS_MAX) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_follow(target: str) -> None:
    """What comes later is written when it comes."""
    output("topics", "create", "tail", target=target)
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_eventlog", "consume", "tail", "--follow", "--max-records", "2", "--target", target],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    output("produce", "tail", stdin=b"a\n", target=target)
    assert process.stdout.readline() == b"a\n"
    output("produce", "tail", stdin=b"no line end", target=target)
    assert process.communicate(timeout=SECONDS_MAX)[0] == b"no line end\n"
    assert process.returncode == 0


def test_keys_and_partitions(target: str) -> None:
    """The key before the separator chooses the partition; the summary has a line for each."""
    output("topics", "create", "keyed", "--partitions", "3", target=target)
    told = output("produce", "keyed", "--key-separator", ":", stdin=b"a:1\n42:2\na:3\nplain\n", target=target)
    assert sum(int(count) for count in re.findall(r"produced (\d+) records, offsets \d+\.\.\d+, partition \d", told)) == 4
    assert output("consume", "keyed", "--partition", "1", "--format", "text", target=target).count("\ta\t") == 2


def test_topics(target: str) -> None:
    """Create, list, describe, delete; and the errors that belong to them."""
    assert output("topics", "create", "made", "--partitions", "2", "--retention-time", "7d", target=target) == (
        "created made: 2 partitions, 1 replicas\n"
    )
    listed = json.loads(output("topics", "list", "--json", target=target))
    (made,) = [topic for topic in listed if topic["name"] == "made"]
    expected = {"partitions": 2, "replicas": 1, "retention_bytes": 0, "retention_seconds": 604800.0}
    assert made.items() >= expected.items()
    assert "7 d" in output("topics", "describe", "made", target=target)
    again = run("topics", "create", "made", target=target)
    assert (again.returncode, again.stderr.count(b"\n")) == (1, 1)
    assert again.stderr.startswith(b"trio-eventlog: TOPIC_EXISTS: ")
    assert output("topics", "delete", "made", "--yes", target=target) == "deleted made\n"
    gone = run("consume", "made", target=target)
    assert gone.returncode == 1
    assert gone.stderr.startswith(b"trio-eventlog: TOPIC_NOT_FOUND: ")


def test_cluster_tables(target: str) -> None:
    """One node, which leads."""
    assert re.search(rf"^solo +[0-9a-f]{{16}} +{target} +alive +leader +", output("members", target=target), re.MULTILINE)
    assert re.search(r"^catalog +solo +leader +solo ", output("status", target=target), re.MULTILINE)
    (status,) = json.loads(output("status", "--json", target=target))
    assert status["groups"][0]["role"] == "leader"


def test_stop_and_start_again(tmp_path: Path) -> None:
    """SIGTERM ends it in order with code 0; what was acknowledged is there, and the node is who it was."""
    process, address = start(tmp_path / "data", "--log-format", "json")
    output("produce", "t", stdin=b"kept\n", target=address)
    busy = run("serve", "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert busy.returncode == 1
    assert b"DATA_DIRECTORY" in busy.stderr.splitlines()[-1]
    code, errors = stop(process)
    assert code == 0, errors
    assert all(json.loads(line)["level"] for line in errors.splitlines())
    assert run("log", "verify", str(tmp_path / "data")).returncode == 0
    process, address = start(tmp_path / "data")
    assert output("consume", "t", target=address) == "kept\n"
    assert stop(process)[0] == 0


def test_refuses_to_run_without_its_checks(tmp_path: Path) -> None:
    """`python -O` removes the asserts that stop a node before it does damage."""
    finished = subprocess.run(
        [sys.executable, "-O", "-m", "trio_eventlog", "serve", "--data-dir", str(tmp_path)],
        capture_output=True,
        timeout=SECONDS_MAX,
        check=False,
        env=environment(),
    )
    assert finished.returncode == 2
    assert b"python -O" in finished.stderr
    assert not list(tmp_path.iterdir())


def test_port_taken(target: str, tmp_path: Path) -> None:
    """One line that names the address and what to do."""
    finished = run("serve", "--data-dir", str(tmp_path / "data"), "--listen", target)
    assert finished.returncode in (1, 2)
    assert target.encode() in finished.stderr.splitlines()[-1]
    assert b"Traceback" not in finished.stderr


def test_demo() -> None:
    """Three nodes, the leader killed, nothing lost; told in order."""
    story = output("demo", "--records", "100")
    for earlier, later in (("topic demo made", "kill -9"), ("kill -9", "leads now"), ("leads now", "none lost, none twice")):
        assert 0 <= story.index(earlier) < story.index(later)
    assert "100 records acknowledged, 100 consumed" in story


def test_bench() -> None:
    """Every measurement runs on a cluster of its own and gives its figures."""
    small = ("--cluster", "1", "--json", "--batch-bytes", "4KiB")
    produced = json.loads(output("bench", "produce", *small, "--seconds", "300ms", "--producers", "2"))
    assert produced["records"] > 0
    assert produced["server_cpu_seconds"] > 0
    latency = json.loads(output("bench", "latency", *small, "--calls", "50"))
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    consumed = json.loads(output("bench", "consume", *small, "--records", "5000"))
    assert consumed["records"] >= 5000
    outage = json.loads(output("bench", "outage", "--cluster", "3", "--json", "--rounds", "1"))
    assert 0 < outage["outage_seconds_max"] < 30


def test_leader_transfer(tmp_path: Path) -> None:
    """By name, in a cluster of three."""
    import trio

    from trio_eventlog.cli.local_cluster import local_cluster

    async def act() -> None:
        async with local_cluster(3, directory=str(tmp_path)) as cluster:
            told = await trio.to_thread.run_sync(lambda: output("leader", "transfer", "--to", "n2", target=cluster.target))
            assert told == "n2 leads the catalog\n"
            members = await trio.to_thread.run_sync(lambda: output("members", target=cluster.target))
            assert re.search(r"^n2 .* leader ", members, re.MULTILINE)
            wrong = await trio.to_thread.run_sync(lambda: run("leader", "transfer", "--to", "n9", target=cluster.target))
            assert wrong.returncode == 1
            assert b"there are n1" in wrong.stderr

    trio.run(act)
