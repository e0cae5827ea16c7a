"""The table that splits the port."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.first_bytes import (
    FIRST_BYTES_MAX,
    HTTP2_PREFACE,
    PEER_MAGIC,
    PEER_PREFACE,
    FirstBytes,
    classify_first_bytes,
)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"", FirstBytes.NEED_MORE),
        (b"P", FirstBytes.NEED_MORE),
        (b"PR", FirstBytes.NEED_MORE),
        (b"PRI * HTTP/2.", FirstBytes.NEED_MORE),
        (b"PRI * HTTP/2.0", FirstBytes.GRPC),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstBytes.GRPC),
        (b"PRI * HTTP/2.1", FirstBytes.HTTP),
        (b"PROPFIND / HTTP/1.1", FirstBytes.HTTP),
        (b"PO", FirstBytes.HTTP),
        (b"GET /health HTTP/1.1", FirstBytes.HTTP),
        (b"A", FirstBytes.HTTP),
        (b"Z", FirstBytes.HTTP),
        (b"@", FirstBytes.UNKNOWN),
        (b"[", FirstBytes.UNKNOWN),
        (b"get / HTTP/1.1", FirstBytes.UNKNOWN),
        (b"\x16", FirstBytes.TLS),
        (b"\x16\x03\x01", FirstBytes.TLS),
        (b"\xe1", FirstBytes.NEED_MORE),
        (b"\xe1vl", FirstBytes.NEED_MORE),
        (b"\xe1vlg", FirstBytes.PEER),
        (b"\xe1vlg\x01", FirstBytes.PEER),
        (b"\xe1vlg\xff", FirstBytes.PEER),
        (b"\xe1vlx", FirstBytes.UNKNOWN),
        (b"\xe1x", FirstBytes.UNKNOWN),
        (b"\x00", FirstBytes.GOSSIP),
        (b"\x06", FirstBytes.GOSSIP),
        (b"\x08", FirstBytes.GOSSIP),
        (b"\x09", FirstBytes.GOSSIP),
        (b"\x0a", FirstBytes.GOSSIP),
        (b"\xf4\x04name", FirstBytes.GOSSIP),
        (b"\x01", FirstBytes.UNKNOWN),
        (b"SSH-2.0-x", FirstBytes.HTTP),
        (b"\x80", FirstBytes.UNKNOWN),
    ],
)
def test_table(received: bytes, expected: FirstBytes) -> None:
    assert classify_first_bytes(received) is expected


def test_the_magic_is_what_links_were_built_with() -> None:
    """Changing it makes releases deaf to each other."""
    assert bytes.fromhex("e1 76 6c 67 01") == PEER_PREFACE


likely = st.sampled_from([HTTP2_PREFACE, PEER_MAGIC, b"", b"POST", b"\x16\x03"])


@given(likely, st.integers(0, 20), st.binary(max_size=40))
def test_total_and_settled(start: bytes, cut: int, rest: bytes) -> None:
    """Any bytes have an answer; once it is not NEED_MORE, more bytes do not change it."""
    data = start[:cut] + rest
    answers = [classify_first_bytes(data[:end]) for end in range(len(data) + 1)]
    settled = [answer for answer in answers if answer is not FirstBytes.NEED_MORE]
    assert len(set(settled)) <= 1
    assert answers[len(answers) - len(settled) :] == settled
    if len(data) >= FIRST_BYTES_MAX:
        assert settled
