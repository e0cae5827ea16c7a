"""The MessagePack dialect of memberlist: forms, bounds, any bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.msgpack import DEPTH_MAX, Fields, Incomplete, Reader, decode_text, finite, pack, unpack
from trio_eventlog.errors import CodecError

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.binary(max_size=8), inner, max_size=20),
    max_leaves=30,
)


@given(values)
def test_round_trip(value: object) -> None:
    """What is packed comes back."""
    assert unpack(pack(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_codec_error(data: bytes) -> None:
    """Nothing but CodecError is raised, and the position moves only over what was read."""
    reader = Reader(data)
    try:
        reader.read()
    except CodecError as error:
        assert not isinstance(error, Incomplete) or reader.position == 0  # noqa: PT017
    else:
        assert 0 < reader.position <= len(data)


@given(values)
def test_every_prefix_is_incomplete(value: object) -> None:
    """A value that is cut off asks for more, and for no more than there is."""
    data = pack(value)
    for end in range(len(data)):
        with pytest.raises(Incomplete) as caught:
            Reader(data[:end]).read()
        assert end < caught.value.needed_bytes <= len(data)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"), (127, "7f"), (128, "cc80"), (255, "ccff"), (256, "cd0100"), (65535, "cdffff"), (65536, "ce00010000"),
        (1 << 32, "cf0000000100000000"), (-1, "ff"), (-32, "e0"), (-33, "d0df"), (-129, "d1ff7f"), (-32769, "d2ffff7fff"),
        (-(1 << 31) - 1, "d3ffffffff7fffffff"), ("a" * 31, "bf" + "61" * 31), ("a" * 32, "da0020" + "61" * 32),
        (b"", "a0"), ([], "90"), ({}, "80"), (1.5, "cb3ff8000000000000"), ("ä", "a2c3a4"), ("\udcff", "a1ff"),
    ],
)  # fmt: skip
def test_shortest_old_forms(value: object, expected: str) -> None:
    """Numbers take their shortest form; text and bytes are raw, never str8 or bin."""
    assert pack(value).hex() == expected


def test_large_lengths() -> None:
    """Raw, lists and maps beyond 16 and 32 bits' forms."""
    assert pack(b"x" * 65536)[:5].hex() == "db00010000"
    assert pack([None] * 16)[:3].hex() == "dc0010"
    assert pack({str(one): None for one in range(16)})[:3].hex() == "de0010"
    assert pack([None] * 65536)[:5].hex() == "dd00010000"


@pytest.mark.parametrize("data", [b"\xd9\x03abc", b"\xc4\x03abc", b"\xda\x00\x03abc", b"\xc5\x00\x03abc", b"\xa3abc"])
def test_newer_forms_are_read_as_raw(data: bytes) -> None:
    """A sender of the new specification is understood."""
    assert unpack(data) == b"abc"


@pytest.mark.parametrize("code", [0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8])
def test_extensions_are_refused(code: int) -> None:
    """There are none in this dialect."""
    with pytest.raises(CodecError, match="unknown form"):
        unpack(bytes((code,)) + bytes(32))


def test_bounds() -> None:
    """Depth and items are counted before anything is made of them."""
    assert unpack(b"\x91" * DEPTH_MAX + b"\xc0") is not None
    with pytest.raises(CodecError, match="within each other"):
        unpack(b"\x91" * (DEPTH_MAX + 1) + b"\xc0")
    assert len(unpack(b"\x9a" + b"\x00" * 10, items_max=10)) == 10
    with pytest.raises(CodecError, match="still allowed"):
        unpack(b"\x9b" + b"\x00" * 11, items_max=10)
    with pytest.raises(CodecError, match="still allowed"):
        unpack(b"\xdd\xff\xff\xff\xff")
    with pytest.raises(CodecError, match="still allowed"):
        unpack(b"\xdf\xff\xff\xff\xff")


def test_items_are_counted_over_reads_but_not_over_failed_ones() -> None:
    """A stream that comes in pieces does not use up its allowance by trying."""
    reader = Reader(b"\x92\x00", items_max=4)
    for _ in range(5):
        with pytest.raises(Incomplete):
            reader.read()
    reader.data += b"\x00\x93\x00\x00\x00"
    assert reader.read() == [0, 0]
    with pytest.raises(CodecError, match="still allowed"):
        reader.read()


def test_maps() -> None:
    """Keys are text and stand once; nothing follows a value that should fill its bytes."""
    with pytest.raises(CodecError, match="twice"):
        unpack(b"\x82\xa1a\x00\xa1a\x00")
    with pytest.raises(CodecError, match="a key"):
        unpack(b"\x81\x00\x00")
    with pytest.raises(CodecError, match="too many"):
        unpack(b"\x00\x00")
    with pytest.raises(CodecError, match="a map expected"):
        Reader(b"\x00").read_map()


def test_fields() -> None:
    """Missing and nil are zero; other kinds and sizes are refused."""
    fields = Fields("thing", {b"N": 300, b"F": True, b"R": b"abc", b"S": [1], b"M": {}, b"D": -5, b"X": 2.5, b"nil": None})
    assert fields.unsigned(b"N", 16) == 300
    assert fields.flag(b"F")
    assert fields.raw(b"R", 3) == b"abc"
    assert fields.text(b"R", 3) == "abc"
    assert fields.sequence(b"S") == [1]
    assert fields.mapping(b"M") == {}
    assert fields.signed(b"D") == -5
    assert fields.real(b"X") == 2.5
    for key in (b"nil", b"missing"):
        assert fields.unsigned(key, 8) == 0
        assert fields.flag(key) is False
        assert fields.raw(key, 0) == b""
        assert fields.sequence(key) == []
        assert fields.mapping(key) == {}
        assert fields.signed(key) == 0
        assert fields.real(key) == 0.0
    for refused in (
        lambda: fields.unsigned(b"N", 8),
        lambda: fields.unsigned(b"D", 8),
        lambda: fields.unsigned(b"F", 8),
        lambda: fields.flag(b"N"),
        lambda: fields.raw(b"R", 2),
        lambda: fields.raw(b"N", 2),
        lambda: fields.sequence(b"M"),
        lambda: fields.mapping(b"S"),
        lambda: fields.signed(b"X"),
        lambda: fields.real(b"R"),
        lambda: Fields("thing", [1]),
    ):
        with pytest.raises(CodecError, match="thing"):
            refused()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_finite(number: float) -> None:
    """Not every float is a number."""
    with pytest.raises(CodecError):
        finite(unpack(b"\xcb" + struct.pack(">d", number)), "x")
    with pytest.raises(CodecError):
        finite(unpack(b"\xca" + struct.pack(">f", number)), "x")


@given(st.binary(max_size=50))
def test_names_are_arbitrary_bytes(raw: bytes) -> None:
    """Bytes that are not UTF-8 survive as text."""
    assert unpack(pack(decode_text(raw))) == raw


def test_what_cannot_be_packed() -> None:
    """A programming error, not a CodecError."""
    with pytest.raises(TypeError):
        pack(object())
    with pytest.raises(OverflowError):
        pack(-(1 << 63) - 1)
