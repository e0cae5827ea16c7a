"""What a leader tells its followers besides new entries: old ones from a slow disk, in order, and what is committed."""

from collections import Counter
from itertools import pairwise

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.node.rig import ME, THREE, TWO, Rig, batch_of, data, no_op
from trio_eventlog.raft import ChangeKind, ConfigurationChange, Message, MessageType, NodeChange, RaftSettings
from trio_eventlog.raft.progress import ProgressState
from trio_eventlog.records import Acks
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Operation

FRAMES = 2800
VALUE = bytes(32 << 10)
SETTINGS = default(LogSettings, preallocate_bytes=0, tail_cache_bytes=1 << 20, segment_bytes=16 << 20)


async def lead_a_long_log(rig: Rig, frames: int) -> None:
    """Everything is committed by nodes 1 and 2; node 3 has nothing."""
    rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
    for first in range(2, frames + 1, 400):
        last = min(first + 399, frames)
        rig.give_append(
            TWO, 1, (1, first - 1), *(data(1, index, index - 2, VALUE) for index in range(first, last + 1)), commit=first
        )
        await rig.settle()
    await rig.tick(20)  # out of the lease
    await rig.lead()
    rig.take_sent()


class SlowFollower:
    """Node 3: takes what follows on what it has, refuses what does not, and answers after a while. Node 2 is always up to date."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.last_index = 0
        self.received = Counter[int]()
        self.refused = 0

    async def run(self) -> None:
        term = self.rig.term
        while True:
            for message, frames in self.rig.take_sent():
                if message.to == TWO and message.type is MessageType.APPEND:
                    self.rig.give_response(MessageType.APPEND_RESPONSE, TWO, index=message.last_index)
                elif message.type is MessageType.HEARTBEAT:
                    self.rig.give_response(MessageType.HEARTBEAT_RESPONSE, message.to)
                elif message.to == THREE and message.type is MessageType.APPEND:
                    self.received.update(frame.index for frame in frames)
                    reply = Message(type=MessageType.APPEND_RESPONSE, to=ME, sender=THREE, term=term)
                    if message.index > self.last_index:
                        self.refused += 1
                        hint = self.last_index
                        reply = attrs.evolve(reply, index=message.index, reject=True, reject_hint=hint, log_term=min(hint, 1))
                    else:
                        self.last_index = max(self.last_index, message.last_index)
                        reply = attrs.evolve(reply, index=message.last_index)
                    self.rig.give(reply)
            await trio.sleep(0.001)


@pytest.mark.parametrize("inflight_messages", [4, 256])
async def test_each_entry_is_read_and_sent_about_once(autojump_clock: MockClock, inflight_messages: int) -> None:
    """90 MB behind, 10 ms for each read. A notice of a newer commit index must not overtake the entries that wait for the disk: it
    would be refused, and the whole window read and sent again."""
    raft = default(RaftSettings, inflight_messages_max=inflight_messages, append_bytes_max=256 << 10)
    async with Rig(log=SETTINGS, raft=raft).open() as rig, trio.open_nursery() as nursery:
        await lead_a_long_log(rig, FRAMES)
        follower = SlowFollower(rig)
        rig.disk.latency_seconds[Operation.READ] = 0.01
        nursery.start_soon(follower.run)

        async def tick() -> None:
            while True:
                await trio.sleep(0.05)
                rig.replica.driver.tick()

        async def produce() -> None:
            while True:
                await (await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)).outcome()
                await trio.sleep(0.02)

        nursery.start_soon(tick)
        nursery.start_soon(produce)
        with trio.fail_after(30):
            while follower.last_index < FRAMES:  # noqa: ASYNC110 - of the follower, which is played
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    sent = sum(follower.received.values())
    assert sent <= 1.2 * len(follower.received), f"{sent} frames sent for {len(follower.received)}, {follower.refused} refusals"


async def test_a_commit_notice_follows_the_entries_that_wait_for_the_disk() -> None:
    """It is held back, not lost: when the last of them is sent, it is next."""
    async with Rig(log=SETTINGS).open() as rig:
        await lead_a_long_log(rig, 200)
        last_index = rig.replica.status().last_index
        rig.disk.latency_seconds[Operation.READ] = 0.5
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        proposal = await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        await rig.settle()
        await rig.acknowledge(TWO)
        await proposal.outcome()
        await trio.sleep(30)
        sent = [message for message, _ in rig.take_sent(MessageType.APPEND) if message.to == THREE]
        for message, following in pairwise(sent):
            assert following.index == message.last_index, "in order, without a gap"
        assert (sent[-1].index, sent[-1].last_index, sent[-1].commit) == (last_index + 1, last_index + 1, last_index + 1)


async def test_entries_that_are_not_durable_yet_wait_with_older_ones_and_are_sent_once() -> None:
    """The leader's own disk is slow, too. What it has only in memory is sent from there when its turn comes."""
    async with Rig(log=SETTINGS).open() as rig:
        await lead_a_long_log(rig, 200)
        last_index = rig.replica.status().last_index
        rig.disk.latency_seconds[Operation.READ] = 0.01
        rig.disk.latency_seconds[Operation.SYNC] = 5.0
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        await trio.sleep(4)
        assert rig.replica.log.last_index == last_index
        sent = [frame.index for message, frames in rig.take_sent() if message.to == THREE for frame in frames]
        assert sent == list(range(2, last_index + 2))


@pytest.mark.parametrize("how", ["refused", "unreachable"])
async def test_what_waits_for_a_follower_that_is_probed_is_not_sent(how: str) -> None:
    """It has refused something, or the link has lost something: what is queued behind that is of no use to it."""
    async with Rig(log=SETTINGS, raft=default(RaftSettings, append_bytes_max=64 << 10)).open() as rig:
        await lead_a_long_log(rig, 100)
        rig.disk.latency_seconds[Operation.READ] = 1.0
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        if how == "refused":
            refusal = Message(type=MessageType.APPEND_RESPONSE, to=ME, sender=THREE, term=rig.term, index=60, reject=True)
            rig.give(attrs.evolve(refusal, reject_hint=1, log_term=1))
        else:
            rig.replica.driver.requests.report_unreachable(THREE)
        await rig.settle()
        assert rig.replica.status().progress[THREE].state == ProgressState.PROBE.value
        await trio.sleep(30)
        sent = [message for message, _ in rig.take_sent(MessageType.APPEND) if message.to == THREE]
        assert len(sent) <= 1, "the probe at most"
        assert [message.index for message in sent] == [1] * len(sent)


@pytest.mark.parametrize("window", [1, 5])
async def test_no_more_wait_for_the_disk_than_may_be_under_way(window: int) -> None:
    """The window of the core bounds the queue, also for a follower that acknowledges what was never sent to it."""
    raft = default(RaftSettings, append_bytes_max=64 << 10, inflight_messages_max=window)
    async with Rig(log=SETTINGS, raft=raft).open() as rig:
        await lead_a_long_log(rig, 100)
        rig.disk.latency_seconds[Operation.READ] = 1.0
        for index in (1, 40, 80, 90):
            rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=index)
            await rig.settle()
            assert len(rig.replica.driver.followers._catch_up[THREE]) <= window
        await rig.tick()
        rig.give_response(MessageType.HEARTBEAT_RESPONSE, THREE)
        await trio.sleep(10)
        sent = [message for message, _ in rig.take_sent(MessageType.APPEND) if message.to == THREE]
        assert 90 in [message.index for message in sent], "it goes on from there"
        assert rig.replica.status().progress[THREE].match == 90


async def test_a_leader_that_is_removed_tells_first_that_its_removal_is_committed() -> None:
    """Of two nodes one stays. While it does not know that it is alone, it needs the vote of the one that has gone, for ever."""
    async with Rig(voters=(1, 2)).open() as rig, trio.open_nursery() as nursery:
        await rig.lead()
        removal = ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, ME),))
        nursery.start_soon(rig.replica.change_configuration, removal)
        await rig.settle()
        index = rig.replica.status().last_index
        rig.take_sent()
        await rig.acknowledge()
        assert not rig.replica.is_leader
        assert rig.replica.status().applied_index == index
        told = [message.commit for message, _ in rig.take_sent(MessageType.APPEND) if message.to == TWO]
        assert told == [index]
