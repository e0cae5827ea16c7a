"""Ports for daemons that are started a moment later and whose addresses others need before."""

import random
import socket
from collections.abc import Sequence

HOST = "127.0.0.1"
PORTS = range(10_000, 30_000)
"""Below those that Linux gives to outgoing connections and to sockets that ask for port 0: nothing takes one by chance."""


def reserve_ports(count: int, hosts: Sequence[str] = (HOST,)) -> list[int]:
    """Ports free for TCP and UDP on each of `hosts`, that no other caller on this machine gets before this process ends.

    Each is reserved by a name in the abstract namespace of Unix sockets, which the kernel gives to one process at a time and takes
    back when that process ends, however it ends. A port that a socket holds until the daemon starts would be in the daemon's way.

    Raises:
        OSError: there are fewer than that.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        if _reserve(port, hosts):
            found.append(port)
    if len(found) < count:
        raise OSError(
            f"{count} ports of {', '.join(hosts)} are wanted, from {PORTS.start} to {PORTS.stop - 1}: {len(found)} are free"
        )
    return found


def reserve_addresses(count: int) -> list[str]:
    """As `reserve_ports`: "host:port" of each."""
    return [f"{HOST}:{port}" for port in reserve_ports(count)]


def _reserve(port: int, hosts: Sequence[str]) -> bool:
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        reservation.bind(f"\0trio-eventlog-port-{port}")
        for host in hosts:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind((host, port))
    except OSError:
        reservation.close()
        return False
    # Open until the process ends, and then closed by the kernel: a socket object would be reported as forgotten at that time.
    reservation.detach()
    return True
