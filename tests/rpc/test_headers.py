"""Header blocks: HPACK against hpack's own coder, bounds, and what the lists say."""

import math

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rpc.raw import request_headers
from trio_eventlog.rpc._purerpc import HPACKError, StatusCode
from trio_eventlog.rpc.headers import (
    HeaderDecoder,
    HeaderListTooLarge,
    MetadataError,
    decode_metadata,
    encode_headers,
    encode_metadata,
    encode_timeout,
    parse_request,
    parse_response,
)

NAMES = st.binary(min_size=1, max_size=30) | st.sampled_from([b":path", b"content-type", b"x", b"grpc-timeout", b"cookie"])
LISTS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=12)


@given(st.lists(LISTS, max_size=8), st.booleans(), st.lists(st.integers(0, 4096), max_size=3))
def test_decodes_what_hpack_encodes(lists, huffman, table_sizes):
    """Block after block of one connection, with the table in use and resized."""
    encoder = Encoder()
    decoder = HeaderDecoder(list_bytes_max=1 << 20)
    for number, headers in enumerate(lists):
        if number < len(table_sizes):
            encoder.header_table_size = table_sizes[number]
        assert decoder.decode(encoder.encode(headers, huffman=huffman))[0] == headers


@given(LISTS)
def test_decodes_what_we_encode(headers):
    decoder = HeaderDecoder(list_bytes_max=1 << 20)
    decoded, size = decoder.decode(encode_headers(headers))
    assert decoded == headers
    assert size == sum(len(name) + len(value) + 32 for name, value in headers)
    assert decoder.version == 0


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_bytes_are_decoded_or_refused(blocks):
    decoder = HeaderDecoder(list_bytes_max=4096)
    try:
        for block in blocks:
            decoder.decode(block)
    except (HPACKError, HeaderListTooLarge):
        pass


def test_equal_blocks_mean_the_same_while_the_version_stays():
    decoder = HeaderDecoder(list_bytes_max=4096)
    encoder = Encoder()
    first = encoder.encode([(b"x", b"1")])
    again = encoder.encode([(b"x", b"1")])
    decoder.decode(first)
    version = decoder.version
    assert version == 1
    assert decoder.decode(again) == decoder.decode(again)
    assert decoder.version == version
    decoder.decode(encoder.encode([(b"y", b"1")]))
    assert decoder.version == 2
    # The same bytes name another entry now.
    assert decoder.decode(again)[0] == [(b"y", b"1")]


@pytest.mark.parametrize("list_bytes_max", [100, 101])
def test_the_bound_of_a_list(list_bytes_max):
    decoder = HeaderDecoder(list_bytes_max=list_bytes_max)
    block = encode_headers([(b"a" * 10, b"b" * 59)])
    if list_bytes_max == 101:
        decoder.decode(block)
    else:
        with pytest.raises(HeaderListTooLarge):
            decoder.decode(block)


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xff\x80\x80\x80\x80\x01", b"\xbe", b"\x00\x05a", b"\x3f\xe2\x1f", b"\x82\x20", b"\x40", b"\x00\x81\xff\x00"],
    ids=["index 0", "long integer", "beyond the table", "cut", "table too large", "late resize", "empty", "bad Huffman"],
)
def test_bad_blocks(block):
    with pytest.raises(HPACKError):
        HeaderDecoder(list_bytes_max=4096).decode(block)


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=8))
def test_reading_never_raises(headers):
    parse_request(headers, 0, 100)
    parse_response(headers, 0, 100, is_trailer=True)
    parse_response(headers, 0, 100, is_trailer=False)


@given(
    st.dictionaries(
        st.sampled_from([b"te", b"grpc-timeout", b"grpc-encoding", b"x-bin", b":path", b"content-type"]), st.binary(max_size=12)
    )
)
def test_a_request_with_any_value_is_read_or_refused(changes):
    headers = {**dict(request_headers("/a.B/C")), **changes}
    head = parse_request(sorted(headers.items(), key=lambda pair: pair[0][:1] != b":"), 0, 100)
    assert head.malformed or head.refusal or head.service


def test_a_request():
    headers = [
        *request_headers("/a.B/C", grpc_timeout="250m", user_agent="me/1", grpc_encoding="gzip"),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x-b-bin", b"AAE,AP8="),
        (b"grpc-previous-rpc-attempts", b"1"),
    ]
    head = parse_request(headers, 0, 1)
    assert (head.malformed, head.refusal) == ("", None)
    assert (head.service, head.method, head.authority, head.scheme) == ("a.B", "C", "test", "http")
    assert (head.timeout_seconds, head.encoding, head.user_agent) == (0.25, "gzip", "me/1")
    assert head.metadata == (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\x01"), ("x-b-bin", b"\x00\xff"))
    assert parse_request(headers, 2, 1).refusal.status is StatusCode.RESOURCE_EXHAUSTED


@given(
    st.lists(st.tuples(st.sampled_from(["x", "a-b.c_d"]), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)))
)
def test_text_metadata_survives(pairs):
    assert decode_metadata(encode_metadata(pairs)) == tuple(pairs)


@given(st.lists(st.tuples(st.sampled_from(["x-bin", "grpc-status-details-bin"]), st.binary(max_size=50))))
def test_binary_metadata_survives(pairs):
    assert decode_metadata(encode_metadata(pairs)) == tuple(pairs)


@pytest.mark.parametrize(
    "pair", [("", "a"), (":path", "a"), ("X", "a"), ("grpc-x", "a"), ("x", "\n"), ("x", b""), ("x-bin", ""), ("host", "a")]
)
def test_metadata_that_cannot_be_sent(pair):
    with pytest.raises(MetadataError):
        encode_metadata([pair])


def test_no_timeout_and_one_that_has_passed():
    assert parse_request(request_headers("/a.B/C"), 0, 1).timeout_seconds == math.inf
    assert encode_timeout(-1) == encode_timeout(0) == b"1n"


@settings(max_examples=2000)
@given(
    st.floats(1e-9, 30 * 366 * 86_400.0) | st.integers(1, 30 * 366 * 86_400 * 1000).map(lambda milliseconds: milliseconds / 1000)
)
def test_a_timeout_arrives_as_at_least_what_it_was(seconds):
    """From a nanosecond to thirty years: never shorter, which would end calls before their time, and not much longer."""
    head = parse_request(request_headers("/s/m", grpc_timeout=encode_timeout(seconds).decode()), 0, 1)
    assert head.refusal is None
    assert seconds <= head.timeout_seconds <= max(seconds * 1.001, seconds + 1e-6)


@pytest.mark.parametrize(
    "seconds", [math.nextafter(edge, way) for edge in (1.0, 99_999.0, 99_999_999.0, 6e9) for way in (0, math.inf)]
)
def test_a_timeout_where_its_unit_changes(seconds):
    head = parse_request(request_headers("/s/m", grpc_timeout=encode_timeout(seconds).decode()), 0, 1)
    assert head.refusal is None
    assert head.timeout_seconds >= seconds


def test_the_longest_timeout():
    """Beyond what eight digits can say, it is the longest that they can."""
    assert encode_timeout(1e300) == b"99999999H"
