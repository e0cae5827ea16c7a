"""The messages that cores exchange, and the entries of their logs: values only.

Names are those of the paper and of etcd-io/raft. A core's log items are *metas*: it never holds a payload, except that of a
configuration entry.
"""

import enum

import attrs

from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft.configuration import Configuration


class EntryKind(enum.IntEnum):
    """What an entry is. Only DATA entries have records. The numbers are those of the wire and of the disk."""

    DATA = 1
    """Records for the machine."""
    NO_OP = 2
    """What a new leader appends first, and what stands in for a configuration change that was refused. Changes nothing."""
    CONFIGURATION = 3
    """An encoded `ConfigurationChange`."""
    CONTROL = 4
    """A command for the machine that is not a record."""


ENTRY_OVERHEAD_BYTES = 64
"""Size of an entry with an empty payload: what a core reckons for those it makes itself. The length of a frame's header."""


@attrs.frozen(slots=True)
class Entry:
    """One item of the log, without its payload.

    Attributes:
        term, index: its identity; at least 1 each once it is in a log, 0 in a forwarded proposal.
        kind: what it is.
        record_count: number of records; 0 unless DATA.
        size_bytes: what it costs on a link and in memory: the length of its frame.
        payload: the encoded change of a CONFIGURATION entry. Empty for all others in a running node; the core carries along
            whatever stands here and never looks at it, which scripts and simulators use.
    """

    term: int
    index: int
    kind: EntryKind
    record_count: int
    size_bytes: int
    payload: bytes = b""


@attrs.frozen(slots=True)
class ProposedEntry:
    """What a caller wants appended: an `Entry` before it has a term and an index."""

    kind: EntryKind
    record_count: int
    size_bytes: int
    payload: bytes = b""


@attrs.frozen(slots=True, kw_only=True)
class SnapshotMetadata:
    """Names a snapshot; the data stays with the shells and travels out of band.

    Attributes:
        index, term: the last entry it covers.
        configuration: the configuration as of `index`.
    """

    index: int
    term: int
    configuration: Configuration


class MessageType(enum.IntEnum):
    """The numbers are those of the wire."""

    APPEND = 1
    """Leader: entries after `index` (of term `log_term`), and the commit index. The paper's AppendEntries."""
    APPEND_RESPONSE = 2
    """`index`: last index now held and durable; rejected: the index refused, with (`reject_hint`, `log_term`) to go on from."""
    VOTE = 3
    """Candidate: its last entry is (`log_term`, `index`). `context` is `TRANSFER_CAMPAIGN` in a leadership transfer."""
    VOTE_RESPONSE = 4
    PRE_VOTE = 5
    """As VOTE, for a term the sender has not entered."""
    PRE_VOTE_RESPONSE = 6
    HEARTBEAT = 7
    """Leader: `commit` as far as the receiver is known to match, and `context` to be echoed."""
    HEARTBEAT_RESPONSE = 8
    SNAPSHOT = 9
    """Leader: `snapshot` replaces the receiver's log up to its index."""
    TIMEOUT_NOW = 10
    """Leader: campaign at once."""
    TRANSFER_LEADER = 11
    """To the leader: hand over to `transferee`."""
    READ_INDEX = 12
    """To the leader, term 0: what is the commit index? `context` names the question."""
    READ_INDEX_RESPONSE = 13
    PROPOSE = 14
    """To the leader, term 0: append `entries`. Sent only under `RaftSettings.forward_proposals`."""


RESPONSES = frozenset(
    {
        MessageType.APPEND_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.READ_INDEX_RESPONSE,
    }
)

TRANSFER_CAMPAIGN = b"CampaignTransfer"
"""The context of a VOTE that voters answer although they hear from a leader: that leader asked for it."""


@attrs.define(slots=True, kw_only=True)
class Message:
    """A message from one core to another. Immutable once it is built.

    Not frozen in the sense of attrs only because that makes building one 0.8 microseconds slower, on the hottest path there is.

    Attributes:
        type: what it is; which of the fields below mean something follows from it.
        to, sender: both are set in every message. Equal in a response a core gives itself (see `StorageAppend.responses`).
        term: the sender's term; one more for PRE_VOTE and for a granted PRE_VOTE_RESPONSE; 0 for READ_INDEX and PROPOSE.
        log_term: term of the entry at `index` (APPEND, VOTE, PRE_VOTE), or at `reject_hint` (a rejecting APPEND_RESPONSE).
        index: the entry before the first one sent (APPEND); last entry (VOTE, PRE_VOTE); last durable or refused index
            (APPEND_RESPONSE); the index to read at (READ_INDEX_RESPONSE).
        last_index: last index sent, in an APPEND; the entries are `index + 1 .. last_index`, none when they are equal. A core
            names the range only; the shell fetches the frames. In a received APPEND `entries` must hold exactly that range.
        commit: the sender's commit index (APPEND); the same as far as the receiver is known to match (HEARTBEAT); in a rejecting
            APPEND_RESPONSE a commit index that the sender's log, having lost entries, does not reach any more; the sender's own
            in votes and their responses.
        commit_term: term of the entry at `commit`, in votes and their responses.
        reject: a vote refused, an append refused.
        reject_hint: largest index at which the refusing log may agree with the leader's.
        context: opaque bytes to be echoed (HEARTBEAT), naming a read (READ_INDEX and response), or TRANSFER_CAMPAIGN (VOTE).
        entries: metas of a received APPEND, or proposals with term and index 0 (PROPOSE).
        snapshot: set in SNAPSHOT only.
        priority: the candidate's election priority (VOTE, PRE_VOTE).
        transferee: who should lead next (TRANSFER_LEADER).
    """

    type: MessageType
    to: NodeId
    sender: NodeId
    term: int = 0
    log_term: int = 0
    index: int = 0
    last_index: int = 0
    commit: int = 0
    commit_term: int = 0
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    entries: tuple[Entry, ...] = ()
    snapshot: SnapshotMetadata | None = None
    priority: int = 0
    transferee: NodeId = NOBODY
