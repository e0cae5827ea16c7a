"""Header blocks: HPACK within bounds, HTTP/2's rules for header lists, and gRPC's rules for what they say.

Why not hpack's own coder: its decoder reads integers of any length (a 256 KiB one stops the process for seconds), loses the
table's state when a list is too long, and costs more than the call it belongs to. This one keeps hpack's table and Huffman
code, refuses integers over 28 bits, and reads an over-long list to its end so that only the call is refused. The encoder never
indexes, so that whole blocks are constants: a few dozen bytes more on the wire, nothing to compute.

Everything here is bytes in, values out.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable

import attrs

from trio_eventlog.rpc._purerpc import HeaderTable, HPACKError, StatusCode, decode_huffman
from trio_eventlog.rpc.methods import Metadata, Pairs

HeaderList = list[tuple[bytes, bytes]]
NO_METADATA = Metadata()

_INTEGER_SHIFT_MAX = 21
_ENTRY_OVERHEAD_BYTES = 32


class HeaderListTooLarge(Exception):
    """A block that is an attack whatever it says: the connection ends."""


class HeaderDecoder:
    """Decodes header blocks of one connection.

    Attributes:
        version: changes when the dynamic table does. While it stays, equal blocks decode to equal lists.
    """

    def __init__(self, *, list_bytes_max: int) -> None:
        """`list_bytes_max` bounds what one block may decode to, 32 bytes per header included."""
        self._table = HeaderTable()
        self._table_bytes_max: int = self._table.maxsize
        self._list_bytes_max = list_bytes_max
        self.version = 0

    def decode(self, block: bytes) -> tuple[HeaderList, int]:
        """The header list and its size. Raises `HPACKError` or `HeaderListTooLarge`; the connection is lost then."""
        headers: HeaderList = []
        size = 0
        position = 0
        end = len(block)
        table = self._table
        try:
            while position < end:
                first = block[position]
                if first & 0x80:  # An indexed header.
                    index = first & 0x7F
                    if index == 0x7F:
                        index, position = _integer(block, position, 0x7F)
                    else:
                        position += 1
                    header = table.get_by_index(index)
                elif first & 0x40:  # A literal that enters the table.
                    header, position = self._literal(block, position, 0x3F)
                    table.add(*header)
                    self.version += 1
                elif first & 0x20:  # A new table size.
                    if headers:
                        raise HPACKError("table size update after a header")
                    table_bytes, position = _integer(block, position, 0x1F)
                    if table_bytes > self._table_bytes_max:
                        raise HPACKError("table size over the limit")
                    table.maxsize = table_bytes
                    self.version += 1
                    continue
                else:  # A literal that does not.
                    header, position = self._literal(block, position, 0x0F)
                size += len(header[0]) + len(header[1]) + _ENTRY_OVERHEAD_BYTES
                if size > self._list_bytes_max:
                    raise HeaderListTooLarge(f"a header list of over {self._list_bytes_max} bytes")
                headers.append(header)
        except IndexError:
            raise HPACKError("a header block that ends in the middle") from None
        return headers, size

    def _literal(self, block: bytes, position: int, mask: int) -> tuple[tuple[bytes, bytes], int]:
        index, position = _integer(block, position, mask)
        if index:
            name: bytes = self._table.get_by_index(index)[0]
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return (name, value), position


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > _INTEGER_SHIFT_MAX:
            raise HPACKError("an integer of over 28 bits")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    is_huffman = block[position] & 0x80
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HPACKError("a header block that ends in the middle")
    text = block[position:end]
    return (decode_huffman(text) if is_huffman else text), end


def _encode_length(length: int) -> bytes:
    if length < 0x7F:
        return bytes((length,))
    length -= 0x7F
    out = bytearray((0x7F,))
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


_NEVER_INDEXED = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


def encode_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals: the same bytes for the same headers, whatever went before."""
    out = []
    for name, value in headers:
        out.append(b"\x10" if name in _NEVER_INDEXED else b"\x00")
        out.append(_encode_length(len(name)))
        out.append(name)
        out.append(_encode_length(len(value)))
        out.append(value)
    return b"".join(out)


# HTTP/2's rules (RFC 9113, 8.2 and 8.3): a list that breaks them is malformed, and its stream is reset.

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_CONNECTION_NAMES = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})


def malformation(headers: HeaderList, pseudo_allowed: frozenset[bytes], pseudo_required: frozenset[bytes]) -> str:
    """What is wrong with a header list by the rules of HTTP/2; "" when nothing is."""
    seen: set[bytes] = set()
    is_regular = False
    for name, value in headers:
        if name[:1] == b":":
            if is_regular or name in seen or name not in pseudo_allowed:
                return "misplaced, repeated or unknown pseudo-header"
            seen.add(name)
        else:
            is_regular = True
            if _NAME.fullmatch(name) is None:
                return "a header name with characters that are not allowed"
            if name in _CONNECTION_NAMES or (name == b"te" and value.lower() != b"trailers"):
                return "a connection-specific header"
        if _BAD_VALUE.search(value) is not None:
            return "a header value with characters that are not allowed"
    return "" if pseudo_required <= seen else "a pseudo-header is missing"


# gRPC's rules (PROTOCOL-HTTP2.md): what breaks them is refused with a status, on its own stream.


class MetadataError(ValueError):
    """Metadata that cannot be sent, or that came malformed."""


_KEY = re.compile(r"[0-9a-z_.\-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TIMEOUT_UNITS = {b"H": (3600, 1), b"M": (60, 1), b"S": (1, 1), b"m": (1, 1000), b"u": (1, 1_000_000), b"n": (1, 1_000_000_000)}
"""Seconds of a unit, as a fraction: products with 1e-3 come out a trifle below what was meant."""
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?")


def _decode_binary(value: bytes) -> bytes:
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise MetadataError("a -bin header that is not base64") from None


def decode_metadata(headers: HeaderList) -> Metadata:
    """The custom metadata of a header list. Raises `MetadataError`."""
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name in _RESERVED_NAMES or name[:1] == b":" or (name[:5] == b"grpc-" and name != b"grpc-status-details-bin"):
            continue
        key = name.decode("ascii")
        if key.endswith("-bin"):
            # One header may carry several values (RFC 9110, 5.3), and base64 has no comma.
            pairs.extend((key, _decode_binary(part)) for part in value.split(b","))
        else:
            pairs.append((key, value.decode("latin-1")))
    return Metadata(pairs)


_RESERVED_NAMES = frozenset({b"te", b"content-type", b"user-agent", b"host"})


def encode_metadata(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    """Custom metadata as headers. Raises `MetadataError` for what gRPC cannot carry."""
    headers = []
    for name, value in pairs:
        if _KEY.fullmatch(name) is None or (name.startswith("grpc-") and name != "grpc-status-details-bin"):
            raise MetadataError(f"{name!r} cannot be the name of metadata: lower case, and no 'grpc-' in front")
        if name.encode() in _RESERVED_NAMES or name.encode() in _CONNECTION_NAMES:
            raise MetadataError(f"{name!r} belongs to HTTP/2")
        if name.endswith("-bin"):
            if isinstance(value, str):
                raise MetadataError(f"the value of {name!r} must be bytes")
            headers.append((name.encode(), base64.b64encode(value).rstrip(b"=")))
        else:
            if isinstance(value, bytes) or _TEXT.fullmatch(value) is None:
                raise MetadataError(
                    f"the value of {name!r} must be printable ASCII; other bytes go under a name that ends in '-bin'"
                )
            # Surrounding space would make the whole list malformed.
            headers.append((name.encode(), value.strip().encode()))
    return headers


def encode_timeout(seconds: float) -> bytes:
    """`grpc-timeout`, rounded up: milliseconds from one second on, so that equal timeouts give equal headers.

    The standard allows eight digits, so long timeouts are given in larger units; 11,000 years are the most.
    """
    if seconds <= 0:
        return b"1n"
    if seconds < 1:
        return b"%du" % _rounded_up(seconds, 1_000_000)
    if seconds < 99_999:
        return b"%dm" % _rounded_up(seconds, 1000)
    for unit, unit_seconds in ((b"S", 1), (b"M", 60), (b"H", 3600)):
        if seconds / unit_seconds < _TIMEOUT_MAX:
            return b"%d%b" % (int(seconds / unit_seconds) + 1, unit)
    return b"%dH" % _TIMEOUT_MAX


_TIMEOUT_MAX = 99_999_999


def _rounded_up(seconds: float, units_per_second: int) -> int:
    count = math.ceil(seconds * units_per_second)
    return count if count / units_per_second >= seconds else count + 1


@attrs.frozen(slots=True)
class Refusal:
    """Why a request is refused, on its own stream."""

    status: StatusCode
    message: str
    http_status: bytes = b"200"


@attrs.frozen(slots=True, kw_only=True)
class RequestHead:
    """What a request's headers say. With `malformed` set, nothing else counts; with `refusal` set, the call is not run.

    Attributes:
        timeout_seconds: inf when the client set none.
        encoding: `identity`, `gzip` or `deflate`.
    """

    malformed: str = ""
    refusal: Refusal | None = None
    service: str = ""
    method: str = ""
    scheme: str = "http"
    authority: str = ""
    content_type: str = ""
    user_agent: str = ""
    encoding: str = "identity"
    timeout_seconds: float = float("inf")
    metadata: Metadata = NO_METADATA


ENCODINGS = {b"identity": "identity", b"gzip": "gzip", b"deflate": "deflate"}
ACCEPT_ENCODING = b"identity,deflate,gzip"

_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_REQUEST_REQUIRED = frozenset({b":method", b":scheme", b":path"})
_SINGLE = frozenset({b"te", b"content-type", b"grpc-timeout", b"grpc-encoding"})


def _refuse(status: StatusCode, message: str, http_status: bytes = b"200") -> RequestHead:
    return RequestHead(refusal=Refusal(status, message, http_status))


def parse_request(headers: HeaderList, size_bytes: int, size_bytes_max: int) -> RequestHead:
    """Reads a request's headers. Never raises: what is wrong is in the value."""
    if size_bytes > size_bytes_max:
        return _refuse(StatusCode.RESOURCE_EXHAUSTED, f"metadata of {size_bytes} bytes; the limit is {size_bytes_max}")
    malformed = malformation(headers, _REQUEST_PSEUDO, _REQUEST_REQUIRED)
    if malformed:
        return RequestHead(malformed=malformed)
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields and name in _SINGLE:
            return _refuse(StatusCode.INTERNAL, f"the header {name.decode()} came more than once")
        fields.setdefault(name, value)
    content_type = fields.get(b"content-type", b"")
    if _CONTENT_TYPE.fullmatch(content_type) is None:
        return _refuse(StatusCode.INTERNAL, "the content-type must be application/grpc", b"415")
    if fields[b":method"] != b"POST":
        return _refuse(StatusCode.INTERNAL, "a gRPC request must be a POST", b"405")
    if b"te" not in fields:
        return _refuse(StatusCode.INTERNAL, "the header 'te: trailers' is missing: a proxy on the way may not carry gRPC")
    encoding = ENCODINGS.get(fields.get(b"grpc-encoding", b"identity"))
    if encoding is None:
        return _refuse(StatusCode.UNIMPLEMENTED, "the compression is not known here; identity, deflate and gzip are")
    timeout_seconds = float("inf")
    if b"grpc-timeout" in fields:
        match = _TIMEOUT.fullmatch(fields[b"grpc-timeout"])
        if match is None:
            return _refuse(StatusCode.INTERNAL, "the grpc-timeout is malformed")
        unit_seconds, per = _TIMEOUT_UNITS[match[2]]
        timeout_seconds = int(match[1]) * unit_seconds / per
    try:
        metadata = decode_metadata(headers)
    except MetadataError as error:
        return _refuse(StatusCode.INTERNAL, str(error))
    parts = fields[b":path"].decode("latin-1").split("/")
    if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
        return _refuse(StatusCode.UNIMPLEMENTED, "the path must be /package.Service/Method")
    return RequestHead(
        service=parts[1],
        method=parts[2],
        scheme=fields[b":scheme"].decode("latin-1"),
        authority=fields.get(b":authority", fields.get(b"host", b"")).decode("latin-1"),
        content_type=content_type.decode("latin-1"),
        user_agent=fields.get(b"user-agent", b"").decode("latin-1"),
        encoding=encoding,
        timeout_seconds=timeout_seconds,
        metadata=metadata,
    )


@attrs.frozen(slots=True, kw_only=True)
class ResponseHead:
    """What headers or trailers of a response say.

    Attributes:
        http_status: 0 in trailers.
        status: `grpc-status`, or None when it is not there (yet).
        message: `grpc-message` as it came, percent-encoded.
    """

    malformed: str = ""
    http_status: int = 0
    content_type: str = ""
    encoding: str | None = "identity"
    status: int | None = None
    message: str = ""
    metadata: Metadata = NO_METADATA


_STATUS_PSEUDO = frozenset({b":status"})
_NUMBER = re.compile(rb"[0-9]{1,9}")


def parse_response(headers: HeaderList, size_bytes: int, size_bytes_max: int, *, is_trailer: bool) -> ResponseHead:
    """Reads a response's headers or trailers. Never raises."""
    if size_bytes > size_bytes_max:
        return ResponseHead(malformed=f"metadata of {size_bytes} bytes; the limit is {size_bytes_max}")
    pseudo = frozenset[bytes]() if is_trailer else _STATUS_PSEUDO
    malformed = malformation(headers, pseudo, pseudo)
    if malformed:
        return ResponseHead(malformed=malformed)
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        fields.setdefault(name, value)
    status = fields.get(b"grpc-status")
    http_status = fields.get(b":status", b"0")
    if (status is not None and _NUMBER.fullmatch(status) is None) or _NUMBER.fullmatch(http_status) is None:
        return ResponseHead(malformed="a status that is not a number")
    try:
        metadata = decode_metadata(headers)
    except MetadataError as error:
        return ResponseHead(malformed=str(error))
    return ResponseHead(
        http_status=int(http_status),
        content_type=fields.get(b"content-type", b"").decode("latin-1"),
        encoding=ENCODINGS.get(fields.get(b"grpc-encoding", b"identity")),
        status=None if status is None else int(status),
        message=fields.get(b"grpc-message", b"").decode("latin-1"),
        metadata=metadata,
    )
