"""The file of a replica's snapshot: golden bytes, damage, and lists of segments that are none."""

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, TERM_MAX
from trio_eventlog.codec import snapshot_file
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.segment import LogBase
from trio_eventlog.codec.snapshot_file import (
    Manifest,
    SegmentRange,
    SnapshotFile,
    decode_snapshot_file,
    encode_snapshot_file,
)
from trio_eventlog.errors import CodecError, NewerRelease
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import Configuration, SnapshotMetadata

GOLDEN = Path(__file__).parent / "golden" / "snapshot_file.v1.hex"


def nodes(*ids: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, ids))


def segment(base_index: int, last_index: int, base_offset: int, end_offset: int) -> SegmentRange:
    return SegmentRange(
        base_index=base_index,
        last_index=last_index,
        base_offset=base_offset,
        end_offset=end_offset,
        frames_bytes=100 * (last_index - base_index + 1),
        frames_checksum=0x01020304 + base_index,
    )


SNAPSHOT = SnapshotFile(
    metadata=SnapshotMetadata(
        index=30,
        term=7,
        configuration=Configuration(voters=nodes(1, 2), voters_outgoing=nodes(1, 3), learners=nodes(4), learners_next=nodes(3)),
    ),
    manifest=Manifest(
        base=LogBase(index=10, term=3, offset=1000), segments=(segment(11, 20, 1000, 1500), segment(21, 30, 1500, 1500))
    ),
    machine=b"what the machine knows",
)
AT_THE_BASE = SnapshotFile(
    metadata=SnapshotMetadata(index=10, term=3, configuration=Configuration(voters=nodes(1))),
    manifest=Manifest(base=LogBase(index=10, term=3, offset=1000), segments=()),
    machine=b"",
)


def with_checksum(checked: bytes) -> bytes:
    return snapshot_file._HEAD.pack(snapshot_file.MAGIC, crc32c(checked)) + checked


def test_golden() -> None:
    """The layout of format version 1."""
    assert encode_snapshot_file(SNAPSHOT) == bytes.fromhex(GOLDEN.read_text())
    assert decode_snapshot_file(bytes.fromhex(GOLDEN.read_text())) == SNAPSHOT


def test_of_a_log_without_segments() -> None:
    """All entries that it covers were removed."""
    assert decode_snapshot_file(encode_snapshot_file(AT_THE_BASE)) == AT_THE_BASE


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data = encode_snapshot_file(SNAPSHOT)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode_snapshot_file(damaged)
    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode_snapshot_file(data[:end])
    with pytest.raises(CodecError):
        decode_snapshot_file(data + b"\0")


@given(data=st.data())
def test_changed_bytes_under_a_right_checksum_are_refused_or_another_snapshot(data: st.DataObject) -> None:
    """What is accepted has one encoding."""
    checked = bytearray(encode_snapshot_file(SNAPSHOT)[snapshot_file._CHECKED_FROM :])
    for _ in range(data.draw(st.integers(1, 3))):
        checked[data.draw(st.integers(0, len(checked) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_snapshot_file(with_checksum(bytes(checked)))
    except CodecError:
        return
    assert encode_snapshot_file(decoded) == with_checksum(bytes(checked))


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    for candidate in (data, with_checksum(data)):
        with pytest.raises(CodecError):
            decode_snapshot_file(candidate)


def test_a_newer_format_is_not_taken_for_damage() -> None:
    checked = bytearray(encode_snapshot_file(SNAPSHOT)[snapshot_file._CHECKED_FROM :])
    checked[0] = 2
    with pytest.raises(NewerRelease):
        decode_snapshot_file(with_checksum(bytes(checked)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: attrs.evolve(m, segments=m.segments[1:]),
        lambda m: attrs.evolve(m, segments=m.segments[:1]),
        lambda m: attrs.evolve(m, segments=(m.segments[0], *m.segments)),
        lambda m: attrs.evolve(m, segments=m.segments[::-1]),
        lambda m: attrs.evolve(m, segments=(m.segments[0], attrs.evolve(m.segments[1], base_offset=1400))),
        lambda m: attrs.evolve(m, segments=(m.segments[0], attrs.evolve(m.segments[1], last_index=20))),
        lambda m: attrs.evolve(m, base=LogBase(index=9, term=3, offset=1000)),
        lambda m: attrs.evolve(m, base=LogBase(index=10, term=8, offset=1000)),
    ],
)
def test_a_list_of_segments_has_no_gap(change: "object") -> None:
    """One that lacks a segment at either end or in between is neither written nor read."""
    assert callable(change)
    broken = attrs.evolve(SNAPSHOT, manifest=change(SNAPSHOT.manifest))
    with pytest.raises(CodecError):
        encode_snapshot_file(broken)


@pytest.mark.parametrize(
    "metadata",
    [
        attrs.evolve(AT_THE_BASE.metadata, index=INDEX_MAX + 1),
        attrs.evolve(AT_THE_BASE.metadata, term=TERM_MAX + 1),
        attrs.evolve(AT_THE_BASE.metadata, index=0),
        attrs.evolve(AT_THE_BASE.metadata, configuration=Configuration(voters=nodes())),
    ],
)
def test_bounds(metadata: SnapshotMetadata) -> None:
    """Numbers beyond every bound, and a configuration that nobody could elect a leader in."""
    base = LogBase(index=metadata.index, term=min(metadata.term, 3), offset=1000)
    with pytest.raises(CodecError):
        encode_snapshot_file(SnapshotFile(metadata=metadata, manifest=Manifest(base=base, segments=()), machine=b""))


def test_offsets_at_and_over_the_bound() -> None:
    at = attrs.evolve(AT_THE_BASE, manifest=Manifest(base=LogBase(index=10, term=3, offset=OFFSET_MAX), segments=()))
    assert decode_snapshot_file(encode_snapshot_file(at)) == at
    over = attrs.evolve(at, manifest=Manifest(base=LogBase(index=10, term=3, offset=OFFSET_MAX + 1), segments=()))
    with pytest.raises(CodecError):
        encode_snapshot_file(over)
