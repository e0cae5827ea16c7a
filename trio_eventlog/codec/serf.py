"""Serf on the wire: what memberlist carries for it as user messages, user state, node meta and ack payload.

A message is a type byte and a MessagePack map; docs/design/gossip.md has the fields. Decoders are total: any bytes give a
value or CodecError.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from trio_eventlog.codec.msgpack import Fields, Reader, decode_text, finite, pack
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.messages import (
    Address,
    ConflictAnswer,
    EventsAt,
    JoinIntent,
    KeyAnswer,
    LeaveIntent,
    NameFilter,
    Query,
    QueryFilter,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfState,
    TagFilter,
    UserEvent,
    Versions,
)

LEAVE = 0
JOIN = 1
STATE = 2
USER_EVENT = 3
QUERY = 4
QUERY_RESPONSE = 5
CONFLICT_ANSWER = 6
KEY_REQUEST = 7
KEY_ANSWER = 8
RELAY = 9

TAGS = 0xFF
TAGS_BYTES_MAX = 512
NAME_BYTES_MAX = 512
PAYLOAD_BYTES_MAX = 9 * 1024
"""Hard limit of an event; queries and their answers are far smaller."""
FILTERS_MAX = 64
FILTER_NAMES_MAX = 1024
FILTER_EXPRESSION_BYTES_MAX = 512
STATE_ITEMS_MAX = 1 << 20
"""Values in a push/pull's state: names, times, events."""
COORDINATE_VERSION = 1
COORDINATE_DIMENSIONS = 8

_NANOSECONDS = 1_000_000_000
_NAME_FILTER = 0
_TAG_FILTER = 1


def encode_serf(message: SerfMessage) -> bytes:
    """A message as the body of a user message. Raises CodecError when a field is over its limit."""
    match message:
        case LeaveIntent():
            return _encode(LEAVE, {"LTime": message.time, "Node": message.name, "Prune": message.prune})
        case JoinIntent():
            return _encode(JOIN, {"LTime": message.time, "Node": message.name})
        case UserEvent():
            _check_payload(message.payload)
            fields: dict[str, Any] = {
                "CC": message.coalesce,
                "LTime": message.time,
                "Name": message.name,
                "Payload": message.payload,
            }
            return _encode(USER_EVENT, fields)
        case Query():
            _check_payload(message.payload)
            fields = {
                "Addr": message.source.host,
                "Filters": [_encode_filter(one) for one in message.filters] or None,
                "Flags": message.flags,
                "ID": message.query_id,
                "LTime": message.time,
                "Name": message.name,
                "Payload": message.payload,
                "Port": message.source.port,
                "RelayFactor": message.relay_factor,
                "SourceNode": message.source_name,
                "Timeout": round(message.timeout_seconds * _NANOSECONDS),
            }
            return _encode(QUERY, fields)
        case QueryResponse():
            _check_payload(message.payload)
            fields = {
                "Flags": message.flags,
                "From": message.sender,
                "ID": message.query_id,
                "LTime": message.time,
                "Payload": message.payload or None,
            }
            return _encode(QUERY_RESPONSE, fields)
        case Relay():
            destination = {"IP": message.address.host, "Port": message.address.port, "Zone": ""}
            return _encode(RELAY, {"DestAddr": destination, "DestName": message.name}) + message.body


def _encode(code: int, fields: Mapping[str, Any]) -> bytes:
    return bytes((code,)) + pack(fields)


def _check_payload(payload: bytes) -> None:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise CodecError(f"serf: a payload of {len(payload)} bytes, the limit is {PAYLOAD_BYTES_MAX}")


def decode_serf(body: bytes) -> SerfMessage:
    """The message. Raises CodecError, also for types that do not travel as user messages."""
    if not body:
        raise CodecError("serf: an empty message")
    code = body[0]
    if code not in _NAMES:
        raise CodecError(f"serf: a message of type {code}")
    reader = Reader(body, 1)
    fields = Fields(_NAMES[code], reader.read())
    if code == LEAVE:
        return LeaveIntent(
            time=fields.unsigned(b"LTime", 64), name=fields.text(b"Node", NAME_BYTES_MAX), prune=fields.flag(b"Prune")
        )
    if code == JOIN:
        return JoinIntent(time=fields.unsigned(b"LTime", 64), name=fields.text(b"Node", NAME_BYTES_MAX))
    if code == USER_EVENT:
        return UserEvent(
            time=fields.unsigned(b"LTime", 64),
            name=fields.text(b"Name", NAME_BYTES_MAX),
            payload=fields.raw(b"Payload", PAYLOAD_BYTES_MAX),
            coalesce=fields.flag(b"CC"),
        )
    if code == QUERY:
        return _decode_query(fields)
    if code == QUERY_RESPONSE:
        return QueryResponse(
            time=fields.unsigned(b"LTime", 64),
            query_id=fields.unsigned(b"ID", 32),
            sender=fields.text(b"From", NAME_BYTES_MAX),
            flags=fields.unsigned(b"Flags", 32),
            payload=fields.raw(b"Payload", PAYLOAD_BYTES_MAX),
        )
    destination = Fields("relay destination", fields.mapping(b"DestAddr"))
    return Relay(
        address=_address(destination.raw(b"IP", 16), destination.unsigned(b"Port", 16)),
        name=fields.text(b"DestName", NAME_BYTES_MAX),
        body=body[reader.position :],
    )


def _decode_query(fields: Fields) -> Query:
    filters = fields.sequence(b"Filters")
    if len(filters) > FILTERS_MAX:
        raise CodecError(f"query: {len(filters)} filters")
    return Query(
        time=fields.unsigned(b"LTime", 64),
        query_id=fields.unsigned(b"ID", 32),
        source=_address(fields.raw(b"Addr", 16), fields.unsigned(b"Port", 16)),
        source_name=fields.text(b"SourceNode", NAME_BYTES_MAX),
        name=fields.text(b"Name", NAME_BYTES_MAX),
        payload=fields.raw(b"Payload", PAYLOAD_BYTES_MAX),
        filters=tuple(_decode_filter(one) for one in filters),
        flags=fields.unsigned(b"Flags", 32),
        relay_factor=fields.unsigned(b"RelayFactor", 8),
        timeout_seconds=max(0, fields.signed(b"Timeout")) / _NANOSECONDS,
    )


def _address(host: bytes, port: int) -> Address:
    if len(host) not in (4, 16):
        raise CodecError(f"serf: an address of {len(host)} bytes")
    return Address(host, port)


def _encode_filter(one: QueryFilter) -> bytes:
    if isinstance(one, NameFilter):
        return bytes((_NAME_FILTER,)) + pack(list(one.names))
    return bytes((_TAG_FILTER,)) + pack({"Expr": one.expression, "Tag": one.tag})


def _decode_filter(raw: Any) -> QueryFilter:
    if type(raw) is not bytes or not raw:
        raise CodecError("query: a filter that is not bytes")
    value = Reader(raw, 1).read()
    if raw[0] == _NAME_FILTER:
        if type(value) is not list or len(value) > FILTER_NAMES_MAX:
            raise CodecError("query: a name filter that is no list, or too long a one")
        return NameFilter(tuple(_text(name) for name in value))
    if raw[0] == _TAG_FILTER:
        fields = Fields("tag filter", value)
        return TagFilter(fields.text(b"Tag", TAGS_BYTES_MAX), fields.text(b"Expr", FILTER_EXPRESSION_BYTES_MAX))
    raise CodecError(f"query: a filter of type {raw[0]}")


def _text(value: Any) -> str:
    if type(value) is not bytes or len(value) > NAME_BYTES_MAX:
        raise CodecError("serf: a name that is no text, or too long a one")
    return decode_text(value)


# --- The state in a push/pull. ---


def encode_serf_state(state: SerfState) -> bytes:
    """The user state of a push/pull, with its type byte."""
    fields = {
        "EventLTime": state.event_time,
        "Events": [
            {"Events": [{"Name": name, "Payload": payload} for name, payload in at.events], "LTime": at.time} for at in state.events
        ],
        "LTime": state.time,
        "LeftMembers": list(state.left_members),
        "QueryLTime": state.query_time,
        "StatusLTimes": state.status_times,
    }
    return _encode(STATE, fields)


def decode_serf_state(body: bytes) -> SerfState:
    """The inverse; empty event slots are left out. Raises CodecError."""
    if body[:1] != bytes((STATE,)):
        raise CodecError("serf: a push/pull state of another type")
    fields = Fields("state", Reader(body, 1, items_max=STATE_ITEMS_MAX).read())
    status_times = {}
    for name, time in fields.mapping(b"StatusLTimes").items():
        if type(time) is not int or not 0 <= time < 1 << 64:
            raise CodecError("state: a status time that is none")
        status_times[_text(name)] = time
    events = [_decode_events(one) for one in fields.sequence(b"Events") if one is not None]
    return SerfState(
        time=fields.unsigned(b"LTime", 64),
        status_times=status_times,
        left_members=tuple(_text(name) for name in fields.sequence(b"LeftMembers")),
        event_time=fields.unsigned(b"EventLTime", 64),
        events=tuple(events),
        query_time=fields.unsigned(b"QueryLTime", 64),
    )


def _decode_events(value: Any) -> EventsAt:
    fields = Fields("state events", value)
    events = []
    for one in fields.sequence(b"Events"):
        event = Fields("state event", one)
        events.append((event.text(b"Name", NAME_BYTES_MAX), event.raw(b"Payload", PAYLOAD_BYTES_MAX)))
    return EventsAt(fields.unsigned(b"LTime", 64), tuple(events))


# --- Tags. ---


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Node meta. Raises CodecError when it is over the 512 bytes that every message about a member has to carry."""
    meta = bytes((TAGS,)) + pack(dict(sorted(tags.items())))
    if len(meta) > TAGS_BYTES_MAX:
        raise CodecError(f"tags of {len(meta)} bytes, the limit is {TAGS_BYTES_MAX}: shorten them")
    return meta


def decode_tags(meta: bytes) -> dict[str, str]:
    """Tags of node meta; meta from before tags is the tag `role`. Raises CodecError."""
    if meta[:1] != bytes((TAGS,)):
        return {"role": decode_text(meta)}
    value = Reader(meta, 1).read()
    if type(value) is not dict:
        raise CodecError("tags: a map expected")
    return {_text(name): _text(text) for name, text in value.items()}


# --- Payloads of internal queries. ---


def encode_key_request(key: bytes) -> bytes:
    """Payload of a key query; the key is raw."""
    return _encode(KEY_REQUEST, {"Key": key})


def decode_key_request(payload: bytes) -> bytes:
    """The key; empty when there is none. Raises CodecError."""
    if not payload:
        return b""
    if payload[0] != KEY_REQUEST:
        raise CodecError("key request: another type")
    return Fields("key request", Reader(payload, 1).read()).raw(b"Key", 64)


def encode_key_answer(answer: KeyAnswer) -> bytes:
    """Payload of the response to a key query."""
    fields = {
        "Keys": list(answer.keys),
        "Message": answer.text,
        "PrimaryKey": answer.primary_key,
        "Result": answer.succeeded,
    }
    return _encode(KEY_ANSWER, fields)


def decode_key_answer(payload: bytes) -> KeyAnswer:
    """The inverse. Raises CodecError."""
    if payload[:1] != bytes((KEY_ANSWER,)):
        raise CodecError("key answer: another type")
    fields = Fields("key answer", Reader(payload, 1).read())
    return KeyAnswer(
        succeeded=fields.flag(b"Result"),
        text=fields.text(b"Message", PAYLOAD_BYTES_MAX),
        keys=tuple(_text(key) for key in fields.sequence(b"Keys")),
        primary_key=fields.text(b"PrimaryKey", NAME_BYTES_MAX),
    )


def encode_conflict_answer(answer: ConflictAnswer | None) -> bytes:
    """Payload of the response to `_serf_conflict`; None: no such member."""
    if answer is None:
        return _encode_nil(CONFLICT_ANSWER)
    fields = {
        "Addr": answer.address.host,
        "DelegateCur": answer.versions.layer,
        "DelegateMax": answer.versions.layer_max,
        "DelegateMin": answer.versions.layer_min,
        "Name": answer.name,
        "Port": answer.address.port,
        "ProtocolCur": answer.versions.protocol,
        "ProtocolMax": answer.versions.protocol_max,
        "ProtocolMin": answer.versions.protocol_min,
        "Status": answer.status,
        "Tags": answer.tags,
    }
    return _encode(CONFLICT_ANSWER, fields)


def _encode_nil(code: int) -> bytes:
    return bytes((code,)) + pack(None)


def decode_conflict_answer(payload: bytes) -> ConflictAnswer | None:
    """The inverse. Raises CodecError."""
    if payload[:1] != bytes((CONFLICT_ANSWER,)):
        raise CodecError("conflict answer: another type")
    value = Reader(payload, 1).read()
    if value is None:
        return None
    fields = Fields("conflict answer", value)
    return ConflictAnswer(
        name=fields.text(b"Name", NAME_BYTES_MAX),
        address=_address(fields.raw(b"Addr", 16), fields.unsigned(b"Port", 16)),
        tags={_text(name): _text(text) for name, text in fields.mapping(b"Tags").items()},
        status=fields.unsigned(b"Status", 8),
        versions=Versions(
            fields.unsigned(b"ProtocolMin", 8),
            fields.unsigned(b"ProtocolMax", 8),
            fields.unsigned(b"ProtocolCur", 8),
            fields.unsigned(b"DelegateMin", 8),
            fields.unsigned(b"DelegateMax", 8),
            fields.unsigned(b"DelegateCur", 8),
        ),
    )


# --- Coordinates. ---


@attrs.frozen(slots=True, kw_only=True)
class Coordinate:
    """A place in the network's coordinate system; distances are round trips in seconds. Ours is always the origin."""

    vector: tuple[float, ...] = (0.0,) * COORDINATE_DIMENSIONS
    error: float = 1.5
    adjustment: float = 0.0
    height: float = 1e-5


def encode_coordinate(coordinate: Coordinate) -> bytes:
    """Payload of an ack. With the origin in it, `serf rtt` works against this node."""
    fields = {
        "Adjustment": coordinate.adjustment,
        "Error": coordinate.error,
        "Height": coordinate.height,
        "Vec": list(coordinate.vector),
    }
    return _encode(COORDINATE_VERSION, fields)


def decode_coordinate(payload: bytes) -> Coordinate | None:
    """The inverse; None for an empty payload. Raises CodecError, also for numbers that are not finite."""
    if not payload:
        return None
    if payload[0] != COORDINATE_VERSION:
        raise CodecError(f"coordinate: version {payload[0]}")
    fields = Fields("coordinate", Reader(payload, 1).read())
    vector = fields.sequence(b"Vec")
    if len(vector) != COORDINATE_DIMENSIONS:
        raise CodecError(f"coordinate: {len(vector)} dimensions")
    return Coordinate(
        vector=tuple(finite(one, "coordinate.Vec") for one in vector),
        error=fields.real(b"Error"),
        adjustment=fields.real(b"Adjustment"),
        height=fields.real(b"Height"),
    )


ORIGIN_PAYLOAD = encode_coordinate(Coordinate())

_NAMES = {
    LEAVE: "leave intent",
    JOIN: "join intent",
    USER_EVENT: "user event",
    QUERY: "query",
    QUERY_RESPONSE: "query response",
    RELAY: "relay",
}
