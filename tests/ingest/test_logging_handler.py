"""The handler for `logging`: a program never waits for its log, nothing comes twice, what is dropped is counted."""

import json
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from trio_eventlog.logging import DROPPED, Handler, Sender, StructlogProcessor

SECONDS_MAX = 30.0


class Node:
    """Takes lines over HTTP as a node does.

    Attributes:
        statuses: of the next answers; then 201.
        gate: answers wait until it is set.
        rejected: lines that the next answers say to be wrong.
        bodies: their bytes, and their lines.
    """

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.requests = 0
        self.rejected = 0
        self.bodies: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        node = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                node.gate.wait(SECONDS_MAX)
                node.requests += 1
                node.bodies.append((len(body), len(json.loads(body))))
                status = node.statuses.pop(0) if node.statuses else 201
                if status == 201:
                    node.lines += json.loads(body)
                self.send_response(status)
                answer = json.dumps({"accepted": 0, "rejected": node.rejected, "errors": []}).encode()
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/logs"


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.gate.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def make_logger(node: Node) -> Iterator[Callable[..., tuple[logging.Logger, Handler]]]:
    handlers: list[tuple[logging.Logger, Handler]] = []

    def make(**limits: Any) -> tuple[logging.Logger, Handler]:
        logger = logging.Logger("shop.checkout")
        handler = Handler(node.url, service="checkout", labels={"env": "test"}, linger_seconds=0.01, **limits)
        logger.addHandler(handler)
        handlers.append((logger, handler))
        return logger, handler

    yield make
    for logger, handler in handlers:
        logger.removeHandler(handler)
        handler.close()


def test_what_a_line_has(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    logger, handler = make_logger()
    logger.warning("order %d is late", 7, extra={"customer": 12})
    try:
        raise ValueError("no stock")
    except ValueError:
        logger.exception("failed")
    handler.close()
    first, second = node.lines
    assert (first["service"], first["level"], first["message"]) == ("checkout", "WARN", "order 7 is late")
    assert first["labels"]["customer"] == "12"
    assert (first["labels"]["env"], first["labels"]["logger"], first["labels"]["thread"]) == ("test", "shop.checkout", "MainThread")
    assert first["labels"]["source"].endswith(f"{__name__.rpartition('.')[2]}.py:{first['labels']['source'].rpartition(':')[2]}")
    assert abs(first["timestamp"] - second["timestamp"]) < 60
    assert (second["level"], second["message"]) == ("ERROR", "failed")
    assert "ValueError: no stock" in second["labels"]["exception"]
    assert (handler.sender.sent, handler.sender.dropped, handler.last_error) == (2, 0, "")


def test_lines_of_many_threads(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    """All of them once, and each thread's in its order."""
    logger, handler = make_logger(batch_lines_max=7)
    threads = [
        threading.Thread(target=lambda name=name: [logger.info("%s %d", name, number) for number in range(200)]) for name in "abcde"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close(seconds_max=SECONDS_MAX)
    messages = [line["message"] for line in node.lines]
    for name in "abcde":
        assert [message for message in messages if message.startswith(name)] == [f"{name} {number}" for number in range(200)]
    assert handler.sender.sent == len(messages) == 1000


def test_a_node_that_is_away_stops_nobody(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    """What does not fit is dropped and counted, and the next line that is sent says so."""
    logger, handler = make_logger(queue_lines_max=10, batch_lines_max=1)
    node.gate.clear()
    for number in range(100):
        logger.info("%d", number)
    assert 88 <= handler.sender.dropped <= 90
    dropped = handler.sender.dropped
    node.gate.set()
    handler.close(seconds_max=SECONDS_MAX)
    assert len(node.lines) == 100 - dropped
    assert sum(int(line["labels"].get(DROPPED, 0)) for line in node.lines) == dropped


def test_a_busy_node_is_asked_again(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    logger, handler = make_logger()
    node.statuses = [503, 429, 500]
    logger.info("a")
    while not node.lines:
        threading.Event().wait(0.01)
    handler.close()
    assert [line["message"] for line in node.lines] == ["a"]
    assert (node.requests, handler.sender.sent) == (4, 1)


def test_what_is_refused_for_good_is_counted(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    logger, handler = make_logger(batch_lines_max=1)
    node.statuses = [400]
    logger.info("a")
    logger.info("b")
    handler.close()
    assert [line["message"] for line in node.lines] == ["b"]
    assert (handler.sender.refused, handler.sender.sent) == (1, 1)
    assert handler.last_error.startswith("400: ")


def test_lines_that_the_node_names_as_wrong_are_counted(
    node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]
) -> None:
    logger, handler = make_logger(batch_lines_max=2)
    node.rejected = 1
    logger.info("a")
    logger.info("b")
    handler.close()
    assert handler.sender.sent + handler.sender.refused == 2
    assert handler.sender.refused == node.requests
    assert handler.last_error.startswith("201: ")


def test_long_lines_go_in_requests_that_a_node_takes(
    node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]
) -> None:
    """One that is larger than a request may be goes alone."""
    logger, handler = make_logger(batch_bytes_max=5000)
    texts = ["a" * 2000, "b" * 2000, "c" * 2000, "d" * 9000, "e", "f"]
    node.gate.clear()
    for text in texts:
        logger.info(text)
    node.gate.set()
    handler.close(seconds_max=SECONDS_MAX)
    assert [line["message"] for line in node.lines] == texts
    assert all(size_bytes <= 5100 or count == 1 for size_bytes, count in node.bodies), node.bodies
    assert handler.sender.sent == 6


def test_what_is_no_json_is_counted_and_stops_no_other(node: Node) -> None:
    sender = Sender(node.url, linger_seconds=0.0)
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    for number, labels in enumerate(({"object": object()}, circle, {("a", "tuple"): ""}), 1):
        sender.put({"message": "odd", "labels": labels})
        while sender.refused < number:
            threading.Event().wait(0.01)
        sender.put({"message": "good"})
    sender.close(seconds_max=SECONDS_MAX)
    assert [line["message"] for line in node.lines] == ["good"] * 3
    assert (sender.sent, sender.refused) == (3, 3)


def test_what_is_queued_when_the_program_ends_is_sent_or_counted(node: Node) -> None:
    """The node never takes anything: it is asked once more, and then all that is left counts as dropped."""
    sender = Sender(node.url, linger_seconds=0.0, batch_lines_max=3)
    node.statuses = [503] * 1000
    for number in range(10):
        sender.put({"message": str(number)})
    sender.close(seconds_max=SECONDS_MAX)
    assert (node.lines, sender.sent, sender.dropped) == ([], 0, 10)


def test_an_end_with_a_full_queue(node: Node) -> None:
    """No end fits into it: the thread sees for itself that it is one."""
    sender = Sender(node.url, linger_seconds=0.0, queue_lines_max=3, batch_lines_max=1)
    node.gate.clear()
    for number in range(20):
        sender.put({"message": str(number)})
    sender.close(seconds_max=0.0)
    node.gate.set()
    assert sender._thread is not None
    sender._thread.join(SECONDS_MAX)
    assert not sender._thread.is_alive()
    assert sender.sent == len(node.lines)
    assert sender.sent + sender.dropped == 20


def test_a_log_call_never_fails(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("cannot be shown")

    logger, handler = make_logger()
    logger.info("%d", "x")
    logger.info("a", extra={"odd": Odd()})
    logger.info("half a pair \ud800")
    handler.close()
    logger.info("after the end")
    first, second, third = node.lines
    assert "cannot be formatted" in first["message"]
    assert "cannot be shown" in second["labels"]["odd"]
    assert third["message"] == "half a pair ?"
    assert handler.sender.dropped == 1


def test_without_a_node_a_program_ends(make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    handler = Handler("http://127.0.0.1:9/v1/logs", service="s", linger_seconds=0.0)
    handler.emit(logging.makeLogRecord({"msg": "a", "levelno": logging.INFO}))
    handler.close()
    assert handler.sender.sent == 0
    assert "Refused" in handler.last_error or "refused" in handler.last_error


def log_in_child(handler: Handler) -> None:
    handler.emit(logging.makeLogRecord({"msg": "from the child", "levelno": logging.INFO}))
    handler.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_sends_its_own_lines(node: Node, make_logger: Callable[..., tuple[logging.Logger, Handler]]) -> None:
    """And none of its parent's, that were queued when it was forked."""
    logger, handler = make_logger(batch_lines_max=1)
    node.gate.clear()
    for number in range(5):
        logger.info("%d", number)
    child = multiprocessing.get_context("fork").Process(target=log_in_child, args=(handler,))
    child.start()
    node.gate.set()
    child.join(SECONDS_MAX)
    assert child.exitcode == 0
    handler.close(seconds_max=SECONDS_MAX)
    assert sorted(line["message"] for line in node.lines) == ["0", "1", "2", "3", "4", "from the child"]


def test_events_of_structlog(node: Node) -> None:
    processor = StructlogProcessor(node.url, service="checkout", linger_seconds=0.0)
    event = {"event": "paid", "level": "warning", "amount": 7}
    assert processor(None, "warning", event) is event
    processor.sender.close()
    (line,) = node.lines
    assert (line["service"], line["level"], line["message"], line["labels"]) == ("checkout", "warning", "paid", {"amount": "7"})


@pytest.mark.parametrize("url", ["ftp://x/", "n1:8400", "", "http://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"http://HOST:PORT/v1/logs"):
        Handler(url, service="s")
