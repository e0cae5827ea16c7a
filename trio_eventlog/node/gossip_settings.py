"""The settings of `GossipDriver` and of its parts."""

import attrs

from trio_eventlog.codec.memberlist import WireLimits
from trio_eventlog.gossip.settings import SerfSettings, SwimSettings


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class GossipSettings:
    """How a node gossips.

    Attributes:
        swim: timing and bounds of the failure detector.
        serf: timing and bounds of tags, user events, queries and leaving.
        limits: bounds of what a packet or a stream may contain.
        label: prefix of every packet and stream; members with different labels ignore each other. Empty: no label. The `serf`
            agent of Debian knows no labels.
        streams_max: number of accepted streams served at the same time, and the same number of dialled ones. Further streams
            are closed, or not dialled. Too small, and a restart of many nodes at once delays their joining; too large, and
            strangers can hold that many connections open.
        streams_bytes_max: bytes read from all accepted streams that are still open. A stream that exceeds it is closed. It has
            to hold a table of all members several times over; larger values let strangers use more memory.
        requests_max: number of calls of other tasks that wait for the driver's task. Further calls raise Overloaded.
        packets_per_round_max: number of packets read before timeouts are looked at. It has to be above what a full socket buffer
            holds: a packet that arrived before a timeout is then always read before it. Without a bound, a flood of packets
            would postpone timeouts for ever.
        turn_seconds_max: seconds of reading packets after which other tasks get a turn. Large values delay everything else in
            the process during a flood; small ones cost a task switch for each.
        seed_retry_seconds_min, seed_retry_seconds_max: seconds between two attempts to join through a seed; doubles from the
            first to the second, each wait is drawn from its upper half. The second is also the interval between two checks
            whether a live member is known at the seed's address. Small values dial dead seeds often; large ones delay joining,
            and the healing of a partition.
        hint_attempts_max: number of attempts to join through an address that another node named (`try_to_join`).
        leave_seconds_max: seconds that a graceful leave may take. Below about two seconds (LAN), others report a failure instead.
        log_interval_seconds: interval between two warnings of the same kind.
        log_lines_max: number of lines about members that come and go, in one such interval; further lines are left out.
    """

    swim: SwimSettings
    serf: SerfSettings
    limits: WireLimits
    label: bytes
    streams_max: int
    streams_bytes_max: int
    requests_max: int
    packets_per_round_max: int
    turn_seconds_max: float
    seed_retry_seconds_min: float
    seed_retry_seconds_max: float
    hint_attempts_max: int
    leave_seconds_max: float
    log_interval_seconds: float
    log_lines_max: int
