"""`RpcConnection` alone: bytes in, events out."""

import itertools

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc import raw
from tests.rpc.raw import DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame
from trio_eventlog.rpc.events import CallReceived
from trio_eventlog.rpc.headers import HeaderDecoder
from trio_eventlog.rpc.protocol import RpcConnection
from trio_eventlog.rpc.settings import RpcSettings
from trio_eventlog.rpc.status import OK
from trio_eventlog.testing.defaults import default

SETTINGS_OF_TESTS = default(RpcSettings)


def server(**changes):
    connection = RpcConnection(attrs.evolve(SETTINGS_OF_TESTS, **changes), client_side=False)
    connection.initiate_connection()
    connection.take_output()
    return connection


# Left out of comparisons: entries are objects, and how much of a message is given back early depends on the pieces it came in.
_NOT_COMPARED = {"entry", "flow_controlled_length"}


def described(events):
    """Events as plain values, to compare."""
    return [
        (type(event).__name__, {key: value for key, value in vars(event).items() if key not in _NOT_COMPARED})
        if hasattr(event, "__dict__")
        else event
        for event in events
    ]


def feed(connection, data):
    events = list(connection.receive_data(data))
    while connection.has_pending:
        events += connection.receive_data(b"")
    return events


def output_of(connection):
    return b"".join(connection.take_output())


CONVERSATION = b"".join(
    [
        raw.PREFACE,
        raw.settings(initial_window_size=100_000),
        frame(HEADERS, END_HEADERS, 1, raw.block(raw.request_headers("/a.B/C", x_bin="AAAA"))),
        frame(PING, 0, 0, b"12345678"),
        frame(HEADERS, 0, 3, raw.block(raw.request_headers("/a.B/D"))[:10]),
        frame(raw.CONTINUATION, END_HEADERS, 3, raw.block(raw.request_headers("/a.B/D"))[10:]),
        frame(DATA, 0, 1, raw.message(b"first") + raw.message(b"")),
        frame(DATA, PADDED, 3, b"\x07" + raw.message(b"padded") + bytes(7)),
        frame(DATA, 0, 1, raw.message(b"x" * 1000)[:500]),
        frame(DATA, 0, 3, raw.message(b"another")),
        frame(DATA, PADDED | END_STREAM, 1, b"\x00" + raw.message(b"x" * 1000)[500:]),
        frame(WINDOW_UPDATE, 0, 0, (10).to_bytes(4, "big")),
        frame(WINDOW_UPDATE, 0, 3, (11).to_bytes(4, "big")),
        frame(77, 0, 3, b"unknown"),
        frame(RST_STREAM, 0, 3, (8).to_bytes(4, "big")),
        frame(HEADERS, END_HEADERS | END_STREAM, 5, raw.block(raw.request_headers("/a.B/E"))),
    ]
)


def test_a_conversation():
    connection = server()
    names = [type(event).__name__ for event in feed(connection, CONVERSATION)]
    assert names == [
        "WindowUpdated", "CallReceived", "CallReceived", "MessageReceived", "MessageReceived", "MessageReceived", "MessageReceived",
        "MessageReceived", "RequestEnded", "WindowUpdated", "WindowUpdated", "StreamReset", "CallReceived", "RequestEnded",
    ]  # fmt: skip
    assert connection.failure is None
    assert sorted(connection.entries) == [1, 5]


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_split_reads_alike(cuts):
    whole = server()
    expected = described(feed(whole, CONVERSATION))
    pieces = server()
    events = []
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    for start, end in itertools.pairwise(edges):
        events += feed(pieces, CONVERSATION[start:end])
    assert described(events) == expected
    assert output_of(pieces) == output_of(whole)


def test_byte_by_byte_reads_alike():
    whole, pieces = server(), server()
    expected = described(feed(whole, CONVERSATION))
    events = [event for position in range(len(CONVERSATION)) for event in feed(pieces, CONVERSATION[position : position + 1])]
    assert described(events) == expected


@settings(max_examples=300)
@given(st.binary(max_size=400), st.booleans())
def test_noise_never_raises(noise, client_side):
    connection = RpcConnection(SETTINGS_OF_TESTS, client_side=client_side)
    connection.initiate_connection()
    feed(connection, (b"" if client_side else raw.PREFACE) + raw.SETTINGS_FRAME + noise)
    connection.take_output()


FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 9, 12, 32, 36, 0xFF]),
    st.integers(0, 7),
    st.binary(max_size=30)
    | st.sampled_from([bytes(4), bytes(8), (8).to_bytes(4, "big"), raw.block(raw.request_headers("/a.B/C")), raw.message(b"m")]),
)


@settings(max_examples=500)
@given(st.lists(FRAMES, max_size=30), st.booleans())
def test_any_frames_never_raise_and_leave_the_books_in_order(frames, client_side):
    """Whatever comes: events or a failure, and no window is lost on a connection that goes on."""
    connection = RpcConnection(SETTINGS_OF_TESTS, client_side=client_side)
    connection.initiate_connection()
    if client_side:
        for _ in range(3):
            connection.start_call("/a.B/C", "test", "http", 5.0, ())
    feed(connection, (b"" if client_side else raw.PREFACE) + raw.SETTINGS_FRAME)
    for one in frames:
        feed(connection, one)
        if connection.failure is not None:
            return
    held = sum(entry.uncredited_bytes for entry in connection.entries.values())
    for entry in list(connection.entries.values()):
        connection.release(entry)
        assert entry.uncredited_bytes == 0
    if client_side:
        # What was received on streams that have ended is the shell's to acknowledge.
        return
    manager = connection.http2._inbound_flow_control_window_manager
    free = manager.current_window_size + manager._bytes_processed + connection._data.payload_left + connection._data.padding_left
    assert free == SETTINGS_OF_TESTS.connection_window_bytes, held


@settings(max_examples=300)
@given(st.data())
def test_flipped_bytes_never_raise(data):
    damaged = bytearray(CONVERSATION)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(len(raw.PREFACE), len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    feed(server(), bytes(damaged))


def test_headers_larger_than_a_frame_are_continued():
    """On the way out, to a peer that takes frames of 16 KiB."""
    ours = RpcConnection(SETTINGS_OF_TESTS, client_side=True)
    ours.initiate_connection()
    pairs = [(f"x-{number}", "v" * 1000) for number in range(40)]
    ours.start_call("/a.B/C", "test", "http", float("inf"), pairs)
    theirs = server(header_bytes_max=100_000, header_block_bytes_max=100_000)
    (event,) = [event for event in feed(theirs, output_of(ours)) if isinstance(event, CallReceived)]
    assert event.head.metadata == tuple(pairs)


def test_a_changed_table_size_is_announced():
    """A peer that shrinks our table learns of it at the head of the next block (RFC 7541, 4.2)."""
    connection = server()
    feed(connection, raw.PREFACE + raw.settings(header_table_size=0))
    (event,) = feed(connection, frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.block(raw.request_headers("/a.B/C"))))[:1]
    connection.take_output()
    connection.finish_response(event.entry, OK)
    output = output_of(connection)
    assert output[9] == 0x20
    feed(connection, frame(HEADERS, END_HEADERS | END_STREAM, 3, raw.block(raw.request_headers("/a.B/C"))))
    connection.finish_response(connection.entries[3], OK)
    assert output_of(connection)[9] == 0


def test_settings_that_nobody_knows_are_not_kept():
    connection = server()
    payload = b"".join(number.to_bytes(2, "big") + bytes(4) for number in range(1000, 3000))
    feed(connection, raw.PREFACE + frame(SETTINGS, 0, 0, payload))
    assert connection.failure is None
    assert len(connection.http2.remote_settings) < 20


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_of_calls_at_once(extra):
    connection = server(streams_per_connection_max=3)
    feed(connection, raw.PREFACE + raw.SETTINGS_FRAME)
    block = raw.block(raw.request_headers("/a.B/C"))
    events = feed(connection, b"".join(frame(HEADERS, END_HEADERS, 1 + 2 * number, block) for number in range(3 + extra)))
    assert len(events) == 3
    refused = frame(RST_STREAM, 0, 7, (7).to_bytes(4, "big"))
    assert (refused in output_of(connection)) == bool(extra)


def test_small_pieces_do_not_hold_large_buffers():
    """A peer that sends one byte of a message in each large read must not make us keep the reads."""
    connection = server()
    block = raw.block(raw.request_headers("/a.B/C"))
    feed(
        connection, raw.PREFACE + raw.SETTINGS_FRAME + frame(HEADERS, END_HEADERS, 1, block) + frame(HEADERS, END_HEADERS, 3, block)
    )
    feed(connection, frame(DATA, 0, 1, raw.message(bytes(1000))[:5]))
    filler = frame(DATA, 0, 3, raw.message(bytes(15_000)))
    for _ in range(10):
        for event in feed(connection, frame(DATA, 0, 1, b"a") + filler):
            connection.acknowledge(connection.entries[3], event.flow_controlled_length)
    assert all(isinstance(piece, bytes) for piece in connection.entries[1].pieces)


@pytest.mark.parametrize(("content_type", "status"), [(None, b"415"), ("application/grpc", b"405")])
def test_a_get_is_no_call(content_type, status):
    """Who wants HTTP agrees on HTTP/1.1. Streams after it are calls as ever."""
    connection = RpcConnection(SETTINGS_OF_TESTS, client_side=False)
    connection.initiate_connection()
    headers = raw.block([
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/ready"), (b":authority", b"x"),
        *([(b"content-type", content_type.encode())] if content_type else []),
    ])  # fmt: skip
    feed(connection, raw.PREFACE + raw.settings())
    connection.take_output()
    assert feed(connection, frame(HEADERS, END_HEADERS | END_STREAM, 1, headers)) == []
    call = frame(HEADERS, END_HEADERS, 3, raw.block(raw.request_headers("/a.B/C")))
    assert [type(event) for event in feed(connection, call)] == [CallReceived]
    decoder = HeaderDecoder(list_bytes_max=1 << 16)
    output = b"".join(bytes(part) for part in connection.take_output())
    length = int.from_bytes(output[:3])
    answered, _ = decoder.decode(output[9 : 9 + length])
    assert output[3:5] == bytes((HEADERS, END_HEADERS | END_STREAM))
    assert dict(answered)[b":status"] == status
