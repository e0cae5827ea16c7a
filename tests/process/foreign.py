"""A client that knows of this project only its `.proto` files: protoc's descriptors in a pool of their own, and grpcio.

Nothing of `trio_eventlog` is imported here (but for want of grpcio-tools its generated descriptors), so that what is tested is
the contract and not our reading of it.
"""

import importlib.util
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from crc32c import crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "trio_eventlog.v1"
CALL_SECONDS_MAX = 20.0
WINDOW_BATCHES = 5
"""As many batches as the log remembers of a producer (`producer_window_batches`)."""
RETRY_SECONDS = 0.02
GO_ELSEWHERE = (
    grpc.StatusCode.UNAVAILABLE,  # the connection broke, no leader just now, or the node is stopping
    grpc.StatusCode.UNKNOWN,  # OUTCOME_UNKNOWN: safe to repeat under the same producer id and sequence
    grpc.StatusCode.CANCELLED,  # by the server, when its process ended
)

Call = Any
Message = Any


def has_protoc() -> bool:
    return importlib.util.find_spec("grpc_tools") is not None


def compile_protocol(root: Path, home: Path) -> bytes:
    """A FileDescriptorSet of everything under `root`/proto, made by protoc in a process of its own."""
    if not has_protoc():
        from google.protobuf import duration_pb2, timestamp_pb2

        from trio_eventlog.v1 import admin_pb2, event_log_pb2, records_pb2

        files = descriptor_pb2.FileDescriptorSet()
        for module in (duration_pb2, timestamp_pb2, records_pb2, event_log_pb2, admin_pb2):
            files.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
        return files.SerializeToString()
    out = home / "protocol.binpb"
    sources = sorted(str(path.relative_to(root / "proto")) for path in (root / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root / 'proto'}", "--include_imports", f"--descriptor_set_out={out}"]
    subprocess.run([*command, *sources], check=True, cwd=root / "proto", timeout=60)
    return out.read_bytes()


class Protocol:
    """Message classes and methods of the compiled files: `protocol.ProduceRequest(...)`."""

    def __init__(self, descriptor_set: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file:
            self._pool.AddSerializedFile(file.SerializeToString())

    def __getattr__(self, name: str) -> Any:
        cls = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        setattr(self, name, cls)
        return cls

    def method(self, channel: grpc.Channel, path: str) -> Call:
        """The callable for "Service/Method" on a channel, of the right kind."""
        service, _, name = path.partition("/")
        method = self._pool.FindServiceByName(f"{PACKAGE}.{service}").methods_by_name[name]
        kind = ("unary", "stream")[method.client_streaming] + "_" + ("unary", "stream")[method.server_streaming]
        return getattr(channel, kind)(
            f"/{PACKAGE}.{service}/{name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )

    def batch(self, values: Sequence[bytes], producer_id: int = 0, base_sequence: int = 0) -> Message:
        """A batch as the comments in records.proto ask for it."""
        payload = self.RecordBatch(records=[self.Record(value=value) for value in values]).SerializeToString()
        return self.Batch(
            record_count=len(values), payload=payload, crc32c=crc32c(payload), producer_id=producer_id, base_sequence=base_sequence
        )


class ForeignClient:
    """Calls to the nodes of one cluster, each on a channel of its own; any node may be asked for anything."""

    def __init__(self, protocol: Protocol, addresses: Sequence[str], credentials: grpc.ChannelCredentials | None = None) -> None:
        self.protocol = protocol
        self.addresses = list(addresses)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            ("grpc.max_receive_message_length", -1),
        ]
        self._channels = [
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, [*options, ("grpc.ssl_target_name_override", "localhost")])
            for address in addresses
        ]

    def method(self, node: int, path: str) -> Call:
        return self.protocol.method(self._channels[node], path)

    def call(self, node: int, path: str, request: Message, *, seconds_max: float = CALL_SECONDS_MAX) -> Message:
        """A unary call to one node, waiting until it can be reached. Raises grpc.RpcError."""
        return self.method(node, path)(request, timeout=seconds_max, wait_for_ready=True)

    def call_any(self, path: str, request: Message, *, first: int = 0, seconds_max: float = 30.0) -> Message:
        """A unary call that must be safe to repeat, to one node after the other until one answers."""
        deadline = time.monotonic() + seconds_max
        node = first
        while True:
            try:
                return self.method(node % len(self.addresses), path)(request, timeout=5)
            except grpc.RpcError as error:
                if error.code() not in (*GO_ELSEWHERE, grpc.StatusCode.DEADLINE_EXCEEDED) or time.monotonic() > deadline:
                    raise
            node += 1
            time.sleep(RETRY_SECONDS)

    def create_topic(self, name: str, partitions: int = 1) -> None:
        try:
            self.call_any("Admin/CreateTopic", self.protocol.CreateTopicRequest(name=name, partitions=partitions))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def leader(self, topic: str, partition: int = 0, asked: Sequence[int] | None = None) -> int | None:
        """Number of the node that leads, as one of `asked` says who is reachable; None while nobody does."""
        for node in asked if asked is not None else range(len(self.addresses)):
            try:
                servers = self.method(node, "EventLog/GetServers")(self.protocol.GetServersRequest(), timeout=2)
            except grpc.RpcError:
                continue
            for place in servers.partitions:
                if (place.topic, place.partition) == (topic, partition):
                    for server in servers.servers:
                        if server.id == place.leader_id and server.address in self.addresses:
                            return self.addresses.index(server.address)
        return None

    def produce(self, node: int, topic: str, values: Sequence[bytes], **fields: Any) -> Message:
        records = [self.protocol.Record(value=value) for value in values]
        return self.call(node, "EventLog/Produce", self.protocol.ProduceRequest(topic=topic, records=records, **fields))

    def read_all(self, node: int, topic: str, partition: int = 0) -> list[bytes]:
        """Every value from offset 0 on, by unary, linearizable fetches of one node; the offsets are checked to be dense."""
        values: list[bytes] = []
        while True:
            request = self.protocol.ConsumeRequest(topic=topic, partition=partition, offset=len(values), consistency=1)
            response = self.call(node, "EventLog/Consume", request)
            assert [record.offset for record in response.records] == list(
                range(len(values), len(values) + len(response.records))
            ), "offsets are not dense"
            values += [record.value for record in response.records]
            if len(values) >= response.high_watermark:
                return values

    def stream_values(self, node: int, topic: str, count: int, partition: int = 0, batches: bool = False) -> list[bytes]:
        """The first `count` values from offset 0 on, by one ConsumeStream of one node."""
        values: list[bytes] = []
        request = self.protocol.ConsumeRequest(topic=topic, partition=partition, batches=batches)
        call = self.method(node, "EventLog/ConsumeStream")(request, timeout=CALL_SECONDS_MAX, wait_for_ready=True)
        try:
            while len(values) < count:
                response = next(call)
                for record in self._records(response):
                    assert record.offset == len(values), f"offset {record.offset} where {len(values)} was due"
                    values.append(record.value)
        finally:
            call.cancel()
        return values

    def _records(self, response: Message) -> Iterator[Message]:
        yield from response.records
        for batch in response.batches:
            assert crc32c(batch.payload) == batch.crc32c
            for number, record in enumerate(self.protocol.RecordBatch.FromString(batch.payload).records):
                record.offset = batch.base_offset + number
                yield record

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class Worker:
    """A thread that works against whatever node answers, until told to stop. What goes wrong is raised by `stop`."""

    def __init__(self, client: ForeignClient, topic: str, first_node: int = 0) -> None:
        self.client = client
        self.topic = topic
        self.node = first_node
        self.failure: BaseException | None = None
        self.stopping = threading.Event()
        self.progressed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.work()
        except BaseException as failure:  # told by `stop`, in the thread of the test
            self.failure = failure
        finally:
            self.progressed.set()

    def work(self) -> None:
        raise NotImplementedError

    def move_on(self) -> None:
        """To the next node, after the shortest of pauses: a node that is down refuses at once."""
        self.node = (self.node + 1) % len(self.client.addresses)
        time.sleep(RETRY_SECONDS)

    def wait_progress(self, seconds_max: float = 30.0) -> None:
        """Until something has been done that was begun after this call."""
        for _ in range(2):  # what was under way when we came may be the first to end
            self.progressed.clear()
            is_done = self.progressed.wait(seconds_max if self.failure is None else 0)
            if self.failure is not None:
                raise self.failure
            assert is_done, f"nothing done within {seconds_max:g} s"

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a worker did not end"
        if self.failure is not None:
            raise self.failure


def must_go_elsewhere(error: grpc.RpcError) -> None:
    """Raises errors that another node would not heal."""
    if error.code() not in GO_ELSEWHERE:
        raise error


class Producer(Worker):
    """Batches under one producer id, one at a time by unary calls; each is repeated until it is acknowledged.

    Attributes:
        acknowledged: first offset -> the values of the batch.
        ack_times: when each acknowledgement came, by the monotonic clock.
        begin_times: when its last attempt began.
    """

    def __init__(self, client: ForeignClient, topic: str, name: str, first_node: int = 0, batch_records: int = 10) -> None:
        self.name = name
        self.producer_id = int.from_bytes(name.encode()[-8:].rjust(8, b"\x01"), "big")
        self.batch_records = batch_records
        self.acknowledged: dict[int, list[bytes]] = {}
        self.ack_times: list[float] = []
        self.begin_times: list[float] = []
        self.sequence = 0
        super().__init__(client, topic, first_node)

    def next_batch(self) -> tuple[list[bytes], Message]:
        values = [b"%s-%d" % (self.name.encode(), self.sequence + number) for number in range(self.batch_records)]
        batch = self.client.protocol.batch(values, self.producer_id, self.sequence)
        self.sequence += len(values)
        return values, self.client.protocol.ProduceRequest(topic=self.topic, partition=0, batch=batch)

    def acknowledge(self, values: list[bytes], response: Message, began: float) -> None:
        assert response.record_count == len(values)
        assert response.base_offset not in self.acknowledged, f"offset {response.base_offset} was acknowledged twice"
        self.acknowledged[response.base_offset] = values
        self.begin_times.append(began)
        self.ack_times.append(time.monotonic())
        self.progressed.set()

    def work(self) -> None:
        while not self.stopping.is_set():
            values, request = self.next_batch()
            while True:
                began = time.monotonic()
                try:
                    response = self.client.method(self.node, "EventLog/Produce")(request, timeout=CALL_SECONDS_MAX)
                except grpc.RpcError as error:
                    must_go_elsewhere(error)
                    self.move_on()
                else:
                    self.acknowledge(values, response, began)
                    break

    def longest_gap_seconds(self) -> float:
        """Between two acknowledgements."""
        return max((after - before for before, after in zip(self.ack_times, self.ack_times[1:], strict=False)), default=0.0)


class StreamProducer(Producer):
    """The same by ProduceStream, a few batches in flight; after a loss the unanswered ones go again, in order."""

    def work(self) -> None:
        unanswered: deque[tuple[list[bytes], Message, float]] = deque()
        while not self.stopping.is_set() or unanswered:
            requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
            responses = self.client.method(self.node, "EventLog/ProduceStream")(iter(requests.get, None))
            try:
                # The first batch goes alone: nothing may overtake it on a stream that has just moved.
                again, unanswered = unanswered, deque()
                window = 1
                while True:
                    while len(unanswered) < window and (again or not self.stopping.is_set()):
                        values, request = again.popleft()[:2] if again else self.next_batch()
                        unanswered.append((values, request, time.monotonic()))
                        requests.put(request)
                    if not unanswered:
                        break
                    response = next(responses)
                    if response.HasField("error"):
                        assert response.error.code in ("OUTCOME_UNKNOWN", "NOT_LEADER", "NO_QUORUM", "SHUTTING_DOWN"), (
                            response.error
                        )
                        self.move_on()
                        break
                    values, request, began = unanswered.popleft()
                    self.acknowledge(values, response, began)
                    window = WINDOW_BATCHES
            except grpc.RpcError as error:
                must_go_elsewhere(error)
                self.move_on()
            finally:
                requests.put(None)
                responses.cancel()
            unanswered += again


class Reader(Worker):
    """Everything from offset 0 on, by ConsumeStream; a new stream goes on where the last one broke.

    Attributes:
        values: by offset.
    """

    def __init__(self, client: ForeignClient, topic: str, first_node: int = 0) -> None:
        self.values: list[bytes] = []
        self._call: Call = None
        super().__init__(client, topic, first_node)

    def work(self) -> None:
        while not self.stopping.is_set():
            request = self.client.protocol.ConsumeRequest(topic=self.topic, offset=len(self.values))
            self._call = self.client.method(self.node, "EventLog/ConsumeStream")(request)
            try:
                for response in self._call:
                    for record in response.records:
                        assert record.offset == len(self.values), f"offset {record.offset} where {len(self.values)} was due"
                        self.values.append(record.value)
                    self.progressed.set()
            except grpc.RpcError as error:
                if self.stopping.is_set():
                    return
                if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
                    must_go_elsewhere(error)
                # Out of range: another node may not have applied yet what the last one had shown; it will.
                self.move_on()

    def wait_count(self, count: int, seconds_max: float = 30.0) -> None:
        deadline = time.monotonic() + seconds_max
        while len(self.values) < count:
            assert time.monotonic() < deadline, f"{len(self.values)} of {count} records seen within {seconds_max:g} s"
            self.progressed.clear()
            self.progressed.wait(0.1)
            if self.failure is not None:
                raise self.failure

    def stop(self) -> None:
        self.stopping.set()
        self._call.cancel()
        super().stop()


def check_acknowledged(values: Sequence[bytes], *producers: Producer, is_everything: bool = True) -> None:
    """Every acknowledged record stands at its offset, and nothing stands twice.

    Args:
        values: the log, from offset 0 on.
        is_everything: nothing else is in the log, since everybody has repeated their batches until they were acknowledged.
    """
    for producer in producers:
        for offset, expected in producer.acknowledged.items():
            assert values[offset : offset + len(expected)] == expected, f"acknowledged by {producer.name} at {offset}, not there"
    assert len(set(values)) == len(values), "a record stands twice"
    if is_everything:
        assert len(values) == sum(len(batch) for producer in producers for batch in producer.acknowledged.values())
