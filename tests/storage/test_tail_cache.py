"""The tail cache against a plain list."""

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_frames import following, make_frames

from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.codec.peer_frame import FrameDecoder, FrameKind, encode_frame_head
from trio_eventlog.codec.raft_message import decode_raft_message, encode_raft_message
from trio_eventlog.ids import NodeId
from trio_eventlog.raft import Message, MessageType
from trio_eventlog.storage.tail_cache import FRAME_OVERHEAD_BYTES, TailCache


def test_frames_not_durable_are_pinned() -> None:
    """The bound gives way to frames that are on no disk yet, and holds again when they are."""
    frames = make_frames(100, payload_bytes_max=1000)
    cache = TailCache(5000)
    cache.stage(frames)
    assert cache.get(1, 100, 1 << 30) == frames
    assert cache.size_bytes == sum(frame.size_bytes for frame in frames)
    cache.mark_persisted(frames)
    assert cache.memory_bytes <= 5000
    assert cache.end_index == 101
    assert cache.get(1, 100, 1 << 30) is None
    assert cache.get(100, 100, 0) == frames[99:]


def test_the_bound_is_used() -> None:
    """As many of the newest frames are kept as fit, to the byte."""
    frames = make_frames(50)
    last, last_two = memory_bytes(frames[-1:]), memory_bytes(frames[-2:])
    for max_bytes in (0, 1, last - 1, last, last_two - 1, last_two):
        cache = TailCache(max_bytes)
        cache.stage(frames)
        cache.mark_persisted(frames)
        kept = sum(1 for count in range(1, 51) if memory_bytes(frames[-count:]) <= max_bytes)
        assert cache.end_index - cache.first_index == kept


def memory_bytes(frames: Sequence[EntryFrame]) -> int:
    return sum(frame.size_bytes + FRAME_OVERHEAD_BYTES for frame in frames)


@pytest.mark.parametrize("payload_bytes", [1, 100, 1000, 20_000])
@pytest.mark.parametrize("others", [0, 15])
def test_a_followers_frames_take_no_more_memory_than_the_bound(payload_bytes: int, others: int) -> None:
    """As they come from a peer: one by one, in chunks that hold other messages as well, which nobody keeps."""
    bound = 1 << 18
    cache = TailCache(bound)
    decoder = FrameDecoder(1 << 20)
    other = encode_frame_head(FrameKind.RAFT, 1, bytes(60))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for index in range(1, 1 + 3 * bound // (payload_bytes + FRAME_OVERHEAD_BYTES)):
            entry = encode_entry(
                EntryKind.DATA,
                term=1 << 20,
                index=index,
                base_offset=index - 1 + (1 << 40),
                record_count=1,
                first_timestamp_ns=(1 << 60) + index,
                last_timestamp_ns=(1 << 60) + index,
                payload=bytes(payload_bytes),
            )
            message = Message(
                type=MessageType.APPEND, sender=NodeId(1), to=NodeId(2), term=1 << 20, index=index - 1, last_index=index
            )
            head = encode_raft_message(message)
            append = encode_frame_head(FrameKind.APPEND, 1, head, entry.size_bytes) + bytes(entry.raw)
            for frame in decoder.feed(append + others * other):
                if frame.kind == FrameKind.APPEND:
                    _, frames = decode_raft_message(frame.body)
                    cache.stage(frames)
                    cache.mark_persisted(frames)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.first_index > 1
    assert cache.memory_bytes <= bound
    assert after - before < 1.1 * bound + 2 * payload_bytes  # and the frame at hand


def test_a_gap_starts_afresh() -> None:
    """Frames that do not follow replace everything: the run stays dense."""
    cache = TailCache(10_000, persisted_index=0)
    cache.stage(make_frames(3))
    later = make_frames(2, first=10)
    cache.stage(later)
    assert (cache.first_index, cache.end_index) == (10, 12)
    assert cache.get(10, 11, 10_000) == later


def test_a_finished_write_makes_nothing_durable_that_has_replaced_it() -> None:
    """Frames 2..5 are under way to the disk when others of a newer term are staged over them, from 2 on or from 4 on."""
    old = make_frames(5)
    for kept in (1, 3, 5):
        cache = TailCache(0)
        cache.stage(old[:1])
        cache.mark_persisted(old[:1])
        cache.stage(old[1:])
        new = following(old[:kept], 2, term=2)
        cache.stage(new)
        cache.mark_persisted(old[1:])
        assert cache.persisted_index == kept
        assert cache.holds_staged
        assert cache.get(new[0].index, 100, 1 << 30) == new, "pinned, as it is on no disk"
        cache.mark_persisted(new)
        assert cache.persisted_index == new[-1].index
        assert not cache.holds_staged


operations = st.lists(
    st.one_of(
        st.tuples(st.just("stage"), st.integers(1, 8)),
        st.tuples(st.just("persist"), st.integers(1, 12)),
        st.tuples(st.just("replace"), st.integers(1, 6)),
    ),
    max_size=40,
)


@given(operations, st.integers(0, 3000))
def test_against_a_list(script: list[tuple[str, int]], max_bytes: int) -> None:
    """Whatever is staged and replaced while earlier runs wait for the disk: runs, limits and lookups are those of a list, and what
    counts as durable is what the disk holds."""
    cache = TailCache(max_bytes)
    frames: list[EntryFrame] = []
    waiting: list[EntryFrame] = []
    disk: list[EntryFrame] = []
    for number, (operation, argument) in enumerate(script):
        if operation == "persist":
            run = waiting[:1]
            while len(run) < min(argument, len(waiting)) and waiting[len(run)].index == run[-1].index + 1:
                run.append(waiting[len(run)])
            del waiting[: len(run)]
            if run:
                disk = disk[: run[0].index - 1] + run
                cache.mark_persisted(run)
        else:
            if operation == "replace":
                del frames[max(len(frames) - argument, 0) :]
            new = following(frames, argument, term=number + 2, seed=number)
            cache.stage(new)
            frames += new
            waiting += new
        same = [held is durable for held, durable in zip(frames, disk, strict=False)]
        persisted = same.index(False) if False in same else len(same)
        assert cache.persisted_index == persisted
        assert cache.holds_staged == (persisted < len(frames))
        assert cache.end_index == len(frames) + 1 or cache.size_bytes == 0
        check(cache, frames, persisted, max_bytes)


def check(cache: TailCache, frames: list[EntryFrame], persisted: int, max_bytes: int) -> None:
    held = frames[cache.first_index - 1 :] if cache.size_bytes else []
    assert cache.size_bytes == sum(frame.size_bytes for frame in held)
    assert len(held) >= len(frames) - persisted  # pinned
    assert cache.memory_bytes == memory_bytes(held)
    assert cache.memory_bytes <= max_bytes or (held and held[0].index > persisted)
    for first in {1, cache.first_index - 1, cache.first_index, len(frames), len(frames) + 1}:
        for limit in (0, 300, 1 << 30):
            expected = [frame for frame in held if frame.index >= first] if held and first >= held[0].index else []
            fitting = 1
            while fitting < len(expected) and sum(frame.size_bytes for frame in expected[: fitting + 1]) <= limit:
                fitting += 1
            assert cache.get(first, len(frames) + 5, limit) == (expected[:fitting] or None)
            last = cache.last_index_within(first, len(frames) + 5, limit)
            assert last == (expected[:fitting][-1].index if expected else None)
    if frames:
        for offset in range(max(frames[-1].end_offset - 10, 0), frames[-1].end_offset + 1):
            owner = next((frame.index for frame in held if frame.base_offset <= offset < frame.end_offset), None)
            assert cache.find_offset(offset) == owner
