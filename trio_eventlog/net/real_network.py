"""The network of the operating system: TCP sockets."""

import errno
import os
import socket

import trio

from trio_eventlog.net.network import AddressError, BoundListener, join_address, split_address

LISTEN_BACKLOG = 1024
KEEPALIVE_IDLE_SECONDS = 15
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 3


class RealNetwork:
    """`Network` over sockets: TCP_NODELAY (set by Trio) and keepalive on every connection."""

    async def open_stream(self, address: str) -> trio.abc.Stream:
        (host, port) = split_address(address)
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            match error.__cause__:
                case ExceptionGroup(exceptions=[OSError(errno=int(number)), *_]):
                    # Trio says that all attempts failed; people want to know why.
                    raise OSError(number, f"{address}: {os.strerror(number)}") from error
            raise
        except ValueError as error:
            raise AddressError(f"{address}: no host name: {error}") from error
        _tune(stream)
        return stream

    async def listen(self, address: str) -> BoundListener:
        (host, port) = split_address(address)
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            (family, kind, protocol, _, socket_address) = found[0]
            listening = trio.socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await listening.bind(socket_address)
                listening.listen(LISTEN_BACKLOG)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            # Trio puts its own words into strerror, and the errno of a gaierror is none of errno's.
            is_plain = error.errno in errno.errorcode and not isinstance(error, socket.gaierror)
            text = os.strerror(error.errno or 0) if is_plain else str(error)
            raise OSError(error.errno, f"cannot listen on {address}: {text}") from error
        (bound_host, bound_port) = listening.getsockname()[:2]
        return BoundListener(_TunedListener(trio.SocketListener(listening)), join_address(bound_host, bound_port))


class _TunedListener(trio.abc.Listener[trio.SocketStream]):
    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> trio.SocketStream:
        stream = await self._listener.accept()
        _tune(stream)
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()


def _tune(stream: trio.SocketStream) -> None:
    """Keepalive notices a machine that is gone, also on connections without traffic of their own (gRPC, HTTP)."""
    options = [
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", KEEPALIVE_PROBES),
    ]
    for level, name, value in options:
        option = getattr(socket, name, None)  # macOS names the idle time otherwise; the default will do there.
        if option is not None:
            try:
                stream.setsockopt(level, option, value)
            except OSError:
                # The connection is broken already: the user of the stream gets the error.
                return
