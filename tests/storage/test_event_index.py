"""One suite for every index of aggregates: the one on a disk, the one in memory, and the simulated one."""

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_eventlog.events import EventHead
from trio_eventlog.machine.events import NO_EVENTS, AggregateState, EventPlace
from trio_eventlog.storage import sqlite_event_index
from trio_eventlog.storage.event_index import EventIndex, IndexDamaged, IndexPosition, IndexQuestion, MemoryEventIndex
from trio_eventlog.storage.sqlite_event_index import SqliteEventIndex, SqliteEventIndexes
from trio_eventlog.testing.event_indexes import JournalledIndex
from trio_eventlog.testing.journal import Journal

CACHE_BYTES = 1 << 20
NUMBERS = itertools.count()


@pytest.fixture(params=["sqlite", "memory", "simulated"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventIndex]:
    made: EventIndex
    if request.param == "sqlite":
        made = SqliteEventIndex(str(tmp_path / "index"), CACHE_BYTES)
    else:
        made = MemoryEventIndex() if request.param == "memory" else JournalledIndex(Journal())
    yield made
    made.close()


def head(offset: int, aggregate_id: str, version: int, event_type: str = "T", *, closes: bool = False) -> EventHead:
    return EventHead(offset, aggregate_id, f"{aggregate_id}/{version}", event_type, version, closes)


def test_an_empty_index_knows_nothing(index: EventIndex) -> None:
    assert index.position == IndexPosition(0, 0)
    assert index.event_count == 0
    (answer,) = index.ask([IndexQuestion("a", ("x",))])
    assert answer.state == NO_EVENTS
    assert not answer.known
    assert index.places("a", 1, 10) == []
    assert index.offsets_of_type("T", 0, 10) == []


def test_what_is_written_is_found(index: EventIndex) -> None:
    index.write([head(0, "a", 1), head(1, "b", 1, "U"), head(2, "a", 2)], IndexPosition(4, 2))
    index.write([], IndexPosition(5, 2))
    index.write([head(7, "a", 3, closes=True)], IndexPosition(6, 3))
    assert index.position == IndexPosition(6, 3)
    assert index.event_count == 4
    of_a, of_b, of_c = index.ask(
        [IndexQuestion("a", ("a/1", "a/3", "b/1", "no")), IndexQuestion("b"), IndexQuestion("c", ("a/1",))]
    )
    assert of_a.state == AggregateState(3, True)
    assert of_a.known == {"a/1": EventPlace(1, 0), "a/3": EventPlace(3, 7)}
    assert of_b.state == AggregateState(1)
    assert of_c.state == NO_EVENTS
    assert not of_c.known
    assert index.places("a", 2, 10) == [EventPlace(2, 2), EventPlace(3, 7)]
    assert index.places("a", 1, 2) == [EventPlace(1, 0), EventPlace(2, 2)]
    assert index.places("a", 2, 10, backwards=True) == [EventPlace(2, 2), EventPlace(1, 0)]
    assert index.places("a", (1 << 63) - 1, 1, backwards=True) == [EventPlace(3, 7)]
    assert index.offsets_of_type("T", 0, 10) == [0, 2, 7]
    assert index.offsets_of_type("T", 1, 1) == [2]
    assert index.offsets_of_type("U", 0, 10) == [1]
    assert index.offsets_of_type("V", 0, 10) == []


def test_an_aggregate_that_is_opened_again_is_not_closed(index: EventIndex) -> None:
    index.write([head(0, "a", 1, closes=True)], IndexPosition(1, 1))
    index.write([head(1, "a", 2)], IndexPosition(2, 1))
    assert index.ask([IndexQuestion("a")])[0].state == AggregateState(2)


def test_an_aggregate_may_begin_at_any_version(index: EventIndex) -> None:
    """Its first events may have been removed from the log before the index was made."""
    index.write([head(50, "a", 12)], IndexPosition(9, 1))
    assert index.places("a", 1, 10) == [EventPlace(12, 50)]


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_gap_in_versions_means_that_the_index_has_lost_something(index: EventIndex, version: int) -> None:
    index.write([head(0, "a", 1), head(1, "a", 2)], IndexPosition(1, 1))
    with pytest.raises(IndexDamaged, match=f"version {version} of aggregate 'a'"):
        index.write([head(2, "b", 1), head(3, "a", version)], IndexPosition(2, 1))
    assert index.position == IndexPosition(1, 1)
    assert index.event_count == 2
    assert index.ask([IndexQuestion("b")])[0].state == NO_EVENTS
    index.write([head(2, "b", 1), head(3, "a", 3)], IndexPosition(2, 1))


def test_a_gap_within_one_transaction_is_seen(index: EventIndex) -> None:
    with pytest.raises(IndexDamaged):
        index.write([head(0, "a", 1), head(1, "a", 3)], IndexPosition(1, 1))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(("T", "U", "V"))), max_size=6), max_size=8))
def test_sqlite_says_what_memory_says(tmp_path: Path, transactions: list[list[tuple[str, str]]]) -> None:
    path = str(tmp_path / f"{next(NUMBERS)}")
    twin, index = MemoryEventIndex(), SqliteEventIndex(path, CACHE_BYTES)
    versions: dict[str, int] = {}
    offset = 0
    for number, transaction in enumerate(transactions, 1):
        heads = []
        for aggregate_id, event_type in transaction:
            versions[aggregate_id] = versions.get(aggregate_id, 0) + 1
            heads.append(head(offset, aggregate_id, versions[aggregate_id], event_type))
            offset += 1
        twin.write(heads, IndexPosition(number, 1))
        index.write(heads, IndexPosition(number, 1))
        if number % 3 == 0:
            index.close()
            index = SqliteEventIndex(path, CACHE_BYTES)
    questions = [IndexQuestion(name, (f"{name}/1", f"{name}/3")) for name in "abcdefghi"]
    assert index.ask(questions) == twin.ask(questions)
    for name in "abcdefghi":
        assert index.places(name, 2, 5) == twin.places(name, 2, 5)
        assert index.places(name, 3, 2, backwards=True) == twin.places(name, 3, 2, backwards=True)
    for event_type in "TUVW":
        assert index.offsets_of_type(event_type, 2, 5) == twin.offsets_of_type(event_type, 2, 5)
    assert (index.position, index.event_count) == (twin.position, twin.event_count)
    index.close()


def test_more_aggregates_than_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_event_index, "KEPT_AGGREGATES_MAX", 3)
    index = SqliteEventIndex(str(tmp_path / "index"), CACHE_BYTES)
    for version in (1, 2):
        for number in range(8):
            index.write([head(8 * version + number, f"{number}", version)], IndexPosition(8 * version + number, 1))
    assert [answer.state.version for answer in index.ask([IndexQuestion(f"{number}") for number in range(9)])] == [2] * 8 + [0]
    assert len(index._kept) == 3
    index.close()


async def test_a_file_that_is_no_index_is_replaced_by_an_empty_one(tmp_path: Path) -> None:
    indexes = SqliteEventIndexes(trio.CapacityLimiter(1), CACHE_BYTES)
    path = tmp_path / "derived" / "index"
    first = await indexes.open(str(path))
    await first.run(lambda index: index.write([head(0, "a", 1)], IndexPosition(1, 1)))
    await first.aclose()
    kept = await indexes.open(str(path))
    assert kept.index.position == IndexPosition(1, 1)
    await kept.aclose()
    path.write_bytes(b"no database at all, and long enough to be looked at" * 100)
    made = await indexes.open(str(path))
    assert made.index.position == IndexPosition()
    assert made.index.ask([IndexQuestion("a")])[0].state == NO_EVENTS
    await made.aclose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET format_version = 99")
    connection.close()
    other = await indexes.open(str(path))
    assert other.index.position == IndexPosition()
    await other.aclose()
    await indexes.remove(str(path))
    await indexes.remove(str(path))
    assert list(path.parent.iterdir()) == []


def test_pages_that_are_damaged_are_seen_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "index"
    index = SqliteEventIndex(str(path), CACHE_BYTES)
    index.write([head(number, f"{number:05}", 1) for number in range(5000)], IndexPosition(1, 1))
    index.close()
    data = bytearray(path.read_bytes())
    for position in range(10 * 4096, len(data), 4096):
        data[position : position + 64] = b"\xff" * 64
    path.write_bytes(data)
    index = SqliteEventIndex(str(path), CACHE_BYTES)
    with pytest.raises(IndexDamaged):
        index.ask([IndexQuestion(f"{number:05}") for number in range(5000)])
    index.close()
