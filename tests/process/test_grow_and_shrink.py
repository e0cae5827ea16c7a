"""Growing and shrinking with real daemons, as an operator does it: `serve --join`, `node drain`, `members`."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from daemons import Daemon, DaemonCluster, clean_environment, free_ports, wait_until

pytestmark = pytest.mark.process

QUICK = ("--stabilisation-seconds", "1s", "--reconcile-seconds", "200ms", "--tick-seconds", "30ms")


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


def test_three_daemons_grow_to_five_and_shrink_to_three(
    make_cluster: Callable[..., DaemonCluster], make_daemon: Callable[..., Daemon]
) -> None:
    """Records flow meanwhile; each drained daemon ends with 0, its directory is removed, and every acknowledged record is there."""
    cluster = make_cluster(*QUICK).start()
    first = cluster.addresses[0]
    command("topics", "create", "orders", target=first)

    newcomers = [
        make_daemon(
            name,
            *("--node-name", name, "--listen", f"127.0.0.1:{port}", "--data-dir", "data", "--join", cluster.addresses[2], *QUICK),
        )
        for name, port in zip(("n3", "n4"), free_ports(2), strict=True)
    ]
    for newcomer in newcomers:
        newcomer.start()
    rest = f"{cluster.addresses[2]},{newcomers[0].address},{newcomers[1].address}"

    values = [f"record {number}".encode() for number in range(400)]
    acknowledged: list[bytes] = []
    enough = threading.Event()

    def produce() -> None:
        while not enough.is_set() and len(acknowledged) < len(values):
            batch = values[len(acknowledged) : len(acknowledged) + 10]
            command("produce", "orders", target=rest, stdin=b"\n".join(batch))
            acknowledged.extend(batch)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        wait_until(lambda: sum(member["role"] in ("leader", "voter") for member in members(rest)) == 5 or None, "five voters", 60.0)
        for name in ("n0", "n1"):
            drained = command("node", "drain", name, target=rest)
            assert b"drained and removed" in drained.stdout
            node = next(node for node in cluster.nodes if node.home.name == name)
            assert node.wait_exit() == 0
            assert "removed from its cluster" in node.log()
            again = node.launch().wait_exit()
            assert again == 1, "a removed node does not come back"
            assert "empty data directory" in node.log_tail(1)
            shutil.rmtree(node.home / "data")
    finally:
        enough.set()
        producer.join()
    assert sorted(str(member["name"]) for member in members(rest)) == ["n2", "n3", "n4"]
    assert acknowledged
    consumed = command("consume", "orders", "--max-records", str(len(acknowledged)), target=rest).stdout
    assert sorted(consumed.splitlines()) == sorted(acknowledged)


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
    refused = command("node", "remove", "n1", target=target, check=False)
    assert refused.returncode == 1
    assert b"MEMBERSHIP_REFUSED" in refused.stderr
    unknown = command("node", "drain", "n9", target=target, check=False)
    assert unknown.returncode == 1
    assert b"n1 (" in unknown.stderr
    removed = command("node", "remove", "n0", target=target)
    assert b"is removed for ever" in removed.stdout
    assert sorted(str(member["name"]) for member in members(target)) == ["n1", "n2"]
