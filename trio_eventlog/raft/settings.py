"""What an operator sets for a group, checked once."""

import enum

import attrs

from trio_eventlog.errors import SettingsError


class ReadMode(enum.Enum):
    """How a leader confirms that it still leads before it answers a linearizable read."""

    SAFE = "safe"
    """By a round of heartbeats. Correct whatever the clocks do."""
    LEASE = "lease"
    """By its lease: a quorum acknowledged a heartbeat less than an election timeout ago, in ticks of this node.

    Correct only while all nodes' ticks run about equally fast. Needs `check_quorum`; makes `forget_leader` and `peer_reset`
    without effect, since both break the followers' half of the promise.
    """


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class RaftSettings:
    """Settings of one Raft group; all nodes of a group should have the same ones.

    The driver decides how long a tick is (100 ms by default).

    Attributes:
        election_timeout_ticks: a follower that hears no leader for this many ticks, up to twice as many (drawn anew each time),
            campaigns. Also the leader's lease and the bound of a leadership transfer. More than `heartbeat_ticks`; ten times as
            many is usual.
        heartbeat_ticks: the leader's heartbeat interval.
        append_bytes_max: most bytes of entries in one APPEND. A single larger entry is still sent, alone.
        inflight_messages_max: most APPENDs with entries under way to one follower.
        inflight_bytes_max: most bytes of entries under way to one follower; 0: no limit. At least `append_bytes_max`.
        uncommitted_bytes_max: most bytes of this leader's proposals not applied yet; what exceeds it is refused. One proposal
            is always taken when none waits.
        committed_bytes_per_ready_max: most bytes of committed entries handed out and not yet applied. A single larger entry
            is still handed out, alone.
        pending_reads_max: most linearizable reads waiting for their round of heartbeats.
        pre_vote: ask before entering a new term, so that a returning node disrupts nobody (thesis, section 9.6).
        check_quorum: a leader that does not hear from a quorum for an election timeout steps down, and voters that hear from
            a leader refuse to vote.
        read_mode: see `ReadMode`.
        priority: among nodes with equal logs the one with the highest priority wins an election; others are refused by it.
        step_down_on_removal: a leader that has applied its own removal or demotion steps down.
        step_down_on_stalled_append: a leader whose own disk has not acknowledged an append for an election timeout steps down,
            and a node in that state does not campaign.
        forward_proposals: a follower sends proposals on to the leader in a PROPOSE message. The driver keeps it off: the
            broker forwards, so that the payload travels once.
        validate_configuration_changes: refuse to append a configuration change while another may be unapplied. Off only for a
            caller that checks by itself.
        apply_unstable: hand out committed entries before they are durable here. Right only for a caller that persists
            `Ready.append` before it applies `Ready.committed`.
    """

    election_timeout_ticks: int
    heartbeat_ticks: int
    append_bytes_max: int
    inflight_messages_max: int
    inflight_bytes_max: int
    uncommitted_bytes_max: int
    committed_bytes_per_ready_max: int
    pending_reads_max: int
    pre_vote: bool
    check_quorum: bool
    read_mode: ReadMode
    priority: int
    step_down_on_removal: bool
    step_down_on_stalled_append: bool
    forward_proposals: bool
    validate_configuration_changes: bool
    apply_unstable: bool

    def __attrs_post_init__(self) -> None:
        for name in (
            "heartbeat_ticks",
            "append_bytes_max",
            "inflight_messages_max",
            "uncommitted_bytes_max",
            "committed_bytes_per_ready_max",
            "pending_reads_max",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if self.election_timeout_ticks <= self.heartbeat_ticks:
            raise SettingsError(
                f"election_timeout_ticks {self.election_timeout_ticks} is not more than heartbeat_ticks {self.heartbeat_ticks}"
            )
        if self.inflight_bytes_max and self.inflight_bytes_max < self.append_bytes_max:
            raise SettingsError(
                f"inflight_bytes_max {self.inflight_bytes_max} has to be 0 or at least append_bytes_max {self.append_bytes_max}"
            )
        if self.inflight_bytes_max < 0 or self.priority < 0:
            raise SettingsError("inflight_bytes_max and priority cannot be negative")
        if self.read_mode is ReadMode.LEASE and not self.check_quorum:
            raise SettingsError("read_mode lease needs check_quorum: without it voters promise nothing")
