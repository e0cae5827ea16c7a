"""Producer ids of a node's own."""

import random

from tests.node.rig import batch_of
from trio_eventlog.ids import GroupId
from trio_eventlog.service.own_sequences import OwnSequences

ONE, TWO = GroupId(1), GroupId(2)


def test_a_sequence_has_one_batch_at_a_time_and_its_sequence_goes_on() -> None:
    """Two at once have two ids; one that was given back is used again, where it ended."""
    sequences = OwnSequences(random.Random(1), 10)
    first, second = sequences.take(ONE), sequences.take(ONE)
    assert first.producer_id != second.producer_id
    sequences.give_back(first, 3)
    again = sequences.take(ONE)
    assert (again.producer_id, again.next_sequence) == (first.producer_id, 3)
    stamped = again.stamp(batch_of(b"x"))
    assert (stamped.producer_id, stamped.producer_epoch, stamped.base_sequence) == (first.producer_id, 0, 3)


def test_partitions_have_sequences_of_their_own() -> None:
    """A sequence is one partition's."""
    sequences = OwnSequences(random.Random(1), 10)
    sequence = sequences.take(ONE)
    sequences.give_back(sequence, 1)
    assert sequences.take(TWO).next_sequence == 0
    assert sequences.take(ONE) is sequence


def test_a_sequence_in_doubt_is_never_used_again() -> None:
    """It is simply not given back: whether its batch is in the log, and so its next sequence, is not known."""
    sequences = OwnSequences(random.Random(1), 10)
    doubtful = sequences.take(ONE)
    assert all(sequences.take(ONE).producer_id != doubtful.producer_id for _ in range(100))


def test_a_sequence_begun_anew_is_none_of_the_idle_ones() -> None:
    sequences = OwnSequences(random.Random(1), 10)
    sequence = sequences.take(ONE)
    sequences.give_back(sequence, 1)
    new = sequences.begin(ONE)
    assert new.producer_id != sequence.producer_id
    assert new.next_sequence == 0


def test_so_many_are_kept_and_no_more() -> None:
    sequences = OwnSequences(random.Random(1), 2)
    taken = [sequences.take(ONE) for _ in range(3)]
    for sequence in taken:
        sequences.give_back(sequence, 1)
    kept = [sequences.take(ONE).producer_id for _ in range(3)]
    assert len(set(kept) & {sequence.producer_id for sequence in taken}) == 2


def test_those_of_a_deleted_partition_are_forgotten() -> None:
    sequences = OwnSequences(random.Random(1), 10)
    sequence = sequences.take(ONE)
    sequences.give_back(sequence, 1)
    sequences.forget(ONE)
    sequences.forget(TWO)
    assert sequences.take(ONE).producer_id != sequence.producer_id
