"""Producers of a node simulation: ours, foreign ones that repeat a batch under its sequence, and simple ones."""

import random
from typing import TYPE_CHECKING

import trio

from trio_eventlog.client.client import Client
from trio_eventlog.codec.batch import encode_records, stamp
from trio_eventlog.errors import (
    DiskFull,
    DuplicateOutOfWindow,
    EventLogError,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    ProducerFenced,
    TopicNotFound,
    Unavailable,
)
from trio_eventlog.grpc.batches import batch_message, encode_produce_request, produce_head
from trio_eventlog.records import Acks, Record
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.history import Outcome
from trio_eventlog.testing.invariants import InvariantBroken
from trio_eventlog.testing.node_run_values import (
    BATCHES_MAX,
    CLIENT,
    EVENT_LOG,
    TOPIC,
)
from trio_eventlog.v1 import event_log_pb2

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


class SimulatedProducers:
    """Append batches until the run ends."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run

    async def produce(self, name: str) -> None:
        rng = derive(self._run.seed, name)
        async with self._run.cluster.client(name=name, settings=CLIENT) as client:
            while not self._run.is_ending and self._run.counts["batches"] < BATCHES_MAX:
                partition = rng.randrange(self._run.parameters.partitions)
                if await self.append(client, name, partition, self._values(rng, name)):
                    await self._run.readers.read_own(rng, name, partition)
                await trio.sleep(rng.uniform(0, self._run.parameters.pause_seconds_max))

    async def append(self, client: Client, name: str, partition: int, values: list[bytes]) -> bool:
        history = self._run.histories[partition]
        call = history.append(name, values)
        try:
            result = await client.produce(TOPIC, *values, partition=partition)
        except OutcomeUnknown:
            history.gave_up(call)
            self._run.counts["append given up"] += 1
        except EventLogError as error:
            history.was_refused(call)
            self._run.counts[f"append refused: {error.code}"] += 1
        else:
            history.appended(call, result.base_offset)
            self._run.counts["append"] += 1
        return call.outcome is Outcome.OK

    async def produce_plainly(self, name: str, producer_id: int) -> None:
        """What a foreign idempotent producer does: the same batch again, to any node, until it is answered."""
        rng = derive(self._run.seed, name)
        partition = rng.randrange(self._run.parameters.partitions)
        history = self._run.histories[partition]
        sequence = 0
        while not self._run.is_ending and self._run.counts["batches"] < BATCHES_MAX:
            values = self._values(rng, name)
            batch = stamp(
                encode_records([Record(value=value) for value in values], now_ns=1),
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=sequence,
            )
            request = encode_produce_request(produce_head(TOPIC, partition, 0, Acks.QUORUM), batch_message(batch), batch)
            call = history.append(name, values)
            attempts = 0
            while True:
                attempts += 1
                target = rng.choice(self._run.cluster.names)
                try:
                    with trio.fail_after(rng.choice((0.2, 1.0, 5.0))):
                        async with self._run.cluster.channel(target, name=name) as channel:
                            response = await channel.unary(EVENT_LOG["Produce"], request)
                            break
                except (trio.TooSlowError, OSError, NotLeader, Unavailable, OutcomeUnknown, DiskFull):
                    pass
                except DuplicateOutOfWindow as error:
                    raise InvariantBroken(f"{name}: the last batch of a producer is always remembered: {error}") from error
                except EventLogError as error:
                    if not error.retryable and not isinstance(error, TopicNotFound):
                        raise InvariantBroken(f"{name}: {error.code}: {error}") from error
                await trio.sleep(rng.uniform(0, 0.1))
            history.appended(call, response.base_offset)
            self._run.counts["plain append"] += 1
            self._run.counts["plain append repeated"] += attempts > 1
            sequence += len(values)
            await self._run.readers.read_own(rng, name, partition)
            await trio.sleep(rng.uniform(0, self._run.parameters.pause_seconds_max))

    async def produce_simply(self, name: str) -> None:
        """Records without a producer id, sent once to any node. What only the leader has, or nobody yet, may be lost later."""
        rng = derive(self._run.seed, name)
        while not self._run.is_ending and self._run.counts["batches"] < BATCHES_MAX:
            partition = rng.randrange(self._run.parameters.partitions)
            history = self._run.histories[partition]
            values = self._values(rng, name)
            acks = rng.choice((*Acks, Acks.QUORUM, Acks.QUORUM))
            request = event_log_pb2.ProduceRequest(topic=TOPIC, partition=partition, acks=int(acks))  # type: ignore[arg-type]
            for value in values:
                request.records.add(value=value)
            call = history.append(name, values)
            try:
                with trio.fail_after(rng.choice((0.2, 1.0, 5.0))):
                    async with self._run.cluster.channel(rng.choice(self._run.cluster.names), name=name) as channel:
                        response = await channel.unary(EVENT_LOG["Produce"], request)
            except (OutOfOrderSequence, DuplicateOutOfWindow, ProducerFenced) as error:
                raise InvariantBroken(f"{name} sends no sequences, and was told: {error}") from error
            except (trio.TooSlowError, OSError, EventLogError):
                history.gave_up(call)
            else:
                self._run.counts[f"simple append, acks {acks.name}"] += 1
                if acks is Acks.QUORUM:
                    history.appended(call, response.base_offset)
                    await self._run.readers.read_own(rng, name, partition)
                else:
                    history.gave_up(call)
            await trio.sleep(rng.uniform(0, self._run.parameters.pause_seconds_max))

    def _values(self, rng: random.Random, name: str) -> list[bytes]:
        self._run.counts["batches"] += 1
        count = rng.randrange(1, self._run.parameters.batch_records_max + 1)
        size_bytes = rng.randrange(self._run.parameters.value_bytes_max)
        # Not zeros, which is what a sector reads as that was lost.
        return [b"%s/%d/%d/" % (name.encode(), self._run.counts["batches"], at) + rng.randbytes(size_bytes) for at in range(count)]
