"""Bounds of one group's driver and its parts."""

import attrs

from trio_eventlog.node.snapshot_sends import SnapshotSendSettings


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class DriverSettings:
    """Bounds of one group's driver.

    Attributes:
        inbox_messages_max: number of peer messages that wait for the driver's turn. Further messages are dropped, and Raft
            repeats what matters: too small costs throughput, too large costs memory.
        inbox_bytes_max: bytes of entries in those messages; the same limit in bytes.
        proposal_bytes_max: bytes of proposals queued for the core. When it is reached, producers wait for room (backpressure). It
            is also the largest batch that can be proposed.
        proposals_max: number of proposals queued for the core; the same limit in proposals.
        proposals_in_flight_max: number of proposals given to the core and not answered yet; further ones wait in the queue. Too
            small limits throughput over long round trips.
        append_bytes_max: bytes of entries in one APPEND read from the disk for a follower that is behind. Large values delay other
            messages on the link; small ones slow catching up.
        apply_bytes_max: bytes of committed entries read from the disk at a time for the machine.
        apply_at_once_max: number of committed entries that the driver applies in its own task. More are applied by a task that
            yields in between. Large values delay the group's messages, small ones cost a task switch per batch.
        sleep_after_ticks: number of ticks without any activity after which a group sleeps: it gets no ticks and sends no messages.
            0: never. If it is too small, a group with an occasional record falls asleep in between, which costs it a round of
            heartbeats each time.
        sleep_unused_after_ticks: the same, if it is less, for a group in which nothing was read or proposed since it was opened.
            Thousands are opened at once when a topic is created or a node starts. If it is too large, the heartbeats of those
            that are open leave no time for the elections of the others.
        commit_notice_seconds: seconds for which the announcement of a new commit index waits for an APPEND with entries that
            carries it. After that an empty APPEND is sent. Small values cost messages; large ones delay followers' consumers.
        shortage_retry_seconds: pause between two attempts to read or append after a shortage of descriptors, memory or threads.
            Within each attempt the disk itself waits for `shortage_patience_seconds`.
        producer_idle_seconds: seconds after its last batch for which an idempotent producer is never forgotten, since it may
            still repeat that batch. Large values let fewer new producers in when the table is full.
        read_retry_ticks: number of ticks without an answer after which a ReadIndex request is repeated, or twice the time of the
            last answer, if that is more. The wait doubles with each repetition.
        read_retry_ticks_max: upper bound of that wait. Large values delay reads after lost messages.
        read_questions_max: number of open ReadIndex requests for the same read; a further one replaces the oldest.
        snapshot_bytes_min: no snapshot is taken before the log has grown by this since the last one. Too small, and quiet groups
            get many small segments; too large, and a start has more to apply.
        snapshot_sends: see `SnapshotSendSettings`.
    """

    inbox_messages_max: int
    inbox_bytes_max: int
    proposal_bytes_max: int
    proposals_max: int
    proposals_in_flight_max: int
    append_bytes_max: int
    apply_bytes_max: int
    apply_at_once_max: int
    sleep_after_ticks: int
    sleep_unused_after_ticks: int
    commit_notice_seconds: float
    shortage_retry_seconds: float
    producer_idle_seconds: float
    snapshot_bytes_min: int
    read_retry_ticks: int
    read_retry_ticks_max: int
    read_questions_max: int
    snapshot_sends: SnapshotSendSettings
