"""What edges and other nodes ask of the search of log lines, and what they are given, as plain values: no node code."""

from collections.abc import Mapping, Sequence

import attrs

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.records import LOGS_TOPIC as LOGS_TOPIC
from trio_eventlog.search.values import Counts, FoundLine, LogCounting, LogQuery
from trio_eventlog.service.arguments import check_text, check_whole
from trio_eventlog.service.event_requests import decode_token, encode_token

PAGE_LINES = 100
"""Lines that a search gives when it does not say how many."""
PLACE_MAX = (1 << 63) - 1
"""The place behind everything that there is, and will be."""


@attrs.frozen(slots=True, kw_only=True)
class SearchRequest:
    """One page of a search.

    Attributes:
        after: the `next` of an earlier page; "": from the newest line, or the oldest one.
        limit: most lines; the node's limits apply too.
        is_backwards: the newest first.
        counting: the lines are counted and not given; None: they are given.
    """

    query: LogQuery
    topic: str = LOGS_TOPIC
    after: str = ""
    limit: int = PAGE_LINES
    is_backwards: bool = True
    counting: LogCounting | None = None


@attrs.frozen(slots=True, kw_only=True)
class PartitionSearchRequest:
    """Some of the lines of one partition.

    Attributes:
        place: an offset. Backwards, nothing from there on is wanted, forwards nothing before.
        limit, is_backwards, counting: as of `SearchRequest`.
    """

    query: LogQuery
    topic: str
    partition: int
    group_id: int
    place: int
    limit: int
    is_backwards: bool
    counting: LogCounting | None = None


@attrs.frozen(slots=True, kw_only=True)
class PartitionLines:
    """What a partition has given.

    Attributes:
        lines: in the direction of the search.
        first_place: where the search began: `place`, or the end of the log.
        next_place: where to go on.
        is_end: there is nothing behind.
        time_ns: about the time of what comes next; 0: not known.
        scanned_bytes, unreadable_batches: see `Scanned`.
        counts: when the lines are counted.
    """

    lines: Sequence[FoundLine]
    first_place: int
    next_place: int
    is_end: bool
    time_ns: int
    scanned_bytes: int
    unreadable_batches: int
    counts: Counts


@attrs.frozen(slots=True, kw_only=True)
class LogPage:
    """One page of a search. It may be empty and not the last: a page is bounded by what was looked through, too.

    Attributes:
        lines: the newest first, unless asked otherwise: in the order of each partition; of several ones, by their timestamps.
        next: where to go on (`after`), also to ask later for what has come since.
        is_end: there were no more.
        scanned_bytes: bytes that were looked through for the page.
        unreadable_batches: number of batches that could not be read and may hold lines.
        tail: of a first page that begins with the newest line: from where to follow the topic without a gap. Otherwise "".
        counts: when the lines are counted.
    """

    lines: Sequence[FoundLine]
    next: str
    is_end: bool
    scanned_bytes: int
    unreadable_batches: int = 0
    tail: str = ""
    counts: Counts = attrs.field(factory=Counts)


def encode_place(places: Mapping[int, int], is_backwards: bool) -> str:
    """A place in a search: that in each of its groups. It stands in URLs as it is."""
    return ("n" if is_backwards else "o") + encode_token(places)


def decode_place(token: str, group_ids: Sequence[int], is_backwards: bool) -> list[int]:
    """The place in each of the groups; "" is the beginning in this direction. Raises InvalidArgument."""
    if not token:
        return [PLACE_MAX if is_backwards else 0] * len(group_ids)
    if token[0] != ("n" if is_backwards else "o"):
        raise InvalidArgument(f"{token[:100]!r} is no place in a search in this direction: use what an earlier answer gave")
    return decode_token(token[1:], group_ids)


def search_request(query: LogQuery, after: str, limit: int, oldest_first: bool, topic: str) -> SearchRequest:
    """Of an application. Raises InvalidArgument."""
    check_text("topic", topic)
    check_whole("limit", limit, lowest=1)
    return SearchRequest(query=query, topic=topic, after=after, limit=limit, is_backwards=not oldest_first)


def count_request(query: LogQuery, counting: LogCounting, after: str, topic: str) -> SearchRequest:
    """Of an application. Raises InvalidArgument."""
    check_text("topic", topic)
    check_whole("step_ns", counting.step_ns, PLACE_MAX)
    return SearchRequest(query=query, topic=topic, after=after, counting=counting)
