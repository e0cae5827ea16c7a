"""All groups of a node: the catalog, and the partitions that the catalog places here.

What is open follows the catalog's state, not its history: a partition that once lived here and moved away is not opened again
when the history comes by after a restart. Its log is gone, and an empty one with the group's first voters would be another group.

Each group has a task that opens it, keeps it open, and opens it again later when descriptors, memory or room on the disk were
missing. A group in that state is *degraded* on this node: the others of the group go on without it, calls are carried to them,
and `status` shows why.
"""

import logging
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from trio_eventlog.codec.catalog import LEVELS, encode_command
from trio_eventlog.codec.lives import Extent
from trio_eventlog.errors import (
    EventLogError,
    InvalidArgument,
    NodeRemoved,
    NotLeader,
    ResourceShortage,
    TooManyPartitions,
    TopicNotFound,
)
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import FEATURE_LEVEL, CatalogMachine, Command, CreateTopic, Outcome, Result, Topic
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.machine.placement import place, spread_leaders
from trio_eventlog.node.appliers import Applier, CatalogApplier, PartitionApplier
from trio_eventlog.node.departed import Departed, depart, finish_departure, has_log
from trio_eventlog.node.elsewhere import not_here
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.raft_driver import Peers, Send
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import Configuration
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import is_shortage

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEGRADED_LOG_SECONDS = 60.0
"""Shortest interval between two log lines about groups that cannot be opened."""

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
        partitions_max: number of partitions that may be open on this node at a time; others that the catalog places here are
            degraded. Each takes two descriptors and some memory.
        opening_max: number of groups opened or closed at a time. Each keeps a disk thread busy, and takes up to two descriptors
            beside those that it keeps.
        opening_leader_seconds_max: how long a new group keeps its place among those being opened while it has no leader. Without,
            a thousand groups would be opened, and their elections wait for each other's disk writes until they time out.
        open_retry_seconds_min, open_retry_seconds_max: wait before a degraded group is opened again; doubles from one to the
            other, each wait drawn from its upper half.
    """

    replica: ReplicaSettings
    producer_window_batches: int = 5
    producers_max: int = 10_000
    early_groups_max: int = 256
    early_messages_max: int = 16
    reset_stagger_seconds: float = 0.04
    partitions_max: int = 100_000
    opening_max: int = 8
    opening_leader_seconds_max: float = 0.5
    open_retry_seconds_min: float = 0.5
    open_retry_seconds_max: float = 30.0


@attrs.define(slots=True, eq=False)
class _Group:
    """A group that the catalog places here, and the task that opens it and keeps it open.

    Attributes:
        scope: of the task: cancelled to close the group.
        settled: the first attempt to open it has succeeded, or failed.
        closed: the task has ended.
        replica: None until it is open.
        trouble: why the last attempt to open it failed; "" when there was none, or it is open.
        early: newest messages that have come for it before it is open.
    """

    group_id: GroupId
    name: str
    voters: tuple[NodeId, ...]
    first_leader: NodeId
    early: deque[Received]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    settled: trio.Event = attrs.field(factory=trio.Event)
    opened: trio.Event = attrs.field(factory=trio.Event)
    closed: trio.Event = attrs.field(factory=trio.Event)
    replica: Replica | None = None
    trouble: str = ""


@attrs.frozen(slots=True)
class Unopened:
    """A group that is not open on this node although it lives here. `trouble` is "" while it is being opened, else why not."""

    group_id: GroupId
    name: str
    trouble: str


class Replicas:
    """The groups of one node. `run` owns the task of each; the rest may be called from any task.

    Args:
        send: gives a message to the links.
        peers: None: no group ever sleeps.
        on_removed: called once, when this node is removed from the cluster.
        rng: each group's core gets a generator of its own, seeded from this one.
        on_deleted: told of each group that is gone for good.
        feature_level: the highest that this node speaks.
        noted: how far each group went when the node last wrote that down, in an earlier life.
        accepts_loss: the operator wants to go on with what is left when files show that something is lost.
        is_alone: whether no other node has ever been in the cluster.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        directory: DataDirectory,
        send: Send,
        settings: ReplicasSettings,
        rng: random.Random,
        peers: Peers | None = None,
        on_removed: Callable[[], None] = lambda: None,
        on_deleted: Callable[[GroupId], None] = lambda group_id: None,
        feature_level: int = FEATURE_LEVEL,
        noted: Mapping[GroupId, Extent] | None = None,
        accepts_loss: bool = False,
        is_alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.machine = CatalogMachine()
        self.feature_level = feature_level
        self._peers = None if peers is None else attrs.evolve(peers, on_sleep=self._on_sleep)
        self._noted = noted or {}
        self._accepts_loss = accepts_loss
        self._is_alone = is_alone
        self._on_removed = on_removed
        self._on_deleted = on_deleted
        self._node_id = node_id
        self._directory = directory
        self._send = send
        self._settings = settings
        self._rng = rng
        self._groups: dict[GroupId, _Group] = {}
        self._open: dict[GroupId, Replica] = {}
        """Those of the groups that are open."""
        self._awake: dict[GroupId, Replica] = {}
        """Those of them that are ticked."""
        self._opening = trio.CapacityLimiter(settings.opening_max)
        self._to_open: deque[_Group] = deque()
        self._open_wanted = trio.Event()
        self._partitions_admitted = 0
        """Partitions that are open, or being opened."""
        self._creating: list[CreateTopic] = []
        """Topics that this node has proposed to create, and not heard of yet."""
        self._at_start: list[_Group] = []
        """Groups that were there when this node started, and are not open yet."""
        self.room: dict[NodeId, int] = {}
        """By node, the number of partitions that it has room for, as far as it has said so to this node."""
        self._degraded_logged_at = -DEGRADED_LOG_SECONDS
        self._closed: set[GroupId] = set()
        """Closed for good in this life, and not opened again."""
        self._early: OrderedDict[GroupId, deque[Received]] = OrderedDict()
        self._followed_groups_end = GroupId(CATALOG_GROUP + 1)
        """Groups below live here, or not any more, or live elsewhere."""
        self._topics: dict[str, Topic] = {}
        self._topics_changed = trio.Event()
        self._catalog_changed = trio.Event()
        self._changes_seen = 0
        self._changes_done = 0
        self._command_index = 0
        self._catalog_index = 0
        self._nursery: trio.Nursery | None = None

    @property
    def catalog(self) -> Replica:
        return self._open[CATALOG_GROUP]

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Every topic that this node knows. Its partitions that live here may still be on their way to be opened (`unopened`)."""
        return self._topics

    @property
    def catalog_index(self) -> int:
        """Index of the catalog's last command whose effect `topics` shows; 1 before the first command. 0 while this node has not
        yet applied what it knows to be committed: then a topic that is missing here may exist.

        Of the last command, and not of the last entry: the entries of new leaders change no topic, and nodes that show the same
        topics must give the same index, or a client would take one of them for outdated.
        """
        return self._catalog_index

    @property
    def applied_command_index(self) -> int:
        """Index of the last command that the catalog has applied. What it changes may not be carried out here yet."""
        return self._command_index

    @property
    def removed(self) -> Container[NodeId]:
        """Nodes that are removed for ever, as far as this node knows."""
        return self.machine.removed

    @property
    def partitions_max(self) -> int:
        """Number of partitions that this node has room for."""
        return self._settings.partitions_max

    def all(self) -> list[Replica]:
        """Every open replica, the catalog first."""
        return [replica for _, replica in sorted(self._open.items())]

    def opening_at_start(self) -> int:
        """Number of partitions that were there when this node started, and have not been opened or found degraded yet."""
        self._at_start = [group for group in self._at_start if not group.settled.is_set()]
        return len(self._at_start)

    @contextmanager
    def room_for(self, command: CreateTopic) -> Iterator[None]:
        """Holds room for the topic's partitions, on every node that is to carry some, while the command is on its way.

        A node that has not said how many partitions it has room for is taken to have as much as this one.

        Raises:
            TooManyPartitions: a node has no room for its part. (One that is over its limit all the same, since a command was
            applied after its caller was gone, or replicas have moved, carries the rest degraded.)
        """
        if command.name in self.machine.topics:
            yield  # refused when it is applied, or made already by an earlier attempt of the same call
            return
        first = self.machine.next_group_id + sum(item.partition_count for item in self._creating)
        carried = self._partitions_by_node()
        wanted = Counter(
            node_id
            for number in range(command.partition_count)
            for node_id in place(GroupId(first + number), command.replicas, command.replica_count)
        )
        for node_id, count in sorted(wanted.items()):
            room = self.partitions_max if node_id == self._node_id else self.room.get(node_id, self.partitions_max)
            if carried[node_id] + count > room:
                raise TooManyPartitions(
                    f"topic {command.name!r} would put {count} more partitions on node {format_id(node_id)}, which carries"
                    f" {carried[node_id]} and has room for {room}: ask for fewer partitions or replicas, delete topics, or raise"
                    " the limit of open files of the nodes (`ulimit -n`, LimitNOFILE=)"
                )
        self._creating.append(command)
        try:
            yield
        finally:
            self._creating.remove(command)

    def _partitions_by_node(self) -> Counter[NodeId]:
        """How many partitions each node carries, those that are being created included."""
        carried = Counter(
            node_id for topic in self.machine.topics.values() for partition in topic.partitions for node_id in partition.replicas
        )
        group_id = self.machine.next_group_id
        for other in self._creating:
            for _ in range(other.partition_count):
                carried.update(place(group_id, other.replicas, other.replica_count))
                group_id = GroupId(group_id + 1)
        return carried

    @property
    def open_count(self) -> int:
        """Number of groups that are open."""
        return len(self._open)

    def awake(self) -> list[Replica]:
        """Every open replica in which something may happen."""
        return list(self._awake.values())

    def unopened(self) -> list[Unopened]:
        """Every group that lives here and is not open, by its id."""
        return [
            Unopened(group.group_id, group.name, group.trouble)
            for group in sorted(
                (group for group in self._groups.values() if group.replica is None), key=lambda group: group.group_id
            )
        ]

    def find(self, group_id: GroupId) -> Replica | None:
        return self._open.get(group_id)

    def get(self, group_id: GroupId) -> Replica:
        """Raises NotLeader when the group lives elsewhere or is being opened, ResourceShortage when it cannot be opened here and
        lives nowhere else, TopicNotFound when it is no group (any more)."""
        replica = self._open.get(group_id)
        if replica is not None:
            return replica
        name = self.name_elsewhere(group_id)
        nodes = self.nodes_elsewhere(group_id)
        if nodes:
            raise not_here(name, nodes[0])
        raise self.why_unopened(group_id) or TopicNotFound(f"{name} is not open on this node: its topic was deleted just now")

    def why_unopened(self, group_id: GroupId) -> EventLogError | None:
        """The refusal of a call for a group that lives here, on no other node, and is not open; None when that is not so."""
        group = self._groups.get(group_id)
        if group is None or group.replica is not None or self.nodes_elsewhere(group_id):
            return None
        if group.trouble:
            return ResourceShortage(f"{group.name} cannot be opened on its node for now, and no other one has it: {group.trouble}")
        return NotLeader(f"{group.name} is being opened: try again shortly")

    def name_elsewhere(self, group_id: GroupId) -> str:
        """What a partition that is not open here is called. Raises TopicNotFound when it is none, or is to be open here soon."""
        group = self._groups.get(group_id)
        if group is not None:
            return group.name
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

    @property
    def writes_done(self) -> int:
        """Grows with what is made durable, and changes when a group is closed."""
        return sum(replica.driver.writes_done for replica in self._open.values())

    def extents(self, known: Mapping[GroupId, Extent]) -> dict[GroupId, Extent]:
        """How far the groups went; of those that are not open, but were not closed for good either, as `known` says."""
        kept = {group_id: extent for group_id, extent in known.items() if group_id not in self._closed}
        return kept | {group_id: replica.driver.extent for group_id, replica in self._open.items()}

    async def wait_topic(self, name: str, *, present: bool) -> None:
        """Until this node knows the topic (or that it is gone)."""
        while (name in self._topics) is not present:
            await self._topics_changed.wait()

    async def wait_settled(self, name: str) -> None:
        """Until every partition of the topic that lives here is open, or could not be opened at the first attempt."""
        topic = self._topics.get(name)
        for partition in topic.partitions if topic is not None else ():
            group = self._groups.get(partition.group_id)
            if group is not None:
                await group.settled.wait()

    async def wait_current(self) -> None:
        """Until this node knows every change of topics that was acknowledged before this call. Needs a quorum."""
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
        level = LEVELS[type(command)]
        if level > self.machine.feature_level:
            raise InvalidArgument(
                f"{type(command).__name__} needs feature level {level}, and the cluster is at {self.machine.feature_level}: upgrade"
                " every node first"
            )
        proposal = await self.catalog.propose_control(encode_command(command))
        result = await proposal.outcome()
        assert isinstance(result, Result)
        return result

    def receive(self, group_id: GroupId, received: Received) -> None:
        """A peer's message for a group."""
        replica = self._open.get(group_id)
        if replica is not None:
            replica.driver.receive(received)
            return
        if received.frames:
            return  # Entries come again, and would take room.
        group = self._groups.get(group_id)
        if group is not None:
            group.early.append(received)
            return
        if group_id < self._followed_groups_end:
            return  # It was deleted, or lives elsewhere.
        early = self._early.get(group_id)
        if early is None:
            early = self._early[group_id] = self._new_early()
            if len(self._early) > self._settings.early_groups_max:
                self._early.popitem(last=False)
        early.append(received)

    def _new_early(self) -> deque[Received]:
        return deque(maxlen=self._settings.early_messages_max)

    def tick(self) -> None:
        """Another tick has passed, for every group that is awake."""
        for replica in list(self._awake.values()):
            replica.driver.tick()

    def report_unreachable(self, node_id: NodeId) -> None:
        """Our link to the peer is gone, and what was on its way with it."""
        for replica in self._open.values():
            if replica.is_leader or not replica.driver.is_asleep:
                replica.driver.report_unreachable(node_id)
            self._tell_sleeping_leader(replica)

    def peer_reset(self, node_id: NodeId) -> None:
        """A peer's process is gone: each group that it led looks for another leader at once."""
        for replica in self._open.values():
            if replica.leader_id == node_id:
                self._lose_leader(replica, node_id)

    def peer_gone(self, node_id: NodeId) -> None:
        """A peer has been silent for an election timeout, or was started again.

        The sleeping groups that it led, and those that others have woken since, look for another leader at once; awake ones have
        clocks of their own. Those led here look who is left.
        """
        for replica in self._open.values():
            if replica.leader_id == node_id and replica.driver.counts_on_leaders_node:
                self._lose_leader(replica, node_id)
            else:
                self._tell_sleeping_leader(replica)

    def _lose_leader(self, replica: Replica, node_id: NodeId) -> None:
        if self._nursery is not None:
            replica.driver.peer_reset(node_id)
            self._nursery.start_soon(self._campaign_in_turn, replica, node_id)

    def peer_back(self) -> None:
        """A peer is there that was not: leaders that sleep without it tell it that they lead."""
        for replica in self._open.values():
            self._tell_sleeping_leader(replica)

    def _tell_sleeping_leader(self, replica: Replica) -> None:
        # Sleeping followers have nothing to think about, and there may be thousands.
        if replica.driver.is_asleep and replica.is_leader:
            replica.driver.peers_changed()

    def _on_sleep(self, group_id: GroupId, is_asleep: bool) -> None:
        if is_asleep:
            self._awake.pop(group_id, None)
        elif group_id in self._open:
            self._awake[group_id] = self._open[group_id]

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
                nursery.start_soon(self._open_in_order, nursery)
                await self._want(CATALOG_GROUP, "catalog", catalog_voters, catalog_voters[0]).opened.wait()
                nursery.start_soon(self._follow_catalog)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _on_catalog_applied(self, command: Command, outcome: Outcome) -> None:
        self._changes_seen += 1
        self._command_index = self.machine.applied_index
        self._catalog_changed.set()

    async def _follow_catalog(self) -> None:
        """Open and close partitions until what is open is what the catalog says, again and again."""
        # What this node has acted upon before, it has made durable as committed. A catalog that has lost entries is an old one.
        await self.catalog.driver.wait_whole()
        if not await self.catalog.driver.has_applied(self.catalog.status().hard_state.commit):
            await self._follow_old_catalog()
        if self._node_id in self.machine.removed:
            raise NodeRemoved(REMOVED_TEXT.format(format_id(self._node_id)))
        await self._remove_left_behind()
        is_told = False
        while True:
            self._catalog_changed = trio.Event()
            seen = self._changes_seen
            command_index = self._command_index
            await self._follow(list(self.machine.topics.values()), self.machine.next_group_id)
            if not self._changes_done:
                self._at_start = list(self._groups.values())
            self._changes_done = seen
            self._catalog_index = max(command_index, 1)
            self._tell_topics_changed()
            if self._node_id in self.machine.removed and not is_told:
                is_told = True
                self._on_removed()
            await self._catalog_changed.wait()

    async def _follow_old_catalog(self) -> None:
        """The catalog is of a newer release from some entry on that was applied here before: what it says of partitions is old.

        What was open then and is still said to be here goes on, with the files it has. Nothing is begun, as another node may carry
        it by now, and nothing is removed. This lasts until the node is upgraded.
        """
        for topic in self.machine.topics.values():
            for number, partition in enumerate(topic.partitions):
                path = self._directory.group_path(partition.group_id)
                if self._node_id in partition.replicas and await self._when_possible(
                    f"looking for the log of {topic.name}/{number}", partial(has_log, self._directory.disk, path)
                ):
                    self._want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, NOBODY)
            self._topics[topic.name] = topic
        self._at_start = list(self._groups.values())
        self._followed_groups_end = self.machine.next_group_id
        self._tell_topics_changed()
        await trio.sleep_forever()

    async def _remove_left_behind(self) -> None:
        """Files of groups that were deleted or have moved: a crash amid their removal has left them."""
        known = {
            partition.group_id: (topic, number)
            for topic in self.machine.topics.values()
            for number, partition in enumerate(topic.partitions)
        }
        for group_id in await self._when_possible("listing the groups", self._directory.group_ids):
            if group_id == CATALOG_GROUP or group_id >= self.machine.next_group_id:
                continue
            if group_id not in known:
                self._closed.add(group_id)
                await self._remove_files(group_id)
                continue
            topic, number = known[group_id]
            partition = topic.partitions[number]
            if self._node_id not in partition.replicas:
                await self._when_possible(f"removing what is left of {topic.name}/{number}", partial(self._finish, topic, number))

    async def _finish(self, topic: Topic, number: int) -> None:
        """A partition that has moved to other nodes has left files here."""
        partition = topic.partitions[number]
        path = self._directory.group_path(partition.group_id)
        await finish_departure(self._directory.disk, path)
        if await has_log(self._directory.disk, path):
            # It is closed in good order, as it would have been.
            await self._want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, NOBODY).settled.wait()

    async def _remove_files(self, group_id: GroupId) -> None:
        await self._when_possible(f"removing group {format_id(group_id)}", partial(self._directory.remove_group, group_id))

    async def _when_possible(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which may be done again, once nothing is short that it needs."""
        wait_seconds = self._settings.open_retry_seconds_min
        while True:
            try:
                return await work()
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                self._log_shortage(what, str(error))
            wait_seconds = await self._back_off(wait_seconds)

    async def _back_off(self, wait_seconds: float) -> float:
        """Wait, and return how long to wait the next time."""
        await trio.sleep(self._rng.uniform(wait_seconds / 2, wait_seconds))
        return min(2 * wait_seconds, self._settings.open_retry_seconds_max)

    async def _follow(self, topics: list[Topic], groups_end: GroupId) -> None:
        placed = {partition.group_id for topic in topics for partition in topic.partitions if self._node_id in partition.replicas}
        known = {partition.group_id for topic in topics for partition in topic.partitions}
        for name, topic in list(self._topics.items()):
            if topic.partitions[0].group_id not in known:
                del self._topics[name]
        self._tell_topics_changed()
        gone = [group_id for group_id in self._groups if group_id not in placed and group_id != CATALOG_GROUP]
        async with trio.open_nursery() as nursery:
            for group_id in gone:
                nursery.start_soon(self._close, group_id, group_id in known)
        for topic in topics:
            new = [
                number
                for number, partition in enumerate(topic.partitions)
                if partition.group_id in placed and partition.group_id not in self._groups
            ]
            if new:
                first_leaders = spread_leaders((partition.group_id, partition.first_voters) for partition in topic.partitions)
                for number in new:
                    partition = topic.partitions[number]
                    first_leader = first_leaders[partition.group_id]
                    self._want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, first_leader)
            self._topics[topic.name] = topic
        self._followed_groups_end = groups_end
        for group_id in [group_id for group_id in self._early if group_id < groups_end]:
            del self._early[group_id]

    def _tell_topics_changed(self) -> None:
        self._topics_changed.set()
        self._topics_changed = trio.Event()

    # Opening

    def _want(self, group_id: GroupId, name: str, voters: tuple[NodeId, ...], first_leader: NodeId) -> _Group:
        """Have a group opened, and kept open."""
        assert self._nursery is not None
        early = self._early.pop(group_id, None) or self._new_early()
        group = _Group(group_id=group_id, name=name, voters=voters, first_leader=first_leader, early=early)
        self._groups[group_id] = group
        self._to_open.append(group)
        self._open_wanted.set()
        return group

    async def _open_in_order(self, nursery: trio.Nursery) -> None:
        """Start the tasks of groups in the order of the catalog, as many at a time as may be opened at a time.

        All nodes have the same order, so that a new group finds its other replicas open, or about to be.
        """
        while True:
            while self._to_open:
                group = self._to_open.popleft()
                if group.scope.cancel_called:
                    group.closed.set()
                    continue
                await self._opening.acquire_on_behalf_of(group)
                nursery.start_soon(self._keep_open, group)
            self._open_wanted = trio.Event()
            await self._open_wanted.wait()

    async def _keep_open(self, group: _Group) -> None:
        """The task of a group. It begins with a place among those that are being opened."""
        wait_seconds = self._settings.open_retry_seconds_min
        with group.scope:
            while True:
                async with AsyncExitStack() as stack:
                    try:
                        replica = await self._try_to_open(group, stack)
                        if replica is not None:
                            await self._on_open(group, replica)
                    finally:
                        self._opening.release_on_behalf_of(group)
                    if replica is not None:
                        await trio.sleep_forever()
                wait_seconds = await self._back_off(wait_seconds)
                await self._opening.acquire_on_behalf_of(group)
        group.closed.set()

    async def _try_to_open(self, group: _Group, stack: AsyncExitStack) -> Replica | None:
        """The replica, which `stack` closes; None when something is short."""
        try:
            stack.enter_context(self._admitted(group))
            return await stack.enter_async_context(self._new_replica(group))
        except EventLogError as error:
            if not is_shortage(error):
                raise
            group.trouble = str(error)
            group.settled.set()
            self._log_shortage(group.name, group.trouble)
            return None

    @contextmanager
    def _admitted(self, group: _Group) -> Iterator[None]:
        """Takes the group's place among the partitions that may be open. Raises ResourceShortage when there is none."""
        if group.group_id == CATALOG_GROUP:
            yield
            return
        partitions_max = self._settings.partitions_max
        if self._partitions_admitted >= partitions_max:
            raise ResourceShortage(
                f"this node carries {partitions_max} partitions already, which is all that it has room for (partitions_max)"
            )
        self._partitions_admitted += 1
        try:
            yield
        finally:
            self._partitions_admitted -= 1

    def _new_replica(self, group: _Group) -> AbstractAsyncContextManager[Replica]:
        watermark = Watermark()
        applier: Applier
        if group.group_id == CATALOG_GROUP:
            applier = CatalogApplier(self.machine, self._on_catalog_applied, self.feature_level)
        else:
            machine = PartitionMachine(self._settings.producer_window_batches, self._settings.producers_max)
            applier = PartitionApplier(machine, watermark)
        return open_replica(
            node_id=self._node_id,
            group_id=group.group_id,
            name=group.name,
            disk=self._directory.disk,
            directory=self._directory.group_path(group.group_id),
            configuration=Configuration(voters=frozenset(group.voters)),
            applier=applier,
            watermark=watermark,
            send=self._send,
            settings=self._settings.replica,
            rng=random.Random(self._rng.getrandbits(64)),
            # One group that always ticks costs nothing, and says how all nodes are.
            peers=None if group.group_id == CATALOG_GROUP else self._peers,
            # One that was closed in this life has left in good order whatever it held.
            noted=self._noted.get(group.group_id) if group.group_id not in self._closed else None,
            accepts_loss=self._accepts_loss,
            is_alone=group.voters == (self._node_id,) and self._is_alone(),
        )

    async def _on_open(self, group: _Group, replica: Replica) -> None:
        if group.trouble:
            logger.info("%s is open again", group.name)
        group.replica = self._open[group.group_id] = self._awake[group.group_id] = replica
        self._closed.discard(group.group_id)
        group.trouble = ""
        group.settled.set()
        group.opened.set()
        while group.early:
            replica.driver.receive(group.early.popleft())
        status = replica.status()
        is_new = status.hard_state.term == 0 and status.last_index == 0
        is_candidate = group.voters == (self._node_id,) or (is_new and group.first_leader == self._node_id)
        # A group of one needs nobody's silence to pass; a new group has an appointed candidate. The core refuses to stand for
        # election before it has applied what it knows to be committed.
        if is_candidate and await replica.driver.has_applied(status.hard_state.commit):
            replica.driver.campaign()
        if is_new and len(group.voters) > 1:
            with trio.move_on_after(self._settings.opening_leader_seconds_max):
                try:
                    await replica.wait_leader_other_than(NOBODY)
                except EventLogError as error:
                    logger.debug("%s is closed: %s", group.name, error)

    def _log_shortage(self, what: str, why: str) -> None:
        now = trio.current_time()
        if now - self._degraded_logged_at < DEGRADED_LOG_SECONDS:
            return
        self._degraded_logged_at = now
        count = sum(1 for group in self._groups.values() if group.trouble)
        others = f" ({count} partitions are in this state)" if count > 1 else ""
        logger.warning("%s has to wait%s, and is tried again until it works: %s", what, others, why)

    # Closing

    async def _close(self, group_id: GroupId, has_moved: bool) -> None:
        """Close a replica for good and remove its files: its topic is deleted, or its group goes on without this node."""
        group = self._groups.pop(group_id)
        self._closed.add(group_id)
        replica = self._open.pop(group_id, None)
        self._awake.pop(group_id, None)
        if replica is not None:
            if has_moved:
                replica.close(NotLeader(f"{group.name} has moved to other nodes: go there"))
            else:
                replica.close(TopicNotFound(f"{group.name}: the topic was deleted"))
        group.scope.cancel()
        await group.closed.wait()
        self._on_deleted(group_id)
        async with self._opening:
            if not has_moved:
                await self._remove_files(group_id)
            elif replica is not None:
                status = replica.status()
                left = Departed(last_term=status.last_term, last_index=status.last_index, commit_index=status.hard_state.commit)
                departed = replica.departed.joined(left)
                path = self._directory.group_path(group_id)
                await self._when_possible(f"closing {group.name}", partial(depart, self._directory.disk, path, departed))
                logger.info("%s has moved to other nodes: its files are removed here", group.name)
            else:
                # How far its log goes is not known. The next start that can open it removes it in good order.
                logger.info("%s has moved to other nodes, and was not open: its files are removed at the next start", group.name)
