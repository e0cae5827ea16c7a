"""Events as records: golden bytes, versions that are stamped afterwards, and records that are no events."""

from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.batch import decode_records, encode_records
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.events import decode_events, encode_events, event_heads, recorded_event
from trio_eventlog.events import EventHead, NewEvent
from trio_eventlog.records import Batch, Header, Record

GOLDEN = Path(__file__).parent / "golden"
MIB = 1 << 20

EVENTS = [
    NewEvent(event_id="e-1", type="Opened", data=b'{"a": 1}', metadata=b'{"by":"me"}'),
    NewEvent(event_id="e-2", type="Closed", data=b"\x00\xff", content_type="image/png", timestamp_ns=5_000_000_007, closes=True),
]


def test_golden() -> None:
    batch = encode_events("account-ä", EVENTS, 1_700_000_000_000_000_001).stamped(258)
    text = "".join((GOLDEN / "events.v1.hex").read_text().split())
    assert bytes(batch.payload).hex() == text


def test_a_stamped_batch_is_an_ordinary_one() -> None:
    """Any consumer reads it, and what it reads is the events."""
    batch = attrs.evolve(encode_events("a", EVENTS, 9).stamped(41), base_offset=100)
    assert batch.record_count == 2
    assert batch.crc32c == crc32c(batch.payload)
    assert (batch.first_timestamp_ns, batch.last_timestamp_ns) == (9, 5_000_000_007)
    events = [recorded_event(record) for record in decode_records(batch, MIB, "events", 3)]
    assert decode_events(batch, MIB, "events", 3) == events
    assert [(event.event_id, event.version, event.offset, event.index) for event in events if event] == [
        ("e-1", 41, 100, 101),
        ("e-2", 42, 101, 102),
    ]
    first, second = events
    assert first is not None
    assert second is not None
    assert (first.data, first.payload, first.metadata, first.timestamp_ns) == (b'{"a": 1}', {"a": 1}, b'{"by":"me"}', 9)
    assert (second.payload, second.content_type, second.closes, second.timestamp_ns) == (
        b"\x00\xff",
        "image/png",
        True,
        5_000_000_007,
    )
    assert (second.topic, second.partition, second.aggregate_id) == ("events", 3, "a")


def test_heads_are_those_of_the_events() -> None:
    batch = attrs.evolve(encode_events("a", EVENTS, 9).stamped(41), base_offset=100)
    assert event_heads(batch, MIB) == [EventHead(100, "a", "e-1", "Opened", 41), EventHead(101, "a", "e-2", "Closed", 42, True)]


def test_what_is_no_event_is_passed_over() -> None:
    """Whatever is in the log, a node has to go on behind it."""
    whole = [Header(key="event-id", value=b"i"), Header(key="event-type", value=b"t"), Header(key="event-version", value=bytes(8))]
    records = [
        Record(value=b"plain"),
        Record(value=b"", key=b"a", headers=whole[:2]),
        Record(value=b"", key=b"a", headers=[*whole[:2], Header(key="event-version", value=b"1")]),
        Record(value=b"", key=b"\xff", headers=whole),
        Record(value=b"", key=b"a", headers=whole),
    ]
    batch = encode_records(records, now_ns=1)
    assert [head.offset for head in event_heads(batch, MIB)] == [4]
    assert [recorded_event(record) is not None for record in decode_records(batch, MIB)] == [False] * 4 + [True]
    assert event_heads(attrs.evolve(batch, crc32c=batch.crc32c ^ 1), MIB) == []
    assert event_heads(batch, 3) == []
    assert [event is not None for event in decode_events(batch, MIB, "", 0)] == [False] * 4 + [True]


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_bytes_are_heads_or_none(payload: bytes, record_count: int) -> None:
    event_heads(Batch(record_count=record_count, payload=payload, crc32c=crc32c(payload)), MIB)


@given(st.binary(max_size=50), st.text(min_size=1, max_size=20), st.integers(1, (1 << 63) - 1))
def test_payloads_are_kept_byte_for_byte(data: bytes, aggregate_id: str, version: int) -> None:
    if not aggregate_id.isascii() and any("\ud800" <= character <= "\udfff" for character in aggregate_id):
        return
    events = [NewEvent(event_id=f"{number}", type="T", data=data, content_type="x/y") for number in range(3)]
    batch = encode_events(aggregate_id, events, 1).stamped(version)
    read = [recorded_event(record) for record in decode_records(batch, MIB)]
    assert [(event.data, event.aggregate_id, event.version) for event in read if event] == [
        (data, aggregate_id, version + number) for number in range(3)
    ]
