"""Entries that only a newer release knows: the replica stops applying there, says so, stores on, votes, and does not lead."""

import pytest
import trio

from tests.node.rig import ME, THREE, TWO, Rig, data, no_op
from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.errors import NotLeader, OutcomeUnknown
from trio_eventlog.raft import LEAVE_JOINT, Message, MessageType, Role, encode_change

VIRTUAL_TIME = True

NEWER = {
    "control": (EntryKind.CONTROL, b"{}"),
    "configuration": (EntryKind.CONFIGURATION, b"\x02" + encode_change(LEAVE_JOINT)[1:]),
}


def newer(kind: str, index: int, base_offset: int) -> EntryFrame:
    entry_kind, payload = NEWER[kind]
    return encode_entry(entry_kind, term=1, index=index, base_offset=base_offset, payload=payload)


@pytest.mark.parametrize("kind", NEWER)
async def test_a_follower_stops_there_stores_on_and_votes(kind: str) -> None:
    """What is before it can be read, what is behind it is durable and acknowledged; after a restart it is the same."""
    first = Rig()
    async with first.open() as rig:
        frames = (no_op(1, 1, 0), data(1, 2, 0, b"a"), newer(kind, 3, 1), data(1, 4, 1, b"b"))
        rig.give_append(TWO, 1, (0, 0), *frames, commit=4)
        await rig.settle()
        rig.give_append(TWO, 1, (1, 4), data(1, 5, 2, b"c"), commit=5)
        await rig.settle()
        assert [item.index for item, _ in rig.take_sent(MessageType.APPEND_RESPONSE)] == [4, 5]
        assert "entry 3 is of a newer release" in rig.replica.stopped_because
        assert (rig.machine.applied_index, rig.replica.watermark.value, rig.replica.log.last_index) == (2, 1, 5)
        rig.replica.driver.requests.campaign()
        await rig.tick(80)
        assert rig.take_sent(MessageType.PRE_VOTE) == []
    async with Rig(first.disk).open() as rig:
        rig.give_append(TWO, 1, (1, 5), commit=5)
        await rig.settle()
        replica = rig.replica
        assert "entry 3 is of a newer release" in replica.stopped_because
        assert (rig.machine.applied_index, replica.watermark.value, replica.log.last_index) == (2, 1, 5)
        assert [frame.record_count for frame in await replica.log.read_by_offset(0, 1, 1 << 20)] == [1]
        with pytest.raises(NotLeader, match="upgrade this node"):
            await replica.wait_applied(3)
        rig.take_sent()
        replica.driver.requests.campaign()
        await rig.tick(80)
        assert rig.take_sent(MessageType.PRE_VOTE) == []
        assert replica.status().role is Role.FOLLOWER
        rig.give(Message(type=MessageType.PRE_VOTE, to=ME, sender=THREE, term=2, log_term=1, index=5))
        await rig.settle()
        ((answer, _),) = rig.take_sent(MessageType.PRE_VOTE_RESPONSE)
        assert not answer.reject


async def test_a_leader_that_cannot_apply_leads_no_more() -> None:
    """Who waits for what is behind the entry is told that its outcome is not known; what is before was answered."""
    async with Rig().open() as rig:
        await rig.lead()
        proposal = await rig.replica.propose_control(b"{}")
        outcomes: list[type[Exception]] = []

        async def wait() -> None:
            try:
                await proposal.outcome()
            except OutcomeUnknown as error:
                outcomes.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await rig.settle()
            await rig.acknowledge()
            await rig.settle()
        assert outcomes == [OutcomeUnknown]
        assert not rig.replica.is_leader
        with pytest.raises(NotLeader):
            await rig.replica.propose_control(b"{}")
