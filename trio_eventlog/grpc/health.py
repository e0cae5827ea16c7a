"""The standard health service, `grpc.health.v1.Health`: what load balancers and orchestrators ask.

The empty name is the node as a whole.
"""

from typing import Any

import trio

from trio_eventlog.errors import ShuttingDown
from trio_eventlog.grpc.standard_messages import build_file
from trio_eventlog.rpc import Context, RpcFailed, Send, Service, StatusCode

_FILE = build_file(
    "grpc/health/v1/health.proto",
    "grpc.health.v1",
    messages={
        "HealthCheckRequest": ["string service = 1"],
        "HealthCheckResponse": ["ServingStatus status = 1"],
    },
    enums={"HealthCheckResponse": {"ServingStatus": ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]}},
    services={
        "Health": [
            ("Check", "HealthCheckRequest", "HealthCheckResponse", False, False),
            ("Watch", "HealthCheckRequest", "HealthCheckResponse", False, True),
        ]
    },
)
HEALTH_DESCRIPTOR = _FILE.services["Health"]
HealthCheckRequest = _FILE.messages["HealthCheckRequest"]
HealthCheckResponse = _FILE.messages["HealthCheckResponse"]
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class Health:
    """The health service: answers with what `set_serving` has set."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = trio.Event()
        self._is_stopping = False

    def set_serving(self, is_serving: bool, service: str = "") -> None:
        """Set whether `service` (a full name; "" for the whole node) answers calls now."""
        status = SERVING if is_serving and not self._is_stopping else NOT_SERVING
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            self._wake()

    def stop(self) -> None:
        """Everything is NOT_SERVING from here on, and the watches end, so that they do not hold up a drain."""
        self._is_stopping = True
        self._statuses = dict.fromkeys(self._statuses, NOT_SERVING)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def service(self) -> Service:
        """To give to a `Server`."""
        return Service(HEALTH_DESCRIPTOR, {"Check": self._check, "Watch": self._watch})

    async def _check(self, request: Any, context: Context) -> Any:
        status = self._statuses.get(request.service)
        if status is None:
            raise RpcFailed(f"there is no service {request.service!r}", StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=status)

    async def _watch(self, request: Any, context: Context, send: Send) -> None:
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != last:
                last = status
                await send(HealthCheckResponse(status=status))
                continue  # It may have changed while we waited to send.
            if self._is_stopping:
                raise ShuttingDown("the node is stopping; watch another one")
            await changed.wait()
