"""Messages to values and back."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from tests.node.rig import batch_of
from trio_eventlog.bounds import SEQUENCE_END_MAX
from trio_eventlog.grpc.batches import batch_message, encode_batches, encode_produce_request, produce_head, requested_batch
from trio_eventlog.records import Acks, Batch, Compression
from trio_eventlog.rpc import Encoded
from trio_eventlog.v1 import event_log_pb2

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
NS = st.integers(0, 2**63 - 1)


def with_ordered_timestamps(batch: Batch) -> Batch:
    first, last = sorted((batch.first_timestamp_ns, batch.last_timestamp_ns))
    return attrs.evolve(batch, first_timestamp_ns=first, last_timestamp_ns=last)


batches = st.builds(
    Batch,
    record_count=st.integers(1, 2**32 - 1),
    payload=st.binary(max_size=300),
    crc32c=U32,
    compression=st.sampled_from(Compression),
    producer_id=U64,
    producer_epoch=U32,
    base_sequence=st.integers(0, SEQUENCE_END_MAX - (1 << 32)),
    first_timestamp_ns=NS,
    last_timestamp_ns=NS,
).map(with_ordered_timestamps)


def joined(encoded: Encoded) -> bytes:
    return b"".join(map(bytes, encoded.buffers))


@given(batches, st.text(max_size=20), U32, st.sampled_from(Acks), U64)
def test_a_forwarded_request_says_what_the_client_said(batch: Batch, topic: str, partition: int, acks: Acks, group_id: int) -> None:
    """The payload is put beside what protobuf encodes; a protobuf parser must not see the difference."""
    encoded = encode_produce_request(produce_head(topic, partition, group_id, acks), batch_message(batch), batch)
    request = event_log_pb2.ProduceRequest.FromString(joined(encoded))
    assert (request.topic, request.partition, request.acks, request.group_id) == (topic, partition, int(acks), group_id)
    assert request.HasField("partition")
    assert requested_batch(request, max_bytes=1000, max_records=100, now_ns=0) == batch


@given(st.lists(batches, max_size=4), U64, U64, U64)
def test_batches_for_a_consumer(items: list[Batch], high_watermark: int, log_start_offset: int, group_id: int) -> None:
    """The same for answers with opaque batches."""
    encoded = encode_batches(items, high_watermark=high_watermark, log_start_offset=log_start_offset, group_id=group_id)
    response = event_log_pb2.ConsumeResponse.FromString(joined(encoded))
    assert (response.high_watermark, response.log_start_offset) == (high_watermark, log_start_offset)
    assert response.group_id == group_id
    assert [batch.payload for batch in response.batches] == [batch.payload for batch in items]
    assert [batch.base_sequence for batch in response.batches] == [batch.base_sequence for batch in items]


def test_records_without_a_timestamp_get_the_node_s() -> None:
    """Those with one keep it; the batch knows the first and the last; offsets sent along mean nothing."""
    request = event_log_pb2.ProduceRequest(topic="t")
    request.records.add(value=b"a", offset=77)
    request.records.add(value=b"b").timestamp.seconds = 5
    batch = requested_batch(request, max_bytes=1000, max_records=100, now_ns=7_000_000_001)
    assert (batch.record_count, batch.first_timestamp_ns, batch.last_timestamp_ns) == (2, 5_000_000_000, 7_000_000_001)
    assert batch.payload != batch_of(b"a", b"b").payload
    assert b"M" not in batch.payload, "77 is not in there"
