"""What each part of a node is set to: the one place where settings of the node, and values that no operator sets, reach the parts.

The classes of the parts have no defaults. So whoever makes a part, in a test or a benchmark too, has to say what it runs with, and
`trio_eventlog.testing.defaults` takes it from here.
"""

import math

from trio_eventlog.budgets import DescriptorBudgets, divide_descriptors
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.codec.memberlist import WireLimits
from trio_eventlog.codec.peer_frame import KNOWN_IDS_MAX
from trio_eventlog.gossip.settings import LAN, LOCAL, WAN, SerfSettings
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.ingest.settings import IntakeSettings
from trio_eventlog.net.discovery import DiscoverySettings
from trio_eventlog.net.join import JoinSettings
from trio_eventlog.net.links import LinkSettings
from trio_eventlog.net.mux import MuxSettings
from trio_eventlog.net.network import join_address
from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.node.disk_space import DiskSpaceSettings
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.node.membership import MembershipSettings
from trio_eventlog.node.partition_events import EventSettings
from trio_eventlog.node.peer_lives import PeerLivesSettings
from trio_eventlog.node.reconciler_settings import ReconcilerSettings
from trio_eventlog.node.replica import ReplicaSettings
from trio_eventlog.node.replicas import ReplicasSettings
from trio_eventlog.node.retention import RetentionSettings
from trio_eventlog.node.scrubber import ScrubSettings
from trio_eventlog.node.snapshot_sends import SnapshotSendSettings
from trio_eventlog.node.snapshotter import SnapshotterSettings
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.raft import RaftSettings, ReadMode
from trio_eventlog.records import Compression
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.service.forwarding import ForwardingSettings
from trio_eventlog.service.settings import ApplicationSettings, SearchSettings, ServiceSettings
from trio_eventlog.setting_fields import JoinTarget, is_ip_address, parse_join
from trio_eventlog.settings import DAY_SECONDS, KIB, MIB, NodeSettings
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.patient_disk import PatienceSettings

GOSSIP_PROFILES = {"lan": LAN, "local": LOCAL, "wan": WAN}
LEAVE_DELAY_SECONDS = 0.2
"""How long a node that has left gossip still answers. That it leaves has been told by then, several times over."""
RESPONSE_HEAD_BYTES = 64 * KIB
"""Of a gRPC message to a consumer, kept free for what is around the records."""
UNPACKED_BYTES_MAX = 16 * MIB
"""Of a batch, unpacked."""
MEMBERSHIP_CHANGES_MAX = 256
"""Changes of the membership that wait for an application that reads them slowly, unless it says otherwise."""


def descriptors(settings: NodeSettings, limit: int) -> DescriptorBudgets:
    """How a process that may have `limit` descriptors divides them."""
    return divide_descriptors(
        limit,
        inbound_clients_max=settings.inbound_clients_max,
        inbound_peers_max=settings.inbound_peers_max,
        inbound_probes_max=settings.inbound_probes_max,
        inbound_unidentified_max=settings.inbound_unidentified_max,
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
        join_retry_seconds_min=settings.join_retry_seconds_min,
        join_retry_seconds_max=settings.join_retry_seconds_max,
        join_refresh_seconds=settings.join_refresh_seconds,
        dns_timeout_seconds=settings.dns_timeout_seconds,
        join_addresses_max=settings.join_addresses_max,
        log_repeat_seconds=60.0,
    )


def discovery(settings: NodeSettings) -> DiscoverySettings:
    return DiscoverySettings(
        probe_seconds_min=0.1,
        probe_seconds_max=5.0,
        failed_probes_max=3,
        addresses_max=KNOWN_IDS_MAX,
        claims_max=32,
    )


def peer_lives(settings: NodeSettings) -> PeerLivesSettings:
    return PeerLivesSettings(strangers_max=256, write_seconds=1.0, inform_seconds_max=0.5, join_seconds_max=5.0)


def links(settings: NodeSettings) -> LinkSettings:
    return LinkSettings(
        link_queue_bytes_max=settings.link_queue_bytes_max,
        link_queue_messages_max=settings.link_queue_messages_max,
        direct_bytes_max=64 * KIB,
        write_bytes_max=1 * MIB,
        peer_frame_bytes_max=settings.peer_frame_bytes_max,
        receive_chunk_bytes=256 * KIB,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        hello_seconds_max=2.0,
        reconnect_backoff_seconds_min=settings.reconnect_backoff_seconds_min,
        reconnect_backoff_seconds_max=settings.reconnect_backoff_seconds_max,
        ping_interval_seconds=0.5,
        silent_intervals_max=6,
        inbound_links_max=256,
    )


def transfers(settings: NodeSettings) -> TransferSettings:
    return TransferSettings(
        transfers_served_max=settings.transfers_served_max,
        transfers_received_max=settings.transfers_received_max,
        transfer_bytes_per_second=settings.transfer_bytes_per_second,
        piece_bytes_max=256 * KIB,
        transfer_silence_seconds=10.0,
        fetch_retry_seconds_min=0.25,
        fetch_retry_seconds_max=10.0,
        report_seconds=1.0,
    )


def patience(settings: NodeSettings) -> PatienceSettings:
    return PatienceSettings(
        shortage_patience_seconds=settings.shortage_patience_seconds,
        shortage_retry_seconds_min=0.005,
        shortage_retry_seconds_max=0.5,
    )


def raft(settings: NodeSettings) -> RaftSettings:
    return RaftSettings(
        election_timeout_ticks=settings.election_timeout_ticks,
        heartbeat_ticks=settings.heartbeat_ticks,
        append_bytes_max=settings.append_bytes_max,
        inflight_messages_max=settings.inflight_messages_max,
        inflight_bytes_max=settings.inflight_bytes_max,
        uncommitted_bytes_max=settings.uncommitted_bytes_max,
        committed_bytes_per_ready_max=16 * MIB,
        pending_reads_max=1 << 14,
        pre_vote=True,
        check_quorum=True,
        read_mode=ReadMode.SAFE,
        priority=0,
        step_down_on_removal=True,
        step_down_on_stalled_append=True,
        forward_proposals=False,
        validate_configuration_changes=True,
        apply_unstable=False,
    )


def driver(settings: NodeSettings) -> DriverSettings:
    return DriverSettings(
        inbox_messages_max=settings.inbox_messages_max,
        inbox_bytes_max=settings.inbox_bytes_max,
        proposal_bytes_max=settings.proposal_bytes_max,
        proposals_max=settings.proposals_max,
        proposals_in_flight_max=settings.proposals_max,
        append_bytes_max=settings.append_bytes_max,
        apply_bytes_max=4 * MIB,
        apply_at_once_max=256,
        sleep_after_ticks=settings.sleep_after_ticks,
        sleep_unused_after_ticks=1,
        commit_notice_seconds=0.005,
        shortage_retry_seconds=0.5,
        producer_idle_seconds=settings.producer_idle_seconds,
        snapshot_bytes_min=settings.snapshot_bytes_min,
        read_retry_ticks=5,
        read_retry_ticks_max=80,
        read_questions_max=4,
        snapshot_sends=SnapshotSendSettings(
            catch_up_bytes_min=settings.catch_up_bytes_min,
            catch_up_silence_seconds=10.0,
            catch_up_hold_seconds=settings.catch_up_hold_seconds,
        ),
    )


def log(settings: NodeSettings) -> LogSettings:
    return LogSettings(
        segment_bytes=settings.segment_bytes,
        preallocate_bytes=settings.preallocate_bytes,
        index_interval_bytes=settings.index_interval_bytes,
        index_entries_max=16 * 1024,
        tail_cache_bytes=settings.tail_cache_bytes,
    )


def disk_space(settings: NodeSettings) -> DiskSpaceSettings:
    return DiskSpaceSettings(
        disk_reserve_bytes=settings.disk_reserve_bytes,
        disk_free_bytes_min=settings.disk_free_bytes_min,
        disk_check_seconds=settings.disk_check_seconds,
        election_timeout_ticks=settings.election_timeout_ticks,
    )


def scrub(settings: NodeSettings) -> ScrubSettings:
    return ScrubSettings(
        scrub_bytes_per_second=settings.scrub_bytes_per_second, scrub_interval_seconds=settings.scrub_interval_seconds
    )


def replica(settings: NodeSettings) -> ReplicaSettings:
    return ReplicaSettings(raft=raft(settings), driver=driver(settings), log=log(settings))


def replicas(settings: NodeSettings, budgets: DescriptorBudgets) -> ReplicasSettings:
    return ReplicasSettings(
        replica=replica(settings),
        events=events(settings),
        producer_window_batches=settings.producer_window_batches,
        producers_max=settings.producers_max,
        early_groups_max=256,
        early_messages_max=16,
        reset_stagger_seconds=0.04,
        partitions_max=budgets.partitions_max - 1,  # without the catalog
        open_segments_max=budgets.segments,
        opening_max=8,
        made_at_once_max=8,
        making_max=3,
        opening_leader_seconds_max=0.5,
        snapshotter=SnapshotterSettings(
            snapshot_bytes_min=settings.snapshot_bytes_min,
            snapshot_seconds=settings.snapshot_seconds,
            replay_bytes_max=settings.replay_bytes_max,
            snapshot_check_seconds=5.0,
        ),
        retention=RetentionSettings(
            retention_check_seconds=settings.retention_check_seconds,
            trim_seconds_max=5.0,
        ),
        snapshots_at_once_max=2,
        open_retry_seconds_min=0.5,
        open_retry_seconds_max=30.0,
    )


def events(settings: NodeSettings) -> EventSettings:
    return EventSettings(
        event_window_max=settings.event_window_max,
        event_index_batch=2000,
        event_index_retry_seconds=0.005,
        unpacked_bytes_max=UNPACKED_BYTES_MAX,
        event_read_bytes_max=1 * MIB,
    )


def membership(settings: NodeSettings) -> MembershipSettings:
    return MembershipSettings(
        voters_wanted=settings.voters_wanted,
        stabilisation_seconds=settings.stabilisation_seconds,
        catch_up_entries_max=settings.catch_up_entries_max,
        replica_moves_max=settings.replica_moves_max,
        nodes_max=256,
        farewell_seconds=10.0,
        leader_balance_seconds=settings.leader_balance_seconds,
    )


def reconciler(settings: NodeSettings) -> ReconcilerSettings:
    return ReconcilerSettings(
        membership=membership(settings),
        reconcile_seconds=settings.reconcile_seconds,
        answer_seconds_max=1.0,
        step_seconds_max=5.0,
    )


def service(settings: NodeSettings) -> ServiceSettings:
    return ServiceSettings(
        batch_bytes_max=settings.batch_bytes_max,
        unpacked_bytes_max=UNPACKED_BYTES_MAX,
        batch_records_max=settings.batch_records_max,
        fetch_bytes_max=settings.fetch_bytes_max,
        fetch_records_max=settings.fetch_records_max,
        response_bytes_max=settings.message_bytes_max - RESPONSE_HEAD_BYTES,
        event_cache_bytes=settings.event_cache_bytes,
        fetched_bytes_max=settings.fetched_bytes_max,
        fetched_bytes_per_connection_max=settings.fetched_bytes_per_connection_max,
        slow_consumer_seconds=settings.slow_consumer_seconds,
        fetch_wait_seconds_max=settings.fetch_wait_seconds_max,
        forward_timeout_seconds=settings.forward_timeout_seconds,
        produce_stream_requests_max=settings.produce_stream_requests_max,
        forwarded_streams_max=settings.forwarded_streams_max,
        idle_sequences_max=1024,
        creates_topics=settings.creates_topics,
    )


def search(settings: NodeSettings) -> SearchSettings:
    return SearchSettings(
        searches_max=settings.searches_max,
        unpacked_bytes_max=UNPACKED_BYTES_MAX,
        page_lines_bytes_max=min(1 * MIB, settings.message_bytes_max - RESPONSE_HEAD_BYTES),
        page_lines_max=10_000,
        page_bytes=64 * MIB,
        step_bytes=8 * MIB,
    )


def application(settings: NodeSettings) -> ApplicationSettings:
    """What an application gets that uses its own node: what a client has by default, within the limits of the node."""
    client = ClientSettings()
    return ApplicationSettings(
        linger_seconds=client.producer_linger_seconds,
        batch_bytes=min(client.producer_batch_bytes, settings.batch_bytes_max),
        batch_records=client.producer_batch_records,
        batch_bytes_max=settings.batch_bytes_max,
        compression=Compression[client.compression.upper()],
        buffer_bytes=client.producer_buffer_bytes,
        in_flight_batches=settings.produce_stream_requests_max,
        buffer_batches=client.consumer_buffer_batches,
        fetch_bytes=min(client.consumer_fetch_bytes, settings.fetch_bytes_max),
        unpacked_bytes_max=client.unpacked_bytes_max,
        retry_seconds=client.consumer_retry_seconds,
        backoff_seconds_min=client.retry_backoff_seconds_min,
        backoff_seconds_max=client.retry_backoff_seconds_max,
        join_refresh_seconds=client.routing_refresh_seconds,
        membership_changes_max=MEMBERSHIP_CHANGES_MAX,
    )


def rpc(settings: NodeSettings) -> RpcSettings:
    return RpcSettings(
        message_bytes_max=settings.message_bytes_max,
        stream_window_bytes=1 * MIB,
        connection_window_bytes=16 * MIB,
        overdraft_bytes_max=64 * MIB,
        frame_bytes_max=1 * MIB,
        receive_bytes=256 * KIB,
        send_buffer_bytes=1 * MIB,
        streams_per_connection_max=settings.streams_per_connection_max,
        header_bytes_max=16 * KIB,
        header_block_bytes_max=64 * KIB,
        control_frames_max=10_000,
        control_seconds=10.0,
        useless_frames_per_second_max=settings.useless_frames_per_second_max,
        frames_per_pass=128,
        control_bytes_max=256 * KIB,
        preface_timeout_seconds=10.0,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        keepalive_seconds=60.0,
        keepalive_timeout_seconds=20.0,
        call_silence_seconds=math.inf,
        call_slot_seconds=math.inf,
        goodbye_seconds=1.0,
        messages_per_checkpoint=64,
        bytes_per_checkpoint=256 * KIB,
    )


def http(settings: NodeSettings) -> HttpSettings:
    return HttpSettings(
        request_head_bytes_max=32 * KIB,
        request_headers_max=100,
        http_body_bytes_max=settings.http_body_bytes_max,
        request_seconds_max=30.0,
        request_silence_seconds_max=30.0,
        request_idle_seconds_max=75.0,
        http_answer_seconds_max=settings.http_answer_seconds_max,
        answer_stall_seconds_max=60.0,
        linger_seconds_max=1.0,
        linger_bytes_max=1 * MIB,
        page_bytes_max=1 * MIB,
        page_records_max=10_000,
        upload_batch_bytes=upload_batch_bytes(settings),
        upload_progress_seconds=1.0,
        upload_progress_seconds_max=30.0,
        tail_write_bytes=16 * KIB,
        tail_heartbeat_seconds=15.0,
        tail_retry_seconds=1.0,
        intake=intake(settings),
        search_bytes_max=settings.search_bytes_max,
        http_cors_origins=settings.http_cors_origins,
        http_access_log=settings.http_access_log,
    )


def upload_batch_bytes(settings: NodeSettings) -> int:
    """Of what arrives over HTTP, and of log lines."""
    return min(256 * KIB, settings.batch_bytes_max)


def intake(settings: NodeSettings) -> IntakeSettings:
    return IntakeSettings(
        log_line_bytes_max=256 * KIB,
        log_labels_max=64,
        # What may be held by all requests has room for the largest and its body.
        log_request_bytes_max=min(32 * MIB, settings.http_bodies_bytes_max // 2),
    )


def forwarding(settings: NodeSettings) -> ForwardingSettings:
    return ForwardingSettings(
        forward_timeout_seconds=settings.forward_timeout_seconds,
        forward_attempt_timeout_seconds=settings.forward_attempt_seconds,
        forward_backoff_seconds_min=0.01,
        forward_backoff_seconds_max=0.5,
    )


def mux(settings: NodeSettings, budgets: DescriptorBudgets) -> MuxSettings:
    return MuxSettings(
        inbound_unidentified_max=budgets.unidentified,
        inbound_clients_max=budgets.clients,
        inbound_peers_max=budgets.peers,
        inbound_probes_max=budgets.probes,
        peek_timeout_seconds=settings.peek_timeout_seconds,
        peek_timeout_seconds_min=settings.peek_timeout_seconds_min,
        tls_required=settings.has_tls,
        accept_retry_seconds=0.1,
        close_seconds_max=1.0,
        log_interval_seconds=1.0,
    )


def gossip(settings: NodeSettings) -> GossipSettings:
    return GossipSettings(
        swim=GOSSIP_PROFILES[settings.gossip_profile],
        serf=serf(settings),
        limits=gossip_limits(),
        label=b"",
        streams_max=128,
        streams_bytes_max=32 * MIB,
        requests_max=1024,
        packets_per_round_max=4096,
        turn_seconds_max=0.01,
        seed_retry_seconds_min=0.5,
        seed_retry_seconds_max=30.0,
        hint_attempts_max=5,
        leave_seconds_max=15.0,
        log_interval_seconds=60.0,
        log_lines_max=200,
    )


def gossip_limits() -> WireLimits:
    return WireLimits(
        packet_inflated_bytes_max=128 * KIB,
        packet_messages_max=255,
        stream_bytes_max=4 * MIB,
        stream_inflated_bytes_max=1 * MIB,
        members_max=4096,
        member_bytes_max=8 * KIB,
    )


def serf(settings: NodeSettings) -> SerfSettings:
    return SerfSettings(
        broadcast_timeout_seconds=5.0,
        leave_told_max=32,
        leave_delay_seconds=LEAVE_DELAY_SECONDS,
        leaving_seconds_max=30.0,
        reap_interval_seconds=15.0,
        failed_kept_seconds=DAY_SECONDS,
        left_kept_seconds=DAY_SECONDS,
        reconnect_interval_seconds=30.0,
        intents_kept_seconds=300.0,
        intents_max=4096,
        flap_seconds=60.0,
        query_timeout_multiplier=16,
        query_bytes_max=1024,
        query_response_bytes_max=1024,
        event_bytes_max=512,
        recent_times_max=512,
        recent_per_time_max=128,
        recent_bytes_max=4 * MIB,
        relay_factor_max=8,
        state_events_bytes_max=64 * KIB,
        open_queries_max=256,
        ignores_events_before_join=True,
    )
