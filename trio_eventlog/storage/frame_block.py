"""Frames in a part of a segment that was read into memory: found, checked, and cut to fit a size. Pure."""

from bisect import bisect_right
from collections.abc import Sequence

import attrs

from trio_eventlog.codec.entry import HEADER, HEADER_BYTES, LENGTH_BYTES, EntryFrame, decode_entry
from trio_eventlog.codec.sparse_index import SparseIndex
from trio_eventlog.errors import CodecError, DamagedData


@attrs.frozen(slots=True, kw_only=True)
class FrameRange:
    """Frames as they are sent: whole frames of first_index..last_index, one after the other across `buffers`, not decoded.

    The checksums of the frames were not checked: the receiver does that.
    """

    first_index: int
    last_index: int
    buffers: list[bytes | memoryview]
    size_bytes: int


def frame_range(frames: Sequence[EntryFrame]) -> FrameRange:
    """Dense frames as they are sent."""
    buffers = [frame.raw for frame in frames]
    return FrameRange(first_index=frames[0].index, last_index=frames[-1].index, buffers=buffers, size_bytes=sum(map(len, buffers)))


@attrs.frozen(slots=True)
class FrameBlock:
    """The bytes of one read from a segment.

    Attributes:
        path: of the segment.
        sparse: its sparse index.
        view: the bytes.
        position: of the bytes in the file.
        first_listed: index of the entry that they begin with.
        last: index of the last entry wanted from here.
        is_cut: True when they may end inside a frame.
    """

    path: str
    sparse: SparseIndex
    view: memoryview
    position: int
    first_listed: int
    last: int
    is_cut: bool

    def frames(self, first: int, last: int, max_bytes: int) -> list[EntryFrame]:
        """The frames first..last as far as they are here, cut to fit `max_bytes`, but at least one. Their checksums are checked."""
        view, position = self.view, self.position
        start = self._start_of(first)
        stop = start + max_bytes
        frames: list[EntryFrame] = []
        for index in range(first, min(last, self.last) + 1):
            if frames and self._end_of(start) > min(stop, len(view)):
                break
            frame = decode_frame(self.path, view, start, position, index)
            frames.append(frame)
            start += len(frame.raw)
        return frames

    def raw(self, first: int, last: int, max_bytes: int) -> FrameRange:
        """As `frames`, not decoded and not checked."""
        view, sparse = self.view, self.sparse
        last = min(last, self.last)
        start = self._start_of(first)
        stop = min(start + max_bytes, len(view))
        # Jump to the last entry listed that ends nothing too late, then walk. The frames jumped over are not looked at.
        slot = min(
            bisect_right(sparse.positions, self.position + stop) - 1,
            bisect_right(sparse.indexes, last) - 1,
        )
        index, end = first, start
        if sparse.indexes[slot] > first:
            index, end = sparse.indexes[slot], sparse.positions[slot] - self.position
        while index <= last and ((frame_end := self._end_of(end)) <= stop or index == first):
            frame_header(self.path, view, end, self.position, index)
            end = frame_end
            index += 1
        return FrameRange(first_index=first, last_index=index - 1, buffers=[view[start:end]], size_bytes=end - start)

    def _start_of(self, first: int) -> int:
        start = 0
        for index in range(self.first_listed, first):
            start += LENGTH_BYTES + frame_header(self.path, self.view, start, self.position, index)[0]
        return start

    def _end_of(self, start: int) -> int:
        """Where the frame at `start` ends; beyond the view when the frame is not whole in it because the read was cut."""
        if self.is_cut and len(self.view) - start < HEADER_BYTES:
            return len(self.view) + 1
        if len(self.view) - start < LENGTH_BYTES:
            return start  # damage; decoding says so
        end = start + LENGTH_BYTES + int.from_bytes(self.view[start : start + LENGTH_BYTES], "little")
        return end if self.is_cut or end <= len(self.view) else start


def frame_header(path: str, view: memoryview, start: int, position: int, index: int) -> tuple[int, ...]:
    """The header of the frame at `start`, its checksum not checked. Raises DamagedData when it is not that of entry `index`.

    Args:
        path: of the segment, for the error.
        position: of `view` in the segment.
    """
    if len(view) - start >= HEADER_BYTES:
        header = HEADER.unpack_from(view, start)
        if header[6] == index and header[0] >= HEADER_BYTES - LENGTH_BYTES and start + LENGTH_BYTES + header[0] <= len(view):
            return header
    raise damaged(path, position + start, index, "its header does not stand there")


def decode_frame(path: str, view: memoryview, start: int, position: int, index: int) -> EntryFrame:
    """The frame at `start`, checked. Raises DamagedData when it is not entry `index`. `path`, `position`: as of `frame_header`."""
    try:
        frame = decode_entry(view, start)
    except CodecError as error:
        raise damaged(path, position + start, index, str(error)) from error
    if frame.index != index:
        raise damaged(path, position + start, index, f"entry {frame.index} stands there")
    return frame


def damaged(path: str, position: int, index: int, why: str) -> DamagedData:
    """The error for entry `index`, which belongs at byte `position` of the segment `path`."""
    return DamagedData(
        f"{path}: entry {index} at byte {position} is damaged: {why}. Nothing was changed. "
        "`trio-eventlog log verify` shows how far the damage reaches.",
        path=path,
        position=position,
    )
