"""MessagePack as memberlist and Serf speak it: the specification before it knew text apart from bytes.

Text and bytes both travel as "raw" and are `bytes` here; the later str8 and bin forms are read as raw and never written;
extensions are refused. docs/decisions/0012 says why this is not the package `msgpack`.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from trio_eventlog.errors import CodecError

DEPTH_MAX = 16
"""Containers within containers."""

Raw = bytes | bytearray | memoryview


class Incomplete(CodecError):
    """The bytes end within a value. On a stream, more may come: at least `needed_bytes` in all."""

    def __init__(self, message: str, needed_bytes: int = 0) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


def pack(value: Any) -> bytes:
    """The bytes of None, bool, int (64 bits), float, bytes, text (UTF-8 with surrogate escapes), sequences and mappings.

    Numbers take their shortest form, floats eight bytes; mappings keep their order.
    """
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: Any, parts: list[bytes]) -> None:
    kind = type(value)
    if kind is str:
        value = value.encode("utf-8", "surrogateescape")
        kind = bytes
    if kind is bytes:
        length = len(value)
        if length < 32:
            parts.append(_FIX_RAW[length])
        elif length < 1 << 16:
            parts.append(_RAW16.pack(0xDA, length))
        else:
            parts.append(_RAW32.pack(0xDB, length))
        parts.append(value)
    elif value is None:
        parts.append(b"\xc0")
    elif kind is bool:
        parts.append(b"\xc3" if value else b"\xc2")
    elif isinstance(value, int):
        parts.append(_pack_int(int(value)))
    elif kind is float:
        parts.append(_FLOAT64.pack(0xCB, value))
    elif isinstance(value, Mapping):
        parts.append(_container_head(len(value), 0x80, 0xDE))
        for key, item in value.items():
            _pack(key, parts)
            _pack(item, parts)
    elif isinstance(value, Sequence):
        parts.append(_container_head(len(value), 0x90, 0xDC))
        for item in value:
            _pack(item, parts)
    else:
        raise TypeError(f"no form for {kind.__name__}")


def _container_head(count: int, fix: int, sixteen: int) -> bytes:
    if count < 16:
        return bytes((fix | count,))
    if count < 1 << 16:
        return _RAW16.pack(sixteen, count)
    return _RAW32.pack(sixteen + 1, count)


def _pack_int(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    if value >= 0:
        if value < 1 << 8:
            return _UINT8.pack(0xCC, value)
        if value < 1 << 16:
            return _RAW16.pack(0xCD, value)
        if value < 1 << 32:
            return _RAW32.pack(0xCE, value)
        return _UINT64.pack(0xCF, value)
    if value >= -32:
        return bytes((value & 0xFF,))
    for low, form, code in _NEGATIVE_FORMS:
        if value >= low:
            return form.pack(code, value)
    raise OverflowError(f"{value} does not fit 64 bits")


class Reader:
    """Reads values from `data` one after the other; `position` is where the next one begins.

    Arguments:
        items_max: values inside values, all reads together: bounds the memory that a small input can claim.
    """

    def __init__(self, data: bytes, position: int = 0, *, items_max: int = 4096) -> None:
        self.data = data
        self.position = position
        self._items_left = items_max

    def read(self) -> Any:
        """The next value: None, bool, int, float, bytes, list, or dict with bytes as keys.

        Raises:
            Incomplete: the bytes end within it; `position` is unchanged, and so is what may still be claimed.
            CodecError: anything else that is no value; a repeated key; too deep; too many items.
        """
        items_left = self._items_left
        try:
            (value, self.position) = self._read(self.position, DEPTH_MAX)
        except Incomplete:
            self._items_left = items_left
            raise
        return value

    def read_map(self) -> dict[bytes, Any]:
        """The next value, which must be a map; raises as `read` does."""
        value = self.read()
        if type(value) is not dict:
            raise CodecError(f"msgpack: a map expected, not {type(value).__name__}")
        return value

    def _read(self, position: int, depth: int) -> tuple[Any, int]:
        data = self.data
        if position >= len(data):
            raise Incomplete("msgpack: cut off", position + 1)
        code = data[position]
        position += 1
        if code < 0x80:
            return code, position
        if code >= 0xE0:
            return code - 0x100, position
        if code < 0xA0:
            if code < 0x90:
                return self._read_map(position, code & 0x0F, depth)
            return self._read_list(position, code & 0x0F, depth)
        if code < 0xC0:
            return self._read_raw(position, code & 0x1F)
        if code in _CONSTANTS:
            return _CONSTANTS[code], position
        form = _FORMS.get(code)
        if form is None:
            raise CodecError(f"msgpack: unknown form {code:#x}")
        if len(data) - position < form.size:
            raise Incomplete("msgpack: cut off in a number or length", position + form.size)
        (number,) = form.unpack_from(data, position)
        position += form.size
        if code in _RAWS:
            return self._read_raw(position, number)
        if code in _LISTS:
            return self._read_list(position, number, depth)
        if code in _MAPS:
            return self._read_map(position, number, depth)
        return number, position

    def _read_raw(self, position: int, length: int) -> tuple[bytes, int]:
        end = position + length
        if end > len(self.data):
            raise Incomplete(f"msgpack: {length} bytes announced, {len(self.data) - position} there", end)
        return bytes(self.data[position:end]), end

    def _claim(self, count: int, depth: int) -> None:
        if depth == 0:
            raise CodecError(f"msgpack: more than {DEPTH_MAX} containers within each other")
        if count > self._items_left:
            raise CodecError(f"msgpack: a container of {count} items, {self._items_left} are still allowed")
        self._items_left -= count

    def _read_list(self, position: int, count: int, depth: int) -> tuple[list[Any], int]:
        self._claim(count, depth)
        items = []
        for _ in range(count):
            (item, position) = self._read(position, depth - 1)
            items.append(item)
        return items, position

    def _read_map(self, position: int, count: int, depth: int) -> tuple[dict[bytes, Any], int]:
        self._claim(2 * count, depth)
        items: dict[bytes, Any] = {}
        for _ in range(count):
            (key, position) = self._read(position, depth - 1)
            if type(key) is not bytes:
                raise CodecError(f"msgpack: a key that is {type(key).__name__}, not text")
            if key in items:
                raise CodecError(f"msgpack: the key {key[:32]!r} twice")
            (items[key], position) = self._read(position, depth - 1)
        return items, position


def unpack(data: Raw, *, items_max: int = 4096) -> Any:
    """The one value that fills `data`. Raises CodecError, also when bytes are left over."""
    reader = Reader(bytes(data), items_max=items_max)
    value = reader.read()
    if reader.position != len(reader.data):
        raise CodecError(f"msgpack: {len(reader.data) - reader.position} bytes too many")
    return value


class Fields:
    """A struct: a map with known keys. A missing key is the zero of its kind, as is nil; unknown keys are ignored.

    Every method raises CodecError, with the struct and key in its text, for a value of another kind or over its limit.
    """

    def __init__(self, what: str, value: Any) -> None:
        if type(value) is not dict:
            raise CodecError(f"{what}: a map expected, not {type(value).__name__}")
        self._what = what
        self._values: dict[bytes, Any] = value

    def unsigned(self, key: bytes, bits: int) -> int:
        """A number from 0 to 2**bits - 1."""
        value = self._values.get(key)
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value < 1 << bits:
            raise self._wrong(key, f"an unsigned number of {bits} bits")
        return value

    def signed(self, key: bytes) -> int:
        """A number of 64 bits."""
        value = self._values.get(key)
        if value is None:
            return 0
        if type(value) is not int:
            raise self._wrong(key, "a number")
        return value

    def flag(self, key: bytes) -> bool:
        """True or False."""
        value = self._values.get(key)
        if value is None:
            return False
        if type(value) is not bool:
            raise self._wrong(key, "a flag")
        return value

    def raw(self, key: bytes, bytes_max: int) -> bytes:
        """Bytes, at most `bytes_max`."""
        value = self._values.get(key)
        if value is None:
            return b""
        if type(value) is not bytes or len(value) > bytes_max:
            raise self._wrong(key, f"at most {bytes_max} bytes")
        return value

    def text(self, key: bytes, bytes_max: int) -> str:
        """Text, at most `bytes_max` bytes; what is not UTF-8 becomes surrogate escapes."""
        return decode_text(self.raw(key, bytes_max))

    def sequence(self, key: bytes) -> list[Any]:
        """A list."""
        value = self._values.get(key)
        if value is None:
            return []
        if type(value) is not list:
            raise self._wrong(key, "a list")
        return value

    def mapping(self, key: bytes) -> dict[bytes, Any]:
        """A map."""
        value = self._values.get(key)
        if value is None:
            return {}
        if type(value) is not dict:
            raise self._wrong(key, "a map")
        return value

    def real(self, key: bytes) -> float:
        """A finite floating-point number."""
        value = self._values.get(key)
        if value is None:
            return 0.0
        return finite(value, f"{self._what}.{key.decode()}")

    def _wrong(self, key: bytes, expected: str) -> CodecError:
        value = self._values[key]
        shown = f"{len(value)} bytes" if type(value) is bytes else repr(value)[:40]
        return CodecError(f"{self._what}.{key.decode()}: {expected} expected, not {shown}")


def finite(value: Any, what: str) -> float:
    """`value` as a float. Raises CodecError when it is no number, or NaN or infinite."""
    if type(value) not in (float, int):
        raise CodecError(f"{what}: a number expected, not {type(value).__name__}")
    number = float(value)
    if number - number != 0.0:
        raise CodecError(f"{what}: {number} is not finite")
    return number


def decode_text(raw: bytes) -> str:
    """Text of bytes; total and reversible."""
    return raw.decode("utf-8", "surrogateescape")


_FIX_RAW = [bytes((0xA0 | length,)) for length in range(32)]
_UINT8 = struct.Struct(">BB")
_RAW16 = struct.Struct(">BH")
_RAW32 = struct.Struct(">BI")
_UINT64 = struct.Struct(">BQ")
_FLOAT64 = struct.Struct(">Bd")
_NEGATIVE_FORMS = [
    (-1 << 7, struct.Struct(">Bb"), 0xD0),
    (-1 << 15, struct.Struct(">Bh"), 0xD1),
    (-1 << 31, struct.Struct(">Bi"), 0xD2),
    (-1 << 63, struct.Struct(">Bq"), 0xD3),
]
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_RAWS = frozenset((0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB))
_LISTS = frozenset((0xDC, 0xDD))
_MAPS = frozenset((0xDE, 0xDF))
_FORMS = {
    code: struct.Struct(form)
    for code, form in (
        (0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I"), (0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I"),
        (0xDC, ">H"), (0xDD, ">I"), (0xDE, ">H"), (0xDF, ">I"),
        (0xCA, ">f"), (0xCB, ">d"), (0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"),
        (0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"),
    )
}  # fmt: skip
