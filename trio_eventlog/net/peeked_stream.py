"""A stream whose first bytes were looked at and are read again."""

import trio


class PeekedStream(trio.abc.HalfCloseableStream):
    """`peek_more` looks ahead; `receive_some` gives what was looked at first, then goes on with the stream below.

    Takes the stream over: closing this closes it. One task at a time may peek or receive.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._peeked = b""

    @property
    def peeked(self) -> bytes:
        """What was looked at and not read yet."""
        return self._peeked

    @property
    def sends_to(self) -> trio.abc.Stream:
        """The stream below. Bytes are sent on it unchanged, so a writer may use it directly."""
        return self.stream

    async def peek_more(self, bytes_max: int = 4096) -> bool:
        """Wait for more bytes and add at most `bytes_max` of them to `peeked`; False at the end of the stream.

        Cancelled, it has taken nothing: what was peeked stays. Raises as `receive_some`.
        """
        chunk = await self.stream.receive_some(bytes_max)
        self._peeked += chunk
        return bool(chunk)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._peeked:
            return await self.stream.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        if max_bytes is None or max_bytes >= len(self._peeked):
            chunk, self._peeked = self._peeked, b""
        else:
            chunk, self._peeked = self._peeked[:max_bytes], self._peeked[max_bytes:]
        return chunk

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Raises TypeError when the stream below has no half-close (TLS has none)."""
        if not isinstance(self.stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{type(self.stream).__name__} cannot close one direction only")
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self._peeked = b""
        await self.stream.aclose()
