"""What a replica sends to the other replicas of its group.

Everything leaves at once, but for APPENDs whose entries only the disk has (catch-up: a task for each follower reads them), and for
APPENDs without entries (notices of the commit index: they wait a little for one with entries that carries the index as well).
"""

from collections import deque
from collections.abc import Callable, Sequence

import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.errors import ResourceShortage
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.snapshot_sends import SnapshotSends
from trio_eventlog.raft import Configuration, Message, MessageType, RaftNode
from trio_eventlog.storage.segmented_log import SegmentedLog

Send = Callable[[GroupId, Message, Sequence[EntryFrame]], bool]
"""Give a message to the links, with the entries of an APPEND. False: not sent, and never will be."""

_NO_BOUND = 1 << 62


class Followers:
    """Owns what waits to be sent, and when each node was last heard.

    `send_message` and `begin_again` are called in the driver's task. `run` is a separate task, as is each catch-up.

    Args:
        send: gives a message to the links.
        start: starts a task that ends with the driver.
        on_lost: what was to be sent to a node did not leave; called in a task of this part.

    Attributes:
        snapshots: which followers begin anew with a snapshot.
    """

    def __init__(
        self,
        group_id: GroupId,
        core: RaftNode,
        log: SegmentedLog,
        settings: DriverSettings,
        send: Send,
        start: Callable[..., None],
        on_lost: Callable[[NodeId], None],
        snapshots: SnapshotSends,
    ) -> None:
        self._group_id = group_id
        self._core = core
        self._log = log
        self._settings = settings
        self._send = send
        self._start = start
        self._on_lost = on_lost
        self.snapshots = snapshots
        self._notices: dict[NodeId, Message] = {}
        self._notice_wanted = trio.Event()
        self._catch_up: dict[NodeId, deque[Message]] = {}
        self._catch_up_wanted: dict[NodeId, trio.Event] = {}
        self.heard_at: dict[NodeId, float] = {}
        """When the last message of each other node was taken, in Trio's time."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._notices and not any(self._catch_up.values())

    def keep_only(self, configuration: Configuration) -> None:
        """Other nodes are no members any more."""
        self.heard_at = {node: at for node, at in self.heard_at.items() if node in configuration.nodes}

    def send_message(self, message: Message) -> None:
        if message.type is not MessageType.APPEND:
            is_sent = self._send(self._group_id, message, ())
            if message.type is MessageType.SNAPSHOT:
                self.snapshots.on_sent(message)
                if not is_sent:
                    self.snapshots.on_lost(message.to)
            return
        if not self._is_of_this_leadership(message):
            return  # it had to wait for the disk, and the log may hold other entries there now
        behind = self._catch_up.get(message.to)
        if behind and message.index != behind[-1].last_index:
            # The follower has refused something, or something was lost: what waits would be refused too, or arrive twice.
            behind.clear()
        if message.last_index == message.index:
            # Half of all messages of a leader with one producer: each commit would be reported to every follower, and answered.
            self._notices[message.to] = message
            self._notice_wanted.set()
            return
        # This one carries a newer commit index.
        self._notices.pop(message.to, None)
        if not behind:
            frames = self._log.cached(message.index + 1, message.last_index, _NO_BOUND)
            if frames is not None and frames[-1].index == message.last_index:
                if not self._send(self._group_id, message, frames):
                    self._core.report_unreachable(message.to)
                return
            if self.snapshots.is_better(message) and self._core.send_snapshot(message.to):
                return
        if behind is None:
            behind = self._catch_up[message.to] = deque()
            self._catch_up_wanted[message.to] = trio.Event()
            self._start(self._catch_up_loop, message.to)
        if len(behind) >= self._core.settings.inflight_messages_max:
            # More than the core has in flight: the follower acknowledges what was never sent to it.
            self.begin_again(message.to)
            return
        behind.append(message)
        self._catch_up_wanted[message.to].set()

    def begin_again(self, node_id: NodeId) -> None:
        """Something did not get to the follower: the core asks where it stands, and what waits for it here has no use any more."""
        self._core.report_unreachable(node_id)
        self.snapshots.on_lost(node_id)
        if node_id in self._catch_up:
            self._catch_up[node_id].clear()
            self._notices.pop(node_id, None)

    async def run(self) -> None:
        """Send followers the commit index when no entries came along to carry it."""
        while True:
            await self._notice_wanted.wait()
            self._notice_wanted = trio.Event()
            await trio.sleep(self._settings.commit_notice_seconds)
            self.send_notices()

    def send_notices(self) -> None:
        """Send at once what waits for entries to go along with."""
        notices, self._notices = self._notices, {}
        for message in notices.values():
            if self._catch_up.get(message.to):
                # It counts on entries that still wait for the disk. Before them it would be refused, and all of them sent again.
                self._notices[message.to] = message
            elif self._is_of_this_leadership(message):
                self._send(self._group_id, message, ())

    async def _catch_up_loop(self, node_id: NodeId) -> None:
        """APPENDs to one follower that need the disk, in order; those that come meanwhile wait behind them."""
        behind = self._catch_up[node_id]
        while True:
            while not behind:
                if node_id in self._notices:
                    self._notice_wanted.set()
                self._catch_up_wanted[node_id] = trio.Event()
                await self._catch_up_wanted[node_id].wait()
            message = behind[0]
            frames = await self._read_for(message)
            if not behind or behind[0] is not message:
                continue  # the core has begun again meanwhile
            behind.popleft()
            sent = False
            if frames and frames[-1].index == message.last_index and self._is_of_this_leadership(message):
                sent = self._send(self._group_id, message, frames)
            if not sent:
                behind.clear()
                self._on_lost(node_id)

    async def _read_for(self, message: Message) -> list[EntryFrame]:
        """The entries of an APPEND; nothing when they are not this leader's any more."""
        frames: list[EntryFrame] = []
        first = message.index + 1
        try:
            while self._is_of_this_leadership(message) and first <= message.last_index:
                # The newest may not be durable yet; those are in memory.
                more = self._log.cached(first, message.last_index, _NO_BOUND)
                if more is None:
                    more = await self._log.read(
                        first, min(message.last_index, self._log.last_index), self._settings.append_bytes_max
                    )
                frames += more
                first = frames[-1].index + 1
        except IndexError:
            # The suffix was removed while the disk was busy: another node leads.
            return []
        except ResourceShortage:
            # As if it had been lost on its way: the core asks where the follower stands, and sends again.
            await trio.sleep(self._settings.shortage_retry_seconds)
            return []
        return frames

    def _is_of_this_leadership(self, message: Message) -> bool:
        """Entries of this message are still the leader's: within one term a leader never rewrites its log."""
        return self._core.is_leader and message.term == self._core.term
