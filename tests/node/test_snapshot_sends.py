"""What a leader does about followers that begin anew with a snapshot."""

from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from tests.node.rig import THREE, Rig, batch_of
from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.snapshot_sends import SnapshotSendSettings
from trio_eventlog.raft import Message, MessageType
from trio_eventlog.records import Acks
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default

SENDS = SnapshotSendSettings(catch_up_bytes_min=3000, catch_up_silence_seconds=5.0, catch_up_hold_seconds=60.0)


def new_rig(**changes: float) -> Rig:
    return Rig(
        log=default(LogSettings, preallocate_bytes=0, segment_bytes=1000, tail_cache_bytes=0),
        driver=default(DriverSettings, snapshot_bytes_min=1, snapshot_sends=attrs.evolve(SENDS, **changes)),
    )


async def lead_with(rig: Rig, count: int) -> None:
    """Lead, with the help of node 2, a log of `count` batches; node 3 has not said anything."""
    await rig.lead()
    for number in range(count):
        await rig.replica.propose_batch(batch_of(b"%d" % number + bytes(300)), Acks.NONE)
        await rig.settle()
        await rig.acknowledge()
    await rig.settle()
    rig.take_sent()


async def say_nothing_is_here(rig: Rig) -> list[Message]:
    """Node 3 answers a heartbeat, and refuses what it is probed with: its log is empty. Returns what it is sent then."""
    rig.take_sent()
    rig.give_response(MessageType.HEARTBEAT_RESPONSE, THREE)
    await rig.settle()
    sent = [message for message, _ in rig.take_sent() if message.to == THREE]
    if sent and sent[-1].type is MessageType.APPEND and sent[-1].index:
        (sender, index) = (sent[-1].sender, sent[-1].index)
        rig.give(Message(type=MessageType.APPEND_RESPONSE, to=sender, sender=THREE, term=rig.term, index=index, reject=True))
        await rig.settle()
        sent = [message for message, _ in rig.take_sent() if message.to == THREE]
    return sent


def kinds(messages: Sequence[Message]) -> set[MessageType]:
    return {message.type for message in messages}


def report(rig: Rig, state: CatchUpState = CatchUpState.UNDER_WAY) -> None:
    index = rig.replica.snapshot_index
    rig.replica.driver.requests.receive_report(
        THREE, CatchUpReport(index=index, term=1, state=state, received_bytes=5, total_bytes=9)
    )


@pytest.mark.parametrize(
    ("least", "expected"), [(3000, MessageType.SNAPSHOT), (100_000, MessageType.APPEND), (0, MessageType.APPEND)]
)
async def test_a_follower_that_lacks_much_gets_a_snapshot(least: int, expected: MessageType) -> None:
    async with new_rig(catch_up_bytes_min=least).open() as rig:
        await lead_with(rig, 30)
        sent = await say_nothing_is_here(rig)
        assert kinds(sent) == {expected}
        if expected is MessageType.SNAPSHOT:
            assert sent[0].snapshot is not None
            assert sent[0].snapshot.index == rig.replica.snapshot_index


async def test_nothing_else_is_sent_until_it_has_begun_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        (message,) = await say_nothing_is_here(rig)
        for _ in range(20):
            await trio.sleep(1)
            report(rig)
            await rig.tick()
            await rig.acknowledge()
        assert not any(one.type is MessageType.SNAPSHOT or one.to == THREE for one, _ in rig.take_sent(MessageType.APPEND))
        follower = rig.replica.followers()[THREE]
        assert follower.catch_up is not None
        assert follower.catch_up.received_bytes == 5
        assert not follower.keeps_up
        assert rig.replica.holds_removal()
        assert message.snapshot is not None
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=message.snapshot.index)
        await rig.settle()
        await rig.tick()
        sent = [one for one, _ in rig.take_sent(MessageType.APPEND) if one.to == THREE]
        assert sent[0].index == message.snapshot.index
        assert rig.replica.followers()[THREE].catch_up is None
        assert not rig.replica.holds_removal()


async def test_acknowledgements_that_were_on_their_way_do_not_end_it() -> None:
    """Otherwise the entries would be sent beside the files."""
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=3)
        await rig.settle()
        assert await say_nothing_is_here(rig) == []
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=rig.replica.snapshot_index)
        await rig.settle()
        await rig.tick()
        assert rig.replica.followers()[THREE].catch_up is None
        assert MessageType.APPEND in {message.type for message, _ in rig.take_sent() if message.to == THREE}


async def test_a_failure_that_is_reported_leads_to_another_one() -> None:
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        await say_nothing_is_here(rig)
        report(rig, CatchUpState.FAILED)
        await rig.settle()
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}


async def test_a_follower_that_falls_silent_is_asked_where_it_stands(autojump_clock: trio.testing.MockClock) -> None:
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        await say_nothing_is_here(rig)
        report(rig)
        await rig.tick()
        await trio.sleep(4.9)
        await rig.tick()
        rig.take_sent()
        assert await say_nothing_is_here(rig) == []
        await trio.sleep(0.2)
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}


async def test_one_that_never_reports_gets_entries(autojump_clock: trio.testing.MockClock) -> None:
    """Its release may know of no files. When it does report, it gets files again."""
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}
        await trio.sleep(5.1)
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.APPEND}
        report(rig)
        rig.replica.driver.requests.report_unreachable(THREE)
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}


async def test_a_process_that_is_gone_is_asked_where_it_stands_at_once() -> None:
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        await say_nothing_is_here(rig)
        rig.replica.driver.requests.report_unreachable(THREE)
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}


async def test_a_message_that_could_not_leave_is_sent_again() -> None:
    async with new_rig().open() as rig:
        await lead_with(rig, 30)
        rig.links_are_up = False
        await say_nothing_is_here(rig)
        rig.links_are_up = True
        await rig.tick()
        assert kinds(await say_nothing_is_here(rig)) == {MessageType.SNAPSHOT}


async def test_removal_is_held_back_for_a_bounded_time(autojump_clock: trio.testing.MockClock) -> None:
    async with new_rig(catch_up_hold_seconds=20.0).open() as rig:
        await lead_with(rig, 30)
        assert not rig.replica.holds_removal()
        await say_nothing_is_here(rig)
        for _ in range(25):
            await trio.sleep(1)
            report(rig)
            await rig.tick()
            assert rig.replica.holds_removal() is (trio.current_time() < 20.0)
