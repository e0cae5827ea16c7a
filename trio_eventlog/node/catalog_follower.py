"""Opens and closes partitions until what is open on this node is what the catalog says.

What is open follows the catalog's state, not its history: a partition that once lived here and moved away is not opened again
when the history comes by after a restart. Its log is gone, and an empty one with the group's first voters would be another group.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from trio_eventlog.codec.catalog import encode_command, level_of
from trio_eventlog.errors import InvalidArgument, NodeRemoved, TopicNotFound
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, GroupId, NodeId, format_id
from trio_eventlog.machine.catalog import CatalogMachine, Command, Outcome, Partition, Result, Topic
from trio_eventlog.machine.placement import spread_leaders
from trio_eventlog.node.departed import finish_departure, has_log
from trio_eventlog.node.early_messages import EarlyMessages
from trio_eventlog.node.group_opener import Group, GroupOpener
from trio_eventlog.node.replica import Replica
from trio_eventlog.node.shortages import Shortages
from trio_eventlog.storage.data_directory import DataDirectory

logger = logging.getLogger(__name__)

REMOVED_TEXT = (
    "node {} was removed from its cluster, for ever: to use this machine again, start it with an empty data directory and --join;"
    " it becomes a new node"
)


class CatalogFollower:
    """Owns what this node shows of the catalog: the topics whose changes it has carried out. `run` is its task.

    Args:
        machine: the catalog as this node has applied it.
        on_removed: called once, when this node is removed from the cluster.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        machine: CatalogMachine,
        directory: DataDirectory,
        opener: GroupOpener,
        early: EarlyMessages,
        shortages: Shortages,
        on_removed: Callable[[], None],
    ) -> None:
        self._node_id = node_id
        self._machine = machine
        self._directory = directory
        self._opener = opener
        self._early = early
        self._shortages = shortages
        self._on_removed = on_removed
        self._topics: dict[str, Topic] = {}
        self._topics_changed = trio.Event()
        self._catalog_changed = trio.Event()
        self._changes_seen = 0
        self._changes_done = 0
        self._index = 0
        self._at_start: list[Group] = []
        """Groups that were there when this node started, and are not open yet."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Every topic that this node knows. Its partitions that live here may still be on their way to be opened."""
        return self._topics

    @property
    def index(self) -> int:
        """Index of the catalog's last command whose effect `topics` shows; 1 before the first command. 0 while this node has not
        yet applied what it knows to be committed: then a topic that is missing here may exist.

        Of the last command, and not of the last entry: the entries of new leaders change no topic, and nodes that show the same
        topics must give the same index, or a client would take one of them for outdated.
        """
        return self._index

    @property
    def applied_command_index(self) -> int:
        """Index of the last command that the catalog has applied. What it changes may not be carried out here yet."""
        return self._machine.command_index

    def opening_at_start(self) -> int:
        """Number of partitions that were there when this node started, and have not been opened or found degraded yet."""
        self._at_start = [group for group in self._at_start if not group.settled.is_set()]
        return len(self._at_start)

    def name_elsewhere(self, group_id: GroupId) -> str:
        """What a partition that is not open here is called. Raises TopicNotFound when it is none, or is to be open here soon."""
        group = self._opener.find(group_id)
        if group is not None:
            return group.name
        found = self._find_partition(group_id)
        if found is not None and found[1].wanted != (self._node_id,):
            return found[0]
        raise TopicNotFound(f"group {format_id(group_id)} is not open on this node: its topic was deleted just now")

    def nodes_elsewhere(self, group_id: GroupId) -> Sequence[NodeId]:
        """The other nodes that carry the group; none when it is deleted."""
        found = self._find_partition(group_id)
        return [node_id for node_id in found[1].wanted if node_id != self._node_id] if found is not None else ()

    def _find_partition(self, group_id: GroupId) -> tuple[str, Partition] | None:
        """Name and partition of a group of a known topic. The catalog may be ahead of what this node has acted upon."""
        place = self._machine.place_of.get(group_id)
        topic = self._topics.get(place.topic) if place is not None else None
        if place is None or topic is None:
            return None
        # The topic known here may be an older one of that name.
        is_known = place.number < len(topic.partitions) and topic.partitions[place.number].group_id == group_id
        return (f"{topic.name}/{place.number}", topic.partitions[place.number]) if is_known else None

    async def wait_topic(self, name: str, *, present: bool) -> None:
        """Until this node knows the topic (or that it is gone)."""
        while (name in self._topics) is not present:
            await self._topics_changed.wait()

    async def wait_level_of(self, command: Command) -> None:
        """Return once the cluster's feature level allows the command."""
        await self.wait_level(level_of(command))

    async def wait_level(self, level: int) -> None:
        """Return once the cluster's feature level is at least this."""
        while self._machine.feature_level < level:
            await self._topics_changed.wait()

    async def wait_settled(self, name: str) -> None:
        """Until every partition of the topic that lives here is open, or could not be opened at the first attempt."""
        topic = self._topics.get(name)
        for partition in topic.partitions if topic is not None else ():
            group = self._opener.find(partition.group_id)
            if group is not None:
                await group.settled.wait()

    async def wait_current(self, catalog: Replica) -> None:
        """Until this node knows every change of topics that was acknowledged before this call. Needs a quorum."""
        await catalog.wait_linearizable()
        seen = self._changes_seen
        while self._changes_done < seen:
            await self._topics_changed.wait()

    def on_applied(self, command: Command, outcome: Outcome) -> None:
        """The catalog has applied a command."""
        self._changes_seen += 1
        self._catalog_changed.set()

    def on_restored(self) -> None:
        """The catalog has taken a snapshot: any number of commands at once."""
        self._changes_seen += 1
        self._catalog_changed.set()

    async def run(self, catalog: Replica) -> None:
        """Open and close partitions until what is open is what the catalog says, again and again."""
        # What this node has acted upon before, it has made durable as committed. A catalog that has lost entries is an old one.
        await catalog.wait_whole()
        if not await catalog.has_applied(catalog.status().hard_state.commit):
            await self._follow_old_catalog()
        if self._node_id in self._machine.removed:
            raise NodeRemoved(REMOVED_TEXT.format(format_id(self._node_id)))
        await self._remove_left_behind()
        is_told = False
        while True:
            self._catalog_changed = trio.Event()
            seen = self._changes_seen
            command_index = self._machine.command_index
            await self._follow(list(self._machine.topics.values()), self._machine.next_group_id)
            if not self._changes_done:
                self._at_start = self._opener.groups()
            self._changes_done = seen
            self._index = max(command_index, 1)
            self._announce_topics()
            if self._node_id in self._machine.removed and not is_told:
                is_told = True
                self._on_removed()
            await self._catalog_changed.wait()

    async def _follow_old_catalog(self) -> None:
        """The catalog is of a newer release from some entry on that was applied here before: what it says of partitions is old.

        What was open then and is still said to be here goes on, with the files it has. Nothing is begun, as another node may carry
        it by now, and nothing is removed. This lasts until the node is upgraded.
        """
        for topic in self._machine.topics.values():
            for number, partition in enumerate(topic.partitions):
                path = self._directory.group_path(partition.group_id)
                if self._node_id in partition.replicas and await self._shortages.when_possible(
                    f"looking for the log of {topic.name}/{number}", partial(has_log, self._directory.disk, path)
                ):
                    self._opener.want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, NOBODY)
            self._topics[topic.name] = topic
        self._at_start = self._opener.groups()
        self._early.set_known_end(self._machine.next_group_id)
        self._announce_topics()
        await trio.sleep_forever()

    async def _remove_left_behind(self) -> None:
        """Files of groups that were deleted or have moved: a crash amid their removal has left them."""
        for group_id in await self._shortages.when_possible("listing the groups", self._directory.group_ids):
            if group_id == CATALOG_GROUP or group_id >= self._machine.next_group_id:
                continue
            place = self._machine.place_of.get(group_id)
            if place is None:
                await self._opener.remove_left_behind(group_id)
                continue
            topic, number = self._machine.topics[place.topic], place.number
            if self._node_id not in topic.partitions[number].replicas:
                await self._shortages.when_possible(
                    f"removing what is left of {topic.name}/{number}", partial(self._finish, topic, number)
                )

    async def _finish(self, topic: Topic, number: int) -> None:
        """A partition that has moved to other nodes has left files here."""
        partition = topic.partitions[number]
        path = self._directory.group_path(partition.group_id)
        await finish_departure(self._directory.disk, path)
        if await has_log(self._directory.disk, path):
            # It is closed in good order, as it would have been.
            group = self._opener.want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, NOBODY)
            await group.settled.wait()

    async def _follow(self, topics: list[Topic], groups_end: GroupId) -> None:
        placed = {partition.group_id for topic in topics for partition in topic.partitions if self._node_id in partition.replicas}
        known = {partition.group_id for topic in topics for partition in topic.partitions}
        for name, topic in list(self._topics.items()):
            if topic.partitions[0].group_id not in known:
                del self._topics[name]
        self._announce_topics()
        gone = [group_id for group_id in self._opener.group_ids() if group_id not in placed and group_id != CATALOG_GROUP]
        async with trio.open_nursery() as nursery:
            for group_id in gone:
                nursery.start_soon(self._opener.close, group_id, group_id in known)
        for topic in topics:
            new = [
                number
                for number, partition in enumerate(topic.partitions)
                if partition.group_id in placed and self._opener.find(partition.group_id) is None
            ]
            if new:
                first_leaders = spread_leaders((partition.group_id, partition.first_voters) for partition in topic.partitions)
                for number in new:
                    partition = topic.partitions[number]
                    first_leader = first_leaders[partition.group_id]
                    self._opener.want(partition.group_id, f"{topic.name}/{number}", partition.first_voters, first_leader)
            self._topics[topic.name] = topic
        self._early.set_known_end(groups_end)

    def _announce_topics(self) -> None:
        self._topics_changed.set()
        self._topics_changed = trio.Event()


async def propose_command(catalog: Replica, machine: CatalogMachine, command: Command) -> Result:
    """Have the catalog carry out a command: the one way by which any is proposed. Returns when it is applied here.

    Raises:
        InvalidArgument: it could not be read back from the log as it is, or not every node of the cluster knows it; nothing was
            proposed.
        NotLeader: this node does not lead the catalog. OutcomeUnknown.
        What the catalog refuses it with.
    """
    level = level_of(command)
    if level > machine.feature_level:
        raise InvalidArgument(
            f"{type(command).__name__} needs feature level {level}, and the cluster is at {machine.feature_level}: upgrade"
            " every node first"
        )
    proposal = await catalog.propose_control(encode_command(command))
    result = await proposal.outcome()
    assert isinstance(result, Result)
    return result
