"""What the core raises. Every one of them leaves the node as it was."""

import enum

from trio_eventlog.errors import EventLogError


class ProtocolError(EventLogError):
    """A peer's message cannot be right. Count it, log it, drop that message; the node goes on."""

    code = "RAFT_PROTOCOL"


class NewerLayout(ProtocolError):
    """Bytes of a layout that only a newer release can have written."""

    code = "RAFT_NEWER_LAYOUT"


class PeerNotFound(ProtocolError):
    """A response from a node that is not in this node's configuration: usually one just removed. Harmless."""

    code = "RAFT_PEER_NOT_FOUND"


class ConfigurationError(EventLogError):
    """The change is not legal in the current configuration. The same on every replica, since all see the same log."""

    code = "RAFT_CONFIGURATION"


class Compacted(EventLogError):
    """The log no longer holds this index: it is covered by a snapshot."""

    code = "RAFT_COMPACTED"


class OutOfLog(EventLogError):
    """The log does not hold this index yet."""

    code = "RAFT_OUT_OF_LOG"


class DropReason(enum.Enum):
    """Why a request was refused."""

    NO_LEADER = "no leader is known"
    FORWARDING_OFF = "this node does not lead and does not forward"
    REMOVED = "this leader is no longer in the configuration"
    TRANSFERRING = "leadership is being transferred"
    QUOTA = "uncommitted_bytes_max of proposals wait already"
    CONFIGURATION_PENDING = "an earlier configuration change may be unapplied"
    CONFIGURATION_ILLEGAL = "the change is not legal in the current configuration"
    TOO_MANY_READS = "pending_reads_max reads wait already"


class ProposalDropped(EventLogError):
    """The request was not taken; nothing was appended or sent. `reason` says whether and where to try again."""

    code = "RAFT_PROPOSAL_DROPPED"
    retryable = True

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
