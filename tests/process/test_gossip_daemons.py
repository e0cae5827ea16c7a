"""Gossip among real daemons: who finds whom, who is shown as what, keys, and what is refused."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon, run_command, wait_until

from trio_eventlog.cli.loopback_ports import reserve_ports

pytestmark = pytest.mark.process

FAILED_SECONDS_MAX = 20.0
"""LAN profile, three nodes: about 6 s, and this machine may be busy."""
KEYS = ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=")


def node_flags(name: str, port: int, *flags: str) -> tuple[str, ...]:
    return ("--node-name", name, "--listen", f"127.0.0.1:{port}", "--data-dir", "data", "--tick-seconds", "30ms", *flags)


def members(home: Path, *targets: str) -> dict[str, dict[str, object]]:
    """What `members --json` shows, by name; empty when nobody can say."""
    done = run_command("members", "--json", "--target", "eventlog://" + ",".join(targets), home=home)
    return {member["name"]: member for member in json.loads(done.stdout)} if done.returncode == 0 else {}


def statuses(home: Path, *targets: str) -> dict[str, object]:
    return {name: member["status"] for name, member in members(home, *targets).items()}


def wait_statuses(home: Path, targets: list[str], expected: dict[str, object], seconds_max: float = 30.0) -> None:
    wait_until(lambda: statuses(home, *targets) == expected or None, f"members are {expected}", seconds_max)


def start_all(make_daemon: Callable[..., Daemon], ports: list[int], *flags: str, prefix: str = "n") -> list[Daemon]:
    """Three that begin a cluster, of which only the first is named."""
    join = ("--join", f"127.0.0.1:{ports[0]}")
    daemons = [
        make_daemon(f"{prefix}{number}", *node_flags(f"{prefix}{number}", port, *(join if number else ()), *flags))
        for number, port in enumerate(ports)
    ]
    for daemon in daemons:
        daemon.launch()
    for daemon in daemons:
        daemon.wait_listening()
    return daemons


def test_one_named_node_is_enough_and_who_is_gone_is_told_apart(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """One killed, one stopped: failed and left; back again: alive. Tags and roles are shown."""
    nodes = start_all(make_daemon, reserve_ports(3), "--bootstrap-expect", "3")
    targets = [node.address for node in nodes]
    everybody: dict[str, object] = {"n0": "alive", "n1": "alive", "n2": "alive"}
    wait_statuses(tmp_path, targets, everybody)
    shown = members(tmp_path, *targets)
    for node in nodes:
        member = shown[node.home.name]
        tags = member["tags"]
        assert isinstance(tags, dict)
        assert member["address"] == node.address
        assert (tags["role"], tags["id"], tags["port"]) == ("eventlog", member["id"], node.address.rpartition(":")[2])
    assert sorted(str(member["role"]) for member in shown.values()) == ["leader", "voter", "voter"]

    nodes[2].kill()
    for node in nodes[:2]:
        node.wait_logged(f"n2 at {nodes[2].address} has failed", FAILED_SECONDS_MAX)
    wait_statuses(tmp_path, targets[:2], everybody | {"n2": "failed"})
    nodes[2].start()
    wait_statuses(tmp_path, targets, everybody)
    assert nodes[1].stop() == 0
    wait_statuses(tmp_path, [targets[0], targets[2]], everybody | {"n1": "left"})
    nodes[1].start()
    wait_statuses(tmp_path, targets, everybody)


@pytest.mark.slow
def test_all_addresses_change_at_once(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Each is told of one other only, and finds the rest: the same cluster with the same records."""
    before = start_all(make_daemon, reserve_ports(3), "--bootstrap-expect", "3")
    target = "eventlog://" + ",".join(node.address for node in before)
    assert run_command("topics", "create", "orders", "--target", target, home=tmp_path).returncode == 0
    done = run_command("produce", "orders", "--target", target, home=tmp_path, text="one\ntwo\nthree\n")
    assert done.returncode == 0, done.stderr
    for node in before:
        node.kill()
    ports = reserve_ports(3)
    after = [
        Daemon(node.home, *node_flags(node.home.name, port, "--join", f"127.0.0.1:{ports[number - 1]}"))
        for number, (node, port) in enumerate(zip(before, ports, strict=True))
    ]
    try:
        for node in after:
            node.launch()
        for node in after:
            node.wait_listening()
        targets = [node.address for node in after]
        wait_statuses(tmp_path, targets, {"n0": "alive", "n1": "alive", "n2": "alive"})
        done = run_command(
            *("consume", "orders", "--from", "beginning", "--max-records", "3", "--target", "eventlog://" + ",".join(targets)),
            home=tmp_path,
        )
        assert done.stdout.split() == ["one", "two", "three"]
    finally:
        for node in after:
            node.close()


def test_keys_and_a_stranger_with_another_key(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The ring is read from the file; another key is refused, and both logs say so; a file without a key is no start."""
    (tmp_path / "gossip.key").write_text(f"# of the cluster\n{KEYS[0]}\n{KEYS[1]}\n")
    (tmp_path / "wrong.key").write_text("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=")
    (tmp_path / "empty.key").write_text("# nothing\n")
    ports = reserve_ports(3)
    nodes = start_all(make_daemon, ports[:2], "--bootstrap-expect", "2", "--gossip-key-file", str(tmp_path / "gossip.key"))
    wait_statuses(tmp_path, [node.address for node in nodes], {"n0": "alive", "n1": "alive"})
    wrong = make_daemon(
        "n2", *node_flags("n2", ports[2], "--join", f"127.0.0.1:{ports[0]}", "--gossip-key-file", str(tmp_path / "wrong.key"))
    )
    wrong.start()
    wrong.wait_logged("no installed key decrypts the message")
    assert "n2 at" not in nodes[0].log(), "it has come into gossip"
    no_key = make_daemon("n3", *node_flags("n3", 0, "--gossip-key-file", str(tmp_path / "empty.key"))).launch()
    assert no_key.wait_exit() == 2
    assert "gossip_key_file" in no_key.log()
    assert "at least one key" in no_key.log()


def test_counts_and_cluster_names_that_contradict_each_other(make_daemon: Callable[..., Daemon]) -> None:
    """Told, with both values, by both, who wait for it to be put right: anybody can say a number."""
    ports = reserve_ports(3)
    first = make_daemon("n0", *node_flags("n0", ports[0], "--bootstrap-expect", "3")).start()
    join = ("--join", f"127.0.0.1:{ports[0]}")
    two = make_daemon("n1", *node_flags("n1", ports[1], *join, "--bootstrap-expect", "2")).launch()
    two.wait_logged("expects 3 nodes to begin a cluster, this one 2")
    first.wait_logged("expects 2 nodes to begin a cluster, this one 3")
    assert first.is_running
    assert two.stop() == 0
    other = make_daemon("n2", *node_flags("n2", ports[2], *join, "--bootstrap-expect", "3", "--cluster-name", "other")).launch()
    other.wait_logged("'other'")
    other.wait_logged("'default'")


def test_a_number_that_is_taken_for_packets(make_daemon: Callable[..., Daemon]) -> None:
    """A fixed one is refused by name; with port 0 another one is taken."""
    with socket.socket(type=socket.SOCK_DGRAM) as squatter:
        squatter.bind(("127.0.0.1", 0))
        port = squatter.getsockname()[1]
        daemon = make_daemon("n0", *node_flags("n0", port)).launch()
        assert daemon.wait_exit() == 2
        assert f"cannot receive packets on 127.0.0.1:{port}" in daemon.log()
        assert "UDP" in daemon.log()
