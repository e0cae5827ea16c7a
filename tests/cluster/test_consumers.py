"""What consumers see, at whichever node they ask."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG, QUICK, consume, produce
from trio_eventlog.cli import consume as cli_consume
from trio_eventlog.cli import make_parser
from trio_eventlog.errors import InvalidArgument, OffsetOutOfRange, ShuttingDown
from trio_eventlog.records import Record
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.v1 import event_log_pb2


async def test_a_linearizable_read_on_a_follower_sees_every_earlier_acknowledgement() -> None:
    """Whatever was acknowledged before the call, at another node, is in the answer; while leaders change, too."""
    async with Cluster(3, seed=61) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        for round_number in range(20):
            await client.produce("orders", b"%d" % round_number)
            if round_number % 7 == 6:
                leader = await cluster.wait_leader("orders")
                cluster.crash(leader)
                await cluster.start(leader)
            for name in cluster.running:
                async with cluster.channel(name) as channel:
                    response = await consume(channel, "orders", consistency=event_log_pb2.LINEARIZABLE)
                    assert response.high_watermark >= round_number + 1
                    assert response.records[-1].value == b"%d" % round_number


async def test_consumers_on_followers_see_no_gap_and_nothing_uncommitted() -> None:
    """Streams at all three nodes while batches stream in: the offsets are dense, below the watermark, and the values the same."""
    async with Cluster(3, seed=62) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        seen: dict[str, list[bytes]] = {name: [] for name in cluster.names}

        async def follow(name: str) -> None:
            request = event_log_pb2.ConsumeRequest(topic="orders", max_records=7)
            async with cluster.channel(name) as channel, channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                async for response in call:
                    for record in response.records:
                        assert record.offset == len(seen[name]), "no gap, no repetition"
                        assert record.offset < response.high_watermark
                        seen[name].append(record.value)

        async with trio.open_nursery() as nursery:
            for name in cluster.names:
                nursery.start_soon(follow, name)

            async def produce_some(number: int) -> None:
                for batch in range(20):
                    await client.produce("orders", *[b"%d-%d-%d" % (number, batch, at) for at in range(3)])

            async with trio.open_nursery() as producers:
                for number in range(4):
                    producers.start_soon(produce_some, number)
            await cluster.wait_until(lambda: all(len(values) == 240 for values in seen.values()), "everybody has seen all")
            nursery.cancel_scope.cancel()
        assert seen["n1"] == seen["n2"] == seen["n3"]


async def test_a_stream_on_a_follower_survives_the_change_of_the_leader() -> None:
    """The follower's own connection does not end; records of the new leader follow those of the old one."""
    async with Cluster(3, seed=63) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        request = event_log_pb2.ConsumeRequest(topic="orders")
        async with cluster.channel(follower) as channel, channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
            await client.produce("orders", b"before")
            assert [record.value for record in (await call.receive()).records] == [b"before"]
            cluster.crash(leader)
            await client.produce("orders", b"after")
            assert [record.value for record in (await call.receive()).records] == [b"after"]


async def test_a_stream_on_a_node_that_stops_is_sent_elsewhere() -> None:
    """SHUTTING_DOWN, at once: a stream has no end of its own, and the stop would wait for it."""
    async with Cluster(3, seed=64) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        request = event_log_pb2.ConsumeRequest(topic="orders")
        async with cluster.channel("n1") as channel, channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
            await trio.sleep(0.1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.stop, "n1")
                before = trio.current_time()
                with pytest.raises(ShuttingDown):
                    await call.receive()
                assert trio.current_time() - before < 0.5


async def test_the_client_s_consumer_goes_on_through_everything() -> None:
    """Crashes of two nodes, one after the other, and a cut: every record once, in order."""
    async with Cluster(3, seed=65) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        values: list[bytes] = []

        async def consume_all() -> None:
            async with cluster.client(settings=QUICK) as consumer, consumer.consume("orders") as records:
                async for record in records:
                    assert record.offset == len(values)
                    values.append(record.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume_all)
            for number in range(60):
                await client.produce("orders", b"%d" % number)
                if number in (20, 40):
                    name = await cluster.wait_leader("orders")
                    cluster.crash(name)
                    await trio.sleep(0.3)
                    await cluster.start(name)
                if number == 50:
                    cluster.isolate("n2")
            await cluster.wait_until(lambda: len(values) == 60, "all records")
            nursery.cancel_scope.cancel()
        assert values == [b"%d" % number for number in range(60)]


async def test_an_offset_above_the_watermark_of_a_node_that_is_only_behind() -> None:
    """A follower that has just restarted knows no commit index yet: it asks before it calls an offset out of range."""
    async with Cluster(3, seed=66) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        for number in range(5):
            await client.produce("orders", b"%d" % number)
        await cluster.wait_converged("orders")
        leader = await cluster.wait_leader("orders")
        follower = next(name for name in cluster.names if name != leader)
        cluster.crash(follower, CrashMode.KEEP)
        await cluster.start(follower)
        await cluster.wait_until(lambda: cluster.replica(follower, "orders") is not None, "the replica is open")
        async with cluster.channel(follower) as channel:
            response = await consume(channel, "orders", 4)
            assert [record.value for record in response.records] == [b"4"]
            with pytest.raises(OffsetOutOfRange) as caught:
                await consume(channel, "orders", 6)
            assert caught.value.high_watermark == 5


async def test_a_fetch_waits_for_the_first_record() -> None:
    """`max_wait`: not longer than needed, not longer than asked, empty when nothing came."""
    async with Cluster(3, seed=67) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        async with cluster.channel("n1") as channel, trio.open_nursery() as nursery:
            request = event_log_pb2.ConsumeRequest(topic="orders")
            request.max_wait.seconds = 2
            before = trio.current_time()
            response = await channel.unary(EVENT_LOG["Consume"], request)
            assert not response.records
            assert trio.current_time() - before == pytest.approx(2, abs=0.02)

            async def produce_later() -> None:
                await trio.sleep(1)
                async with cluster.channel("n2") as other:
                    await produce(other, "orders", b"x")

            nursery.start_soon(produce_later)
            response = await channel.unary(EVENT_LOG["Consume"], request)
            assert [record.value for record in response.records] == [b"x"]
            assert trio.current_time() - before < 3.2


def at(seconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)


def timed(seconds: int) -> Record:
    return Record(value=b"%d" % seconds, timestamp_ns=seconds * 1_000_000_000)


async def test_a_start_time_decides_where_reading_begins_and_nothing_else() -> None:
    """The clocks of producers differ: what is appended later is given, whatever time it has; of the first batch, what comes before
    the first record of that time is not. A time beyond the end begins at the end."""
    async with Cluster(3, seed=67) as cluster, cluster.client() as client:
        await client.create_topic("orders", partitions=2)
        await cluster.wait_topic("orders")
        await client.produce("orders", timed(10), timed(20), partition=0)
        await client.produce("orders", timed(30), timed(25), timed(40), partition=0)
        received: dict[int, list[bytes]] = {25: [], 90: []}

        async def follow(seconds: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with client.consume("orders", start=at(seconds)) as records:
                task_status.started()
                while True:
                    received[seconds] += [record.value for record in await records.receive_batch()]

        async with trio.open_nursery() as nursery:
            for seconds in received:
                await nursery.start(follow, seconds)
            await cluster.wait_until(lambda: len(received[25]) == 3, "what was there")
            await cluster.advance(5)
            await client.produce("orders", timed(5), timed(50), partition=0)
            await client.produce("orders", timed(7), partition=1)
            await client.produce("orders", timed(6), partition=1)
            wanted = {25: [b"30", b"25", b"40", b"5", b"50", b"6", b"7"], 90: [b"5", b"50", b"6", b"7"]}
            await cluster.wait_until(
                lambda: all(len(received[seconds]) == len(values) for seconds, values in wanted.items()), "what came later"
            )
            nursery.cancel_scope.cancel()
        assert received[25][:3] == wanted[25][:3]
        assert {seconds: sorted(values) for seconds, values in received.items()} == {
            seconds: sorted(values) for seconds, values in wanted.items()
        }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from", "1970-01-01T00:00:25Z"], [b"30", b"40"]),
        (["--from", "1970-01-01T00:00:41Z"], []),
        (["--from", "1970-01-01T00:00:41Z", "--partition", "1"], []),
        (["--from", "2999-01-01T00:00:00Z"], []),
        (["--from", "2", "--partition", "0"], [b"30", b"40"]),
        (["--from", "4", "--partition", "0"], []),
    ],
)
async def test_the_command_ends_at_the_end_as_it_was_at_the_start(
    arguments: list[str], expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a partition has nothing from there on, or nothing at all."""
    written: list[bytes] = []
    run_sync = trio.to_thread.run_sync

    async def write(call: Callable[..., Any], *arguments: Any, **options: Any) -> object:
        if call is not cli_consume._write:
            return await run_sync(call, *arguments, **options)
        return written.extend(arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", write)
    async with Cluster(3, seed=68) as cluster, cluster.client() as client:
        await client.create_topic("orders", partitions=3)
        await cluster.wait_topic("orders")
        await client.produce("orders", timed(10), timed(20), partition=0)
        await client.produce("orders", timed(30), timed(40), partition=0)
        await client.produce("orders", timed(9), partition=1)
        options = make_parser().parse_args(["consume", "orders", *arguments])
        with trio.fail_after(20):
            assert await cli_consume.consume(client, options) == 0
    assert b"".join(written).split() == expected


async def test_an_offset_beyond_the_end_is_said_to_be_there() -> None:
    """Silence would look like an empty topic."""
    async with Cluster(1, seed=69) as cluster, cluster.client() as client:
        await client.produce("orders", b"one")
        options = make_parser().parse_args(["consume", "orders", "--from", "99", "--partition", "0"])
        with pytest.RaisesGroup(pytest.RaisesExc(OffsetOutOfRange, match="beyond the end")):
            await cli_consume.consume(client, options)


@pytest.mark.parametrize("is_remote", [True, False], ids=["client", "node"])
async def test_each_partition_has_a_start_of_its_own(is_remote: bool) -> None:
    """Those that are named begin at their offsets, others at their beginning; records say where they are."""
    async with Cluster(1, seed=73) as cluster, cluster.client() as client:
        log = client if is_remote else cluster.node("n1").client()
        await client.create_topic("orders", partitions=3)
        for partition in range(3):
            await client.produce("orders", [b"0", b"1", b"2"], partition=partition)
        positions = {0: 2, 2: 3}
        async with log.consume("orders", start=positions) as records:
            positions[1] = 3
            await client.produce("orders", b"3", partition=2)
            seen = [await records.receive() for _ in range(5)]
            places = sorted((record.topic, record.partition, record.offset, record.value) for record in seen)
        assert places == [
            ("orders", 0, 2, b"2"),
            *(("orders", 1, number, b"%d" % number) for number in range(3)),
            ("orders", 2, 3, b"3"),
        ]


@pytest.mark.parametrize(
    ("start", "partition", "why"),
    [
        ({0: -1}, None, "start: the offset of partition 0 is -1"),
        ({0: "end"}, None, "start: the offset of partition 0 is 'end'"),
        ({"0": 1}, None, "start: a partition is '0'"),
        ({0: 1}, 0, "start names partitions, and so does partition"),
    ],
)
async def test_starts_that_cannot_be(start: Any, partition: int | None, why: str) -> None:
    """Refused with words, before anything is read."""
    async with Cluster(1, seed=74) as cluster, cluster.client() as client:
        await client.produce("orders", b"0")
        with pytest.raises(InvalidArgument, match=why):
            async with client.consume("orders", start=start, partition=partition):
                pytest.fail("it has begun")
