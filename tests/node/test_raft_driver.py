"""The driver between a core, a disk and the links: what leaves when, and what must not get mixed up."""

import random
from itertools import product

import attrs
import pytest
import trio
import trio.testing

from tests.node.rig import ME, THREE, TWO, Rig, batch_of, data, no_op
from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.errors import NotLeader, OutcomeUnknown, OutOfOrderSequence, ShuttingDown, TopicNotFound
from trio_eventlog.ids import NodeId
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.proposals import Appended
from trio_eventlog.raft import (
    ChangeKind,
    Configuration,
    ConfigurationChange,
    EntryKind,
    Message,
    MessageType,
    NodeChange,
    RaftSettings,
    SnapshotMetadata,
    encode_change,
)
from trio_eventlog.records import Acks
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Operation, SimDisk


async def test_replies_leave_after_the_disk_has_what_they_promise() -> None:
    """A follower's acknowledgement of an APPEND waits for its fsync, and so does a vote."""
    rig = Rig()
    rig.disk.latency_seconds[Operation.SYNC] = 1.0
    async with rig.open():
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a"))
        await rig.settle()
        assert rig.take_sent() == []
        await trio.sleep(10)
        ((reply, _),) = rig.take_sent(MessageType.APPEND_RESPONSE)
        assert (reply.index, reply.reject) == (2, False)
        assert rig.replica.log.last_index == 2
        rig.give(Message(type=MessageType.VOTE, to=ME, sender=THREE, term=2, log_term=1, index=2))
        await rig.tick(20)  # out of the lease
        rig.take_sent()
        rig.give(Message(type=MessageType.VOTE, to=ME, sender=THREE, term=5, log_term=1, index=2))
        await rig.settle()
        assert rig.take_sent() == []
        await trio.sleep(10)
        ((vote, _),) = rig.take_sent(MessageType.VOTE_RESPONSE)
        assert not vote.reject


async def test_a_late_append_of_an_old_term_does_not_lend_its_bytes_to_the_new_one() -> None:
    """Both leaders' entries of one index arrive in one turn, the older last: the log holds the newer leader's bytes."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        await rig.settle()
        rig.give_append(THREE, 3, (1, 1), data(3, 2, 0, b"new"), commit=2)
        rig.give_append(TWO, 1, (1, 1), data(1, 2, 0, b"old"))
        await rig.settle()
        (frame,) = await rig.replica.log.read(2, 2, 1 << 20)
        assert frame.term == 3
        assert b"new" in bytes(frame.payload)
        assert rig.replica.watermark.value == 1


@pytest.mark.parametrize(
    ("mode", "seed"), [(CrashMode.LOSE, 1), (CrashMode.KEEP, 1), *((CrashMode.DRAW, seed) for seed in range(9))]
)
async def test_a_crash_amid_the_replacing_of_a_suffix_commits_nothing_that_was_replaced(mode: CrashMode, seed: int) -> None:
    """The commit index of a new leader is about its own entries: it must not become durable before they are.

    Hard state and entries go to different files. With the commit index in the first and the crash before the second, the node
    would wake up with its old entries committed.
    """
    disk = SimDisk(random.Random(seed))
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is the life of the machine
        async with Rig(disk).open() as rig:
            rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"lost"), data(1, 3, 1, b"lost too"))
            await rig.settle()
            assert rig.replica.log.last_index == 3
            disk.latency_seconds[Operation.SYNC] = 1.0
            rig.give_append(THREE, 2, (1, 1), data(2, 2, 0, b"kept"), data(2, 3, 1, b"kept too"), commit=3)
            # The hard state takes one fsync; the removal of the suffix has just begun.
            await trio.sleep(1.5)
            disk = disk.crash(mode)
            await trio.sleep(10)
    assert caught.group_contains(DiskCrashed)
    disk.latency_seconds.clear()
    async with Rig(disk).open() as rig:
        await rig.settle()
        state = rig.replica.status()
        assert state.hard_state.term == 2, "the hard state was durable"
        if mode is CrashMode.LOSE:
            assert state.last_index == 3
            assert rig.replica.log.term(3) == 1, "the suffix was not replaced yet"
        assert all(rig.replica.log.term(index) == 2 for index in range(2, state.hard_state.commit + 1))
        assert rig.replica.watermark.value <= max(0, state.hard_state.commit - 1)


@pytest.mark.parametrize("mode", CrashMode)
async def test_a_configuration_change_is_durable_only_after_what_it_says_is_committed(mode: CrashMode) -> None:
    """Two changes come in one APPEND, the first of them committed. Whenever the power fails: with the second in the log, the first
    is known to be committed. Otherwise the node could campaign in a configuration two changes old.
    """
    learn, promote = (
        encode_change(ConfigurationChange(changes=(NodeChange(kind, NodeId(4)),)))
        for kind in (ChangeKind.ADD_LEARNER, ChangeKind.ADD_VOTER)
    )
    frames = (
        no_op(1, 1, 0),
        encode_entry(EntryKind.CONFIGURATION, term=1, index=2, base_offset=0, payload=learn),
        data(1, 3, 0, b"a"),
        encode_entry(EntryKind.CONFIGURATION, term=1, index=4, base_offset=1, payload=promote),
    )
    seen = set()
    for fsyncs, seed in product(range(12), range(4 if mode is CrashMode.DRAW else 1)):
        disk = SimDisk(random.Random(seed))
        with pytest.raises(ExceptionGroup):  # noqa: PT012 - the block is the life of the machine
            async with Rig(disk).open() as rig:
                disk.latency_seconds[Operation.SYNC] = 1.0
                rig.give_append(TWO, 1, (0, 0), *frames, commit=3)
                await trio.sleep(fsyncs + 0.5)
                disk = disk.crash(mode)
                # Should it have nothing left to write, this is what shows it that its disk is gone.
                rig.give_append(TWO, 1, (1, 4), data(1, 5, 1, b"b"))
                await trio.sleep(10)
        disk.latency_seconds.clear()
        async with Rig(disk).open() as rig:
            status = rig.replica.status()
            seen.add(status.last_index)
            assert status.last_index < 4 or status.hard_state.commit >= 2, f"after {fsyncs} fsyncs"
    assert {0, 4} <= seen, "some crashes came before the entries, and some after them"


async def test_repetition_of_a_batch_that_is_under_way_is_answered_as_safely_as_it_asks() -> None:
    """The first asks for nothing (acks none) and is answered at once; its repetition asks for a quorum and gets it, with the
    offset."""
    async with Rig().open() as rig:
        await rig.lead()
        rig.take_sent()
        again = batch_of(b"a", b"b", producer_id=9, base_sequence=0)
        first = await rig.replica.propose_batch(again, Acks.NONE)
        await rig.settle()
        assert await first.outcome() == Appended(0, 2)
        by_leader = await rig.replica.propose_batch(again, Acks.LEADER)
        by_quorum = await rig.replica.propose_batch(again, Acks.QUORUM)
        await rig.settle()
        assert await by_leader.outcome() == Appended(0, 2, duplicate=True)
        assert not by_quorum.is_decided
        await rig.acknowledge()
        assert await by_quorum.outcome() == Appended(0, 2, duplicate=True)
        assert rig.replica.log.log_end_offset == 2


async def test_proposals_wait_while_the_uncommitted_window_is_full() -> None:
    """Nothing is refused: the queue fills, then producers wait, and all of it goes on when the quorum answers."""
    batch = batch_of(bytes(1000))
    raft = default(RaftSettings, uncommitted_bytes_max=2500)
    driver = default(DriverSettings, proposal_bytes_max=2500)
    async with Rig(raft=raft, driver=driver).open() as rig, trio.open_nursery() as nursery:
        await rig.lead()
        done: list[int] = []

        async def produce() -> None:
            proposal = await rig.replica.propose_batch(batch, Acks.QUORUM)
            result = await proposal.outcome()
            assert isinstance(result, Appended)
            done.append(result.base_offset)

        for _ in range(7):
            nursery.start_soon(produce)
        await rig.settle()
        assert rig.replica.status().last_index == 3, "two fit the window"
        for end in (2, 4, 6):
            await rig.acknowledge()
            assert sorted(done) == list(range(end))
        await rig.acknowledge()
        assert sorted(done) == list(range(7))


async def test_proposals_wait_while_too_many_are_under_way() -> None:
    """`proposals_in_flight_max` is a bound on the answers that are owed; what is above it waits in the queue."""
    async with Rig(driver=default(DriverSettings, proposals_in_flight_max=3)).open() as rig:
        await rig.lead()
        proposals = [await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM) for _ in range(4)]
        await rig.settle()
        assert rig.replica.status().last_index == 1 + 3
        await rig.acknowledge()
        assert [proposal.is_decided for proposal in proposals] == [True, True, True, False]
        await rig.acknowledge()
        assert proposals[3].is_decided


async def test_proposals_wait_while_leadership_is_handed_over() -> None:
    """They are neither appended, which would put the hand-over off, nor refused; when it has failed they go on here."""
    async with Rig().open() as rig:
        await rig.lead()
        rig.replica.driver.requests.transfer_leadership(THREE)
        await rig.settle()
        proposal = await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        await rig.settle()
        assert rig.replica.status().last_index == 1
        rig.give_response(MessageType.APPEND_RESPONSE, TWO, index=1)
        for _ in range(10):
            rig.give_response(MessageType.HEARTBEAT_RESPONSE, TWO)
            await rig.tick()
        assert rig.replica.status().lead_transferee == 0
        assert rig.replica.status().last_index == 2
        await rig.acknowledge()
        assert await proposal.outcome() == Appended(0, 1)


async def test_lost_leadership_leaves_the_outcome_open_until_the_log_tells() -> None:
    """A batch under way when another leads: its outcome is unknown. One still queued was never taken."""
    raft = default(RaftSettings, uncommitted_bytes_max=100)
    async with Rig(raft=raft).open() as rig:
        await rig.lead()
        under_way = await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        queued = await rig.replica.propose_batch(batch_of(b"y"), Acks.QUORUM)
        await rig.settle()
        rig.give_append(THREE, rig.term + 1, (1, 1), no_op(rig.term + 1, 2, 0), commit=1)
        await rig.settle()
        with pytest.raises(OutcomeUnknown):
            await under_way.outcome()
        with pytest.raises(NotLeader) as caught:
            await queued.outcome()
        assert caught.value.leader_id == THREE


async def test_a_batch_whose_place_went_to_another_entry_is_known_not_to_be_in_the_log() -> None:
    """The news of the new leader and of the commit come together: then it is certain, and NotLeader says "not taken"."""
    async with Rig().open() as rig:
        await rig.lead()
        proposal = await rig.replica.propose_batch(batch_of(b"x"), Acks.QUORUM)
        await rig.settle()
        rig.give_append(THREE, rig.term + 1, (1, 1), no_op(rig.term + 1, 2, 0), commit=2)
        await rig.settle()
        with pytest.raises(NotLeader):
            await proposal.outcome()


async def test_linearizable_reads_are_asked_for_again_when_the_leader_changes() -> None:
    """A question is lost with its leader; the next leader is asked, and only its answer counts."""
    async with Rig().open() as rig, trio.open_nursery() as nursery:
        indexes: list[int] = []

        async def read() -> None:
            indexes.append(await rig.replica.driver.reads.linearizable_index())

        nursery.start_soon(read)
        nursery.start_soon(read)
        await rig.settle()
        assert rig.take_sent(MessageType.READ_INDEX) == [], "nobody to ask"
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        await rig.settle()
        ((first, _),) = rig.take_sent(MessageType.READ_INDEX)
        assert first.to == TWO, "one question for both"
        rig.give_append(THREE, 2, (1, 1), no_op(2, 2, 0))
        await rig.settle()
        ((second, _),) = rig.take_sent(MessageType.READ_INDEX)
        assert second.to == THREE
        rig.give(Message(type=MessageType.READ_INDEX_RESPONSE, to=ME, sender=THREE, term=2, index=1, context=first.context))
        await rig.settle()
        assert indexes == []
        rig.give(Message(type=MessageType.READ_INDEX_RESPONSE, to=ME, sender=THREE, term=2, index=2, context=second.context))
        await rig.settle()
        assert indexes == [2, 2]


async def test_a_linearizable_read_waits_until_the_machine_is_there() -> None:
    """The leader answers with an index that this node does not have yet."""
    async with Rig().open() as rig, trio.open_nursery() as nursery:
        done = trio.Event()

        async def read() -> None:
            await rig.replica.wait_linearizable()
            done.set()

        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), commit=1)
        nursery.start_soon(read)
        await rig.settle()
        ((question, _),) = rig.take_sent(MessageType.READ_INDEX)
        rig.give(Message(type=MessageType.READ_INDEX_RESPONSE, to=ME, sender=TWO, term=1, index=3, context=question.context))
        await rig.settle()
        rig.give_append(TWO, 1, (1, 1), data(1, 2, 0, b"a"), data(1, 3, 1, b"b"), commit=2)
        await rig.settle()
        assert not done.is_set()
        rig.give_append(TWO, 1, (1, 3), commit=3)
        await rig.settle()
        assert done.is_set()


async def test_acks_leader_waits_for_the_leader_s_disk() -> None:
    """Not for the followers; and acks none waits for nothing."""
    rig = Rig()
    async with rig.open():
        await rig.lead()
        rig.disk.latency_seconds[Operation.SYNC] = 1.0
        proposals = {acks: await rig.replica.propose_batch(batch_of(b"x"), acks) for acks in Acks}
        await rig.settle()
        assert [acks for acks, one in proposals.items() if one.is_decided] == [Acks.NONE]
        await trio.sleep(10)
        assert [acks for acks, one in proposals.items() if one.is_decided] == [Acks.LEADER, Acks.NONE]
        await rig.acknowledge()
        assert proposals[Acks.QUORUM].is_decided


async def test_what_a_deposed_leader_reads_for_a_follower_is_not_sent_under_its_old_term() -> None:
    """Other entries stand there by the time the disk answers: those of the next leader."""
    async with Rig(log=default(LogSettings, preallocate_bytes=0, tail_cache_bytes=1, segment_bytes=2500)).open() as rig:
        await rig.lead()
        for _ in range(6):
            await rig.replica.propose_batch(batch_of(bytes(1000)), Acks.QUORUM)
            await rig.settle()
        rig.take_sent()
        # The first read takes longer than everything after it.
        delays = iter([5.0])
        rig.disk.latency_seconds[Operation.READ] = lambda: next(delays, 0.01)
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        term = rig.term + 1
        theirs = [no_op(term, 2, 0), *(data(term, index, index - 3, b"theirs") for index in range(3, 9))]
        rig.give_append(TWO, term, (1, 1), *theirs, commit=1)
        await trio.sleep(30)
        assert [message for message, _ in rig.take_sent(MessageType.APPEND)] == []
        assert rig.replica.log.last_index == 8


async def test_a_lost_read_is_asked_for_again_after_some_ticks() -> None:
    """The links may lose the question or the answer without anybody noticing."""
    async with Rig(driver=default(DriverSettings, read_retry_ticks=3)).open() as rig, trio.open_nursery() as nursery:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        await rig.settle()
        rig.links_are_up = False
        nursery.start_soon(rig.replica.driver.reads.linearizable_index)
        await rig.settle()
        rig.links_are_up = True
        assert rig.take_sent(MessageType.READ_INDEX) == []
        await rig.tick(3)
        assert len(rig.take_sent(MessageType.READ_INDEX)) == 1
        nursery.cancel_scope.cancel()


async def linearizable(rig: Rig, answers: list[int]) -> None:
    answers.append(await rig.replica.driver.reads.linearizable_index())


@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_an_answer_to_any_question_of_a_read_will_do(answered: int) -> None:
    """The way to the leader and back takes longer than the time after which the question is repeated."""
    async with Rig().open() as rig, trio.open_nursery() as nursery:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        answers: list[int] = []
        nursery.start_soon(linearizable, rig, answers)
        await rig.settle()
        questions = [message for message, _ in rig.take_sent(MessageType.READ_INDEX)]
        while len(questions) < 3:
            await rig.tick()
            questions += [message for message, _ in rig.take_sent(MessageType.READ_INDEX)]
            rig.give_append(TWO, 1, (1, 1))
        for context in (questions[answered].context, *(question.context for question in questions)):
            rig.give(Message(type=MessageType.READ_INDEX_RESPONSE, to=ME, sender=TWO, term=1, index=1, context=context))
        await rig.settle()
        assert answers == [1]
        assert not rig.replica.driver.reads._questions


async def test_questions_are_repeated_less_and_less_often_and_only_the_last_few_count() -> None:
    """With silence twice as long each time, up to a bound; then the next read begins with what the last answer took."""
    driver = default(DriverSettings, read_retry_ticks=2, read_retry_ticks_max=12, read_questions_max=3)
    async with Rig(driver=driver).open() as rig, trio.open_nursery() as nursery:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        answers: list[int] = []
        asked_at: list[int] = []
        contexts: list[bytes] = []

        async def listen(ticks: int) -> None:
            for tick in range(ticks):
                rig.give_append(TWO, 1, (1, 1))
                for message, _ in rig.take_sent(MessageType.READ_INDEX):
                    asked_at.append(tick)
                    contexts.append(message.context)
                await rig.tick()
                assert len(rig.replica.driver.reads._questions) <= 3

        def answer(context: bytes) -> None:
            rig.give(Message(type=MessageType.READ_INDEX_RESPONSE, to=ME, sender=TWO, term=1, index=1, context=context))

        nursery.start_soon(linearizable, rig, answers)
        await rig.settle()
        await listen(52)
        assert asked_at == [0, 2, 6, 14, 26, 38, 50]
        answer(contexts[-4])
        await rig.settle()
        assert answers == [], "the fourth last was given up"
        answer(contexts[-3])
        await rig.settle()
        assert answers == [1]
        nursery.start_soon(linearizable, rig, answers)
        nursery.start_soon(linearizable, rig, answers)
        await rig.settle()
        asked_at.clear()
        await listen(14)
        assert asked_at == [0, 12], "one question for both"
        answer(contexts[-2])
        await rig.settle()
        assert answers == [1, 1, 1]
        assert not rig.replica.driver.reads._questions


async def test_nobody_asks_for_a_read_that_nobody_waits_for_any_more() -> None:
    """Cancelled readers leave nothing behind, asked or not."""
    async with Rig(driver=default(DriverSettings, read_retry_ticks=1)).open() as rig:
        for _ in range(3):
            with trio.move_on_after(1):
                await rig.replica.driver.reads.linearizable_index()
            rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
            await rig.settle()
            rig.take_sent()
            await rig.tick(3)
            assert rig.take_sent(MessageType.READ_INDEX) == []


async def test_reads_of_two_lives_of_a_node_are_told_apart() -> None:
    """An answer to a question of before a restart must not answer the first question after it."""
    contexts = []
    for seed in (1, 2):
        rig = Rig(seed=seed)
        async with rig.open(), trio.open_nursery() as nursery:
            rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
            nursery.start_soon(rig.replica.driver.reads.linearizable_index)
            await rig.settle()
            ((question, _),) = rig.take_sent(MessageType.READ_INDEX)
            contexts.append(question.context)
            nursery.cancel_scope.cancel()
    assert contexts[0] != contexts[1]


async def test_a_leader_refuses_only_what_it_surely_knows() -> None:
    """A leader that was replaced unnoticed lacks batches: it must not tell a producer that one of them is missing."""
    async with Rig().open() as rig:
        await rig.lead()
        proposal = await rig.replica.propose_batch(batch_of(b"b", producer_id=9, base_sequence=0), Acks.QUORUM)
        await rig.settle()
        await rig.acknowledge()
        await proposal.outcome()
        rig.take_sent()
        for is_deposed in (False, True):
            gap = await rig.replica.propose_batch(batch_of(b"x", producer_id=9, base_sequence=5), Acks.QUORUM)
            await rig.settle()
            assert not gap.is_decided
            (heartbeat, *_) = [message for message, _ in rig.take_sent(MessageType.HEARTBEAT) if message.to == TWO]
            if is_deposed:
                rig.give_append(THREE, rig.term + 1, (rig.term, 2), no_op(rig.term + 1, 3, 1))
                await rig.settle()
                with pytest.raises(NotLeader):
                    await gap.outcome()
            else:
                response = Message(type=MessageType.HEARTBEAT_RESPONSE, to=ME, sender=TWO, term=rig.term, context=heartbeat.context)
                rig.give(response)
                await rig.settle()
                with pytest.raises(OutOfOrderSequence):
                    await gap.outcome()


async def test_entries_that_do_not_continue_the_offsets_are_refused() -> None:
    """A peer whose offsets are wrong costs a message, not the node; the right entries are taken afterwards."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a", b"b"))
        await rig.settle()
        rig.take_sent()
        rig.give_append(TWO, 1, (1, 2), data(1, 3, 1, b"c"))
        await rig.settle()
        assert rig.take_sent(MessageType.APPEND_RESPONSE) == []
        assert rig.replica.driver.statistics().protocol_errors == 1
        rig.give_append(TWO, 1, (1, 2), data(1, 3, 2, b"c"))
        await rig.settle()
        assert rig.replica.log.log_end_offset == 3
        assert rig.replica.driver.statistics().protocol_errors == 1


async def test_the_first_entry_of_all_begins_at_offset_0() -> None:
    """There is no entry before it to compare with."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), data(1, 1, 5, b"a"))
        await rig.settle()
        assert rig.replica.driver.statistics().protocol_errors == 1
        assert rig.replica.log.last_index == 0


async def test_a_conflict_is_answered_whatever_its_offsets_are() -> None:
    """Other entries have other offsets: a leader that probes must hear where the logs part."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a", b"b"))
        await rig.settle()
        rig.take_sent()
        rig.give_append(THREE, 3, (2, 2), data(3, 3, 7, b"c"))
        await rig.settle()
        ((reply, _),) = rig.take_sent(MessageType.APPEND_RESPONSE)
        assert reply.reject
        assert reply.reject_hint == 2 or reply.reject_hint == 1


def snapshot_message(rig: Rig, index: int, term: int = 1, configuration: Configuration | None = None) -> Message:
    snapshot = SnapshotMetadata(index=index, term=1, configuration=configuration or Configuration(voters=rig.voters))
    return Message(type=MessageType.SNAPSHOT, to=ME, sender=TWO, term=term, snapshot=snapshot)


async def test_a_snapshot_whose_files_are_not_here_is_handed_on() -> None:
    """The replica stays as it is."""
    async with Rig().open() as rig:
        message = snapshot_message(rig, 5)
        rig.give(message)
        await rig.settle()
        assert rig.offered == [message]
        assert rig.replica.status().last_index == 0
        assert rig.take_sent(MessageType.APPEND_RESPONSE) == []


async def test_a_snapshot_that_the_log_has_reached_is_answered() -> None:
    """So the leader goes on from there. Also one that is behind the commit index."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a"), data(1, 3, 1, b"b"), commit=1)
        await rig.settle()
        rig.take_sent()
        for index, answer in ((2, 2), (1, 2), (3, 3)):
            rig.give(snapshot_message(rig, index))
            await rig.settle()
            assert [reply.index for reply, _ in rig.take_sent(MessageType.APPEND_RESPONSE)] == [answer]
        assert rig.offered == []


async def test_snapshots_that_cannot_be_right_are_not_handed_on() -> None:
    """Without this node, of an older term, without voters, from a second leader of the term."""
    async with Rig().open() as rig:
        rig.give_append(THREE, 2, (0, 0), no_op(2, 1, 0))
        await rig.settle()
        rig.give(snapshot_message(rig, 5, term=1))
        rig.give(snapshot_message(rig, 5, term=3, configuration=Configuration(voters=frozenset({TWO, THREE}))))
        rig.give(snapshot_message(rig, 5, term=4, configuration=Configuration(voters=frozenset())))
        await rig.settle()
        rig.give(snapshot_message(rig, 0, term=5))
        await rig.settle()
        assert rig.offered == []
        assert rig.replica.driver.statistics().protocol_errors == 2


async def test_a_follower_far_behind_is_served_from_the_disk_in_order() -> None:
    """What the tail cache has dropped is read back, and what is appended meanwhile is sent behind it."""
    async with Rig(log=default(LogSettings, preallocate_bytes=0, tail_cache_bytes=3000), voters=(1, 2, 3)).open() as rig:
        await rig.lead()
        for _ in range(20):
            await rig.replica.propose_batch(batch_of(bytes(1000)), Acks.QUORUM)
            await rig.settle()
            await rig.acknowledge()
        rig.take_sent()
        # Node 3 answers for the first time: it has the first entry.
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        for _ in range(30):
            sent = [item for item in rig.take_sent(MessageType.APPEND) if item[0].to == THREE]
            for message, frames in sent:
                assert [frame.index for frame in frames] == list(range(message.index + 1, message.last_index + 1))
                rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=message.last_index)
            await rig.settle()
        assert rig.replica.status().progress[THREE].match == 21


async def test_a_leader_deposed_while_it_reads_for_a_follower_lives_on() -> None:
    """The suffix that was to be sent is gone when the disk answers: nothing is sent, and nothing breaks."""
    async with Rig(log=default(LogSettings, preallocate_bytes=0, tail_cache_bytes=1, segment_bytes=2500)).open() as rig:
        await rig.lead()
        for _ in range(6):
            await rig.replica.propose_batch(batch_of(bytes(1000)), Acks.QUORUM)
            await rig.settle()
        assert rig.replica.log.last_index == 7
        rig.take_sent()
        rig.disk.latency_seconds[Operation.READ] = 1.0
        rig.give_response(MessageType.APPEND_RESPONSE, THREE, index=1)
        await rig.settle()
        rig.give_append(TWO, rig.term + 1, (1, 1), no_op(rig.term + 1, 2, 0), commit=1)
        await trio.sleep(30)
        assert [message for message, _ in rig.take_sent(MessageType.APPEND)] == []
        assert rig.replica.log.last_index == 2


async def test_everybody_who_waits_is_told_that_the_replica_is_closed() -> None:
    """Proposals queued and under way, reads, waits for offsets, indexes and leaders: all get the given error, nobody hangs."""
    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        raft = default(RaftSettings, uncommitted_bytes_max=10)
        async with Rig(raft=raft, driver=default(DriverSettings, proposal_bytes_max=200)).open() as rig:
            await rig.lead()
            replica = rig.replica

            async def expect(*waits: object) -> None:
                try:
                    await replica.driver.reads.linearizable_index() if waits == ("read",) else None
                    await replica.wait_readable(100) if waits == ("offset",) else None
                    await replica.wait_applied(100) if waits == ("index",) else None
                    await replica.wait_leader_other_than(ME) if waits == ("leader",) else None
                    if waits == ("batch",):
                        await (await replica.propose_batch(batch_of(bytes(100)), Acks.QUORUM)).outcome()
                except (TopicNotFound, ShuttingDown) as error:
                    errors.append(error)

            for what in ("read", "offset", "index", "leader", "batch", "batch", "batch"):
                nursery.start_soon(expect, what)
            await rig.settle()
            assert errors == []
            replica.close(TopicNotFound("it was deleted"))
    assert len(errors) == 7
    assert all(isinstance(error, TopicNotFound) for error in errors)


def wrong_append(term: int, index: int) -> tuple[Message, list[EntryFrame]]:
    """An APPEND behind the entry of term 1 at `index`, whose offsets begin where no log of this file is."""
    message = Message(
        type=MessageType.APPEND, to=ME, sender=TWO, term=term, log_term=1, index=index, last_index=index + 1, commit=index + 1
    )
    return message, [data(term, index + 1, 77, b"wrong")]


@pytest.mark.parametrize("tail_cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("index", [1, 2, 3, 4])
async def test_entries_at_wrong_offsets_are_refused_after_a_restart(index: int, tail_cache_bytes: int) -> None:
    """Behind the last entry, and behind one that only the disk still has. Then the right ones are taken."""
    log = default(LogSettings, preallocate_bytes=0, tail_cache_bytes=tail_cache_bytes)
    disk = SimDisk(random.Random(1))
    frames = [no_op(1, 1, 0), data(1, 2, 0, b"a", b"b"), data(1, 3, 2, b"c"), data(1, 4, 3, b"d")]
    async with Rig(disk, log=log).open() as rig:
        rig.give_append(TWO, 1, (0, 0), *frames)
        await rig.settle()
    for mode in (CrashMode.KEEP, CrashMode.LOSE):
        disk = disk.crash(mode)
        async with Rig(disk, log=log).open() as rig:
            rig.give(*wrong_append(2, index))
            await rig.settle()
            assert rig.replica.driver.statistics().protocol_errors == 1
            assert rig.replica.log.last_index == 4
    async with Rig(disk, log=log).open() as rig:
        rig.give_append(TWO, 2, (1, index), data(2, index + 1, frames[index - 1].end_offset, b"new"))
        await rig.settle()
        assert (rig.replica.log.last_index, rig.replica.log.last_term) == (index + 1, 2)
        assert rig.replica.driver.statistics().protocol_errors == 0


async def test_an_entry_that_is_held_with_another_length_ends_nothing() -> None:
    """What goes before the new entry in the message is held already, by its term and index, but with fewer records."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0), data(1, 2, 0, b"a"))
        await rig.settle()
        rig.give_append(TWO, 1, (1, 1), data(1, 2, 0, b"a", b"b"), data(1, 3, 2, b"c"))
        await rig.settle()
        assert rig.replica.driver.statistics().protocol_errors == 1
        assert rig.replica.log.last_index == 2


@pytest.mark.parametrize("is_later", [False, True])
async def test_a_refused_append_does_not_lend_its_bytes(is_later: bool) -> None:
    """In one turn with a good one, of the same term and index: behind an entry that is not there, or from another leader of the
    term. What is kept is what was taken."""
    async with Rig().open() as rig:
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        await rig.settle()
        behind_nothing = (
            Message(type=MessageType.APPEND, to=ME, sender=TWO, term=2, log_term=2, index=1, last_index=2, commit=1),
            [data(2, 2, 0, b"refused")],
        )
        of_another = attrs.evolve(behind_nothing[0], sender=THREE, log_term=1), [data(2, 2, 0, b"refused, too")]
        if not is_later:
            rig.give(*behind_nothing)
        rig.give_append(TWO, 2, (1, 1), data(2, 2, 0, b"good"))
        rig.give(*of_another)
        if is_later:
            rig.give(*behind_nothing)
        await rig.settle()
        (frame,) = await rig.replica.log.read(2, 2, 1 << 20)
        assert b"good" in bytes(frame.payload)


async def test_probes_of_two_leaders_while_a_write_is_under_way() -> None:
    """Entries 2..5 are being written when a new leader replaces them from 2 on, and another one continues from there while the
    replacement is being written. Nothing is read that is not durable, and the log ends as the last leader wants it."""
    rig = Rig()
    async with rig.open():
        log = rig.replica.log
        rig.give_append(TWO, 1, (0, 0), no_op(1, 1, 0))
        await rig.settle()
        rig.disk.latency_seconds[Operation.SYNC] = 1.0
        rig.give_append(TWO, 1, (1, 1), *(data(1, index, index - 2, b"one") for index in range(2, 6)))
        await trio.sleep(0.5)
        rig.give_append(THREE, 2, (1, 1), data(2, 2, 0, b"two"), data(2, 3, 1, b"two"))
        await rig.settle()
        await trio.sleep(1.0)
        assert log.last_index == 5
        assert [frame.term for frame in await log.read(2, 5, 1 << 20)] == [1] * 4, "what is durable, not what waits"
        await trio.sleep(1.0)
        assert log.last_index == 1, "the old suffix is being removed"
        rig.give_append(TWO, 3, (2, 3), data(3, 4, 2, b"three"))
        await rig.settle()
        assert log.staged_last_index == 4
        await trio.sleep(20)
        assert [frame.term for frame in await log.read(1, 4, 1 << 20)] == [1, 2, 2, 3]
        assert (log.last_index, log.staged_last_index) == (4, 4)
        ((reply, _), *_) = reversed(rig.take_sent(MessageType.APPEND_RESPONSE))
        assert (reply.term, reply.index, reply.reject) == (3, 4, False)
