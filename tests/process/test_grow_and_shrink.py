"""Growing and shrinking with real daemons, as an operator does it: `serve --join`, `node drain`, `members`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from daemons import Daemon, DaemonCluster, clean_environment, wait_until
from foreign import ForeignClient, Producer, StreamProducer, check_acknowledged

from trio_eventlog.cli.loopback_ports import reserve_ports

pytestmark = pytest.mark.process

QUICK = ("--stabilisation-seconds", "1s", "--reconcile-seconds", "200ms")
OUTAGE_SECONDS_MAX = 5.0
"""Generous: the machine may be busy. What is promised is 1 s; what is measured is printed."""


def command(*arguments: str, target: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "trio_eventlog", *arguments, "--target", f"eventlog://{target}"],
        input=stdin,
        capture_output=True,
        env=clean_environment(),
        timeout=120,
    )
    assert not check or done.returncode == 0, done.stderr.decode()
    return done


def members(target: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(command("members", "--json", target=target).stdout)
    return found


@pytest.mark.slow
def test_three_daemons_grow_to_five_and_shrink_to_three(
    make_cluster: Callable[..., DaemonCluster],
    make_daemon: Callable[..., Daemon],
    make_client: Callable[..., ForeignClient],
) -> None:
    """Two nodes join; of the old ones two are drained and their disks wiped, all of it under load. Each drained daemon ends with
    0 and is refused afterwards, every acknowledged record is there, once, and producers see no long gap."""
    cluster = make_cluster(*QUICK).start()
    newcomers = [
        make_daemon(
            name,
            *("--node-name", name, "--listen", f"127.0.0.1:{port}", "--data-dir", "data", "--join", cluster.addresses[2], *QUICK),
        )
        for name, port in zip(("n3", "n4"), reserve_ports(2), strict=True)
    ]
    command("topics", "create", "orders", target=cluster.addresses[0])
    for newcomer in newcomers:
        newcomer.start()
    client = make_client([*cluster.addresses, *(newcomer.address for newcomer in newcomers)])
    rest = ",".join(client.addresses[2:])
    # One is with a node that is about to go.
    producers = [
        Producer(client, "orders", "unary", first_node=2),
        Producer(client, "orders", "moving", first_node=0),
        StreamProducer(client, "orders", "stream", first_node=3),
    ]
    gaps: list[tuple[str, float]] = []

    def note_gaps(what: str) -> None:
        for producer in producers:
            producer.wait_progress()
        gaps.append((what, max(producer.longest_gap_seconds() for producer in producers)))

    wait_until(lambda: sum(member["role"] in ("leader", "voter") for member in members(rest)) == 5 or None, "five voters", 60.0)
    note_gaps("grown to five")
    for number, node in enumerate(cluster.nodes[:2]):
        drained = command("node", "drain", f"n{number}", "--yes", target=rest)
        assert b"drained and removed" in drained.stdout
        assert node.wait_exit() == 0
        assert "removed from its cluster" in node.log()
        again = node.launch().wait_exit()
        assert again == 1, "a removed node does not come back"
        assert "empty data directory" in node.log_tail(1)
        shutil.rmtree(node.home / "data")
        note_gaps(f"n{number} removed")
    for producer in producers:
        producer.stop()
    print("\nlongest gap between two acknowledgements so far, s:", ", ".join(f"{what} {gap:.3f}" for what, gap in gaps))
    assert sorted(str(member["name"]) for member in members(rest)) == ["n2", "n3", "n4"]
    assert len(producers[0].acknowledged) > 10
    for number in (2, 3, 4):
        check_acknowledged(client.read_all(number, "orders"), *producers)
    assert gaps[-1][1] < OUTAGE_SECONDS_MAX


def test_commands_say_why_they_refuse(make_cluster: Callable[..., DaemonCluster]) -> None:
    """One dead node of three: nobody else can go, the dead one can; an unknown name is told the known ones."""
    cluster = make_cluster(*QUICK).start()
    target = ",".join(cluster.addresses[1:])
    wait_until(lambda: all(member["lag_entries"] == 0 for member in members(target)) or None, "all are up", 60.0)
    cluster.nodes[0].kill()
    wait_until(
        lambda: any(member["name"] == "n0" and member["status"] == "failed" for member in members(target)) or None,
        "n0 is seen to have failed",
    )
    refused = command("node", "remove", "n1", "--yes", target=target, check=False)
    assert refused.returncode == 1
    assert b"MEMBERSHIP_REFUSED" in refused.stderr
    unknown = command("node", "drain", "n9", "--yes", target=target, check=False)
    assert unknown.returncode == 1
    assert b"n1 (" in unknown.stderr
    removed = command("node", "remove", "n0", "--yes", target=target)
    assert b"is removed for ever" in removed.stdout
    assert sorted(str(member["name"]) for member in members(target)) == ["n1", "n2"]
