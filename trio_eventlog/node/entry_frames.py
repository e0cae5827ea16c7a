"""The bytes and offsets of entries on their way into the log. The core knows neither."""

from collections.abc import Callable

from trio_eventlog.codec.entry import EntryFrame, encode_entry
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.errors import ResourceShortage
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.proposing import Proposing
from trio_eventlog.raft import Entry, EntryKind, ProtocolError, RaftNode
from trio_eventlog.records import Batch
from trio_eventlog.storage.segmented_log import SegmentedLog

_NO_BOUND = 1 << 62
_MADE_BY_CORES = frozenset({EntryKind.NO_OP, EntryKind.CONFIGURATION})


class EntryFrames:
    """Owns the frames that the core has taken and not given back yet, and where the next record goes. All in the driver's task.

    Args:
        start: starts a task that ends with the driver.
        receive: takes a message again, from any task.
    """

    def __init__(
        self,
        core: RaftNode,
        log: SegmentedLog,
        proposing: Proposing,
        name: str,
        start: Callable[..., None],
        receive: Callable[[Received], None],
    ) -> None:
        self._core = core
        self._log = log
        self._proposing = proposing
        self._name = name
        self._start = start
        self._receive = receive
        self.end_offset = log.log_end_offset
        """One past the last record of the core's log."""
        self._received: dict[tuple[int, int], EntryFrame] = {}
        """By term and index: the bytes of the entries that the core has taken from this turn's APPENDs."""
        self._looked_up = (0, 0, 0)
        """Term, index and end offset of the entry that was read last to see whether an APPEND follows on it."""
        self._is_looking_up = False

    def continues_offsets(self, received: Received, first: EntryFrame) -> bool:
        """Whether `first`, the first entry of an APPEND that would be new here, begins where this log's entry before it ends.

        Offsets follow from the entry before; here a mismatch costs a message, in the log it would cost the node. False: the disk
        has to be asked, and the message comes again after that.

        Raises:
            ProtocolError: it begins elsewhere. (Among themselves the entries were checked when they were decoded.)
        """
        message = received.message
        before = first.index - 1
        if self._core.entry_term(message.index) != message.log_term:
            return True  # a conflict, for the core to answer
        expected = self._end_offset(before)
        if expected is None:
            self._look_up(received, before)
            return False
        if first.base_offset != expected:
            raise ProtocolError(
                f"entry {first.index} begins at offset {first.base_offset}, the one before ends at {expected} in this log"
            )
        return True

    def keep(self, frame: EntryFrame) -> None:
        """The core has taken the entry from an APPEND."""
        self._received[frame.term, frame.index] = frame

    def forget_received(self) -> None:
        """The core has given back all that it has taken."""
        self._received.clear()

    def frame_of(self, entry: Entry) -> EntryFrame:
        """The bytes of an entry that the core wants on disk: received from the leader, proposed here, or made by the core."""
        frame = self._received.get((entry.term, entry.index))
        if frame is None:
            payload: Batch | bytes = entry.payload
            proposal = self._proposing.find(entry.index, entry.term)
            if proposal is not None:
                payload = proposal.payload
                proposal.base_offset = self.end_offset
            if isinstance(payload, Batch):
                frame = batch_entry(payload, term=entry.term, index=entry.index, base_offset=self.end_offset)
            else:
                assert payload or entry.kind in _MADE_BY_CORES, f"{self._name}: nobody has the payload of entry {entry.index}"
                frame = encode_entry(entry.kind, term=entry.term, index=entry.index, base_offset=self.end_offset, payload=payload)
        self.end_offset = frame.end_offset
        return frame

    def _end_offset(self, index: int) -> int | None:
        """One past the last record of the core's entry at `index` and of all before it; None when only the disk knows."""
        term = self._core.entry_term(index) or 0
        taken = self._received.get((term, index))
        if taken is not None:
            return taken.end_offset
        if index == self._log.staged_last_index:
            return self.end_offset
        cached = self._log.cached(index, index, _NO_BOUND)
        if cached is not None:
            return cached[0].end_offset
        if index == self._log.base.index:
            return self._log.base.offset
        if self._looked_up[:2] == (term, index):
            return self._looked_up[2]
        return None

    def _look_up(self, received: Received, index: int) -> None:
        """Read the entry at `index`, then take the message again. One at a time: others are dropped, and come again."""
        if self._is_looking_up:
            return
        self._is_looking_up = True
        self._start(self._read_end_offset, received, index)

    async def _read_end_offset(self, received: Received, index: int) -> None:
        try:
            (frame,) = await self._log.read(index, index, 1)
        except IndexError:
            return  # the suffix was removed while the disk was busy
        except ResourceShortage:
            return  # the message comes again
        finally:
            self._is_looking_up = False
        self._looked_up = (frame.term, frame.index, frame.end_offset)
        self._receive(received)
