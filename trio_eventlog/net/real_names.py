"""The names of the operating system and of DNS."""

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver
import trio
from dns.asyncbackend import get_backend

from trio_eventlog.net.names import ServiceHost
from trio_eventlog.net.network import split_address
from trio_eventlog.setting_fields import is_ip_address

T = TypeVar("T")
TRIO = "trio"


class RealNames:
    """`Names` over the system's resolver for hosts (its files and services included) and DNS for SRV records.

    Arguments:
        servers: "ip:port" of DNS servers, asked for hosts and services instead of the system and those of /etc/resolv.conf.
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = tuple(split_address(server) for server in servers)

    async def addresses(self, host: str) -> Sequence[str]:
        if is_ip_address(host):
            return (host,)
        if self._servers:
            answer = await self._ask(lambda resolver: resolver.resolve_name(host, search=True, backend=get_backend(TRIO)))
            return sorted(set(answer.addresses()))
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except ValueError as error:
            raise OSError(f"no host name: {error}") from error
        return sorted({str(entry[4][0]) for entry in found})

    async def services(self, name: str) -> Sequence[ServiceHost]:
        answer = await self._ask(lambda resolver: resolver.resolve(name, "SRV", search=True, backend=get_backend(TRIO)))
        # A target of "." says that there is no such service (RFC 2782); nobody listens on port 0.
        found = {ServiceHost(str(record.target).removesuffix("."), record.port) for record in answer}
        usable = sorted(service for service in found if service.host and service.port)
        if not usable:
            raise OSError("its SRV records name no host and port")
        return usable

    async def _ask(self, ask: Callable[[dns.asyncresolver.Resolver], Awaitable[T]]) -> T:
        try:
            # A new one each time: what /etc/resolv.conf says may have changed, and nothing is to be cached.
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._servers]
            return await ask(resolver)
        except dns.resolver.NXDOMAIN as error:
            raise OSError("no such name in DNS") from error
        except dns.resolver.NoAnswer as error:
            raise OSError("DNS knows the name, but no such records of it") from error
        except dns.resolver.LifetimeTimeout as error:
            raise TimeoutError("no usable answer from DNS in time") from error
        except (dns.exception.DNSException, ValueError) as error:
            raise OSError(f"DNS: {error}") from error
