"""A torn write is told from damage: every prefix, every torn write, every flipped bit of an active segment."""

import random

import pytest
from log_frames import following, make_frames, raw

from trio_eventlog.codec import entry
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import CHECKED_FROM, LENGTH_BYTES, EntryFrame, EntryKind, encode_entry, find_whole_frames
from trio_eventlog.codec.segment import FOOTER_MAGIC_BYTES, MARK_BYTES, encode_mark
from trio_eventlog.errors import DamagedData
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.segment import SECTOR_BYTES, TermRuns, judge_tail, parse_segment_name, segment_name
from trio_eventlog.storage.segmented_log import SegmentedLog, open_segmented_log
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import SimDisk

PATH = f"/log/{segment_name(1)}"
SETTINGS = default(LogSettings, preallocate_bytes=4096, index_interval_bytes=700)


async def written(writes: list[list[EntryFrame]]) -> bytes:
    """The active segment after these appends, preallocated zeros included."""
    disk = SimDisk(random.Random(0))
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        for frames in writes:
            await log.append(frames)
    return disk.content(PATH)


async def recovered(content: bytes) -> tuple[list[bytes], SegmentedLog, SimDisk]:
    """The entries that are found in a log whose only segment has this content, and twice the same."""
    disk = SimDisk(random.Random(0))
    disk.put(PATH, content)
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        found = raw(await log.read(1, log.last_index, 1 << 30)) if log.last_index else []
    async with open_segmented_log(disk, "/log", SETTINGS) as again:
        assert again.recovery.torn_bytes == 0
        assert found == (raw(await again.read(1, again.last_index, 1 << 30)) if again.last_index else [])
    return found, log, disk


def size_of(frames: list[EntryFrame]) -> int:
    return sum(frame.size_bytes for frame in frames)


async def test_every_prefix_is_recovered_to_a_prefix() -> None:
    """Cut the file anywhere: all whole frames are found, nothing else, and the rest is reported."""
    first = make_frames(4)
    second = following(first, 3)
    content = await written([first, second])
    frames = first + second
    ends = [size_of(frames[:count]) for count in range(len(frames) + 1)]
    for end in range(len(content.rstrip(b"\0")) + 1):
        found, log, _ = await recovered(content[:end])
        whole = max(count for count, frame_end in enumerate(ends) if frame_end <= end)
        assert found == raw(frames[:whole])
        assert log.recovery.torn_bytes == (len(content[ends[whole] : end].rstrip(b"\0")) if end != ends[-1] + MARK_BYTES else 0)
        assert (log.recovery.torn_path, log.recovery.torn_position) == ((PATH, ends[whole]) if log.recovery.torn_bytes else ("", 0))


@pytest.mark.parametrize("payload_bytes_max", [60, 900, 5000])
async def test_every_torn_write_is_cut_and_nothing_else(payload_bytes_max: int) -> None:
    """The last write leaves any of its sectors behind: all acknowledged entries are found, and those of the torn write that are
    whole and follow."""
    rng = random.Random(payload_bytes_max)
    for _ in range(1000):
        first = make_frames(rng.randint(0, 4), payload_bytes_max=payload_bytes_max, seed=rng.randrange(100))
        second = following(first, rng.randint(1, 4), payload_bytes_max=payload_bytes_max)
        before = await written([first]) if first else b""
        position = size_of(first)
        after = before[:position] + b"".join(raw(second)) + encode_mark(position, position + size_of(second))
        before, after = before.ljust(len(after) + 8192, b"\0"), after.ljust(max(len(before), len(after) + 8192), b"\0")
        content = bytearray(before.ljust(len(after), b"\0"))
        start = position
        while start < position + size_of(second) + MARK_BYTES:
            stop = start + SECTOR_BYTES - start % SECTOR_BYTES
            if rng.random() < 0.5:
                content[start:stop] = after[start:stop]
            start = stop
        found, _, _ = await recovered(bytes(content))
        assert found[: len(first)] == raw(first)
        assert found == raw((first + second)[: len(found)])


async def test_any_flipped_bit_is_noticed_and_located() -> None:
    """In entries: damage, with file and byte of the frame, nothing changed. In the append mark: the mark is cut, no entry lost."""
    first = make_frames(3, payload_bytes_max=90)
    second = following(first, 3, payload_bytes_max=90)
    content = await written([first, second])
    frames = first + second
    ends = [size_of(frames[: count + 1]) for count in range(len(frames))]
    for position in range(ends[-1] + MARK_BYTES):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        if position >= ends[-1]:
            found, log, _ = await recovered(bytes(damaged))
            assert found == raw(frames)
            assert log.recovery.torn_bytes
            continue
        number = next(number for number, end in enumerate(ends) if position < end)
        disk = SimDisk(random.Random(0))
        disk.put(PATH, bytes(damaged))
        with pytest.raises(DamagedData) as caught:
            async with open_segmented_log(disk, "/log", SETTINGS):
                pass
        assert (caught.value.path, caught.value.position) == (PATH, ends[number] - frames[number].size_bytes)
        assert f"entry {frames[number].index} at byte {caught.value.position} is damaged" in str(caught.value)
        assert disk.content(PATH) == damaged


async def test_a_lost_sector_in_a_durable_write_is_damage() -> None:
    """Zeros where an acknowledged write was are not a torn tail: a later write began after it."""
    first = make_frames(3, payload_bytes_max=2000, seed=3)
    second = following(first, 1)
    content = bytearray(await written([first, second]))
    for sector in range(size_of(first) // SECTOR_BYTES):
        lost = bytearray(content)
        lost[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)
        with pytest.raises(DamagedData, match="it had been durable"):
            await recovered(bytes(lost))


async def test_the_first_sector_of_a_torn_write_is_missing() -> None:
    """The mark of the write before stands where the lost write began, whole frames of the lost one after it."""
    first = make_frames(2, payload_bytes_max=100)
    second = following(first, 4, payload_bytes_max=900)
    old, new = await written([first]), await written([first, second])
    boundary = (size_of(first) // SECTOR_BYTES + 1) * SECTOR_BYTES
    found, log, _ = await recovered(old[:boundary] + new[boundary:])
    assert found == raw(first)
    assert (log.recovery.torn_position, log.recovery.torn_bytes > 0) == (size_of(first), True)


async def test_after_a_cut_the_log_goes_on() -> None:
    """What is appended after a torn tail was cut survives the next recovery; no old byte shines through."""
    first = make_frames(2)
    torn = following(first, 3, payload_bytes_max=3000)
    content = bytearray(await written([first, torn]))
    content[size_of(first) + SECTOR_BYTES : size_of(first) + 3 * SECTOR_BYTES] = bytes(2 * SECTOR_BYTES)
    found, _, disk = await recovered(bytes(content))
    kept = (first + torn)[: len(found)]
    async with open_segmented_log(disk, "/log", SETTINGS) as log:
        await log.append(following(kept, 1, seed=9))
    assert not any(disk.content(PATH)[size_of(kept + following(kept, 1, seed=9)) + MARK_BYTES :])


async def test_an_unfinished_footer_is_cut() -> None:
    """A crash while the segment was sealed leaves a part of the footer; all entries are there."""
    frames = make_frames(5)
    content = await written([frames])
    for part in (FOOTER_MAGIC_BYTES, FOOTER_MAGIC_BYTES + b"rest of it" * 8):
        found, log, _ = await recovered(content[: size_of(frames)] + part)
        assert found == raw(frames)
        assert log.recovery.torn_bytes == len(part)


def test_frames_after_a_footer_are_damage() -> None:
    """A footer ends a segment."""
    frames = make_frames(3)
    tail = FOOTER_MAGIC_BYTES + bytes(100) + bytes(frames[2].raw)
    assert judge_tail(tail, 1000, 2, 1).damaged


def test_a_torn_frame_larger_than_the_rest_of_the_file() -> None:
    """The file ends inside the frame: torn. With a mark of its own write behind it: the length is a lie, damage."""
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=b"x" * 3000)
    assert judge_tail(frame.raw[:2000], 0, 1, 0).damaged == ""
    lying = bytearray(frame.raw + encode_mark(0, frame.size_bytes))
    lying[2] ^= 1  # 65536 bytes more
    assert "not torn" in judge_tail(lying, 0, 1, 0).damaged


def test_a_mark_inside_a_payload_is_none() -> None:
    """Payloads may hold any bytes, those of a mark at their very place too: only the end of the content is believed."""
    before = make_frames(1)
    position = size_of(before)
    inside = position + 164
    payload = b"x" * 100 + encode_mark(inside - 10, inside) + b"y" * 2000
    frame = encode_entry(EntryKind.DATA, term=1, index=2, base_offset=before[0].end_offset, record_count=1, payload=payload)
    tail = bytearray(frame.raw + encode_mark(position, position + frame.size_bytes))
    lost = SECTOR_BYTES - position % SECTOR_BYTES
    tail[lost : lost + SECTOR_BYTES] = bytes(SECTOR_BYTES)
    assert judge_tail(tail, position, 2, 1).damaged == ""
    tail[lost : lost + SECTOR_BYTES] = frame.raw[lost : lost + SECTOR_BYTES]
    tail[80] ^= 1
    assert "no sector of it is missing" in judge_tail(tail, position, 2, 1).damaged


def test_the_limit_of_the_method() -> None:
    """Documented: a damaged frame of the last write with a whole sector of zeros in it looks torn."""
    payload = b"x" * 1000 + bytes(1500) + b"y" * 1000
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=payload)
    damaged = bytearray(frame.raw + encode_mark(0, frame.size_bytes))
    damaged[100] ^= 1
    assert judge_tail(damaged, 0, 1, 0).torn_bytes == len(damaged.rstrip(b"\0"))


@pytest.mark.parametrize("leaves_mark", [True, False])
def test_a_whole_entry_of_another_release_is_not_torn(leaves_mark: bool) -> None:
    """Zeros in it or not: a release that cannot read an entry does not cut it."""
    frame = encode_entry(EntryKind.DATA, term=1, index=1, base_offset=0, record_count=1, payload=bytes(2000))
    newer = bytearray(frame.raw)
    newer[CHECKED_FROM] += 1  # the format version
    newer[LENGTH_BYTES:CHECKED_FROM] = crc32c(newer[CHECKED_FROM:]).to_bytes(4, "little")
    tail = newer + (encode_mark(0, len(newer)) if leaves_mark else b"")
    assert "it is whole" in judge_tail(tail, 0, 1, 0).damaged
    tail[CHECKED_FROM] += 1
    assert judge_tail(tail, 0, 1, 0).torn_bytes == len(tail.rstrip(b"\0"))


@pytest.mark.parametrize("seed", range(30))
def test_any_tail_has_a_verdict(seed: int) -> None:
    """Any bytes after any position are judged without an error, and zeros alone are clean."""
    rng = random.Random(seed)
    parts = [
        bytes(rng.randint(0, 600)),
        rng.randbytes(rng.randint(0, 50)),
        bytes(make_frames(1, first=rng.randint(1, 5))[0].raw)[: rng.randint(0, 200)],
        encode_mark(0, 100),
        FOOTER_MAGIC_BYTES,
    ]
    for _ in range(50):
        tail = b"".join(rng.choice(parts) for _ in range(rng.randint(0, 5)))
        verdict = judge_tail(tail, rng.randint(0, 2000), rng.randint(1, 5), 1)
        if not any(tail):
            assert not verdict.damaged
            assert not verdict.torn_bytes
        else:
            assert verdict.damaged or verdict.torn_bytes or len(tail.rstrip(b"\0")) <= MARK_BYTES


def test_names() -> None:
    """20 digits, sorting as numbers do; nothing else is taken for a segment."""
    assert segment_name(17) == "00000000000000000017.log"
    assert parse_segment_name("00000000000000000017.log") == 17
    for name in ("17.log", "00000000000000000017", "00000000000000000017.index", "0000000000000000001x.log", "LOCK", ""):
        assert parse_segment_name(name) is None


def test_term_runs() -> None:
    """Terms by index, over runs added and cut off."""
    runs = TermRuns(0, 0)
    for first, term in ((1, 1), (4, 1), (5, 3), (9, 7)):
        runs.add(first, term)
    assert [runs.term(index) for index in range(11)] == [0, 1, 1, 1, 1, 3, 3, 3, 3, 7, 7]
    runs.truncate(9)
    assert runs.term(20) == 3
    runs.truncate(5)
    assert runs.term(20) == 1
    runs.truncate(1)
    assert runs.term(20) == 0


def of_another_release(frame: EntryFrame, position: int, value: int) -> bytes:
    """The frame with another byte in its header and the checksum that goes with it: whole, and unknown here."""
    data = bytearray(frame.raw)
    data[position] = value
    data[8:12] = crc32c(bytes(data[CHECKED_FROM:])).to_bytes(4, "little")
    return bytes(data)


KIND, VERSION, FLAGS = 13, 12, 14
FORMS = [(KIND, max(EntryKind) + 1), (KIND, 255), (VERSION, 2), (VERSION, 255), (FLAGS, 1)]


@pytest.mark.parametrize(("position", "value"), [*FORMS, (KIND, EntryKind.CONTROL)])
async def test_a_frame_that_only_a_later_release_can_read_is_never_cut(position: int, value: int) -> None:
    """Alone at the end, and behind a damaged one, whose own sectors are all there, in the same write and with zeros in its payload.
    It was acknowledged, as far as anybody can tell; the mark behind it was lost."""
    first = make_frames(2)
    damaged = following(first, 1, payload_bytes_max=90)[0]
    payload = b"x" + bytes(3000) + b"x"
    later = encode_entry(
        EntryKind.CONTROL, term=damaged.term, index=damaged.index + 1, base_offset=damaged.end_offset, payload=payload
    )
    unknown = of_another_release(later, position, value)
    whole = b"".join(raw(first))
    flipped = bytearray(damaged.raw)
    flipped[-1] ^= 1
    content = (whole + flipped + unknown).ljust(16384, b"\0")
    disk = SimDisk(random.Random(0))
    disk.put(PATH, content)
    with pytest.raises(DamagedData):
        async with open_segmented_log(disk, "/log", SETTINGS):
            pass
    assert disk.content(PATH) == content
    if (position, value) in FORMS:
        disk.put(PATH, (whole + unknown).ljust(16384, b"\0"))
        with pytest.raises(DamagedData, match="does this release know what wrote it"):
            async with open_segmented_log(disk, "/log", SETTINGS):
                pass


def test_what_the_search_for_later_frames_costs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload can be made of nothing but lengths. Then the first place beyond the bound counts as a frame, and nothing is cut."""
    tail = (b"\x00\x02" + bytes(6) + b"crc!\x01") * 4000
    assert list(find_whole_frames(tail)) == []
    monkeypatch.setattr(entry, "SEARCHED_BYTES_MAX", 512 * 10)
    assert next(find_whole_frames(tail)) == 13 * 10
