"""Errors an application can meet. Each class has one stable code that never changes its meaning.

The code travels as the gRPC trailer `eventlog-error-code`, and the attributes of the class beside it, so that the same class
with the same attributes is raised in an embedded node and in a remote client. The text says what happened, why, and what to do.
"""

from typing import ClassVar


class EventLogError(Exception):
    """Base of everything this package raises on purpose.

    Attributes:
        code: the stable upper-case name of the error.
        retryable: True when the same call may succeed later or elsewhere.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False


class NotLeader(EventLogError):
    """This node does not lead the group; `leader_id` (0 when unknown) and `leader_address` ("" when unknown) say who may."""

    code = "NOT_LEADER"
    retryable = True

    def __init__(self, message: str, leader_id: int = 0, leader_address: str = "") -> None:
        super().__init__(message)
        self.leader_id = leader_id
        self.leader_address = leader_address


class OffsetOutOfRange(EventLogError):
    """The offset is below `log_start_offset` or above `high_watermark`."""

    code = "OFFSET_OUT_OF_RANGE"

    def __init__(self, message: str, log_start_offset: int = 0, high_watermark: int = 0) -> None:
        super().__init__(message)
        self.log_start_offset = log_start_offset
        self.high_watermark = high_watermark


class TopicNotFound(EventLogError):
    """No such topic, or no such partition of it.

    Attributes:
        catalog_index: the catalog's entry as of which this is so; 0 when the node has not looked at the newest.
    """

    code = "TOPIC_NOT_FOUND"

    def __init__(self, message: str, catalog_index: int = 0) -> None:
        super().__init__(message)
        self.catalog_index = catalog_index


class TopicRecreated(TopicNotFound):
    """The topic was deleted, and another one has its name now: offsets, and batches not yet acknowledged, were the old one's.

    The records of the old topic are gone. To use the new one, begin anew: consume from its beginning, send again.
    """

    code = "TOPIC_RECREATED"


class TopicExists(EventLogError):
    """A topic of this name exists already."""

    code = "TOPIC_EXISTS"


class BatchTooLarge(EventLogError):
    """The batch or the message is over the limit; `limit_bytes` says which."""

    code = "BATCH_TOO_LARGE"

    def __init__(self, message: str, limit_bytes: int = 0) -> None:
        super().__init__(message)
        self.limit_bytes = limit_bytes


class CorruptBatch(EventLogError):
    """A checksum or a count does not agree with the batch's bytes."""

    code = "CORRUPT_BATCH"


class WrongExpectedVersion(EventLogError):
    """The aggregate is at `actual_version`, not where the writer believed it to be.

    Attributes:
        expected_version: the version that was expected, in digits, or "exists".
    """

    code = "WRONG_EXPECTED_VERSION"

    def __init__(self, message: str, actual_version: int = 0, expected_version: str = "") -> None:
        super().__init__(message)
        self.actual_version = actual_version
        self.expected_version = expected_version


class AggregateClosed(EventLogError):
    """The aggregate's last event, of version `actual_version`, has closed it: nothing is appended unless it is opened again."""

    code = "AGGREGATE_CLOSED"

    def __init__(self, message: str, actual_version: int = 0) -> None:
        super().__init__(message)
        self.actual_version = actual_version


class DuplicateOutOfWindow(EventLogError):
    """The batch repeats one so old that its offset is no longer remembered. It is in the log; its offset is not known."""

    code = "DUPLICATE_OUT_OF_WINDOW"


class OutOfOrderSequence(EventLogError):
    """The batch skips sequence numbers of its producer: an earlier batch is missing. `expected_sequence` is the next one."""

    code = "OUT_OF_ORDER_SEQUENCE"

    def __init__(self, message: str, expected_sequence: int = 0) -> None:
        super().__init__(message)
        self.expected_sequence = expected_sequence


class ProducerFenced(EventLogError):
    """A newer epoch of the same producer id has written; this producer must stop."""

    code = "PRODUCER_FENCED"


class QuotaExceeded(EventLogError):
    """A quota of the tenant is used up; try again after `retry_after_seconds`."""

    code = "QUOTA_EXCEEDED"
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(EventLogError):
    """A bounded queue is full; nothing was taken. Try again after `retry_after_seconds`."""

    code = "OVERLOADED"
    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 0.05) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DiskFull(EventLogError):
    """The disk has no room for more records; reading still works."""

    code = "DISK_FULL"


class ResourceShortage(EventLogError):
    """The process or its machine has no descriptors, memory or threads to spare just now. Nothing has changed; the disk is well."""

    code = "RESOURCE_SHORTAGE"
    retryable = True


class TooManyPartitions(EventLogError):
    """The topic has more partitions than the nodes have room for (`partitions_max`). Nothing was created."""

    code = "TOO_MANY_PARTITIONS"


class NoQuorum(EventLogError):
    """Not enough voters answer: no leader is known, or the leader cannot commit."""

    code = "NO_QUORUM"
    retryable = True


class PermissionDenied(EventLogError):
    """The access rules do not allow this."""

    code = "PERMISSION_DENIED"


class Unauthenticated(EventLogError):
    """The caller has not shown who it is."""

    code = "UNAUTHENTICATED"


class ShuttingDown(EventLogError):
    """The node is stopping; go to another one."""

    code = "SHUTTING_DOWN"
    retryable = True


class InvalidArgument(EventLogError):
    """The request cannot be right, whatever the state of the cluster."""

    code = "INVALID_ARGUMENT"


class Unavailable(EventLogError):
    """No server could be reached, or the connection broke before an answer.

    Of calls of a `Client` that change something it means that nothing was changed: what may have been done fails with
    `OutcomeUnknown`.
    """

    code = "UNAVAILABLE"
    retryable = True


class CallUnsent(Unavailable):
    """The connection broke, or was never there, before any server looked at the call: it had no effect.

    Any other `Unavailable` of a channel leaves open whether the server has acted.
    """


class OutcomeUnknown(EventLogError):
    """The leader changed while the batch was under way: it may or may not be in the log.

    Repeating it under the same producer id and sequence is safe.
    """

    code = "OUTCOME_UNKNOWN"
    retryable = True


class DamagedData(EventLogError):
    """Bytes on disk are not what was written. `path` and `position` say where; nothing was changed.

    Raised by storage; `trio-eventlog log verify` shows the whole extent.
    """

    code = "DAMAGED_DATA"

    def __init__(self, message: str, path: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.path = path
        self.position = position


class DataDirectoryError(EventLogError):
    """The data directory cannot be used: locked, unwritable, of another node or cluster, or of an unknown format."""

    code = "DATA_DIRECTORY"


class BackupUnusable(EventLogError):
    """A backup is unfinished, damaged, or of another release; the text names the file. Nothing of it was taken for sound."""

    code = "BACKUP_UNUSABLE"


class FileGone(EventLogError):
    """The leader of a group has no such file of a log, or not any more: another segment has its place, or retention removed it."""

    code = "FILE_GONE"


class StorageFailed(EventLogError):
    """A write or fsync failed. Fatal: what the page cache holds can no longer be trusted, so it is never retried."""

    code = "STORAGE_FAILED"


class MembershipRefused(EventLogError):
    """The change of membership would endanger the cluster as it is now; the text says why. Nothing was changed."""

    code = "MEMBERSHIP_REFUSED"


class NodeRemoved(EventLogError):
    """The node was removed from its cluster, for ever. Its machine may come back as a new node."""

    code = "NODE_REMOVED"


class SettingsError(EventLogError):
    """A setting is unknown, malformed or contradicts another; the text names it."""

    code = "INVALID_SETTINGS"


class WrongRun(EventLogError):
    """A client, a node, or something made by one was used outside of the run of Trio that it belongs to. Nothing was done."""

    code = "WRONG_RUN"


class CodecError(EventLogError):
    """Bytes that are not what their place requires. Every parser in `codec/` raises this and nothing else."""

    code = "CORRUPT_BYTES"


class NewerRelease(CodecError):
    """Bytes of a form that only a newer release can know. A replica must neither skip nor refuse them: others take them."""

    code = "NEWER_RELEASE"


class UnknownBatchFormat(NewerRelease):
    """A batch's payload is in a form that this release does not know: it is not taken from producers, nor given to consumers."""

    code = "UNKNOWN_BATCH_FORMAT"
