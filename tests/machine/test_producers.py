"""The producers' table: continue, repeat, skip, fence, forget."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.errors import DuplicateOutOfWindow, EventLogError, OutOfOrderSequence, ProducerFenced
from trio_eventlog.machine.producers import ProducerTable, Remembered, find_duplicate

RECENT = (Remembered(0, 2, 10), Remembered(2, 3, 12))


def judge(epoch: int, base_sequence: int, record_count: int, recent: Sequence[Remembered] = RECENT) -> Remembered | None:
    return find_duplicate(epoch, base_sequence, record_count, known_epoch=1, next_sequence=5, recent=recent)


def test_the_next_sequence_is_new() -> None:
    """A batch that begins where the last one ended is accepted."""
    assert judge(1, 5, 4) is None


def test_a_repetition_is_answered_with_the_original() -> None:
    """Each remembered batch is found again by its base sequence and count."""
    assert judge(1, 0, 2) == RECENT[0]
    assert judge(1, 2, 3) == RECENT[1]


def test_a_gap_is_refused_with_what_is_expected() -> None:
    """Taking a batch over a gap would reorder what the producer sends next."""
    with pytest.raises(OutOfOrderSequence) as caught:
        judge(1, 6, 1)
    assert caught.value.expected_sequence == 5


@pytest.mark.parametrize(("base_sequence", "record_count"), [(1, 1), (0, 3), (2, 2)])
def test_part_of_a_batch_is_no_repetition(base_sequence: int, record_count: int) -> None:
    """A batch cut differently cannot be answered with one offset."""
    with pytest.raises(DuplicateOutOfWindow):
        judge(1, base_sequence, record_count)


def test_an_old_epoch_is_fenced_and_a_new_one_begins_anywhere() -> None:
    """A producer that took over an id stops the one before it."""
    with pytest.raises(ProducerFenced):
        judge(0, 5, 1)
    assert judge(2, 77, 1) is None


def test_the_window_and_the_number_of_producers_are_bounded() -> None:
    """At the limit the oldest batch, and the producer heard least recently, are forgotten."""
    table = ProducerTable(window_batches=2, producers_max=2)
    for number in range(3):
        table.record(7, 0, Remembered(number, 1, number))
    state = table.get(7)
    assert state is not None
    assert list(state.recent) == [Remembered(1, 1, 1), Remembered(2, 1, 2)]
    table.record(8, 0, Remembered(0, 1, 3))
    table.record(7, 0, Remembered(3, 1, 4))
    table.record(9, 0, Remembered(0, 1, 5))
    assert table.get(8) is None
    assert len(table) == 2


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40), st.integers(1, 5))
def test_no_batch_is_taken_twice(steps: list[tuple[int, bool]], window: int) -> None:
    """Whatever is repeated, the records taken are each sequence once, in order."""
    table = ProducerTable(window, 10)
    taken: list[int] = []
    sent: list[tuple[int, int]] = []
    for count, repeat in steps:
        base, number = sent[len(sent) // 2] if repeat and sent else (len(taken), count)
        state = table.get(1)
        try:
            known = state and find_duplicate(0, base, number, state.epoch, state.next_sequence, state.recent)
        except EventLogError:
            assert base < len(taken)
            continue
        if known:
            assert (known.base_sequence, known.base_offset) == (base, base)
        else:
            table.record(1, 0, Remembered(base, number, len(taken)))
            taken += range(base, base + number)
            sent.append((base, number))
    assert taken == list(range(len(taken)))


def test_a_table_tells_whom_it_would_forget() -> None:
    """Room is what is free, and those who wrote long ago and have nothing on its way."""
    table = ProducerTable(window_batches=2, producers_max=3)
    assert not table.lacks_room(2, 0, ())
    assert table.lacks_room(3, 0, ())
    for producer_id in (1, 2, 3):
        table.record(producer_id, 0, Remembered(0, 1, producer_id))
    assert table.lacks_room(0, 0, ())
    assert not table.lacks_room(0, 1, ())
    assert table.lacks_room(0, 1, {1})
    assert not table.lacks_room(0, 2, {1})
    assert table.lacks_room(1, 2, {1})
    assert not table.has_forgotten
    table.record(4, 0, Remembered(0, 1, 4))
    assert table.has_forgotten
    table.record(2, 0, Remembered(1, 1, 5))
    assert table.lacks_room(0, 2, ()), "the second one has written again"
    assert not table.lacks_room(0, 3, ())
