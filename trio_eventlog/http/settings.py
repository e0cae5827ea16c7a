"""Limits of the HTTP interface."""

from collections.abc import Sequence

import attrs

from trio_eventlog.ingest.settings import IntakeSettings


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class HttpSettings:
    """Limits of one HTTP connection, and of what is answered on it.

    Attributes:
        request_head_bytes_max: request line and headers together, however they arrive. More: 431.
        request_headers_max: number of headers of a request. More: 431.
        http_body_bytes_max: body of a request, as it arrives and inflated; of an upload of lines, one line. More: 413.
        request_seconds_max: from the first byte of a request to the end of its head; and for a body that is read as a whole. More:
            408.
        request_silence_seconds_max: between two pieces of an upload. More: 408.
        request_idle_seconds_max: between two requests of a connection; then it is closed.
        http_answer_seconds_max: until an answer begins, tails and uploads excepted: the deadline of calls of the log. More: 503, or
            504 when the outcome is unknown.
        answer_stall_seconds_max: how long a client may take nothing of an answer; then the connection is closed.
        linger_seconds_max: after an answer that came before its request was read, what still arrives is discarded for this long:
            closing at once would reset the connection and could take the answer with it.
        linger_bytes_max: the number of bytes that are discarded then, at most.
        page_bytes_max: bytes of records in one page; a page has at least one record all the same.
        page_records_max: records in one page.
        upload_batch_bytes: an upload of lines is put into the log in batches of about this size.
        upload_progress_seconds: interval before the first line of progress of an upload; it doubles each time.
        upload_progress_seconds_max: longest interval between two lines of progress.
        tail_write_bytes: events of a live tail are gathered into writes of about this size.
        tail_heartbeat_seconds: interval between two signs of life of a tail without events.
        tail_retry_seconds: how long a browser is told to wait before it connects again.
        intake: of log lines.
        search_bytes_max: what one search for log lines looks through, before its answer ends with a place to go on from.
        http_cors_origins: origins whose pages may use this interface from a browser; "*" stands for all. None: no cross-origin use.
        http_access_log: write a structured line for each answer.
    """

    request_head_bytes_max: int
    request_headers_max: int
    http_body_bytes_max: int
    request_seconds_max: float
    request_silence_seconds_max: float
    request_idle_seconds_max: float
    http_answer_seconds_max: float
    answer_stall_seconds_max: float
    linger_seconds_max: float
    linger_bytes_max: int
    page_bytes_max: int
    page_records_max: int
    upload_batch_bytes: int
    upload_progress_seconds: float
    upload_progress_seconds_max: float
    tail_write_bytes: int
    tail_heartbeat_seconds: float
    tail_retry_seconds: float
    intake: IntakeSettings
    search_bytes_max: int
    http_cors_origins: Sequence[str]
    http_access_log: bool
