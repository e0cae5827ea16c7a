"""`Ready`: the work that a core hands to its driver, which carries it out and acknowledges it. Plain values."""

import enum

import attrs

from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft.configuration import Configuration
from trio_eventlog.raft.messages import Entry, Message, SnapshotMetadata


class Role(enum.Enum):
    """What a node is in its term."""

    FOLLOWER = "StateFollower"
    PRE_CANDIDATE = "StatePreCandidate"
    CANDIDATE = "StateCandidate"
    LEADER = "StateLeader"


@attrs.frozen(slots=True)
class HardState:
    """Persisted before anything that depends on it leaves the node.

    Attributes:
        term: the node's term.
        vote: whom it voted for in that term; NOBODY (0) if none.
        commit: the commit index. Only a hint: losing it costs nothing but a round trip.
    """

    term: int = 0
    vote: NodeId = NOBODY
    commit: int = 0


@attrs.frozen(slots=True)
class SoftState:
    """Worth knowing, not worth persisting."""

    leader: NodeId = NOBODY
    role: Role = Role.FOLLOWER


@attrs.frozen(slots=True)
class AppendToken:
    """Names an append, for `RaftNode.on_appended`. Opaque to the driver.

    It carries the *node's term when the append was handed out* beside the last entry, since (index, entry term) alone may come
    back: an entry overwritten by another leader and written again has the same two numbers while the write under way is an
    older one (etcd-io/etcd#1690 and cockroachdb/cockroach#124440 tell the story).

    Attributes:
        term: the node's term when the append was handed out.
        index, log_term: last unstable entry at that moment; 0 when there was none.
        snapshot_index: index of the snapshot in the append; 0 when there was none.
    """

    term: int
    index: int = 0
    log_term: int = 0
    snapshot_index: int = 0


@attrs.frozen(slots=True, kw_only=True)
class StorageAppend:
    """Work for the disk. Appends are carried out in the order they are handed out; the driver keeps one under way.

    Attributes:
        hard_state: to persist; None when unchanged.
        entries: to append, contiguous. When the first index is not past the log's end, the log's suffix from there on is
            truncated first: it conflicts, and nothing of it was committed.
        snapshot: replaces the whole log; then `entries` is empty. The driver has its data before it `step`s the message.
        must_sync: what is above has to be durable (fsync) before the append counts as done. When False there is nothing but
            a commit index, which may be written lazily or left to the next append.
        sync_commit: `hard_state.commit` has to be durable too, as far as it reaches, before each CONFIGURATION entry of this append
            is. When False it may be forgotten, and `hard_state` left unwritten if term and vote are the same as before. True or
            not, it must not be durable before those of `entries` that it covers.
        responses: messages that may leave only once this append *and all earlier ones* are durable: votes, append replies, and
            everything else that speaks for a term not durable yet. Those addressed to this very node (its own vote, the
            leader's own ack) go to its own `step`, before `on_appended`.
        token: for `on_appended`, after the responses.
    """

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    snapshot: SnapshotMetadata | None
    must_sync: bool
    sync_commit: bool
    responses: tuple[Message, ...]
    token: AppendToken


@attrs.frozen(slots=True)
class ReadState:
    """An answer to `read_index(context)`: once `applied >= index`, a read is linearizable."""

    index: int
    context: bytes


class EventKind(enum.Enum):
    """What happened, for logs and metrics. `ALARM` ones mean that a promise below Raft was broken."""

    BECAME_FOLLOWER = "became follower"
    BECAME_PRE_CANDIDATE = "became pre-candidate"
    BECAME_CANDIDATE = "became candidate"
    BECAME_LEADER = "became leader"
    LEADER_CHANGED = "leader changed"
    LEADER_FORGOTTEN = "leader forgotten"
    QUORUM_LOST = "stepped down: no quorum answers"
    APPEND_STALLED = "own disk has not acknowledged an append for an election timeout"
    REMOVED = "stepped down: no voter any more"
    CONFIGURATION_CHANGED = "switched to configuration"
    CONFIGURATION_REFUSED = "refused a configuration change"
    JOINT_LEFT = "leaving the joint configuration"
    CAMPAIGN_REFUSED = "cannot campaign"
    TRANSFER_STARTED = "leadership transfer started"
    TRANSFER_ENDED = "leadership transfer ended"
    SNAPSHOT_SENT = "follower needs a snapshot"
    SNAPSHOT_RESTORED = "restored a snapshot"
    SNAPSHOT_IGNORED = "ignored a snapshot"
    READS_DROPPED = "reads dropped"
    ALARM_COMMIT_OUT_OF_RANGE = "ALARM: the leader has committed what this log has lost"
    ALARM_COMMIT_BEYOND_LOG = "ALARM: the persisted commit index is beyond the log"
    ALARM_FOLLOWER_LOST_ENTRIES = "ALARM: a follower has lost entries it had acknowledged"


@attrs.frozen(slots=True, kw_only=True)
class Event:
    """Something worth a log line or a counter.

    Attributes:
        kind: what happened.
        term: this node's term then.
        node: the other node concerned, or NOBODY.
        index: the index concerned, or 0.
        text: details for people.
        contexts: of the reads of this node that will not be answered (READS_DROPPED).
    """

    kind: EventKind
    term: int
    node: NodeId = NOBODY
    index: int = 0
    text: str = ""
    contexts: tuple[bytes, ...] = ()


@attrs.frozen(slots=True, kw_only=True)
class Ready:
    """The work that a core asks for now. Each field says when it may be acted on.

    Attributes:
        soft_state: set when leader or role changed; at once.
        messages: may leave at once, in parallel with the disk, in this order.
        append: for the disk; its responses leave when it is durable. None when there is nothing for the disk.
        committed: indexes to apply, in order, after those of earlier Readys; an empty range when there are none. They are
            durable here, unless `RaftSettings.apply_unstable`. Every CONFIGURATION entry among them goes to
            `RaftNode.apply_configuration` in its turn; afterwards comes `on_applied`.
        read_states: answers to `read_index`.
        events: for logs and metrics. They ride along; a Ready is never made for their sake alone.
    """

    soft_state: SoftState | None
    messages: tuple[Message, ...]
    append: StorageAppend | None
    committed: range
    read_states: tuple[ReadState, ...]
    events: tuple[Event, ...]


@attrs.frozen(slots=True, kw_only=True)
class ProgressStatus:
    """A follower as its leader sees it; see `Progress` for the meaning. `text` is the one-line form."""

    match: int
    next: int
    state: str
    is_learner: bool
    is_paused: bool
    recent_active: bool
    pending_snapshot: int
    inflight_messages: int
    inflight_bytes: int
    text: str


@attrs.frozen(slots=True, kw_only=True)
class Status:
    """A frozen copy for people, metrics and tests. `progress` is empty unless this node leads."""

    node_id: NodeId
    role: Role
    leader: NodeId
    hard_state: HardState
    configuration: Configuration
    first_index: int
    last_index: int
    last_term: int
    stable_index: int
    applied_index: int
    lead_transferee: NodeId
    uncommitted_bytes: int
    pending_reads: int
    progress: dict[NodeId, ProgressStatus]
