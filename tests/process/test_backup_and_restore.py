"""A backup of real daemons, restored as a cluster of another size, by the command line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from daemons import Daemon, DaemonCluster, clean_environment, wait_until

from trio_eventlog.cli.loopback_ports import reserve_ports

pytestmark = pytest.mark.process

TOPIC = "orders"
RECORDS = 20_000


def command(*arguments: str, input_text: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trio_eventlog", *arguments],
        input=input_text.encode(),
        capture_output=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def records(address: str, count: int = RECORDS) -> list[str]:
    """Partition, offset and value of every record."""
    target = f"eventlog://{address}"
    lines = command("consume", TOPIC, "--format", "%p %o %v\n", "--max-records", str(count), "--target", target).splitlines()
    return sorted(lines)


def test_one_node_becomes_three(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The same records at the same offsets, on every node of the new cluster; the second backup reads what is new."""
    old = make_daemon("old", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "old" / "data")).start()
    target = ("--target", f"eventlog://{old.address}")
    command("topics", "create", TOPIC, "--partitions", "3", *target)
    half = RECORDS // 2
    command("produce", TOPIC, *target, input_text="".join(f"value {number}\n" for number in range(half)))
    backup = str(tmp_path / "backup")
    first = json.loads(command("backup", backup, "--json", *target))
    assert (first["groups"], first["records"], first["kept_bytes"]) == (4, half, 0)
    command("produce", TOPIC, *target, input_text="".join(f"value {number}\n" for number in range(half, RECORDS)))
    second = json.loads(command("backup", backup, "--json", *target))
    assert second["records"] == RECORDS
    assert second["kept_bytes"] > 0.9 * first["written_bytes"] - 10_000 * first["groups"]
    assert json.loads(command("backup", "verify", backup, "--json"))["problems"] == []
    before = records(old.address)
    assert len(before) == RECORDS
    old.kill()

    data = tmp_path / "restored" / "data"
    made = json.loads(command("restore", backup, "--data-dir", str(data), "--cluster-name", "again", "--json"))
    assert made["records"] == RECORDS
    assert made["cluster_id"] != second["cluster_id"]
    addresses = [f"127.0.0.1:{port}" for port in reserve_ports(3)]
    directories = (data, tmp_path / "r2" / "data", tmp_path / "r3" / "data")
    nodes = [
        make_daemon(
            name,
            *("--node-name", name, "--cluster-name", "again", "--listen", address, "--data-dir", str(directory)),
            *([] if address == addresses[0] else ["--join", addresses[0]]),
        )
        for name, address, directory in zip(("r1", "r2", "r3"), addresses, directories, strict=True)
    ]
    nodes[0].start()
    assert records(addresses[0]) == before
    # It takes snapshots for this. Nodes that join afterwards still find the catalog's log whole.
    command("backup", str(tmp_path / "again"), "--target", f"eventlog://{addresses[0]}")
    for node in nodes[1:]:
        node.start()

    def is_everywhere() -> bool:
        nodes_seen = json.loads(command("status", "--json", "--target", f"eventlog://{addresses[0]}"))
        groups = [group for node in nodes_seen for group in node.get("groups", ())]
        return len(groups) == 3 * 4 and all(len(group["voter_ids"]) == 3 for group in groups)

    wait_until(is_everywhere, "every node has every partition")
    nodes[0].kill()

    def read_elsewhere() -> list[str] | None:
        try:
            return records(",".join(addresses[1:]))
        except AssertionError:  # there is no leader yet
            return None

    assert wait_until(read_elsewhere, "records from the others") == before


def test_two_of_three_directories_are_destroyed(
    make_cluster: Callable[..., DaemonCluster], make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """The runbook of the guide. What was acknowledged is on two of three nodes at least; the one that is left has most of it, and
    says what it has. Its records stay where they were.
    """
    cluster = make_cluster().start()
    target = ("--target", "eventlog://" + ",".join(cluster.addresses))
    command("topics", "create", TOPIC, "--partitions", "3", *target)
    command("produce", TOPIC, *target, input_text="".join(f"value {number}\n" for number in range(RECORDS)))
    before = records(cluster.addresses[0])
    for node in cluster.nodes:
        node.kill()
    for lost in cluster.nodes[1:]:
        shutil.rmtree(lost.home / "data")
    left = str(cluster.nodes[0].home / "data")

    shown = json.loads(command("recover", left, "--json"))
    assert [group["topic"] for group in shown["groups"]] == ["", TOPIC, TOPIC, TOPIC]
    home = tmp_path / "recovered"
    made = json.loads(command("recover", left, "--data-dir", str(home / "data"), "--yes-lose-data", "--json"))
    assert made["new_cluster_id"] != made["cluster_id"]
    ends = {group["partition"]: group["replicas"][0]["end_offset"] for group in made["groups"] if group["topic"]}
    kept = [line for line in before if int(line.split()[1]) < ends[int(line.split()[0])]]
    assert len(kept) > RECORDS / 2

    (port,) = reserve_ports(1)
    node = make_daemon("r1", "--node-name", "r1", "--listen", f"127.0.0.1:{port}", "--data-dir", str(home / "data")).start()
    assert records(node.address, len(kept)) == kept
    # A node that comes back belongs to another cluster: it is refused, and has no majority by itself.
    back = make_daemon("back", "--listen", "127.0.0.1:0", "--data-dir", left, "--join", node.address).launch()
    wait_until(lambda: "you belong to cluster" in back.log_path.read_text(), "refused")
    assert records(node.address, len(kept)) == kept
