"""A shortage of descriptors that outlasts all patience, while entries are appended: they wait, and so does what depends on them."""

import logging
from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.node.rig import ME, THREE, TWO, Rig, batch_of, data, no_op
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.proposals import Appended, Proposal
from trio_eventlog.raft import MessageType
from trio_eventlog.records import Acks
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default

SMALL = default(LogSettings, segment_bytes=4096, preallocate_bytes=0, tail_cache_bytes=0)
SHORT_SECONDS = 60.0


def large(term: int, index: int, base_offset: int) -> EntryFrame:
    """Two fit a segment."""
    return data(term, index, base_offset, b"%d of term %d" % (index, term) + bytes(1600))


async def log_of(rig: Rig) -> list[tuple[int, int]]:
    log = rig.replica.log
    frames: list[EntryFrame] = []
    while len(frames) < log.last_index:
        frames += await log.read(len(frames) + 1, log.last_index, 1 << 20)
    assert all(after.base_offset == before.end_offset for before, after in pairwise(frames))
    return [(frame.term, frame.index) for frame in frames]


def acknowledged(rig: Rig) -> int:
    """The highest index that the replica has said to hold."""
    sent = rig.take_sent(MessageType.APPEND_RESPONSE)
    return max((message.index for message, _ in sent if not message.reject), default=0)


async def test_a_follower_waits_and_appends_in_order(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One append spans the roll, further ones come behind it, some of which a new leader replaces: all is written, in order."""
    async with Rig(log=SMALL).open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), large(1, 2, 0))
        await rig.settle()
        assert acknowledged(rig) == 2
        rig.disk.has_descriptors = False
        rig.give_append(TWO, 1, (1, 2), large(1, 3, 1), large(1, 4, 2), large(1, 5, 3))
        await trio.sleep(SHORT_SECONDS / 3)
        assert rig.replica.log.last_index == 3, "there was room for one of them"
        rig.give_append(TWO, 1, (1, 5), large(1, 6, 4), large(1, 7, 5), commit=2)
        await trio.sleep(SHORT_SECONDS / 3)
        rig.give_append(THREE, 2, (1, 5), large(2, 6, 4))
        await trio.sleep(SHORT_SECONDS / 3)
        rig.give_append(THREE, 2, (2, 6), large(2, 7, 5))
        await rig.settle()
        assert acknowledged(rig) < 3, "nothing of it is promised before it is durable"
        assert "no descriptors" in rig.replica.problem
        assert not rig.replica.stopped_because
        rig.disk.has_descriptors = True
        await trio.sleep(1)
        assert acknowledged(rig) == 7
        assert await log_of(rig) == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7)]
        assert not rig.replica.problem
        writer = "trio_eventlog.node.disk_writer"
        lines = [record for record in caplog.records if record.name == writer and record.levelno >= logging.WARNING]
        assert len(lines) == 1, "it is said once"
    async with Rig(rig.disk, log=SMALL).open() as rig:
        assert (await log_of(rig))[-1] == (2, 7)


async def test_a_leader_waits_and_lets_another_lead(autojump_clock: trio.testing.MockClock) -> None:
    """It answers nobody before its disk has the batch, or a quorum; what comes meanwhile waits in the queue; nothing is lost."""
    proposals: list[Proposal] = []
    async with Rig(log=SMALL, driver=default(DriverSettings, shortage_retry_seconds=2.0)).open() as rig:
        await rig.lead()

        async def propose() -> None:
            proposals.append(await rig.replica.propose_batch(batch_of(b"%d" % len(proposals) + bytes(1600)), Acks.LEADER))
            await rig.settle()

        await propose()
        await propose()
        await rig.acknowledge()
        rig.take_sent()
        rig.disk.has_descriptors = False
        await propose()
        await trio.sleep(SHORT_SECONDS / 2)
        last_index = rig.replica.status().last_index
        await propose()
        assert rig.replica.status().last_index == last_index, "a leader that can append nothing takes nothing more"
        assert not proposals[2].is_decided
        assert not rig.take_sent(MessageType.TIMEOUT_NOW), "nobody has all that the leader has"
        await rig.acknowledge()
        await trio.sleep(SHORT_SECONDS / 2)
        assert {message.to for message, _ in rig.take_sent(MessageType.TIMEOUT_NOW)} == {TWO}
        assert rig.replica.is_leader, "node 2 does not answer here"
        rig.disk.has_descriptors = True
        await trio.sleep(3)
        await rig.tick(20)  # the attempt to hand over is given up
        await rig.settle()
        assert [await proposal.outcome() for proposal in proposals] == [Appended(number, 1) for number in range(4)]
        assert rig.replica.log.last_index == last_index + 1
    async with Rig(rig.disk, log=SMALL, voters=(ME,)).open() as rig:
        assert len(await log_of(rig)) == last_index + 1


async def test_a_suffix_whose_removal_a_shortage_cuts_short_is_removed_before_anything_is_appended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The removal of a segment syncs the directory, which takes a descriptor. Its entries are forgotten by then."""
    async with Rig(log=SMALL).open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), *(large(1, index, index - 2) for index in range(2, 9)))
        await rig.settle()
        assert rig.replica.log.segment_count > 3
        rig.disk.has_descriptors = False
        rig.give_append(THREE, 2, (1, 2), no_op(2, 3, 1), large(2, 4, 1))
        await trio.sleep(SHORT_SECONDS)
        assert acknowledged(rig) < 3 or rig.replica.problem
        rig.disk.has_descriptors = True
        await trio.sleep(1)
        assert await log_of(rig) == [(1, 1), (1, 2), (2, 3), (2, 4)]
    async with Rig(rig.disk, log=SMALL).open() as rig:
        assert await log_of(rig) == [(1, 1), (1, 2), (2, 3), (2, 4)]


async def test_what_has_to_be_read_waits_too(autojump_clock: trio.testing.MockClock) -> None:
    """For a follower that is behind, and for the machine after a restart: neither ends the node."""
    small = default(LogSettings, segment_bytes=4096, preallocate_bytes=0, tail_cache_bytes=0)
    async with Rig(log=small, open_segments_max=1).open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), *(large(1, index, index - 2) for index in range(2, 9)), commit=8)
        await rig.settle()
    async with Rig(rig.disk, log=small, open_segments_max=1).open() as rig:
        await rig.settle()
        applied_index = rig.replica.status().applied_index
        rig.disk.has_descriptors = False
        rig.give_append(TWO, 1, (1, 8), commit=8)
        await trio.sleep(SHORT_SECONDS)
        assert rig.replica.status().applied_index <= applied_index
        rig.disk.has_descriptors = True
        await trio.sleep(1)
        assert rig.replica.status().applied_index == 8
        await rig.lead()
        rig.disk.has_descriptors = False
        rig.take_sent()
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=0)
        for _ in range(10):
            await trio.sleep(SHORT_SECONDS / 10)
            await rig.tick()
        rig.disk.has_descriptors = True
        await rig.tick()
        assert rig.replica.is_leader or rig.replica.leader_id == 0
