"""What a node logs itself, as lines of the log: it comes, it never feeds itself, and a log that is away makes it wait."""

import logging
from collections.abc import Sequence

import trio
import trio.testing

from trio_eventlog.codec.log_lines import StoredLine, decode_line
from trio_eventlog.errors import EventLogError, NoQuorum
from trio_eventlog.ingest.intake import Intake
from trio_eventlog.ingest.own_lines import DROPPED, LINES_MAX, OwnLines
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.values import Caller
from trio_eventlog.testing.cluster import Cluster

logger = logging.getLogger("trio_eventlog.tests")


class Sink:
    """Takes lines, and logs that it does."""

    def __init__(self) -> None:
        self.failure: EventLogError | None = None
        self.lines: list[StoredLine] = []

    async def put(self, lines: Sequence[Record], *, acks: Acks, caller: Caller) -> None:
        logger.warning("%d lines are put", len(lines))
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.lines += [decode_line(line.value or b"") for line in lines]


def make_intake() -> Intake:
    settings = IntakeSettings(log_line_bytes_max=5000, log_labels_max=10, log_request_bytes_max=1 << 20)
    return Intake(settings, received_ns=1, caller=Caller(), node_id="a1")


async def test_lines_come_and_feed_none(autojump_clock: trio.testing.MockClock) -> None:
    sink = Sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(OwnLines("n1", make_intake, sink).run)
        await trio.testing.wait_all_tasks_blocked()
        logger.warning("first %d", 1)
        logger.debug("not at all")
        await trio.sleep(20)
        logger.error("second")
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert [(line.service, line.level, line.message) for line in sink.lines] == [
        ("trio-eventlog", "WARN", "first 1"),
        ("trio-eventlog", "ERROR", "second"),
    ]
    assert sink.lines[0].labels == {"node": "n1", "logger": "trio_eventlog.tests"}
    logger.warning("after its end")


async def test_a_log_that_is_away(autojump_clock: trio.testing.MockClock) -> None:
    """The newest wait, and the first that comes then says how many were dropped."""
    sink = Sink()
    sink.failure = NoQuorum("away")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(OwnLines("n1", make_intake, sink).run)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(LINES_MAX + 7):
            logger.warning("%d", number)
        await trio.sleep(5)
        sink.failure = None
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert [line.message for line in sink.lines] == [str(number) for number in range(7, LINES_MAX + 7)]
    assert sink.lines[0].labels[DROPPED] == "7"
    assert DROPPED not in sink.lines[1].labels


async def test_nothing_that_is_logged_ends_a_node(autojump_clock: trio.testing.MockClock) -> None:
    """Nor the call that logs it: what is no text, what cannot be formatted, what is too long, more than is put at once."""
    sink = Sink()
    own_lines = OwnLines("n1", make_intake, sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own_lines.run)
        await trio.testing.wait_all_tasks_blocked()
        # Given to it alone: what pytest keeps of a log has to be UTF-8.
        own_lines.handle(logging.makeLogRecord({"msg": "a file: \udcff"}))
        error = OSError("no file \udcff")
        own_lines.handle(logging.makeLogRecord({"msg": "failed", "exc_info": (OSError, error, None)}))
        own_lines.handle(logging.makeLogRecord({"msg": "%d", "args": ("x",)}))
        logger.warning("m" * 6000)
        for _ in range(400):
            logger.warning("n" * 4000)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    messages = [line.message for line in sink.lines]
    assert messages[:2] == ["a file: ?", "failed"]
    assert "no file" in sink.lines[1].labels["exception"]
    assert "cannot be formatted" in messages[2]
    assert messages[3:] == ["m" * 1000, *["n" * 4000] * 400]


async def test_nodes_put_theirs_into_their_own_log(autojump_clock: trio.testing.MockClock) -> None:
    async with Cluster(3, seed=5, log_to_topic=True) as cluster:
        await cluster.wait_until(lambda: all(cluster.node(name).unready_because() == "" for name in cluster.names), "ready")
        logger.warning("something to see")
        found: list[StoredLine] = []
        async with cluster.client() as client:
            with trio.fail_after(30):
                while sum(line.message == "something to see" for line in found) < 3:
                    await trio.sleep(1)
                    page = await client.logs.search()
                    found = [decode_line(line.value) for line in page.lines]
        assert {line.labels["node"] for line in found if line.message == "something to see"} == {"n1", "n2", "n3"}
