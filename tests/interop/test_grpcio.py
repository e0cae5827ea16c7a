"""What grpcio, with nothing but proto/, can do with one node: every call of EventLog, and the ways of gRPC around them."""

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import zstandard
from crc32c import crc32c
from daemons import Daemon
from foreign import ForeignClient

pytestmark = [pytest.mark.interop, pytest.mark.process]

OFFSET, BEGINNING, END, TIMESTAMP = range(4)
QUORUM, LEADER, ACCEPTED = range(3)
NONE, ZSTD, GZIP = range(3)


def consume(client: ForeignClient, topic: str, **fields: Any) -> Any:
    return client.call(0, "EventLog/Consume", client.protocol.ConsumeRequest(topic=topic, **fields))


def fnv1a(data: bytes) -> int:
    """FNV-1a, 32 bits, written from its definition."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def test_a_record_comes_back_as_it_was(client: ForeignClient, topic: str) -> None:
    protocol = client.protocol
    record = protocol.Record(value=b"\x00value", key=b"key\xff")
    record.headers.add(key="trace", value=b"\x01\x02")
    record.headers.add(key="trace", value=b"again")
    record.timestamp.seconds, record.timestamp.nanos = 1_700_000_000, 123_456_789
    response = client.call(0, "EventLog/Produce", protocol.ProduceRequest(topic=topic, records=[record]))
    assert (response.topic, response.partition, response.base_offset, response.record_count) == (topic, 0, 0, 1)
    (found,) = consume(client, topic).records
    assert found == record


def test_the_node_stamps_what_has_no_time(client: ForeignClient, topic: str) -> None:
    before = time.time()
    client.produce(0, topic, [b"now"])
    (found,) = consume(client, topic).records
    assert before - 1 <= found.timestamp.seconds + found.timestamp.nanos / 1e9 <= time.time() + 1


@pytest.mark.parametrize("compression", [NONE, ZSTD, GZIP])
def test_batches_are_kept_to_the_byte(client: ForeignClient, topic: str, compression: int) -> None:
    """Opaque in, opaque out, whatever they are packed with; asked for as records, they are unpacked."""
    protocol = client.protocol
    payload = protocol.RecordBatch(records=[protocol.Record(value=b"v%d" % n) for n in range(50)]).SerializeToString()
    packed = {NONE: payload, ZSTD: zstandard.compress(payload), GZIP: gzip.compress(payload)}[compression]
    batch = protocol.Batch(record_count=50, payload=packed, crc32c=crc32c(packed), compression=compression)
    batch.producer_id, batch.base_sequence = 77, 1000
    assert client.call(0, "EventLog/Produce", protocol.ProduceRequest(topic=topic, batch=batch)).record_count == 50
    (found,) = consume(client, topic, offset=20, batches=True).batches
    assert (found.payload, found.crc32c, found.compression) == (packed, crc32c(packed), compression)
    assert (found.base_offset, found.record_count, found.producer_id, found.base_sequence) == (0, 50, 77, 1000)
    records = consume(client, topic, offset=20).records
    assert [record.value for record in records] == [b"v%d" % n for n in range(20, 50)]
    assert records[0].offset == 20


def test_acks(client: ForeignClient, topic: str) -> None:
    """Each level is answered; a quorum's answer comes behind what was only accepted before it."""
    client.produce(0, topic, [b"accepted"], acks=ACCEPTED)
    assert client.produce(0, topic, [b"leader"], acks=LEADER).record_count == 1
    assert client.produce(0, topic, [b"quorum"], acks=QUORUM).base_offset == 2
    assert client.read_all(0, topic) == [b"accepted", b"leader", b"quorum"]


def test_partition_by_key(client: ForeignClient, topic: str) -> None:
    """FNV-1a, 32 bits, modulo partitions: as the contract says, so that any client may choose by itself."""
    client.create_topic(topic, partitions=5)
    for number in range(20):
        key = b"customer-%d" % number
        request = client.protocol.ProduceRequest(topic=topic, records=[client.protocol.Record(value=b"x", key=key)])
        assert client.call(0, "EventLog/Produce", request).partition == fnv1a(key) % 5


def test_start_positions(client: ForeignClient, topic: str) -> None:
    protocol = client.protocol
    for second in (100, 200, 300):
        record = protocol.Record(value=b"at %d" % second)
        record.timestamp.seconds = second
        client.call(0, "EventLog/Produce", protocol.ProduceRequest(topic=topic, records=[record]))
    assert consume(client, topic, start=BEGINNING).records[0].value == b"at 100"
    assert not consume(client, topic, start=END).records
    request = protocol.ConsumeRequest(topic=topic, start=TIMESTAMP)
    request.start_timestamp.seconds = 150
    assert client.call(0, "EventLog/Consume", request).records[0].value == b"at 200"
    request.start_timestamp.seconds = 301
    assert not client.call(0, "EventLog/Consume", request).records


def test_limits_of_a_fetch(client: ForeignClient, topic: str) -> None:
    """max_records and max_bytes bound the answer, but one record always comes; the watermarks come along."""
    for _ in range(3):
        client.produce(0, topic, [b"x" * 1000] * 10)
    response = consume(client, topic, max_records=7)
    assert len(response.records) == 7
    assert (response.log_start_offset, response.high_watermark) == (0, 30)
    assert 1 <= len(consume(client, topic, max_bytes=1).records) <= 10
    assert len(consume(client, topic, max_bytes=15_000).records) <= 20


def test_filter_by_key(client: ForeignClient, topic: str) -> None:
    protocol = client.protocol
    records = [protocol.Record(value=b"%d" % n, key=b"even" if n % 2 == 0 else b"odd") for n in range(10)]
    client.call(0, "EventLog/Produce", protocol.ProduceRequest(topic=topic, records=records))
    found = consume(client, topic, filter=protocol.Filter(key=b"odd")).records
    assert [(record.offset, record.value) for record in found] == [(n, b"%d" % n) for n in range(1, 10, 2)]


def test_a_fetch_waits_for_the_first_record(client: ForeignClient, topic: str) -> None:
    """max_wait ends with the record, not with the time; and without one, with the time."""
    client.produce(0, topic, [b"old"])
    request = client.protocol.ConsumeRequest(topic=topic, offset=1)
    request.max_wait.seconds = 30
    waiting = client.method(0, "EventLog/Consume").future(request, timeout=60)
    client.produce(0, topic, [b"new"])
    assert [record.value for record in waiting.result(20).records] == [b"new"]
    request.offset, request.max_wait.seconds, request.max_wait.nanos = 2, 0, 50_000_000
    assert not client.call(0, "EventLog/Consume", request).records


def test_a_deadline_is_kept(client: ForeignClient, topic: str) -> None:
    client.produce(0, topic, [b"old"])
    request = client.protocol.ConsumeRequest(topic=topic, offset=1)
    request.max_wait.seconds = 30
    with pytest.raises(grpc.RpcError) as caught:
        client.call(0, "EventLog/Consume", request, seconds_max=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_answers_of_a_stream_come_in_order(client: ForeignClient, topic: str) -> None:
    requests = [
        client.protocol.ProduceRequest(topic=topic, partition=0, records=[client.protocol.Record(value=b"%d" % n)])
        for n in range(500)
    ]
    answers = list(client.method(0, "EventLog/ProduceStream")(iter(requests), timeout=60))
    assert [answer.base_offset for answer in answers] == list(range(500))
    assert client.read_all(0, topic) == [b"%d" % n for n in range(500)]


def test_a_consumer_at_the_end_sees_what_comes(client: ForeignClient, topic: str) -> None:
    client.produce(0, topic, [b"old"])
    call = client.method(0, "EventLog/ConsumeStream")(client.protocol.ConsumeRequest(topic=topic), timeout=60)
    assert [record.value for record in next(call).records] == [b"old"]
    for number in range(20):
        client.produce(0, topic, [b"%d" % number])
        assert [record.value for record in next(call).records] == [b"%d" % number]
    call.cancel()


def test_a_consumer_that_does_not_read_holds_nobody_up(client: ForeignClient, daemon: Daemon, topic: str) -> None:
    """Flow control: the node waits for it without buffering the log, and others go on."""
    values = [bytes([number]) * 100_000 for number in range(9)]
    for _ in range(20):
        client.produce(0, topic, values)
    before = daemon.resident_bytes()
    calls = [
        client.method(0, "EventLog/ConsumeStream")(client.protocol.ConsumeRequest(topic=topic, batches=True), timeout=60)
        for _ in range(4)
    ]
    read = sum(batch.record_count for batch in next(calls[0]).batches)
    for call in calls[1:]:
        next(call)
    for _ in range(5):
        client.produce(0, topic, [b"x"])
    assert daemon.resident_bytes() - before < 64 << 20
    while read < 185:
        for batch in next(calls[0]).batches:
            assert crc32c(batch.payload) == batch.crc32c
            read += batch.record_count
    for call in calls:
        call.cancel()


def test_many_calls_at_once_on_one_connection(client: ForeignClient, topic: str) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: client.produce(0, topic, [b"%d" % n]).base_offset, range(500)))
    assert sorted(answers) == list(range(500))
    values = client.read_all(0, topic)
    for number, offset in enumerate(answers):
        assert values[offset] == b"%d" % number


def test_calls_that_are_cancelled_leave_nothing_behind(client: ForeignClient, topic: str) -> None:
    client.produce(0, topic, [b"old"])
    for _ in range(200):
        call = client.method(0, "EventLog/ConsumeStream")(client.protocol.ConsumeRequest(topic=topic, offset=1))
        call.cancel()
    assert client.produce(0, topic, [b"new"]).base_offset == 1


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_messages_packed_by_grpc(client: ForeignClient, topic: str, compression: grpc.Compression) -> None:
    request = client.protocol.ProduceRequest(topic=topic, records=[client.protocol.Record(value=b"x" * 10_000)])
    method = client.method(0, "EventLog/Produce")
    try:
        assert method(request, timeout=20, compression=compression).base_offset == 0
    except grpc.RpcError as error:
        # gzip is what every server must take; of others it may say that it does not.
        assert compression is not grpc.Compression.Gzip
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # noqa: PT017
    else:
        assert client.read_all(0, topic) == [b"x" * 10_000]


def test_batches_and_answers_of_the_largest_size(client: ForeignClient, topic: str) -> None:
    """A batch at the limit goes in, and comes out, by both ways of reading."""
    room = (1 << 20) - len(client.protocol.batch([b""]).payload) - 6
    batch = client.protocol.batch([b"x" * room])
    assert (1 << 20) - 16 <= len(batch.payload) <= 1 << 20
    client.call(0, "EventLog/Produce", client.protocol.ProduceRequest(topic=topic, batch=batch))
    assert consume(client, topic, batches=True).batches[0].payload == batch.payload
    assert consume(client, topic).records[0].value == b"x" * room


def test_metadata_nobody_knows_is_no_trouble(client: ForeignClient, topic: str) -> None:
    request = client.protocol.ProduceRequest(topic=topic, records=[client.protocol.Record(value=b"x")])
    metadata = (("x-request-id", "4711"), ("x-data-bin", bytes(range(256))), ("x-scope-orgid", "tenant"))
    assert client.method(0, "EventLog/Produce")(request, timeout=20, metadata=metadata).base_offset == 0


def test_get_servers_and_status(client: ForeignClient, daemon: Daemon, topic: str) -> None:
    client.produce(0, topic, [b"x"])
    servers = client.call(0, "EventLog/GetServers", client.protocol.GetServersRequest())
    (server,) = servers.servers
    assert server.is_leader
    assert server.address == daemon.address
    assert daemon.start_line.endswith(f"node={server.name} id={server.id}")
    assert (topic, 0, server.id, [server.id]) in [
        (place.topic, place.partition, place.leader_id, list(place.replica_ids)) for place in servers.partitions
    ]
    status = client.call(0, "Admin/GetStatus", client.protocol.GetStatusRequest())
    assert (status.id, status.address, status.cluster_id) == (server.id, server.address, servers.cluster_id)
    (group,) = [group for group in status.groups if group.topic == topic]
    assert (group.role, group.leader_id, group.high_watermark) == ("leader", server.id, 1)


def test_topics_are_created_listed_described_and_deleted(client: ForeignClient, topic: str) -> None:
    protocol = client.protocol
    client.create_topic(topic, partitions=3)
    assert topic in [found.name for found in client.call(0, "Admin/ListTopics", protocol.ListTopicsRequest()).topics]
    described = client.call(0, "Admin/DescribeTopic", protocol.DescribeTopicRequest(name=topic))
    assert described.topic.partitions == 3
    assert [partition.partition for partition in described.partitions] == [0, 1, 2]
    client.call(0, "Admin/DeleteTopic", protocol.DeleteTopicRequest(name=topic))
    assert topic not in [found.name for found in client.call(0, "Admin/ListTopics", protocol.ListTopicsRequest()).topics]
    client.create_topic(topic)
    assert not client.read_all(0, topic), "the new topic of an old name is empty"


def test_keepalive_of_a_client_is_answered(daemon: Daemon, client: ForeignClient, topic: str) -> None:
    """Frequent pings on an idle stream neither end the connection nor count as an attack."""
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    client.produce(0, topic, [b"old"])
    with grpc.insecure_channel(daemon.address, options) as channel:
        call = client.protocol.method(channel, "EventLog/ConsumeStream")(client.protocol.ConsumeRequest(topic=topic), timeout=30)
        assert next(call).records[0].value == b"old"
        ended = threading.Event()
        call.add_callback(ended.set)
        assert not ended.wait(1.0)
        client.produce(0, topic, [b"new"])
        assert next(call).records[0].value == b"new"
        call.cancel()
