"""The event store in a cluster: who wins a version, what a repeated event is answered, and what the index does after crashes."""

import pytest
import trio

from trio_eventlog.errors import (
    AggregateClosed,
    EventLogError,
    InvalidArgument,
    Overloaded,
    TopicNotFound,
    WrongExpectedVersion,
)
from trio_eventlog.events import ANY, EXISTS, NO_STREAM, AppendResult, Event, RecordedEvent
from trio_eventlog.machine.events import EventWindow
from trio_eventlog.node.partition_events import PartitionEvents
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.broker import Broker
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.requests import ConsumeRequest, Fetched
from trio_eventlog.service.values import BEGINNING
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.files import CrashMode

VIRTUAL_TIME = True
TOPIC = "events"


async def all_events(log: EventLog, aggregate_id: str) -> list[RecordedEvent]:
    events: list[RecordedEvent] = []
    while True:
        page = await log.read_aggregate(aggregate_id, from_version=len(events) + 1, linearizable=True)
        if not page.events:
            assert page.version == len(events)
            return events
        events += page.events


def events_of(cluster: Cluster, name: str) -> PartitionEvents:
    found = cluster.replica(name, TOPIC, 0).events
    assert found is not None
    return found


@pytest.mark.parametrize("which", ["client", "node"])
async def test_append_and_read(which: str) -> None:
    async with Cluster(3, seed=3) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        log: EventLog = client if which == "client" else cluster.node("n2").client()
        first = await log.append(
            "user-1",
            [
                Event(type="Created", payload=b'{"a":  1}', event_id="e1", metadata={"by": "me"}),
                Event(type="Named", payload=[1, "ä"]),
            ],
            expected_version=NO_STREAM,
        )
        assert (first.version, first.first_version, first.first_offset, first.offset, first.duplicate) == (2, 1, 0, 1, False)
        assert (await log.append("user-1", [Event(type="X")], expected_version=EXISTS)).version == 3
        with pytest.raises(WrongExpectedVersion) as wrong:
            await log.append("user-1", [Event(type="X")], expected_version=2)
        assert (wrong.value.actual_version, wrong.value.expected_version) == (3, "2")
        with pytest.raises(WrongExpectedVersion) as missing:
            await log.append("user-2", [Event(type="X")], expected_version=EXISTS)
        assert (missing.value.actual_version, missing.value.expected_version) == (0, "exists")
        for name in cluster.names:
            page = await cluster.node(name).client().read_aggregate("user-1", linearizable=True)
            assert [(event.version, event.type) for event in page.events] == [(1, "Created"), (2, "Named"), (3, "X")]
        created = page.events[0]
        assert (created.data, created.payload, created.metadata, created.event_id) == (b'{"a":  1}', {"a": 1}, b'{"by":"me"}', "e1")
        assert created.timestamp_ns > 0
        backwards = await log.read_aggregate("user-1", backwards=True, limit=2, linearizable=True)
        assert [event.version for event in backwards.events] == [3, 2]
        assert (await log.read_aggregate("nobody", linearizable=True)).version == 0
        assert [topic.kind for topic in await log.list_topics()] == ["events"]


async def test_a_repeated_event_is_answered_with_the_original() -> None:
    """However late, whatever version is expected, and at whichever node."""
    async with Cluster(3, seed=4) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        events = [Event(type="T", payload=number, event_id=f"e{number}") for number in range(3)]
        first = await client.append("a", events, expected_version=NO_STREAM)
        for number in range(50):
            await client.append("a" if number % 2 else "b", [Event(type="T")])
        for name in cluster.names:
            again = await cluster.node(name).client().append("a", events, expected_version=NO_STREAM)
            assert again.duplicate
            assert (again.version, again.first_offset) == (first.version, first.first_offset)
        with pytest.raises(InvalidArgument, match="in the log already"):
            await client.append("a", [events[0], Event(type="T", event_id="new")])
        other = await client.append("c", events[:1])
        assert not other.duplicate, "an id names an event of its aggregate"


async def test_a_closed_aggregate() -> None:
    async with Cluster(1, seed=5) as cluster, cluster.client() as client:
        await client.append("a", [Event(type="T"), Event(type="End", closes=True)])
        assert (await client.read_aggregate("a")).is_closed
        with pytest.raises(AggregateClosed) as closed:
            await client.append("a", [Event(type="T")])
        assert closed.value.actual_version == 2
        assert (await client.append("a", [Event(type="T")], reopens=True)).version == 3
        assert (await client.append("a", [Event(type="T")])).version == 4


async def test_events_are_read_by_type_and_in_order_and_followed() -> None:
    async with Cluster(3, seed=6) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        await client.create_topic("ledger", partitions=3, kind="events")
        for number in range(30):
            await client.append(f"a{number % 5}", [Event(type="Odd" if number % 2 else "Even", payload=number)], topic="ledger")
            await trio.sleep(0.01)
        log = cluster.node("n3").client()
        for reader in (client, log):
            seen: list[int] = []
            after = ""
            while True:
                page = await reader.read_events(topic="ledger", after=after, limit=7, linearizable=True)
                seen += [event.payload for event in page.events]
                after = page.next
                if page.is_end:
                    break
            assert seen == list(range(30))
            odd = await reader.read_events(topic="ledger", type="Odd", limit=100, linearizable=True)
            assert [event.payload for event in odd.events] == list(range(1, 30, 2))
            assert not (await reader.read_events(topic="ledger", after=odd.next, linearizable=True)).events
        async with client.tail_events(topic="ledger", after=BEGINNING, type="Even") as tail:
            first = [(await tail.__anext__()).payload for _ in range(6)]
            token = tail.token
        async with log.tail_events(topic="ledger", after=token, type="Even") as tail:
            rest = [(await tail.__anext__()).payload for _ in range(9)]
        assert sorted(first + rest) == list(range(0, 30, 2))
        async with log.tail_events(topic="ledger", aggregate_id="a3") as tail:
            await client.append("a2", [Event(type="T", payload="other")], topic="ledger")
            await client.append("a3", [Event(type="T", payload="this")], topic="ledger")
            assert (await tail.__anext__()).payload == "this"
        with pytest.raises(InvalidArgument, match="another topic"):
            await client.read_events(topic="ledger", after="fff-1")


async def test_events_and_records_do_not_mix() -> None:
    async with Cluster(1, seed=7) as cluster, cluster.client() as client:
        await client.append("a", [Event(type="T")])
        await client.produce("plain", b"x")
        with pytest.raises(InvalidArgument, match="holds events"):
            await client.produce(TOPIC, b"x")
        with pytest.raises(InvalidArgument, match="no events"):
            await client.append("a", [Event(type="T")], topic="plain")
        with pytest.raises(InvalidArgument, match="no events"):
            await client.read_aggregate("a", topic="plain")
        with pytest.raises(TopicNotFound):
            await client.read_aggregate("a", topic="none")


async def test_more_than_one_answer_has_room_for() -> None:
    """Large events are read a page at a time, in both directions and over several partitions, and each is there once."""
    payload = "x" * 300_000
    async with Cluster(1, seed=21, event_cache_bytes=0) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        await client.create_topic("large", partitions=3, kind="events")
        names = ("a", "b", "c", "d")
        for name in names:
            for _ in range(20):
                await client.append(name, [Event(type="T", payload=payload)], topic="large")
        log = cluster.node("n1").client()
        for reader in (log, client):
            for backwards, versions in ((False, list(range(1, 21))), (True, list(range(20, 0, -1)))):
                found: list[int] = []
                while len(found) < 20:
                    page = await reader.read_aggregate(
                        "a", from_version=versions[len(found)], limit=20, backwards=backwards, topic="large"
                    )
                    assert 0 < len(page.events) < 20
                    found += [event.version for event in page.events]
                assert found == versions
            after, seen = "", []
            while True:
                all_of_them = await reader.read_events(topic="large", limit=100, after=after)
                assert sum(len(event.data) for event in all_of_them.events) < cluster.settings("n1").message_bytes_max
                seen += [(event.aggregate_id, event.version) for event in all_of_them.events]
                after = all_of_them.next
                if all_of_them.is_end:
                    break
            assert sorted(seen) == [(name, version) for name in names for version in range(1, 21)]


async def test_an_aggregate_is_read_again_without_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards, backwards and in part; what was appended since then comes from the log."""
    fetches = 0
    fetch = Broker.fetch

    async def counted(self: Broker, replica: Replica, request: ConsumeRequest, offset: int) -> Fetched:
        nonlocal fetches
        fetches += 1
        return await fetch(self, replica, request, offset)

    monkeypatch.setattr(Broker, "fetch", counted)
    async with Cluster(1, seed=22) as cluster:
        await cluster.wait_leader()
        log = cluster.node("n1").client()
        for number in range(1, 31):
            await log.append(f"a{number % 2}", [Event(type="T", event_id=f"e{number}")])
        first = await log.read_aggregate("a0")
        assert fetches == 1
        assert list((await log.read_aggregate("a0")).events) == list(first.events)
        assert list((await log.read_aggregate("a0", backwards=True)).events) == list(first.events)[::-1]
        assert [event.event_id for event in (await log.read_aggregate("a0", from_version=3, limit=2)).events] == ["e6", "e8"]
        assert fetches == 1
        await log.append("a0", [Event(type="T", event_id="new")])
        assert [event.event_id for event in (await log.read_aggregate("a0")).events][14:] == ["e30", "new"]
        assert fetches == 2


async def test_two_writers_at_two_nodes_while_leaders_change() -> None:
    """Exactly one of them gets each version, and no version is left out."""
    async with Cluster(3, seed=8) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        await client.append("a", [Event(type="T", event_id="first", payload="none")])
        won: dict[int, str] = {1: "first"}
        is_over = False

        async def write(name: str) -> None:
            log = cluster.node(name).client()
            version, number = 1, 0
            while not is_over:
                number += 1
                await trio.sleep(0.1)
                event = Event(type="T", payload=name, event_id=f"{name}-{number}")
                while True:
                    try:
                        result: AppendResult = await log.append("a", [event], expected_version=version)
                    except WrongExpectedVersion as error:
                        version = error.actual_version
                        break
                    except EventLogError as error:
                        if not error.retryable:
                            raise
                        # The same event again: it is known by its id.
                        await trio.sleep(0.05)
                        continue
                    assert result.version not in won, f"version {result.version} was won twice"
                    won[result.version] = event.event_id
                    version = result.version
                    break

        async with trio.open_nursery() as writers:
            for name in ("n1", "n2"):
                writers.start_soon(write, name)
            for _ in range(4):
                await trio.sleep(1.0)
                leader = await cluster.wait_leader(TOPIC, 0)
                with trio.move_on_after(5):
                    await client.transfer_leadership(TOPIC, 0)
                await trio.sleep(1.0)
                if leader == "n3":
                    cluster.crash("n3")
                    await trio.sleep(1.0)
                    await cluster.start("n3")
            is_over = True
        events = await all_events(client, "a")
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        assert len(events) > 20
        assert {event.version: event.event_id for event in events if event.version in won} == won


async def test_many_writers_that_expect_the_same_version() -> None:
    """One wins, and the others are told what the version is, in one turn of the leader or several."""
    async with Cluster(3, seed=9) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        await client.append("a", [Event(type="T")])
        outcomes: list[object] = []

        async def write(number: int) -> None:
            try:
                outcomes.append(await client.append("a", [Event(type="T", event_id=f"w{number}")], expected_version=1))
            except WrongExpectedVersion as error:
                outcomes.append(error.actual_version)

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(write, number)
        assert sum(isinstance(outcome, AppendResult) for outcome in outcomes) == 1
        assert outcomes.count(2) == 39
        repeated = []
        async with trio.open_nursery() as nursery:
            for _ in range(20):

                @nursery.start_soon
                async def repeat() -> None:
                    repeated.append(await client.append("b", [Event(type="T", event_id="same")], expected_version=NO_STREAM))

        assert {(result.version, result.first_offset) for result in repeated} == {(1, 2)}
        assert sum(not result.duplicate for result in repeated) == 1


async def test_an_index_that_was_lost_or_is_older_goes_on_from_where_it_is() -> None:
    async with Cluster(3, seed=10) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        for number in range(20):
            await client.append(f"a{number % 3}", [Event(type="T", event_id=f"e{number}")])
        for number, name in enumerate(cluster.names):
            cluster.crash(name)
            disk = cluster.disk(name)
            (path,) = disk.journals
            journal = disk.journals[path]
            del journal.transactions[len(journal.transactions) * number // 2 :]
            await cluster.start(name)
        await cluster.wait_leader(TOPIC, 0)
        for number in range(20):
            again = await client.append(f"a{number % 3}", [Event(type="T", event_id=f"e{number}")], expected_version=ANY)
            assert (again.duplicate, again.first_offset) == (True, number)
        for name in cluster.names:
            log = cluster.node(name).client()
            assert (await log.read_aggregate("a0", linearizable=True)).version == 7
            assert events_of(cluster, name).status.event_count == 20


async def test_an_index_that_does_not_belong_to_the_log_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    """It is ahead of the log after a crash, or of another history: a lost disk was replaced by an older copy."""
    async with Cluster(1, seed=11) as cluster, cluster.client() as client:
        for number in range(5):
            await client.append("a", [Event(type="T", payload=number)])
        old = cluster.image("n1")
        for number in range(5):
            await client.append("a", [Event(type="Lost", payload=number)])
        journals = dict(cluster.disk("n1").journals)
        cluster.crash("n1")
        cluster.put_disk("n1", old)
        cluster.disk("n1").journals.update(journals)
        await cluster.start("n1")
        await cluster.wait_leader(TOPIC, 0)
        page = await client.read_aggregate("a", linearizable=True)
        assert [event.type for event in page.events] == ["T"] * 5
        assert "made from the log again" in caplog.text
        assert (await client.append("a", [Event(type="T")], expected_version=5)).version == 6


async def test_an_index_that_has_lost_its_last_transaction_and_says_nothing_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    """It would have the version of a lost event given again."""
    async with Cluster(1, seed=12) as cluster, cluster.client() as client:
        await client.append("a", [Event(type="T", event_id="one")])
        await client.read_aggregate("a", linearizable=True)
        await client.append("a", [Event(type="T", event_id="two")])
        await client.read_aggregate("a", linearizable=True)
        cluster.crash("n1", CrashMode.KEEP)
        (journal,) = cluster.disk("n1").journals.values()
        while not journal.transactions[-1][0]:
            journal.transactions.pop()
        journal.transactions[-1] = ((), journal.transactions[-1][1])
        await cluster.start("n1")
        await cluster.wait_leader(TOPIC, 0)
        assert "event 'two' at offset 1 is missing" in caplog.text
        assert (await client.append("a", [Event(type="T", event_id="two")])).duplicate
        assert (await client.append("a", [Event(type="T")], expected_version=2)).version == 3


async def test_appends_wait_for_an_index_that_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is full: nothing is judged by half of what there is, and afterwards it goes on."""
    async with Cluster(1, seed=13, event_window_max=5) as cluster, cluster.client() as client:
        await client.append("a", [Event(type="T")])
        events = events_of(cluster, "n1")
        stuck = trio.Event()

        async def wait(calls: object) -> None:
            await stuck.wait()

        turn = events._turn
        monkeypatch.setattr(events, "_turn", wait)
        log = cluster.node("n1").client()
        with trio.move_on_after(1):
            await log.append("a", [Event(type="T")])
        window: EventWindow = events.judge.window
        window.trim(window.applied_index + 5)
        with pytest.raises(Overloaded):
            await log.append("a", [Event(type="T")])
        monkeypatch.setattr(events, "_turn", turn)
        stuck.set()


async def test_the_topic_of_events_is_made_also_where_topics_are_not_made_on_first_use() -> None:
    async with Cluster(3, seed=14, auto_create_topics=False) as cluster, cluster.client() as client:
        await cluster.wait_leader()
        assert (await client.append("a", [Event(type="T")])).version == 1
        with pytest.raises(TopicNotFound):
            await client.append("a", [Event(type="T")], topic="other")
