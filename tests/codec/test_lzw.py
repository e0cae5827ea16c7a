"""LZW: known bytes, a compressor of our own as the other half, any bytes, the bound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_eventlog.codec.lzw import CLEAR, END, inflate
from trio_eventlog.errors import CodecError

VECTORS = [
    (b"", "000302"),
    (b"a", "00c30404"),
    (bytes(40), "0001081c48b0a0c18308090604"),
    (b"TOBEORNOTTOBEORTOBEORNOT", "00a93c1152e48914274fa80824687061c183090302"),
]


def deflate(data: bytes) -> bytes:
    """The compressor, as simple as it can be: the table is cleared when it is full."""
    bits: list[tuple[int, int]] = [(256, 9)]
    table = {bytes((one,)): one for one in range(256)}
    next_code = 258
    width = 9
    current = b""
    for one in data:
        longer = current + bytes((one,))
        if longer in table:
            current = longer
            continue
        bits.append((table[current], width))
        if next_code == 4095:
            bits.append((256, width))
            table = {bytes((literal,)): literal for literal in range(256)}
            next_code = 258
            width = 9
        else:
            # The decoder is one entry behind: it widens when its table, not the writer's, is full.
            if next_code == 1 << width:
                width += 1
            table[longer] = next_code
            next_code += 1
        current = bytes((one,))
    if current:
        bits.append((table[current], width))
        if next_code == 1 << width and width < 12:
            width += 1
    bits.append((257, width))
    number = 0
    position = 0
    for code, size in bits:
        number |= code << position
        position += size
    return number.to_bytes((position + 7) // 8, "little")


@pytest.mark.parametrize(("plain", "compressed"), VECTORS)
def test_known_bytes(plain: bytes, compressed: str) -> None:
    """Made by another implementation."""
    assert inflate(bytes.fromhex(compressed), 1000) == plain
    assert deflate(plain) == bytes.fromhex(compressed)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([b"abc", b"a", b"\x00" * 20, b"xyz", bytes(range(50))]), max_size=300).map(b"".join))
def test_round_trip(plain: bytes) -> None:
    """Repetitive data, through all widths."""
    assert inflate(deflate(plain), len(plain)) == plain


def test_wide_codes_and_clears() -> None:
    """Incompressible data fills the table several times."""
    number = 1
    data = bytearray()
    for _ in range(20_000):
        number = number * 1103515245 + 12345 & 0x7FFFFFFF
        data.append(number >> 16 & 0xFF)
    assert inflate(deflate(bytes(data)), len(data)) == data


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Damage is a CodecError or other bytes, never more than allowed."""
    try:
        assert len(inflate(data, 500)) <= 500
    except CodecError:
        pass


def test_the_bound() -> None:
    """Exactly as much as allowed, and one less."""
    compressed = deflate(bytes(10_000))
    assert len(inflate(compressed, 10_000)) == 10_000
    with pytest.raises(CodecError, match="more than 9999"):
        inflate(compressed, 9_999)


def test_clears_are_no_free_work() -> None:
    """One after the other brings nothing out, however long: refused at the second."""
    bits = CLEAR | CLEAR << 9 | END << 18
    with pytest.raises(CodecError, match="two clears"):
        inflate(bits.to_bytes(4, "little"), 100)
