"""Exports of logs over gRPC: what is answered, and how many are held at the same time. Real exporters: tests/process."""

import pytest
import trio
import trio.testing

from tests.ingest.kit import SlowSink
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.grpc.otlp_handlers import EXPORTS_MAX, SERVICE, OtlpHandlers
from trio_eventlog.ids import NodeId
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.rpc import Context, Metadata, Peer

messages = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")


class CallContext(Context):
    """That of a call from a client."""

    def __init__(self) -> None:
        pass

    metadata = Metadata(())
    peer = Peer(address="10.0.0.7:4317")
    deadline = float("inf")


def handlers(sink: SlowSink) -> OtlpHandlers:
    ready = trio.Event()
    ready.set()
    settings = IntakeSettings(log_line_bytes_max=500, log_labels_max=3, log_request_bytes_max=1 << 20)
    return OtlpHandlers(lambda: sink, settings, NodeId(0xA1), ready=ready, now_ns=lambda: 7)


def export_of(*texts: str) -> bytes:
    export = messages.ExportLogsServiceRequest()
    records = export.resource_logs.add().scope_logs.add().log_records
    for text in texts:
        records.add().body.string_value = text
    encoded: bytes = export.SerializeToString()
    return encoded


async def test_lines_are_taken_and_those_that_cannot_be_are_told(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink()
    answered = await handlers(sink).export(export_of("a", "m" * 600, "b"), CallContext())
    response = messages.ExportLogsServiceResponse.FromString(b"".join(answered.buffers))
    assert response.partial_success.rejected_log_records == 1
    assert "message" in response.partial_success.error_message
    assert [(line.message, line.client_ip, line.ingested_node_id) for line in sink.lines] == [
        ("a", "10.0.0.7", "00000000000000a1"),
        ("b", "10.0.0.7", "00000000000000a1"),
    ]


async def test_what_is_no_export_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(InvalidArgument, match="no export"):
        await handlers(SlowSink()).export(b"no protobuf", CallContext())


async def test_few_exports_are_held_at_the_same_time(autojump_clock: trio.testing.MockClock) -> None:
    sink = SlowSink()
    made = handlers(sink)
    async with trio.open_nursery() as nursery:
        for number in range(EXPORTS_MAX + 3):
            nursery.start_soon(made.export, export_of(str(number)), CallContext())
    assert len(sink.lines) == EXPORTS_MAX + 3
    assert sink.most == EXPORTS_MAX


def test_it_is_called_by_the_name_that_exporters_use() -> None:
    assert handlers(SlowSink()).service().name == SERVICE == messages.DESCRIPTOR.services_by_name["LogsService"].full_name
