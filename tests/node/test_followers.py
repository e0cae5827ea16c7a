"""What a leader can say of the other nodes of a group: for people, and for those who decide about membership."""

import trio

from tests.node.rig import THREE, TWO, Rig, batch_of
from trio_eventlog.raft import MessageType
from trio_eventlog.records import Acks


async def test_a_leader_knows_how_far_behind_each_follower_is_and_when_it_was_heard() -> None:
    """Node 3 has never said anything; node 2 acknowledges, and then falls silent."""
    async with Rig().open() as rig:
        assert rig.replica.followers() == {}, "nobody follows a follower"
        await rig.lead()
        followers = rig.replica.followers()
        assert set(followers) == {TWO, THREE}
        assert followers[TWO].keeps_up
        assert (followers[TWO].lag_entries, followers[TWO].last_contact_seconds) == (0, 0.0)
        assert not followers[THREE].keeps_up
        assert (followers[THREE].lag_entries, followers[THREE].last_contact_seconds) == (1, None)
        await trio.sleep(3)
        await rig.replica.propose_batch(batch_of(b"a"), Acks.NONE)
        await rig.settle()
        followers = rig.replica.followers()
        assert (followers[TWO].lag_entries, followers[TWO].last_contact_seconds) == (1, 3.0)
        await rig.acknowledge()
        followers = rig.replica.followers()
        assert (followers[TWO].lag_entries, followers[TWO].last_contact_seconds) == (0, 0.0)
        rig.give_response(MessageType.HEARTBEAT_RESPONSE, THREE)
        await rig.settle()
        assert rig.replica.followers()[THREE].last_contact_seconds == 0.0
