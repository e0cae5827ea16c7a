"""Messages between members, as values; their bytes are made in `codec/memberlist.py` and `codec/serf.py`.

The first half is the failure detector's (memberlist), the second the layer above it (Serf). Names are text; bytes in them that
are not UTF-8 travel as surrogate escapes. Times are Lamport times unless the name says otherwise.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

import attrs


class Address(NamedTuple):
    """Where a member listens: the bytes of its IP address as they came (4, or 16; also a mapped IPv4) and the port.

    Kept as received, since others compare and pass them on byte by byte; only the driver unmaps them.
    """

    host: bytes
    port: int


class RowStatus(enum.IntEnum):
    """A member as the failure detector knows it, numbered as on the wire."""

    ALIVE = 0
    SUSPECT = 1
    FAILED = 2
    LEFT = 3


class Versions(NamedTuple):
    """Versions of the failure detector's protocol, and of the layer above it, that a member understands and uses."""

    protocol_min: int
    protocol_max: int
    protocol: int
    layer_min: int
    layer_max: int
    layer: int


OWN_VERSIONS = Versions(1, 5, 2, 2, 5, 5)
NO_VERSIONS = Versions(0, 0, 0, 0, 0, 0)
TCP_PING_PROTOCOL = 3
"""From here on a member answers pings on a stream."""
NACK_PROTOCOL = 4
"""From here on a member sends nacks when asked."""
CRC_PROTOCOL = 5
"""From here on a member understands packets with a checksum."""

INCARNATION_MAX = (1 << 32) - 1
SEQUENCE_MAX = (1 << 32) - 1


# --- The failure detector. ---


@attrs.frozen(slots=True, kw_only=True)
class Ping:
    """Are you there, `target`? Answered with an `Ack` of the same sequence to `source` (None: where the packet came from)."""

    sequence: int
    target: str
    source: Address | None = None
    source_name: str = ""


@attrs.frozen(slots=True, kw_only=True)
class IndirectPing:
    """Ping `target` at `address` on behalf of the sender; with `wants_nack`, answer with a nack when it does not answer."""

    sequence: int
    target: str
    address: Address
    wants_nack: bool = False
    source: Address | None = None
    source_name: str = ""


@attrs.frozen(slots=True)
class Ack:
    """The answer to a ping; `payload` is the upper layer's (a network coordinate, or nothing)."""

    sequence: int
    payload: bytes = b""


@attrs.frozen(slots=True)
class Nack:
    """The target of an indirect ping has not answered me either; but I am well."""

    sequence: int


@attrs.frozen(slots=True, kw_only=True)
class Suspect:
    """`accuser` had no answer from `name`."""

    name: str
    incarnation: int
    accuser: str


@attrs.frozen(slots=True, kw_only=True)
class Alive:
    """`name` is alive at `address`; first sent by itself, then passed on by others."""

    name: str
    incarnation: int
    address: Address
    meta: bytes = b""
    versions: Versions = NO_VERSIONS


@attrs.frozen(slots=True, kw_only=True)
class Dead:
    """`accuser` holds `name` for failed; or, when they are the same, `name` has left."""

    name: str
    incarnation: int
    accuser: str


@attrs.frozen(slots=True, kw_only=True)
class MemberRecord:
    """One row of a push/pull."""

    name: str
    address: Address
    incarnation: int
    status: RowStatus
    meta: bytes = b""
    versions: Versions = NO_VERSIONS


@attrs.frozen(slots=True, kw_only=True)
class PushPull:
    """All that a member knows, exchanged on a stream. `state` is None when the sender has no upper layer."""

    members: tuple[MemberRecord, ...]
    is_join: bool = False
    state: "SerfState | None" = None


@attrs.frozen(slots=True)
class ErrorText:
    """On streams only: why the other side does not go on."""

    text: str


@attrs.frozen(slots=True)
class UserMessage:
    """A message of the upper layer."""

    message: "SerfMessage"


@attrs.frozen(slots=True)
class UserBytes:
    """A message of the upper layer, as bytes: to be passed on unread, or not understood."""

    body: bytes


# --- The layer above: Serf. ---


@attrs.frozen(slots=True, kw_only=True)
class LeaveIntent:
    """`name` is leaving; sent by itself, or by another member for one that has failed. `prune`: remove it from the list at once."""

    time: int
    name: str
    prune: bool = False


@attrs.frozen(slots=True, kw_only=True)
class JoinIntent:
    """`name` is here to stay; outweighs older leave intents."""

    time: int
    name: str


@attrs.frozen(slots=True, kw_only=True)
class UserEvent:
    """An event that the application sends to every member. `coalesce`: of several with this name only the newest counts."""

    time: int
    name: str
    payload: bytes = b""
    coalesce: bool = False


@attrs.frozen(slots=True)
class NameFilter:
    """Only members of these names answer a query."""

    names: tuple[str, ...]


@attrs.frozen(slots=True)
class TagFilter:
    """Only members whose tag matches the regular expression (searched, not anchored) answer a query."""

    tag: str
    expression: str


QueryFilter = NameFilter | TagFilter

QUERY_FLAG_ACK = 1
"""Each member that the filters choose says at once that the query has come."""
QUERY_FLAG_NO_REBROADCAST = 2
RESPONSE_FLAG_ACK = 1
"""This response is the ack."""


@attrs.frozen(slots=True, kw_only=True)
class Query:
    """A question to every member that all `filters` choose; answers go straight to `source`."""

    time: int
    query_id: int
    source: Address
    source_name: str
    name: str
    payload: bytes = b""
    filters: tuple[QueryFilter, ...] = ()
    flags: int = 0
    relay_factor: int = 0
    timeout_seconds: float = 0.0


@attrs.frozen(slots=True, kw_only=True)
class QueryResponse:
    """An answer, or the ack, to the query of this time and id."""

    time: int
    query_id: int
    sender: str
    flags: int = 0
    payload: bytes = b""


@attrs.frozen(slots=True, kw_only=True)
class Relay:
    """Pass `body`, a whole message of this layer, on to `name` at `address`."""

    address: Address
    name: str
    body: bytes


SerfMessage = LeaveIntent | JoinIntent | UserEvent | Query | QueryResponse | Relay


class EventsAt(NamedTuple):
    """User events of one Lamport time: names and payloads."""

    time: int
    events: tuple[tuple[str, bytes], ...]


@attrs.frozen(slots=True, kw_only=True)
class SerfState:
    """The upper layer's part of a push/pull.

    Attributes:
        time, event_time, query_time: the sender's three clocks.
        status_times: by name, the time of the last intent about the member.
        left_members: names of those that have left.
        events: recent user events, oldest first.
    """

    time: int
    status_times: Mapping[str, int]
    left_members: tuple[str, ...] = ()
    event_time: int = 0
    events: tuple[EventsAt, ...] = ()
    query_time: int = 0


@attrs.frozen(slots=True, kw_only=True)
class ConflictAnswer:
    """A member as the answerer of `_serf_conflict` knows it."""

    name: str
    address: Address
    tags: Mapping[str, str]
    status: int
    versions: Versions


class KeyOperation(enum.Enum):
    """What a key query asks for; the value is the query's name."""

    INSTALL = "_serf_install-key"
    USE = "_serf_use-key"
    REMOVE = "_serf_remove-key"
    LIST = "_serf_list-keys"


@attrs.frozen(slots=True, kw_only=True)
class KeyAnswer:
    """How a key operation went on one member; keys in base64."""

    succeeded: bool
    text: str = ""
    keys: tuple[str, ...] = ()
    primary_key: str = ""


PING_QUERY = "_serf_ping"
CONFLICT_QUERY = "_serf_conflict"
INTERNAL_QUERY_PREFIX = "_serf_"

Message = Ping | IndirectPing | Ack | Nack | Suspect | Alive | Dead | UserMessage | UserBytes
"""What datagrams carry."""

StreamMessage = Ping | Ack | PushPull | UserMessage | UserBytes | ErrorText
"""What streams carry."""
