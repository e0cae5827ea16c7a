"""What a leader knows about each follower, and how it paces the messages to it.

```
                    +---------------------------------------------------------+
                    |                  snapshot applied, or failed            |
                    v                                                         |
                +-------+         append acknowledged          +-----------+  |
  leader  ----> | PROBE | -----------------------------------> | REPLICATE |  |
  elected       +-------+ <----------------------------------- +-----------+  |
                    |       rejected, unreachable                     |       |
                    |                                                 |       |
                    |  the log no longer holds what it needs          |       |
                    |                  +----------+                   |       |
                    +----------------> | SNAPSHOT | <-----------------+       |
                                       +----------+ --------------------------+
```

PROBE sends one APPEND per heartbeat interval until it is answered; REPLICATE streams optimistically within the in-flight
limits; SNAPSHOT sends nothing until the snapshot is reported or an acknowledgement shows that the log can take over.
"""

import enum
from collections import deque
from collections.abc import Iterator

import attrs


class ProgressState(enum.Enum):
    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


class Inflights:
    """APPENDs with entries in flight to one follower: a window bounded by count and by bytes.

    Invariant: indexes ascend. The window may exceed `max_bytes` by the one message that filled it.

    Attributes:
        size_bytes: of all messages in it.
        is_full: nothing more may be added. Kept up to date rather than computed, as it is asked twice for every message.
    """

    __slots__ = ("_items", "_max_bytes", "_max_messages", "is_full", "size_bytes")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._items: deque[tuple[int, int]] = deque()
        self.size_bytes = 0
        self.is_full = False

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._items)

    def add(self, last_index: int, size_bytes: int) -> None:
        """A message up to `last_index` was sent. Only when not full."""
        assert not self.is_full, "sent into a full window"
        self._items.append((last_index, size_bytes))
        self.size_bytes += size_bytes
        self._look()

    def free_to(self, index: int) -> None:
        """All messages up to `index` have arrived."""
        items = self._items
        while items and items[0][0] <= index:
            self.size_bytes -= items.popleft()[1]
        self._look()

    def clear(self) -> None:
        self._items.clear()
        self.size_bytes = 0
        self.is_full = False

    def _look(self) -> None:
        self.is_full = len(self._items) >= self._max_messages or 0 < self._max_bytes <= self.size_bytes


@attrs.define(slots=True, kw_only=True, eq=False)
class Progress:
    """One follower in the eyes of its leader.

    Invariants: `match < next`; `sent_commit < next` except as a heartbeat's echo of `match`.

    Attributes:
        match: highest index known to agree and to be durable there.
        next: the next index to send. In PROBE a guess, in REPLICATE one past the last sent, in SNAPSHOT one past the snapshot.
        inflights: APPENDs under way, in REPLICATE.
        state: see the diagram of this module.
        sent_commit: highest commit index sent that may have arrived.
        pending_snapshot: index of the snapshot under way, in SNAPSHOT; 0 otherwise.
        is_snapshot_by_choice: the log still holds what the follower needs, and a snapshot is cheaper: acknowledgements of entries
            that were in flight do not end it.
        recent_active: heard from since the last quorum check.
        append_paused: no further APPEND until an answer or a heartbeat interval: a probe is under way, or the window is full.
        is_learner: receives the log, does not vote.
        acked_read: number of the newest read whose heartbeat it has answered.
        acked_stamp: the leader's tick carried by the newest heartbeat it has answered, for the lease; 0 before any.
    """

    match: int
    next: int
    inflights: Inflights
    state: ProgressState = ProgressState.PROBE
    sent_commit: int = 0
    pending_snapshot: int = 0
    is_snapshot_by_choice: bool = False
    recent_active: bool = False
    append_paused: bool = False
    is_learner: bool = False
    acked_read: int = 0
    acked_stamp: int = 0

    def become_probe(self) -> None:
        """Start asking again where the logs agree. After a snapshot: behind it, as it is probably there."""
        after = max(self.match, self.pending_snapshot) if self.state is ProgressState.SNAPSHOT else self.match
        self._reset(ProgressState.PROBE)
        self.next = after + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._reset(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, snapshot_index: int) -> None:
        self._reset(ProgressState.SNAPSHOT)
        self.pending_snapshot = snapshot_index
        self.next = snapshot_index + 1
        self.sent_commit = snapshot_index

    def _reset(self, state: ProgressState) -> None:
        self.append_paused = False
        self.pending_snapshot = 0
        self.is_snapshot_by_choice = False
        self.state = state
        self.inflights.clear()

    @property
    def is_paused(self) -> bool:
        """Whether no APPEND may be sent now."""
        return self.append_paused or self.state is ProgressState.SNAPSHOT

    def sent_entries(self, count: int, size_bytes: int) -> None:
        """An APPEND with `count` entries was sent."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size_bytes)
            # A message that fills the window, or an empty one sent while it is full, serves as a probe.
            self.append_paused = self.inflights.is_full
        elif count:
            self.append_paused = True

    def can_bump_commit(self, commit: int) -> bool:
        """Whether sending `commit` may tell the follower something: it can follow up to `next - 1` at least."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """The follower acknowledged `index`. Returns whether that is news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.append_paused = False
        return True

    def maybe_decrease(self, rejected: int, match_hint: int) -> bool:
        """The follower refused an APPEND after index `rejected` and believes the logs agree up to `match_hint`.

        Returns whether `next` was moved back; False for a reply that is out of date.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.next - 1)
            return True
        # Only one probe is under way at a time, so any other index is an echo of an older one. What it has acknowledged it
        # cannot refuse: that is one too (or it has lost entries, and will say so).
        if self.next - 1 != rejected or rejected == self.match:
            return False
        self.next = max(min(rejected, match_hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.append_paused = False
        return True

    def __str__(self) -> str:
        text = f"{self.state.value} match={self.match} next={self.next}"
        if self.is_learner:
            text += " learner"
        if self.is_paused:
            text += " paused"
        if self.pending_snapshot:
            text += f" pendingSnap={self.pending_snapshot}"
        if not self.recent_active:
            text += " inactive"
        if self.inflights:
            text += f" inflight={len(self.inflights)}"
            if self.inflights.is_full:
                text += "[full]"
        return text
