"""The packets of the operating system: UDP sockets."""

import errno
import ipaddress
import os
import socket

import trio

from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.datagrams import PACKET_BYTES_MAX, Datagrams
from trio_eventlog.net.network import AddressError, join_address, split_address

RECEIVE_BUFFER_BYTES = 2 * 1024 * 1024
"""Asked for; the system may give less. A burst, or a short stall of ours, should not lose packets."""
_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_RESOLVED_MAX = 1024


class RealDatagramNetwork:
    """`DatagramNetwork` over UDP. One per node: it remembers the kind of its socket."""

    def __init__(self) -> None:
        self._family: int = socket.AF_UNSPEC

    async def bind(self, address: str) -> Datagrams:
        (host, port) = split_address(address)
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
            (family, kind, protocol, _, socket_address) = found[0]
            bound = socket.socket(family, kind, protocol)
            try:
                bound.setblocking(False)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound.bind(socket_address)
            except BaseException:
                bound.close()
                raise
        except OSError as error:
            is_plain = error.errno in errno.errorcode and not isinstance(error, socket.gaierror)
            text = os.strerror(error.errno or 0) if is_plain else str(error)
            raise OSError(error.errno, f"cannot receive packets on {address}: {text}") from error
        self._family = family
        return RealDatagrams(bound)

    async def resolve(self, address: str) -> list[Address]:
        (host, port) = split_address(address)
        try:
            found = await trio.socket.getaddrinfo(host, port, family=self._family, type=socket.SOCK_DGRAM)
        except ValueError as error:
            raise AddressError(f"{address}: no host name: {error}") from error
        return [Address(ipaddress.ip_address(entry[4][0]).packed, port) for entry in found]

    def dialable(self, address: Address) -> str:
        return join_address(_host_text(address.host), address.port)


class RealDatagrams:
    """`Datagrams` over one socket."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        self._is_v4 = bound.family == socket.AF_INET
        (host, port) = bound.getsockname()[:2]
        self._address = join_address(host, port)
        self._texts: dict[bytes, str] = {}

    @property
    def address(self) -> str:
        return self._address

    def send_nowait(self, data: bytes, destination: Address) -> None:
        text = self._texts.get(destination.host)
        if text is None:
            if len(self._texts) >= _RESOLVED_MAX:
                self._texts.clear()
            text = self._texts[destination.host] = _host_text(destination.host)
        self._socket.sendto(data, (text, destination.port))

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        try:
            (data, sender) = self._socket.recvfrom(PACKET_BYTES_MAX + 1)
        except BlockingIOError:
            return None
        family = socket.AF_INET if self._is_v4 else socket.AF_INET6
        # A link-local sender comes with its interface behind a percent sign, which is no part of the address.
        return data, Address(socket.inet_pton(family, sender[0].partition("%")[0]), sender[1])

    async def wait_receivable(self) -> None:
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket is closed")
        await trio.lowlevel.wait_readable(self._socket)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def _host_text(host: bytes) -> str:
    """The text of an address; an IPv4 address that is mapped into IPv6 as IPv4."""
    if len(host) == 16 and host.startswith(_MAPPED_PREFIX):
        host = host[12:]
    return socket.inet_ntop(socket.AF_INET if len(host) == 4 else socket.AF_INET6, host)
