"""What each part of a node is set to, out of the settings of the node."""

from trio_eventlog.budgets import DescriptorBudgets, divide_descriptors
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.gossip.settings import LAN, LOCAL, WAN, SerfSettings
from trio_eventlog.net.join import JoinSettings
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import MuxSettings
from trio_eventlog.net.network import join_address
from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.gossip_driver import GossipSettings
from trio_eventlog.node.membership import MembershipSettings
from trio_eventlog.node.reconciler import ReconcilerSettings
from trio_eventlog.node.replica import ReplicaSettings
from trio_eventlog.node.replicas import ReplicasSettings
from trio_eventlog.raft import RaftSettings
from trio_eventlog.records import Compression
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.service.forwarding import ForwardingSettings
from trio_eventlog.service.settings import ApplicationSettings, ServiceSettings
from trio_eventlog.setting_fields import JoinTarget, is_ip_address, parse_join
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.patient_disk import PatienceSettings

GOSSIP_PROFILES = {"lan": LAN, "local": LOCAL, "wan": WAN}
LEAVE_DELAY_SECONDS = 0.2
"""How long a node that has left gossip still answers. That it leaves has been told by then, several times over."""
RESPONSE_HEAD_BYTES = 64 * 1024
"""Of a gRPC message to a consumer, kept free for what is around the records."""
MEMBERSHIP_CHANGES_MAX = 256
"""Changes of the membership that wait for an application that reads them slowly, unless it says otherwise."""


def descriptors(settings: NodeSettings, limit: int) -> DescriptorBudgets:
    """How a process that may have `limit` descriptors divides them."""
    return divide_descriptors(
        limit,
        clients_max=settings.max_client_connections,
        peers_max=settings.max_peer_connections,
        probes_max=settings.max_probe_connections,
        unidentified_max=settings.max_unidentified_connections,
    )


def tls(settings: NodeSettings) -> TlsSettings | None:
    if not settings.has_tls:
        return None
    return TlsSettings(
        certificate=settings.tls_cert,
        key=settings.tls_key,
        authority=settings.tls_ca,
        require_client_certificate=settings.tls_require_client_cert,
        peer_name=settings.tls_peer_name,
    )


def addresses_to_join(settings: NodeSettings, looks_up: bool) -> tuple[list[str], list[JoinTarget]]:
    """The addresses that stand for one node each, and what has to be looked up first."""
    fixed: list[str] = []
    named: list[JoinTarget] = []
    for text in settings.join:
        target = parse_join(text)
        if target.is_service or (looks_up and not is_ip_address(target.host)):
            named.append(target)
        else:
            fixed.append(join_address(target.host, target.port))
    return fixed, named


def joiner(settings: NodeSettings) -> JoinSettings:
    return JoinSettings(
        retry_seconds_min=settings.join_retry_seconds_min,
        retry_seconds_max=settings.join_retry_seconds_max,
        refresh_seconds=settings.join_refresh_seconds,
        resolve_seconds_max=settings.dns_timeout_seconds,
        places_max=settings.join_addresses_max,
    )


def links(settings: NodeSettings) -> LinkSettings:
    return LinkSettings(
        queue_bytes_max=settings.link_queue_bytes_max,
        queue_sends_max=settings.link_queue_messages_max,
        body_bytes_max=settings.max_frame_bytes,
        connect_seconds_max=settings.connect_timeout_seconds,
        redial_seconds_min=settings.reconnect_backoff_seconds_min,
        redial_seconds_max=settings.reconnect_backoff_seconds_max,
    )


def patience(settings: NodeSettings) -> PatienceSettings:
    return PatienceSettings(seconds_max=settings.shortage_patience_seconds)


def replicas(settings: NodeSettings, descriptors: DescriptorBudgets) -> ReplicasSettings:
    return ReplicasSettings(
        replica=ReplicaSettings(
            raft=RaftSettings(
                election_timeout_ticks=settings.election_timeout_ticks,
                heartbeat_ticks=settings.heartbeat_ticks,
                max_append_bytes=settings.append_bytes_max,
                max_inflight_messages=settings.inflight_messages_max,
                max_inflight_bytes=settings.inflight_bytes_max,
                max_uncommitted_bytes=settings.uncommitted_bytes_max,
            ),
            driver=DriverSettings(
                inbox_messages_max=settings.inbox_messages_max,
                inbox_bytes_max=settings.inbox_bytes_max,
                proposal_bytes_max=settings.proposal_bytes_max,
                proposals_max=settings.proposals_max,
                under_way_max=settings.proposals_max,
                append_bytes_max=settings.append_bytes_max,
                producer_idle_seconds=settings.producer_idle_seconds,
                sleep_after_ticks=settings.sleep_after_ticks,
            ),
            log=LogSettings(
                segment_bytes=settings.segment_bytes,
                preallocate_bytes=settings.preallocate_bytes,
                index_interval_bytes=settings.index_interval_bytes,
                tail_cache_bytes=settings.tail_cache_bytes,
            ),
        ),
        producer_window_batches=settings.producer_window_batches,
        producers_max=settings.producers_max,
        partitions_max=descriptors.partitions_max - 1,  # without the catalog
    )


def reconciler(settings: NodeSettings) -> ReconcilerSettings:
    return ReconcilerSettings(
        membership=MembershipSettings(
            voters_wanted=settings.voters_wanted,
            stabilisation_seconds=settings.stabilisation_seconds,
            catch_up_entries_max=settings.catch_up_entries_max,
            replica_moves_max=settings.replica_moves_max,
            leader_balance_seconds=settings.leader_balance_seconds,
        ),
        round_seconds=settings.reconcile_seconds,
    )


def service(settings: NodeSettings) -> ServiceSettings:
    return ServiceSettings(
        batch_bytes_max=settings.max_batch_bytes,
        fetch_bytes_max=settings.fetch_bytes_max,
        fetch_records_max=settings.fetch_records_max,
        batch_records_max=settings.max_batch_records,
        fetched_bytes_max=settings.fetched_bytes_max,
        fetched_bytes_per_connection_max=settings.fetched_bytes_per_connection_max,
        slow_consumer_seconds=settings.slow_consumer_seconds,
        response_bytes_max=settings.max_message_bytes - RESPONSE_HEAD_BYTES,
        fetch_wait_seconds_max=settings.fetch_wait_seconds_max,
        linearizable_seconds_max=settings.forward_timeout_seconds,
        stream_requests_max=settings.produce_stream_requests_max,
        forwarded_streams_max=settings.forwarded_streams_max,
        creates_topics=settings.creates_topics,
    )


def application(settings: NodeSettings) -> ApplicationSettings:
    """What an application gets that uses its own node: what a client has by default, within the limits of the node."""
    client = ClientSettings()
    return ApplicationSettings(
        linger_seconds=client.producer_linger_seconds,
        batch_bytes=min(client.producer_batch_bytes, settings.max_batch_bytes),
        batch_records=client.producer_batch_records,
        batch_bytes_max=settings.max_batch_bytes,
        compression=Compression[client.compression.upper()],
        buffer_bytes=client.producer_buffer_bytes,
        in_flight_batches=settings.produce_stream_requests_max,
        buffer_batches=client.consumer_buffer_batches,
        fetch_bytes=min(client.consumer_fetch_bytes, settings.fetch_bytes_max),
        unpacked_bytes_max=client.max_unpacked_bytes,
        retry_seconds=client.consumer_retry_seconds,
        backoff_seconds_min=client.retry_backoff_seconds_min,
        backoff_seconds_max=client.retry_backoff_seconds_max,
        refresh_seconds=client.routing_refresh_seconds,
        membership_changes_max=MEMBERSHIP_CHANGES_MAX,
    )


def rpc(settings: NodeSettings) -> RpcSettings:
    return RpcSettings(
        message_bytes_max=settings.max_message_bytes,
        concurrent_calls_max=settings.streams_per_connection_max,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        useless_frames_max=settings.useless_frames_per_second_max,
    )


def forwarding(settings: NodeSettings) -> ForwardingSettings:
    return ForwardingSettings(
        timeout_seconds=settings.forward_timeout_seconds, attempt_timeout_seconds=settings.forward_attempt_seconds
    )


def mux(settings: NodeSettings, budgets: DescriptorBudgets) -> MuxSettings:
    return MuxSettings(
        unidentified_connections_max=budgets.unidentified,
        clients_max=budgets.clients,
        peers_max=budgets.peers,
        probes_max=budgets.probes,
        identify_seconds_max=settings.peek_timeout_seconds,
        identify_seconds_min=settings.peek_timeout_seconds_min,
        tls_required=settings.has_tls,
    )


def gossip(settings: NodeSettings) -> GossipSettings:
    return GossipSettings(swim=GOSSIP_PROFILES[settings.gossip_profile], serf=SerfSettings(leave_delay_seconds=LEAVE_DELAY_SECONDS))
