"""Peers' messages for groups that this node has not heard of from the catalog yet."""

from collections import OrderedDict, deque

from trio_eventlog.ids import CATALOG_GROUP, GroupId
from trio_eventlog.node.inbox import Received


class EarlyMessages:
    """The leader's node may open a new partition before this node has applied the command that creates it.

    Args:
        groups_max: number of groups whose messages are kept; the group that was met first is evicted.
        messages_max: number of messages kept for a group; the oldest is evicted.
    """

    def __init__(self, groups_max: int, messages_max: int) -> None:
        self._groups_max = groups_max
        self._messages_max = messages_max
        self._by_group: OrderedDict[GroupId, deque[Received]] = OrderedDict()
        self._known_end = GroupId(CATALOG_GROUP + 1)
        """Groups with lower ids are known: they are here, were here, or are on other nodes only."""

    def __len__(self) -> int:
        return sum(map(len, self._by_group.values()))

    def groups(self) -> list[GroupId]:
        """Groups with messages, the one that was met first comes first."""
        return list(self._by_group)

    def put(self, group_id: GroupId, received: Received) -> None:
        """Keep a message, unless the group is known to be deleted or to be on other nodes only."""
        if group_id < self._known_end:
            return
        early = self._by_group.get(group_id)
        if early is None:
            early = self._by_group[group_id] = self._new()
            if len(self._by_group) > self._groups_max:
                self._by_group.popitem(last=False)
        early.append(received)

    def take(self, group_id: GroupId) -> deque[Received]:
        """The messages of a group that is about to be opened, in a bounded queue that takes further ones."""
        return self._by_group.pop(group_id, None) or self._new()

    def set_known_end(self, end: GroupId) -> None:
        """The catalog has given away all ids below `end`, and what of them lives here is wanted."""
        self._known_end = end
        for group_id in [group_id for group_id in self._by_group if group_id < end]:
            del self._by_group[group_id]

    def _new(self) -> deque[Received]:
        return deque(maxlen=self._messages_max)
