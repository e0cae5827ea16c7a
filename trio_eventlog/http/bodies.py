"""Bodies of requests: inflated in pieces, bounded, and counted while they are held."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import zstandard
from starlette.requests import Request

from trio_eventlog.budgets import Allowance
from trio_eventlog.http.exchange import PIECE_BYTES, ClientLeft
from trio_eventlog.http.heads import content_length
from trio_eventlog.http.problems import HttpProblem
from trio_eventlog.http.settings import HttpSettings

ENCODINGS = ("gzip", "zstd")
ZSTD_STEP_BYTES = 256
"""Packed bytes that are unpacked at once: each four of them may become 128 KiB."""
ZSTD_WINDOW_BYTES_MAX = 8 << 20


class Body:
    """The body of one request, piece by piece, without its content encoding.

    Args:
        allowance: of bodies that all requests hold together.
    """

    def __init__(self, request: Request, settings: HttpSettings, allowance: Allowance) -> None:
        self._receive: Callable[[], Awaitable[Any]] = request.receive
        self._headers = request.scope["headers"]
        self._version = request.scope["http_version"]
        self._settings = settings
        self._allowance = allowance
        self._held_bytes = 0
        self._is_received = False
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        self._inflater = _inflater(encoding)

    @property
    def is_announced(self) -> bool:
        """Whether the head of the request says that there is a body, be it an empty one."""
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)

    async def read(self) -> bytes:
        """The next piece, inflated, never empty; b"" when there is no more.

        Raises:
            HttpProblem: 400 for a body that cannot be inflated; 408.
            ClientLeft: before all of it had arrived.
        """
        while True:
            if (piece := self._inflater.next_piece()) is not None:
                if piece:
                    return piece
                # A step that gave nothing costs little, but there may be many.
                await trio.lowlevel.checkpoint()
                continue
            if self._is_received:
                self._inflater.check_end()
                return b""
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left before all of its request had arrived")
            self._is_received = not message.get("more_body", False)
            self._inflater.feed(message.get("body", b""))

    async def read_all(self) -> bytes:
        """The whole body, which is held until `forget`.

        Raises:
            HttpProblem: 411 without a length, 413 over the limit, 408 when it takes too long, 503 when others hold too much.
        """
        limit = self._settings.http_body_bytes_max
        if not self.is_announced and self._version != "1.0":
            raise HttpProblem(411, "this request needs a body: send it with content-length, or chunked")
        if (content_length(self._headers) or 0) > limit:
            raise self._too_large()
        parts: list[bytes] = []
        size_bytes = 0
        with trio.move_on_after(self._settings.request_seconds_max):
            while piece := await self.read():
                size_bytes += len(piece)
                if size_bytes > limit:
                    raise self._too_large()
                self.hold(len(piece))
                parts.append(piece)
            return b"".join(parts)
        raise HttpProblem(408, f"no whole body in {self._settings.request_seconds_max:g} s")

    def hold(self, size_bytes: int) -> None:
        """Count `size_bytes` among those that all requests hold, until `forget`. Raises HttpProblem: 503."""
        if not self._allowance.take_nowait(size_bytes):
            raise HttpProblem(503, "too many large requests at once: try again", headers=[("retry-after", "1")])
        self._held_bytes += size_bytes

    def forget(self) -> None:
        """What was held is needed no more."""
        self._allowance.give_back(self._held_bytes)
        self._held_bytes = 0

    def _too_large(self) -> HttpProblem:
        limit = self._settings.http_body_bytes_max
        return HttpProblem(
            413,
            f"a body of more than {limit} bytes, inflated: send less at once, or lines as application/x-ndjson",
            members={"limit_bytes": limit},
        )


class _Plain:
    """A body without an encoding."""

    def __init__(self) -> None:
        self._piece: bytes | None = None

    def feed(self, data: bytes) -> None:
        self._piece = data or None

    def next_piece(self) -> bytes | None:
        """The next inflated piece, b"" when the step has given nothing; None: more has to be fed."""
        piece, self._piece = self._piece, None
        return piece

    def check_end(self) -> None:
        """The body has ended. Raises HttpProblem when what it was packed into has not."""


class _Gzip(_Plain):
    """One gzip member after the other, each inflated by PIECE_BYTES at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._inflate = zlib.decompressobj(31)
        self._has_begun = False

    def next_piece(self) -> bytes | None:
        data = self._piece
        if data is None:
            return None
        if self._inflate.eof:
            self._inflate = zlib.decompressobj(31)
        self._has_begun = True
        try:
            piece = self._inflate.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise HttpProblem(400, f"the body is no gzip: {error}") from error
        self._piece = (self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail) or None
        return piece

    def check_end(self) -> None:
        if self._has_begun and not self._inflate.eof:
            raise HttpProblem(400, "the body ends within its gzip data")


class _Zstd(_Plain):
    """One zstd frame after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
        self._inflate = self._context.decompressobj()
        self._has_begun = False
        self._at = 0

    def next_piece(self) -> bytes | None:
        data = self._piece
        if data is None:
            return None
        if self._inflate.eof:
            self._inflate = self._context.decompressobj()
        self._has_begun = True
        step = data[self._at : self._at + ZSTD_STEP_BYTES]
        try:
            piece = self._inflate.decompress(step)
        except zstandard.ZstdError as error:
            raise HttpProblem(400, f"the body is no zstd: {error}") from error
        self._at += len(step) - (len(self._inflate.unused_data) if self._inflate.eof else 0)
        if self._at >= len(data):
            self._piece, self._at = None, 0
        return piece

    def check_end(self) -> None:
        if self._has_begun and not self._inflate.eof:
            raise HttpProblem(400, "the body ends within its zstd data")


def _inflater(encoding: str) -> _Plain:
    match encoding:
        case "" | "identity":
            return _Plain()
        case "gzip" | "x-gzip":
            return _Gzip()
        case "zstd":
            return _Zstd()
    raise HttpProblem(
        415,
        f"content-encoding {encoding[:100]!r} is not known here: {', '.join(ENCODINGS)} or none",
        headers=[("accept-encoding", ", ".join(ENCODINGS))],
    )
