"""Events kept as values: as many as there is room for, those that were read last."""

from trio_eventlog.events import JSON, RecordedEvent
from trio_eventlog.service.event_cache import KEPT_EVENT_BYTES, EventCache, Sized, event_bytes


def sized(offset: int, data: bytes = b"1") -> Sized:
    event = RecordedEvent(
        event_id=f"e{offset}",
        type="T",
        aggregate_id="a",
        version=offset + 1,
        data=data,
        content_type=JSON,
        metadata=b"",
        timestamp_ns=1,
        closes=False,
        offset=offset,
    )
    return event, event_bytes(event)


def test_at_the_limit() -> None:
    """Two fit: with a third one, that leaves which was not read for longest."""
    first, second, third = sized(0), sized(1), sized(2)
    size_bytes = first[1] + KEPT_EVENT_BYTES
    cache = EventCache(2 * size_bytes)
    cache.add(7, first)
    cache.add(7, first)
    cache.add(7, second)
    assert cache.use().used == 2 * size_bytes
    assert cache.find(7, 0) == first
    cache.add(7, third)
    assert [cache.find(7, offset) for offset in range(3)] == [first, None, third]
    assert cache.use().used == 2 * size_bytes


def test_an_event_that_is_too_large_pushes_nothing_out() -> None:
    small = sized(0)
    cache = EventCache(2 * (small[1] + KEPT_EVENT_BYTES))
    cache.add(7, small)
    cache.add(7, sized(1, bytes(10_000)))
    assert (cache.find(7, 0), cache.find(7, 1)) == (small, None)


def test_groups_have_the_same_offsets() -> None:
    cache = EventCache(100_000)
    cache.add(7, sized(0))
    assert cache.find(8, 0) is None


def test_without_room_nothing_is_kept() -> None:
    cache = EventCache(0)
    cache.add(7, sized(0))
    assert (cache.find(7, 0), cache.use().used) == (None, 0)
