"""What travels on side connections: golden bytes, round trips, limits, any bytes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, TERM_MAX
from trio_eventlog.codec.peer_frame import FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameKind, Refused, decode_refused
from trio_eventlog.codec.transfer import (
    FILE_BYTES_MAX,
    PIECE_BODY_BYTES_MAX,
    PIECE_DATA_BYTES_MAX,
    PIECE_HEAD,
    Fetch,
    FetchRefusedCode,
    Piece,
    SegmentKey,
    SnapshotKey,
    decode_fetch,
    decode_piece,
    encode_fetch,
    encode_fetch_refused,
    encode_piece_head,
)
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId

GOLDEN = Path(__file__).parent / "golden"
GROUP = GroupId(7)
SEGMENT = SegmentKey(base_index=1001, frames_bytes=64 << 20, frames_checksum=0xA1B2C3D4)
SNAPSHOT = SnapshotKey(term=3, index=2000)

names = st.builds(
    SegmentKey,
    base_index=st.integers(1, INDEX_MAX),
    frames_bytes=st.integers(1, FILE_BYTES_MAX),
    frames_checksum=st.integers(0, (1 << 32) - 1),
) | st.builds(SnapshotKey, term=st.integers(1, TERM_MAX), index=st.integers(1, INDEX_MAX))
fetches = st.builds(Fetch, file=names, position=st.integers(0, FILE_BYTES_MAX), length=st.integers(1, FILE_BYTES_MAX))


def one_frame(data: bytes) -> Frame:
    (frame,) = FrameDecoder(PIECE_BODY_BYTES_MAX).feed(data)
    return frame


def test_golden_bytes() -> None:
    frames = [
        encode_fetch(GROUP, Fetch(file=SEGMENT, position=4096, length=1 << 20)),
        encode_fetch(GROUP, Fetch(file=SNAPSHOT, position=0, length=FILE_BYTES_MAX)),
        encode_piece_head(GROUP, 4096, 64 << 20, b"piece") + b"piece",
        encode_fetch_refused(GROUP, FetchRefusedCode.NOT_HERE, "no"),
    ]
    text = "\n".join(frame.hex(" ") for frame in frames) + "\n"
    assert text == (GOLDEN / "transfer.v1.hex").read_text()


@given(fetches)
def test_a_question_and_back(fetch: Fetch) -> None:
    frame = one_frame(encode_fetch(GROUP, fetch))
    assert (frame.kind, frame.group_id, decode_fetch(frame.body)) == (FrameKind.FETCH, GROUP, fetch)


@given(st.binary(min_size=1, max_size=500), st.integers(0, 1 << 40))
def test_a_piece_and_back(data: bytes, position: int) -> None:
    frame = one_frame(encode_piece_head(GROUP, position, position + len(data) + 5, data) + data)
    piece = decode_piece(frame.body)
    assert piece == Piece(position=position, file_bytes=position + len(data) + 5, data=memoryview(data))
    assert piece.end == position + len(data)


def test_a_refusal_and_back() -> None:
    frame = one_frame(encode_fetch_refused(GROUP, FetchRefusedCode.BUSY, "later"))
    assert decode_refused(frame.body) == Refused(FetchRefusedCode.BUSY, "later")


def test_the_largest_piece_fits_a_frame() -> None:
    data = bytes(PIECE_DATA_BYTES_MAX)
    assert len(decode_piece(one_frame(encode_piece_head(GROUP, 0, len(data), data) + data).body).data) == PIECE_DATA_BYTES_MAX


@given(st.binary(min_size=1, max_size=100), st.data())
def test_every_flipped_bit_of_a_piece_is_noticed(data: bytes, draw: st.DataObject) -> None:
    good = bytearray(encode_piece_head(GROUP, 9, 1000, data) + data)
    good[draw.draw(st.integers(0, len(good) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    decoder = FrameDecoder(PIECE_BODY_BYTES_MAX)
    try:
        frames = decoder.feed(bytes(good))
    except CodecError:
        return
    # When its length grew, it never ends.
    assert len(frames) <= 1
    for frame in frames:
        with pytest.raises(CodecError):
            decode_piece(frame.body)


@pytest.mark.parametrize("length", [0, 1, 39, 41])
def test_a_question_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(CodecError, match=f"{length} bytes, not 40"):
        decode_fetch(bytes(length))


@pytest.mark.parametrize(
    "changed",
    [
        {0: 0}, {0: 3}, {1: 1}, {2: 1},  # another kind of file, and what has to be zero
        {8: 0, 9: 0}, {15: 0xFF},  # no base index; one beyond all
        {16: 0, 17: 0, 18: 0, 19: 0}, {23: 0xFF},  # no frames; too many
        {31: 0xFF}, {39: 0xFF},  # a position and a length beyond all
        {34: 0},  # no bytes wanted
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_meant_is_refused(changed: dict[int, int]) -> None:
    body = bytearray(encode_fetch(GROUP, Fetch(file=SEGMENT, position=0, length=1 << 16))[FRAME_HEADER_BYTES:])
    for position, value in changed.items():
        body[position] = value
    with pytest.raises(CodecError):
        decode_fetch(bytes(body))


def test_a_snapshot_has_no_checksum_in_its_name() -> None:
    body = bytearray(encode_fetch(GROUP, Fetch(file=SNAPSHOT, position=0, length=1))[FRAME_HEADER_BYTES:])
    body[4] = 1
    with pytest.raises(CodecError, match="no file of kind 2"):
        decode_fetch(bytes(body))


@pytest.mark.parametrize(
    ("position", "file_bytes", "length"), [(0, 9, 10), (1, 10, 10), (0, 0, 1), (FILE_BYTES_MAX, FILE_BYTES_MAX, 1)]
)
def test_a_piece_beyond_its_file_is_refused(position: int, file_bytes: int, length: int) -> None:
    data = bytes(length)
    frame = one_frame(encode_piece_head(GROUP, position, file_bytes, data) + data)
    with pytest.raises(CodecError, match=f"{length} bytes from {position} of {file_bytes}"):
        decode_piece(frame.body)


def test_a_piece_without_data_is_refused() -> None:
    with pytest.raises(CodecError, match="hold no data"):
        decode_piece(memoryview(bytes(PIECE_HEAD.size)))


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_are_refused(data: bytes) -> None:
    for decode in (decode_fetch, decode_piece):
        try:
            decode(memoryview(data))
        except CodecError:
            pass


@given(st.integers(0, 3), st.lists(st.integers(0, (1 << 64) - 1), min_size=4, max_size=4))
def test_what_is_read_of_a_question_is_written_alike(kind: int, numbers: list[int]) -> None:
    body = bytes((kind,)) + bytes(7) + b"".join(number.to_bytes(8, "little") for number in numbers)
    try:
        fetch = decode_fetch(body)
    except CodecError:
        return
    assert encode_fetch(GROUP, fetch)[FRAME_HEADER_BYTES:] == body
