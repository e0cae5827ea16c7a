"""Limits of log lines."""

import attrs


@attrs.frozen(slots=True, kw_only=True)
class IntakeSettings:
    """Limits of lines.

    Attributes:
        log_line_bytes_max: of a line in its canonical form.
        log_labels_max: labels of a line.
        log_request_bytes_max: of all lines of a request in their canonical form, each with LINE_OVERHEAD_BYTES. A few bytes of a
            request can stand for many lines that all have the same long labels.
    """

    log_line_bytes_max: int
    log_labels_max: int
    log_request_bytes_max: int
