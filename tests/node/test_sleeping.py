"""When a replica sleeps and when it wakes, message by message. The stories are in tests/cluster/test_sleeping_groups.py."""

from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing

from tests.node.rig import ME, THREE, TWO, Rig, batch_of, data, no_op
from trio_eventlog.ids import NodeId
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.liveness import Reach
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.raft import Message, MessageType, RaftSettings, ReadMode
from trio_eventlog.records import Acks
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Operation

SLEEP_AFTER_TICKS = 4


class SleepRig(Rig):
    """With peers whose reach the test says.

    Attributes:
        asked: whom this leader has sent its last heartbeat.
        changes: each time it fell asleep (True) or woke.
    """

    def __init__(
        self, *, raft: RaftSettings | None = None, voters: Sequence[int] = (1, 2, 3), unused_ticks: int = SLEEP_AFTER_TICKS
    ) -> None:
        self.reach: dict[NodeId, Reach] = {TWO: Reach.ALIVE, THREE: Reach.ALIVE}
        self.asked: list[Message] = []
        self.changes: list[bool] = []
        self.takes_sleep = True
        super().__init__(
            driver=default(DriverSettings, sleep_after_ticks=SLEEP_AFTER_TICKS, sleep_unused_after_ticks=unused_ticks),
            raft=raft,
            voters=voters,
            peers=Peers(
                reach=lambda node_id: self.reach[node_id],
                send_sleep=lambda group_id, message: self._ask(message),
                on_sleep=lambda group_id, is_asleep: self.changes.append(is_asleep),
            ),
        )

    def _ask(self, message: Message) -> bool:
        self.asked.append(message)
        return self.takes_sleep

    @property
    def is_asleep(self) -> bool:
        return self.replica.driver.sleeping.is_asleep

    def heartbeat(self, commit: int, *, sender: NodeId = TWO, term: int = 1, sleeps: bool = False) -> None:
        message = Message(type=MessageType.HEARTBEAT, to=ME, sender=sender, term=term, commit=commit)
        self.replica.driver.receive(Received(message, (), sleeps))

    async def lead_all(self) -> None:
        await self.lead()
        await self.acknowledge(THREE)
        await trio.sleep(0.01)  # the notice of the commit index has left

    async def lead_with_two(self) -> None:
        await self.lead()
        await trio.sleep(0.01)  # the notice of the commit index has left


async def test_a_leader_sleeps_after_the_ticks_of_its_setting() -> None:
    """Not one earlier; it asks every follower, and names what they hold."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_all()
        await rig.tick(SLEEP_AFTER_TICKS - 1)
        assert rig.asked == []
        await rig.tick()
        assert rig.is_asleep
        assert sorted(message.to for message in rig.asked) == [TWO, THREE]
        assert {(message.type, message.commit, message.term) for message in rig.asked} == {(MessageType.HEARTBEAT, 1, 1)}


@pytest.mark.parametrize("use", ["proposal", "read", "read of a follower"])
async def test_a_group_that_was_never_used_sleeps_sooner(use: str) -> None:
    """Until something is proposed, or read on any node; from then on after the ticks of the setting."""
    rig = SleepRig(unused_ticks=1)
    async with rig.open():
        await rig.lead_all()
        assert not rig.is_asleep
        await rig.tick()
        assert rig.is_asleep
        async with trio.open_nursery() as nursery:
            match use:
                case "proposal":
                    nursery.start_soon(rig.replica.propose_batch, batch_of(b"x"), Acks.QUORUM)
                case "read":
                    nursery.start_soon(rig.replica.wait_linearizable)
                case "read of a follower":
                    rig.give(Message(type=MessageType.READ_INDEX, to=ME, sender=TWO, context=b"read"))
            await trio.testing.wait_all_tasks_blocked()
            assert not rig.is_asleep
            nursery.cancel_scope.cancel()
        assert rig.replica.driver.sleeping._after_ticks == SLEEP_AFTER_TICKS


async def test_a_leader_stays_awake_for_one_that_is_there_and_behind_and_not_for_one_that_is_gone() -> None:
    """A quorum has to be left: alone, it has to find out that it is no leader any more."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_with_two()  # node 3 has acknowledged nothing
        await rig.tick(3 * SLEEP_AFTER_TICKS)
        assert not rig.is_asleep
        rig.reach[THREE] = Reach.UNKNOWN
        await rig.tick(SLEEP_AFTER_TICKS)
        assert not rig.is_asleep
        rig.reach[THREE] = Reach.GONE
        rig.reach[TWO] = Reach.GONE
        await rig.tick()
        assert not rig.is_asleep
        rig.reach[TWO] = Reach.ALIVE
        await rig.tick()
        assert rig.is_asleep
        assert [message.to for message in rig.asked] == [TWO]


async def test_a_sleeping_leader_wakes_for_a_member_that_is_back_and_when_too_many_are_gone() -> None:
    """Other news of nodes are none of its business."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_all()
        rig.reach[THREE] = Reach.GONE
        await rig.tick(2 * SLEEP_AFTER_TICKS)
        assert rig.is_asleep
        rig.replica.driver.requests.peers_changed()
        await rig.settle()
        assert rig.is_asleep
        rig.reach[THREE] = Reach.ALIVE
        rig.replica.driver.requests.peers_changed()
        await rig.settle()
        assert not rig.is_asleep
        await rig.tick(2 * SLEEP_AFTER_TICKS)
        assert rig.is_asleep
        for node_id in (TWO, THREE):
            rig.reach[node_id] = Reach.GONE
            rig.replica.driver.requests.report_unreachable(node_id)
            rig.replica.driver.requests.peers_changed()
            await rig.settle()
            assert rig.is_asleep is (node_id == TWO)


async def test_late_answers_wake_no_leader_and_everything_else_does() -> None:
    """Answers to the last heartbeats may come when it sleeps already."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_all()
        await rig.tick(2 * SLEEP_AFTER_TICKS)
        assert rig.is_asleep
        rig.give_response(MessageType.HEARTBEAT_RESPONSE, TWO)
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        assert rig.is_asleep
        pre_vote = Message(type=MessageType.PRE_VOTE, to=ME, sender=THREE, term=2, index=1, log_term=1)
        rig.give(pre_vote)
        await rig.settle()
        assert not rig.is_asleep
        rig.take_sent()
        await rig.tick()
        assert len(rig.take_sent(MessageType.HEARTBEAT)) == 2, "its followers hear of it within a tick"


async def test_a_proposal_wakes_at_once() -> None:
    """Nothing waits for a tick."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_all()
        await rig.tick(2 * SLEEP_AFTER_TICKS)
        rig.take_sent()
        await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        await rig.settle()
        assert rig.changes == [True, False]
        assert len(rig.take_sent(MessageType.APPEND)) == 2


async def test_a_link_that_takes_nothing_keeps_the_leader_awake() -> None:
    """It is asked again at the next tick."""
    rig = SleepRig()
    async with rig.open():
        await rig.lead_all()
        rig.takes_sleep = False
        await rig.tick(2 * SLEEP_AFTER_TICKS)
        assert not rig.is_asleep
        rig.takes_sleep = True
        await rig.tick()
        assert rig.is_asleep


async def test_a_follower_sleeps_once_everything_is_durable_and_applied() -> None:
    """Not while its disk is at work on what the leader has named."""
    rig = SleepRig()
    async with rig.open():
        rig.disk.latency_seconds[Operation.SYNC] = 1.0
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a"), commit=2)
        rig.heartbeat(2, sleeps=True)
        await rig.settle()
        assert not rig.is_asleep
        await trio.sleep(10)
        assert rig.is_asleep
        assert rig.replica.status().applied_index == 2


async def test_a_follower_with_a_tail_that_its_leader_has_not_named_stays_awake() -> None:
    """It may have to be replaced, or committed: it has to hear more."""
    rig = SleepRig()
    async with rig.open():
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a"))
        await rig.settle()
        rig.heartbeat(1, sleeps=True)
        await rig.settle()
        assert not rig.is_asleep
        rig.give_append(TWO, 1, (1, 2), data(1, 3, 1, b"b"), commit=2)
        rig.heartbeat(2, sleeps=True)
        await rig.settle()
        assert not rig.is_asleep


async def test_any_message_wakes_a_follower_and_undoes_what_was_asked_of_it() -> None:
    """Its leader is awake, or somebody looks for one."""
    rig = SleepRig()
    async with rig.open():
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), commit=1)
        rig.heartbeat(1, sleeps=True)
        await rig.settle()
        assert rig.is_asleep
        rig.heartbeat(1)
        await rig.settle()
        assert not rig.is_asleep
        rig.heartbeat(1, sleeps=True)
        rig.give_append(TWO, 1, (1, 1), data(1, 2, 0, b"a"), commit=1)
        await rig.settle()
        assert not rig.is_asleep
        await rig.tick(25)
        assert rig.take_sent(MessageType.PRE_VOTE), "it hears nothing, and looks for a leader"


async def test_a_read_wakes_whoever_is_asked() -> None:
    """The question, or its answer, may be lost: only who is ticked asks again."""
    rig = SleepRig()
    async with rig.open(), trio.open_nursery() as nursery:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), commit=1)
        rig.heartbeat(1, sleeps=True)
        await rig.settle()
        assert rig.is_asleep
        nursery.start_soon(rig.replica.driver.reads.linearizable_index)
        await rig.settle()
        assert not rig.is_asleep
        assert rig.take_sent(MessageType.READ_INDEX)
        rig.heartbeat(1, sleeps=True)
        await rig.settle()
        assert not rig.is_asleep, "somebody waits"
        nursery.cancel_scope.cancel()


async def test_a_follower_that_has_lost_its_leader_wakes_and_may_stand_for_election_at_once() -> None:
    """Its own clock has stood still, and is not waited for."""
    rig = SleepRig()
    async with rig.open():
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), commit=1)
        rig.heartbeat(1, sleeps=True)
        await rig.settle()
        assert rig.is_asleep
        rig.take_sent()
        rig.replica.driver.requests.peer_reset(TWO)
        rig.replica.driver.requests.campaign_if_leader_lost(TWO)
        await rig.settle()
        assert not rig.is_asleep
        assert rig.take_sent(MessageType.PRE_VOTE)


async def test_with_leases_nobody_sleeps() -> None:
    """A lease is counted in ticks: a leader without any would believe in one for ever."""
    rig = SleepRig(raft=attrs.evolve(default(RaftSettings), read_mode=ReadMode.LEASE))
    async with rig.open():
        await rig.lead_all()
        await rig.tick(3 * SLEEP_AFTER_TICKS)
        assert not rig.is_asleep
