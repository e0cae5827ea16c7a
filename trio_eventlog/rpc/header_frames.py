"""HEADERS and CONTINUATION frames in: assembled to blocks, which are read once each."""

from collections.abc import Callable
from typing import Any

from trio_eventlog.rpc._purerpc import ErrorCodes
from trio_eventlog.rpc.headers import HeaderDecoder
from trio_eventlog.rpc.http2 import END_HEADERS, END_STREAM, PADDED, PRIORITY_FLAG, ConnectionFailure, ControlBudget
from trio_eventlog.rpc.settings import RpcSettings

_CACHED_BLOCK_BYTES_MAX = 1024
_CACHED_BLOCKS_MAX = 256

ReceiveBlock = Callable[[int, bytes, bool, list[Any]], None]
"""Stream id, block, whether it ends the stream, and the list that events go to."""


class HeaderReader:
    """The header block that is arriving, at most one at a time.

    Attributes:
        open_stream_id: the stream of a block that is not complete: the next frame must continue it. 0: none is arriving.
    """

    def __init__(self, settings: RpcSettings, budget: ControlBudget, receive_block: ReceiveBlock) -> None:
        self._block_bytes_max = settings.header_block_bytes_max
        self._budget = budget
        self._receive_block = receive_block
        self.open_stream_id = 0
        self._block = bytearray()
        self._ends_stream = False

    def receive_headers(self, flags: int, stream_id: int, body: memoryview, events: list[Any]) -> None:
        if not stream_id:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "HEADERS on stream 0")
        start, stop = 0, len(body)
        if flags & PADDED:
            if not stop:
                raise ConnectionFailure(ErrorCodes.FRAME_SIZE_ERROR, "padding without room for it")
            start, stop = 1, stop - body[0]
        if flags & PRIORITY_FLAG:
            start += 5  # Priorities are advice that RFC 9113 has withdrawn.
        if start > stop:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "more padding than frame")
        if flags & END_HEADERS:
            self._receive_block(stream_id, bytes(body[start:stop]), bool(flags & END_STREAM), events)
        else:
            self._block = bytearray(body[start:stop])
            self.open_stream_id = stream_id
            self._ends_stream = bool(flags & END_STREAM)

    def receive_continuation(self, flags: int, body: memoryview, events: list[Any]) -> None:
        if not self.open_stream_id:
            raise ConnectionFailure(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._budget.count_frame()
        self._block += body
        if len(self._block) > self._block_bytes_max:
            raise ConnectionFailure(ErrorCodes.ENHANCE_YOUR_CALM, "a header block that is too long")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), bytearray()
            stream_id, self.open_stream_id = self.open_stream_id, 0
            self._receive_block(stream_id, block, self._ends_stream, events)


class HeadCache:
    """What blocks mean. Equal blocks mean the same while the decoder's table stays, and clients repeat themselves.

    `parse` makes of headers, their size, the limit and whether they are trailers what the block means.
    """

    def __init__(self, settings: RpcSettings, parse: Callable[[Any, int, int, bool], Any]) -> None:
        self._header_bytes_max = settings.header_bytes_max
        self._parse = parse
        self._decoder = HeaderDecoder(list_bytes_max=max(4 * settings.header_bytes_max, 2 * settings.header_block_bytes_max))
        self._heads: dict[bytes, Any] = {}
        self._version = 0

    def __len__(self) -> int:
        return len(self._heads)

    def head(self, block: bytes, *, is_trailer: bool) -> Any:
        """What a block means. Every block must pass through here, in order: it may change the decoder's table."""
        decoder = self._decoder
        if self._version != decoder.version:
            self._heads.clear()
            self._version = decoder.version
        key = b"\x00" + block if is_trailer else block
        head = self._heads.get(key)
        if head is not None:
            return head
        headers, size = decoder.decode(block)
        head = self._parse(headers, size, self._header_bytes_max, is_trailer)
        if self._version == decoder.version and len(block) <= _CACHED_BLOCK_BYTES_MAX:
            if len(self._heads) >= _CACHED_BLOCKS_MAX:
                self._heads.clear()  # What is used often is soon in there again.
            self._heads[key] = head
        return head
