"""Whatever is sent to a node: its own clear error, nothing lost, nobody else disturbed."""

import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from daemons import Daemon, DaemonCluster
from foreign import ForeignClient, Protocol

from trio_eventlog.codec.first_bytes import PEER_MAGIC, PEER_PREFACE
from trio_eventlog.codec.peer_frame import FrameDecoder, FrameKind, Hello, RefusedCode, decode_refused, encode_frame, encode_hello
from trio_eventlog.ids import GroupId, NodeId

pytestmark = pytest.mark.process

SHARED_FLAGS = ("--peek-timeout-seconds", "0.5")
TOPIC = "orders"
MIB = 1 << 20


@pytest.fixture(scope="module")
def client(shared_cluster: DaemonCluster, protocol: Protocol) -> Iterator[ForeignClient]:
    client = ForeignClient(protocol, shared_cluster.addresses)
    client.create_topic(TOPIC)
    client.produce(0, TOPIC, [b"kept"])
    yield client
    # Nothing above has done any harm.
    for node, daemon in enumerate(shared_cluster.nodes):
        assert daemon.is_running
        assert client.read_all(node, TOPIC)[0] == b"kept"
        assert "Traceback" not in daemon.log()
    client.close()


def refused(client: ForeignClient, path: str, request: Any, node: int = 0) -> tuple[grpc.StatusCode, str, dict[str, str], str]:
    """Status, error code, trailing metadata and text of a call that must fail."""
    call = client.method(node, path)
    with pytest.raises(grpc.RpcError) as caught:
        next(call(request, timeout=20)) if path.endswith("Stream") else call(request, timeout=20)
    error = caught.value
    trailers = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    assert "Traceback" not in error.details()
    return error.code(), trailers.get("eventlog-error-code", ""), trailers, error.details()


@pytest.mark.parametrize("node", range(3))
def test_unknown_topic(client: ForeignClient, node: int) -> None:
    """NOT_FOUND from every node, by every way, with the topic's name."""
    protocol = client.protocol
    records = [protocol.Record(value=b"x")]
    for path, request in (
        ("EventLog/Produce", protocol.ProduceRequest(topic="nowhere", records=records)),
        ("EventLog/Consume", protocol.ConsumeRequest(topic="nowhere")),
        ("EventLog/ConsumeStream", protocol.ConsumeRequest(topic="nowhere")),
        ("Admin/DescribeTopic", protocol.DescribeTopicRequest(name="nowhere")),
        ("Admin/DeleteTopic", protocol.DeleteTopicRequest(name="nowhere")),
    ):
        status, code, _, text = refused(client, path, request, node)
        assert (status, code) == (grpc.StatusCode.NOT_FOUND, "TOPIC_NOT_FOUND"), path
        assert "nowhere" in text


def test_unknown_partition(client: ForeignClient) -> None:
    protocol = client.protocol
    request = protocol.ProduceRequest(topic=TOPIC, partition=7, records=[protocol.Record(value=b"x")])
    status, code, _, text = refused(client, "EventLog/Produce", request)
    assert (status, code) == (grpc.StatusCode.NOT_FOUND, "TOPIC_NOT_FOUND")
    assert "no partition 7" in text
    status, code, _, _ = refused(client, "EventLog/Consume", protocol.ConsumeRequest(topic=TOPIC, partition=7))
    assert (status, code) == (grpc.StatusCode.NOT_FOUND, "TOPIC_NOT_FOUND")


@pytest.mark.parametrize("path", ["EventLog/Consume", "EventLog/ConsumeStream"])
def test_offset_out_of_range(client: ForeignClient, path: str) -> None:
    """The readable range comes along, as trailers and in the text."""
    status, code, trailers, text = refused(client, path, client.protocol.ConsumeRequest(topic=TOPIC, offset=1 << 40))
    assert (status, code) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
    assert trailers["log-start-offset"] == "0"
    assert int(trailers["high-watermark"]) >= 1
    assert str(1 << 40) in text


def test_oversized_batch(client: ForeignClient) -> None:
    """Over the limit of batches, and over the limit of messages: refused, and the connection goes on."""
    for size in (MIB + 1, 5 * MIB):
        request = client.protocol.ProduceRequest(topic=TOPIC, batch=client.protocol.batch([bytes(size)]))
        status, code, trailers, _ = refused(client, "EventLog/Produce", request)
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BATCH_TOO_LARGE")
        assert int(trailers["limit-bytes"]) in (MIB, 4 * MIB)
    assert client.produce(0, TOPIC, [b"after"]).record_count == 1


def test_damaged_batches(client: ForeignClient) -> None:
    """Neither a wrong checksum, nor a wrong count, nor a payload that is none, reaches the log."""
    protocol = client.protocol
    before = len(client.read_all(0, TOPIC))
    wrong_checksum = protocol.batch([b"x"])
    wrong_checksum.crc32c ^= 1
    wrong_count = protocol.batch([b"x", b"y"])
    wrong_count.record_count = 3
    not_packed = protocol.batch([b"x"])
    not_packed.compression = 1  # ZSTD
    for batch in (wrong_checksum, wrong_count, not_packed):
        for node in range(3):
            status, code, _, text = refused(client, "EventLog/Produce", protocol.ProduceRequest(topic=TOPIC, batch=batch), node)
            assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "CORRUPT_BATCH")
            assert "nothing was appended" in text
    assert len(client.read_all(0, TOPIC)) == before


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"records": [{"value": b"x"}], "batch": {"record_count": 1}},
        {"batch": {"record_count": 0}},
        {"batch": {"record_count": 1, "compression": 9}},
        {"records": [{"value": b"x"}], "acks": 9},
        {"topic": "no/such name", "records": [{"value": b"x"}]},
    ],
    ids=["nothing", "both", "no records", "compression", "acks", "topic name"],
)
def test_requests_that_cannot_be_right(client: ForeignClient, fields: dict[str, Any]) -> None:
    request = client.protocol.ProduceRequest(**{"topic": TOPIC, **fields})
    status, code, _, text = refused(client, "EventLog/Produce", request)
    if "topic" in fields:  # nobody can have created it
        assert (status, code) == (grpc.StatusCode.NOT_FOUND, "TOPIC_NOT_FOUND")
    else:
        assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert text


def test_topic_names_and_counts_that_cannot_be_right(client: ForeignClient) -> None:
    for fields in ({"name": "a/b"}, {"name": ""}, {"name": "x" * 201}, {"name": "x", "replicas": 4}):
        status, code, _, _ = refused(client, "Admin/CreateTopic", client.protocol.CreateTopicRequest(**fields))
        assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"), fields
    status, code, _, _ = refused(client, "Admin/CreateTopic", client.protocol.CreateTopicRequest(name=TOPIC))
    assert (status, code) == (grpc.StatusCode.ALREADY_EXISTS, "TOPIC_EXISTS")


def test_an_error_on_a_stream_ends_one_request_and_not_the_stream(client: ForeignClient) -> None:
    protocol = client.protocol
    damaged = protocol.batch([b"x"])
    damaged.crc32c ^= 1
    requests = [
        protocol.ProduceRequest(topic=TOPIC, records=[protocol.Record(value=b"before")]),
        protocol.ProduceRequest(topic="nowhere", records=[protocol.Record(value=b"x")]),
        protocol.ProduceRequest(topic=TOPIC, batch=damaged),
        protocol.ProduceRequest(topic=TOPIC, records=[protocol.Record(value=b"behind")]),
    ]
    answers = list(client.method(0, "EventLog/ProduceStream")(iter(requests), timeout=20))
    assert [answer.error.code for answer in answers] == ["", "TOPIC_NOT_FOUND", "CORRUPT_BATCH", ""]
    assert answers[3].base_offset == answers[0].base_offset + 1


def test_sequences_that_leave_a_gap_or_come_again(client: ForeignClient) -> None:
    """Idempotent producers: a repetition gets its first answer, a gap is refused with the sequence that is due."""
    protocol = client.protocol

    def request(sequence: int, *values: bytes) -> Any:
        return protocol.ProduceRequest(topic=TOPIC, partition=0, batch=protocol.batch(values, 4711, sequence))

    first = client.call(0, "EventLog/Produce", request(100, b"a", b"b"))
    again = client.call(1, "EventLog/Produce", request(100, b"a", b"b"))
    assert (again.base_offset, again.record_count, again.duplicate) == (first.base_offset, 2, True)
    status, code, trailers, _ = refused(client, "EventLog/Produce", request(103, b"d"), node=2)
    assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_ORDER_SEQUENCE")
    assert trailers["expected-sequence"] == "102"


def test_bytes_that_are_no_message(client: ForeignClient) -> None:
    """INVALID_ARGUMENT on that call; calls beside it go on."""
    channel = client._channels[0]
    call = channel.unary_unary("/trio_eventlog.v1.EventLog/Produce")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/trio_eventlog.v1.EventLog/NoSuchMethod")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.settimeout(20)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the other side closes; a reset is an end too."""
    received = b""
    try:
        while part := connection.recv(4096):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        (b"\xff\xfe\xfd garbage" * 10, "unknown bytes"),
        (b"PRI * HT", "silent"),
        (b"\xe1v", "silent"),
        (b"\x16\x03\x01\x00\x05hello", "tls not configured"),
        (b"\x06", "gossip"),
    ],
    ids=["garbage", "half a preface", "half a peer", "TLS hello", "gossip"],
)
def test_bytes_that_are_no_protocol(shared_cluster: DaemonCluster, client: ForeignClient, sent: bytes, logged: str) -> None:
    """The connection is closed, after the peek timeout at the latest, and the log says why, with the bytes."""
    daemon = shared_cluster.nodes[1]
    with connect(daemon.address) as connection:
        connection.sendall(sent)
        assert read_to_end(connection) == b""
    daemon.wait_logged(logged)
    assert client.produce(1, TOPIC, [b"still here"]).record_count == 1


def test_silence_is_closed(shared_cluster: DaemonCluster) -> None:
    with connect(shared_cluster.addresses[0]) as connection:
        assert read_to_end(connection) == b""


def greet(address: str, preface: bytes, hello: Hello) -> tuple[int, str]:
    """The refusal that a peer's hello meets: its code and text."""
    with connect(address) as connection:
        connection.sendall(preface + b"".join(encode_frame(FrameKind.HELLO, GroupId(0), encode_hello(hello))))
        received = read_to_end(connection)
    (frame,) = FrameDecoder(1 << 16).feed(received)
    assert frame.kind == FrameKind.REFUSED
    answer = decode_refused(frame.body)
    return answer.code, answer.text


def test_peers_that_cannot_be_peers(shared_cluster: DaemonCluster, client: ForeignClient) -> None:
    """Another cluster, another version: refused with both values in the text, on the wire and in the log."""
    address = shared_cluster.addresses[0]
    code, text = greet(address, PEER_PREFACE, Hello(node_id=NodeId(99), cluster_name="elsewhere"))
    assert code == RefusedCode.CLUSTER_NAME
    assert "'elsewhere'" in text
    assert "'default'" in text
    code, text = greet(address, PEER_PREFACE, Hello(node_id=NodeId(99), cluster_name="default", protocol_version=9))
    assert code == RefusedCode.PROTOCOL_VERSION
    assert "version 9" in text
    code, text = greet(address, PEER_MAGIC + b"\x09", Hello(node_id=NodeId(99), cluster_name="default"))
    assert code == RefusedCode.PROTOCOL_VERSION
    assert client.produce(0, TOPIC, [b"still here"]).record_count == 1


def test_a_node_of_another_cluster_does_not_get_in(
    shared_cluster: DaemonCluster, client: ForeignClient, make_daemon: Callable[..., Daemon]
) -> None:
    """By name, or with data of another cluster of the same name: it is told, by name or id, and the cluster goes on."""
    join = ("--listen", "127.0.0.1:0", "--join", shared_cluster.addresses[0])
    stranger = make_daemon("stranger", *join, "--cluster-name", "elsewhere").start()
    stranger.wait_logged("of the cluster named")
    stranger.close()
    grown_up = make_daemon("grown-up", "--listen", "127.0.0.1:0").start()
    own = ForeignClient(client.protocol, [grown_up.address])
    own.produce(0, TOPIC, [b"of another cluster"])
    assert grown_up.stop() == 0
    grown_up._flags = join
    grown_up.start()
    grown_up.wait_logged("you belong to cluster")
    own = ForeignClient(client.protocol, [grown_up.address])
    assert own.read_all(0, TOPIC) == [b"of another cluster"], "with data of its own it goes on serving it"
    own.close()
    assert client.read_all(0, TOPIC)[0] == b"kept"


def test_flood_of_connections_that_say_nothing(
    make_daemon: Callable[..., Daemon], make_client: Callable[..., ForeignClient]
) -> None:
    """More of them than the limit are closed at once; those that speak are served all the same."""
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0", "--inbound-unidentified-max", "8").start()
    silent = [connect(daemon.address) for _ in range(40)]
    try:
        closed = sum(1 for connection in itertools.islice(silent, 8, None) if read_to_end(connection) == b"")
        assert closed == 32
        for connection in silent[:8]:
            connection.close()
        assert make_client([daemon.address]).produce(0, TOPIC, [b"x"]).base_offset == 0
    finally:
        for connection in silent:
            connection.close()
