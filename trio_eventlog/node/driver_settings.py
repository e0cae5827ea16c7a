"""Bounds of one group's driver and its parts."""

import attrs


@attrs.frozen(slots=True, kw_only=True)
class DriverSettings:
    """Bounds of one group's driver.

    Attributes:
        inbox_messages_max: waiting peer messages; more are dropped.
        inbox_bytes_max: bytes of entries among them.
        proposal_bytes_max: proposals queued for the core; producers wait for room.
        proposals_max: the same, counted.
        proposals_in_flight_max: proposals given to the core and not yet answered; more wait in the queue.
        append_bytes_max: bytes of one APPEND read back from the disk for a follower that is behind.
        apply_bytes_max: bytes of committed entries read back at once.
        apply_at_once_max: committed entries applied by the driver itself; more are left to a task that lets others run.
        sleep_after_ticks: a group in which nothing happens for so many ticks falls asleep: it is not ticked and exchanges
            nothing. 0: never. Too small, and a group with a record now and then falls asleep in between, which costs it a round
            of heartbeats each time.
        sleep_unused_after_ticks: the same, if it is less, for a group in which nothing was read or proposed since it was opened.
            Thousands are opened when a topic is created or nodes start: were all of them awake for long, their heartbeats would
            leave no time for the elections of the others.
        commit_notice_seconds: how long an APPEND without entries, which only tells a follower of a new commit index, may wait for
            one with entries to carry it.
        shortage_retry_seconds: the pause between two attempts to read or append what met a shortage of descriptors, memory or
            threads. Each attempt waits for them itself, for as long as the disk is set to (`shortage_patience_seconds`).
        producer_idle_seconds: an idempotent producer that wrote less than this ago is never forgotten: within it a repetition of a
            batch may come.
        snapshot_bytes_min: no snapshot is taken before the log has grown by this since the last one. Too small, and quiet groups
            get many small segments; too large, and a start has more to apply.
        read_retry_ticks: a linearizable read is asked for again after so many ticks without an answer, or after twice the time that
            the last answer took, if that is more; then after twice as many, and so on.
        read_retry_ticks_max: never after more.
        read_questions_max: questions for the same read that an answer may still come to; the oldest is given up for a new one.
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
