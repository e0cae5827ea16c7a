"""The names of the operating system and of DNS."""

import socket
from collections.abc import Sequence

import trio

from trio_eventlog.net.names import ServiceHost
from trio_eventlog.net.network import split_address
from trio_eventlog.setting_fields import is_ip_address


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
            from trio_eventlog.net import dns_questions

            return await dns_questions.ask_addresses(host, self._servers)
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except ValueError as error:
            raise OSError(f"no host name: {error}") from error
        return sorted({str(entry[4][0]) for entry in found})

    async def services(self, name: str) -> Sequence[ServiceHost]:
        from trio_eventlog.net import dns_questions

        return await dns_questions.ask_services(name, self._servers)
