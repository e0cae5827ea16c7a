"""The consensus core: Raft as a value machine, after etcd-io/raft, message for message.

A `RaftNode` is one replica of one group. It does no I/O, reads no clock, starts no task, and holds no payload: messages,
ticks and requests go in, `Ready` values come out.

The caller's duties
-------------------

1. **One owner.** Call the node from one task only.
2. **Time.** Call `tick()` at a steady pace; all timeouts are counted in ticks.
3. **Messages in.** Hand every message of a peer to `step()`, with the metas of its entries (`Message.entries`) decoded from the
   frames and the frames kept, by index and term, until the entries come back in a `StorageAppend`. `ProtocolError`: drop that
   message, count it, go on. Hand over a SNAPSHOT message only when the snapshot's data is here.
4. **Proposals.** Keep the payload of what you `propose()`, by index and term, for the same reason. No-ops and configuration
   entries are made by the core; their payload, if any, is in the `Entry`.
5. **Ready.** Whenever something went in, take `ready()` until it is None and carry it out:
   `messages` may leave at once, in order, in parallel with the disk; `append` goes to the disk, in order, one after the other;
   its `responses` leave only when it is durable, those addressed to this node go to its own `step()`, and then comes
   `on_appended(token)`; `committed` is applied in order, in parallel with both.
6. **Durability.** Durable means: survives power loss. Appends whose `must_sync` is False (a new commit index, nothing else) may
   be merged into the next one, but their responses still wait for all *earlier* appends. A failed write or fsync ends the
   process. Term and vote are durable before, or together with, the entries of the same append. The commit index need not be,
   and what it covers of the same append must be durable first: entries to be replaced may stand there. Where `sync_commit` is
   set it has to be, as far as it reaches, before each configuration change of that append is.
7. **Replication.** An APPEND names a range of indexes. Fetch the frames and send them; if the node's term is no longer that of
   the message, or the frames are not to be had, drop the message and call `report_unreachable(to)`.
8. **Applying.** Hand every CONFIGURATION entry to `apply_configuration()` in its turn (decoded by `decode_change`), then
   acknowledge with `on_applied()`. A change that is malformed or not legal is refused by every replica alike: log it, go on.
9. **Snapshots.** After a SNAPSHOT message and the transfer of its data, call `report_snapshot()`, always.
10. **The log.** What `LogView` shows changes by the appends above only, and by dropping a prefix that is applied and covered by
    a snapshot.
11. **Restart.** Build a new node from the last durable hard state, the log as it is, the configuration as of `applied_index`.

The loop
--------

```python
while True:
    for item in await drain_inbox():                  # messages, proposals, ticks, disk and apply acknowledgements
        feed(node, item)                              # step(), propose(), tick(), on_applied(); errors answer the asker
    while (ready := node.ready()) is not None:
        log_events(ready.events, ready.soft_state)
        for message in ready.messages:
            links.send(message)                       # the leader replicates while its own disk works
        if ready.append is not None:
            disk.enqueue(ready.append)                # a task of its own: write, fsync, and then
                                                      #     for message in append.responses:
                                                      #         step(message) if message.to == node.node_id else send(message)
                                                      #     on_appended(append.token)
        applier.enqueue(ready.committed)              # configuration entries: apply_configuration(); then on_applied(last)
        for read in ready.read_states:
            readers.wake_when_applied(read)
```

Where this departs from etcd-io/raft is written down in `docs/design/raft.md`.
"""

from trio_eventlog.raft.configuration import (
    LEAVE_JOINT,
    ChangeKind,
    Configuration,
    ConfigurationChange,
    NodeChange,
    Transition,
    change_configuration,
    decode_change,
    decode_configuration,
    encode_change,
    encode_configuration,
)
from trio_eventlog.raft.errors import (
    Compacted,
    ConfigurationError,
    DropReason,
    NewerLayout,
    OutOfLog,
    PeerNotFound,
    ProposalDropped,
    ProtocolError,
)
from trio_eventlog.raft.log import LogView
from trio_eventlog.raft.memory import MemoryLog
from trio_eventlog.raft.messages import (
    ENTRY_OVERHEAD_BYTES,
    TRANSFER_CAMPAIGN,
    Entry,
    EntryKind,
    Message,
    MessageType,
    ProposedEntry,
    SnapshotMetadata,
)
from trio_eventlog.raft.node import RaftNode
from trio_eventlog.raft.ready import (
    AppendToken,
    Event,
    EventKind,
    HardState,
    ProgressStatus,
    ReadState,
    Ready,
    Role,
    SoftState,
    Status,
    StorageAppend,
)
from trio_eventlog.raft.settings import RaftSettings, ReadMode

__all__ = [
    "ENTRY_OVERHEAD_BYTES",
    "LEAVE_JOINT",
    "TRANSFER_CAMPAIGN",
    "AppendToken",
    "ChangeKind",
    "Compacted",
    "Configuration",
    "ConfigurationChange",
    "ConfigurationError",
    "DropReason",
    "Entry",
    "EntryKind",
    "Event",
    "EventKind",
    "HardState",
    "LogView",
    "MemoryLog",
    "Message",
    "MessageType",
    "NewerLayout",
    "NodeChange",
    "OutOfLog",
    "PeerNotFound",
    "ProgressStatus",
    "ProposalDropped",
    "ProposedEntry",
    "ProtocolError",
    "RaftNode",
    "RaftSettings",
    "ReadMode",
    "ReadState",
    "Ready",
    "Role",
    "SnapshotMetadata",
    "SoftState",
    "Status",
    "StorageAppend",
    "Transition",
    "change_configuration",
    "decode_change",
    "decode_configuration",
    "encode_change",
    "encode_configuration",
]
