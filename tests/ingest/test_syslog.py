"""Messages of syslog: framing in any pieces, both forms, and what is neither; connections that put them into the log."""

import random

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.ingest.kit import SlowSink
from trio_eventlog.backoff import Backoff
from trio_eventlog.budgets import Standing
from trio_eventlog.errors import EventLogError, InvalidArgument, Overloaded
from trio_eventlog.ingest.intake import Intake, LineIn
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.ingest.syslog import SyslogFramer, SyslogRefused, line_of
from trio_eventlog.ingest.syslog_server import serve_syslog
from trio_eventlog.service.values import Caller

EXAMPLES = {
    b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick": LineIn(
        message="'su root' failed for lonvick",
        service="su",
        level="FATAL",
        timestamp="2003-10-11T22:14:15.003Z",
        labels={"facility": "auth", "host": "mymachine.example.com", "msgid": "ID47"},
    ),
    b'<165>1 2003-10-11T22:14:15.003Z h evntslog 17 ID47 [ex@1 iut="3" src="a \\"b\\" \\]"][p@1 class="high"] text': LineIn(
        message="text",
        service="evntslog",
        level="INFO",
        timestamp="2003-10-11T22:14:15.003Z",
        labels={
            "facility": "local4", "host": "h", "procid": "17", "msgid": "ID47",
            "ex@1.iut": "3", "ex@1.src": 'a "b" ]', "p@1.class": "high",
        },
    ),
    b"<14>1 - - - - - -": LineIn(message="", level="INFO", labels={"facility": "user"}),
    b"<38>Oct  1 22:14:15 host sshd[42]: accepted": LineIn(
        message="accepted",
        service="sshd",
        level="INFO",
        labels={"facility": "auth", "syslog_timestamp": "Oct  1 22:14:15", "host": "host", "procid": "42"},
    ),
    b"<13>app: text: more": LineIn(message="text: more", service="app", level="INFO", labels={"facility": "user"}),
    b"<13>no tag here": LineIn(message="no tag here", level="INFO", labels={"facility": "user"}),
    b"<999>text": LineIn(message="<999>text"),
    b"just text": LineIn(message="just text"),
}  # fmt: skip


@pytest.mark.parametrize("message", EXAMPLES)
def test_a_message_as_a_line(message: bytes) -> None:
    assert line_of(message) == EXAMPLES[message]


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda text: b"\n" not in text and bool(text.strip())), max_size=6),
    st.data(),
)
def test_messages_in_any_pieces(texts: list[bytes], data: st.DataObject) -> None:
    messages = [b"<14>" + text for text in texts]
    whole = b"".join(b"%d %b" % (len(message), message) if data.draw(st.booleans()) else message + b"\n" for message in messages)
    framer = SyslogFramer(100)
    found: list[bytes] = []
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += framer.feed(whole[:size])
        whole = whole[size:]
    assert [*found, *framer.end()] == messages


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_no_bytes_end_the_framer_or_the_parser(pieces: list[bytes]) -> None:
    framer = SyslogFramer(40)
    try:
        for piece in pieces:
            for message in framer.feed(piece):
                assert len(message) <= 40
                line_of(message)
    except SyslogRefused:
        pass


@pytest.mark.parametrize("data", [b"<14>" + b"x" * 97 + b"\n", b"<14>" + b"x" * 200, b"101 <14>", b"1234567 <14>", b"12x<14>"])
def test_what_is_too_long_or_no_syslog(data: bytes) -> None:
    with pytest.raises(SyslogRefused):
        list(SyslogFramer(100).feed(data))


def test_as_long_as_may_be() -> None:
    message = b"<14>" + b"x" * 96
    assert list(SyslogFramer(100).feed(message + b"\n100 " + message)) == [message, message]


async def serve(sink: SlowSink, *pieces: bytes, slots: trio.CapacityLimiter | None = None) -> None:
    """Give a server these bytes, and then the end."""
    ours, theirs = trio.testing.memory_stream_pair()

    def make_intake() -> Intake:
        settings = IntakeSettings(log_line_bytes_max=500, log_labels_max=3, log_request_bytes_max=1 << 20)
        return Intake(settings, received_ns=1, caller=Caller(address="10.0.0.7:1"), node_id="a1")

    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve_syslog(
                theirs,
                Standing(),
                make_intake=make_intake,
                sink=sink,
                slots=slots or trio.CapacityLimiter(1),
                caller=Caller(address="10.0.0.7:1"),
                backoff=Backoff(random.Random(1), 0.1, 1.0),
                message_bytes_max=1000,
                retry_seconds_max=10.0,
            )
            await theirs.aclose()

        nursery.start_soon(run)
        try:
            for piece in pieces:
                await ours.send_all(piece)
            await ours.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def test_lines_go_into_the_log(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink()
    await serve(sink, b"<14>a: 1\n<14>a: 2\n8 <14", b">a: 3<14>a: 4")
    assert sink.texts == ["1", "2", "3", "4"]


async def test_a_log_that_is_away_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink(Overloaded("busy", 1.0), Overloaded("busy", 1.0))
    await serve(sink, b"<14>a: 1\n")
    assert sink.texts == ["1"]


@pytest.mark.parametrize("error", [InvalidArgument("never"), Overloaded("busy", 1.0)])
async def test_but_not_for_ever(autojump_clock: trio.testing.MockClock, error: EventLogError) -> None:
    sink = SlowSink(*[error] * 1000)
    begun = trio.current_time()
    await serve(sink, b"<14>a: 1\n", b"<14>a: 2\n")
    assert sink.texts == []
    assert trio.current_time() - begun < 15


async def test_odd_lines_are_taken_plainly_or_dropped(autojump_clock: trio.testing.MockClock) -> None:
    """One that is odd costs none of the others."""
    sink = SlowSink()
    odd_time = b"<14>1 yesterday h a - - - 1\n"
    labels = b'<14>1 - h a 1 2 [x@1 a="1" b="2"] 2\n'
    await serve(sink, odd_time + labels + b"<14>a: " + b"x" * 600 + b"\n<14>a: 3\n")
    assert sink.texts == ["1", "2", "3"]


async def test_what_is_no_syslog_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink()
    await serve(sink, b"<14>a: 1\n", b"12345678")
    assert sink.texts == ["1"]


async def test_few_connections_hold_lines_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink()
    slots = trio.CapacityLimiter(2)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(lambda number=number: serve(sink, b"<14>a: %d\n" % number, slots=slots))
    assert sorted(sink.texts) == ["0", "1", "2", "3", "4"]
    assert sink.most == 2
