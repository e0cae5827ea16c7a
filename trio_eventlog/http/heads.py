"""Heads of requests as bytes: where one ends, what is refused before h11 reads it, and the ASGI scope that it makes.

h11 is lenient where two readers of the same bytes can see different requests: it takes a bare line feed as the end of a line, joins
folded headers, and drops the second of two equal lengths. Behind a proxy that reads these differently, such bytes smuggle a
request (RFC 9112, 2.2, 5.2 and 6.3), so they are refused here.
"""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import h11

from trio_eventlog.http.problems import HttpProblem
from trio_eventlog.net.mux import ConnectionInfo

Scope = MutableMapping[str, Any]

HEAD_END = b"\r\n\r\n"
LENGTH_DIGITS_MAX = 18
"""Of a content-length: beyond it no body is meant."""
REQUEST_ID_MAX = 64

_LENGTHS = re.compile(rb"\r\ncontent-length[ \t]*:([^\r]*)", re.IGNORECASE)
_ENCODINGS = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,%d}" % REQUEST_ID_MAX)


def find_head_end(buffer: bytearray, begin: int, bytes_max: int) -> int:
    """Where the head at the start of `buffer` ends, its empty line included; -1: it is not whole yet.

    Args:
        begin: bytes before this position were looked at by an earlier call.

    Raises:
        HttpProblem: 431, or 400 as soon as the bytes cannot be a head.
    """
    found = buffer.find(HEAD_END, max(begin - 3, 0))
    end = found + len(HEAD_END) if found >= 0 else len(buffer)
    if end > bytes_max:
        raise HttpProblem(431, f"headers of more than {bytes_max} bytes")
    # A line that ends without a carriage return is seen at once: no empty line would ever come behind it.
    if buffer.count(b"\n", 0, end) != buffer.count(b"\r\n", 0, end):
        raise HttpProblem(400, "a line of the head ends in a line feed without a carriage return")
    return end if found >= 0 else -1


def check_head(head: bytes, headers_max: int) -> None:
    """Refuse what two readers can read as two different requests. Raises HttpProblem: 400, 413, 431."""
    lines = head.count(b"\r\n")
    if head.count(b"\r") != lines:
        raise HttpProblem(400, "a carriage return within a line of the head")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HttpProblem(400, "a header that is folded over several lines")
    if lines - 2 > headers_max:
        raise HttpProblem(431, f"{lines - 2} headers, and {headers_max} are the most")
    lengths = _LENGTHS.findall(head)
    encodings = len(_ENCODINGS.findall(head))
    if lengths:
        if encodings:
            raise HttpProblem(400, "content-length and transfer-encoding in one request")
        if len(lengths) > 1:
            raise HttpProblem(400, "more than one content-length")
        digits = lengths[0].strip(b" \t")
        if not digits.isdigit():
            raise HttpProblem(400, "content-length is no number")
        if len(digits) > LENGTH_DIGITS_MAX:
            raise HttpProblem(413, "a body of a length that nothing has room for")
    if encodings > 1:
        raise HttpProblem(400, "more than one transfer-encoding")


def make_scope(request: h11.Request, info: ConnectionInfo) -> Scope:
    """The ASGI scope of a request. Raises HttpProblem."""
    if request.http_version not in (b"1.1", b"1.0"):
        raise HttpProblem(505, "this server speaks HTTP/1.1")
    if request.http_version == b"1.0" and any(name == b"transfer-encoding" for name, _ in request.headers):
        # HTTP/1.0 has no such thing: a proxy of that version takes the body for the next request.
        raise HttpProblem(400, "transfer-encoding in a request of HTTP/1.0")
    target = _origin_form(request.target.decode("ascii"))
    raw_path, _, query = target.partition("?")
    try:
        path = unquote(raw_path, errors="strict")
    except UnicodeDecodeError:
        raise HttpProblem(400, "the path is not UTF-8 once it is decoded") from None
    method = request.method.decode("ascii")
    if not path.startswith("/") and (method, path) != ("OPTIONS", "*"):
        raise HttpProblem(400, "the target of the request is no path: it begins with /")
    host, _, port = info.remote_address.rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode("ascii"),
        "method": method,
        "scheme": "https" if info.is_tls else "http",
        "path": path,
        "raw_path": raw_path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": list(request.headers),
        "client": (host.strip("[]"), int(port)) if host and port.isdigit() else None,
        "server": None,
        "state": {"connection": info},
    }


def content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Of a request that was let through by `check_head`."""
    return next((int(value) for name, value in headers if name == b"content-length"), None)


def requested_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The request id that the client has chosen; "" when it has chosen none that can be repeated in a header and a log."""
    value = next((value for name, value in headers if name == b"x-request-id"), b"")
    return value.decode("ascii") if _REQUEST_ID.fullmatch(value) else ""


def _origin_form(target: str) -> str:
    """ "/path?query"; proxies and some probes send the whole URL (RFC 9112, 3.2.2)."""
    if not target.lower().startswith(("http://", "https://")):
        return target
    try:
        url = urlsplit(target)
    except ValueError:
        return target
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
