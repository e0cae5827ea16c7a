"""Search of log lines on a node and through a client: merged by time, in pages without a gap, from whichever node is asked."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.partition_command import FEATURE_LEVEL
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.errors import InvalidArgument, Overloaded, TopicNotFound
from trio_eventlog.ids import format_id
from trio_eventlog.records import Compression, Record
from trio_eventlog.search.values import FoundLine, LogCounting, LogQuery
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.log_requests import LogPage
from trio_eventlog.service.settings import SearchSettings
from trio_eventlog.testing.cluster import Cluster

VIRTUAL_TIME = True

WHICH = ["client", "node"]
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
SERVICES = ["auth", "billing", "mail", "web", "shop"]


def line(number: int) -> Record:
    service = SERVICES[number * 7 % len(SERVICES)]
    value = {
        "service": service,
        "level": "ERROR" if number % 10 == 3 else "INFO",
        "message": f'line "{number}" of all',
        "timestamp": "2027-01-15T08:00:00Z",
        "labels": {"host": f"h{number % 3}"},
        "trace_id": f"t{number}",
    }
    return Record(key=service.encode(), value=msgspec.json.encode(value), timestamp_ns=T0 + number * SECOND)


@asynccontextmanager
async def opened(which: str, replicas: int = 0, **overrides: object) -> AsyncIterator[tuple[Cluster, EventLog]]:
    """A cluster of three with a topic of four partitions. With one replica each, most of them live on other nodes than n1, which is
    asked."""
    async with Cluster(3, seed=5, auto_create_topics=False, **overrides) as cluster:  # type: ignore[arg-type]
        async with cluster.client("n1") as client:
            await cluster.wait_until(lambda: all(cluster.node(name).unready_because() == "" for name in cluster.names), "ready")
            await client.create_topic("logs", partitions=4, replicas=replicas)
            yield cluster, client if which == "client" else cluster.node("n1").client()


async def fill(cluster: Cluster, log: EventLog, count: int, batch_lines: int = 7) -> None:
    """Lines in the order of their numbers, which are their seconds; partitions by service. Every node has them at the end."""
    waiting: dict[int, list[Record]] = {}

    async def send(partition: int) -> None:
        await log.produce_batch("logs", partition, encode_records(waiting.pop(partition), Compression.ZSTD))

    for number in range(count):
        record = line(number)
        partition = partition_of(record.key or b"", 4)
        waiting.setdefault(partition, []).append(record)
        if len(waiting[partition]) == batch_lines:
            await send(partition)
    for partition in list(waiting):
        await send(partition)
    await wait_seen(cluster, list(range(count)))


async def wait_seen(cluster: Cluster, expected: list[int], after: str = "") -> None:
    """Until every node shows these lines, which were acknowledged: a client asks nodes in turn, and one of them may be behind."""
    with trio.fail_after(60):
        for name in cluster.names:
            while True:
                if await all_numbers(cluster.node(name).client(), after) == expected:
                    break
                await trio.sleep(0.05)


async def all_numbers(log: EventLog, after: str = "") -> list[int]:
    """Of all lines, the oldest first."""
    pages = await all_pages(log, LogQuery(), 1000, oldest_first=True, after=after)
    return [number for page in pages for number in numbers(page.lines)]


def numbers(lines: Sequence[FoundLine]) -> list[int]:
    return [(found.timestamp_ns - T0) // SECOND for found in lines]


async def all_pages(log: EventLog, query: LogQuery, limit: int, *, oldest_first: bool = False, after: str = "") -> list[LogPage]:
    pages = [await log.logs.search(query, limit=limit, oldest_first=oldest_first, after=after)]
    while not pages[-1].is_end:
        assert len(pages) < 200
        pages.append(await log.logs.search(query, limit=limit, oldest_first=oldest_first, after=pages[-1].next))
    return pages


@pytest.mark.parametrize("replicas", [0, 1])
@pytest.mark.parametrize("which", WHICH)
async def test_pages_give_every_line_once_by_time(which: str, replicas: int) -> None:
    """Newest first and oldest first, by pages of every size, wherever the partitions live."""
    async with opened(which, replicas) as (cluster, log):
        await fill(cluster, log, 60)
        everything = list(range(60))
        for limit in (1, 7, 100):
            pages = await all_pages(log, LogQuery(), limit)
            assert [number for page in pages for number in numbers(page.lines)] == everything[::-1]
            assert all(len(page.lines) <= limit for page in pages)
            pages = await all_pages(log, LogQuery(), limit, oldest_first=True)
            assert [number for page in pages for number in numbers(page.lines)] == everything
        assert all(page.scanned_bytes for page in pages if page.lines)


@pytest.mark.parametrize("which", WHICH)
async def test_queries(which: str) -> None:
    pytest.importorskip("re2")
    async with opened(which) as (cluster, log):
        await fill(cluster, log, 40)

        async def found(**query: object) -> list[int]:
            return numbers((await log.logs.search(LogQuery(**query), limit=100)).lines)  # type: ignore[arg-type]

        assert await found(contains='line "7"') == [7]
        assert await found(level="ERROR") == [33, 23, 13, 3]
        assert await found(level="ERROR", since_ns=T0 + 13 * SECOND, until_ns=T0 + 33 * SECOND) == [23, 13]
        assert await found(regex='"3[0-2]"') == [32, 31, 30]
        assert await found(labels=(("host", "h1"),), until_ns=T0 + 8 * SECOND) == [7, 4, 1]
        assert await found(trace_id="t9") == [9]
        assert await found(service="auth") == [35, 30, 25, 20, 15, 10, 5, 0]
        assert await found(service="none") == []
        with pytest.raises(InvalidArgument, match="regex"):
            await found(regex="(")


@pytest.mark.parametrize("which", WHICH)
async def test_going_on_later_gives_what_has_come_since(which: str) -> None:
    """Oldest first by the token of the last page; and from the tail of a newest page, in which nothing is missing or twice."""
    async with opened(which) as (cluster, log):
        await fill(cluster, log, 20)
        last = (await all_pages(log, LogQuery(), 100, oldest_first=True))[-1]
        newest = await log.logs.search(limit=3)
        assert numbers(newest.lines) == [19, 18, 17]
        for number in (20, 21):
            await log.produce("logs", line(number))
        for token in (last.next, newest.tail):
            await wait_seen(cluster, [20, 21], after=token)
            assert await all_numbers(log, token) == [20, 21]
        older = await log.logs.search(after=newest.next, limit=100)
        assert numbers(older.lines) == list(range(16, -1, -1))
        assert older.tail == ""


@pytest.mark.parametrize("which", WHICH)
async def test_counting(which: str) -> None:
    async with opened(which, 1) as (cluster, log):
        await fill(cluster, log, 40)
        counts = (await log.logs.count()).counts
        assert sum(counts.lines.values()) == 40
        assert {service for _, service, _ in counts.lines} == set(SERVICES)
        by_step = await log.logs.count(LogQuery(level="ERROR"), LogCounting(step_ns=20 * SECOND, with_labels=True))
        buckets: dict[int, int] = {}
        for (bucket_ns, _, level), lines in by_step.counts.lines.items():
            assert level == "ERROR"
            buckets[(bucket_ns - T0) // SECOND] = buckets.get((bucket_ns - T0) // SECOND, 0) + lines
        assert buckets == {0: 2, 20: 2}
        assert by_step.counts.labels == {"host": {"h0", "h1", "h2"}}
        assert by_step.is_end
        assert not by_step.lines


async def test_a_page_ends_when_enough_was_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is found; and the pages together have looked at everything, and found the one line."""
    bounds = SearchSettings(
        searches_max=1,
        unpacked_bytes_max=1 << 20,
        page_lines_bytes_max=1 << 20,
        page_lines_max=100,
        page_bytes=4096,
        step_bytes=1024,
    )
    monkeypatch.setattr("trio_eventlog.part_settings.search", lambda settings: bounds)
    monkeypatch.setattr("trio_eventlog.service.log_search.SLICE_BYTES", 1)
    async with opened("node", index_interval_bytes=1024) as (cluster, log):
        await fill(cluster, log, 200, batch_lines=4)
        pages = await all_pages(log, LogQuery(contains='"5"'), 100)
        assert len(pages) > 3
        assert [number for page in pages for number in numbers(page.lines)] == [5]
        assert all(page.scanned_bytes < 4096 + 8 * 1024 for page in pages)
        pages = await all_pages(log, LogQuery(level="ERROR"), 100)
        assert [number for page in pages for number in numbers(page.lines)] == list(range(193, 0, -10))
        # Of as many at a time as may be, one more is refused.
        outcomes: list[object] = []

        async def search() -> None:
            try:
                outcomes.append(await log.logs.search())
            except Overloaded as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(search)
            nursery.start_soon(search)
        assert {type(outcome) for outcome in outcomes} == {LogPage, Overloaded}


async def test_records_out_of_time_keep_the_order_of_their_partition() -> None:
    """A service whose clock jumps: nothing is left out, and its lines stay in the order in which they were sent."""
    rng = random.Random(4)
    async with opened("node") as (_, log):
        sent = []
        for number in range(30):
            second = rng.randrange(100)
            value = line(number).value
            sent.append(value)
            await log.produce_batch("logs", number % 2, encode_records([Record(value=value, timestamp_ns=T0 + second * SECOND)]))
        for partition in (0, 1):
            await log.offsets("logs", partition)  # n1 has everything now
        for oldest_first in (False, True):
            found = [one for page in await all_pages(log, LogQuery(), 4, oldest_first=oldest_first) for one in page.lines]
            assert sorted(one.value for one in found) == sorted(value or b"" for value in sent)
            for partition in (0, 1):
                offsets = [one.offset for one in found if one.partition == partition]
                assert offsets == sorted(offsets, reverse=not oldest_first)
        since, until = T0 + 20 * SECOND, T0 + 60 * SECOND
        pages = await all_pages(log, LogQuery(since_ns=since, until_ns=until), 4)
        assert sum(len(page.lines) for page in pages) == sum(since <= one.timestamp_ns < until for one in found)


async def test_a_service_is_found_in_whatever_partition_its_lines_are() -> None:
    """The topic is an ordinary one: a producer may put a line where the key of its service does not belong."""
    async with opened("node") as (cluster, log):
        for number in range(4):
            await log.produce("logs", Record(value=line(0).value, timestamp_ns=line(number).timestamp_ns), partition=number)
        await wait_seen(cluster, [0, 1, 2, 3])
        assert numbers((await log.logs.search(LogQuery(service=SERVICES[0]))).lines) == [3, 2, 1, 0]


async def test_what_cannot_be_asked() -> None:
    async with opened("node") as (_, log):
        with pytest.raises(TopicNotFound):
            await log.logs.search(topic="none")
        newest = await log.logs.search()
        for after in ("x", newest.next[1:], newest.next.replace("n", "n1"), "n1-"):
            with pytest.raises(InvalidArgument):
                await log.logs.search(after=after)
        with pytest.raises(InvalidArgument):
            await log.logs.search(after=newest.next, oldest_first=True)
        with pytest.raises(InvalidArgument):
            await log.logs.search(limit=0)


async def test_a_topic_that_was_trimmed_is_searched_from_where_it_begins() -> None:
    async with opened("node") as (cluster, log):
        for number in range(10):
            await log.produce("logs", line(number), partition=0)
        await wait_seen(cluster, list(range(10)))
        machines = [cluster.node(name).parts.replicas.machine for name in cluster.names]
        await cluster.wait_until(lambda: all(one.feature_level >= FEATURE_LEVEL for one in machines), "topics may be trimmed")
        await log.trim_topic("logs", 4, partition=0)
        await wait_seen(cluster, list(range(4, 10)))
        page = await log.logs.search(limit=100)
        assert numbers(page.lines) == [9, 8, 7, 6, 5, 4]
        assert page.is_end
        forwards = await log.logs.search(limit=100, oldest_first=True)
        assert numbers(forwards.lines) == [4, 5, 6, 7, 8, 9]


async def test_every_node_answers() -> None:
    async with opened("node", 1) as (cluster, log):
        await fill(cluster, log, 20)
        described = await log.describe_topic("logs")
        owners = {described.partitions[number].replica_ids for number in range(4)}
        assert len(owners) > 1, "the partitions do not live on one node"
        for name in cluster.names:
            assert format_id(cluster.node(name).node_id)
            page = await cluster.node(name).client().logs.search(limit=100)
            assert numbers(page.lines) == list(range(19, -1, -1))
