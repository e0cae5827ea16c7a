"""Packets of a `SimNetwork`."""

import errno
import heapq
from collections.abc import Callable

import trio

from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.datagrams import PACKET_BYTES_MAX


class SimDatagrams:
    """`Datagrams` of one host.

    Attributes:
        owner: name of the host.
        bound: where packets come to, and what receivers see as their sender.
    """

    def __init__(
        self,
        owner: str,
        bound: Address,
        address: str,
        *,
        queue_packets_max: int,
        send: Callable[["SimDatagrams", bytes, Address], None],
        on_close: Callable[[], object],
    ) -> None:
        self.owner = owner
        self.bound = bound
        self._address = address
        self._queue_packets_max = queue_packets_max
        self._send = send
        self._on_close = on_close
        self._arriving: list[tuple[float, int, bytes, Address]] = []
        self._number = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._is_closed = False

    @property
    def address(self) -> str:
        return self._address

    def send_nowait(self, data: bytes, destination: Address) -> None:
        if self._is_closed:
            raise OSError(errno.EBADF, "this socket is closed")
        if len(data) > PACKET_BYTES_MAX:
            raise OSError(errno.EMSGSIZE, f"a packet of {len(data)} bytes is too long")
        self._send(self, data, destination)

    def put(self, arrival: float, data: bytes, sender: Address) -> None:
        """For the network: a packet that will be there at `arrival`; lost when the queue is full."""
        if len(self._arriving) < self._queue_packets_max:
            self._number += 1
            heapq.heappush(self._arriving, (arrival, self._number, data, sender))
            self._changed.unpark_all()

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        if not self._arriving or self._arriving[0][0] > trio.current_time():
            return None
        (_, _, data, sender) = heapq.heappop(self._arriving)
        return data, sender

    async def wait_receivable(self) -> None:
        await trio.lowlevel.checkpoint()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this socket is closed")
            arrival = self._arriving[0][0] if self._arriving else float("inf")
            if arrival <= trio.current_time():
                return
            with trio.CancelScope(deadline=arrival):
                await self._changed.park()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._on_close()
            self._changed.unpark_all()
