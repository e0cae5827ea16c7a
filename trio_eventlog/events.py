"""Events of the event store as values: what an application appends, and what it reads back."""

import enum
import json
from collections.abc import Sequence
from typing import Any

import attrs

from trio_eventlog.errors import InvalidArgument

EVENTS_TOPIC = "events"
"""The topic of events that a call means when it names none. Made when the first event is appended."""
JSON = "application/json"

AGGREGATE_ID_BYTES_MAX = 1024
EVENT_ID_BYTES_MAX = 256
EVENT_TYPE_BYTES_MAX = 256
CONTENT_TYPE_BYTES_MAX = 256
METADATA_BYTES_MAX = 64 * 1024
EVENTS_PER_APPEND_MAX = 1000
"""Events of one aggregate that are appended together."""
VERSION_MAX = (1 << 63) - 1


class Expectation(enum.Enum):
    """What a writer may expect of an aggregate, beside a version."""

    ANY = "any"
    """Nothing: it may have any number of events."""
    EXISTS = "exists"
    """It has at least one event."""


ANY = Expectation.ANY
EXISTS = Expectation.EXISTS
NO_STREAM = 0
"""The aggregate has no event yet."""

ExpectedVersion = int | Expectation
"""A version is the number of events that an aggregate has."""


@attrs.frozen(slots=True, kw_only=True)
class Event:
    """An event to be appended.

    Attributes:
        type: what has happened, such as "UserCreated". Not empty.
        payload: bytes are kept as they are. Any other value is written as JSON; so are bytes of JSON, which are not written anew.
        content_type: what the payload is.
        metadata: a JSON value beside the payload, or its bytes; None: there is none.
        event_id: names the event within its aggregate for ever: appended again, it is answered with the original. "": a random
            one is made, so that the call itself is safe to repeat.
        timestamp_ns: nanoseconds since 1970 UTC; 0: the leader stamps it.
        closes: the aggregate is closed by this event: further ones are refused unless the writer asks for it to be opened again.
    """

    type: str
    payload: object = None
    content_type: str = JSON
    metadata: object = None
    event_id: str = ""
    timestamp_ns: int = 0
    closes: bool = False


@attrs.frozen(slots=True, kw_only=True)
class NewEvent:
    """An `Event` in the form in which it goes into the log. `metadata`: JSON, or empty for none."""

    event_id: str
    type: str
    data: bytes
    content_type: str = JSON
    metadata: bytes = b""
    timestamp_ns: int = 0
    closes: bool = False


@attrs.frozen(slots=True, kw_only=True)
class RecordedEvent:
    """An event in the log.

    Attributes:
        version: the number of events of the aggregate up to and with this one: the first has version 1.
        data: the payload, byte for byte as it was appended.
        metadata: JSON, byte for byte; empty when there is none.
        timestamp_ns: nanoseconds since 1970 UTC.
        closes: the aggregate was closed by it.
        topic, partition, offset: where it is.
    """

    event_id: str
    type: str
    aggregate_id: str
    version: int
    data: bytes
    content_type: str
    metadata: bytes
    timestamp_ns: int
    closes: bool
    offset: int
    topic: str = ""
    partition: int = 0

    @property
    def payload(self) -> Any:
        """The payload as a JSON value; the bytes themselves when its content type is not JSON."""
        return json.loads(self.data) if is_json(self.content_type) else self.data

    @property
    def index(self) -> int:
        """The number of records of its partition up to and with this one."""
        return self.offset + 1


@attrs.frozen(slots=True)
class EventHead:
    """What the index keeps of an event in the log. Attributes: as of `RecordedEvent`."""

    offset: int
    aggregate_id: str
    event_id: str
    type: str
    version: int
    closes: bool = False


@attrs.frozen(slots=True, kw_only=True)
class AppendResult:
    """Where events are.

    Attributes:
        version: of the aggregate, with the last of them.
        first_offset: of the first one. The others are behind it without a gap.
        event_ids: in the order of the events.
        duplicate: they were in the log before this call, which has changed nothing.
    """

    topic: str
    partition: int
    aggregate_id: str
    version: int
    first_offset: int
    event_ids: tuple[str, ...]
    duplicate: bool = False

    @property
    def first_version(self) -> int:
        return self.version - len(self.event_ids) + 1

    @property
    def offset(self) -> int:
        """Of the last one."""
        return self.first_offset + len(self.event_ids) - 1


@attrs.frozen(slots=True, kw_only=True)
class AggregatePage:
    """Some events of an aggregate.

    Attributes:
        version: of the aggregate when it was read; 0: it has no events.
        is_closed: its last event has closed it.
    """

    events: Sequence[RecordedEvent]
    version: int
    is_closed: bool


@attrs.frozen(slots=True, kw_only=True)
class EventPage:
    """Some events of a topic, each partition in its order.

    Attributes:
        next: where to go on: the argument `after` of the next call.
        is_end: nothing was behind them when they were read.
    """

    events: Sequence[RecordedEvent]
    next: str
    is_end: bool


def is_json(content_type: str) -> bool:
    """Whether a payload of this type is JSON: application/json, or a type that ends in +json."""
    if content_type == JSON:
        return True
    essence = content_type.partition(";")[0].strip().lower()
    return essence == JSON or essence.endswith("+json")


def new_event(event: Event, make_id: Any) -> NewEvent:
    """The event as it goes into the log. Raises InvalidArgument for what none can be."""
    if not isinstance(event, Event):
        raise InvalidArgument(f"{event!r} is no Event")
    return NewEvent(
        event_id=event.event_id or make_id(),
        type=event.type,
        data=_json_bytes("payload", event.payload) if not isinstance(event.payload, bytes | bytearray) else bytes(event.payload),
        content_type=event.content_type,
        metadata=b"" if event.metadata is None else _json_bytes("metadata", event.metadata),
        timestamp_ns=event.timestamp_ns,
        closes=event.closes,
    )


def _json_bytes(name: str, value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the {name} of an event cannot be written as JSON: {error}") from error


def check_append(aggregate_id: object, events: Sequence[NewEvent], expected_version: object) -> None:
    """Raises InvalidArgument for what cannot be appended, whatever is in the log."""
    _check_text("the aggregate id", aggregate_id, AGGREGATE_ID_BYTES_MAX)
    if not isinstance(expected_version, Expectation) and (
        type(expected_version) is not int or not 0 <= expected_version <= VERSION_MAX
    ):
        raise InvalidArgument(f"expected version {expected_version!r}: a number of events from 0 on, ANY or EXISTS")
    if not 1 <= len(events) <= EVENTS_PER_APPEND_MAX:
        raise InvalidArgument(f"{len(events)} events in one call: 1 to {EVENTS_PER_APPEND_MAX} are appended together")
    for event in events:
        _check_event(event)
    if len({event.event_id for event in events}) < len(events):
        raise InvalidArgument("two events of one call have the same event id: each has its own")


def _check_event(event: NewEvent) -> None:
    _check_text("an event's type", event.type, EVENT_TYPE_BYTES_MAX)
    _check_text("an event's id", event.event_id, EVENT_ID_BYTES_MAX)
    _check_text("an event's content type", event.content_type, CONTENT_TYPE_BYTES_MAX)
    if not isinstance(event.closes, bool):
        raise InvalidArgument(f"closes is {event.closes!r}: it is true or false")
    if type(event.timestamp_ns) is not int or not 0 <= event.timestamp_ns < 1 << 63:
        raise InvalidArgument(f"an event's timestamp is {event.timestamp_ns!r} ns: between 1970 and 2262 is what can be stored")
    if is_json(event.content_type):
        _check_json("the payload of an event", event.data)
    if len(event.metadata) > METADATA_BYTES_MAX:
        raise InvalidArgument(f"the metadata of an event has {len(event.metadata)} bytes, and {METADATA_BYTES_MAX} are the most")
    if event.metadata:
        _check_json("the metadata of an event", event.metadata)


def _check_json(name: str, data: bytes) -> None:
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name} is no JSON: {error}") from error


def _check_text(name: str, value: object, bytes_max: int) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{name} is {value!r}: it has to be a text that is not empty")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name} has characters that have no encoding") from error
    if size_bytes > bytes_max:
        raise InvalidArgument(f"{name} has {size_bytes} bytes in UTF-8, and {bytes_max} are the most")
