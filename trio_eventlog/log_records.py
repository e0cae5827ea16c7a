"""Records of `logging`, as everything here reads them that sends or writes them: a log call never fails because of its log."""

import logging
import traceback

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def extra_of(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def message_of(record: logging.LogRecord) -> str:
    """Its text; when that cannot be made, what it would be made of and why not."""
    try:
        return record.getMessage()
    except Exception as error:  # Arguments of any kind are formatted here.
        return f"{record.msg!r} (it cannot be formatted: {error!r})"


def exception_of(record: logging.LogRecord) -> str:
    """The traceback; "" when there is none."""
    if record.exc_info and record.exc_info[0] is not None:
        return "".join(traceback.format_exception(*record.exc_info))
    return ""
