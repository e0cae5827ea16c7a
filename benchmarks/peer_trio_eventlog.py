"""trio_eventlog beside its peers: three daemons on loopback, every acknowledgement fsynced on a quorum.

    PYTHONPATH=benchmarks python PEERS/run.py --peer peer_trio_eventlog:TrioEventlog --scenario all --size 100

`PEERS` is the folder of the runner that starts the other systems; `common` is its module. docs/benchmarks.md says what is measured.

The client is grpcio with prepared messages, as for the other gRPC peers: batches are encoded once, before the clock runs, and
answers are looked at only as far as needed to count. So what is measured is the servers, not a client library.
"""

import asyncio
import itertools
import os
import random
import sys
from pathlib import Path

import grpc
from common import Node, Peer, free_ports, wait_for
from crc32c import crc32c

from trio_eventlog.v1 import admin_pb2, event_log_pb2, records_pb2

ROOT = Path(__file__).resolve().parent.parent
SERVE = [sys.executable, "-m", "trio_eventlog", "serve"]
TOPIC = "bench"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


def _same(data):
    return data


def encode_batch(values, producer_id=0, base_sequence=0):
    """A batch of records, one for each value, as a producer makes it."""
    payload = records_pb2.RecordBatch(records=[records_pb2.Record(value=value) for value in values]).SerializeToString()
    return records_pb2.Batch(
        record_count=len(values), payload=payload, crc32c=crc32c(payload), producer_id=producer_id, base_sequence=base_sequence
    )


class TrioEventlog(Peer):
    name = "trio-eventlog"
    durable = "fdatasync of the log, before the ack, on 2 of 3 (group commit)"
    batch_bytes = int(os.environ.get("BENCH_BATCH_BYTES", 512 * 1024))
    in_flight = int(os.environ.get("BENCH_IN_FLIGHT", 8))
    flags = os.environ.get("BENCH_FLAGS", "").split()

    def start(self):
        self.ports = free_ports(3)
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        for n in range(3):
            home = self.root / f"n{n}"
            joins = [flag for m in range(3) if m != n for flag in ("--join", addresses[m])]
            self.nodes.append(
                Node(
                    [*SERVE, "--node-name", f"n{n}", "--data-dir", home / "data", "--listen", addresses[n], *joins]
                    + ["--bootstrap-expect", "3", "--log-level", "warning", *self.flags],
                    home,
                    env={"PYTHONPATH": str(ROOT)},
                ).start()
            )
        self.sequences = itertools.count()
        self.producers = []

        def create():
            with self._channel(0) as channel:
                call = channel.unary_unary(
                    "/trio_eventlog.v1.Admin/CreateTopic",
                    admin_pb2.CreateTopicRequest.SerializeToString,
                    admin_pb2.CreateTopicResponse.FromString,
                )
                try:
                    return call(admin_pb2.CreateTopicRequest(name=TOPIC), timeout=5)
                except grpc.RpcError as error:
                    return error.code() is grpc.StatusCode.ALREADY_EXISTS or None

        wait_for(create, every=0.005)

    def restart(self):
        super().restart()

        def count():
            with self._channel(self.leader()) as channel:
                call = channel.unary_unary(
                    "/trio_eventlog.v1.EventLog/Consume",
                    event_log_pb2.ConsumeRequest.SerializeToString,
                    event_log_pb2.ConsumeResponse.FromString,
                )
                request = event_log_pb2.ConsumeRequest(
                    topic=TOPIC, max_records=1, batches=True, consistency=event_log_pb2.LINEARIZABLE
                )
                return call(request, timeout=5).high_watermark

        return wait_for(count, 300)

    def _channel(self, n):
        return grpc.insecure_channel(f"127.0.0.1:{self.ports[n]}", options=NO_LIMIT)

    def _alive(self):
        return [n for n in range(3) if self.nodes[n].proc.poll() is None]

    def leader(self):
        """Who leads the partition, as any node that is alive says."""
        for n in self._alive():
            with self._channel(n) as channel:
                call = channel.unary_unary(
                    "/trio_eventlog.v1.EventLog/GetServers",
                    event_log_pb2.GetServersRequest.SerializeToString,
                    event_log_pb2.GetServersResponse.FromString,
                )
                try:
                    servers = call(event_log_pb2.GetServersRequest(), timeout=1)
                except grpc.RpcError:
                    continue
            leader_id = next((place.leader_id for place in servers.partitions if place.topic == TOPIC), "")
            for server in servers.servers:
                if server.id == leader_id:
                    return self.ports.index(int(server.address.rpartition(":")[2]))
        raise RuntimeError("no leader")

    async def connect(self):
        # As a client that routes does: to the partition's leader, or in its absence to anybody who will know the next one.
        try:
            n = await asyncio.to_thread(wait_for, self.leader, 1, 0.005)
        except TimeoutError:
            n = random.choice(self._alive())
        if n not in self._alive():
            n = random.choice(self._alive())
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.ports[n]}", options=NO_LIMIT)
        service = "/trio_eventlog.v1.EventLog/"
        self.produce = self.channel.unary_unary(service + "Produce", _same, event_log_pb2.ProduceResponse.FromString)
        self.produce_stream = self.channel.stream_stream(service + "ProduceStream", _same, event_log_pb2.ProduceResponse.FromString)
        self.consume_stream = self.channel.unary_stream(
            service + "ConsumeStream",
            event_log_pb2.ConsumeRequest.SerializeToString,
            event_log_pb2.ConsumeResponse.FromString,
        )

    async def close(self):
        await self.channel.close()

    async def send(self, payload):
        # A producer id has one batch under way. One whose batch ended in doubt is not used again.
        producer_id, sequence = self.producers.pop() if self.producers else (random.getrandbits(63) + 1, 0)
        request = event_log_pb2.ProduceRequest(topic=TOPIC, partition=0, batch=encode_batch([payload], producer_id, sequence))
        await self.produce(request.SerializeToString(), timeout=2)
        self.producers.append((producer_id, sequence + 1))

    async def flood(self, payload, seconds):
        count = max(1, self.batch_bytes // (len(payload) + 5))
        request = event_log_pb2.ProduceRequest(topic=TOPIC, partition=0, batch=encode_batch([payload] * count)).SerializeToString()
        call = self.produce_stream(timeout=seconds + 30)
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        room = asyncio.Semaphore(self.in_flight)

        async def write():
            while loop.time() < end:
                await room.acquire()
                await call.write(request)
            await call.done_writing()

        writer = asyncio.create_task(write())
        acked = 0
        async for response in call:
            if response.HasField("error"):
                raise RuntimeError(f"{response.error.code}: {response.error.message}")
            acked += response.record_count
            room.release()
        await writer
        return acked

    async def _responses(self):
        call = self.consume_stream(event_log_pb2.ConsumeRequest(topic=TOPIC, batches=True))
        async for response in call:
            yield response
            last = response.batches[-1]
            if last.base_offset + last.record_count >= response.high_watermark:
                break
        call.cancel()

    async def replay(self):
        count = 0
        async for response in self._responses():
            for batch in response.batches:
                count += batch.record_count
        return count

    async def payloads(self):
        return [
            record.value
            async for response in self._responses()
            for batch in response.batches
            for record in records_pb2.RecordBatch.FromString(batch.payload).records
        ]


class TrioEventlogStream(TrioEventlog):
    """Single records over one open ProduceStream: what a producer with a connection of its own sees."""

    name = "trio-eventlog-stream"

    async def connect(self):
        await super().connect()
        self.call = self.produce_stream()
        self.waiting = asyncio.Queue()
        self.writing = asyncio.Lock()
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for response in self.call:
                answer = self.waiting.get_nowait()
                if response.HasField("error"):
                    answer.set_exception(RuntimeError(response.error.message))
                else:
                    answer.set_result(response)
        except grpc.RpcError as error:
            while not self.waiting.empty():
                self.waiting.get_nowait().set_exception(RuntimeError(error.details()))

    async def send(self, payload):
        request = event_log_pb2.ProduceRequest(topic=TOPIC, partition=0, batch=encode_batch([payload]))
        answer = asyncio.get_running_loop().create_future()
        async with self.writing:
            self.waiting.put_nowait(answer)
            await self.call.write(request.SerializeToString())
        await asyncio.wait_for(answer, 2)

    async def close(self):
        self.call.cancel()
        self.reader.cancel()
        await asyncio.gather(self.reader, return_exceptions=True)
        await super().close()
