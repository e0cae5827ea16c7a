"""Log lines of a Python program, sent to a node or a gateway: a handler for `logging`, and a processor for structlog.

    import logging, trio_eventlog.logging
    logging.getLogger().addHandler(trio_eventlog.logging.Handler("http://n1:8400/v1/logs", service="checkout"))

A program never waits for its log: lines are queued, and a thread of its own sends them. When the queue is full the newest lines are
dropped and counted; the next lines that are sent say how many. Nothing that goes wrong here is logged, since that would come here
again: `Handler.last_error` has it.
"""

import atexit
import http.client
import json
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from trio_eventlog.log_records import exception_of, extra_of, message_of

_LEVELS = ((logging.CRITICAL, "FATAL"), (logging.ERROR, "ERROR"), (logging.WARNING, "WARN"), (logging.INFO, "INFO"))

DROPPED = "dropped_before"
"""Label: so many lines before this one were dropped, since the queue was full."""

ANSWER_BYTES_MAX = 1 << 20

_END = object()


class Sender:
    """Queues lines and sends them from a thread, which begins with the first line, also in a forked process.

    Args:
        url: of a node or a gateway: "http://HOST:PORT/v1/logs".
        queue_lines_max: lines that wait to be sent. More are dropped.
        batch_lines_max: lines of one request.
        batch_bytes_max: of one request, unless a single line is larger; a node takes its `http_body_bytes_max` (4 MiB).
        linger_seconds: how long a line waits for others.
        timeout_seconds: of one request.
        retry_seconds_max: longest pause before a request is sent again. It is repeated until it is taken, or refused for good.

    Attributes:
        sent, dropped, refused: numbers of lines: taken by the node; not queued, or still queued when the program ended; refused by
            the node, which named them as wrong, or no JSON.
        last_error: what went wrong last; "" when nothing has.
    """

    def __init__(
        self,
        url: str,
        *,
        queue_lines_max: int = 10_000,
        batch_lines_max: int = 500,
        batch_bytes_max: int = 1 << 20,
        linger_seconds: float = 0.2,
        timeout_seconds: float = 10.0,
        retry_seconds_max: float = 30.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: it is http://HOST:PORT/v1/logs")
        self.sent = self.dropped = self.refused = 0
        self.last_error = ""
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._target = parts.path or "/v1/logs"
        self._queue_lines_max = queue_lines_max
        self._batch_lines_max = batch_lines_max
        self._batch_bytes_max = batch_bytes_max
        self._linger_seconds = linger_seconds
        self._timeout_seconds = timeout_seconds
        self._retry_seconds_max = retry_seconds_max
        self._begin()
        _senders.add(self)

    def _begin(self) -> None:
        """Nothing is queued, and no thread runs: at first, and in a forked process, which has no thread but its own."""
        self._queue: queue.Queue[Any] = queue.Queue(self._queue_lines_max)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._unreported = 0
        self._next: Any = None

    def put(self, line: dict[str, Any]) -> None:
        """Queue a line as `POST /v1/logs` takes it; never waits."""
        if self._closing.is_set():
            self._drop(1)
            return
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            with self._lock:
                self.dropped += 1
                self._unreported += 1
            return
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="trio-eventlog-logging", daemon=True)
                    self._thread.start()

    def close(self, seconds_max: float = 5.0) -> None:
        """Send what is queued, for as long as this, and end."""
        self._closing.set()
        thread = self._thread
        if thread is not None:
            try:
                self._queue.put(_END, timeout=seconds_max)
            except queue.Full:
                pass  # The thread looks at `_closing` as well.
            thread.join(seconds_max)

    def _run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        is_ending = False
        while not is_ending:
            lines, is_ending = self._gather()
            pause_seconds = 0.1
            while lines:
                try:
                    if connection is None:
                        connection = self._connect()
                    status, rejected = self._post(connection, lines)
                except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the name of a host that is none.
                    self.last_error = f"{type(error).__name__}: {error}"
                    if connection is not None:
                        connection.close()
                    connection, status, rejected = None, 503, 0
                if status < 300:
                    self.sent += len(lines) - rejected
                    self.refused += rejected
                    break
                if status < 500 and status not in (408, 429):
                    self.refused += len(lines)
                    break
                if self._closing.wait(pause_seconds):
                    # The program ends: once more, and no longer.
                    is_ending = True
                    if pause_seconds >= self._retry_seconds_max:
                        self._drop(len(lines))
                        break
                    pause_seconds = self._retry_seconds_max
                pause_seconds = min(pause_seconds * 2, self._retry_seconds_max)
        self._drop_queued()
        if connection is not None:
            connection.close()

    def _gather(self) -> tuple[list[bytes], bool]:
        """Lines for one request, as JSON, and whether they are the last."""
        lines: list[bytes] = []
        size_bytes = 0
        deadline: float | None = None
        while len(lines) < self._batch_lines_max:
            line, self._next = self._next, None
            if line is None:
                try:
                    line = self._queue.get(timeout=self._wait_seconds(deadline))
                except queue.Empty:
                    return lines, not lines and self._closing.is_set()
            if line is _END:
                return lines, True
            if deadline is None:
                deadline = time.monotonic() + self._linger_seconds
            encoded = self._encode(line, is_first=not lines)
            if lines and size_bytes + len(encoded) > self._batch_bytes_max:
                self._next = line
                break
            if encoded:
                lines.append(encoded)
                size_bytes += len(encoded)
        return lines, False

    def _wait_seconds(self, deadline: float | None) -> float | None:
        """For the next line; None: as long as it takes."""
        if self._closing.is_set():
            return 0.0
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _encode(self, line: dict[str, Any], *, is_first: bool) -> bytes:
        """The first line of a request says how many were dropped. Nothing for one that is no JSON: it counts as refused."""
        unreported = self._unreported if is_first else 0
        try:
            if unreported:
                line = {**line, "labels": {**line.get("labels", {}), DROPPED: str(unreported)}}
            encoded = json.dumps(line, ensure_ascii=False).encode(errors="replace")
        except (TypeError, ValueError, RecursionError) as error:
            self.refused += 1
            self.last_error = f"{type(error).__name__}: {error}"
            return b""
        with self._lock:
            self._unreported -= unreported
        return encoded

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count

    def _drop_queued(self) -> None:
        """What nobody will send."""
        if self._next is not None:
            self._drop(1)
        while True:
            try:
                line = self._queue.get_nowait()
            except queue.Empty:
                return
            if line is not _END:
                self._drop(1)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout_seconds)

    def _post(self, connection: http.client.HTTPConnection, lines: list[bytes]) -> tuple[int, int]:
        """The status of the answer, and how many lines it says to be wrong."""
        body = b"[%b]" % b",".join(lines)
        connection.request("POST", f"{self._target}?partial=true", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES_MAX)  # What is left of a longer one breaks the connection, which is opened again.
        rejected = _rejected(text) if answer.status < 300 else 0
        if answer.status >= 300 or rejected:
            self.last_error = f"{answer.status}: {text[:500].decode(errors='replace')}"
        return answer.status, min(rejected, len(lines))


def _rejected(text: bytes) -> int:
    """0 for an answer that does not say it."""
    try:
        answer = json.loads(text)
    except ValueError:
        return 0
    rejected = answer.get("rejected") if isinstance(answer, dict) else None
    return rejected if isinstance(rejected, int) and rejected > 0 else 0


_senders: "weakref.WeakSet[Sender]" = weakref.WeakSet()


def _after_fork() -> None:
    for sender in list(_senders):
        sender._begin()  # Its locks and its thread are those of the parent.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Handler(logging.Handler):
    """Sends what a program logs.

    Args:
        url: of a node or a gateway: "http://HOST:PORT/v1/logs".
        service: name of the program.
        labels: of every line.
        limits: those of `Sender`.
    """

    def __init__(
        self, url: str, *, service: str, labels: Mapping[str, str] | None = None, level: int = logging.NOTSET, **limits: Any
    ) -> None:
        super().__init__(level)
        self.sender = Sender(url, **limits)
        self._service = service
        self._labels = dict(labels or {})
        atexit.register(self.close)

    @property
    def last_error(self) -> str:
        return self.sender.last_error

    def emit(self, record: logging.LogRecord) -> None:
        """Queue it. What cannot be formatted is sent as it is: a log call never fails because of its log."""
        labels = {
            **self._labels,
            "logger": record.name,
            "thread": record.threadName or "",
            "source": f"{record.pathname}:{record.lineno}",
        }
        if exception := exception_of(record):
            labels["exception"] = exception
        labels |= {key: _text(value) for key, value in extra_of(record).items()}
        self.sender.put(
            {
                "service": self._service,
                "level": next((name for least, name in _LEVELS if record.levelno >= least), "DEBUG"),
                "message": message_of(record),
                "timestamp": record.created,
                "labels": labels,
            }
        )

    def close(self, seconds_max: float = 5.0) -> None:
        """Send what is queued, for as long as this, and end."""
        atexit.unregister(self.close)
        self.sender.close(seconds_max)
        super().close()


class StructlogProcessor:
    """A processor for structlog: sends each event, and passes it on to the next processor.

    structlog.configure(processors=[..., StructlogProcessor("http://n1:8400/v1/logs", service="checkout"), ...])
    """

    def __init__(self, url: str, *, service: str, **limits: Any) -> None:
        self.sender = Sender(url, **limits)
        self._service = service
        atexit.register(self.sender.close)

    def __call__(self, logger: object, method_name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        labels = {key: _text(value) for key, value in event.items() if key not in ("event", "level", "timestamp")}
        line: dict[str, Any] = {
            "service": self._service,
            "level": str(event.get("level", method_name)),
            "message": str(event.get("event", "")),
            "timestamp": time.time(),
            "labels": labels,
        }
        self.sender.put(line)
        return event


def _text(value: object) -> str:
    try:
        return value if isinstance(value, str) else str(value)
    except Exception as error:  # Values of any kind.
        return f"(it cannot be shown: {error!r})"
