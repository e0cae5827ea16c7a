"""Events as JSON, and as CloudEvents."""

import base64
import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from trio_eventlog.events import (
    ANY,
    EVENTS_PER_APPEND_MAX,
    EXISTS,
    JSON,
    VERSION_MAX,
    AppendResult,
    Event,
    ExpectedVersion,
    RecordedEvent,
    is_json,
)
from trio_eventlog.http.problems import invalid_field
from trio_eventlog.http.shapes import NANOSECONDS, rfc3339

AggregateId = Annotated[str, Meta(min_length=1, max_length=1024)]
EventType = Annotated[str, Meta(min_length=1, max_length=256)]
Expected = Annotated[
    Annotated[int, Meta(ge=0, le=VERSION_MAX)] | Literal["any", "exists"],
    Meta(description="Number of events that the aggregate has (0: none yet), or exists, or any."),
]


class EventIn(Struct, forbid_unknown_fields=True):
    """An event to be appended. Its payload is any JSON, kept as it is written, or bytes as base64 with their content type."""

    type: EventType
    payload: msgspec.Raw | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET
    content_type: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    event_id: Annotated[str, Meta(max_length=256)] = ""
    closes: bool = False

    def event(self, pointer: str) -> Event:
        """Raises HttpProblem with a pointer that begins with `pointer`."""
        has_bytes = self.payload_base64 is not UNSET
        if has_bytes and self.payload is not UNSET:
            raise invalid_field("give one of payload and payload_base64", f"{pointer}/payload")
        if has_bytes and self.content_type is UNSET:
            raise invalid_field("say what payload_base64 is", f"{pointer}/content_type")
        data = b"null"
        if isinstance(self.payload_base64, bytes):
            data = self.payload_base64
        elif not isinstance(self.payload, UnsetType):
            data = bytes(self.payload)
        metadata = self.metadata
        return Event(
            type=self.type,
            payload=data,
            content_type=JSON if self.content_type is UNSET else self.content_type,
            metadata=None if isinstance(metadata, UnsetType) or bytes(metadata) == b"null" else bytes(metadata),
            event_id=self.event_id,
            closes=self.closes,
        )


class AppendIn(Struct, forbid_unknown_fields=True):
    """One event, or in `events` several of one aggregate, which are appended together or not at all."""

    aggregate_id: AggregateId
    type: EventType | UnsetType = UNSET
    payload: msgspec.Raw | UnsetType = UNSET
    payload_base64: bytes | UnsetType = UNSET
    content_type: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    metadata: msgspec.Raw | UnsetType = UNSET
    event_id: Annotated[str, Meta(max_length=256)] = ""
    closes: bool = False
    events: Annotated[list[EventIn], Meta(min_length=1, max_length=EVENTS_PER_APPEND_MAX)] | UnsetType = UNSET
    expected_version: Expected = "any"
    reopens: bool = False

    def all_events(self) -> list[Event]:
        """Raises HttpProblem with a pointer to the field."""
        if not isinstance(self.events, UnsetType):
            if self.type is not UNSET or self.payload is not UNSET or self.payload_base64 is not UNSET or self.event_id:
                raise invalid_field("give one event, or several in events", "#/events")
            return [one.event(f"#/events/{number}") for number, one in enumerate(self.events)]
        if isinstance(self.type, UnsetType):
            raise invalid_field("Object missing required field `type`", "#/type")
        one = EventIn(
            type=self.type,
            payload=self.payload,
            payload_base64=self.payload_base64,
            content_type=self.content_type,
            metadata=self.metadata,
            event_id=self.event_id,
            closes=self.closes,
        )
        return [one.event("#")]


def expected_version(given: int | str) -> ExpectedVersion:
    return given if isinstance(given, int) else EXISTS if given == "exists" else ANY


class AppendedOut(Struct):
    """Where the events are. `event_id`, `index` and `offset` are those of the last one; `index` is its offset and one."""

    success: bool
    event_id: str
    index: int
    offset: int
    version: int
    aggregate_id: str
    partition: int
    first_version: int
    event_ids: list[str]
    duplicate: bool

    @classmethod
    def of(cls, result: AppendResult) -> "AppendedOut":
        return cls(
            success=True,
            event_id=result.event_ids[-1],
            index=result.offset + 1,
            offset=result.offset,
            version=result.version,
            aggregate_id=result.aggregate_id,
            partition=result.partition,
            first_version=result.first_version,
            event_ids=list(result.event_ids),
            duplicate=result.duplicate,
        )


class EventOut(Struct, omit_defaults=True):
    """An event. `timestamp` is in seconds since 1970, `time` the same in full. A payload that is no JSON is in `payload_base64`."""

    id: str
    type: str
    timestamp: int
    time: str
    aggregate_id: str
    version: int
    index: int
    offset: int
    partition: int
    payload: Any = UNSET
    payload_base64: str | None = None
    content_type: str = JSON
    metadata: Any = UNSET
    closes: bool = False

    @classmethod
    def of(cls, event: RecordedEvent) -> "EventOut":
        has_json = is_json(event.content_type)
        return cls(
            id=event.event_id,
            type=event.type,
            timestamp=event.timestamp_ns // NANOSECONDS,
            time=rfc3339(event.timestamp_ns),
            aggregate_id=event.aggregate_id,
            version=event.version,
            index=event.index,
            offset=event.offset,
            partition=event.partition,
            payload=msgspec.Raw(event.data) if has_json else UNSET,
            payload_base64=None if has_json else base64.b64encode(event.data).decode(),
            content_type=event.content_type,
            metadata=msgspec.Raw(event.metadata) if event.metadata else UNSET,
            closes=event.closes,
        )


class AggregateOut(Struct):
    """Some events of an aggregate. `version` is that of the aggregate; 0: it has none."""

    events: list[EventOut]
    count: int
    aggregate_id: str
    version: int
    closed: bool


class EventsOut(Struct):
    """Some events. The next page is `from=next`; `end`: nothing was behind them."""

    events: list[EventOut]
    count: int
    next: str
    end: bool


# CloudEvents 1.0

CLOUD_EVENT_TYPE = "application/cloudevents+json"
CLOUD_EVENTS_TYPE = "application/cloudevents-batch+json"
_OWN = frozenset({"id", "source", "type", "subject", "datacontenttype", "data", "data_base64"})
"""Attributes that are the event's own here; all others go into its metadata, below `cloudevents`."""


def cloud_event(attributes: dict[str, Any], data: bytes | None, pointer: str) -> tuple[str, Event]:
    """Aggregate id and event of a CloudEvent: its subject, and its source and id together.

    Args:
        data: of a binary one; None: it is among the attributes.

    Raises:
        HttpProblem: an attribute is missing or wrong.
    """
    for name in ("id", "source", "type", "subject", "specversion"):
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            needed = "it is the aggregate id" if name == "subject" else "CloudEvents have it"
            raise invalid_field(f"a text is needed: {needed}", f"{pointer}/{name}")
    content_type = attributes.get("datacontenttype", JSON)
    if not isinstance(content_type, str):
        raise invalid_field("it is a text", f"{pointer}/datacontenttype")
    if data is None:
        data = _cloud_data(attributes, content_type, pointer)
    more = {name: value for name, value in attributes.items() if name not in _OWN} | {
        "id": attributes["id"],
        "source": attributes["source"],
    }
    event = Event(
        type=attributes["type"],
        payload=data,
        content_type=content_type,
        metadata={"cloudevents": more},
        event_id=f"{attributes['source']}#{attributes['id']}",
    )
    return attributes["subject"], event


def _cloud_data(attributes: dict[str, Any], content_type: str, pointer: str) -> bytes:
    if "data_base64" in attributes:
        try:
            return base64.b64decode(attributes["data_base64"], validate=True)
        except (TypeError, ValueError) as error:
            raise invalid_field("it is no base64", f"{pointer}/data_base64") from error
    data = attributes.get("data")
    if isinstance(data, msgspec.Raw):
        if is_json(content_type):
            return bytes(data)
        data = json.loads(bytes(data))
    if data is None and is_json(content_type):
        return b"null"
    if not isinstance(data, str):
        raise invalid_field("data that is no JSON is a text, or data_base64", f"{pointer}/data")
    return data.encode()


def decoded_cloud_event(raw: bytes, pointer: str) -> dict[str, Any]:
    """The attributes of a structured CloudEvent, `data` as it is written. Raises HttpProblem."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        return {name: value if name == "data" else msgspec.json.decode(value) for name, value in fields.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_field(f"no CloudEvent: {error}", pointer) from error
