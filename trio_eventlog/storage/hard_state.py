"""Term, vote and commit on disk. See codec/hard_state.py for the layout and why it has copies."""

from types import TracebackType
from typing import Self

from trio_eventlog.codec.hard_state import FILE_BYTES, beyond_bounds, decode_file, encode_new_file, encode_slot, slot_position
from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.disk import Disk, File, open_present, write_atomically


class HardStateFile:
    """The hard state of one replica. Created (as a state in which nothing has happened) when it is missing.

    Use as `async with await HardStateFile.open(disk, path) as hard_state:`, or call `aclose`.
    """

    def __init__(self, file: File, state: HardState, sequence: int) -> None:
        """Use `open`."""
        self._file = file
        self._state = state
        self._sequence = sequence
        self._is_saving = False

    @classmethod
    async def open(cls, disk: Disk, path: str, *, is_repair: bool = False, is_durable: bool = False) -> Self:
        """Open the file.

        Args:
            is_repair: take a state that no replica can have come to by itself: it is about to be replaced.
            is_durable: this process has made the file, and synced it: it need not be synced again.

        Raises:
            DamagedData: the newest state cannot be told for sure, or it is beyond every bound.
            StorageFailed, DiskFull.
        """
        if not await disk.exists(path):
            await write_atomically(disk, path, encode_new_file())
            is_durable = True
        file = await open_present(disk, path)
        try:
            try:
                found = decode_file(await file.read_at(0, FILE_BYTES + 1))
            except CodecError as error:
                raise DamagedData(
                    f"{path}: {error}. This replica must not vote again from here: remove the node and add it as a new one.",
                    path=path,
                ) from error
            beyond = beyond_bounds(found.state)
            if beyond and not is_repair:
                # With it this node could neither vote for nor follow another one, and would spread it.
                raise DamagedData(
                    f"{path}: {beyond}. Stop every node of the cluster, run `trio-eventlog log repair` on the data directory of"
                    " each, and start them again. If the other nodes are well: remove this one and add it as a new one.",
                    path=path,
                )
            if not is_durable:
                # A process that was killed may have left it in the kernel's cache only. From here on it is relied upon.
                await file.sync()
            self = cls(file, found.state, found.sequence)
            if not found.is_whole:
                # What was read may stand in one sector only. Nothing may depend on it before it is whole again.
                await self._write(found.state)
            return self
        except BaseException:
            file.close_nowait()
            raise

    @property
    def state(self) -> HardState:
        """What was saved last."""
        return self._state

    async def save(self, state: HardState) -> None:
        """Durable when this returns. One write and one fdatasync in one thread hop. Raises StorageFailed."""
        await self._write(state)

    async def _write(self, state: HardState) -> None:
        assert not self._is_saving, "one save at a time"
        self._is_saving = True
        try:
            sequence = self._sequence + 1
            await self._file.write_and_sync(slot_position(sequence), [encode_slot(state, sequence)])
            self._sequence = sequence
            self._state = state
        finally:
            self._is_saving = False

    async def aclose(self) -> None:
        """Never checkpoints: a cancellation here would take the place of the error that is on its way."""
        self.close_nowait()

    def close_nowait(self) -> None:
        self._file.close_nowait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
