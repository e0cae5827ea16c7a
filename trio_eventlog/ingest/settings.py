"""Limits of log lines."""

import attrs


@attrs.frozen(slots=True, kw_only=True)
class IntakeSettings:
    """Limits of lines.

    Attributes:
        log_line_bytes_max: of a line in its canonical form.
        log_labels_max: labels of a line.
    """

    log_line_bytes_max: int
    log_labels_max: int
