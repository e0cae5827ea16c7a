"""`bench`: figures a user feels. Load is made of batches encoded beforehand, so that the servers are measured, not this process.

With `--cluster N` it starts N daemons of its own on loopback, with data in a temporary directory (or `--directory`), and can also
say what they used of processor and memory.
"""

import argparse
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import attrs
import trio

from trio_eventlog.cli.arguments import (
    add_client_flags,
    client_settings_of,
    count,
    duration,
    size,
    target_of,
    tls_of,
)
from trio_eventlog.cli.local_cluster import LocalCluster, local_cluster
from trio_eventlog.cli.output import print_json
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.profiles import use_profile
from trio_eventlog.client import Client, Delivery, open_client
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.errors import EventLogError, InvalidArgument, TopicExists
from trio_eventlog.records import Acks, Batch, Compression, Record

POLL_SECONDS = 0.002
Figures = dict[str, float | int | str]


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "bench")
    actions = parser.add_subparsers(metavar="WHAT", required=True)
    _add(actions, "produce", "acknowledged records per second", bench_produce, _produce_flags)
    _add(actions, "latency", "time from a record to its acknowledgement, one at a time", bench_latency, _latency_flags)
    _add(actions, "consume", "records per second read from the beginning", bench_consume, _consume_flags)
    _add(actions, "outage", "how long producing stops when the leader goes away (needs --cluster)", bench_outage, _outage_flags)


def _add(
    actions: Commands,
    name: str,
    help: str,  # noqa: A002
    act: Callable[["Bench"], Awaitable[Figures]],
    add_flags: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser = add_command(actions, name, help)
    parser.add_argument("--topic", default="bench", help="made when missing. Default: bench")
    parser.add_argument("--partitions", type=count, default=1, metavar="N", help="of a topic that is made. Default: 1")
    parser.add_argument("--record-bytes", type=size, default=100, metavar="SIZE", help="of each value. Default: 100")
    parser.add_argument("--batch-bytes", type=size, default=256 << 10, metavar="SIZE", help="of each batch. Default: 256KiB")
    parser.add_argument("--compression", choices=("none", "zstd", "gzip"), default="none")
    add_flags(parser)
    group = parser.add_argument_group("Own cluster")
    group.add_argument("--cluster", type=count, metavar="N", help="start N nodes on this machine, and measure those")
    group.add_argument(
        "--directory", metavar="PATH", help="where they keep their data. Default: a temporary one, removed at the end"
    )
    group.add_argument(
        "--serve-flag", action="append", default=[], metavar="FLAG", help="of `serve`, for them: --serve-flag=--disk-threads=2"
    )
    add_client_flags(parser)
    parser.set_defaults(run=lambda arguments: trio.run(_run, name, act, arguments))


def _produce_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--producers", type=count, default=1, metavar="N", help="each with a connection of its own. Default: 1")
    parser.add_argument("--seconds", type=duration, default=10.0, metavar="DURATION", help="default: 10s")
    parser.add_argument("--acks", choices=("quorum", "leader", "none"), default="quorum")


def _latency_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=count, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--concurrency", type=count, default=1, metavar="N", help="calls at once, one record each. Default: 1")
    parser.add_argument("--acks", choices=("quorum", "leader", "none"), default="quorum")


def _consume_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=count, default=5_000_000, metavar="N", help="produced first if fewer. Default: 5000000")
    parser.add_argument("--consumers", type=count, default=1, metavar="N", help="each reads everything. Default: 1")


def _outage_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="how often the leader goes away. Default: 3")
    parser.add_argument(
        "--how",
        choices=("kill", "stop", "suspend"),
        default="kill",
        help="kill: kill -9; stop: SIGTERM; suspend: it stays there, silent. Default: kill",
    )


@attrs.frozen(kw_only=True)
class Bench:
    """What a measurement is made with. `cluster` is None when this command did not start the cluster."""

    arguments: argparse.Namespace
    client: Client
    open_client: Callable[[], AbstractAsyncContextManager[Client]]
    cluster: LocalCluster | None
    first_ack_seconds: float | None
    partitions: int

    def batch(self) -> Batch:
        """A batch as large as asked for."""
        return make_batch(self.arguments.record_bytes, self.arguments.batch_bytes, Compression[self.arguments.compression.upper()])

    @asynccontextmanager
    async def measured(self, figures: Figures) -> AsyncIterator[None]:
        """Adds what the nodes use during the block."""
        nodes = [node for node in self.cluster.nodes if node.process is not None] if self.cluster is not None else []
        before = [node.cpu_seconds() for node in nodes]
        own_before = time.process_time()
        yield
        if nodes:
            figures["server_cpu_seconds"] = sum(node.cpu_seconds() for node in nodes) - sum(before)
            figures["server_memory_bytes_max"] = max(node.memory_bytes() for node in nodes)
        figures["client_cpu_seconds"] = time.process_time() - own_before


def make_batch(record_bytes: int, batch_bytes: int, compression: Compression = Compression.NONE) -> Batch:
    """A batch of equal records that takes about `batch_bytes` uncompressed, at least one record."""
    record = Record(value=b"x" * record_bytes)
    one = len(encode_records([record], now_ns=1_700_000_000_123_456_789).payload)
    return encode_records([record] * max(batch_bytes // one, 1), compression, now_ns=1_700_000_000_123_456_789)


async def _run(name: str, act: Callable[[Bench], Awaitable[Figures]], arguments: argparse.Namespace) -> int:
    if not arguments.cluster:
        use_profile(arguments, os.environ)
    settings = client_settings_of(arguments)
    tls = tls_of(arguments)
    if arguments.batch_bytes > settings.batch_bytes_max:
        raise InvalidArgument(f"--batch-bytes {arguments.batch_bytes} is above batch_bytes_max, {settings.batch_bytes_max}")
    async with AsyncExitStack() as stack:
        cluster = None
        target = target_of(arguments)
        began = time.monotonic()
        if arguments.cluster:
            cluster = await stack.enter_async_context(
                local_cluster(arguments.cluster, flags=arguments.serve_flag, directory=arguments.directory)
            )
            target = cluster.target
        opened = functools.partial(open_client, target, settings=settings, tls=tls)
        client = await stack.enter_async_context(opened())
        try:
            await client.create_topic(arguments.topic, partitions=arguments.partitions)
        except TopicExists:
            pass
        partitions = await client.partitions(arguments.topic)
        first_ack_seconds = None
        if cluster is not None:
            await client.produce(arguments.topic, b"first")
            first_ack_seconds = time.monotonic() - began
        bench = Bench(
            arguments=arguments,
            client=client,
            open_client=opened,
            cluster=cluster,
            first_ack_seconds=first_ack_seconds,
            partitions=partitions,
        )
        figures = await act(bench)
        if first_ack_seconds is not None:
            figures["first_ack_seconds"] = first_ack_seconds
    if arguments.json:
        print_json({"bench": name, **{key: _rounded(value) for key, value in figures.items()}})
    else:
        for key, value in figures.items():
            print(f"{key:28} {_rounded(value)}")
    return 0


def _rounded(value: float | int | str) -> float | int | str:
    return float(f"{value:.4g}") if isinstance(value, float) else value


async def bench_produce(bench: Bench) -> Figures:
    """Each producer keeps its window full, partition after partition."""
    arguments = bench.arguments
    batch = bench.batch()
    acks = Acks[arguments.acks.upper()]
    done = [0] * arguments.producers
    figures: Figures = {}

    async def produce(client: Client, number: int, ends_at: float) -> None:
        waiting: list[Delivery] = []
        turn = number
        room = client.settings.producer_in_flight_batches * bench.partitions
        while trio.current_time() < ends_at:
            waiting.append(await client.submit_batch(arguments.topic, turn % bench.partitions, batch, acks=acks))
            turn += 1
            if len(waiting) > room:
                await waiting.pop(0).wait()
                done[number] += batch.record_count
        for delivery in waiting:
            await delivery.wait()
            done[number] += batch.record_count

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(bench.open_client()) for _ in range(arguments.producers)]
        for client in clients:
            # Connected, routed and warm before the clock runs.
            await (await client.submit_batch(arguments.topic, 0, batch, acks=acks)).wait()
        async with bench.measured(figures):
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number, client in enumerate(clients):
                    nursery.start_soon(produce, client, number, began + arguments.seconds)
            seconds = trio.current_time() - began
    return _rates(sum(done), arguments.record_bytes, seconds, figures) | {
        "producers": arguments.producers,
        "batch_records": batch.record_count,
        "batch_bytes": len(batch.payload),
    }


async def bench_latency(bench: Bench) -> Figures:
    """One record a call."""
    arguments = bench.arguments
    acks = Acks[arguments.acks.upper()]
    value = b"x" * arguments.record_bytes
    times: list[float] = []
    left = arguments.calls
    figures: Figures = {}

    async def call(number: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = time.perf_counter()
            await bench.client.produce(arguments.topic, value, partition=number % bench.partitions, acks=acks)
            times.append(time.perf_counter() - began)

    await bench.client.produce(arguments.topic, value, acks=acks)
    async with bench.measured(figures):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(arguments.concurrency):
                nursery.start_soon(call, number)
        seconds = trio.current_time() - began
    times.sort()
    return _rates(len(times), arguments.record_bytes, seconds, figures) | {
        "concurrency": arguments.concurrency,
        "p50_ms": _percentile(times, 0.50) * 1000,
        "p99_ms": _percentile(times, 0.99) * 1000,
        "max_ms": times[-1] * 1000,
    }


async def bench_consume(bench: Bench) -> Figures:
    """Everything there is, in opaque batches, their checksums checked."""
    arguments = bench.arguments
    ends = await _fill(bench)
    figures: Figures = {}
    counts = [0] * arguments.consumers
    sizes = [0] * arguments.consumers

    async def consume(number: int) -> None:
        left = {partition: end for partition, (begin, end) in ends.items() if begin < end}
        async with bench.open_client() as client, client.consume_batches(arguments.topic) as batches:
            while left:
                item = await batches.receive()
                counts[number] += item.batch.record_count
                sizes[number] += len(item.batch.payload)
                if item.end_offset >= left.get(item.partition, 0):
                    left.pop(item.partition, None)

    async with bench.measured(figures):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(arguments.consumers):
                nursery.start_soon(consume, number)
        seconds = trio.current_time() - began
    rates = _rates(sum(counts), arguments.record_bytes, seconds, figures)
    rates["megabytes_per_second"] = sum(sizes) / 1e6 / seconds
    return rates | {"consumers": arguments.consumers}


async def bench_outage(bench: Bench) -> Figures:
    """One record at a time; the longest time without an acknowledgement around the leader's end."""
    cluster = bench.cluster
    if cluster is None or len(cluster.nodes) < 3:
        raise InvalidArgument("an outage is measured on a cluster of our own: add --cluster 3")
    arguments = bench.arguments
    pauses: list[float] = []
    for _ in range(arguments.rounds):
        pauses.append(await _outage(bench, cluster))
    return {
        "how": arguments.how,
        "rounds": arguments.rounds,
        "outage_seconds_min": min(pauses),
        "outage_seconds_median": _percentile(sorted(pauses), 0.5),
        "outage_seconds_max": max(pauses),
    }


async def _outage(bench: Bench, cluster: LocalCluster) -> float:
    arguments = bench.arguments
    longest = 0.0
    acknowledged = trio.Event()

    async def produce(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal longest
        last = time.monotonic()
        for number in range(1_000_000_000):
            await bench.client.produce(arguments.topic, b"x" * arguments.record_bytes, partition=0)
            now = time.monotonic()
            if number == 50:
                task_status.started()
            if number > 50 and now - last > longest:
                longest = now - last
            if number > 50:
                acknowledged.set()
            last = now

    await _wait_all_replicas(bench, cluster)
    async with trio.open_nursery() as nursery:
        await nursery.start(produce)
        place = next(item for item in await bench.client.placements() if (item.topic, item.partition) == (arguments.topic, 0))
        leader = cluster.by_id(place.leader_id)
        if arguments.how == "suspend":
            leader.suspend()
        else:
            nursery.start_soon(leader.kill if arguments.how == "kill" else leader.stop)
        await trio.sleep(0.05)
        acknowledged = trio.Event()
        await acknowledged.wait()
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    if arguments.how == "suspend":
        await leader.kill()
    await leader.start()
    return longest


async def _wait_all_replicas(bench: Bench, cluster: LocalCluster) -> None:
    """Until every replica of partition 0 is close behind, so that each round begins alike."""
    for node in cluster.nodes:
        with trio.fail_after(30):
            while True:
                try:
                    _, end_offset = await bench.client.offsets(bench.arguments.topic, 0)
                    groups = (await bench.client.status(node.address)).groups
                except EventLogError:
                    groups, end_offset = (), 0
                wanted = bench.arguments.topic
                if any(group.topic == wanted and group.high_watermark >= end_offset for group in groups):
                    break
                await trio.sleep(POLL_SECONDS)


async def _fill(bench: Bench) -> dict[int, tuple[int, int]]:
    """Produce what is missing of --records. Returns start and end of each partition."""
    arguments = bench.arguments
    client = bench.client
    batch = bench.batch()
    there = 0
    for partition in range(bench.partitions):
        begin, end = await client.offsets(arguments.topic, partition)
        there += end - begin
    waiting: list[Delivery] = []
    partition = 0
    while there < arguments.records:
        waiting.append(await client.submit_batch(arguments.topic, partition, batch))
        partition = (partition + 1) % bench.partitions
        there += batch.record_count
        if len(waiting) > 2 * client.settings.producer_in_flight_batches * bench.partitions:
            await waiting.pop(0).wait()
    for delivery in waiting:
        await delivery.wait()
    return {partition: await client.offsets(arguments.topic, partition) for partition in range(bench.partitions)}


def _rates(records: int, record_bytes: int, seconds: float, figures: Figures) -> Figures:
    rates: Figures = {
        "records": records,
        "seconds": seconds,
        "records_per_second": records / seconds,
        "megabytes_per_second": records * record_bytes / 1e6 / seconds,
    }
    cpu_seconds = figures.get("server_cpu_seconds")
    if isinstance(cpu_seconds, float) and cpu_seconds:
        rates["records_per_server_cpu_second"] = records / cpu_seconds
    return rates | figures


def _percentile(ordered: list[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
