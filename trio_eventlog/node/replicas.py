"""All groups of a node: the catalog, and the partitions that the catalog places here.

What is open follows the catalog's state, not its history: a partition that once lived here and moved away is not opened again
when the history comes by after a restart. Its log is gone, and an empty one with the group's first voters would be another group.
"""

import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Mapping, Sequence

import attrs
import trio

from trio_eventlog.codec.catalog import encode_command
from trio_eventlog.errors import NodeRemoved, NotLeader, TopicNotFound
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import CatalogMachine, Command, Outcome, Result, Topic
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.machine.placement import spread_leaders
from trio_eventlog.node.appliers import Applier, CatalogApplier, PartitionApplier
from trio_eventlog.node.departed import Departed, depart, finish_departure, has_log
from trio_eventlog.node.elsewhere import not_here
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.raft_driver import Send
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import Configuration
from trio_eventlog.storage.data_directory import DataDirectory

logger = logging.getLogger(__name__)

REMOVED_TEXT = (
    "node {} was removed from its cluster, for ever: to use this machine again, start it with an empty data directory and --join;"
    " it becomes a new node"
)


@attrs.frozen(slots=True, kw_only=True)
class ReplicasSettings:
    """Settings of a node's groups.

    Attributes:
        replica: of every group.
        producer_window_batches, producers_max: see `machine.producers`; the same on every node.
        early_groups_max, early_messages_max: a peer may speak of a group before this node has heard of it from the catalog;
            so many messages without entries of so many groups wait, the oldest group is forgotten first.
        reset_stagger_seconds: when the leader's link breaks, the first of the other voters stands for election at once, the
            next one so much later, and so on. Longer than an election takes, or two would split the votes.
    """

    replica: ReplicaSettings
    producer_window_batches: int = 5
    producers_max: int = 10_000
    early_groups_max: int = 256
    early_messages_max: int = 16
    reset_stagger_seconds: float = 0.04


@attrs.define(slots=True, eq=False)
class _Open:
    """A replica's task: cancelled to close it."""

    replica: Replica
    scope: trio.CancelScope
    closed: trio.Event


class Replicas:
    """The groups of one node. `run` owns the task of each; the rest may be called from any task.

    Args:
        send: gives a message to the links.
        on_removed: called once, when this node is removed from the cluster.
        rng: each group's core gets a generator of its own, seeded from this one.
        on_deleted: told of each group that is gone for good.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        directory: DataDirectory,
        send: Send,
        settings: ReplicasSettings,
        rng: random.Random,
        on_removed: Callable[[], None] = lambda: None,
        on_deleted: Callable[[GroupId], None] = lambda group_id: None,
    ) -> None:
        self.machine = CatalogMachine()
        self._on_removed = on_removed
        self._on_deleted = on_deleted
        self._node_id = node_id
        self._directory = directory
        self._send = send
        self._settings = settings
        self._rng = rng
        self._open: dict[GroupId, _Open] = {}
        self._early: OrderedDict[GroupId, deque[Received]] = OrderedDict()
        self._followed_groups_end = GroupId(CATALOG_GROUP + 1)
        """Groups below are open here, or not any more, or live elsewhere."""
        self._topics: dict[str, Topic] = {}
        self._topics_changed = trio.Event()
        self._catalog_changed = trio.Event()
        self._changes_seen = 0
        self._changes_done = 0
        self._nursery: trio.Nursery | None = None

    @property
    def catalog(self) -> Replica:
        return self._open[CATALOG_GROUP].replica

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Topics whose partitions are open on this node, as far as they live here."""
        return self._topics

    @property
    def removed(self) -> Container[NodeId]:
        """Nodes that are removed for ever, as far as this node knows."""
        return self.machine.removed

    def all(self) -> list[Replica]:
        """Every open replica, the catalog first."""
        return [item.replica for _, item in sorted(self._open.items())]

    def find(self, group_id: GroupId) -> Replica | None:
        item = self._open.get(group_id)
        return item.replica if item is not None else None

    def get(self, group_id: GroupId) -> Replica:
        """Raises NotLeader when the group lives elsewhere, TopicNotFound when it is no group (any more)."""
        item = self._open.get(group_id)
        if item is not None:
            return item.replica
        raise not_here(self.name_elsewhere(group_id), self.nodes_elsewhere(group_id)[0])

    def name_elsewhere(self, group_id: GroupId) -> str:
        """What a partition that is not open here is called. Raises TopicNotFound when it is none, or is to be open here soon."""
        for topic in self._topics.values():
            for number, partition in enumerate(topic.partitions):
                if partition.group_id == group_id and partition.wanted != (self._node_id,):
                    return f"{topic.name}/{number}"
        raise TopicNotFound(f"group {format_id(group_id)} is not open on this node: its topic was deleted just now")

    def nodes_elsewhere(self, group_id: GroupId) -> Sequence[NodeId]:
        """The other nodes that carry the group; none when it is deleted."""
        for topic in self._topics.values():
            for partition in topic.partitions:
                if partition.group_id == group_id:
                    return [node_id for node_id in partition.wanted if node_id != self._node_id]
        return ()

    async def wait_topic(self, name: str, *, present: bool) -> None:
        """Until the topic is open here (or gone)."""
        while (name in self._topics) is not present:
            await self._topics_changed.wait()

    async def wait_current(self) -> None:
        """Until every change of topics that was acknowledged before this call has taken effect here. Needs a quorum."""
        await self.catalog.wait_linearizable()
        seen = self._changes_seen
        while self._changes_done < seen:
            await self._topics_changed.wait()

    async def command(self, command: Command) -> Result:
        """Have the catalog carry out a command: the one way by which any is proposed. Returns when it is applied here.

        Raises:
            InvalidArgument: it could not be read back from the log as it is; nothing was proposed.
            NotLeader: this node does not lead the catalog. OutcomeUnknown.
            What the catalog refuses it with.
        """
        proposal = await self.catalog.propose_control(encode_command(command))
        result = await proposal.outcome()
        assert isinstance(result, Result)
        return result

    def receive(self, group_id: GroupId, received: Received) -> None:
        """A peer's message for a group."""
        item = self._open.get(group_id)
        if item is not None:
            item.replica.driver.receive(received)
            return
        if received.frames or group_id < self._followed_groups_end:
            # Entries come again, and would take room; a group known and not open was deleted, or lives elsewhere.
            return
        early = self._early.get(group_id)
        if early is None:
            early = self._early[group_id] = deque(maxlen=self._settings.early_messages_max)
            if len(self._early) > self._settings.early_groups_max:
                self._early.popitem(last=False)
        early.append(received)

    def tick(self) -> None:
        """Another tick has passed, for every group."""
        for item in self._open.values():
            item.replica.driver.tick()

    def report_unreachable(self, node_id: NodeId) -> None:
        for item in self._open.values():
            item.replica.driver.report_unreachable(node_id)

    def peer_reset(self, node_id: NodeId) -> None:
        """A peer's process is gone: each group that it led looks for another leader at once."""
        if self._nursery is None:
            return
        for item in self._open.values():
            if item.replica.leader_id == node_id:
                item.replica.driver.peer_reset(node_id)
                self._nursery.start_soon(self._campaign_in_turn, item.replica, node_id)

    async def _campaign_in_turn(self, replica: Replica, node_id: NodeId) -> None:
        """All followers lose the leader at the same moment. In turn, not by chance: two at a time would split the votes."""
        status = replica.status()
        others = sorted(status.configuration.voters - {node_id})
        if self._node_id not in others:
            return
        # Turned by the term, so that it is not always the same node; the term is the same for all that followed the leader.
        turn = (others.index(self._node_id) + status.hard_state.term) % len(others)
        await trio.sleep(turn * self._settings.reset_stagger_seconds * self._rng.uniform(1.0, 1.25))
        replica.driver.campaign_if_leader_lost(node_id)

    async def run(
        self, catalog_voters: tuple[NodeId, ...], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Open the catalog, whose first voters are given, and what it says; started once the catalog is open."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                applier = CatalogApplier(self.machine, self._on_catalog_applied)
                await self._start(CATALOG_GROUP, "catalog", catalog_voters, catalog_voters[0], applier, Watermark())
                nursery.start_soon(self._follow_catalog)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _on_catalog_applied(self, command: Command, outcome: Outcome) -> None:
        self._changes_seen += 1
        self._catalog_changed.set()

    async def _follow_catalog(self) -> None:
        """Open and close partitions until what is open is what the catalog says, again and again."""
        # What this node has acted upon before, it has made durable as committed.
        await self.catalog.driver.wait_applied(self.catalog.status().hard_state.commit)
        if self._node_id in self.machine.removed:
            raise NodeRemoved(REMOVED_TEXT.format(format_id(self._node_id)))
        await self._remove_left_behind()
        is_told = False
        while True:
            self._catalog_changed = trio.Event()
            seen = self._changes_seen
            await self._follow(list(self.machine.topics.values()), self.machine.next_group_id)
            self._changes_done = seen
            self._tell_topics_changed()
            if self._node_id in self.machine.removed and not is_told:
                is_told = True
                self._on_removed()
            await self._catalog_changed.wait()

    async def _remove_left_behind(self) -> None:
        """Files of groups that were deleted or have moved: a crash amid their removal has left them."""
        known = {
            partition.group_id: (topic, number)
            for topic in self.machine.topics.values()
            for number, partition in enumerate(topic.partitions)
        }
        for group_id in await self._directory.group_ids():
            if group_id == CATALOG_GROUP or group_id >= self.machine.next_group_id:
                continue
            if group_id not in known:
                await self._directory.remove_group(group_id)
                continue
            topic, number = known[group_id]
            path = self._directory.group_path(group_id)
            if self._node_id in topic.partitions[number].replicas:
                continue
            await finish_departure(self._directory.disk, path)
            if await has_log(self._directory.disk, path):
                # It is closed in good order, as it would have been.
                await self._start_partition(topic, number, NOBODY)

    async def _follow(self, topics: list[Topic], groups_end: GroupId) -> None:
        placed = {partition.group_id for topic in topics for partition in topic.partitions if self._node_id in partition.replicas}
        known = {partition.group_id for topic in topics for partition in topic.partitions}
        for name, topic in list(self._topics.items()):
            if topic.partitions[0].group_id not in known:
                del self._topics[name]
        self._tell_topics_changed()
        for group_id in [group_id for group_id in self._open if group_id not in placed and group_id != CATALOG_GROUP]:
            await self._close(group_id, has_moved=group_id in known)
        for topic in topics:
            new = [
                number
                for number, partition in enumerate(topic.partitions)
                if partition.group_id in placed and partition.group_id not in self._open
            ]
            if new:
                first_leaders = spread_leaders((partition.group_id, partition.first_voters) for partition in topic.partitions)
                for number in new:
                    await self._start_partition(topic, number, first_leaders[topic.partitions[number].group_id])
            self._topics[topic.name] = topic
        self._followed_groups_end = groups_end
        for group_id in [group_id for group_id in self._early if group_id < groups_end]:
            del self._early[group_id]

    def _tell_topics_changed(self) -> None:
        self._topics_changed.set()
        self._topics_changed = trio.Event()

    async def _start_partition(self, topic: Topic, number: int, first_leader: NodeId) -> None:
        partition = topic.partitions[number]
        machine = PartitionMachine(self._settings.producer_window_batches, self._settings.producers_max)
        watermark = Watermark()
        await self._start(
            partition.group_id,
            f"{topic.name}/{number}",
            partition.first_voters,
            first_leader,
            PartitionApplier(machine, watermark),
            watermark,
        )

    async def _start(
        self,
        group_id: GroupId,
        name: str,
        voters: tuple[NodeId, ...],
        first_leader: NodeId,
        applier: Applier,
        watermark: Watermark,
    ) -> None:
        assert self._nursery is not None
        item: _Open = await self._nursery.start(self._keep_open, group_id, name, voters, applier, watermark)
        self._open[group_id] = item
        for received in self._early.pop(group_id, ()):
            item.replica.driver.receive(received)
        status = item.replica.status()
        is_new = status.hard_state.term == 0 and status.last_index == 0
        if voters == (self._node_id,) or (is_new and first_leader == self._node_id):
            # A group of one needs nobody's silence to pass; a new group has an appointed candidate.
            item.replica.driver.campaign()

    async def _keep_open(
        self,
        group_id: GroupId,
        name: str,
        voters: tuple[NodeId, ...],
        applier: Applier,
        watermark: Watermark,
        *,
        task_status: trio.TaskStatus[_Open],
    ) -> None:
        closed = trio.Event()
        with trio.CancelScope() as scope:
            async with open_replica(
                node_id=self._node_id,
                group_id=group_id,
                name=name,
                disk=self._directory.disk,
                directory=self._directory.group_path(group_id),
                configuration=Configuration(voters=frozenset(voters)),
                applier=applier,
                watermark=watermark,
                send=self._send,
                settings=self._settings.replica,
                rng=random.Random(self._rng.getrandbits(64)),
            ) as replica:
                task_status.started(_Open(replica, scope, closed))
                await trio.sleep_forever()
        closed.set()

    async def _close(self, group_id: GroupId, *, has_moved: bool) -> None:
        """Close a replica for good and remove its files: its topic is deleted, or its group goes on without this node."""
        item = self._open.pop(group_id)
        name = item.replica.name
        if has_moved:
            item.replica.close(NotLeader(f"{name} has moved to other nodes: go there"))
        else:
            item.replica.close(TopicNotFound(f"{name}: the topic was deleted"))
        item.scope.cancel()
        await item.closed.wait()
        self._on_deleted(group_id)
        if not has_moved:
            await self._directory.remove_group(group_id)
        else:
            status = item.replica.status()
            left = Departed(last_term=status.last_term, last_index=status.last_index, commit_index=status.hard_state.commit)
            departed = item.replica.departed.joined(left)
            await depart(self._directory.disk, self._directory.group_path(group_id), departed)
            logger.info("%s has moved to other nodes: its files are removed here", name)
