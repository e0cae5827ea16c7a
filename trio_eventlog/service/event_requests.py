"""What edges and other nodes ask of the event store, and what they are given, as plain values: no node code."""

import random
from collections.abc import Callable, Mapping, Sequence

import attrs

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.events import ANY, EVENTS_TOPIC, ExpectedVersion, NewEvent, RecordedEvent

PAGE_EVENTS = 100
"""Events that a read gives when it does not say how many."""


@attrs.frozen(slots=True, kw_only=True)
class AppendRequest:
    """Append events of one aggregate, all of them together or none.

    Attributes:
        reopens: also when the aggregate is closed.
        group_id: of the partition, as the caller knows it; 0: the caller does not.
    """

    aggregate_id: str
    events: Sequence[NewEvent]
    expected: ExpectedVersion = ANY
    topic: str = EVENTS_TOPIC
    reopens: bool = False
    group_id: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ReadAggregateRequest:
    """Events of one aggregate.

    Attributes:
        from_version: of the first one that is wanted; the last one when `is_backwards`.
        limit: at most so many; the node's limits apply too.
        is_linearizable: everything acknowledged before the call is seen; otherwise what the node has that is asked.
        group_id: as of `AppendRequest`.
    """

    aggregate_id: str
    from_version: int = 1
    limit: int = PAGE_EVENTS
    is_backwards: bool = False
    is_linearizable: bool = False
    topic: str = EVENTS_TOPIC
    group_id: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ReadEventsRequest:
    """Events of a topic.

    Attributes:
        after: the `next` of an earlier page; "": from the beginning.
        event_type: only these; "": all.
        limit, is_linearizable: as of `ReadAggregateRequest`.
    """

    topic: str = EVENTS_TOPIC
    after: str = ""
    event_type: str = ""
    limit: int = PAGE_EVENTS
    is_linearizable: bool = False


@attrs.frozen(slots=True, kw_only=True)
class PartitionEventsRequest:
    """Events of one partition, from an offset on. Attributes: as of the others."""

    topic: str
    partition: int
    group_id: int
    from_offset: int
    limit: int
    event_type: str = ""
    is_linearizable: bool = False


@attrs.frozen(slots=True, kw_only=True)
class EventsFound:
    """What a partition has given.

    Attributes:
        version, is_closed: of the aggregate that was asked for.
        is_end: there was nothing behind them.
        next_offset: of a read of a partition: where to go on.
    """

    events: Sequence[RecordedEvent]
    version: int = 0
    is_closed: bool = False
    is_end: bool = False
    next_offset: int = 0


def encode_token(offsets: Mapping[int, int]) -> str:
    """A place in a topic: the next offset in each of its groups. It stands in URLs as it is."""
    return ".".join(f"{group_id:x}-{offset:x}" for group_id, offset in offsets.items())


def decode_token(token: str, group_ids: Sequence[int]) -> list[int]:
    """The next offset in each of the groups; "" is the beginning. A token of fewer groups begins at the beginning of the others.

    Raises:
        InvalidArgument: it is no token, or one of another topic.
    """
    offsets = dict.fromkeys(group_ids, 0)
    for part in token.split(".") if token else ():
        group_text, _, offset_text = part.partition("-")
        try:
            group_id, offset = int(group_text, 16), int(offset_text, 16)
        except ValueError as error:
            raise InvalidArgument(f"{token[:100]!r} is no place in a topic of events: use what an earlier answer gave") from error
        if group_id not in offsets or not 0 <= offset < 1 << 63:
            raise InvalidArgument(
                f"{token[:100]!r} is a place in another topic, or in one of this name that was deleted: read from the beginning"
            )
        offsets[group_id] = offset
    return list(offsets.values())


def new_event_id(rng: random.Random) -> Callable[[], str]:
    """Makes ids of events: random UUIDs (RFC 9562, version 4), drawn from `rng`."""

    def make() -> str:
        bits = rng.getrandbits(128) & ~(0xF000 << 64 | 0xC000 << 48) | (0x4000 << 64 | 0x8000 << 48)
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return make
