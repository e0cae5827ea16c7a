"""More partitions than descriptors, and many at once, on real daemons."""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.daemons import SERVE, DaemonCluster, run_command, wait_until, watched

pytestmark = pytest.mark.process

LIMIT = 256
LIMITED = (
    sys.executable,
    "-c",
    (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}));"
        " os.execv(sys.executable, sys.argv[1:])"
    ),
    *SERVE,
)


@pytest.fixture
def limited(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DaemonCluster]:
    """Three nodes that may open 256 files and connections each."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > LIMIT
    cluster = DaemonCluster(tmp_path)
    for node in cluster.nodes:
        node._command = LIMITED
    with watched(request.node, cluster.nodes):
        yield cluster.start()


@pytest.mark.slow
def test_more_partitions_than_descriptors(limited: DaemonCluster, tmp_path: Path) -> None:
    """Beyond the room of the nodes: refused in words, no node ends. Up to it: made, and there again after all were killed."""
    where = {"TRIO_EVENTLOG_TARGET": "eventlog://" + ",".join(limited.addresses)}

    def client(*arguments: str, text: str = "") -> tuple[int, str]:
        finished = run_command(*arguments, home=tmp_path, environment=where, text=text)
        return finished.returncode, finished.stdout + finished.stderr

    code, said = client("topics", "create", "big", "--partitions", "150", "--replicas", "3")
    assert code == 1
    assert "has room for" in said
    assert "ulimit -n" in said
    assert limited.alive() == [0, 1, 2]
    room = int(said.partition("has room for ")[2].partition(":")[0])
    code, said = client("topics", "create", "small", "--partitions", str(room), "--replicas", "3")
    assert code == 0, said
    for partition in (0, room - 1):
        code, said = client("produce", "small", "--partition", str(partition), text="one\n")
        assert code == 0, said
    code, said = client("topics", "create", "more")
    assert (code, "has room for" in said) == (1, True)
    for node in limited.nodes:
        node.kill()
    for node in limited.nodes:
        node.launch()
    for node in limited.nodes:
        node.wait_listening()

    def is_whole() -> bool:
        code, said = client("topics", "describe", "small", "--json")
        return code == 0 and all(item["leader_id"] and not item["problem"] for item in json.loads(said)["partitions"])

    wait_until(is_whole, "every partition has a leader again")
    for partition in (0, room - 1):
        assert client("consume", "small", "--partition", str(partition), "--max-records", "1") == (0, "one\n")
    assert limited.alive() == [0, 1, 2]
