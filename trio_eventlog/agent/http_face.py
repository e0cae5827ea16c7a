"""A node as its HTTP interface sees it."""

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.metrics import NodeMetrics
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.readiness import Readiness
from trio_eventlog.agent.services import make_log_sink
from trio_eventlog.agent.status import StatusAnswers
from trio_eventlog.http.exchange import Application
from trio_eventlog.http.probes import LazyApplication
from trio_eventlog.http.readings import Reading
from trio_eventlog.http.server import HttpServer
from trio_eventlog.ids import CATALOG_GROUP, NOBODY, format_id
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.values import NodeStatus

if TYPE_CHECKING:
    from trio_eventlog.ingest.sink import LogSink


class HttpFace:
    """Implements `NodeFace` with the parts of one node."""

    def __init__(self, parts: NodeParts, readiness: Readiness, answers: StatusAnswers) -> None:
        self._parts = parts
        self._readiness = readiness
        self._answers = answers
        self._metrics = NodeMetrics(parts, answers, readiness.unready_because, parts.settings.metrics_partitions_max)

    @property
    def event_log(self) -> EventLog:
        return self._parts.event_log

    @property
    def log_sink(self) -> "LogSink":
        return make_log_sink(self._parts)

    @property
    def stopping(self) -> trio.Event:
        return self._parts.milestones.stopping

    @property
    def now_ns(self) -> Callable[[], int]:
        return self._parts.surroundings.now_ns

    def liveness(self) -> Mapping[str, object]:
        parts = self._parts
        catalog = parts.replicas.find(CATALOG_GROUP)
        leader_id = catalog.leader_id if catalog is not None else NOBODY
        now = datetime.datetime.fromtimestamp(parts.surroundings.now_ns() // 1_000_000_000, datetime.UTC)
        return {
            "node_id": format_id(parts.identity.node_id),
            "is_leader": leader_id == parts.identity.node_id,
            "leader_id": format_id(leader_id) if leader_id != NOBODY else None,
            "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def unready_because(self) -> str:
        return self._readiness.unready_because()

    def metrics(self) -> Iterable[Reading]:
        return self._metrics.read()

    def status(self) -> NodeStatus:
        return self._answers.status()

    def other_addresses(self) -> list[str]:
        own = self._parts.identity.address
        return [server.address for server in self._answers.nodes() if server.address != own and _answers(server.tags)]


def _answers(tags: tuple[tuple[str, str], ...]) -> bool:
    return ("status", "alive") in tags


def make_http_server(parts: NodeParts, face: HttpFace) -> HttpServer:
    """Serves HTTP on the node's port. What it serves is loaded when it is first asked for: a node that starts needs none of it."""
    settings = part_settings.http(parts.settings)

    def load() -> Application:
        # Starlette and msgspec take some 30 ms to import, which no start should wait for.
        from trio_eventlog.http.app import make_application
        from trio_eventlog.http.operations import Shared

        return make_application(face, settings, Shared(parts.http_bodies, parts.http_tails))

    surroundings = parts.surroundings
    return HttpServer(LazyApplication(face, load), settings, rng=surroundings.rng, now_ns=surroundings.now_ns)
