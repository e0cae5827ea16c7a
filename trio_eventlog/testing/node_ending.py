"""The end of a node simulation: it has to work, and in time; then everything is compared."""

from typing import TYPE_CHECKING

import trio

from trio_eventlog.codec.batch import decode_records
from trio_eventlog.records import Record
from trio_eventlog.service.requests import ConsumeRequest
from trio_eventlog.testing import inside
from trio_eventlog.testing.checkers import check_log
from trio_eventlog.testing.cluster_view import UNPACKED_BYTES_MAX
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.invariants import InvariantBroken
from trio_eventlog.testing.node_run_values import (
    CLIENT,
    LAST,
    LIVENESS_SECONDS_MAX,
    LOOKUPS,
    TOPIC,
)

if TYPE_CHECKING:
    from trio_eventlog.testing.node_simulator import NodeRun


class RunEnding:
    """Waits for progress, and compares what all nodes hold."""

    def __init__(self, run: "NodeRun") -> None:
        self._run = run

    async def until_alive(self) -> None:
        """A leader of every partition, and a batch acknowledged by each, whatever a client is told at first."""
        cluster = self._run.cluster
        deadline = trio.current_time() + LIVENESS_SECONDS_MAX
        for partition, history in enumerate(self._run.histories):
            await cluster.wait_leader(TOPIC, partition, seconds_max=max(deadline - trio.current_time(), 0))
            async with cluster.client(settings=CLIENT) as client:
                attempt = 0
                while not history.appends or history.appends[-1].client != LAST or history.appends[-1].offset is None:
                    if trio.current_time() > deadline:
                        raise InvariantBroken(f"no progress in {TOPIC}/{partition}\n{cluster.describe()}")
                    attempt += 1
                    await self._run.producers.append(client, LAST, partition, [b"last %d %d" % (partition, attempt)])

    async def until_consumed(self) -> None:
        for partition, history in enumerate(self._run.histories):
            last = history.appends[-1]
            assert last.offset is not None
            for number in range(self._run.parameters.consumers):
                key = (f"consumer {number}", partition)
                end = last.offset
                await self._run.cluster.wait_until(
                    lambda key=key, end=end: self._run.readers.consumed[key] > end,  # type: ignore[misc]
                    f"{key} sees the last record",
                    LIVENESS_SECONDS_MAX,
                )

    async def check_end(self) -> None:
        cluster = self._run.cluster
        await cluster.wait_until(self._are_wounds_mended, "the end of all damage", LIVENESS_SECONDS_MAX)
        for partition, history in enumerate(self._run.histories):
            names = await self.wait_equal(partition)
            logs: dict[str, list[bytes]] = {}
            starts: dict[str, int] = {}
            for name in names:
                replica = cluster.replica(name, TOPIC, partition)
                assert replica is not None
                starts[name] = replica.log.log_start_offset
                records = await cluster.read(name, TOPIC, partition)
                # Batches are opaque: the one in which the log begins is there whole.
                start = records[0].offset if records else starts[name]
                if not starts[name] - self._run.parameters.batch_records_max < start <= starts[name]:
                    raise InvariantBroken(f"{name}: the log begins at {starts[name]}, and with record {start}")
                if [record.offset for record in records] != list(range(start, start + len(records))):
                    raise InvariantBroken(f"{name}: offsets are not dense from {start} on")
                logs[name] = [record.value or b"" for record in records]
                await self._check_lookups(partition, name, [record for record in records if record.offset >= starts[name]])
            first = logs[names[0]]
            for name, log in logs.items():
                if log != first:
                    raise InvariantBroken(f"{name} and {names[0]} hold different records")
            remover = self._run.remover
            begin, *others = dict.fromkeys(starts.values())
            if others or not remover.reached[partition] <= begin <= remover.allowed[partition]:
                raise InvariantBroken(
                    f"the log of {TOPIC}/{partition} begins at {starts}; it has begun at {remover.reached[partition]}, and may at"
                    f" {remover.allowed[partition]}"
                )
            self._run.counts["log began later at the end"] += start > 0
            problems = check_log(history, first, start)
            if problems:
                raise InvariantBroken("; ".join(problems))
            self._run.counts["records"] += len(first)
            await self._check_timestamps(partition, names[0])
            replicas = [cluster.replica(name, TOPIC, partition) for name in names]
            machines = [inside.producers(replica.driver) for replica in replicas if replica is not None]
            if any(machine != machines[0] for machine in machines):
                raise InvariantBroken("machines that have applied the same differ")
        await self._run.keyed.check_keyed_end()

    def _are_wounds_mended(self) -> bool:
        nemesis = self._run.nemesis
        nemesis.look_after_wounded()
        return not nemesis.wounded.keys() - nemesis.broken

    async def _check_lookups(self, partition: int, name: str, records: list[Record]) -> None:
        """What a node gives from some place in its log on is what stands there. Reading all of it from the start asks no index."""
        rng = derive(self._run.seed, f"lookups:{name}")
        for wanted in rng.sample(records, min(LOOKUPS, len(records))):
            broker = self._run.cluster.node(name).broker
            request = ConsumeRequest(topic=TOPIC, partition=partition, max_bytes=1)
            fetched = await broker.fetch(broker.replica(TOPIC, partition), request, wanted.offset)
            found = {record.offset: record for record in decode_records(fetched.batches[0], UNPACKED_BYTES_MAX)}
            if found.get(wanted.offset) != wanted:
                raise InvariantBroken(f"{name}: asked for offset {wanted.offset}, it gave {sorted(found)}")

    async def _check_timestamps(self, partition: int, name: str) -> None:
        """Clocks have jumped, forward and back: what is looked for by time is the first batch in the log that has it."""
        replica = self._run.cluster.replica(name, TOPIC, partition)
        assert replica is not None
        log_start_offset = replica.log.log_start_offset
        records = await self._run.cluster.read(name, TOPIC, partition)
        rng = derive(self._run.seed, "timestamps")
        for wanted in rng.sample(records, min(3, len(records))):
            first = next(record.offset for record in records if record.timestamp_ns >= wanted.timestamp_ns)
            expected = max(first, log_start_offset)
            found = await replica.offset_at_timestamp(wanted.timestamp_ns)
            # It is the offset of a batch, in which another record may come first; or the log start, when one that is not readable
            # any more comes first.
            is_start = found == log_start_offset > 0 and found <= expected
            if not is_start and not expected - self._run.parameters.batch_records_max < found <= expected:
                raise InvariantBroken(f"{name}: time {wanted.timestamp_ns} is at offset {expected}, and found at {found}")

    async def wait_equal(self, partition: int, topic: str = TOPIC) -> list[str]:
        """Until all nodes that carry the partition, at least a majority of its voters, have the same; their names."""
        cluster = self._run.cluster
        names: list[str] = []

        def are_equal() -> bool:
            names.clear()
            leader = cluster.leader(topic, partition)
            if leader is None:
                return False
            broken = self._run.nemesis.broken
            replicas = {
                name: replica
                for name in cluster.names
                if (name == leader or name not in broken) and (replica := cluster.replica(name, topic, partition)) is not None
            }
            if broken:
                # A move to a node that does not come back never ends, and leaves a replica that the group has let go already.
                group = replicas[leader].status().configuration.nodes
                replicas = {name: replica for name, replica in replicas.items() if replica.node_id in group}
            # A leader with damage is still a leader, but cannot be read.
            names.extend(name for name in replicas if name not in self._run.nemesis.spent and name not in self._run.nemesis.wounded)
            states = {(s.last_index, s.last_term, s.applied_index) for s in (replica.status() for replica in replicas.values())}
            (last_index, _, applied_index), *others = sorted(states)
            missing = set(replicas[leader].voters()) - {cluster.node_id(name) for name in replicas}
            is_excused = missing <= {cluster.node_id(name) for name in broken} | {*self._run.nemesis.spent.values()}
            return not others and last_index == applied_index and is_excused

        await cluster.wait_until(are_equal, f"all replicas of {topic}/{partition} equal", LIVENESS_SECONDS_MAX)
        return names
