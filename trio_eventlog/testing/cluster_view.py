"""Looking at a simulated cluster: who leads, who votes, what is held where, and waiting for that."""

import logging
from collections.abc import Callable, Sequence

import trio

from trio_eventlog.codec.batch import decode_records
from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import CATALOG_GROUP, NodeId
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft import Configuration
from trio_eventlog.records import Record
from trio_eventlog.service.requests import ConsumeRequest
from trio_eventlog.testing import inside
from trio_eventlog.testing.machines import WAIT_SECONDS_MAX, Machines

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.005
"""The interval, in virtual time, between two checks of a condition for which there is no event."""
LOOK_AT_LOGS_SECONDS_MAX = 10.0
RECORDS_SHOWN = 4
VALUE_BYTES_SHOWN = 60
"""Of each partition, and of each record, in the report of a failure."""
READ_BYTES = 1 << 20
UNPACKED_BYTES_MAX = 1 << 26


class ClusterView:
    """What can be seen of the nodes from outside of all of them."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def replica(self, name: str, topic: str | None = None, partition: int = 0) -> Replica | None:
        """A running node's copy of the catalog (`topic` None) or of a partition; None while it has none."""
        if not self._machines.is_running(name):
            return None
        replicas = inside.groups(self._machines.node(name))
        if topic is None:
            return replicas.find(CATALOG_GROUP)
        known = replicas.topics.get(topic)
        return replicas.find(known.partitions[partition].group_id) if known is not None else None

    def leader(self, topic: str | None = None, partition: int = 0) -> str | None:
        """The running node that leads and is followed by a majority of the group, as they see it now."""
        replicas = {name: replica for name in self._machines.names if (replica := self.replica(name, topic, partition)) is not None}
        for name, replica in replicas.items():
            if replica.is_leader:
                followers = sum(other.leader_id == replica.node_id for other in replicas.values())
                if 2 * followers > len(replica.voters()):
                    return name
        return None

    async def wait_until(self, condition: Callable[[], bool], what: str, seconds_max: float = WAIT_SECONDS_MAX) -> None:
        """Until `condition()` holds, in virtual time. Fails, saying `what` and what the cluster looks like, when it does not."""
        deadline = trio.current_time() + seconds_max
        while not condition():
            assert trio.current_time() < deadline, f"after {seconds_max:g} s still not: {what}\n{self.describe()}"
            await trio.sleep(LOOK_SECONDS)

    async def wait_leader(
        self, topic: str | None = None, partition: int = 0, *, other_than: str = "", seconds_max: float = WAIT_SECONDS_MAX
    ) -> str:
        """Until a node leads the group (see `leader`); returns its name."""
        what = f"a leader of {'the catalog' if topic is None else f'{topic}/{partition}'}"
        found: str | None = None

        def is_led() -> bool:
            nonlocal found
            found = self.leader(topic, partition)
            return found is not None and found != other_than

        await self.wait_until(is_led, what, seconds_max)
        assert found is not None
        return found

    async def wait_ready(self) -> None:
        """Until every running node belongs to the cluster and knows its leader."""
        with trio.fail_after(WAIT_SECONDS_MAX):
            for name in self._machines.running:
                await self._machines.node(name).wait_ready()

    async def wait_topic(self, topic: str) -> None:
        """Until every running node carries the topic and each partition has a leader."""

        def is_there() -> bool:
            nodes = [self._machines.node(name) for name in self._machines.running]
            known = [inside.groups(node).topics.get(topic) for node in nodes]
            first = known[0]
            return (
                first is not None
                and all(item is not None for item in known)
                and not any(node.broker.unopened(first) for node in nodes)
                and all(self.leader(topic, number) is not None for number in range(len(first.partitions)))
            )

        await self.wait_until(is_there, f"topic {topic} everywhere")

    async def wait_converged(self, topic: str | None = None, partition: int = 0) -> None:
        """Until all running nodes have applied the same, which is everything their leader holds."""

        def is_same() -> bool:
            leader = self.leader(topic, partition)
            replicas = [self.replica(name, topic, partition) for name in self._machines.running]
            if leader is None or None in replicas:
                return False
            status = {(r.status().last_index, r.status().applied_index, r.status().last_term) for r in replicas if r is not None}
            return len(status) == 1 and all(last == applied for last, applied, _ in status)

        await self.wait_until(is_same, f"{topic or 'the catalog'}: all replicas equal")

    def voters_of_groups(self) -> list[frozenset[NodeId]]:
        """Of the catalog and of every partition, as the leaders have them; none of a group that has no leader, or is changing."""
        groups: list[tuple[str | None, int]] = [(None, 0)]
        leader = self.leader()
        if leader is not None:
            topics = inside.groups(self._machines.node(leader)).topics
            groups += [(name, number) for name, topic in topics.items() for number in range(len(topic.partitions))]
        voters: list[frozenset[NodeId]] = []
        for topic, partition in groups:
            leader = self.leader(topic, partition)
            replica = self.replica(leader, topic, partition) if leader is not None else None
            configuration = replica.status().configuration if replica is not None else Configuration()
            voters.append(frozenset() if configuration.is_joint else configuration.voters)
        return voters

    def removed_ids(self) -> set[NodeId]:
        """Ids of nodes removed for ever, as far as running nodes know of it. They may still be voters of a group, for a while."""
        return {node_id for name in self._machines.running for node_id in inside.groups(self._machines.node(name)).machine.removed}

    def draining_ids(self) -> set[NodeId]:
        """Ids of nodes that are being drained, as far as running nodes know of it. They stop being voters, group by group."""
        machines = [inside.groups(self._machines.node(name)).machine for name in self._machines.running]
        return {node.node_id for machine in machines for node in machine.nodes.values() if node.is_draining}

    def voters(self, topic: str | None = None, partition: int = 0) -> set[str]:
        """Names of the voters of a group, as its leader has them; empty while there is none."""
        leader = self.leader(topic, partition)
        replica = self.replica(leader, topic, partition) if leader is not None else None
        return {self._machines.name_of(node_id) for node_id in replica.voters()} if replica is not None else set()

    async def wait_voters(self, topic: str | None, *names: str, partition: int = 0) -> None:
        """Wait until the group's voters are these, and no change is in progress."""

        def are_voters() -> bool:
            leader = self.leader(topic, partition)
            replica = self.replica(leader, topic, partition) if leader is not None else None
            if replica is None or replica.status().configuration.is_joint:
                return False
            return {self._machines.name_of(node_id) for node_id in replica.voters()} == set(names)

        await self.wait_until(are_voters, f"voters of {topic or 'the catalog'} are {', '.join(names)}")

    async def wait_gone(self, node_id: NodeId) -> None:
        """Until the catalog's configuration is without the node."""

        def is_gone() -> bool:
            leader = self.leader()
            replica = self.replica(leader) if leader is not None else None
            return replica is not None and node_id not in replica.status().configuration.nodes

        await self.wait_until(is_gone, f"{self._machines.called(node_id)} is out of the catalog's configuration")

    async def wait_registered(self, *names: str) -> None:
        """Until every running node knows from the catalog that these nodes (all founders by default) are there to stay."""
        ids = {self._machines.node_id(name) for name in names or self._machines.founders}

        def is_registered() -> bool:
            return all(ids <= inside.groups(self._machines.node(name)).machine.nodes.keys() for name in self._machines.running)

        await self.wait_until(is_registered, "all nodes are registered")

    async def read(self, name: str, topic: str, partition: int = 0) -> list[Record]:
        """Every record that a node's own replica shows to consumers now, read at the broker, without any client between."""
        broker = self._machines.node(name).broker
        replica = broker.replica(topic, partition)
        offset, end = replica.log.log_start_offset, replica.watermark.value
        request = ConsumeRequest(topic=topic, partition=partition, max_bytes=READ_BYTES)
        records: list[Record] = []
        while offset < end:
            fetched = await broker.fetch(replica, request, offset)
            for batch in fetched.batches:
                records += decode_records(batch, UNPACKED_BYTES_MAX)
            assert fetched.next_offset > offset, "a fetch below the watermark brings something"
            offset = fetched.next_offset
        return records

    async def shown_logs(self) -> list[str]:
        """What each partition holds that consumers may see, in a line, as a node knows it that is up."""
        lines: list[str] = []
        awake = [name for name in self._machines.running if not self._machines.is_paused(name)]
        with trio.move_on_after(LOOK_AT_LOGS_SECONDS_MAX, shield=True):
            for topic in sorted({topic for name in awake for topic in inside.groups(self._machines.node(name)).topics}):
                for number, records in sorted((await self._read_everywhere(awake, topic)).items()):
                    last = ", ".join(
                        f"{record.offset}: {record.value and record.value[:VALUE_BYTES_SHOWN]!r}"
                        for record in records[-RECORDS_SHOWN:]
                    )
                    lines.append(f"{topic}/{number} holds {len(records)} records" + (f", the last: {last}" if records else ""))
        return lines

    async def _read_everywhere(self, names: Sequence[str], topic: str) -> dict[int, list[Record]]:
        """For each partition that can be read, the records of the node that shows most of them. Called to describe a
        failure: a further error must not replace it."""
        found: dict[int, list[Record]] = {}
        for name in names:
            known = inside.groups(self._machines.node(name)).topics.get(topic) if self._machines.is_running(name) else None
            for number in range(len(known.partitions) if known is not None else 0):
                if self.replica(name, topic, number) is None:
                    continue
                try:
                    found[number] = max(found.get(number, []), await self.read(name, topic, number), key=len)
                except EventLogError as error:
                    logger.debug("%s/%d cannot be read at %s: %s", topic, number, name, error)
        return found

    def describe(self) -> str:
        """The cluster as a few lines, for failures."""
        lines = [f"seed {self._machines.seed}, time {trio.current_time():.3f}"]
        for name in self._machines.names:
            if not self._machines.is_running(name):
                lines.append(f"{name}: down")
                continue
            if not inside.groups(self._machines.node(name)).all():
                lines.append(f"{name}: waits for its cluster")
            for replica in inside.groups(self._machines.node(name)).all():
                status = replica.status()
                lines.append(
                    f"{name}: {replica.name}: {status.role.name.lower()} term {status.hard_state.term}"
                    f" leader {self._machines.called(status.leader)} commit {status.hard_state.commit}"
                    f" applied {status.applied_index}"
                    f" last {status.last_index} stable {status.stable_index} watermark {replica.watermark.value}"
                )
        return "\n".join(lines)
