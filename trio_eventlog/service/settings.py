"""Bounds of what a node offers."""

import attrs

from trio_eventlog.records import Compression


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ServiceSettings:
    """Bounds of one call, and of all calls together.

    Attributes:
        batch_bytes_max: payload of one batch.
        unpacked_bytes_max: the same, unpacked.
        batch_records_max: records of one batch.
        fetch_bytes_max, fetch_records_max: of one answer; a request may ask for less.
        event_cache_bytes: of events that were read by aggregate or by type, kept as values.
        fetched_bytes_max, fetched_bytes_per_connection_max: fetched for consumers and not sent yet.
        slow_consumer_seconds: a consumer that holds fetched bytes longer, while others wait for some, is sent away.
        response_bytes_max: of the records in one answer, unpacked: what gRPC lets through.
        fetch_wait_seconds_max: how long a Consume may wait.
        forward_timeout_seconds: how long a linearizable read may look for a leader that has a quorum.
        produce_stream_requests_max: produce requests of one stream not yet answered.
        forwarded_streams_max: streams of consumers, all together, that this node reads from another node and passes on. Each may
            hold one answer here and a stream's window on the connection between the nodes. Further ones get `OVERLOADED`.
        idle_sequences_max: producer ids of this node kept for each partition (see `own_sequences`).
        creates_topics: a topic is made when it is first produced to.
    """

    batch_bytes_max: int
    unpacked_bytes_max: int
    batch_records_max: int
    fetch_bytes_max: int
    fetch_records_max: int
    response_bytes_max: int
    event_cache_bytes: int
    fetched_bytes_max: int
    fetched_bytes_per_connection_max: int
    slow_consumer_seconds: float
    fetch_wait_seconds_max: float
    forward_timeout_seconds: float
    produce_stream_requests_max: int
    forwarded_streams_max: int
    idle_sequences_max: int
    creates_topics: bool


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class SearchSettings:
    """Bounds of searches for log lines.

    Attributes:
        searches_max: pages that are being made at a time. Further ones get `OVERLOADED`.
        unpacked_bytes_max: of one batch.
        page_lines_bytes_max: of the lines on one page.
        page_lines_max: lines of one page; a request may ask for fewer.
        page_bytes: a page ends when about this much was looked through for it.
        step_bytes: the same for a step through one partition: what is thrown away at most when a page ends before it.
    """

    searches_max: int
    unpacked_bytes_max: int
    page_lines_bytes_max: int
    page_lines_max: int
    page_bytes: int
    step_bytes: int


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ApplicationSettings:
    """What an application gets that uses its own node: as the settings of a client have it, where both have them.

    Attributes:
        linger_seconds, batch_bytes, batch_records, batch_bytes_max, compression: of batching producers.
        buffer_bytes: of batches for one partition, queued and in flight.
        in_flight_batches: of one partition.
        buffer_batches, fetch_bytes: of consumers.
        unpacked_bytes_max: of one batch.
        retry_seconds: how long a consumer that hears nothing tries again.
        backoff_seconds_min, backoff_seconds_max: between two attempts of a consumer.
        join_refresh_seconds: the interval between two looks for new partitions of a topic that is consumed as a whole.
        membership_changes_max: changes of the membership that wait for a slow reader.
    """

    linger_seconds: float
    batch_bytes: int
    batch_records: int
    batch_bytes_max: int
    compression: Compression
    buffer_bytes: int
    in_flight_batches: int
    buffer_batches: int
    fetch_bytes: int
    unpacked_bytes_max: int
    retry_seconds: float
    backoff_seconds_min: float
    backoff_seconds_max: float
    join_refresh_seconds: float
    membership_changes_max: int
