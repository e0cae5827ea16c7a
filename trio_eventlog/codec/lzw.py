"""Decoding the LZW variant that memberlist compresses with: codes of 9 to 12 bits, least significant bit first, 8-bit literals.

Code 256 clears the table, 257 ends the data. The decoder widens its codes when the table reaches a power of two (the
variant of GIF), and at 12 bits with a full table learns nothing more until a clear. We never compress ourselves: sending
plain is always allowed, and a packet is small.
"""

from trio_eventlog.errors import CodecError

CLEAR = 256
END = 257
WIDTH_MIN = 9
WIDTH_MAX = 12


def inflate(data: bytes, inflated_bytes_max: int) -> bytes:
    """What was compressed into `data`; bytes after the end code are ignored.

    Raises:
        CodecError: a code that cannot be, no end code, or more than `inflated_bytes_max` bytes.
    """
    table: list[bytes] = [bytes((literal,)) for literal in range(256)] + [b"", b""]
    parts: list[bytes] = []
    total = 0
    width = WIDTH_MIN
    previous: bytes | None = None
    bits = 0
    bits_count = 0
    position = 0
    is_cleared = False
    while True:
        while bits_count < width:
            if position >= len(data):
                raise CodecError("LZW: cut off before its end code")
            bits |= data[position] << bits_count
            bits_count += 8
            position += 1
        code = bits & ((1 << width) - 1)
        bits >>= width
        bits_count -= width
        if code == CLEAR:
            if is_cleared:
                # No encoder writes this, and it would be work that the limit does not count.
                raise CodecError("LZW: two clears in a row")
            is_cleared = True
            del table[END + 1 :]
            width = WIDTH_MIN
            previous = None
            continue
        is_cleared = False
        if code == END:
            return b"".join(parts)
        if code < len(table):
            entry = table[code]
        elif code == len(table) and previous is not None and len(table) < 1 << WIDTH_MAX:
            entry = previous + previous[:1]
        else:
            raise CodecError(f"LZW: code {code} with {len(table)} in the table")
        total += len(entry)
        if total > inflated_bytes_max:
            raise CodecError(f"LZW: more than {inflated_bytes_max} bytes come out")
        parts.append(entry)
        if previous is not None and len(table) < 1 << WIDTH_MAX:
            table.append(previous + entry[:1])
            if len(table) == 1 << width and width < WIDTH_MAX:
                width += 1
        previous = entry
