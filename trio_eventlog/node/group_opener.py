"""Opens the groups that live on this node, keeps them open, and closes them for good.

Each group has a task that opens it, keeps it open, and opens it again later when descriptors, memory or room on the disk were
missing. A group in that state is *degraded* on this node: the others of the group go on without it, calls are carried to them,
and `status` shows why.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial

import attrs
import trio

from trio_eventlog.errors import DamagedData, EventLogError, NotLeader, ResourceShortage, TopicNotFound
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.departed import Departed, depart
from trio_eventlog.node.early_messages import EarlyMessages
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.mending import damage_in
from trio_eventlog.node.open_groups import OpenGroups
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.shortages import Shortages
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import is_shortage
from trio_eventlog.storage.segmented_log import SegmentedLog

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class OpeningSettings:
    """Limits of opening groups: see `ReplicasSettings`."""

    partitions_max: int
    opening_max: int
    making_max: int
    made_at_once_max: int
    opening_leader_seconds_max: float


@attrs.define(slots=True, eq=False)
class Group:
    """A group that the catalog places here, and the task that opens it and keeps it open.

    Attributes:
        scope: of the task: cancelled to close the group.
        settled: the first attempt to open it has succeeded, or failed.
        closed: the task has ended.
        replica: None until it is open.
        trouble: why the last attempt to open it failed; "" when there was none, or it is open.
        early: newest messages that have come for it before it is open.
        is_made: its files were made in this life of the node, durably.
        work: what the group is to be closed for, or is closed for at present; `work_wanted` says that there is some.
        is_damaged: the last attempt to open it failed because its files are damaged.
        suspect: path of a file in which damage was found while it was open; "" for none.
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
    is_made: bool = False
    is_damaged: bool = False
    suspect: str = ""
    work: "ClosedWork | None" = None
    work_wanted: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(slots=True, eq=False)
class ClosedWork:
    """Work on the files of a group that is closed for it and opened again.

    Attributes:
        run: is given the closed log.
        received: the first message that the group is given when it is open again.
        done: set once `run` has ended, or the group is closed for good.
    """

    run: Callable[[SegmentedLog], Awaitable[None]]
    received: Received
    done: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(slots=True)
class Unopened:
    """A group that is not open on this node although it lives here. `trouble` is "" while it is being opened, else why not."""

    group_id: GroupId
    name: str
    trouble: str


class GroupOpener:
    """Owns which groups are wanted on this node, and the task of each. `run` starts those tasks.

    Args:
        open_groups: a group is put there once it is open, and taken out before it is closed.
        early: messages that have come before a group is wanted.
        make_replica: a group's replica, opened for the length of the block.
        may_make: whether a group's files are made when there are none.
        is_alive: whether another node is known to be there.
        on_deleted: called for each group that is closed for good.
        remove_derived: removes what was derived from the log of a group that is closed for good.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        directory: DataDirectory,
        settings: OpeningSettings,
        shortages: Shortages,
        open_groups: OpenGroups,
        early: EarlyMessages,
        make_replica: Callable[[Group], AbstractAsyncContextManager[Replica]],
        may_make: Callable[[GroupId], bool],
        is_alive: Callable[[NodeId], bool],
        on_deleted: Callable[[GroupId], None],
        remove_derived: Callable[[GroupId], Awaitable[None]],
    ) -> None:
        self._node_id = node_id
        self._directory = directory
        self._settings = settings
        self._shortages = shortages
        self._open_groups = open_groups
        self._early = early
        self._make_replica = make_replica
        self._may_make = may_make
        self._is_alive = is_alive
        self._on_deleted = on_deleted
        self._remove_derived = remove_derived
        self._groups: dict[GroupId, Group] = {}
        self._opening = trio.CapacityLimiter(settings.opening_max)
        self._to_open: deque[Group] = deque()
        self._open_wanted = trio.Event()
        self._partitions_admitted = 0
        """Partitions that are open, or being opened."""
        self._closed: set[GroupId] = set()
        """Closed for good in this life, and not opened again."""

    def find(self, group_id: GroupId) -> Group | None:
        """A group that is wanted here, open or not."""
        return self._groups.get(group_id)

    def group_ids(self) -> list[GroupId]:
        """All that are wanted here, in the order in which they were."""
        return list(self._groups)

    def groups(self) -> list[Group]:
        """As `group_ids`."""
        return list(self._groups.values())

    def unopened(self) -> list[Unopened]:
        """Every group that lives here and is not open, by its id."""
        return [
            Unopened(group.group_id, group.name, group.trouble)
            for group in sorted(
                (group for group in self._groups.values() if group.replica is None), key=lambda group: group.group_id
            )
        ]

    def degraded_count(self) -> int:
        """Number of groups that could not be opened at the last attempt."""
        return sum(1 for group in self._groups.values() if group.trouble)

    def is_closed_for_good(self, group_id: GroupId) -> bool:
        """It was deleted, or has left this node, in this life of the node, and is not opened again."""
        return group_id in self._closed

    # Opening

    def want(self, group_id: GroupId, name: str, voters: tuple[NodeId, ...], first_leader: NodeId) -> Group:
        """Have a group opened, and kept open."""
        early = self._early.take(group_id)
        group = Group(group_id=group_id, name=name, voters=voters, first_leader=first_leader, early=early)
        self._groups[group_id] = group
        self._to_open.append(group)
        self._open_wanted.set()
        self._open_wanted = trio.Event()
        return group

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the tasks of groups in the order of the catalog, as many at a time as may be opened at a time.

        All nodes have the same order, so that a new group finds its other replicas open, or about to be.
        """
        for _ in range(self._settings.making_max):
            nursery.start_soon(self._open_in_order, nursery)

    async def _open_in_order(self, nursery: trio.Nursery) -> None:
        """Make the files of new groups, some of them in one operation of the disk, and have them opened."""
        while True:
            while self._to_open:
                groups = [self._to_open.popleft() for _ in range(min(len(self._to_open), self._settings.made_at_once_max))]
                await self._make_files(groups)
                for group in groups:
                    if group.scope.cancel_called:
                        group.closed.set()
                        continue
                    await self._opening.acquire_on_behalf_of(group)
                    nursery.start_soon(self._keep_open, group)
            await self._open_wanted.wait()

    async def _make_files(self, groups: Sequence[Group]) -> None:
        new = [group.group_id for group in groups if self._may_make(group.group_id) and not group.scope.cancel_called]
        if not new:
            return
        try:
            made = await self._directory.make_groups(new)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            # Each of them meets it again when it is opened, and says so.
            logger.debug("files of new groups could not be made: %s", error)
            return
        for group in groups:
            group.is_made = group.group_id in made

    async def _keep_open(self, group: Group) -> None:
        """The task of a group. It begins with a place among those that are being opened."""
        backoff = self._shortages.backoff()
        with group.scope:
            while True:
                try:
                    async with AsyncExitStack() as stack:
                        try:
                            replica = await self._try_to_open(group, stack)
                            if replica is not None:
                                await self._on_open(group, replica)
                        finally:
                            self._opening.release_on_behalf_of(group)
                        if replica is not None:
                            await group.work_wanted.wait()
                            self._close_for_work(group, replica)
                except BaseExceptionGroup as error:
                    damage = damage_in(error)
                    if damage is None or group.group_id == CATALOG_GROUP:
                        raise
                    self._on_damage(group, damage)
                    backoff.reset()
                    replica = None
                if replica is not None:
                    await self._do_work(group, replica.log)
                    backoff.reset()
                else:
                    await trio.sleep(backoff.next_seconds())
                await self._opening.acquire_on_behalf_of(group)
        if group.work is not None:
            group.work.done.set()
        group.closed.set()

    async def reinstall(self, group_id: GroupId, run: Callable[[SegmentedLog], Awaitable[None]], received: Received) -> bool:
        """Close an open group, call `run` with its closed log, which may change the group's files, and have it opened again.

        Args:
            received: the first message that the group is given when it is open again.

        Returns False when the group is not open, or is closed for good before `run` has ended.
        """
        group = self._groups.get(group_id)
        if group is None or group.replica is None or group.work is not None:
            return False
        work = group.work = ClosedWork(run, received)
        group.work_wanted.set()
        await work.done.wait()
        return not group.scope.cancel_called

    def _close_for_work(self, group: Group, replica: Replica) -> None:
        self._open_groups.remove(group.group_id)
        group.replica = None
        replica.close(NotLeader(f"{group.name} begins anew with the files of another node: try again shortly"))

    async def _do_work(self, group: Group, closed_log: SegmentedLog) -> None:
        """What the group was closed for. A shortage amid it is met again when the group is opened."""
        work = group.work
        assert work is not None
        group.is_made = False
        try:
            await work.run(closed_log)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            self._shortages.log(group.name, str(error))
        work.done.set()

    async def _try_to_open(self, group: Group, stack: AsyncExitStack) -> Replica | None:
        """The replica, which `stack` closes; None when something is short, or damaged for good."""
        try:
            stack.enter_context(self._admitted(group))
            return await stack.enter_async_context(self._make_replica(group))
        except EventLogError as error:
            # The damage of one partition leaves the others as they are. Without its catalog a node is of no use.
            is_of_partition = isinstance(error, DamagedData) and group.group_id != CATALOG_GROUP
            if not is_shortage(error) and not is_of_partition:
                raise
            group.trouble = str(error)
            group.is_damaged = is_of_partition
            if isinstance(error, DamagedData):
                group.suspect = error.path
            group.settled.set()
            self._shortages.log(group.name, group.trouble)
            return None

    def _on_damage(self, group: Group, damage: DamagedData) -> None:
        """The replica was open, and has ended: it is opened again, with that file looked at."""
        self._open_groups.remove(group.group_id)
        group.replica = None
        group.suspect = damage.path
        group.trouble = str(damage)
        logger.error("%s is opened again without what is damaged: %s", group.name, damage)

    @contextmanager
    def _admitted(self, group: Group) -> Iterator[None]:
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

    async def _on_open(self, group: Group, replica: Replica) -> None:
        if group.trouble:
            logger.info("%s is open again", group.name)
        group.replica = replica
        self._open_groups.add(replica)
        self._closed.discard(group.group_id)
        group.trouble = group.suspect = ""
        group.is_damaged = False
        group.settled.set()
        group.opened.set()
        if group.work is not None:
            self._open_groups.receive(group.group_id, group.work.received)
            group.work = None
            group.work_wanted = trio.Event()
        while group.early:
            self._open_groups.receive(group.group_id, group.early.popleft())
        status = replica.status()
        is_new = status.hard_state.term == 0 and status.last_index == 0
        if group.voters == (self._node_id,):
            # The only voter need not wait for an election timeout. The core refuses to stand for election before it has applied all
            # entries that it knows to be committed.
            if await replica.has_applied(status.hard_state.commit):
                self._open_groups.campaign(group.group_id)
            return
        is_first_leader = group.first_leader == self._node_id
        if not is_new and not (is_first_leader and self._is_quorum_there(group.voters)):
            return
        with trio.move_on_after(self._settings.opening_leader_seconds_max):
            try:
                if is_first_leader and await replica.has_applied(status.hard_state.commit) and replica.leader_id == NOBODY:
                    self._open_groups.campaign(group.group_id)
                await replica.wait_leader_other_than(NOBODY)
            except EventLogError as error:
                logger.debug("%s is closed: %s", group.name, error)

    def _is_quorum_there(self, voters: Sequence[NodeId]) -> bool:
        """Whether enough other nodes of the group are alive to elect a leader with this one."""
        alive = sum(1 for node_id in voters if node_id != self._node_id and self._is_alive(node_id))
        return 2 * (alive + 1) > len(voters)

    # Closing

    async def close(self, group_id: GroupId, has_moved: bool) -> None:
        """Close a replica for good and remove its files: its topic is deleted, or its group goes on without this node."""
        group = self._groups.pop(group_id)
        self._closed.add(group_id)
        replica = self._open_groups.remove(group_id)
        if replica is not None:
            if has_moved:
                replica.close(NotLeader(f"{group.name} has moved to other nodes: go there"))
            else:
                replica.close(TopicNotFound(f"{group.name}: the topic was deleted"))
        group.scope.cancel()
        await group.closed.wait()
        self._on_deleted(group_id)
        async with self._opening:
            await self._remove_derived(group_id)
            if not has_moved:
                await self._remove_files(group_id)
            elif replica is not None:
                status = replica.status()
                left = Departed(last_term=status.last_term, last_index=status.last_index, commit_index=status.hard_state.commit)
                departed = replica.departed.joined(left)
                path = self._directory.group_path(group_id)
                await self._shortages.when_possible(f"closing {group.name}", partial(depart, self._directory.disk, path, departed))
                logger.info("%s has moved to other nodes: its files are removed here", group.name)
            else:
                # How far its log goes is not known. The next start that can open it removes it in good order.
                logger.info("%s has moved to other nodes, and was not open: its files are removed at the next start", group.name)

    async def remove_left_behind(self, group_id: GroupId) -> None:
        """Remove the files of a group that was deleted: a crash amid their removal has left them."""
        self._closed.add(group_id)
        await self._remove_derived(group_id)
        await self._remove_files(group_id)

    async def _remove_files(self, group_id: GroupId) -> None:
        await self._shortages.when_possible(
            f"removing group {format_id(group_id)}", partial(self._directory.remove_group, group_id)
        )
