"""Values of the client's producers <-> messages of the service."""

from trio_eventlog.client.producer_core import PendingBatch
from trio_eventlog.errors import EventLogError
from trio_eventlog.grpc.batches import encode_produce_request, numbered_batch_message
from trio_eventlog.records import Acks
from trio_eventlog.rpc import Encoded
from trio_eventlog.rpc.status import RpcFailed, error_from_code
from trio_eventlog.service.values import OFFSET_UNKNOWN, ProduceResult
from trio_eventlog.v1 import event_log_pb2


def produce_request(head: bytes, pending: PendingBatch, producer_id: int) -> Encoded:
    """The request for a numbered batch; `head` is that of its partition."""
    message = numbered_batch_message(pending.batch, producer_id, pending.epoch, pending.base_sequence)
    return encode_produce_request(head, message, pending.batch)


def produce_result(response: event_log_pb2.ProduceResponse, pending: PendingBatch, topic: str, partition: int) -> ProduceResult:
    return ProduceResult(
        topic=topic,
        partition=partition,
        base_offset=OFFSET_UNKNOWN if pending.acks is Acks.NONE and not response.duplicate else response.base_offset,
        record_count=pending.batch.record_count,
        duplicate=response.duplicate,
    )


def stream_error(error: event_log_pb2.Error) -> EventLogError:
    """The error of one request on a stream, as the exception it would have been on its own."""
    return error_from_code(error.code, error.message, error.details) or RpcFailed(f"{error.code}: {error.message}")
