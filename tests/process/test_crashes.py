"""Nodes are killed, stopped and started again under load; whatever was acknowledged is there, once, at its offset."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trio
from daemons import Daemon, DaemonCluster, wait_until
from foreign import ForeignClient, Producer, Reader, StreamProducer, check_acknowledged

from tests.extremes import extreme_requests
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.verify import verify_replica

pytestmark = pytest.mark.process

TOPIC = "orders"
OUTAGE_SECONDS_MAX = 5.0
"""Generous: the machine may be busy. What is measured is printed; docs/benchmarks.md has figures of a quiet machine."""


def wait_leader(client: ForeignClient, cluster: DaemonCluster, other_than: int | None = None) -> int:
    def find() -> int | None:
        leader = client.leader(TOPIC, asked=cluster.alive())
        return leader if leader != other_than else None

    return wait_until(find, "a leader")


def wait_caught_up(client: ForeignClient, node: int, end_offset: int) -> None:
    """Until the node itself shows every record below `end_offset`."""

    def is_caught_up() -> bool:
        request = client.protocol.ConsumeRequest(topic=TOPIC, offset=0, max_records=1)
        return bool(client.call(node, "EventLog/Consume", request).high_watermark >= end_offset)

    wait_until(is_caught_up, f"node {node} has caught up")


def log_directories(daemon: Daemon) -> list[Path]:
    return sorted(path for path in (daemon.home / "data" / "groups").glob("*/log") if path.is_dir())


def check_logs(daemons: list[Daemon]) -> None:
    """What is on the disks of stopped nodes is whole (`trio-eventlog log verify` does the same)."""
    for daemon in daemons:
        assert not daemon.is_running
        directories = log_directories(daemon)
        assert len(directories) >= 2, "catalog and topic"
        for directory in directories:
            report = trio.run(verify_replica, RealDisk(), str(directory.parent))
            assert not report.is_damaged, report.problems


@pytest.mark.parametrize("leaders", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_leaders_are_killed_one_after_the_other(
    leaders: int, make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """Producers and a consumer, unary and streaming, at different nodes, see leaders die by SIGKILL; nothing acknowledged
    is lost or doubled, each node comes back and catches up, and every node serves the same log."""
    cluster = make_cluster().start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    wait_leader(client, cluster)
    unary = Producer(client, TOPIC, "unary", first_node=0)
    stream = StreamProducer(client, TOPIC, "stream", first_node=1)
    reader = Reader(client, TOPIC, first_node=2)
    outages = []
    for _ in range(leaders):
        unary.wait_progress()
        stream.wait_progress()
        victim = wait_leader(client, cluster)
        killed_at = time.monotonic()
        cluster.nodes[victim].kill()
        successor = wait_leader(client, cluster, other_than=victim)
        assert successor != victim
        unary.wait_progress()
        stream.wait_progress()
        outages.append(
            min(
                ack
                for producer in (unary, stream)
                for began, ack in zip(producer.begin_times, producer.ack_times, strict=False)
                if began > killed_at
            )
            - killed_at
        )
        cluster.nodes[victim].start()
        wait_caught_up(client, victim, max(unary.acknowledged))
    print(f"\noutages after SIGKILL of the leader, s: {', '.join(f'{outage:.3f}' for outage in outages)}")
    unary.stop()
    stream.stop()
    count = sum(len(values) for producer in (unary, stream) for values in producer.acknowledged.values())
    reader.wait_count(count)
    reader.stop()
    check_acknowledged(reader.values, unary, stream)
    for node in range(3):
        assert client.read_all(node, TOPIC) == reader.values
        assert client.stream_values(node, TOPIC, count) == reader.values
        assert client.stream_values(node, TOPIC, count, batches=True) == reader.values
    assert max(outages) < OUTAGE_SECONDS_MAX
    for daemon in cluster.nodes:
        daemon.kill()
    check_logs(cluster.nodes)


def test_all_nodes_are_killed_at_once_under_load(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """A power cut, as far as processes go: what was acknowledged before it is there after it, and the logs are whole."""
    cluster = make_cluster().start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    producers: list[Producer] = [Producer(client, TOPIC, f"unary{n}", first_node=n, batch_records=3) for n in range(3)]
    producers.append(StreamProducer(client, TOPIC, "stream", first_node=0, batch_records=200))
    for round_number in range(2):
        for producer in producers:
            producer.wait_progress()
        for daemon in cluster.nodes:
            assert daemon.process is not None
            daemon.process.kill()
        for daemon in cluster.nodes:
            daemon.wait_exit()
        check_logs(cluster.nodes)
        cluster.start()
        print(f"round {round_number}: {sum(len(producer.acknowledged) for producer in producers)} batches acknowledged")
    for producer in producers:
        producer.wait_progress()
        producer.stop()
    values = client.read_all(0, TOPIC)
    check_acknowledged(values, *producers)
    for daemon in cluster.nodes:
        assert daemon.stop() == 0
    check_logs(cluster.nodes)


def test_a_graceful_stop_of_the_leader_under_load_is_hardly_seen(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """SIGTERM: leadership is handed over first, exit code 0, nothing acknowledged is lost, producers see a short gap."""
    cluster = make_cluster().start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    leader = wait_leader(client, cluster)
    producers = [
        Producer(client, TOPIC, "unary", first_node=leader),
        StreamProducer(client, TOPIC, "stream", first_node=leader),
        Producer(client, TOPIC, "elsewhere", first_node=(leader + 1) % 3),
    ]
    reader = Reader(client, TOPIC, first_node=leader)
    for producer in producers:
        producer.wait_progress()
    assert cluster.nodes[leader].stop() == 0
    for producer in producers:
        producer.wait_progress()
        producer.stop()
    gaps = {producer.name: producer.longest_gap_seconds() for producer in producers}
    print("\nlongest gaps around SIGTERM of the leader, s:", ", ".join(f"{name} {gap:.3f}" for name, gap in gaps.items()))
    reader.wait_count(sum(len(values) for producer in producers for values in producer.acknowledged.values()))
    reader.stop()
    check_acknowledged(reader.values, *producers)
    assert max(gaps.values()) < OUTAGE_SECONDS_MAX
    cluster.nodes[leader].start()
    wait_caught_up(client, leader, len(reader.values))


@pytest.mark.slow
def test_a_rolling_restart_of_all_nodes_under_load(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """SIGTERM and a start for one after the other, the next one as soon as the last has caught up: nothing acknowledged is lost,
    producers see short gaps, and nobody stops being a voter."""
    cluster = make_cluster().start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    wait_leader(client, cluster)
    producers = [
        Producer(client, TOPIC, "unary", first_node=0),
        Producer(client, TOPIC, "another", first_node=1),
        StreamProducer(client, TOPIC, "stream", first_node=2),
    ]
    for number, daemon in enumerate(cluster.nodes):
        for producer in producers:
            producer.wait_progress()
        assert daemon.stop() == 0
        daemon.start()
        wait_caught_up(client, number, max(producers[0].acknowledged))
    for producer in producers:
        producer.wait_progress()
        producer.stop()
    gaps = {producer.name: producer.longest_gap_seconds() for producer in producers}
    print("\nlongest gaps in a rolling restart, s:", ", ".join(f"{name} {gap:.3f}" for name, gap in gaps.items()))
    for number in range(3):
        check_acknowledged(client.read_all(number, TOPIC), *producers)
    assert max(gaps.values()) < OUTAGE_SECONDS_MAX


def test_every_node_is_stopped_gracefully_under_load(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """All at once: nobody is left to hand over to, and still each ends with 0 and what was acknowledged stays."""
    cluster = make_cluster("--shutdown-timeout-seconds", "2").start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    producers = [Producer(client, TOPIC, f"unary{n}", first_node=n) for n in range(3)]
    for producer in producers:
        producer.wait_progress()
    for daemon in cluster.nodes:
        daemon.signal(signal.SIGTERM)
    for daemon in cluster.nodes:
        assert daemon.wait_exit() == 0
    check_logs(cluster.nodes)
    cluster.start()
    for producer in producers:
        producer.wait_progress()
        producer.stop()
    check_acknowledged(client.read_all(1, TOPIC), *producers)


def test_a_second_signal_stops_at_once(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """While the first one waits for a call to end, a second one does not; nothing acknowledged is lost by it."""
    cluster = make_cluster("--shutdown-timeout-seconds", "60").start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    leader = wait_leader(client, cluster)
    response = client.produce(leader, TOPIC, [b"kept"])
    # A fetch that waits for a record that does not come holds the first stop up.
    request = client.protocol.ConsumeRequest(topic=TOPIC, offset=1)
    request.max_wait.seconds = 50
    waiting = client.method(leader, "EventLog/Consume").future(request)
    wait_until(lambda: client.leader(TOPIC, asked=[leader]) == leader, "the fetch is there before the signal")
    daemon = cluster.nodes[leader]
    daemon.signal(signal.SIGTERM)
    daemon.wait_logged("once more to stop at once")
    successor = wait_leader(client, cluster, other_than=leader)
    assert daemon.is_running
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit(5) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 5
    waiting.cancel()
    assert client.read_all(successor, TOPIC)[response.base_offset] == b"kept"


def test_no_extreme_of_an_admin_field_keeps_nodes_from_coming_back(
    make_cluster: Callable[..., DaemonCluster], make_client: Callable[..., ForeignClient]
) -> None:
    """Every bound of every field of CreateTopic, by a foreign client; then all nodes are killed, and come back with one catalog."""
    cluster = make_cluster("--no-auto-create-topics").start()
    client = make_client(cluster.addresses)
    client.create_topic(TOPIC)
    protocol = client.protocol
    refused: list[tuple[grpc.StatusCode, str]] = []
    service = protocol.CreateTopicRequest.DESCRIPTOR.file.services_by_name["Admin"]
    for method, request in extreme_requests(service, lambda descriptor: getattr(protocol, descriptor.name)()):
        if method != "CreateTopic":
            continue
        try:
            client.call(1, f"Admin/{method}", request)
        except grpc.RpcError as error:
            refused.append((error.code(), str(request)))
        else:
            client.call(1, "Admin/DeleteTopic", protocol.DeleteTopicRequest(name=request.name))
    assert [text for code, text in refused if code is not grpc.StatusCode.INVALID_ARGUMENT] == []
    assert all(node.is_running for node in cluster.nodes)
    for node in cluster.nodes:
        node.kill()
    cluster.start()
    client.call_any("EventLog/Produce", protocol.ProduceRequest(topic=TOPIC, batch=protocol.batch([b"after"])))
    for number in range(3):
        listed = client.call(number, "Admin/ListTopics", protocol.ListTopicsRequest())
        assert [topic.name for topic in listed.topics] == [TOPIC]
