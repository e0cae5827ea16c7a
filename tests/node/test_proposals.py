"""Proposals, their queue, and what is under way."""

import pytest
import trio
import trio.testing

from tests.node.rig import batch_of
from trio_eventlog.errors import (
    BatchTooLarge,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    ProducerFenced,
    ShuttingDown,
)
from trio_eventlog.machine.producers import ProducerTable, Remembered
from trio_eventlog.node.proposals import Appended, Proposal, ProposalQueue, ProposalsUnderWay
from trio_eventlog.records import Acks


def proposal(size_bytes: int = 1, acks: Acks = Acks.QUORUM) -> Proposal:
    return Proposal(b"", acks, size_bytes)


def under_way(index: int, *, producer_id: int = 9, base_sequence: int = 0, epoch: int = 0, count: int = 1) -> Proposal:
    batch = batch_of(*[b"x"] * count, producer_id=producer_id, base_sequence=base_sequence, epoch=epoch)
    made = Proposal(batch, Acks.QUORUM, 1)
    made.index, made.term = index, 1
    return made


class TestProposal:
    async def test_the_first_decision_counts(self) -> None:
        """Acknowledged by the leader, then lost with it: who was answered stays answered."""
        one = proposal(acks=Acks.LEADER)
        one.reach(Acks.LEADER, Appended(3, 1))
        one.fail(OutcomeUnknown("too late"))
        assert await one.outcome() == Appended(3, 1)

    @pytest.mark.parametrize("asked", list(Acks))
    def test_it_is_decided_at_the_level_asked_for(self, asked: Acks) -> None:
        """NONE, then LEADER, then QUORUM: each answers those who asked for no more."""
        one = proposal(acks=asked)
        decided = []
        for level in (Acks.NONE, Acks.LEADER, Acks.QUORUM):
            one.reach(level, Appended(0, 1))
            decided.append(one.is_decided)
        assert decided == [asked >= level for level in (Acks.NONE, Acks.LEADER, Acks.QUORUM)]

    async def test_who_follows_gets_the_same_answer_as_a_repetition(self) -> None:
        """Before and after the original was answered, each at its own level."""
        original = proposal(acks=Acks.NONE)
        early, late, weak = proposal(), proposal(), proposal(acks=Acks.LEADER)
        early.follow(original)
        original.reach(Acks.NONE, Appended(0, 1))
        original.reach(Acks.LEADER, Appended(7, 1))
        weak.follow(original)
        assert weak.is_decided
        late.follow(original)
        assert not early.is_decided
        assert not late.is_decided
        original.resolve(Appended(7, 1))
        for one in (early, late, weak):
            assert await one.outcome() == Appended(7, 1, duplicate=True)

    async def test_who_follows_shares_the_failure(self) -> None:
        original, follower = proposal(), proposal()
        follower.follow(original)
        original.fail(NotLeader("gone"))
        with pytest.raises(NotLeader):
            await follower.outcome()

    def test_a_weaker_level_comes_too_late(self) -> None:
        """The order in which disk and quorum answer does not matter."""
        one, follower = proposal(acks=Acks.LEADER), proposal()
        one.resolve(Appended(1, 1))
        one.reach(Acks.LEADER, Appended(1, 1))
        follower.follow(one)
        assert follower.is_decided


class TestQueue:
    def queue(self, max_bytes: int = 10, max_proposals: int = 100) -> ProposalQueue:
        self.woken = 0

        def wake() -> None:
            self.woken += 1

        return ProposalQueue(max_bytes, max_proposals, wake)

    async def test_bytes_at_the_limit_and_above(self) -> None:
        """Ten bytes are ten bytes; the eleventh waits; more than the whole queue is refused."""
        queue = self.queue(10)
        for _ in range(10):
            with trio.fail_after(1):
                await queue.put(proposal(1))
        assert (len(queue), queue.queued_bytes, self.woken) == (10, 10, 10)
        with trio.move_on_after(1) as scope:
            await queue.put(proposal(1))
        assert scope.cancelled_caught
        assert (len(queue), queue.waiting) == (10, 0), "a cancelled producer leaves nothing behind"
        with pytest.raises(BatchTooLarge) as caught:
            await queue.put(proposal(11))
        assert caught.value.limit_bytes == 10

    async def test_the_number_at_the_limit(self) -> None:
        """Empty proposals count as well."""
        queue = self.queue(10, 3)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(queue.put, proposal(0))
            await trio.testing.wait_all_tasks_blocked()
            assert (len(queue), queue.waiting) == (3, 1)
            queue.take()
            await trio.testing.wait_all_tasks_blocked()
            assert (len(queue), queue.waiting) == (3, 0)

    async def test_first_come_first_served(self) -> None:
        """A large one that waits is not overtaken by small ones that would fit."""
        queue = self.queue(10)
        await queue.put(proposal(6))
        order: list[int] = []

        async def put(size_bytes: int) -> None:
            await queue.put(proposal(size_bytes))
            order.append(size_bytes)

        async with trio.open_nursery() as nursery:
            for size_bytes in (9, 1, 2):
                nursery.start_soon(put, size_bytes)
                await trio.testing.wait_all_tasks_blocked()
            assert order == []
            assert queue.take().size_bytes == 6
            await trio.testing.wait_all_tasks_blocked()
            assert order == [9, 1] or order == [1, 9], "both were let in together"
            assert [queue.take().size_bytes for _ in range(2)] == [9, 1]
        assert queue.take().size_bytes == 2

    async def test_a_cancelled_one_lets_those_behind_it_go(self) -> None:
        queue = self.queue(10)
        await queue.put(proposal(6))
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1):
                nursery.start_soon(trio.sleep, 0)
                async with trio.open_nursery() as inner:
                    inner.start_soon(queue.put, proposal(9))
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(queue.put, proposal(2))
        assert (queue.queued_bytes, queue.waiting) == (8, 0)

    async def test_closing_fails_what_is_queued_what_waits_and_what_comes(self) -> None:
        queue = self.queue(1)
        proposals = [proposal(1) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for one in proposals[:2]:
                nursery.start_soon(queue.put, one)
            await trio.testing.wait_all_tasks_blocked()
            queue.close(ShuttingDown("closed"))
        for one in proposals[:2]:
            with pytest.raises(ShuttingDown):
                await one.outcome()
        with pytest.raises(ShuttingDown):
            await queue.put(proposals[2])

    async def test_putting_with_room_yields_to_nobody_and_can_be_cancelled(self) -> None:
        queue = self.queue(10)
        others = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(record_run, others)
            await queue.put(proposal(1))
            assert not others
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.put(proposal(1))
        assert scope.cancelled_caught
        assert len(queue) == 1, "what is cancelled was not queued"


async def record_run(runs: list[None]) -> None:
    runs.append(None)


class TestUnderWay:
    def test_a_repetition_is_found_by_producer_epoch_and_sequence(self) -> None:
        known = ProposalsUnderWay()
        first = under_way(1)
        known.add(first)
        table = ProducerTable(5, 10)
        assert isinstance(first.payload, type(batch_of(b"x")))
        assert known.find(first.payload, table) is first
        assert known.find(batch_of(b"y", producer_id=9, base_sequence=1), table) is None
        with pytest.raises(OutOfOrderSequence) as caught:
            known.find(batch_of(b"y", producer_id=9, base_sequence=2), table)
        assert caught.value.expected_sequence == 1
        assert known.find(batch_of(b"y"), table) is None, "without a producer id nothing is compared"

    def test_a_repetition_of_an_applied_batch_while_later_ones_are_under_way(self) -> None:
        table = ProducerTable(5, 10)
        table.record(9, 0, Remembered(0, 2, 100))
        known = ProposalsUnderWay()
        known.add(under_way(5, base_sequence=2))
        assert known.find(batch_of(b"a", b"b", producer_id=9, base_sequence=0), table) == Remembered(0, 2, 100)

    def test_two_epochs_at_the_same_sequence(self) -> None:
        """The second producer begins anew at 0 while the first one's batch is still under way: both come to their end."""
        known = ProposalsUnderWay()
        old, new = under_way(1, epoch=0), under_way(2, epoch=1)
        known.add(old)
        known.add(new)
        table = ProducerTable(5, 10)
        assert known.find(batch_of(b"x", producer_id=9, epoch=1), table) is new
        with pytest.raises(ProducerFenced):
            known.find(batch_of(b"x", producer_id=9, epoch=0), table)
        assert known.pop(1) is old
        assert known.pop(2) is new
        assert len(known) == 0
        assert known.find(batch_of(b"x", producer_id=9, epoch=0), table) is None

    async def test_what_is_above_an_index_is_abandoned(self) -> None:
        known = ProposalsUnderWay()
        proposals = [under_way(index, producer_id=index) for index in (1, 2, 3)]
        for one in proposals:
            known.add(one)
        known.abandon_above(1, "leadership was lost")
        assert [one.is_decided for one in proposals] == [False, True, True]
        with pytest.raises(OutcomeUnknown, match="repeat the batch"):
            await proposals[1].outcome()
        assert known.get(1) is proposals[0]
        assert known.pop(2) is None


def test_new_producers_on_their_way_take_room() -> None:
    """Before they are applied: several that come at once would together push out one that may still repeat a batch."""
    table = ProducerTable(window_batches=5, producers_max=3)
    table.record(1, 0, Remembered(0, 1, 0))
    proposals = ProposalsUnderWay(settled=lambda: 0)
    for index, producer_id in ((2, 12), (3, 13)):
        assert proposals.find(batch_of(b"x", producer_id=producer_id), table) is None
        proposals.add(under_way(index, producer_id=producer_id), table)
    with pytest.raises(Overloaded):
        proposals.find(batch_of(b"x", producer_id=14), table)
    # Those that are known, or on their way, are not new.
    assert proposals.find(batch_of(b"x", producer_id=1, base_sequence=1), table) is None
    assert proposals.find(batch_of(b"x", producer_id=13, base_sequence=1), table) is None
    # One that was abandoned takes none any more.
    proposals.pop(3)
    assert proposals.find(batch_of(b"x", producer_id=14), table) is None
