"""Names from a table: what a test says they are, changed when it likes."""

from collections.abc import Sequence
from typing import TypeVar

import attrs
import trio

from trio_eventlog.net.names import ServiceHost

T = TypeVar("T")


@attrs.define
class TableNames:
    """`Names` over two tables. A name that stands in neither does not exist; an error that stands there is what is answered.

    Attributes:
        hosts: addresses by host.
        records: SRV records by name.
        latency_seconds: of every answer; virtual time under MockClock.
        asked: every name that was asked for, with the time.
    """

    hosts: dict[str, Sequence[str] | OSError] = attrs.field(factory=dict)
    records: dict[str, Sequence[ServiceHost] | OSError] = attrs.field(factory=dict)
    latency_seconds: float = 0.0
    asked: list[tuple[str, float]] = attrs.field(factory=list)

    async def addresses(self, host: str) -> Sequence[str]:
        return await self._answer(host, self.hosts.get(host))

    async def services(self, name: str) -> Sequence[ServiceHost]:
        return await self._answer(name, self.records.get(name))

    async def _answer(self, name: str, found: Sequence[T] | OSError | None) -> Sequence[T]:
        self.asked.append((name, trio.current_time()))
        await trio.sleep(self.latency_seconds)
        if isinstance(found, OSError):
            raise found
        if not found:
            raise OSError("no such name")
        return found
