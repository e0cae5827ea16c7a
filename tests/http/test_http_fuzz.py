"""Requests in any pieces are answered alike, and anything at all ends in an answer or a closed connection."""

import itertools
import random
import re
from collections.abc import Sequence

import trio
import trio.testing
from http_kit import Client, echo, end_of, make_server, serve_on
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.testing.defaults import default

HEAD = b"%s / HTTP/1.1\r\nhost: x\r\n%s\r\n"


def get() -> bytes:
    return HEAD % (b"GET", b"")


def post(body: bytes) -> bytes:
    return HEAD % (b"POST", b"content-length: %d\r\n" % len(body)) + body


def chunked(chunks: Sequence[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD % (b"PUT", b"transfer-encoding: chunked\r\n") + body + b"0\r\n\r\n"


requests = st.lists(
    st.one_of(
        st.builds(get),
        st.builds(post, st.binary(max_size=40)),
        st.builds(chunked, st.lists(st.binary(min_size=1, max_size=10), max_size=4)),
    ),
    min_size=1,
    max_size=5,
).map(b"".join)


def said_to(pieces: Sequence[bytes], half_closes: bool = True) -> bytes:
    """Everything that a server says to a client that sends these pieces and then no more."""

    async def story() -> bytes:
        async with trio.open_nursery() as nursery:
            client = Client(await serve_on(nursery, make_server(echo, default(HttpSettings, http_body_bytes_max=10_000))))
            try:
                for piece in pieces:
                    await client.stream.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                if not half_closes:
                    await client.stream.aclose()
                    return b""
                await client.stream.send_eof()
            except trio.BrokenResourceError:
                pass
            return await end_of(client)
        raise AssertionError

    said: bytes = trio.run(story, clock=trio.testing.MockClock(autojump_threshold=0))
    return said


def without_what_varies(said: bytes) -> bytes:
    return re.sub(rb"(server-timing|x-request-id): [^\r]*", b"", said)


def split_at(data: bytes, places: Sequence[float]) -> list[bytes]:
    cuts = sorted({0, len(data), *(round(place * len(data)) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(cuts)]


@given(requests, st.lists(st.floats(0, 1), max_size=8))
def test_requests_in_any_pieces_are_answered_alike(data: bytes, places: Sequence[float]) -> None:
    """One after the other, as if they had come in one piece."""
    whole = without_what_varies(said_to([data]))
    assert whole.count(b"HTTP/1.1 200 OK") == data.count(b"HTTP/1.1")
    assert without_what_varies(said_to(split_at(data, places))) == whole


@settings(max_examples=20)
@given(requests)
def test_requests_byte_by_byte_are_answered_alike(data: bytes) -> None:
    single = [data[at : at + 1] for at in range(len(data))]
    assert without_what_varies(said_to(single)) == without_what_varies(said_to([data]))


mutations = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([b"\n", b"\r", b" ", b"\x00", b":", b"0", b"\xff"])), max_size=4
)


@given(requests, mutations, st.booleans(), st.booleans())
@example(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab", [], True, True)
def test_anything_ends_in_answers_or_a_closed_connection(
    data: bytes, changes: Sequence[tuple[float, bytes]], inserts: bool, half_closes: bool
) -> None:
    """And never in more answers than there were requests: no byte of a body becomes a request."""
    damaged = data
    for place, byte in changes:
        at = int(place * len(damaged))
        damaged = damaged[:at] + byte + damaged[at + (not inserts) :]
    said = said_to([damaged], half_closes)
    assert said.count(b"HTTP/1.1 ") <= data.count(b"HTTP/1.1") + 1
    assert not said.count(b"HTTP/1.1 5") - said.count(b"HTTP/1.1 505") - said.count(b"HTTP/1.1 501")


@given(st.binary(max_size=300), st.integers(0, 1 << 32))
def test_random_bytes(data: bytes, seed: int) -> None:
    """Nothing of it is taken for a request that could do something."""
    said = said_to([data, random.Random(seed).randbytes(50)])
    assert b"HTTP/1.1 200" not in said
