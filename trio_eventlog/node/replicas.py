"""All groups of a node: the catalog, and the partitions that the catalog places here.

Composed of parts, each of which owns its state:

- `catalog_follower`: what this node shows of the catalog; it wants groups, and has them closed;
- `group_opener`: which groups are wanted here, and the task of each;
- `open_groups`: which of them are open, and which of those are awake;
- `snapshotter`: has snapshots taken of groups that do not fill their segments;
- `retention`: has the beginnings of partitions given up that are old or surplus;
- `room`: which nodes have room for further partitions.
"""

import random
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

import attrs
import trio

from trio_eventlog.codec.lives import Extent
from trio_eventlog.errors import DamagedData, EventLogError, NotLeader, ResourceShortage, TopicNotFound
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId
from trio_eventlog.machine.catalog import FEATURE_LEVEL, CatalogMachine, Command, Result, Topic
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import Applier, CatalogApplier, PartitionApplier
from trio_eventlog.node.catalog_follower import CatalogFollower, propose_command
from trio_eventlog.node.disk_space import AMPLE, SpaceView
from trio_eventlog.node.early_messages import EarlyMessages
from trio_eventlog.node.followers import Send
from trio_eventlog.node.group_opener import Group, GroupOpener, OpeningSettings, Unopened
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.liveness import Reach
from trio_eventlog.node.open_groups import GroupTotals, OpenGroups
from trio_eventlog.node.partition_events import EventSettings, PartitionEvents
from trio_eventlog.node.remote_group import not_here
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.retention import Retention, RetentionSettings
from trio_eventlog.node.room import PartitionRoom
from trio_eventlog.node.shortages import Shortages
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.node.snapshotter import Snapshotter, SnapshotterSettings
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import Configuration, Message
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.event_index import EventIndexes, MemoryEventIndexes
from trio_eventlog.storage.sealed_segments import SealedSegments


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ReplicasSettings:
    """Settings of a node's groups.

    Attributes:
        replica: of every group.
        events: of every partition of events.
        producer_window_batches, producers_max: see `machine.producers`; the same on every node.
        early_groups_max, early_messages_max: number of groups, and of messages without entries for each, that are kept while the
            catalog has not named the group here yet. The oldest group is evicted first; Raft repeats what is lost.
        reset_stagger_seconds: when the link to a leader breaks, its voters stand for election one after another, with this many
            seconds in between. If it is shorter than an election takes, votes are split; longer values prolong the outage when
            the first voter is gone too.
        partitions_max: number of partitions that may be open on this node at a time; others that the catalog places here are
            degraded. Each takes two descriptors and some memory.
        open_segments_max: number of sealed segments, of all groups together, whose file and sparse index are kept open. Too few,
            and readers far behind open a file for nearly every read.
        opening_max: number of groups opened or closed at a time. Each keeps a disk thread busy, and takes up to two descriptors
            beside those that it keeps.
        made_at_once_max: number of new groups whose files are made in one operation of the disk. More share one sync of the
            directory that all are in; the first of them waits longer until it is open.
        making_max: number of such operations at a time. Several syncs at a time cost a disk little more than one.
        opening_leader_seconds_max: seconds for which a group without a leader keeps its place among those being opened, if it is
            new, or if this node should lead it and enough voters are connected. If it is too small, a thousand groups are opened
            at once, and their elections wait for each other's disk writes until they time out.
        snapshotter, retention: see there.
        snapshots_at_once_max: number of snapshots written at a time. Each keeps a disk thread busy.
        open_retry_seconds_min, open_retry_seconds_max: wait before a degraded group is opened again; doubles from one to the
            other, each wait drawn from its upper half.
    """

    replica: ReplicaSettings
    events: EventSettings
    producer_window_batches: int
    producers_max: int
    early_groups_max: int
    early_messages_max: int
    reset_stagger_seconds: float
    partitions_max: int
    open_segments_max: int
    opening_max: int
    made_at_once_max: int
    making_max: int
    opening_leader_seconds_max: float
    snapshotter: SnapshotterSettings
    retention: RetentionSettings
    snapshots_at_once_max: int
    open_retry_seconds_min: float
    open_retry_seconds_max: float


class Replicas:
    """The groups of one node. `run` owns the task of each; the rest may be called from any task.

    Args:
        send: gives a message to the links.
        now_ns: the wall clock, nanoseconds since 1970, for retention by age.
        peers: None: no group ever sleeps.
        on_removed: called once, when this node is removed from the cluster.
        rng: each group's core gets a generator of its own, seeded from this one.
        on_deleted: called for each group that is gone for good.
        feature_level: the highest that this node supports.
        noted: how far each group went when the node last wrote that down, in an earlier life.
        accepts_loss: the operator wants to go on with what is left when files show that something is lost.
        is_alone: whether no other node has ever been in the cluster.
        space: room on the disk.
        event_indexes: where indexes of aggregates are kept; None: in memory.
        on_snapshot: takes the SNAPSHOT messages that a group is to begin anew with; called in the task of its driver.

    Attributes:
        receive_report: as `OpenGroups.receive_report`.
        reinstall: as `GroupOpener.reinstall`.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        directory: DataDirectory,
        send: Send,
        settings: ReplicasSettings,
        rng: random.Random,
        now_ns: Callable[[], int],
        peers: Peers | None = None,
        on_removed: Callable[[], None] = lambda: None,
        on_deleted: Callable[[GroupId], None] = lambda group_id: None,
        feature_level: int = FEATURE_LEVEL,
        noted: Mapping[GroupId, Extent] | None = None,
        accepts_loss: bool = False,
        is_alone: Callable[[], bool] = lambda: False,
        space: SpaceView = AMPLE,
        event_indexes: EventIndexes | None = None,
        on_snapshot: Callable[[GroupId, str, Message], None] = lambda group_id, name, message: None,
    ) -> None:
        self.machine = CatalogMachine()
        self.feature_level = feature_level
        self._node_id = node_id
        self._directory = directory
        self._send = send
        self._settings = settings
        self._rng = rng
        self._now_ns = now_ns
        self._noted = noted or {}
        self._accepts_loss = accepts_loss
        self._is_alone = is_alone
        self.space = space
        self.sealed_segments = SealedSegments(settings.open_segments_max)
        self._event_indexes = event_indexes or MemoryEventIndexes()
        self._on_snapshot = on_snapshot
        self.room = PartitionRoom(node_id, self.machine, settings.partitions_max)
        self._open = OpenGroups(node_id, settings.reset_stagger_seconds, rng)
        self._peers = None if peers is None else attrs.evolve(peers, on_sleep=self._open.on_sleep)
        self._early = EarlyMessages(settings.early_groups_max, settings.early_messages_max)
        shortages = Shortages(
            settings.open_retry_seconds_min, settings.open_retry_seconds_max, rng, lambda: self._opener.degraded_count()
        )
        self._snapshot_slots = trio.CapacityLimiter(settings.snapshots_at_once_max)
        self._opener = GroupOpener(
            node_id=node_id,
            directory=directory,
            settings=OpeningSettings(
                partitions_max=settings.partitions_max,
                opening_max=settings.opening_max,
                making_max=settings.making_max,
                made_at_once_max=settings.made_at_once_max,
                opening_leader_seconds_max=settings.opening_leader_seconds_max,
            ),
            shortages=shortages,
            open_groups=self._open,
            early=self._early,
            make_replica=self._make_replica,
            # The files of a group that was here before are judged as they are: should they be gone, that is a loss.
            may_make=lambda group_id: group_id not in self._noted,
            is_alive=lambda node_id: peers is not None and peers.reach(node_id) is Reach.ALIVE,
            on_deleted=on_deleted,
            remove_derived=lambda group_id: self._event_indexes.remove(directory.index_path(group_id)),
        )
        self.receive_report = self._open.receive_report
        self.reinstall = self._opener.reinstall
        self.catalog_follower = CatalogFollower(
            node_id=node_id,
            machine=self.machine,
            directory=directory,
            opener=self._opener,
            early=self._early,
            shortages=shortages,
            on_removed=on_removed,
        )

    @property
    def catalog(self) -> Replica:
        """Raises NotLeader when it is not open (yet)."""
        return self.get(CATALOG_GROUP)

    @property
    def topics(self) -> Mapping[str, Topic]:
        """See `CatalogFollower.topics`."""
        return self.catalog_follower.topics

    @property
    def catalog_index(self) -> int:
        """See `CatalogFollower.index`."""
        return self.catalog_follower.index

    @property
    def removed(self) -> Container[NodeId]:
        """Nodes that are removed for ever, as far as this node knows."""
        return self.machine.removed

    @property
    def partitions_max(self) -> int:
        """Number of partitions that this node has room for."""
        return self._settings.partitions_max

    def opening_at_start(self) -> int:
        """See `CatalogFollower.opening_at_start`."""
        return self.catalog_follower.opening_at_start()

    @property
    def open_count(self) -> int:
        """Number of groups that are open."""
        return len(self._open)

    def all(self) -> list[Replica]:
        """Every open replica, the catalog first."""
        return self._open.all()

    def awake(self) -> list[Replica]:
        """Every open replica in which something may happen."""
        return self._open.awake()

    def totals(self) -> GroupTotals:
        """Counters of all groups together, since the node was started."""
        return self._open.totals()

    def queued_proposal_bytes(self) -> int:
        """Of batches that wait for their leader here."""
        return self._open.queued_proposal_bytes()

    def unopened(self) -> list[Unopened]:
        """Every group that lives here and is not open, by its id."""
        return self._opener.unopened()

    def find(self, group_id: GroupId) -> Replica | None:
        return self._open.find(group_id)

    def get(self, group_id: GroupId) -> Replica:
        """Raises NotLeader when the group lives elsewhere or is being opened, ResourceShortage when it cannot be opened here and
        lives nowhere else, TopicNotFound when it is no group (any more)."""
        replica = self._open.find(group_id)
        if replica is not None:
            return replica
        name = self.catalog_follower.name_elsewhere(group_id)
        nodes = self.catalog_follower.nodes_elsewhere(group_id)
        if nodes:
            raise not_here(name, nodes[0])
        raise self.why_unopened(group_id) or TopicNotFound(f"{name} is not open on this node: its topic was deleted just now")

    def why_unopened(self, group_id: GroupId) -> EventLogError | None:
        """The refusal of a call for a group that lives here, on no other node, and is not open; None when that is not so."""
        group = self._opener.find(group_id)
        if group is None or group.replica is not None or self.catalog_follower.nodes_elsewhere(group_id):
            return None
        if group.is_damaged:
            return DamagedData(f"{group.name} cannot be opened on its node: {group.trouble}", path=group.suspect)
        if group.trouble:
            return ResourceShortage(f"{group.name} cannot be opened on its node for now, and no other one has it: {group.trouble}")
        return NotLeader(f"{group.name} is being opened: try again shortly")

    @property
    def writes_done(self) -> int:
        """Grows with what is made durable, and changes when a group is closed."""
        return self._open.writes_done()

    @property
    def state_changes(self) -> tuple[int, int]:
        """See `OpenGroups.state_changes`."""
        return self._open.state_changes()

    def extents(self, known: Mapping[GroupId, Extent]) -> dict[GroupId, Extent]:
        """How far the groups went; of those that are not open, but were not closed for good either, as `known` says."""
        kept = {group_id: extent for group_id, extent in known.items() if not self._opener.is_closed_for_good(group_id)}
        return kept | self._open.extents()

    async def wait_current(self) -> None:
        """Until this node knows every change of topics that was acknowledged before this call. Needs a quorum."""
        await self.catalog_follower.wait_current(self.catalog)

    async def command(self, command: Command) -> Result:
        """See `propose_command`."""
        return await propose_command(self.catalog, self.machine, command)

    def receive(self, group_id: GroupId, received: Received) -> None:
        """A peer's message for a group."""
        if self._open.receive(group_id, received):
            return
        if received.frames:
            return  # Entries come again, and would take room.
        group = self._opener.find(group_id)
        if group is not None:
            group.early.append(received)
        else:
            self._early.put(group_id, received)

    def tick(self) -> None:
        """Another tick has passed, for every group that is awake."""
        self._open.tick()

    def report_unreachable(self, node_id: NodeId) -> None:
        """See `OpenGroups.report_unreachable`."""
        self._open.report_unreachable(node_id)

    def peer_reset(self, node_id: NodeId) -> None:
        """See `OpenGroups.peer_reset`."""
        self._open.peer_reset(node_id)

    def peer_gone(self, node_id: NodeId) -> None:
        """See `OpenGroups.peer_gone`."""
        self._open.peer_gone(node_id)

    def peer_back(self) -> None:
        """See `OpenGroups.peer_back`."""
        self._open.peer_back()

    async def run(
        self, catalog_voters: tuple[NodeId, ...], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Open the catalog, whose first voters are given, and what it says; started once the catalog is open."""
        async with trio.open_nursery() as nursery:
            self._open.begin(nursery)
            try:
                nursery.start_soon(self._opener.run, nursery)
                nursery.start_soon(Snapshotter(self._open.all, self._settings.snapshotter).run)
                nursery.start_soon(Retention(self._open.all, self.machine, self._settings.retention, self._now_ns).run)
                await self._opener.want(CATALOG_GROUP, "catalog", catalog_voters, catalog_voters[0]).opened.wait()
                nursery.start_soon(self.catalog_follower.run, self.catalog)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._open.begin(None)

    def _make_replica(self, group: Group) -> AbstractAsyncContextManager[Replica]:
        watermark = Watermark()
        applier: Applier
        events = self._make_events(group)
        if group.group_id == CATALOG_GROUP:
            follower = self.catalog_follower
            applier = CatalogApplier(self.machine, follower.on_applied, self.feature_level, follower.on_restored)
        else:
            machine = PartitionMachine(self._settings.producer_window_batches, self._settings.producers_max)
            applier = PartitionApplier(machine, watermark, events)
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
            sealed=self.sealed_segments,
            rng=random.Random(self._rng.getrandbits(64)),
            # One group that always ticks costs nothing, and says how all nodes are.
            peers=None if group.group_id == CATALOG_GROUP else self._peers,
            # One that was closed in this life has left in good order whatever it held.
            noted=None if self._opener.is_closed_for_good(group.group_id) else self._noted.get(group.group_id),
            accepts_loss=self._accepts_loss,
            is_alone=group.voters == (self._node_id,) and self._is_alone(),
            is_made=group.is_made,
            space=self.space,
            has_others=len(group.voters) > 1,
            suspect=group.suspect,
            # The catalog is one group, and everything else waits for it.
            first_leader=NOBODY if group.group_id == CATALOG_GROUP else group.first_leader,
            snapshot_slots=self._snapshot_slots,
            events=events,
            on_snapshot=partial(self._on_snapshot, group.group_id, group.name),
        )

    def _make_events(self, group: Group) -> PartitionEvents | None:
        """What the group has beside its log when it is a partition of events."""
        topic = self.machine.topic_of(group.group_id)
        if topic is None or not topic.holds_events:
            return None
        path = self._directory.index_path(group.group_id)
        return PartitionEvents(group.name, self._event_indexes, path, self._settings.events)
