"""What an operator sets, and where it is read from: flag, then `TRIO_EVENTLOG_*` variable, then TOML file, then default.

`NodeSettings` and `ClientSettings` are plain frozen values; an embedded node is given one directly. The loader derives flags,
variables and TOML keys from the fields themselves, so that there is no second list to keep.
"""

import argparse
import difflib
import ipaddress
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from trio_eventlog.bounds import PRODUCERS_MAX, WINDOW_BATCHES_MAX
from trio_eventlog.client.settings import ClientSettings as ClientSettings
from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_fields import (
    ADDRESS,
    ADDRESSES,
    COUNT,
    DURATION,
    JOIN_TARGETS,
    NAME,
    PATH,
    SIZE,
    SWITCH,
    TEXT,
    WORDS,
    Kind,
    format_address,
    is_ip_address,
    parse_address,
    refuse,
    setting,
    settings_of,
    show_value,
)
from trio_eventlog.texts import check_host, shown

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
DAY_SECONDS = 86400.0
ENVIRONMENT_PREFIX = "TRIO_EVENTLOG_"
CLIENT_PREFIX = "TRIO_EVENTLOG_CLIENT_"
FORWARD_ATTEMPT_SECONDS_MIN = 0.5
_WILDCARDS = frozenset({"0.0.0.0", "::", "*"})
_BESIDE_SETTINGS = frozenset({"TARGET", "CONFIG"})
"""Variables of the command line that are no node settings."""

T = TypeVar("T", "NodeSettings", ClientSettings)


@attrs.frozen(slots=True, kw_only=True)
class NodeSettings:
    """Settings of one node. Frozen, complete, checked once: SettingsError names the setting and the value."""

    # Who and where
    data_dir: str = setting(
        PATH,
        "trio-eventlog-data",
        "Directory of everything the node keeps. Made when missing; one node only.",
        group="Node and cluster",
    )
    node_name: str = setting(
        NAME,
        "",
        "Name that people and gossip see. Unique in the cluster: without one, several nodes of one host differ by the id.",
        group="Node and cluster",
        default_text="the host's name and the beginning of the node's id",
    )
    listen: str = setting(
        ADDRESS,
        "127.0.0.1:8400",
        "Address of every protocol, TCP and UDP. Port 0: any free one, told in the start line.",
        group="Node and cluster",
    )
    advertise: str = setting(
        ADDRESS,
        "",
        "Address that other nodes and clients are told. Set it behind a port mapping.",
        group="Node and cluster",
        default_text="the listen address; when that is 0.0.0.0 or [::], the node name with the same port",
    )
    join: Sequence[str] = setting(
        JOIN_TARGETS,
        (),
        "Where to look for other nodes: every address of a host is asked. `dns://HOST` is HOST:8400; `dns+srv://_eventlog._tcp.NAME`,"
        " or short `dns+srv://NAME`, takes hosts and ports from SRV records. Several make the start robust.",
        group="Node and cluster",
    )
    join_retry_seconds_min: float = setting(
        DURATION,
        0.25,
        "Wait before a name in `join` is looked up and asked again; doubles each time, with jitter.",
        group="Node and cluster",
        minimum=0.01,
        maximum=3600,
    )
    join_retry_seconds_max: float = setting(
        DURATION,
        5.0,
        "Longest such wait.",
        group="Node and cluster",
        minimum=0.01,
        maximum=3600,
    )
    join_refresh_seconds: float = setting(
        DURATION,
        60.0,
        "How often names in `join` are asked while the node knows a leader.",
        group="Node and cluster",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    join_addresses_max: int = setting(
        COUNT, 64, "Addresses of one name in `join` that are asked.", group="Node and cluster", minimum=1, maximum=4096
    )
    dns_servers: Sequence[str] = setting(
        ADDRESSES,
        (),
        "DNS servers, IP:PORT, that names in `join` are looked up at.",
        group="Node and cluster",
        default_text="the system's way for hosts, the servers of /etc/resolv.conf for SRV records",
    )
    dns_timeout_seconds: float = setting(
        DURATION, 5.0, "How long one look-up of a name in `join` may take.", group="Node and cluster", minimum=0.001, maximum=3600
    )
    bootstrap_expect: int | None = setting(
        COUNT,
        None,
        "How many nodes form the cluster at first start. A node with data ignores it.",
        group="Node and cluster",
        default_text="1, or none (join only) when `join` is given",
        minimum=1,
        maximum=99,
    )
    accept_loss: bool = setting(
        SWITCH,
        False,
        "Go on with what is left when the files of the node show that acknowledged entries or a vote are lost. For one start, when"
        " there is no backup: without it such a replica has no vote, and a node that is its whole cluster does not start.",
        group="Node and cluster",
    )
    cluster_name: str = setting(NAME, "default", "Nodes of another cluster name are refused.", group="Node and cluster")
    auto_create_topics: bool | None = setting(
        SWITCH,
        None,
        "Make a topic when it is first produced to or consumed from.",
        group="Node and cluster",
        default_text="on for a single node, off for a cluster",
    )
    shutdown_timeout_seconds: float = setting(
        DURATION,
        10.0,
        "How long a graceful stop lets running calls finish.",
        group="Node and cluster",
        minimum=0,
        maximum=3600,
    )

    gossip_profile: str = setting(
        TEXT,
        "lan",
        "How fast and how patient gossip is: local for one machine, lan, wan for slow links. The same on all nodes.",
        group="Node and cluster",
        choices=("local", "lan", "wan"),
    )

    # Membership
    voters_wanted: int = setting(
        COUNT,
        5,
        "Learners are promoted up to so many voters of the catalog; odd. Never below the size the cluster began with.",
        group="Membership",
        minimum=1,
        maximum=99,
    )
    stabilisation_seconds: float = setting(
        DURATION,
        10.0,
        "A new node votes and carries partitions after it was healthy for so long without a break.",
        group="Membership",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    catch_up_entries_max: int = setting(
        COUNT,
        250,
        "A node so many entries behind its leader, or less, has caught up.",
        group="Membership",
        minimum=1,
        maximum=1_000_000,
    )
    replica_moves_max: int = setting(
        COUNT,
        8,
        "Partitions whose replicas move between nodes at the same time.",
        group="Membership",
        minimum=1,
        maximum=1000,
    )
    leader_balance_seconds: float = setting(
        DURATION,
        5.0,
        "A node that leads partitions which others should lead hands over one so often, once they are healthy; 0: never.",
        group="Membership",
        minimum=0,
        maximum=DAY_SECONDS,
    )
    reconcile_seconds: float = setting(
        DURATION,
        1.0,
        "How often leaders look at who is there and who should be.",
        group="Membership",
        minimum=0.01,
        maximum=3600,
    )

    # Security
    tls_cert: str = setting(PATH, "", "Certificate chain (PEM). With `tls_key` it turns TLS on.", group="Security")
    tls_key: str = setting(PATH, "", "Private key of the certificate (PEM).", group="Security")
    tls_ca: str = setting(PATH, "", "Certificates (PEM) that vouch for other nodes and for clients.", group="Security")
    tls_require_client_cert: bool = setting(
        SWITCH, False, "Refuse clients without a certificate vouched for by `tls_ca`.", group="Security"
    )
    tls_peer_name: str = setting(
        TEXT,
        "",
        "Name that the certificate of every node carries beside others, as it is and not by a wildcard, and no client's. The same"
        " on all nodes.",
        group="Security",
        default_text="none: the certificate of a node is for the host that it advertises",
    )
    peer_secret_file: str = setting(
        PATH,
        "",
        "Secret that the nodes of a cluster share and prove to each other on each link; at least 16 bytes, one a line: the first"
        " proves, all are accepted. All nodes or none. Read again on SIGHUP. Without TLS it is what makes a stranger no peer.",
        group="Security",
        default_text="none: without TLS whoever reaches the port can be a node",
    )
    gossip_key_file: str = setting(
        PATH,
        "",
        "Keys that encrypt gossip: 16, 24 or 32 bytes in base64, one a line; the first encrypts, all decrypt. Written again when"
        " the keys were changed through gossip.",
        group="Security",
        default_text="no encryption; with TLS on, no gossip",
    )
    http_cors_origins: Sequence[str] = setting(
        WORDS,
        (),
        "Origins, such as https://example.org, whose pages may use the HTTP interface from a browser (CORS). `*` stands for all.",
        group="Security",
    )
    acl_model: str = setting(PATH, "", "Model of the access rules. Not in this release yet: refused.", group="Security")
    acl_policy: str = setting(PATH, "", "The access rules. Not in this release yet: refused.", group="Security")

    # Logs
    log_format: str = setting(TEXT, "text", "How log lines are written to standard error.", group="Logs", choices=("text", "json"))
    log_level: str = setting(
        TEXT,
        "info",
        "Least important level that is written.",
        group="Logs",
        choices=("debug", "info", "warning", "error"),
    )
    http_access_log: bool = setting(
        SWITCH,
        False,
        "Write a line for each HTTP request: method, path, status, bytes, milliseconds, client, request id.",
        group="Logs",
    )

    # Raft
    tick_seconds: float = setting(
        DURATION, 0.1, "Length of a Raft tick. 0.03 suits a local network.", group="Raft", minimum=0.001, maximum=60
    )
    election_timeout_ticks: int = setting(
        COUNT,
        10,
        "Silence of a leader, in ticks, after which another is elected; randomised up to twice this. The same on all nodes.",
        group="Raft",
        minimum=3,
        maximum=10_000,
    )
    heartbeat_ticks: int = setting(
        COUNT, 1, "Ticks between a leader's heartbeats. Well below the election timeout.", group="Raft", minimum=1, maximum=1000
    )
    sleep_after_ticks: int = setting(
        COUNT,
        30,
        "A partition in which nothing happens for so many ticks falls asleep: it costs nothing until something is to be done."
        " 0: never.",
        group="Raft",
        minimum=0,
        maximum=1_000_000,
    )
    append_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Most entry bytes in one append message to a follower; one entry always goes.",
        group="Raft",
        minimum=4 * KIB,
        maximum=64 * MIB,
    )
    inflight_messages_max: int = setting(
        COUNT, 256, "Append messages to one follower without its answer.", group="Raft", minimum=1, maximum=100_000
    )
    inflight_bytes_max: int = setting(
        SIZE, 16 * MIB, "Entry bytes to one follower without its answer.", group="Raft", minimum=64 * KIB, maximum=4 * GIB
    )
    uncommitted_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Entry bytes that a leader has taken and not yet committed, per group; then proposals wait.",
        group="Raft",
        minimum=64 * KIB,
        maximum=4 * GIB,
    )

    # Storage
    segment_bytes: int = setting(
        SIZE, 64 * MIB, "A segment is sealed when it reaches this size.", group="Storage", minimum=4 * KIB, maximum=4 * GIB
    )
    snapshot_bytes_min: int = setting(
        SIZE,
        MIB,
        "No snapshot of a group is taken before its log has grown by this since the last one. Smaller: quiet groups get more and"
        " smaller segments; larger: a start has more to read.",
        group="Storage",
        minimum=4 * KIB,
        maximum=4 * GIB,
    )
    snapshot_seconds: float = setting(
        DURATION,
        600.0,
        "A group that does not fill a segment within this time gets a snapshot all the same, if its log has grown by"
        " snapshot_bytes_min.",
        group="Storage",
        minimum=1.0,
        maximum=7 * DAY_SECONDS,
    )
    replay_bytes_max: int = setting(
        SIZE,
        512 * MIB,
        "Bytes of log that a start may have to read, over all groups. Above, segments are sealed and snapshots taken, of the groups"
        " that have most of it first. Smaller: more small segments; larger: a slower start.",
        group="Storage",
        minimum=64 * KIB,
        maximum=1024 * GIB,
    )
    preallocate_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Step in which the active segment is made larger ahead of the writes. 0: never; then an append that finds the disk full"
        " ends the node.",
        group="Storage",
        minimum=0,
        maximum=4 * GIB,
    )
    disk_reserve_bytes: int = setting(
        SIZE,
        64 * MIB,
        "Size of a file that holds room on the disk, and is removed when the disk is full: so that removing segments, deleting"
        " topics and stopping in good order work all the same. 0: none, and they may fail.",
        group="Storage",
        minimum=0,
        maximum=64 * GIB,
    )
    disk_free_bytes_min: int = setting(
        SIZE,
        128 * MIB,
        "The node takes no new records (DISK_FULL) while less is free on the disk of `data_dir`, beside the reserve, and hands"
        " the partitions that it leads to nodes with room. It takes them again when a quarter more is free. 0: never refused early;"
        " an append that finds the disk full waits.",
        group="Storage",
        minimum=0,
        maximum=1024 * GIB,
    )
    disk_check_seconds: float = setting(
        DURATION,
        1.0,
        "Interval between two questions to the disk how much is free. What is written within one has to fit `disk_free_bytes_min`.",
        group="Storage",
        minimum=0.01,
        maximum=3600,
    )
    index_interval_bytes: int = setting(
        SIZE,
        64 * KIB,
        "Log bytes between two entries of the sparse index.",
        group="Storage",
        minimum=1 * KIB,
        maximum=64 * MIB,
    )
    tail_cache_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Newest entries of a group kept in memory, for followers and consumers close behind.",
        group="Storage",
        minimum=0,
        maximum=16 * GIB,
    )
    shortage_patience_seconds: float = setting(
        DURATION,
        10.0,
        "How long the node tries again to open a file when the process is short of descriptors or memory. Connections of clients"
        " are closed meanwhile. Then a read fails; partitions that are being opened or appended to wait, and it tries again.",
        group="Storage",
        minimum=0,
        maximum=3600,
    )
    disk_threads: int = setting(COUNT, 4, "Threads for writes and fsyncs of all groups.", group="Storage", minimum=1, maximum=256)

    # Limits on work
    message_bytes_max: int = setting(
        SIZE,
        4 * MIB,
        "Largest gRPC message taken or sent.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * MIB,
    )
    batch_bytes_max: int = setting(
        SIZE, 1 * MIB, "Largest batch taken from a producer.", group="Limits", minimum=1 * KIB, maximum=32 * MIB
    )
    inbox_messages_max: int = setting(
        COUNT, 4096, "Peer messages waiting for a group; more are dropped, which Raft tolerates.", group="Limits", minimum=1
    )
    inbox_bytes_max: int = setting(
        SIZE, 64 * MIB, "Bytes of peer messages waiting for a group; more are dropped.", group="Limits", minimum=64 * KIB
    )
    proposals_max: int = setting(
        COUNT, 4096, "Batches waiting for a group's leader; then producers wait.", group="Limits", minimum=1
    )
    proposal_bytes_max: int = setting(
        SIZE, 64 * MIB, "Bytes of batches waiting for a group's leader; then producers wait.", group="Limits", minimum=64 * KIB
    )
    produce_stream_requests_max: int = setting(
        COUNT, 32, "Requests of one produce stream under way; then its client waits.", group="Limits", minimum=1
    )
    producer_window_batches: int = setting(
        COUNT,
        5,
        "Newest batches remembered of an idempotent producer in a partition. A client keeps at most as many in flight.",
        group="Limits",
        minimum=1,
        maximum=WINDOW_BATCHES_MAX,
    )
    producers_max: int = setting(
        COUNT,
        10_000,
        "Idempotent producers remembered in a partition, the least recently heard forgotten first. The same on all nodes.",
        group="Limits",
        minimum=1,
        maximum=PRODUCERS_MAX,
    )
    producer_idle_seconds: float = setting(
        DURATION,
        60.0,
        "A producer that wrote less than this ago is not forgotten, so that a batch it repeats is not taken twice: when"
        " `producers_max` did, new ones are refused with OVERLOADED. More than a client's `request_timeout_seconds`.",
        group="Limits",
        minimum=0.0,
        maximum=86400.0,
    )
    fetch_records_max: int = setting(
        COUNT, 100_000, "Most records in one answer to a consumer.", group="Limits", minimum=1, maximum=10_000_000
    )
    fetch_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Most bytes of batches in one answer to a consumer; one batch always goes.",
        group="Limits",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    batch_records_max: int = setting(
        COUNT, 250_000, "Most records in a batch taken from a producer.", group="Limits", minimum=1, maximum=10_000_000
    )
    fetched_bytes_max: int = setting(
        SIZE,
        256 * MIB,
        "Bytes of records fetched for consumers and not sent yet, of all connections together. Then consumers wait.",
        group="Limits",
        minimum=1 * MIB,
        maximum=64 * GIB,
    )
    fetched_bytes_per_connection_max: int = setting(
        SIZE, 32 * MIB, "The same of one connection.", group="Limits", minimum=64 * KIB, maximum=16 * GIB
    )
    slow_consumer_seconds: float = setting(
        DURATION,
        10.0,
        "A consumer that does not read what was fetched for it for so long, while others wait for memory, is sent away.",
        group="Limits",
        minimum=0.01,
        maximum=3600,
    )
    forwarded_streams_max: int = setting(
        COUNT,
        64,
        "The number of consumers' streams, all together, that this node reads from another node and passes on. Each may hold an"
        " answer (fetch_bytes_max) here. Further ones get OVERLOADED: such a consumer reads at a node that has the partition.",
        group="Limits",
        minimum=1,
        maximum=1_000_000,
    )
    fetch_wait_seconds_max: float = setting(
        DURATION, 60.0, "Longest that a fetch may wait for the first record.", group="Limits", minimum=0, maximum=DAY_SECONDS
    )
    http_bodies_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of HTTP bodies, of requests and answers, held at once by all connections together; more are answered with 503.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * GIB,
    )
    http_body_bytes_max: int = setting(
        SIZE,
        4 * MIB,
        "Largest body of one HTTP request, inflated; more is answered with 413. Uploads of lines have no limit, but each line has"
        " this one. A body is decoded in one turn of the event loop: 4MiB of JSON take some 20 ms.",
        group="Limits",
        minimum=1 * KIB,
        maximum=64 * MIB,
    )
    http_answer_seconds_max: float = setting(
        DURATION,
        60.0,
        "Longest that an HTTP request may take until its answer begins; then 503, or 504 when the outcome is unknown. Live tails"
        " and uploads of lines take as long as they take.",
        group="Limits",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    http_tails_max: int = setting(
        COUNT,
        4096,
        "Live tails over HTTP at the same time; one more is answered with 429. Each takes some 100 KiB.",
        group="Limits",
        minimum=1,
        maximum=1_000_000,
    )
    metrics_partitions_max: int = setting(
        COUNT,
        200,
        "Partitions with series of their own in `/metrics`; `eventlog_partitions_without_series` has the number of the others. Each"
        " has seven series; 200 partitions take some 12 ms of the processor for each question.",
        group="Limits",
        minimum=0,
        maximum=100_000,
    )
    forward_timeout_seconds: float = setting(
        DURATION, 30.0, "Longest that a forwarded call may take.", group="Limits", minimum=0.001, maximum=DAY_SECONDS
    )
    forward_attempt_timeout_seconds: float | None = setting(
        DURATION,
        None,
        "Silence of a node that a call was forwarded to, after which its connection is given up and another node is asked.",
        group="Limits",
        minimum=0.001,
        maximum=DAY_SECONDS,
        default_text="the election timeout, at least 0.5 s",
    )

    # Connections
    peek_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "How long a new connection may take to show its first bytes, TLS included.",
        group="Connections",
        minimum=0.001,
        maximum=3600,
    )
    peek_timeout_seconds_min: float = setting(
        DURATION,
        0.5,
        "What that time falls to as the last half of `inbound_unidentified_max` fills up.",
        group="Connections",
        minimum=0.001,
        maximum=3600,
    )
    raise_descriptor_limit: bool | None = setting(
        SWITCH,
        None,
        "Raise the soft limit of open files and connections of the process (`ulimit -n`) to the hard one at start. What is there is"
        " then divided, logged in one line and shown by `status`.",
        group="Connections",
        default_text="on in the daemon, off in a program that embeds a node",
    )
    inbound_clients_max: int | None = setting(
        COUNT,
        None,
        "Connections of clients. When one more comes, the one that deserves its place least is closed: of an address that has more"
        " than its share, never a request, idle longest.",
        group="Connections",
        default_text="a third of the descriptors, at most 4096",
        minimum=1,
        maximum=1_000_000,
    )
    inbound_peers_max: int | None = setting(
        COUNT,
        None,
        "Connections of peers, which no client takes.",
        group="Connections",
        default_text="a twelfth of the descriptors, 16 to 256",
        minimum=8,
        maximum=100_000,
    )
    inbound_probes_max: int = setting(
        COUNT,
        16,
        "Connections that ask for /health or /ready first, which no client takes. More count as clients.",
        group="Connections",
        minimum=1,
        maximum=10_000,
    )
    inbound_unidentified_max: int = setting(
        COUNT,
        256,
        "Connections that have not shown their first bytes, a twelfth of the descriptors at most. When one more comes, the oldest"
        " of the address that has most of them is closed.",
        group="Connections",
        minimum=1,
    )
    streams_per_connection_max: int = setting(
        COUNT, 1024, "Calls at once on one gRPC connection.", group="Connections", minimum=1, maximum=1_000_000
    )
    useless_frames_per_second_max: int = setting(
        COUNT,
        1000,
        "HTTP/2 frames that make work and no progress (resets, pings, settings), of all connections together. When there are more,"
        " connections that sent more than an equal part wait until the second is over.",
        group="Connections",
        minimum=10,
        maximum=1_000_000,
    )
    idle_timeout_seconds: float = setting(
        DURATION, 600.0, "A client connection without calls is closed after this long.", group="Connections", minimum=0.001
    )
    link_queue_messages_max: int = setting(
        COUNT, 4096, "Messages waiting for a peer; more are dropped.", group="Connections", minimum=1
    )
    link_queue_bytes_max: int = setting(
        SIZE, 64 * MIB, "Bytes of messages waiting for a peer; more are dropped.", group="Connections", minimum=64 * KIB
    )
    peer_frame_bytes_max: int = setting(
        SIZE,
        16 * MIB,
        "Largest frame taken from a peer. Above append_bytes_max and batch_bytes_max.",
        group="Connections",
        minimum=64 * KIB,
        maximum=1 * GIB,
    )
    transfers_served_max: int = setting(
        COUNT,
        4,
        "Other nodes that this one serves whole files of its logs to at the same time. More wait, or ask another node.",
        group="Connections",
        minimum=1,
        maximum=1000,
    )
    transfers_received_max: int = setting(
        COUNT,
        2,
        "Partitions for which this node fetches whole files from other nodes at the same time. Others wait.",
        group="Connections",
        minimum=1,
        maximum=1000,
    )
    transfer_bytes_per_second: int = setting(
        SIZE,
        0,
        "Bytes of files per second that this node serves to all other nodes together. 0: as fast as it can. Too small, and a new"
        " node takes long until it has its data; too large, and clients wait longer while files are served.",
        group="Connections",
        minimum=0,
        maximum=1024 * GIB,
    )
    connect_timeout_seconds: float = setting(
        DURATION, 2.0, "How long connecting to a peer may take, TLS included.", group="Connections", minimum=0.001, maximum=3600
    )
    reconnect_backoff_seconds_min: float = setting(
        DURATION,
        0.05,
        "Wait before the first new attempt to reach a peer; doubles each time, with jitter.",
        group="Connections",
        minimum=0.001,
        maximum=3600,
    )
    reconnect_backoff_seconds_max: float = setting(
        DURATION, 2.0, "Longest wait before an attempt to reach a peer.", group="Connections", minimum=0.001, maximum=3600
    )

    def __attrs_post_init__(self) -> None:
        for name in ("data_dir", "cluster_name"):
            if not getattr(self, name):
                raise refuse(name, "", "it cannot be empty")
        if self.node_name and not self.advertise and is_wildcard(parse_address(self.listen)[0]):
            try:
                check_host(self.node_name)
            except ValueError as error:
                why = f"with listen {self.listen} others are told it as the host where this node is, and {error}; set advertise"
                raise refuse("node_name", shown(self.node_name), why) from None
        if not self.voters_wanted % 2:
            raise refuse("voters_wanted", self.voters_wanted, "it is even, which tolerates no more failures than one less")
        if bool(self.tls_cert) != bool(self.tls_key):
            name, other = ("tls_key", "tls_cert") if self.tls_cert else ("tls_cert", "tls_key")
            raise refuse(name, "", f"{other} is given, and one does not work without the other")
        for server in self.dns_servers:
            if not is_ip_address(parse_address(server)[0]):
                raise refuse("dns_servers", server, "a DNS server is named by its IP address")
        if self.tls_require_client_cert and not (self.tls_cert and self.tls_ca):
            raise refuse("tls_require_client_cert", True, "it needs tls_cert, tls_key and tls_ca")
        if self.tls_peer_name and not self.tls_ca:
            raise refuse("tls_peer_name", self.tls_peer_name, "it needs tls_cert, tls_key and tls_ca")
        if self.tls_cert and not self.tls_ca and (self.join or self.bootstraps > 1):
            raise refuse("tls_ca", "", "nodes know each other by certificates that it vouches for")
        for name in ("acl_model", "acl_policy"):
            # Known names with no effect yet. Who sets one counts on being protected by it.
            if getattr(self, name):
                raise refuse(name, getattr(self, name), "this release cannot do that yet; leave it out")
        if self.heartbeat_ticks * 2 > self.election_timeout_ticks:
            raise refuse(
                "heartbeat_ticks",
                self.heartbeat_ticks,
                f"it is above half of election_timeout_ticks, {self.election_timeout_ticks}",
            )
        for small, large, room in (
            ("batch_bytes_max", "message_bytes_max", 64 * KIB),
            ("fetch_bytes_max", "message_bytes_max", 64 * KIB),
            ("batch_bytes_max", "peer_frame_bytes_max", 64 * KIB),
            ("append_bytes_max", "peer_frame_bytes_max", 64 * KIB),
            ("append_bytes_max", "inflight_bytes_max", 0),
            ("batch_bytes_max", "proposal_bytes_max", 0),
            ("batch_bytes_max", "uncommitted_bytes_max", 0),
            ("batch_bytes_max", "inbox_bytes_max", 0),
            ("batch_bytes_max", "link_queue_bytes_max", 0),
            ("reconnect_backoff_seconds_min", "reconnect_backoff_seconds_max", 0),
            ("join_retry_seconds_min", "join_retry_seconds_max", 0),
        ):
            if getattr(self, small) + room > getattr(self, large):
                less = f", less {room} bytes for what is around it" if room else ""
                raise refuse(small, getattr(self, small), f"it is above {large}, {getattr(self, large)}{less}")

    @property
    def bootstraps(self) -> int:
        """How many nodes form the cluster at first start; 0: this node only joins."""
        if self.bootstrap_expect is not None:
            return self.bootstrap_expect
        return 0 if self.join else 1

    @property
    def creates_topics(self) -> bool:
        """Whether topics are made on first use."""
        if self.auto_create_topics is not None:
            return self.auto_create_topics
        return self.bootstraps == 1 and not self.join

    @property
    def forward_attempt_seconds(self) -> float:
        """How long a node that a call was forwarded to may stay silent."""
        if self.forward_attempt_timeout_seconds is not None:
            return self.forward_attempt_timeout_seconds
        # As long as followers wait for a leader, but never less than a slow network takes for a PING and its answer.
        return max(self.election_timeout_ticks * self.tick_seconds, FORWARD_ATTEMPT_SECONDS_MIN)

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_cert)

    def advertised(self, port: int, host_name: str = "") -> str:
        """The address others are told, `port` being the one that was bound; `host_name` is used when nothing else says where."""
        if self.advertise:
            return self.advertise
        host, _ = parse_address(self.listen)
        if is_wildcard(host):
            host = self.node_name or host_name or host
        return format_address(host, port)


def is_loopback(host: str) -> bool:
    """Only programs of the same machine reach `host`, as far as its name tells."""
    return ipaddress.ip_address(host).is_loopback if is_ip_address(host) else host.removesuffix(".").lower() == "localhost"


def is_wildcard(host: str) -> bool:
    """`host` means every address of the machine, which is no address for others to use."""
    return host in _WILDCARDS


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """A flag for every setting, under the headings of the groups. What is not given is None in the namespace."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, described in settings_of(cls).items():
        if described.group not in groups:
            groups[described.group] = parser.add_argument_group(described.group)
        flag = "--" + name.replace("_", "-")
        text = f"{described.help} Default: {described.default_text}.".replace("%", "%%")
        group = groups[described.group]
        if described.kind is SWITCH:
            group.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif described.choices:
            group.add_argument(flag, dest=name, choices=described.choices, help=text)
        else:
            group.add_argument(
                flag,
                dest=name,
                metavar=described.kind.metavar,
                action="append" if described.kind.repeatable else "store",
                help=text,
            )


def load_settings(
    cls: type[T],
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Mapping[str, object] | None = None,
    file_name: str = "the settings file",
) -> T:
    """Settings from, in order of precedence, flags, environment, file, defaults.

    Args:
        cls: NodeSettings or ClientSettings.
        flags: values by setting name, as `add_flags` leaves them; None values and names of other flags are passed over.
        environment: `os.environ`. Unknown variables with the prefix of the class are refused.
        file: the parsed TOML. Unknown keys are refused.
        file_name: what errors call the file.

    Raises:
        SettingsError: names the setting and the value.
    """
    known = settings_of(cls)
    prefix = ENVIRONMENT_PREFIX if cls is NodeSettings else CLIENT_PREFIX
    values: dict[str, object] = {}
    for key, raw in (file or {}).items():
        if key not in known:
            raise SettingsError(f"{file_name}: unknown setting {key!r}{_nearest(key, known)}")
        values[key] = _from_toml(key, known[key].kind, raw)
    for variable, text in sorted((environment or {}).items()):
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix)
        if cls is NodeSettings and (name in _BESIDE_SETTINGS or variable.startswith(CLIENT_PREFIX)):
            continue
        if name.lower() not in known or name != name.upper():
            variables = [prefix + key.upper() for key in known]
            raise SettingsError(f"environment: unknown variable {variable}{_nearest(variable.upper(), variables)}")
        values[name.lower()] = _from_text(name.lower(), known[name.lower()].kind, text)
    for name in known:
        flag = (flags or {}).get(name)
        if flag is None:
            continue
        if isinstance(flag, list | tuple):
            values[name] = tuple(flag)
        else:
            values[name] = _from_text(name, known[name].kind, flag) if isinstance(flag, str) else flag
    # Keys were checked above, values are checked by the fields' validators.
    return cls(**values)  # type: ignore[arg-type]


def read_settings_file(path: str) -> dict[str, object]:
    """The TOML file's top level. Raises SettingsError when it cannot be read or is no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror or error}; check the path and its permissions") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: not TOML: {error}") from error


def reference_table(cls: type) -> str:
    """The settings of `cls` as Markdown tables, one for each group."""
    prefix = ENVIRONMENT_PREFIX if cls is NodeSettings else CLIENT_PREFIX
    lines: list[str] = []
    group = ""
    for name, described in settings_of(cls).items():
        if described.group != group:
            group = described.group
            lines += [
                "",
                f"### {group}",
                "",
                "| setting | variable | value | default | meaning |",
                "| --- | --- | --- | --- | --- |",
            ]
        value = "\\|".join(described.choices) or described.kind.metavar
        if described.minimum is not None and described.maximum is not None:
            value += f", {show_value(described.kind, described.minimum)} to {show_value(described.kind, described.maximum)}"
        lines.append(f"| `{name}` | `{prefix}{name.upper()}` | {value} | {described.default_text} | {described.help} |")
    return "\n".join(lines[1:]) + "\n"


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else "; see the settings reference for the known ones"


def _from_text(name: str, kind: Kind, text: str) -> object:
    try:
        return kind.parse(text)
    except ValueError as error:
        raise refuse(name, text, str(error)) from None


def _from_toml(name: str, kind: Kind, raw: object) -> object:
    if kind.repeatable:
        if isinstance(raw, list) and all(isinstance(item, str) for item in raw):
            return tuple(raw)
        raise refuse(name, raw, "write an array of texts")
    if isinstance(raw, str):
        return _from_text(name, kind, raw)
    if isinstance(raw, kind.native) and (bool in kind.native or not isinstance(raw, bool)):
        return kind.convert(raw)
    raise refuse(name, raw, f"write it as {kind.metavar}")
