"""Who removes beginnings of logs in a node simulation: by a trim, and by limits of what is kept."""

import random
from typing import TYPE_CHECKING

import trio

from trio_eventlog.client import Client
from trio_eventlog.errors import EventLogError, OffsetOutOfRange
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.history import Outcome
from trio_eventlog.testing.invariants import InvariantBroken
from trio_eventlog.testing.node_run_values import CLIENT, TOPIC

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


class SimulatedRemover:
    """Removes what comes first, while the cluster runs, and knows how much of it may be gone.

    Attributes:
        allowed: of each partition, the highest log start that was ever asked for. A limit allows any.
        reached: of each partition, the highest log start that anybody was told of. It never goes back.
    """

    def __init__(self, run: "NodeRun") -> None:
        self._run = run
        self.allowed: list[float] = [0] * run.parameters.partitions
        self.reached = [0] * run.parameters.partitions

    async def remove(self) -> None:
        """Now and then, until cancelled."""
        rng = derive(self._run.seed, "remover")
        second = derive(self._run.seed, "remover: second")
        async with self._run.cluster.client(name="remover", settings=CLIENT) as client:
            while True:
                await trio.sleep(rng.uniform(0.5, 6))
                if rng.random() >= self._run.parameters.removals:
                    continue
                partition = rng.randrange(self._run.parameters.partitions)
                with trio.move_on_after(5.0):
                    if rng.random() < 0.7:
                        await self._trim_once_or_twice(client, partition, rng.uniform(0.2, 1.0), second)
                    else:
                        await self._limit(client, rng.choice((0, 4096, 20_000)), rng.choice((0.0, 0.0, 5.0)))

    async def _trim_once_or_twice(self, client: Client, partition: int, part: float, second: random.Random) -> None:
        """In some runs with a second trim in flight, to an earlier offset: the log start must not follow it back."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._trim, client, partition, part)
            if self._run.parameters.removals == 1.0 and second.random() < 0.5:
                nursery.start_soon(self._trim, client, partition, part * second.random())

    async def _trim(self, client: Client, partition: int, part: float) -> None:
        """Before some offset that is known to be there."""
        ends = [
            call.offset + len(call.values)
            for call in self._run.histories[partition].appends
            if call.outcome is Outcome.OK and call.offset is not None
        ]
        before = int(max(ends, default=0) * part)
        self.allowed[partition] = max(self.allowed[partition], before)
        try:
            start = (await client.trim_topic(TOPIC, before, partition=partition))[partition]
        except EventLogError as error:
            self._run.counts[f"trim refused: {error.code}"] += 1
            return
        if start > self.allowed[partition]:
            raise InvariantBroken(f"{TOPIC}/{partition} was trimmed before {before}, and begins at {start}")
        self.reached[partition] = max(self.reached[partition], start)
        self._run.counts["trim"] += 1

    async def _limit(self, client: Client, retention_bytes: int, retention_seconds: float) -> None:
        if retention_bytes or retention_seconds:
            self.allowed = [float("inf")] * len(self.allowed)
        try:
            await client.alter_topic(TOPIC, retention_bytes=retention_bytes, retention_seconds=retention_seconds)
        except EventLogError as error:
            self._run.counts[f"retention refused: {error.code}"] += 1
            return
        self._run.counts["retention"] += 1

    def next_offset(self, who: str, partition: int, error: OffsetOutOfRange, offset: int) -> int:
        """Where a reader goes on that was told that `offset` is out of range.

        Raises InvariantBroken: nothing that anybody has asked for explains it.
        """
        start = error.log_start_offset
        if start is None or not offset < start <= self.allowed[partition]:
            raise InvariantBroken(f"{who}: what was committed once is out of range: {error}") from error
        self.reached[partition] = max(self.reached[partition], start)
        self._run.counts["log start found by a consumer"] += 1
        return start
