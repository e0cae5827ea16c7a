"""Readers and consumers of a node simulation."""

import random
from collections import Counter
from typing import TYPE_CHECKING

import trio

from trio_eventlog.errors import (
    DamagedData,
    EventLogError,
    OffsetOutOfRange,
)
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.invariants import InvariantBroken
from trio_eventlog.testing.node_run_values import (
    CLIENT,
    EVENT_LOG,
    TOPIC,
)
from trio_eventlog.v1 import event_log_pb2

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


class SimulatedReaders:
    """Read while the cluster runs, and check what they are given."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run
        self.consumed = Counter[tuple[str, int]]()

    async def read(self, name: str) -> None:
        """Reads of the end at the node that has answered last, or any other; and looks at what came long ago."""
        rng = derive(self._run.seed, name)
        target = rng.choice(self._run.cluster.names)
        while not self._run.is_ending:
            partition = rng.randrange(self._run.parameters.partitions)
            pause_seconds_max = 2 * self._run.parameters.pause_seconds_max
            if self._run.nemesis.deposed is not None:
                target = self._run.nemesis.deposed
                pause_seconds_max = 0.2
            elif rng.random() < 0.3:
                await self._look_back(rng, name, partition)
            if not await self._read_end(name, target, partition, seconds_max=rng.choice((0.5, 3.0))) or rng.random() < 0.3:
                target = rng.choice(self._run.cluster.names)
            await trio.sleep(rng.uniform(0, pause_seconds_max))

    async def read_own(self, rng: random.Random, name: str, partition: int) -> None:
        if rng.random() < self._run.parameters.reads_own:
            await self._read_end(name, rng.choice(self._run.cluster.names), partition, seconds_max=0.5)

    async def _read_end(self, name: str, target: str, partition: int, *, seconds_max: float) -> bool:
        """A linearizable read. Whether it was answered."""
        history = self._run.histories[partition]
        request = event_log_pb2.ConsumeRequest(
            topic=TOPIC,
            partition=partition,
            start=event_log_pb2.END,
            consistency=event_log_pb2.LINEARIZABLE,
        )
        call = history.read_end(name)
        try:
            with trio.fail_after(seconds_max):
                async with self._run.cluster.channel(target, name=name) as channel:
                    response = await channel.unary(EVENT_LOG["Consume"], request)
        except (trio.TooSlowError, OSError, EventLogError):
            history.gave_up(call)
            return False
        history.read(call, response.high_watermark)
        self._run.counts["read"] += 1
        return True

    async def _look_back(self, rng: random.Random, name: str, partition: int) -> None:
        """Some records from the midst of the log, wherever they are kept."""
        history = self._run.histories[partition]
        end = max((call.end or 0 for call in history.reads[-10:]), default=0)
        offset = rng.randrange(end + 1)
        target = rng.choice(self._run.cluster.names)
        request = event_log_pb2.ConsumeRequest(topic=TOPIC, partition=partition, offset=offset, max_bytes=1)
        request.max_records = rng.choice((0, 1, 5))
        try:
            with trio.fail_after(1.0):
                async with self._run.cluster.channel(target, name=name) as channel:
                    response = await channel.unary(EVENT_LOG["Consume"], request)
        except (trio.TooSlowError, OSError):
            return
        except DamagedData as error:
            if not self._run.nemesis.has_spoilt_segments:
                raise InvariantBroken(f"{name}: {target} cannot read what is whole: {error}") from error
            return
        except EventLogError:
            return
        self._run.counts["looked back"] += 1
        if response.records and response.records[0].offset != offset:
            raise InvariantBroken(f"{name} asked for {offset}, and was given {response.records[0].offset}")
        for record in response.records:
            history.consume(f"{name} look {self._run.counts['looked back']}", record.offset, record.value)

    async def consume(self, name: str) -> None:
        consume = self._consume_by_client if derive(self._run.seed, name).random() < 0.5 else self._consume_partition
        async with trio.open_nursery() as nursery:
            for partition in range(self._run.parameters.partitions):
                nursery.start_soon(consume, name, partition)

    async def _consume_by_client(self, name: str, partition: int) -> None:
        """Our own consumer, which goes on by itself when the node it reads from does not."""
        history = self._run.histories[partition]
        offset = 0
        is_first = False
        async with self._run.cluster.client(name=name, settings=CLIENT) as client:
            while True:
                try:
                    async with client.consume(TOPIC, start=offset, partition=partition) as records:
                        async for record in records:
                            history.consume(f"{name}/{partition}", record.offset, record.value or b"", after_removal=is_first)
                            offset, is_first = record.offset + 1, False
                            self._run.counts["consumed by client"] += 1
                            self.consumed[name, partition] = offset
                except OffsetOutOfRange as error:
                    offset, is_first = self._run.remover.next_offset(name, partition, error, offset), True
                except EventLogError:
                    # It has its own patience, and this run has none.
                    await trio.sleep(0.1)

    async def _consume_partition(self, name: str, partition: int) -> None:
        """Plain streams at any node, each from where the last one ended."""
        rng = derive(self._run.seed, f"{name}/{partition}")
        history = self._run.histories[partition]
        offset = 0
        is_first = False
        while True:
            request = event_log_pb2.ConsumeRequest(topic=TOPIC, partition=partition, offset=offset)
            request.max_records = rng.choice((0, 1, 5))
            try:
                with trio.move_on_after(rng.choice((0.5, 2.0, 10.0))):
                    async with (
                        self._run.cluster.channel(rng.choice(self._run.cluster.names), name=name) as channel,
                        channel.stream(EVENT_LOG["ConsumeStream"], request) as call,
                    ):
                        async for response in call:
                            for record in response.records:
                                history.consume(f"{name}/{partition}", record.offset, record.value, after_removal=is_first)
                                offset, is_first = record.offset + 1, False
                                self._run.counts["consumed"] += 1
                                self.consumed[name, partition] = offset
                            if response.high_watermark < offset:
                                raise InvariantBroken(f"{name} was given {offset - 1} above the watermark")
            except OffsetOutOfRange as error:
                offset, is_first = self._run.remover.next_offset(name, partition, error, offset), True
            except (OSError, EventLogError):
                pass
            await trio.sleep(rng.uniform(0, 0.05))
