"""How fast and how patient gossip is. The three profiles and the defaults are those of memberlist and Serf."""

import attrs

DEFAULT_PORT = 7946
"""What port 0 in a message about a member stands for."""


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class SwimSettings:
    """The failure detector.

    Attributes:
        probe_interval_seconds: interval between two probes; each probes one member. Also the unit of suspicion times. Small values
            find failures sooner and cost packets.
        probe_timeout_seconds: seconds without an ack after which other members are asked to ping, and TCP is tried. Below the
            interval; above the round trip, or members are suspected without need.
        indirect_probes: number of members that are asked to ping.
        suspicion_multiplier: the shortest suspicion lasts this times max(1, log10(members)) probe intervals. This minus two is the
            number of further accusers that shorten a suspicion from the longest to the shortest. Small values report members as
            failed before they can refute.
        suspicion_multiplier_max: duration of the longest suspicion, as a multiple of the shortest.
        retransmit_multiplier: each rumor is sent this times ceil(log10(members + 1)) times. Too few, and some members miss it until
            the next exchange of tables.
        gossip_interval_seconds: interval between two rounds in which rumors are sent.
        gossip_members: number of members that get rumors in one round.
        gossip_to_dead_seconds: seconds for which members that failed or left still get rumors (so that failed ones can refute),
            and stay in the table.
        push_pull_interval_seconds: interval between two exchanges of the whole table; longer above 32 members.
        stream_timeout_seconds: seconds that one exchange or ping on a stream may take.
        health_score_max: factor up to which probe intervals grow while this node itself misses acks.
        reclaim_seconds: seconds after which a failed member's name may be used from another address. Before that, the new member
            could be an impostor.
        late_tick_seconds: delay of a tick from which on this process is taken to have stood still. No member is then suspected for
            not answering meanwhile.
        packet_bytes_max: bytes of one datagram. Above the network's MTU, packets are fragmented and lost more often.
        packet_overhead_bytes: bytes of a packet that are not messages (`codec.memberlist.packet_overhead_bytes`).
        rumors_max: number of rumors in each queue; those sent most often are dropped first.
        members_max: number of rows in the table, and of members remembered. New ones are refused, or replace those that have been
            gone longest.
        relays_max: number of indirect pings in progress for other members; further requests are ignored.
        pings_per_packet_max: number of pings in one packet that are answered; members send one. An ack goes to the address in the
            ping, so that without a bound one packet could cause a flood to a third party.
    """

    probe_interval_seconds: float
    probe_timeout_seconds: float
    indirect_probes: int
    suspicion_multiplier: int
    suspicion_multiplier_max: int
    retransmit_multiplier: int
    gossip_interval_seconds: float
    gossip_members: int
    gossip_to_dead_seconds: float
    push_pull_interval_seconds: float
    stream_timeout_seconds: float
    health_score_max: int
    reclaim_seconds: float
    late_tick_seconds: float
    packet_bytes_max: int
    packet_overhead_bytes: int
    rumors_max: int
    members_max: int
    relays_max: int
    pings_per_packet_max: int

    def __attrs_post_init__(self) -> None:
        if not 0 < self.probe_timeout_seconds < self.probe_interval_seconds:
            raise ValueError("the probe timeout lies between 0 and the probe interval")
        if min(self.suspicion_multiplier, self.suspicion_multiplier_max, self.health_score_max) < 1:
            raise ValueError("multipliers and the health score's maximum are at least 1")


LAN = SwimSettings(
    probe_interval_seconds=1.0,
    probe_timeout_seconds=0.5,
    indirect_probes=3,
    suspicion_multiplier=4,
    suspicion_multiplier_max=6,
    retransmit_multiplier=4,
    gossip_interval_seconds=0.2,
    gossip_members=3,
    gossip_to_dead_seconds=30.0,
    push_pull_interval_seconds=30.0,
    stream_timeout_seconds=10.0,
    health_score_max=8,
    reclaim_seconds=30.0,
    late_tick_seconds=1.0,
    packet_bytes_max=1400,
    packet_overhead_bytes=5,
    rumors_max=4096,
    members_max=4096,
    relays_max=1024,
    pings_per_packet_max=2,
)
LOCAL = attrs.evolve(
    LAN,
    probe_timeout_seconds=0.2,
    indirect_probes=1,
    suspicion_multiplier=3,
    retransmit_multiplier=2,
    gossip_interval_seconds=0.1,
    gossip_to_dead_seconds=15.0,
    push_pull_interval_seconds=15.0,
    stream_timeout_seconds=1.0,
)
WAN = attrs.evolve(
    LAN,
    probe_interval_seconds=5.0,
    probe_timeout_seconds=3.0,
    suspicion_multiplier=6,
    gossip_interval_seconds=0.5,
    gossip_members=4,
    gossip_to_dead_seconds=60.0,
    push_pull_interval_seconds=60.0,
    stream_timeout_seconds=30.0,
    late_tick_seconds=5.0,
)


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class SerfSettings:
    """The layer above the failure detector.

    Attributes:
        broadcast_timeout_seconds: seconds that each of the two steps of leaving waits until its rumor has spread.
        leave_told_max: number of members that get the announcement of our leaving directly, besides the rumor.
        leave_delay_seconds: seconds for which a node that has left still answers. If it is too small, members that missed the
            announcement report a failure.
        leaving_seconds_max: seconds after which a member that is leaving and still there counts as alive again; well above both
            steps of a leave.
        reap_interval_seconds: interval between two searches for failed and left members to remove from the list.
        failed_kept_seconds, left_kept_seconds: seconds for which they stay on the list. A failed member that comes back later is
            not tried again by itself.
        reconnect_interval_seconds: interval between two attempts to reach a failed member.
        intents_kept_seconds: seconds for which intents about unknown members are kept.
        intents_max: number of such intents.
        flap_seconds: a member that fails and is back within this time has flapped.
        query_timeout_multiplier: default timeout of a query, in gossip intervals times ceil(log10(members + 1)).
        query_bytes_max, query_response_bytes_max: encoded, and so small that they fit a packet with its sealing.
        event_bytes_max: name and payload of an event of ours.
        recent_times_max: number of Lamport times for which events and queries are remembered; older ones are dropped unread.
        recent_per_time_max: number of events, or queries, remembered for one Lamport time; further ones are dropped.
        recent_bytes_max: bytes of events remembered; the oldest are forgotten, and not accepted again.
        relay_factor_max: number of members asked to relay our answer to a query, even if the query asks for more.
        state_events_bytes_max: bytes of events sent to another member in a push/pull.
        open_queries_max: number of our queries whose time is not over.
        ignores_events_before_join: whether events from before its joining are not delivered on this node.
    """

    broadcast_timeout_seconds: float
    leave_told_max: int
    leave_delay_seconds: float
    leaving_seconds_max: float
    reap_interval_seconds: float
    failed_kept_seconds: float
    left_kept_seconds: float
    reconnect_interval_seconds: float
    intents_kept_seconds: float
    intents_max: int
    flap_seconds: float
    query_timeout_multiplier: int
    query_bytes_max: int
    query_response_bytes_max: int
    event_bytes_max: int
    recent_times_max: int
    recent_per_time_max: int
    recent_bytes_max: int
    relay_factor_max: int
    state_events_bytes_max: int
    open_queries_max: int
    ignores_events_before_join: bool
