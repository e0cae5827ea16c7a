"""Logging of the daemon: lines to standard error, for people or for machines. Libraries only make loggers; this configures them."""

import datetime
import json
import logging
import sys
from typing import TextIO

from trio_eventlog.log_records import extra_of


def set_up_logging(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Send every log line to `stream` (standard error by default). Called once, by the daemon.

    Args:
        log_format: "text" or "json", one object a line.
        log_level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    # Third parties explain themselves at length below this.
    for name in ("purerpc", "hpack", "h2"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """`2026-11-02T12:00:00.123Z INFO node.raft_driver: text`; values given as `extra` follow as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("trio_eventlog.")
        line = f"{_time(record)} {record.levelname} {name}: {record.getMessage()}"
        line += "".join(f" {key}={value}" for key, value in extra_of(record).items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, exception, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        fields.update(extra_of(record))
        return json.dumps(fields, default=str, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    when = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(record.msecs):03d}Z"
