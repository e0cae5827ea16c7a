"""A data directory that is copied while its node stands still, as a machine image is: one of the two processes is the node."""

import shutil
import signal
from collections.abc import Callable

import grpc
import pytest
from daemons import Daemon, DaemonCluster, wait_until
from foreign import ForeignClient

from trio_eventlog.cli.loopback_ports import reserve_ports

pytestmark = pytest.mark.process

TOPIC = "orders"
ORIGINAL, OTHER, BEHIND = 0, 1, 2


def test_the_original_of_a_copy_that_has_acknowledged_is_not_heard(
    make_cluster: Callable[..., DaemonCluster],
    make_daemon: Callable[..., Daemon],
    make_client: Callable[..., ForeignClient],
) -> None:
    """It stands still; its copy acknowledges together with one other node, and is killed; then it goes on with the third."""
    cluster = make_cluster().start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    acknowledged: list[bytes] = []

    def produce(count: int) -> None:
        for _ in range(count):
            value = b"%d" % len(acknowledged)

            def try_once(value: bytes = value) -> bool:
                try:
                    # Under a sequence: what was repeated is in the log once.
                    request = client.protocol.ProduceRequest(topic=TOPIC, partition=0)
                    request.batch.CopyFrom(client.protocol.batch([value], 77, len(acknowledged)))
                    client.call(OTHER, "EventLog/Produce", request, seconds_max=5.0)
                except grpc.RpcError:
                    return False
                return True

            wait_until(try_once, f"{value!r} acknowledged")
            acknowledged.append(value)

    produce(20)
    original = cluster.nodes[ORIGINAL]
    original.signal(signal.SIGSTOP)
    (port,) = reserve_ports(1)
    home = original.home.parent / "copy"
    shutil.copytree(original.home / "data", home / "data")
    copy = make_daemon(
        "copy",
        *("--node-name", "copy", "--listen", f"127.0.0.1:{port}", "--data-dir", str(home / "data")),
        *("--join", cluster.addresses[OTHER], "--join", cluster.addresses[BEHIND]),
    )
    # Its peers have to find first that the original is silent; until then the copy is refused.
    copy.start()
    for node in (OTHER, BEHIND):
        cluster.nodes[node].wait_logged(f"(copy) at 127.0.0.1:{port} is up")
    cluster.nodes[BEHIND].kill()
    produce(20)
    copy.kill()
    # Who has it all stands still, too. The two others would be a majority, and know nothing of what was acknowledged.
    cluster.nodes[OTHER].signal(signal.SIGSTOP)
    cluster.nodes[BEHIND].start()
    original.signal(signal.SIGCONT)
    cluster.nodes[BEHIND].wait_logged(f"you at {original.address} are not the node")
    cluster.nodes[OTHER].signal(signal.SIGCONT)
    produce(20)
    assert original.is_running, "others saying so is no reason to end"
    log = cluster.nodes[BEHIND].log()
    refusals = [
        line for line in log.splitlines() if "peer link of" in line and f"you at {original.address} are not the node" in line
    ]
    assert len(refusals) == 1
    assert f"127.0.0.1:{port}" in refusals[0]
    for node in (OTHER, BEHIND):
        wait_until(lambda node=node: client.read_all(node, TOPIC) == acknowledged, "nothing is lost, and nothing is there twice")
