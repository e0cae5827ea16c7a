"""The index of aggregates in a SQLite database: one file for each partition, below `<data-dir>/derived/`.

```
meta(one row)                     format version, index and term of the last entry held, number of events, the next number
aggregates(name, number, version, closed)     key: name
events(number, version, offset)               key: number, version
ids(number, id, version)                      key: number, id; the id is the first 16 bytes of BLAKE2b of the event id
type_names(name, number)                      key: name
types(number, offset)                         key: number, offset
```

All tables are WITHOUT ROWID: a row is in its key's tree and nowhere else. An aggregate has a small number in the other tables, so
that its rows lie beside each other: what is appended to a busy aggregate stays within pages that are in memory.

WAL and `synchronous = NORMAL`: a commit syncs nothing, a checkpoint does. Power loss may take the last commits, whole; the position
is in the same commit as the rows, so the index goes on from there.
"""

import hashlib
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import attrs
import trio

from trio_eventlog.events import EventHead
from trio_eventlog.machine.events import NO_EVENTS, AggregateState, EventPlace
from trio_eventlog.storage.event_index import (
    EventIndex,
    IndexAnswer,
    IndexBusy,
    IndexDamaged,
    IndexPosition,
    IndexQuestion,
    check_continues,
)
from trio_eventlog.storage.real_disk import run_in_thread

T = TypeVar("T")

FORMAT_VERSION = 1
SUFFIXES = ("", "-wal", "-shm")
"""Of the files of a database."""
KEPT_AGGREGATES_MAX = 10_000
"""Aggregates whose number and version are kept in memory."""
CHECKPOINT_PAGES = 16_384
"""Pages of 4 KiB that the WAL has before they are moved to the database, with a sync. Appends to many aggregates change a page or
two for each event: with few pages, every transaction would wait for the disk."""
_ID_BYTES = 16

_SCHEMA = """
CREATE TABLE meta (
    only INTEGER PRIMARY KEY CHECK (only = 1), format_version INTEGER, entry_index INTEGER, entry_term INTEGER,
    event_count INTEGER, next_number INTEGER
);
INSERT INTO meta VALUES (1, {version}, 0, 0, 0, 1);
CREATE TABLE aggregates (name BLOB PRIMARY KEY, number INTEGER, version INTEGER, closed INTEGER) WITHOUT ROWID;
CREATE TABLE events (number INTEGER, version INTEGER, offset INTEGER, PRIMARY KEY (number, version)) WITHOUT ROWID;
CREATE TABLE ids (number INTEGER, id BLOB, version INTEGER, PRIMARY KEY (number, id)) WITHOUT ROWID;
CREATE TABLE type_names (name BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID;
CREATE TABLE types (number INTEGER, offset INTEGER, PRIMARY KEY (number, offset)) WITHOUT ROWID;
"""
_BUSY = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))


@attrs.define(slots=True)
class _Aggregate:
    number: int
    state: AggregateState


class SqliteEventIndex:
    """An `EventIndex` in the file `path`. Made empty when there is none.

    Args:
        cache_bytes: memory for pages of the database.

    Raises:
        IndexDamaged: the file is no index of this format: remove it.
        IndexBusy: it cannot be opened or made just now.
    """

    def __init__(self, path: str, cache_bytes: int) -> None:
        self._kept: OrderedDict[str, _Aggregate] = OrderedDict()
        self._types: dict[str, int] = {}
        with _translated():
            # One thread uses it at a time, but not always the same one.
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._open(cache_bytes)
            except BaseException:
                self._connection.close()
                raise

    def _open(self, cache_bytes: int) -> None:
        execute = self._connection.execute
        execute(f"PRAGMA cache_size = -{max(cache_bytes // 1024, 1)}")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.executescript(f"BEGIN;{_SCHEMA.format(version=FORMAT_VERSION)}COMMIT;")
        row = execute("SELECT format_version, entry_index, entry_term, event_count, next_number FROM meta").fetchone()
        if row is None or row[0] != FORMAT_VERSION:
            raise IndexDamaged(f"the index of aggregates has format {row and row[0]}, and this release knows {FORMAT_VERSION}")
        index, term = row[1:3]
        self._event_count, self._next_number = map(int, row[3:])
        self._position = IndexPosition(index, term)
        self._types = {name.decode(): number for name, number in execute("SELECT name, number FROM type_names")}

    @property
    def position(self) -> IndexPosition:
        return self._position

    @property
    def event_count(self) -> int:
        return self._event_count

    def write(self, heads: Sequence[EventHead], position: IndexPosition) -> None:
        with _translated():
            found = {name: self._aggregate(name) for name in dict.fromkeys(head.aggregate_id for head in heads)}
            check_continues(heads, lambda name: NO_EVENTS.version if (item := found[name]) is None else item.state.version)
            next_number, types = self._next_number, dict(self._types)
            changed: dict[str, _Aggregate] = {}
            events: list[tuple[int, int, int]] = []
            ids: list[tuple[int, bytes, int]] = []
            of_types: list[tuple[int, int]] = []
            for head in heads:
                item = changed.get(head.aggregate_id)
                if item is None:
                    known = found[head.aggregate_id]
                    number = next_number if known is None else known.number
                    next_number += known is None
                    item = changed[head.aggregate_id] = _Aggregate(number, NO_EVENTS)
                item.state = AggregateState(head.version, head.closes)
                events.append((item.number, head.version, head.offset))
                ids.append((item.number, _hashed(head.event_id), head.version))
                of_types.append((types.setdefault(head.type, len(types) + 1), head.offset))
            new_types = [(name.encode(), types[name]) for name in types if name not in self._types]
            event_count = self._event_count + len(heads)
            connection = self._connection
            connection.execute("BEGIN")
            try:
                connection.executemany(
                    "INSERT OR REPLACE INTO aggregates VALUES (?, ?, ?, ?)",
                    [
                        (name.encode(), item.number, item.state.version, item.state.is_closed)
                        for name, item in sorted(changed.items())
                    ],
                )
                connection.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?)", sorted(events))
                # An id that is in the log twice, which no leader of this release appends, is the first one's.
                connection.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", sorted(ids))
                connection.executemany("INSERT INTO type_names VALUES (?, ?)", new_types)
                connection.executemany("INSERT OR REPLACE INTO types VALUES (?, ?)", sorted(of_types))
                connection.execute(
                    "UPDATE meta SET entry_index = ?, entry_term = ?, event_count = ?, next_number = ?",
                    (position.index, position.term, event_count, next_number),
                )
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._position, self._event_count, self._next_number, self._types = position, event_count, next_number, types
        for name, item in changed.items():
            self._keep(name, item)

    def ask(self, questions: Sequence[IndexQuestion]) -> list[IndexAnswer]:
        with _translated():
            return list(map(self._answer, questions))

    def _answer(self, question: IndexQuestion) -> IndexAnswer:
        item = self._aggregate(question.aggregate_id)
        if item is None:
            return IndexAnswer(NO_EVENTS, {})
        known: dict[str, EventPlace] = {}
        for event_id in question.event_ids:
            row = self._connection.execute(
                "SELECT version, offset FROM events WHERE number = ?1"
                " AND version = (SELECT version FROM ids WHERE number = ?1 AND id = ?2)",
                (item.number, _hashed(event_id)),
            ).fetchone()
            if row is not None:
                known[event_id] = EventPlace(*row)
        return IndexAnswer(item.state, known)

    def places(self, aggregate_id: str, from_version: int, limit: int, *, backwards: bool = False) -> list[EventPlace]:
        with _translated():
            item = self._aggregate(aggregate_id)
            if item is None:
                return []
            bound, order = ("<=", "DESC") if backwards else (">=", "ASC")
            rows = self._connection.execute(
                f"SELECT version, offset FROM events WHERE number = ? AND version {bound} ? ORDER BY version {order} LIMIT ?",
                (item.number, from_version, limit),
            )
            return [EventPlace(version, offset) for version, offset in rows]

    def offsets_of_type(self, event_type: str, from_offset: int, limit: int) -> list[int]:
        number = self._types.get(event_type)
        if number is None:
            return []
        with _translated():
            rows = self._connection.execute(
                "SELECT offset FROM types WHERE number = ? AND offset >= ? ORDER BY offset LIMIT ?", (number, from_offset, limit)
            )
            return [offset for (offset,) in rows]

    def close(self) -> None:
        with suppress(sqlite3.Error):  # It may be damaged, or without room; what it holds can be made again.
            self._connection.close()

    def _aggregate(self, name: str) -> _Aggregate | None:
        item = self._kept.get(name)
        if item is not None:
            self._kept.move_to_end(name)
            return item
        row = self._connection.execute("SELECT number, version, closed FROM aggregates WHERE name = ?", (name.encode(),)).fetchone()
        if row is None:
            return None
        item = _Aggregate(row[0], AggregateState(row[1], bool(row[2])))
        self._keep(name, item)
        return item

    def _keep(self, name: str, item: _Aggregate) -> None:
        self._kept[name] = item
        self._kept.move_to_end(name)
        if len(self._kept) > KEPT_AGGREGATES_MAX:
            self._kept.popitem(last=False)


class SqliteEventIndexes:
    """The indexes of a node (`EventIndexes`), as files.

    Args:
        limiter: of the threads that wait for the disk.
        cache_bytes: memory for pages, of each index.
    """

    def __init__(self, limiter: trio.CapacityLimiter, cache_bytes: int) -> None:
        self._limiter = limiter
        self._cache_bytes = cache_bytes

    async def open(self, path: str) -> "OpenSqliteIndex":
        """See `EventIndexes.open`."""
        return OpenSqliteIndex(await run_in_thread(partial(self._open, path), self._limiter), self._limiter)

    def _open(self, path: str) -> SqliteEventIndex:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            return SqliteEventIndex(path, self._cache_bytes)
        except IndexDamaged:
            self._remove(path)
        return SqliteEventIndex(path, self._cache_bytes)

    async def remove(self, path: str) -> None:
        """See `EventIndexes.remove`."""
        await run_in_thread(partial(self._remove, path), self._limiter)

    def _remove(self, path: str) -> None:
        for suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                os.remove(path + suffix)


class OpenSqliteIndex:
    """An index whose methods run in threads (`OpenIndex`)."""

    def __init__(self, index: SqliteEventIndex, limiter: trio.CapacityLimiter) -> None:
        self.index: EventIndex = index
        self._limiter = limiter
        self._lock = trio.Lock()

    async def run(self, work: Callable[[EventIndex], T]) -> T:
        """See `OpenIndex.run`."""
        async with self._lock:
            return await run_in_thread(partial(_outcome, work, self.index), self._limiter)

    async def aclose(self) -> None:
        """See `OpenIndex.aclose`."""
        with trio.CancelScope(shield=True):
            await self.run(lambda index: index.close())


def _outcome(work: Callable[[EventIndex], T], index: EventIndex) -> T:
    return work(index)


@contextmanager
def _translated() -> Iterator[None]:
    """A block in which errors of SQLite are those of an `EventIndex`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            raise IndexBusy(f"the index of aggregates cannot be used just now: {error}") from error
        raise IndexDamaged(f"the index of aggregates is damaged: {error}") from error


def _hashed(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=_ID_BYTES).digest()
