"""Removing the beginning of an open log: whole segments, oldest first.

The file `base` is written first, and says where the log begins. From then on the segments before are garbage: recovery removes
them, should a crash leave any. Appends and reads go on meanwhile. Only sealed segments are removed, and no append touches one, but
for the removal of a suffix, which never reaches back to what is removed here: that is committed.
"""

import trio

from trio_eventlog.codec.segment import LogBase, encode_base
from trio_eventlog.storage.disk import join_path, write_atomically
from trio_eventlog.storage.log_contents import LogContents, OpenSegment
from trio_eventlog.storage.log_files import LogFiles
from trio_eventlog.storage.log_recovery import BASE_FILE


class LogPrefix:
    """The beginning of a log: what of it is out of sight, and what is removed. One `remove` at a time."""

    def __init__(self, contents: LogContents, files: LogFiles) -> None:
        self._contents = contents
        self._files = files
        self._unremoved: list[OpenSegment] = []
        """Segments that are forgotten, and whose files are still to be removed."""

    def hide_below(self, offset: int) -> None:
        """Offsets below this are readable no more. Never goes back; at most the log end offset."""
        self._contents.hidden_below = max(self._contents.hidden_below, offset)

    @property
    def last_index_hidden(self) -> int:
        """Up to this entry the log consists of sealed segments in which nothing is readable any more. Its base: there are none."""
        return self._contents.last_index_hidden()

    def retained_from(self, bytes_max: int, oldest_ns: int, end_offset: int) -> LogBase:
        """Where the log would have to begin, for its oldest segments to be given up.

        Args:
            bytes_max: segments go as long as those behind them hold at least this; 0: not by size.
            oldest_ns: segments go whose records are all stamped before this, in nanoseconds since 1970; 0: not by age.
            end_offset: segments with records from here on stay.

        Returns the last entry to go, and the smallest offset that stays; the base when none goes.
        """
        return self._contents.retained_from(bytes_max, oldest_ns, end_offset)

    def base_without(self, last_index: int) -> LogBase:
        """Where the log begins once `remove(last_index)` is done."""
        going = self._sealed_up_to(last_index)
        if not going:
            return self._contents.base
        last = going[-1].contents
        return LogBase(index=last.last_index, term=self._contents.terms.term(last.last_index), offset=last.end_offset)

    def _sealed_up_to(self, last_index: int) -> list[OpenSegment]:
        return [segment for segment in self._contents.segments if segment.is_sealed and segment.contents.last_index <= last_index]

    async def remove(self, last_index: int) -> None:
        """Remove the sealed segments that hold no entry above `last_index`, durably. Appends and reads go on.

        Not cancelled halfway. The caller sees to it that everything up to `last_index` is committed, and that a durable snapshot
        covers it.

        Raises:
            DiskFull, ResourceShortage: the next call goes on with it, or the next opening.
            StorageFailed.
        """
        contents = self._contents
        going = self._sealed_up_to(last_index)
        await trio.lowlevel.checkpoint()
        # A cancellation between the steps would leave memory and disk apart; each of them is bounded by the disk.
        with trio.CancelScope(shield=True):
            if going:
                base = self.base_without(last_index)
                await write_atomically(self._files.disk, join_path(self._files.directory, BASE_FILE), encode_base(base))
                self._unremoved += contents.remove_prefix(base)
            while self._unremoved:
                # Readers at work on it go on; the last of them closes the file.
                self._files.forget(self._unremoved[0])
                await self._files.remove(self._unremoved[0])
                del self._unremoved[0]
