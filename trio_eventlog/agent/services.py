"""The services of a node: what it offers, as plain Python, and the gRPC handlers in front of that."""

from typing import TYPE_CHECKING

from trio_eventlog import part_settings
from trio_eventlog.agent.hand_over import HAND_OVER_SECONDS_MAX
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.agent.status import StatusAnswers
from trio_eventlog.grpc.admin import AdminHandlers
from trio_eventlog.grpc.event_handlers import EventHandlers
from trio_eventlog.grpc.event_log import EventLogHandlers
from trio_eventlog.grpc.health import Health
from trio_eventlog.grpc.log_handlers import LogHandlers
from trio_eventlog.grpc.otlp_handlers import OtlpHandlers
from trio_eventlog.grpc.reflection import reflection_services
from trio_eventlog.grpc.remote_nodes import GrpcNodes
from trio_eventlog.ids import format_id
from trio_eventlog.node.transfer_server import files_of_replicas
from trio_eventlog.rpc import Service
from trio_eventlog.service.backups import Backups
from trio_eventlog.service.cluster import ClusterAdministration
from trio_eventlog.service.consume import ConsumeService
from trio_eventlog.service.event_requests import new_event_id
from trio_eventlog.service.events import EventStore
from trio_eventlog.service.forwarding import Forwarder
from trio_eventlog.service.log_search import LogSearch, RunScan, ScanThreads, run_inline
from trio_eventlog.service.node_event_log import NodeServices
from trio_eventlog.service.node_queue import NodeQueues
from trio_eventlog.service.own_sequences import OwnSequences
from trio_eventlog.service.produce import ProduceService
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller

if TYPE_CHECKING:
    from trio_eventlog.ingest.intake import Intake
    from trio_eventlog.ingest.own_lines import OwnLines
    from trio_eventlog.ingest.sink import LogSink


def make_forwarding(parts: NodeParts, peers: NodePeers) -> None:
    """Make `nodes` and `forwarder` of `parts`."""
    settings = part_settings.forwarding(parts.settings)
    parts.nodes = GrpcNodes(peers.connect, part_settings.rpc(parts.settings), settings.forward_attempt_timeout_seconds)
    parts.forwarder = Forwarder(parts.identity.node_id, parts.broker.group, parts.nodes, settings, parts.surroundings.rng)


def make_services(parts: NodeParts, peers: NodePeers, answers: StatusAnswers) -> None:
    """Make `sequences` and `services` of `parts`: what the node offers to clients of any kind."""
    settings = part_settings.service(parts.settings)
    application = part_settings.application(parts.settings)
    milestones = parts.milestones
    topics = TopicAdministration(parts.broker, parts.forwarder, visible_seconds_max=parts.settings.forward_timeout_seconds)
    parts.sequences = OwnSequences(parts.surroundings.rng, settings.idle_sequences_max)
    producing = ProduceService(parts.broker, topics, parts.forwarder, parts.sequences, settings)
    parts.services = NodeServices(
        topics=topics,
        producing=producing,
        events=EventStore(parts.broker, topics, parts.forwarder, settings, now_ns=parts.surroundings.now_ns),
        consuming=ConsumeService(parts.broker, topics, parts.forwarder, settings, stopping=milestones.stopping),
        cluster=ClusterAdministration(
            parts.broker,
            parts.reconciler.requests,
            parts.forwarder,
            seen=peers.seen,
            status=answers.status,
            view=answers.servers,
            transfer_seconds_max=HAND_OVER_SECONDS_MAX,
        ),
        backups=Backups(
            parts.broker,
            parts.forwarder,
            files_of_replicas(parts.replicas.find, parts.directory),
            part_settings.transfers(parts.settings).piece_bytes_max,
        ),
        log_search=LogSearch(parts.broker, topics, parts.forwarder, part_settings.search(parts.settings), _run_scan(parts)),
        queues=NodeQueues(
            topics,
            producing,
            buffer_bytes=application.buffer_bytes,
            requests_max=application.in_flight_batches,
            creates_topics=settings.creates_topics,
            stopping=milestones.stopping,
        ),
        nodes=parts.nodes,
        ready=milestones.ready,
        stopping=milestones.stopping,
    )


def _run_scan(parts: NodeParts) -> RunScan:
    return run_inline if parts.surroundings.disk is not None else ScanThreads(parts.settings.search_threads)


def make_handlers(parts: NodeParts) -> list[Service]:
    """Make `health` of `parts`, and everything that a gRPC server of this node serves."""
    settings = part_settings.service(parts.settings)
    services = parts.services
    event_log = EventLogHandlers(
        services.producing,
        services.consuming,
        EventHandlers(services.events, services.consuming, services.ready, new_event_id(parts.surroundings.rng)),
        LogHandlers(services.log_search, services.ready),
        settings,
        now_ns=parts.surroundings.now_ns,
        view=services.cluster.view,
        ready=services.ready,
        stopping=services.stopping,
    )
    admin = AdminHandlers(
        services.topics,
        services.cluster,
        services.backups,
        ready=services.ready,
        creates_topics=settings.creates_topics,
    )
    parts.health = Health()
    served = [event_log.service(), admin.service(), parts.health.service()]
    # (Reflection says what the descriptors say, and this one has the messages of another package.)
    return [*served, _make_otlp(parts).service(), *reflection_services(served)]


def _make_otlp(parts: NodeParts) -> OtlpHandlers:
    return OtlpHandlers(
        lambda: make_log_sink(parts),
        part_settings.intake(parts.settings),
        parts.identity.node_id,
        ready=parts.services.ready,
        now_ns=parts.surroundings.now_ns,
    )


def make_log_sink(parts: NodeParts) -> "LogSink":
    """Where log lines go that come to this node."""
    from trio_eventlog.ingest.sink import EventLogSink  # Needed by the first line only.

    return EventLogSink(parts.event_log, batch_bytes=part_settings.upload_batch_bytes(parts.settings))


def make_intake(parts: NodeParts, caller: Caller) -> "Intake":
    """For lines that this node takes now."""
    from trio_eventlog.ingest.intake import Intake  # Needed by the first line only.

    return Intake(
        part_settings.intake(parts.settings),
        received_ns=parts.surroundings.now_ns(),
        caller=caller,
        node_id=format_id(parts.identity.node_id),
    )


def make_own_lines(parts: NodeParts) -> "OwnLines":
    """What this node logs itself, for the log."""
    from trio_eventlog.ingest.own_lines import OwnLines

    return OwnLines(parts.identity.name, lambda: make_intake(parts, NOBODY_IN_PARTICULAR), make_log_sink(parts))
