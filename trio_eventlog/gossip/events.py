"""Events for the application: plain values, delivered in order."""

import enum
from collections.abc import Mapping

import attrs

from trio_eventlog.gossip.messages import Address, Query, UserEvent, Versions


class GossipStatus(enum.IntEnum):
    """A member as the application sees it, numbered as in conflict answers."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4


@attrs.frozen(slots=True, kw_only=True)
class Member:
    """A member at one moment.

    Attributes:
        address: as it came; port 0 is replaced by the default port.
        incarnation: the member's own counter.
        status_time: Lamport time of the last intent about it.
        is_suspect: this node or another has had no answer from it for a while.
    """

    name: str
    address: Address
    tags: Mapping[str, str]
    status: GossipStatus
    incarnation: int
    status_time: int = 0
    is_suspect: bool = False
    versions: Versions


@attrs.frozen(slots=True)
class MemberJoined:
    """New, or back after it had failed or left (`has_flapped`: very soon after)."""

    member: Member
    has_flapped: bool = False


@attrs.frozen(slots=True)
class MemberUpdated:
    """Tags or versions are others now."""

    member: Member


@attrs.frozen(slots=True)
class MemberFailed:
    """It does not answer any more, as the members that probed it report."""

    member: Member


@attrs.frozen(slots=True)
class MemberLeft:
    """It has announced that it leaves, or was marked as left by `force_leave`."""

    member: Member


@attrs.frozen(slots=True)
class MemberReaped:
    """Forgotten: failed or left for long, or pruned."""

    member: Member


@attrs.frozen(slots=True)
class UserEventReceived:
    """An application's event, ours included; each once."""

    event: UserEvent


@attrs.frozen(slots=True)
class QueryReceived:
    """A query that chooses this node; answer with `Serf.respond` before `deadline` (the loop's clock)."""

    query: Query
    deadline: float


@attrs.frozen(slots=True)
class QueryKey:
    """Names a query of this node."""

    time: int
    query_id: int


@attrs.frozen(slots=True)
class QueryAcked:
    """`sender` has received the query."""

    key: QueryKey
    sender: str


@attrs.frozen(slots=True)
class QueryAnswered:
    """`sender`'s answer; each sender's first."""

    key: QueryKey
    sender: str
    payload: bytes


@attrs.frozen(slots=True)
class QueryFinished:
    """The time of the query is over; no more answers are taken."""

    key: QueryKey
    acks: int
    answers: int


@attrs.frozen(slots=True, kw_only=True)
class NameConflict:
    """Another process uses the name `name` from another address. Only reported: neither is removed, and no process exits.

    When `name` is our own, an operator should look: two nodes believe they are the same.
    """

    name: str
    known_address: Address
    other_address: Address
    is_own: bool


@attrs.frozen(slots=True)
class MemberSuspected:
    """`accuser` had no answer from `name`; not yet failed."""

    name: str
    accuser: str


@attrs.frozen(slots=True)
class SuspicionRefuted:
    """This node was suspected or called dead by others and has said that it lives: it is slow, or its network loses packets."""

    incarnation: int


@attrs.frozen(slots=True)
class OnlyStreamsWork:
    """`name` answers on TCP but not on UDP: a firewall, most of the time."""

    name: str


@attrs.frozen(slots=True)
class LoopStalled:
    """This process stood still for `seconds`; no member was suspected because of that."""

    seconds: float


@attrs.frozen(slots=True)
class MergeRefused:
    """A push/pull or a member was refused: another cluster, or other versions."""

    reason: str


@attrs.frozen(slots=True)
class KeysChanged:
    """A key query changed the keyring: the driver saves it."""


@attrs.frozen(slots=True)
class LeaveFinished:
    """`Serf.leave` is done: the sockets may be closed."""


Event = (
    MemberJoined
    | MemberUpdated
    | MemberFailed
    | MemberLeft
    | MemberReaped
    | UserEventReceived
    | QueryReceived
    | QueryAcked
    | QueryAnswered
    | QueryFinished
    | NameConflict
    | MemberSuspected
    | SuspicionRefuted
    | OnlyStreamsWork
    | LoopStalled
    | MergeRefused
    | KeysChanged
    | LeaveFinished
)
