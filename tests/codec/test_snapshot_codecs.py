"""The bytes of machines' snapshots: golden files, damage, newer formats, bounds, any bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX, WINDOW_BATCHES_MAX
from trio_eventlog.codec import producers, snapshot
from trio_eventlog.codec.catalog_snapshot import decode_catalog, encode_catalog
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.partition_snapshot import decode_partition, encode_partition
from trio_eventlog.codec.producers import decode_producers, encode_producers
from trio_eventlog.codec.snapshot import PartKind, SnapshotPart, decode_snapshot, encode_snapshot
from trio_eventlog.errors import CodecError, NewerRelease
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import CatalogNode, CatalogSnapshot, Partition, Topic
from trio_eventlog.machine.partition import LogStart, PartitionSnapshot
from trio_eventlog.machine.producers import ProducerSnapshot, ProducersSnapshot, Remembered

GOLDEN = Path(__file__).parent / "golden"

PRODUCERS = ProducersSnapshot(
    recorded=9,
    has_forgotten=True,
    producers=(
        ProducerSnapshot(producer_id=0x1122334455667788, epoch=2, recorded=4, recent=(Remembered(5, 3, 40), Remembered(8, 1, 60))),
        ProducerSnapshot(producer_id=1, epoch=0, recorded=9, recent=(Remembered((1 << 64) - 1, 10, 80),)),
    ),
)
PARTITION = PartitionSnapshot(applied_index=17, high_watermark=90, log_start=LogStart(5, 30), producers=PRODUCERS)
NODES = (NodeId(1), NodeId(2), NodeId(0xFEDCBA9876543210))
CATALOG = CatalogSnapshot(
    applied_index=12,
    command_index=11,
    feature_level=1,
    next_group_id=GroupId(7),
    topics=(
        Topic(
            name="orders",
            replica_count=2,
            retention_bytes=1 << 40,
            retention_seconds=86_400,
            partitions=(
                Partition(group_id=GroupId(1), first_voters=NODES[:2], replicas=NODES, wanted=NODES[1:]),
                Partition(group_id=GroupId(2), first_voters=NODES[1:], replicas=NODES[1:], wanted=NODES[1:]),
            ),
        ),
        Topic(
            name="events",
            replica_count=0,
            retention_bytes=0,
            retention_seconds=0,
            partitions=(Partition(group_id=GroupId(6), first_voters=NODES, replicas=NODES, wanted=NODES),),
        ),
    ),
    nodes=(CatalogNode(node_id=NODES[1], name="n2"), CatalogNode(node_id=NODES[2], name="ü", is_draining=True)),
    removed=(CatalogNode(node_id=NODES[0], name="n1"),),
)

EMPTY_CATALOG = CatalogSnapshot(
    applied_index=0, command_index=0, feature_level=1, next_group_id=GroupId(1), topics=(), nodes=(), removed=()
)
EMPTY_PARTITION = PartitionSnapshot(applied_index=0, high_watermark=0, log_start=LogStart(), producers=ProducersSnapshot())

Codec = tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any]]
WRITTEN: dict[str, Codec] = {
    "snapshot_partition.v1.hex": (PARTITION, encode_partition, decode_partition),
    "snapshot_producers.v1.hex": (PRODUCERS, encode_producers, decode_producers),
    "snapshot_catalog.v1.hex": (CATALOG, encode_catalog, decode_catalog),
}
WHOLE = ["snapshot_partition.v1.hex", "snapshot_catalog.v1.hex"]


def read_golden(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / name).read_text())


def with_checksum(checked: bytes) -> bytes:
    """A snapshot whose checksum is right, whatever is in it."""
    return snapshot._MAGIC_AND_CHECKSUM.pack(snapshot.MAGIC, crc32c(checked)) + checked


@pytest.mark.parametrize("name", WRITTEN)
def test_golden(name: str) -> None:
    """The layouts of format version 1: changing one is a visible act, and what was written stays readable."""
    value, encode, decode = WRITTEN[name]
    assert encode(value) == read_golden(name)
    assert decode(read_golden(name)) == value


@pytest.mark.parametrize("value", [EMPTY_PARTITION, EMPTY_CATALOG])
def test_of_nothing(value: Any) -> None:
    """A machine that has applied nothing has a snapshot too."""
    if isinstance(value, PartitionSnapshot):
        assert decode_partition(encode_partition(value)) == value
    else:
        assert decode_catalog(encode_catalog(value)) == value


@pytest.mark.parametrize("name", WHOLE)
def test_every_flipped_bit_and_every_cut_is_noticed(name: str) -> None:
    """One checksum covers everything behind it, and the magic number what is before."""
    data, decode = read_golden(name), WRITTEN[name][2]
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            decode(bytes(damaged))
    for end in range(len(data)):
        with pytest.raises(CodecError):
            decode(data[:end])
    with pytest.raises(CodecError):
        decode(data + b"\0")


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
def test_other_content_under_a_right_checksum(name: str, data: st.DataObject) -> None:
    """It is refused, or it is the one encoding of some state: no bytes lead to a state that is written differently."""
    _, encode, decode = WRITTEN[name]
    content = bytearray(read_golden(name)[12:])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(("set", "cut", "insert"))):
            case "set":
                content[position] = data.draw(st.integers(0, 255))
            case "cut":
                del content[position : position + data.draw(st.integers(1, 8))]
            case _:
                content[position:position] = data.draw(st.binary(min_size=1, max_size=8))
    changed = with_checksum(bytes(content))
    try:
        value = decode(changed)
    except CodecError:
        return
    assert encode(value) == changed


@pytest.mark.parametrize("name", WRITTEN)
@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(name: str, data: bytes) -> None:
    """A value or CodecError, nothing else."""
    _, encode, decode = WRITTEN[name]
    for attempt in (data, with_checksum(data)):
        try:
            assert encode(decode(attempt)) == attempt
        except CodecError:
            pass


VERSIONS = {PartKind.PARTITION: 1, PartKind.PRODUCERS: 2}


def test_unknown_formats_are_refused_with_words() -> None:
    """By kind and version, each as what only a newer release can have written: nothing of it may be dropped."""
    parts = [SnapshotPart(PartKind.PARTITION, 1, b"a"), SnapshotPart(PartKind.PRODUCERS, 2, b"")]
    assert decode_snapshot(encode_snapshot(3, parts), VERSIONS) == (3, {part.kind: part for part in parts})
    newer = bytearray(encode_snapshot(3, parts)[12:])
    newer[0] = 2
    with pytest.raises(NewerRelease, match="has format version 2, this release reads up to 1: start the release that wrote it"):
        decode_snapshot(with_checksum(bytes(newer)), VERSIONS)
    with pytest.raises(NewerRelease, match="part PRODUCERS of it has format version 3, this release reads up to 2"):
        decode_snapshot(encode_snapshot(3, [parts[0], attrs.evolve(parts[1], version=3)]), VERSIONS)
    unknown = SnapshotPart(9, 1, b"")  # type: ignore[arg-type]
    with pytest.raises(NewerRelease, match="part 9 is of a newer release: start that release"):
        decode_snapshot(encode_snapshot(3, [*parts, unknown]), VERSIONS)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([SnapshotPart(PartKind.PARTITION, 1, b"")], "without PRODUCERS"),
        ([SnapshotPart(PartKind.PARTITION, 0, b"")], "has format version 0"),
        ([SnapshotPart(PartKind.CATALOG, 1, b"")], "CATALOG is a part of another machine"),
        ([SnapshotPart(PartKind.PARTITION, 1, b"")] * 2, "part 1 of 0 bytes after part 1"),
    ],
)
def test_parts_that_do_not_make_this_machine(parts: list[SnapshotPart], words: str) -> None:
    """Damage, or a snapshot of another group."""
    with pytest.raises(CodecError, match=words) as caught:
        decode_snapshot(encode_snapshot(3, parts), VERSIONS)
    assert not isinstance(caught.value, NewerRelease)


def test_a_snapshot_of_another_machine_is_refused() -> None:
    """Before anything is restored from it."""
    with pytest.raises(CodecError, match="of another machine"):
        decode_catalog(encode_partition(PARTITION))
    with pytest.raises(CodecError, match="of another machine"):
        decode_partition(encode_catalog(CATALOG))


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit it is made and read, one byte beyond neither."""
    data = encode_partition(PARTITION)
    monkeypatch.setattr(snapshot, "SNAPSHOT_BYTES_MAX", len(data))
    assert decode_partition(encode_partition(PARTITION)) == PARTITION
    monkeypatch.setattr(snapshot, "SNAPSHOT_BYTES_MAX", len(data) - 1)
    for attempt in (lambda: encode_partition(PARTITION), lambda: decode_partition(data)):
        with pytest.raises(CodecError, match=f"{len(data)} bytes, at most {len(data) - 1} are allowed"):
            attempt()


def test_the_number_of_producers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a node can be set to remember."""
    monkeypatch.setattr(producers, "PRODUCERS_MAX", 2)
    assert decode_producers(encode_producers(PRODUCERS)) == PRODUCERS
    monkeypatch.setattr(producers, "PRODUCERS_MAX", 1)
    with pytest.raises(CodecError, match="2 producers, at most 1 are kept"):
        decode_producers(encode_producers(PRODUCERS))


def of_batches(*recent: Remembered, **changes: Any) -> ProducersSnapshot:
    fields: dict[str, Any] = {"producer_id": 1, "epoch": 0, "recorded": 1, "recent": recent} | changes
    return ProducersSnapshot(recorded=1, producers=(ProducerSnapshot(**fields),))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (of_batches(*(Remembered(number, 1, number) for number in range(WINDOW_BATCHES_MAX + 1))), "with 1001 batches"),
        (of_batches(Remembered(0, 1, 5), producer_id=0), "producer 0 with"),
        (of_batches(Remembered(0, 1, OFFSET_MAX + 1)), "at offset"),
        (of_batches(Remembered(0, 2, 5), Remembered(2, 1, 6)), "sequence 2 at offset 6"),
        (of_batches(Remembered((1 << 64) - 1, 1, 5), Remembered(1 << 64, 1, 6)), f"sequence {1 << 64}"),
        (of_batches(Remembered(0, 1, 5), recorded=2), "batch 2 after batch 0 of 1"),
        (of_batches(Remembered(0, 1, 5), recorded=0), "batch 0 after batch 0 of 1"),
        (attrs.evolve(PRODUCERS, producers=PRODUCERS.producers[::-1]), "batch 4 after batch 9"),
        (
            attrs.evolve(PRODUCERS, producers=(PRODUCERS.producers[0], attrs.evolve(PRODUCERS.producers[0], recorded=5))),
            "in it twice",
        ),
    ],
)
def test_producers_that_no_log_leads_to(value: ProducersSnapshot, words: str) -> None:
    """Each number against its bound, and against the others."""
    with pytest.raises(CodecError, match=words):
        decode_producers(encode_producers(value))


def test_the_window_at_its_limit() -> None:
    """As many batches as a node can be set to remember."""
    value = of_batches(*(Remembered(number, 1, number) for number in range(WINDOW_BATCHES_MAX)))
    assert decode_producers(encode_producers(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        attrs.evolve(PARTITION, applied_index=INDEX_MAX + 1),
        attrs.evolve(PARTITION, high_watermark=OFFSET_MAX + 1),
        attrs.evolve(PARTITION, high_watermark=89),
    ],
)
def test_partitions_that_no_log_leads_to(value: PartitionSnapshot) -> None:
    """Beyond the bounds of the log, or with a batch that is not applied."""
    with pytest.raises(CodecError):
        decode_partition(encode_partition(value))
    at_the_limit = attrs.evolve(PARTITION, applied_index=INDEX_MAX, high_watermark=OFFSET_MAX)
    assert decode_partition(encode_partition(at_the_limit)) == at_the_limit


def changed_topic(**changes: Any) -> CatalogSnapshot:
    return attrs.evolve(CATALOG, topics=(attrs.evolve(CATALOG.topics[0], **changes), *CATALOG.topics[1:]))


def changed_partition(**changes: Any) -> CatalogSnapshot:
    return changed_topic(partitions=(attrs.evolve(CATALOG.topics[0].partitions[0], **changes),))


@pytest.mark.parametrize(
    "value",
    [
        attrs.evolve(CATALOG, feature_level=0),
        attrs.evolve(CATALOG, next_group_id=6),
        attrs.evolve(CATALOG, next_group_id=0),
        attrs.evolve(CATALOG, next_group_id=(1 << 64) + 1),
        attrs.evolve(CATALOG, next_group_id=7.0),
        attrs.evolve(CATALOG, topics=CATALOG.topics * 2),
        attrs.evolve(CATALOG, nodes=CATALOG.nodes * 2),
        attrs.evolve(CATALOG, removed=CATALOG.nodes),
        attrs.evolve(CATALOG, nodes=(CatalogNode(node_id=NodeId(0)),)),
        attrs.evolve(CATALOG, nodes=(CatalogNode(node_id=NodeId(5), name="ü" * 2049),)),
        attrs.evolve(CATALOG, nodes=(CatalogNode(node_id=NodeId(5), is_draining=1),)),  # type: ignore[arg-type]
        changed_topic(name="events"),
        changed_topic(name="a b"),
        changed_topic(partitions=()),
        changed_topic(retention_seconds=-1),
        changed_topic(retention_bytes=1 << 64),
        changed_topic(replica_count=True),
        changed_partition(group_id=6),
        changed_partition(group_id=0),
        changed_partition(first_voters=()),
        changed_partition(replicas=(0,)),
        changed_partition(wanted=(5,)),
        changed_partition(wanted=()),
    ],
)
def test_catalogs_that_no_commands_lead_to(value: CatalogSnapshot) -> None:
    """The bounds are those of the commands."""
    with pytest.raises(CodecError, match="snapshot of a catalog"):
        decode_catalog(encode_catalog(value))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"more": 1},
        lambda state: {key: value for key, value in state.items() if key != "removed"},
        lambda state: state | {"topics": {}},
        lambda state: state | {"topics": [[]]},
        lambda state: state | {"nodes": [{"node": [1], "name": "", "draining": False}]},
        lambda state: [],
    ],
)
def test_objects_of_another_form(change: Callable[[dict[str, Any]], Any]) -> None:
    """JSON, but not what is written."""
    _, parts = decode_snapshot(encode_catalog(CATALOG), {PartKind.CATALOG: 1})
    state = json.loads(bytes(parts[PartKind.CATALOG].body))
    body = json.dumps(change(state), separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(CodecError, match="snapshot of a catalog"):
        decode_catalog(encode_snapshot(12, [SnapshotPart(PartKind.CATALOG, 1, body)]))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"{}", json.dumps({"feature_level": 1}).encode()])
def test_bodies_that_are_no_catalog(body: bytes) -> None:
    """Refused, however deep."""
    with pytest.raises(CodecError, match="snapshot of a catalog"):
        decode_catalog(encode_snapshot(12, [SnapshotPart(PartKind.CATALOG, 1, body)]))


def test_the_same_state_in_other_bytes_is_refused() -> None:
    """Replicas compare checksums: there is one encoding of a state."""
    _, parts = decode_snapshot(encode_catalog(CATALOG), {PartKind.CATALOG: 1})
    body = json.dumps(json.loads(bytes(parts[PartKind.CATALOG].body)), sort_keys=True).encode()
    with pytest.raises(CodecError, match="encoded in another way"):
        decode_catalog(encode_snapshot(12, [SnapshotPart(PartKind.CATALOG, 1, body)]))
