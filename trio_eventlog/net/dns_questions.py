"""Questions to DNS servers. Imported when the first one is asked: dnspython takes longer to load than the rest of a client."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver
from dns.asyncbackend import get_backend

from trio_eventlog.net.names import ServiceHost

T = TypeVar("T")
TRIO = "trio"


async def ask_addresses(host: str, servers: Sequence[tuple[str, int]]) -> list[str]:
    """The IP addresses of a host, asked of these servers. Raises OSError."""
    answer = await _ask(servers, lambda resolver: resolver.resolve_name(host, search=True, backend=get_backend(TRIO)))
    return sorted(set(answer.addresses()))


async def ask_services(name: str, servers: Sequence[tuple[str, int]]) -> list[ServiceHost]:
    """Hosts and ports of the SRV records, asked of these servers, or of those of /etc/resolv.conf. Raises OSError."""
    answer = await _ask(servers, lambda resolver: resolver.resolve(name, "SRV", search=True, backend=get_backend(TRIO)))
    # A target of "." says that there is no such service (RFC 2782), and so does port 0.
    found = {ServiceHost(str(record.target).removesuffix("."), record.port) for record in answer}
    usable = sorted(service for service in found if service.host and service.port)
    if not usable:
        raise OSError("its SRV records name no host and port")
    return usable


async def _ask(servers: Sequence[tuple[str, int]], ask: Callable[[dns.asyncresolver.Resolver], Awaitable[T]]) -> T:
    try:
        # A new one each time: what /etc/resolv.conf says may have changed, and nothing is to be cached.
        resolver = dns.asyncresolver.Resolver(configure=not servers)
        if servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in servers]
        return await ask(resolver)
    except dns.resolver.NXDOMAIN as error:
        raise OSError("no such name in DNS") from error
    except dns.resolver.NoAnswer as error:
        raise OSError("DNS knows the name, but no such records of it") from error
    except dns.resolver.LifetimeTimeout as error:
        raise TimeoutError("no usable answer from DNS in time") from error
    except (dns.exception.DNSException, ValueError) as error:
        raise OSError(f"DNS: {error}") from error
