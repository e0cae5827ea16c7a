"""The network of the operating system: TCP sockets."""

import trio

from trio_eventlog.net.network import BoundListener


class RealNetwork:
    """`Network` over sockets: TCP_NODELAY and keepalive on every connection."""

    async def open_stream(self, address: str) -> trio.abc.Stream:
        raise NotImplementedError

    async def listen(self, address: str) -> BoundListener:
        raise NotImplementedError
