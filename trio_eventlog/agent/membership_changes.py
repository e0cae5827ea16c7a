"""What gossip and hellos say of other members, as the changes that applications follow."""

from trio_eventlog.gossip import events as gossip_events
from trio_eventlog.ids import NOBODY, NodeId, format_id
from trio_eventlog.net import discovery
from trio_eventlog.node.gossip_discovery import GossipDiscovery
from trio_eventlog.service.values import MembershipChange, MembershipEvent

_GOSSIP_EVENTS = {
    gossip_events.MemberJoined: MembershipEvent.JOINED,
    gossip_events.MemberUpdated: MembershipEvent.CHANGED,
    gossip_events.MemberFailed: MembershipEvent.FAILED,
    gossip_events.MemberLeft: MembershipEvent.LEFT,
}
_HELLO_EVENTS = {
    discovery.MemberAppeared: MembershipEvent.JOINED,
    discovery.MemberChanged: MembershipEvent.CHANGED,
    discovery.MemberFailed: MembershipEvent.FAILED,
    discovery.MemberLeft: MembershipEvent.LEFT,
}


def gossip_change(event: gossip_events.Event, gossip: GossipDiscovery, own_id: NodeId) -> MembershipChange | None:
    """None for events that are about no other member."""
    if not isinstance(
        event,
        gossip_events.MemberJoined | gossip_events.MemberUpdated | gossip_events.MemberFailed | gossip_events.MemberLeft,
    ):
        return None
    seen = gossip.shown(event.member)
    if seen.node_id == own_id:
        return None
    return MembershipChange(
        event=_GOSSIP_EVENTS[type(event)],
        id=format_id(seen.node_id) if seen.node_id != NOBODY else "",
        name=seen.name,
        address=seen.address,
        tags=tuple(sorted(seen.tags.items())),
    )


def hello_change(event: discovery.DiscoveryEvent) -> MembershipChange | None:
    """Of a node that does not gossip. None for an address that is only no longer tried."""
    kind = _HELLO_EVENTS.get(type(event))
    member = event.member
    if kind is None:
        return None
    return MembershipChange(event=kind, id=format_id(member.node_id), name=member.name, address=member.address)
