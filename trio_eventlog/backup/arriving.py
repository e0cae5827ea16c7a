"""The frames of a sealed segment as they arrive, each of them checked."""

from trio_eventlog.codec.entry import HEADER_BYTES, LENGTH_BYTES, decode_entry
from trio_eventlog.codec.snapshot_file import SegmentRange
from trio_eventlog.errors import CodecError
from trio_eventlog.storage.segment import SegmentContents, range_of

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
        whole = memoryview(bytes(self._rest))
        position = 0
        while len(whole) - position >= HEADER_BYTES:
            end = position + LENGTH_BYTES + int.from_bytes(whole[position : position + LENGTH_BYTES], "little")
            if end - position > self._wanted.frames_bytes:
                raise CodecError(f"entry {self._contents.next_index}: {end - position} bytes in {self._wanted.frames_bytes}")
            if end > len(whole):
                break
            frame = decode_entry(whole[position:end])
            self._contents.check(frame)
            self._contents.add([frame])
            position = end
        del self._rest[:position]

    def end(self) -> None:
        """All bytes have come. Raises CodecError when they are not those of the segment."""
        if self._rest or range_of(self._contents) != self._wanted:
            raise CodecError(f"segment {self._wanted.base_index}: its frames are not those that were announced")
