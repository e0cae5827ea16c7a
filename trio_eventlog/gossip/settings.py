"""How fast and how patient gossip is. The three profiles and the defaults are those of memberlist and Serf."""

import attrs

DEFAULT_PORT = 7946
"""What port 0 in a message about a member stands for."""


@attrs.frozen(slots=True, kw_only=True)
class SwimSettings:
    """The failure detector.

    Attributes:
        probe_interval_seconds: one member is probed per interval; also the unit of suspicion times.
        probe_timeout_seconds: without an ack for so long, others are asked to ping, and TCP is tried; below the interval.
        indirect_probes: members asked to ping.
        suspicion_multiplier: shortest suspicion is this times max(1, log10(members)) probe intervals; two less than this is how
            many further accusers shorten a suspicion from the longest to the shortest.
        suspicion_multiplier_max: longest suspicion, in shortest ones.
        retransmit_multiplier: a rumor is sent this times ceil(log10(members + 1)) times.
        gossip_interval_seconds, gossip_members: so often, to so many, rumors are sent.
        gossip_to_dead_seconds: members that failed or left less than so long ago are still gossiped to (failed ones, so that
            they can refute) and stay in the table.
        push_pull_interval_seconds: between two exchanges of the whole table; longer above 32 members.
        stream_timeout_seconds: for one exchange or ping on a stream.
        health_score_max: probe intervals grow up to this factor while this node does badly itself.
        reclaim_seconds: a member of a failed one's name may come from another address after so long. Never sooner: until
            then it could be a thief.
        late_tick_seconds: a tick that comes so much too late means that this process stood still; nobody is accused for what
            happened meanwhile.
        packet_bytes_max: a datagram.
        packet_overhead_bytes: of it, what is not messages (`codec.memberlist.packet_overhead_bytes`).
        rumors_max: in each queue; the most sent are dropped first.
        members_max: rows in the table, and members remembered: more are not taken up, or in place of those gone the longest.
        relays_max: indirect pings under way for others.
        pings_per_packet_max: answered; one is all that anybody sends. An ack goes where the ping says, so that many in one packet
            would be a flood for somebody else.
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


@attrs.frozen(slots=True, kw_only=True)
class SerfSettings:
    """The layer above the failure detector.

    Attributes:
        broadcast_timeout_seconds: how long each of the two steps of leaving waits for its rumor to be spread.
        leave_told_max: members who are told of our leaving directly, besides the rumor.
        leave_delay_seconds: a node that has left goes on answering for so long.
        leaving_seconds_max: a member that is leaving for so long and still here is not leaving; well above both steps of a leave.
        reap_interval_seconds: how often the list of failed and left members is looked through.
        failed_kept_seconds, left_kept_seconds: how long they stay on the list.
        reconnect_interval_seconds: how often a failed member may be tried again.
        intents_kept_seconds: intents about members not known yet.
        intents_max: of these.
        flap_seconds: a member back within this time has flapped.
        query_timeout_multiplier: default timeout of a query, in gossip intervals times ceil(log10(members + 1)).
        query_bytes_max, query_response_bytes_max: encoded, and so small that they fit a packet with its sealing.
        event_bytes_max: name and payload of an event of ours.
        recent_times_max: so many Lamport times back events and queries are remembered; older ones are dropped unread.
        recent_per_time_max: events, or queries, remembered of one time; more are dropped.
        recent_bytes_max: of events remembered; the oldest are forgotten, and not wanted again.
        relay_factor_max: members asked to pass on an answer of ours to a query, whatever the query wants.
        state_events_bytes_max: events handed to others in a push/pull.
        open_queries_max: queries of ours waiting for answers.
        ignores_events_before_join: the past is not delivered to a node that joins.
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
