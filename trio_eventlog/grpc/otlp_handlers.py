"""Exports of OpenTelemetry over gRPC: the handler of a node."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.grpc.callers import caller_of
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.records import Acks
from trio_eventlog.rpc import Context, Encoded, Service
from trio_eventlog.service.values import Caller
from trio_eventlog.v1 import otlp_logs_pb2

if TYPE_CHECKING:
    from trio_eventlog.ingest.sink import LogSink

EXPORTS_MAX = 4
"""That are taken at once: each may hold as many bytes of lines as a request may have. Others wait as long as their callers."""
SERVICE = "opentelemetry.proto.collector.logs.v1.LogsService"


class OtlpHandlers:
    """Takes exports of logs.

    Args:
        sink: where lines go; made when the first one comes.
        ready: set when the node belongs to a cluster; calls wait until then, under their callers' deadlines.
        now_ns: the wall clock.
    """

    def __init__(
        self,
        sink: Callable[[], "LogSink"],
        settings: IntakeSettings,
        node_id: NodeId,
        *,
        ready: trio.Event,
        now_ns: Callable[[], int],
    ) -> None:
        self._sink = sink
        self._settings = settings
        self._node_id = node_id
        self._ready = ready
        self._now_ns = now_ns
        self._slots = trio.CapacityLimiter(EXPORTS_MAX)

    def service(self) -> Service:
        """Under the name by which exporters call it."""
        descriptor = otlp_logs_pb2.DESCRIPTOR.services_by_name["OtlpLogsService"]
        return Service(descriptor, {"Export": self.export}, raw=("Export",), name=SERVICE)

    async def export(self, data: bytes, context: Context) -> Encoded:
        """Lines that cannot be taken are a partial success, as the protocol has it."""
        await self._ready.wait()
        caller = caller_of(context)
        async with self._slots:
            return await self._take(data, caller)

    async def _take(self, data: bytes, caller: Caller) -> Encoded:
        # Needed by the first export only.
        from trio_eventlog.ingest.intake import Intake
        from trio_eventlog.ingest.otlp import answer, lines_of_protobuf
        from trio_eventlog.ingest.taking import BadLines, take_lines

        intake = Intake(
            self._settings,
            received_ns=self._now_ns(),
            caller=caller,
            node_id=format_id(self._node_id),
        )
        bad = BadLines()
        try:
            await take_lines(intake, lines_of_protobuf(bytes(data)), bad.note)
        except ModuleNotFoundError as error:
            raise InvalidArgument("this node lacks the package for exports of OpenTelemetry: install the extra `otlp`") from error
        except ValueError as error:
            raise InvalidArgument(f"it is no export of logs: {error}") from error
        if intake.records:
            await self._sink().put(intake.records, acks=Acks.QUORUM, caller=caller)
        return Encoded(answer(bad.count, bad.why))
