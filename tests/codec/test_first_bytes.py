"""The table that splits the port."""

import ssl

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
    offers_protocol,
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
        (b"<34>1 ", FirstBytes.SYSLOG),
        (b"<", FirstBytes.SYSLOG),
        (b"1", FirstBytes.NEED_MORE),
        (b"123456", FirstBytes.NEED_MORE),
        (b"123456 ", FirstBytes.NEED_MORE),
        (b"123456 <", FirstBytes.SYSLOG),
        (b"83 <34>1", FirstBytes.SYSLOG),
        (b"1234567", FirstBytes.UNKNOWN),
        (b"0", FirstBytes.UNKNOWN),
        (b"12 x", FirstBytes.UNKNOWN),
        (b"12x", FirstBytes.UNKNOWN),
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
        (b"\x00", FirstBytes.NEED_MORE),
        (b"\x00\x7f", FirstBytes.UNKNOWN),
        (b"\x00\x80", FirstBytes.GOSSIP),
        (b"\x00\x85\xa4Node", FirstBytes.GOSSIP),
        (b"\x00\x8f", FirstBytes.GOSSIP),
        (b"\x00\x90", FirstBytes.UNKNOWN),
        (b"\x00\x01", FirstBytes.UNKNOWN),
        (b"\x00\x00", FirstBytes.KAFKA),
        (bytes.fromhex("00 00 00 24 00 12 00 03"), FirstBytes.KAFKA),
        (bytes.fromhex("00 00 00 11 00 12 00 02"), FirstBytes.KAFKA),
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


likely = st.sampled_from([HTTP2_PREFACE, PEER_MAGIC, b"", b"POST", b"\x16\x03", b"\x00\x00", b"\x00\x85"])


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


def tls_hello(*protocols: str) -> bytes:
    """What a TLS client says first, offering `protocols`."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="trio-eventlog-peer").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("offered", "offers"),
    [(("peer/1",), True), (("h2", "peer/1"), True), (("h2",), False), ((), False), (("peer/11",), False), (("a-peer/1",), False)],
)
def test_what_a_tls_hello_offers(offered: tuple[str, ...], offers: bool) -> None:
    """Known when the hello is whole, not before, and whatever follows it."""
    hello = tls_hello(*offered)
    assert {offers_protocol(hello[:length], "peer/1") for length in range(len(hello))} == {None}
    assert offers_protocol(hello, "peer/1") is offers
    assert offers_protocol(hello + b"\x06peer/1", "peer/1") is offers


@pytest.mark.parametrize(
    ("head", "offers"), [(b"\x16\x03\x01\xff\xff", False), (b"\x16\x03\x01\x40\x01", False), (b"\x16\x03\x01\x40\x00", None)]
)
def test_a_record_that_is_too_long_is_not_waited_for(head: bytes, offers: bool | None) -> None:
    assert offers_protocol(head, "peer/1") is offers
