"""Producing through leaders that change, connections that break and answers that do not come."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from fake_cluster import FakeCluster, open_fake

from trio_eventlog.client import ClientSettings
from trio_eventlog.errors import (
    BatchTooLarge,
    InvalidArgument,
    NoQuorum,
    OutcomeUnknown,
    Overloaded,
    TopicNotFound,
    Unavailable,
)
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.values import Caller, KnownTopic
from trio_eventlog.v1 import records_pb2


def once(act: Callable[[], Awaitable[None]]) -> Callable[[records_pb2.Batch], Awaitable[None]]:
    """Do `act` for the first batch only."""
    done = False

    async def hook(_batch: records_pb2.Batch) -> None:
        nonlocal done
        if not done:
            done = True
            await act()

    return hook


async def test_produce(autojump_clock: trio.testing.MockClock) -> None:
    """Records are in the log, and the result says where."""
    async with open_fake() as (cluster, client):
        first = await client.produce("t", b"a", Record(value=b"b", key=b"k"))
        second = await client.produce("t", b"c")
    assert (first.base_offset, first.record_count, first.duplicate) == (0, 2, False)
    assert second.base_offset == 2
    assert cluster.topics["t"][0].values() == [b"a", b"b", b"c"]
    assert cluster.topics["t"][0].batches[0].first_timestamp.ToNanoseconds() == 1_700_000_000_000_000_000


async def test_key_chooses_the_partition(autojump_clock: trio.testing.MockClock) -> None:
    """By FNV-1a of the key; without a key partitions take turns; each goes to its own leader without a detour."""
    cluster = FakeCluster()
    cluster.add_topic("keys", 3)
    async with open_fake(cluster) as (_, client):
        for key, partition in ((b"a", 1), (b"42", 2), (b"\xff", 2)):
            assert (await client.produce("keys", Record(value=b"v", key=key))).partition == partition
        assert len({(await client.produce("keys", b"v")).partition for _ in range(3)}) == 3
        assert (await client.produce("keys", Record(value=b"v", key=b"a"), partition=0)).partition == 0
    for node in cluster.nodes.values():
        assert node.calls.count("ProduceStream") == 1


async def test_many_at_once_share_a_stream_and_keep_their_order(autojump_clock: trio.testing.MockClock) -> None:
    """Concurrent calls to one partition are pipelined on one stream."""
    async with open_fake() as (cluster, client):
        handles = [await client.submit_batch("t", 0, _batch(b"%d" % number)) for number in range(50)]
        offsets = [(await handle.wait()).base_offset for handle in handles]
    assert offsets == list(range(50))
    assert cluster.topics["t"][0].values() == [b"%d" % number for number in range(50)]
    assert cluster.nodes["n1"].calls.count("ProduceStream") == 1


async def test_never_more_in_flight_than_the_window(autojump_clock: trio.testing.MockClock) -> None:
    """The nodes never see more unanswered requests than they remember batches of a producer."""
    waiting = most = 0

    async def slow(_batch: records_pb2.Batch) -> None:
        # The handler takes requests one after the other; what waits behind it is in the stream.
        await trio.sleep(0.1)

    async with open_fake(settings=ClientSettings(producer_in_flight_batches=2)) as (cluster, client):
        cluster.nodes["n1"].before_append = slow
        await client.partitions("t")
        sender = client._senders.queue_of(KnownTopic(name="t", group_ids=(1,)), 0, Caller())
        handles = [await client.submit_batch("t", 0, _batch(b"x")) for _ in range(10)]
        while not handles[-1].is_done:
            most = max(most, sender._core.in_flight_batches)
            waiting += 1
            await trio.sleep(0.05)
    assert most == 2
    assert waiting > 10


async def test_follows_the_hint_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """A node that no longer leads names the leader, and no time is lost."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        cluster.lead("t", 0, "n3")
        before = trio.current_time()
        assert (await client.produce("t", b"b")).base_offset == 1
        assert trio.current_time() == before
    assert cluster.nodes["n3"].calls.count("ProduceStream") == 1


async def test_finds_the_leader_without_a_hint(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody knows at first: the client asks again until somebody does."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        cluster.gives_hints = False
        cluster.lead("t", 0, "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.produce, "t", b"b")
            await trio.sleep(3)
            assert cluster.topics["t"][0].values() == [b"a"]
            cluster.lead("t", 0, "n2")
    assert cluster.topics["t"][0].values() == [b"a", b"b"]


async def test_leader_killed_after_it_has_taken_the_batch(autojump_clock: trio.testing.MockClock) -> None:
    """The answer is lost, the batch is sent to the next leader under the same sequence, and is in the log once."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")

        async def die() -> None:
            cluster.lead("t", 0, "n2")
            cluster.kill("n1")
            await trio.sleep_forever()

        cluster.nodes["n1"].after_append = once(die)
        async with trio.open_nursery() as nursery:
            for value in (b"b", b"c", b"d"):
                nursery.start_soon(client.produce, "t", value)
    assert sorted(cluster.topics["t"][0].values()) == [b"a", b"b", b"c", b"d"]


async def test_connection_lost_before_the_answer_is_a_duplicate(autojump_clock: trio.testing.MockClock) -> None:
    """Told as one, with the original offset."""
    async with open_fake() as (cluster, client):

        async def lose() -> None:
            cluster.break_connections("n1")
            await trio.sleep_forever()

        cluster.nodes["n1"].after_append = once(lose)
        result = await client.produce("t", b"a")
    assert (result.base_offset, result.duplicate) == (0, True)
    assert cluster.topics["t"][0].values() == [b"a"]


async def test_silent_node_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """No answer for attempt_timeout_seconds: somebody else is asked."""
    async with open_fake(settings=ClientSettings(attempt_timeout_seconds=2, stall_seconds=100)) as (cluster, client):

        async def hang() -> None:
            cluster.lead("t", 0, "n2")
            await trio.sleep_forever()

        cluster.nodes["n1"].before_append = once(hang)
        before = trio.current_time()
        assert (await client.produce("t", b"a")).base_offset == 0
        assert 2 <= trio.current_time() - before < 3
    assert cluster.topics["t"][0].values() == [b"a"]


async def test_silent_leader_is_left_when_another_leads(autojump_clock: trio.testing.MockClock) -> None:
    """Without waiting for attempt_timeout_seconds: others are asked after stall_seconds, the silent one last."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")

        async def hang() -> None:
            await trio.sleep_forever()

        cluster.nodes["n1"].before_append = once(hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.produce, "t", b"b")
            await trio.sleep(1.2)
            cluster.network.isolate("n1")
            cluster.lead("t", 0, "n2")
        assert 1.2 <= trio.current_time() < 2.5
    assert cluster.topics["t"][0].values() == [b"a", b"b"]


async def test_overload_waits_as_asked(autojump_clock: trio.testing.MockClock) -> None:
    """`retry_after_seconds` is honoured; batches behind the refused one keep their order."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"0")

        async def refuse() -> None:
            raise Overloaded("full", retry_after_seconds=0.5)

        cluster.nodes["n1"].before_append = once(refuse)
        before = trio.current_time()
        handles = [await client.submit_batch("t", 0, _batch(b"%d" % number)) for number in (1, 2, 3)]
        for handle in handles:
            await handle.wait()
        assert 0.5 <= trio.current_time() - before < 0.6
    assert cluster.topics["t"][0].values() == [b"0", b"1", b"2", b"3"]


async def test_refused_for_good_harms_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    """The batch fails with the node's error, those behind it get there."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"0")

        async def refuse() -> None:
            raise InvalidArgument("not this one")

        cluster.nodes["n1"].before_append = once(refuse)
        handles = [await client.submit_batch("t", 0, _batch(b"%d" % number)) for number in (1, 2, 3)]
        with pytest.raises(InvalidArgument, match="not this one"):
            await handles[0].wait()
        assert [(await handle.wait()).base_offset for handle in handles[1:]] == [1, 2]
    assert cluster.topics["t"][0].values() == [b"0", b"2", b"3"]


async def test_nobody_there(autojump_clock: trio.testing.MockClock) -> None:
    """Unavailable names every address and why, after request_timeout_seconds."""
    async with open_fake(settings=ClientSettings(request_timeout_seconds=4), target="n7:1,n8:1") as (_, client):
        before = trio.current_time()
        with pytest.raises(Unavailable, match=r"n[78]:1"):
            await client.produce("t", b"a")
        assert trio.current_time() - before == pytest.approx(4, abs=0.1)


async def test_no_leader_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """OutcomeUnknown for what was sent; the last error for what waited behind it, and was taken back."""
    async with open_fake(settings=ClientSettings(request_timeout_seconds=4)) as (cluster, client):

        async def refuse(_batch: records_pb2.Batch) -> None:
            raise NoQuorum("nobody leads")

        for node in cluster.nodes.values():
            node.before_append = refuse
        with pytest.raises(OutcomeUnknown, match="no acknowledgement within 4 s"):
            await client.produce("t", b"b")
        with pytest.raises(NoQuorum, match="nobody leads"):
            await client.produce("t", b"behind it")


async def test_outcome_is_found_out_in_the_background(autojump_clock: trio.testing.MockClock) -> None:
    """A cancelled call was sent: later ones wait for its outcome, and both are in the log in order."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        release = trio.Event()
        cluster.nodes["n1"].before_append = once(release.wait)
        with trio.move_on_after(1) as scope:
            await client.produce("t", b"b")
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.produce, "t", b"c")
            await trio.sleep(1)
            release.set()
    assert cluster.topics["t"][0].values() == [b"a", b"b", b"c"]


async def test_cancelled_before_it_was_sent_is_never_sent(autojump_clock: trio.testing.MockClock) -> None:
    """What waits behind an open outcome is taken back."""
    async with open_fake() as (cluster, client):
        release = trio.Event()
        cluster.nodes["n1"].before_append = once(release.wait)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.produce, "t", b"a")
            await trio.sleep(0.1)
            with trio.move_on_after(1):
                await client.produce("t", b"b")
            release.set()
        await client.produce("t", b"c")
    assert cluster.topics["t"][0].values() == [b"a", b"c"]


async def test_delivery_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """A batch is not sent again for ever, and what comes later is not held up by it."""
    settings = ClientSettings(delivery_timeout_seconds=10, attempt_timeout_seconds=2)
    async with open_fake(settings=settings) as (cluster, client):
        await client.produce("t", b"a")
        cluster.network.isolate("client")
        handle = await client.submit_batch("t", 0, _batch(b"b"))
        with pytest.raises(OutcomeUnknown):
            await handle.wait()
        assert 10 <= trio.current_time() < 15
        cluster.network.heal()
        await client.produce("t", b"c")
    assert cluster.topics["t"][0].values()[-1] == b"c"


async def test_limits(autojump_clock: trio.testing.MockClock) -> None:
    """At batch_bytes_max a batch is taken, above it is not sent; a full buffer makes producers wait."""
    settings = ClientSettings(batch_bytes_max=4096, producer_batch_bytes=4096, producer_buffer_bytes=10_000)
    async with open_fake(settings=settings) as (cluster, client):
        fits = _batch(b"x" * (4096 - 6))
        assert len(fits.payload) == 4096
        await client.produce_batch("t", 0, fits)
        with pytest.raises(BatchTooLarge) as caught:
            await client.produce("t", b"x" * 4096)
        assert caught.value.limit_bytes == 4096
        release = trio.Event()
        cluster.nodes["n1"].before_append = once(release.wait)
        for _ in range(2):
            await client.submit_batch("t", 0, fits)
        with trio.move_on_after(1) as scope:
            await client.submit_batch("t", 0, fits)
        assert scope.cancelled_caught
        release.set()
        await (await client.submit_batch("t", 0, fits)).wait()
    assert len(cluster.topics["t"][0].batches) == 4


async def test_unknown_topic(autojump_clock: trio.testing.MockClock) -> None:
    """Made on first use when the nodes do so, refused by name otherwise."""
    async with open_fake() as (cluster, client):
        with pytest.raises(TopicNotFound, match="new"):
            await client.produce("new", b"a")
        cluster.auto_create = True
        assert (await client.produce("new", b"a")).base_offset == 0


async def test_topic_made_a_moment_ago(autojump_clock: trio.testing.MockClock) -> None:
    """The leader may hear of the topic later than the client: that is no error."""
    async with open_fake() as (cluster, client):
        await client.create_topic("fresh")

        async def unheard_of() -> None:
            raise TopicNotFound("no topic fresh")

        cluster.nodes["n1"].before_append = once(unheard_of)
        assert (await client.produce("fresh", b"a")).base_offset == 0


async def test_acks_none_has_no_offset(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody knows it yet."""
    async with open_fake() as (_, client):
        assert (await client.produce("t", b"a", acks=Acks.NONE)).base_offset == -1
        assert (await client.produce("t", b"a", acks=Acks.LEADER)).base_offset == 1


async def test_idle_stream_is_closed_and_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    """After produce_stream_idle_seconds nothing is held on the node."""
    async with open_fake(settings=ClientSettings(produce_stream_idle_seconds=5)) as (cluster, client):
        await client.produce("t", b"a")
        assert cluster.nodes["n1"].open_produce_streams == 1
        await trio.sleep(6)
        assert cluster.nodes["n1"].open_produce_streams == 0
        await client.produce("t", b"b")
    assert cluster.nodes["n1"].calls.count("ProduceStream") == 2
    assert cluster.topics["t"][0].values() == [b"a", b"b"]


async def test_moves_to_the_leader_while_streaming(autojump_clock: trio.testing.MockClock) -> None:
    """A node that forwards is not an error, so nothing says that there is a shorter way: the client looks now and then."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"0")
        partition = cluster.topics["t"][0]
        cluster.forwards = True
        partition.leader = "n2"
        for number in range(1, 200):
            handles = [await client.submit_batch("t", 0, _batch(b"%d" % number)) for _ in range(3)]
            for handle in handles:
                await handle.wait()
            await trio.sleep(0.1)
    assert cluster.nodes["n1"].calls.count("ProduceStream") == 1
    assert cluster.nodes["n2"].calls.count("ProduceStream") == 1
    assert [int(value) for value in partition.values()] == sorted(list(range(200)) + 2 * list(range(1, 200)))


async def test_application_errors_come_out_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    """Not inside a group: that the client has a nursery is no business of its user."""
    with pytest.RaisesGroup(ZeroDivisionError):  # The group of open_fake's own nursery, one level.
        async with open_fake() as (_, client):
            await client.produce("t", b"a")
            raise ZeroDivisionError


async def test_closed_client_gives_up(autojump_clock: trio.testing.MockClock) -> None:
    """What is on its way when the block ends has an unknown outcome; what comes later is refused."""
    async with open_fake() as (cluster, client):
        await client.produce("t", b"a")
        cluster.nodes["n1"].before_append = once(trio.sleep_forever)
        handle = await client.submit_batch("t", 0, _batch(b"b"))
        await trio.sleep(0.1)
    with pytest.raises(OutcomeUnknown):
        await handle.wait()
    with pytest.raises(Unavailable, match="client was closed"):
        await client.submit_batch("t", 0, _batch(b"c"))


def _batch(value: bytes):  # type: ignore[no-untyped-def]
    from trio_eventlog.codec.batch import encode_records

    return encode_records([Record(value=value)])
