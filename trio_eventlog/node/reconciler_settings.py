"""The settings of `Reconciler` and its parts, and how they reach other nodes."""

from collections.abc import Awaitable, Callable, Mapping

import attrs

from trio_eventlog.ids import NodeId
from trio_eventlog.net.discovery import Member
from trio_eventlog.node.membership import MembershipSettings
from trio_eventlog.node.node_reports import NodeReport


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ReconcilerSettings:
    """Timing of the rounds in which a leader looks after membership.

    Attributes:
        membership: settings of the decisions.
        reconcile_seconds: seconds between the end of one round and the start of the next. Every change of membership takes
            several rounds; short ones cost a status request to every node each time.
        answer_seconds_max: seconds within which a node has to answer a status request. One that does not is not healthy in this
            round, so small values stop promotions and moves while nodes are busy; large ones delay the round.
        step_seconds_max: seconds that one change may take. After that the round ends, and the next one starts from what has
            become of it.
    """

    membership: MembershipSettings
    reconcile_seconds: float
    answer_seconds_max: float
    step_seconds_max: float


@attrs.frozen(slots=True, kw_only=True)
class PeerAccess:
    """How the reconciler sees and reaches other nodes.

    Attributes:
        members: nodes that discovery knows, without this one.
        is_connected: whether our link to the node is up.
        ask: request the status of a node, with its partitions (True) or with the catalog only. Raises EventLogError.
        meet: connect to a node at an address that another node has named.
        forget: end the link to a node, and do not connect to it again.
    """

    members: Callable[[], Mapping[NodeId, Member]]
    is_connected: Callable[[NodeId], bool]
    ask: Callable[[NodeId, bool], Awaitable[NodeReport]]
    meet: Callable[[NodeId, str], None]
    forget: Callable[[NodeId], None]
