"""A DNS server of the test's own, on loopback: UDP, and TCP for what UDP truncates."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Zone = dict[tuple[str, str], list[str]]
"""Texts of records by (name without the last dot, type)."""


@attrs.define
class DnsServer:
    """Answers from `zone`, which may be changed at any time.

    Attributes:
        damage: what is done to each answer before it leaves; None sends nothing.
        truncates: UDP answers hold nothing and say so, so that TCP is asked.
    """

    zone: Zone = attrs.field(factory=dict)
    damage: Callable[[bytes], bytes | None] = lambda wire: wire
    truncates: bool = False
    asked: list[str] = attrs.field(factory=list)
    address: str = ""

    def answer(self, query: bytes, *, is_udp: bool) -> bytes | None:
        request = dns.message.from_wire(query)
        (question,) = request.question
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{name} {kind} {'udp' if is_udp else 'tcp'}")
        response = dns.message.make_response(request)
        response.flags |= dns.flags.AA
        if is_udp and self.truncates:
            response.flags |= dns.flags.TC
        elif texts := self.zone.get((name, kind)):
            response.answer.append(dns.rrset.from_text_list(question.name, 5, dns.rdataclass.IN, question.rdtype, texts))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return self.damage(response.to_wire())

    def serve_udp(self, bound: socket.socket) -> None:
        while True:
            query, asker = bound.recvfrom(4096)
            if not query:
                return
            wire = self.answer(query, is_udp=True)
            if wire is not None:
                bound.sendto(wire, asker)

    def serve_tcp(self, listening: socket.socket) -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(10)
                head = connection.recv(2)
                if not head:
                    return
                wire = self.answer(connection.recv(int.from_bytes(head)), is_udp=False)
                if wire is not None:
                    connection.sendall(len(wire).to_bytes(2) + wire)


@contextmanager
def dns_server(zone: Zone | None = None) -> Iterator[DnsServer]:
    """A server on a free port of 127.0.0.1, ended with the block."""
    server = DnsServer(zone or {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        place = listening.getsockname()
        bound.bind(place)
        server.address = f"127.0.0.1:{place[1]}"
        threads = [
            threading.Thread(target=server.serve_udp, args=(bound,)),
            threading.Thread(target=server.serve_tcp, args=(listening,)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            bound.sendto(b"", place)
            socket.create_connection(place).close()
            for thread in threads:
                thread.join(20)
