"""The services of a node: what clients call on its port, over gRPC."""

from trio_eventlog import part_settings
from trio_eventlog.agent.hand_over import HAND_OVER_SECONDS_MAX
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.peers import NodePeers
from trio_eventlog.agent.status import StatusAnswers
from trio_eventlog.rpc import Service
from trio_eventlog.service.admin import AdminService
from trio_eventlog.service.event_log import EventLogService
from trio_eventlog.service.health import Health
from trio_eventlog.service.lanes import Lanes
from trio_eventlog.service.membership import MembershipAdministration
from trio_eventlog.service.reflection import reflection_services
from trio_eventlog.service.topics import TopicAdministration


def make_services(parts: NodeParts, peers: NodePeers, answers: StatusAnswers) -> list[Service]:
    """Make `lanes`, `event_log` and `health` of `parts`, and everything that a server of this node serves."""
    settings = parts.settings
    service_settings = part_settings.service(settings)
    topics = TopicAdministration(parts.broker, parts.forwarder, visible_seconds_max=settings.forward_timeout_seconds)
    parts.lanes = Lanes(parts.surroundings.rng, service_settings.lanes_idle_max)
    parts.event_log = EventLogService(
        parts.broker,
        topics,
        parts.forwarder,
        parts.lanes,
        service_settings,
        now_ns=parts.surroundings.now_ns,
        servers=answers.servers,
        ready=parts.milestones.ready,
        stopping=parts.milestones.stopping,
    )
    admin = AdminService(
        parts.broker,
        topics,
        parts.forwarder,
        MembershipAdministration(parts.broker, parts.reconciler, parts.forwarder, peers.seen),
        status=answers.status,
        ready=parts.milestones.ready,
        transfer_seconds_max=HAND_OVER_SECONDS_MAX,
        creates_topics=service_settings.creates_topics,
    )
    parts.health = Health()
    services = [parts.event_log.service(), admin.service(), parts.health.service()]
    return [*services, *reflection_services(services)]
