"""The frames of a sealed segment as they arrive, each of them checked."""

from trio_eventlog.codec.entry import HEADER_BYTES, LENGTH_BYTES, EntryFrame, decode_entry
from trio_eventlog.codec.snapshot_file import SegmentRange
from trio_eventlog.errors import CodecError
from trio_eventlog.storage.segment import SegmentContents

NO_SPARSE_INDEX_BYTES = 1 << 62


class ArrivingFrames:
    """Takes the bytes of a segment's frames in pieces of any size, and finds out whether they are those of `wanted`.

    At most one frame and one piece are in memory.
    """

    def __init__(self, wanted: SegmentRange) -> None:
        self._wanted = wanted
        self._contents = SegmentContents(wanted.base_index, wanted.base_offset, NO_SPARSE_INDEX_BYTES)
        self._rest = bytearray()

    def add(self, data: bytes) -> None:
        """The next bytes. Raises CodecError when a frame among them is damaged, or does not follow the one before."""
        self._rest += data
        frames: list[EntryFrame] = []
        position = 0
        whole = bytes(self._rest)
        while len(whole) - position >= HEADER_BYTES:
            length = LENGTH_BYTES + int.from_bytes(whole[position : position + LENGTH_BYTES], "little")
            if length > self._wanted.frames_bytes:
                raise CodecError(f"entry frame at {position}: {length} bytes in a segment of {self._wanted.frames_bytes}")
            if position + length > len(whole):
                break
            frame = decode_entry(memoryview(whole)[position : position + length])
            frames.append(frame)
            position += length
        next_index, end_offset, term = self._contents.next_index, self._contents.end_offset, 0
        for frame in frames:
            if (frame.index, frame.base_offset) != (next_index, end_offset) or frame.term < term:
                raise CodecError(f"entry {frame.index} at offset {frame.base_offset}, where {next_index} and {end_offset} belong")
            next_index, end_offset, term = frame.index + 1, frame.end_offset, frame.term
        if frames:
            self._contents.add(frames)
            del self._rest[:position]

    def end(self) -> None:
        """All bytes have come. Raises CodecError when they are not those of the segment."""
        found, wanted = self._contents, self._wanted
        if self._rest or (found.next_index, found.end_offset, found.frames_bytes, found.frames_checksum) != (
            wanted.last_index + 1,
            wanted.end_offset,
            wanted.frames_bytes,
            wanted.frames_checksum,
        ):
            raise CodecError(f"segment {wanted.base_index}: its frames are not those that were announced")
