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
from trio_eventlog.setting_aliases import fill_from_aliases
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
        "Directory with everything that the node keeps: logs, votes, its id. Made when it is missing. One node"
        " only: a second process is refused while it is locked, and a copy of it must never run beside the"
        " original.",
        group="Node and cluster",
    )
    node_name: str = setting(
        NAME,
        "",
        "Name of the node for people and for gossip. It has to be unique in the cluster: without this setting,"
        " several nodes of one host differ by their ids.",
        group="Node and cluster",
        default_text="the host's name and the beginning of the node's id",
    )
    listen: str = setting(
        ADDRESS,
        "127.0.0.1:8400",
        "Address of all protocols, TCP and UDP on the same number. Port 0 takes any free port, which the start line shows.",
        group="Node and cluster",
    )
    advertise: str = setting(
        ADDRESS,
        "",
        "Address at which other nodes and clients reach this node. Set it when that is not the listen address, as"
        " behind a port mapping: with a wrong one, others cannot connect.",
        group="Node and cluster",
        default_text="the listen address; when that is 0.0.0.0 or [::], the node name with the same port",
    )
    join: Sequence[str] = setting(
        JOIN_TARGETS,
        (),
        "Where to look for other nodes: every address of a host is asked. `dns://HOST` is HOST:8400;"
        " `dns+srv://_eventlog._tcp.NAME`, or short `dns+srv://NAME`, takes hosts and ports from SRV records. Name"
        " several, so that a start does not depend on a single node.",
        group="Node and cluster",
    )
    join_retry_seconds_min: float = setting(
        DURATION,
        0.25,
        "Wait before a name in `join` is looked up and its addresses are asked again, while the node knows no"
        " leader. It doubles each time, with jitter. Small values load the DNS server when many nodes start; large"
        " ones delay the start.",
        group="Node and cluster",
        minimum=0.01,
        maximum=3600,
    )
    join_retry_seconds_max: float = setting(
        DURATION,
        5.0,
        "Upper bound of that wait. A name that appears late is found this much later.",
        group="Node and cluster",
        minimum=0.01,
        maximum=3600,
    )
    join_refresh_seconds: float = setting(
        DURATION,
        60.0,
        "Interval between two look-ups of the names in `join` while the node knows a leader. New addresses of a"
        " name are found that late.",
        group="Node and cluster",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    join_addresses_max: int = setting(
        COUNT,
        64,
        "Number of addresses of one name in `join` that are asked. More are ignored with a warning, so it has to"
        " exceed the number of nodes behind a name.",
        group="Node and cluster",
        minimum=1,
        maximum=4096,
    )
    dns_servers: Sequence[str] = setting(
        ADDRESSES,
        (),
        "DNS servers, IP:PORT, at which names in `join` are looked up.",
        group="Node and cluster",
        default_text="the system's way for hosts, the servers of /etc/resolv.conf for SRV records",
    )
    dns_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "Seconds that one look-up of a name in `join` may take. If a slow DNS server takes longer, the name is never found.",
        group="Node and cluster",
        minimum=0.001,
        maximum=3600,
    )
    bootstrap_expect: int | None = setting(
        COUNT,
        None,
        "Number of nodes that form the cluster at their first start; the same on all of them. The cluster begins"
        " when they have found each other. A node with data ignores it.",
        group="Node and cluster",
        default_text="1, or none (join only) when `join` is given",
        minimum=1,
        maximum=99,
    )
    accept_loss: bool = setting(
        SWITCH,
        False,
        "Continue with what is left when the files of the node show that acknowledged entries or a vote are lost."
        " For one start, when there is no backup: without it such a replica has no vote, and a node that is its"
        " whole cluster does not start. Left on, a later loss goes unnoticed.",
        group="Node and cluster",
    )
    cluster_name: str = setting(
        NAME,
        "default",
        "Name of the cluster, the same on all nodes. Nodes with another name are refused.",
        group="Node and cluster",
    )
    auto_create_topics: bool | None = setting(
        SWITCH,
        None,
        "Create a topic when it is first produced to or consumed from. With it, a misspelt name makes a topic instead of an error.",
        group="Node and cluster",
        default_text="on for a single node, off for a cluster",
    )
    shutdown_timeout_seconds: float = setting(
        DURATION,
        10.0,
        "Seconds that running calls may take to finish in a graceful stop. 0: they are cancelled at once, and"
        " clients repeat them at other nodes. Large values delay restarts.",
        group="Node and cluster",
        minimum=0,
        maximum=3600,
    )

    gossip_profile: str = setting(
        TEXT,
        "lan",
        "Speed and patience of gossip: local for one machine, lan, or wan for slow links. The same on all nodes."
        " Too fast for the network, and members are suspected in vain; too slow, and failures are reported late.",
        group="Node and cluster",
        choices=("local", "lan", "wan"),
    )

    # Membership
    voters_wanted: int = setting(
        COUNT,
        5,
        "Number of voters of the catalog up to which learners are promoted; odd, and never below the size that"
        " the cluster began with. 3 tolerate one failure, 5 tolerate two. Each voter more makes changes of topics"
        " and members wait for more answers.",
        group="Membership",
        minimum=1,
        maximum=99,
    )
    stabilisation_seconds: float = setting(
        DURATION,
        10.0,
        "Seconds for which a new node has to be healthy without a break before it votes and carries partitions."
        " Small values move data to nodes that keep failing; large ones delay the use of a new node.",
        group="Membership",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    catch_up_entries_max: int = setting(
        COUNT,
        250,
        "Number of entries that a node may be behind its leader and still counts as caught up. If it is too"
        " small, busy partitions never move; if it is too large, commits wait for a new voter to catch up.",
        group="Membership",
        minimum=1,
        maximum=1_000_000,
    )
    replica_moves_max: int = setting(
        COUNT,
        8,
        "Number of partitions whose replicas move between nodes at the same time. More finish a drain sooner, and"
        " take more network and disk from clients.",
        group="Membership",
        minimum=1,
        maximum=1000,
    )
    leader_balance_seconds: float = setting(
        DURATION,
        5.0,
        "Interval between two transfers of leadership from this node to the preferred leader of a partition, once"
        " that one is healthy. 0: never, so that leaders stay where the last failure has put them. Small values"
        " interrupt producers of many partitions in short succession.",
        group="Membership",
        minimum=0,
        maximum=DAY_SECONDS,
    )
    reconcile_seconds: float = setting(
        DURATION,
        1.0,
        "Interval between two rounds in which leaders compare the members with what they should be. Joining,"
        " draining and moving take several rounds each; each round costs a request to every node.",
        group="Membership",
        minimum=0.01,
        maximum=3600,
    )

    # Security
    tls_cert: str = setting(
        PATH, "", "Certificate chain (PEM). With `tls_key` it turns TLS on, for clients and for other nodes.", group="Security"
    )
    tls_key: str = setting(PATH, "", "Private key of the certificate (PEM).", group="Security")
    tls_ca: str = setting(
        PATH,
        "",
        "Certificates (PEM) of the authorities that sign the certificates of other nodes and of clients.",
        group="Security",
    )
    tls_require_client_cert: bool = setting(
        SWITCH, False, "Refuse clients that show no certificate signed by `tls_ca`.", group="Security"
    )
    tls_peer_name: str = setting(
        TEXT,
        "",
        "Name that the certificate of every node contains (not by a wildcard), and that of no client. The same on"
        " all nodes. It lets nodes share a certificate, or change their addresses.",
        group="Security",
        default_text="none: the certificate of a node is for the host that it advertises",
    )
    peer_secret_file: str = setting(
        PATH,
        "",
        "File with the secret that the nodes of a cluster prove to each other on each link: at least 16 bytes,"
        " one per line. The first is used for proofs, all are accepted, so that it can be changed node by node. On"
        " all nodes or on none. Read again on SIGHUP. Without TLS, only this keeps strangers from acting as nodes.",
        group="Security",
        default_text="none: without TLS any process that reaches the port can act as a node",
    )
    gossip_key_file: str = setting(
        PATH,
        "",
        "File with the keys that encrypt gossip: 16, 24 or 32 bytes in base64, one per line. The first encrypts,"
        " all decrypt. The node rewrites it when keys are changed through gossip.",
        group="Security",
        default_text="no encryption; with TLS on, no gossip",
    )
    http_cors_origins: Sequence[str] = setting(
        WORDS,
        (),
        "Origins, such as https://example.org, whose pages may use the HTTP interface from a browser (CORS). `*`:"
        " any page that a user opens may use it.",
        group="Security",
    )
    acl_model: str = setting(PATH, "", "Model of the access rules. Not in this release yet: refused.", group="Security")
    acl_policy: str = setting(PATH, "", "The access rules. Not in this release yet: refused.", group="Security")

    # Logs
    log_format: str = setting(TEXT, "text", "Format of log lines on standard error.", group="Logs", choices=("text", "json"))
    log_level: str = setting(
        TEXT,
        "info",
        "Least important level that is written. debug has lines for each connection and refused message: not for a busy node.",
        group="Logs",
        choices=("debug", "info", "warning", "error"),
    )
    log_to_topic: bool = setting(
        SWITCH,
        False,
        "Put what this node logs at info and above into the topic `logs` as well, as lines of the service trio-eventlog.",
        group="Logs",
    )
    http_access_log: bool = setting(
        SWITCH,
        False,
        "Write a line for each HTTP request: method, path, status, bytes, milliseconds, client, request id. It"
        " costs processor time and disk on a busy node.",
        group="Logs",
    )

    # Raft
    tick_seconds: float = setting(
        DURATION,
        0.1,
        "Length of a Raft tick, in which heartbeats and election timeouts are counted; 0.03 suits a local"
        " network. The same on all nodes. Too short for the network or a busy machine, and leaders are deposed"
        " without need; too long, and failures are noticed late.",
        group="Raft",
        minimum=0.001,
        maximum=60,
    )
    election_timeout_ticks: int = setting(
        COUNT,
        10,
        "Number of ticks without a message of the leader after which a follower stands for election; randomised"
        " up to twice this. The same on all nodes. Too small, and slow nodes cause elections without need; too"
        " large, and producing stops longer when a leader fails.",
        group="Raft",
        minimum=3,
        maximum=10_000,
    )
    heartbeat_ticks: int = setting(
        COUNT,
        1,
        "Number of ticks between two heartbeats of a leader. At most a third of the election timeout or so:"
        " otherwise one lost heartbeat causes an election. Small values cost messages.",
        group="Raft",
        minimum=1,
        maximum=1000,
    )
    sleep_after_ticks: int = setting(
        COUNT,
        30,
        "Number of ticks without activity after which a partition sleeps: it exchanges no heartbeats, so idle"
        " partitions cost nothing. 0: never. If it is too small, a partition with an occasional record sleeps in"
        " between, and wakes at the cost of a round of heartbeats.",
        group="Raft",
        minimum=0,
        maximum=1_000_000,
    )
    append_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Bytes of entries in one append message to a follower; one entry is always sent, whatever its size. Large"
        " values delay heartbeats on slow links; small ones cost a message for few entries.",
        group="Raft",
        minimum=4 * KIB,
        maximum=64 * MIB,
    )
    inflight_messages_max: int = setting(
        COUNT,
        256,
        "Number of append messages sent to one follower and not answered yet. Too small limits throughput over"
        " long round trips; large values use memory of the follower.",
        group="Raft",
        minimum=1,
        maximum=100_000,
    )
    inflight_bytes_max: int = setting(
        SIZE,
        16 * MIB,
        "Bytes of entries sent to one follower and not answered yet. It has to exceed bandwidth times round trip,"
        " or it limits throughput.",
        group="Raft",
        minimum=64 * KIB,
        maximum=4 * GIB,
    )
    uncommitted_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of entries of a group that a leader has taken and not committed yet. Further batches wait. It"
        " bounds the leader's memory while followers are slow or gone.",
        group="Raft",
        minimum=64 * KIB,
        maximum=4 * GIB,
    )

    # Storage
    segment_bytes: int = setting(
        SIZE,
        64 * MIB,
        "Size of a segment file at which it is sealed and the next one begins. Small values make many files and"
        " descriptors; large ones let old records be removed only in large steps.",
        group="Storage",
        minimum=4 * KIB,
        maximum=4 * GIB,
    )
    snapshot_bytes_min: int = setting(
        SIZE,
        MIB,
        "Bytes by which the log of a group has to grow before another snapshot of it is taken. Small values give"
        " quiet groups more and smaller segments; large ones give a start more to read.",
        group="Storage",
        minimum=4 * KIB,
        maximum=4 * GIB,
    )
    snapshot_seconds: float = setting(
        DURATION,
        600.0,
        "Seconds after which a group that does not fill a segment gets a snapshot all the same, if its log has"
        " grown by snapshot_bytes_min.",
        group="Storage",
        minimum=1.0,
        maximum=7 * DAY_SECONDS,
    )
    retention_check_seconds: float = setting(
        DURATION,
        60.0,
        "Interval between two checks of which partitions are older or larger than the retention of their topics allows. Records go"
        " up to this much later; small values cost some work for each partition.",
        group="Storage",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    replay_bytes_max: int = setting(
        SIZE,
        512 * MIB,
        "Bytes of log that a start may have to read, over all groups. Above it, segments are sealed and snapshots"
        " taken, of the groups with most of it first. Small values make more small segments; large ones a slower"
        " start.",
        group="Storage",
        minimum=64 * KIB,
        maximum=1024 * GIB,
    )
    preallocate_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Step by which the active segment is enlarged ahead of the writes, which makes fsync faster. 0: never;"
        " then an append that finds the disk full ends the node. Each partition that is written to takes this much"
        " room on the disk.",
        group="Storage",
        minimum=0,
        maximum=4 * GIB,
    )
    disk_reserve_bytes: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of a file that keeps room on the disk. It is removed when the disk is full, so that removing"
        " segments, deleting topics and an orderly stop work even then. 0: no file, and they may fail.",
        group="Storage",
        minimum=0,
        maximum=64 * GIB,
    )
    disk_free_bytes_min: int = setting(
        SIZE,
        128 * MIB,
        "Bytes that have to be free on the disk of `data_dir`, beside the reserve. With less, the node takes no"
        " new records (DISK_FULL) and transfers leadership to nodes with room; it takes them again when a quarter"
        " more is free. 0: records are never refused early, and an append that finds the disk full waits.",
        group="Storage",
        minimum=0,
        maximum=1024 * GIB,
    )
    scrub_bytes_per_second: int = setting(
        SIZE,
        8 * MIB,
        "Bytes per second at which the node reads its logs again, all groups together, so that damage is found while other nodes"
        " have what is damaged. 0: never. Too large, and calls of clients wait for the disk.",
        group="Storage",
        minimum=0,
        maximum=64 * GIB,
    )
    scrub_interval_seconds: float = setting(
        DURATION,
        DAY_SECONDS,
        "Interval from the end of one such round through all logs to the beginning of the next.",
        group="Storage",
        minimum=0.1,
        maximum=366 * DAY_SECONDS,
    )
    disk_check_seconds: float = setting(
        DURATION,
        1.0,
        "Interval between two checks of the free room on the disk. What is written within one has to fit into"
        " `disk_free_bytes_min`.",
        group="Storage",
        minimum=0.01,
        maximum=3600,
    )
    index_interval_bytes: int = setting(
        SIZE,
        64 * KIB,
        "Bytes of log between two entries of the sparse index. A read scans this much on average by half; small"
        " values make larger indexes.",
        group="Storage",
        minimum=1 * KIB,
        maximum=64 * MIB,
    )
    tail_cache_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Memory for the newest entries of a group, for followers and consumers that are"
        " close behind. Those further behind read from the disk. 0: none is kept. Counts for each partition that"
        " is written to.",
        group="Storage",
        minimum=0,
        maximum=16 * GIB,
    )
    event_index_cache_bytes: int = setting(
        SIZE,
        64 * MIB,
        "Memory for pages of the index of aggregates, for each partition of events. Too small, and every event of an aggregate that"
        " was quiet for a while waits for reads of the disk.",
        group="Storage",
        minimum=64 * KIB,
        maximum=16 * GIB,
    )
    event_cache_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Memory of a node for events that were read by aggregate or by type, about 1 KB each beside their payloads. An aggregate"
        " that is still there is read in a quarter of the time. 0: none is kept.",
        group="Storage",
        minimum=0,
        maximum=16 * GIB,
    )
    event_window_max: int = setting(
        COUNT,
        65_536,
        "Events of a partition kept in memory until the index of aggregates holds them, about 1 KB each. With more, appends are"
        " refused with OVERLOADED until the index has caught up.",
        group="Storage",
        minimum=1,
        maximum=16_777_216,
    )
    shortage_patience_seconds: float = setting(
        DURATION,
        10.0,
        "Seconds for which the node tries again to open a file when the process is short of descriptors or"
        " memory; connections of clients are closed meanwhile. After that a read fails; partitions that are being"
        " opened or appended to keep trying.",
        group="Storage",
        minimum=0,
        maximum=3600,
    )
    disk_threads: int = setting(
        COUNT,
        4,
        "Number of threads for writes and fsyncs of all groups. Too few, and partitions wait for each other's"
        " fsync; more than the disk can serve at a time are of no use.",
        group="Storage",
        minimum=1,
        maximum=256,
    )

    # Limits on work
    message_bytes_max: int = setting(
        SIZE,
        4 * MIB,
        "Bytes of the largest gRPC message taken or sent. It has to exceed `batch_bytes_max` and `fetch_bytes_max` by 64 KiB.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * MIB,
    )
    batch_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Bytes of the largest batch taken from a producer; a larger one fails with BATCH_TOO_LARGE. Large batches"
        " delay the records of others in the same partition.",
        group="Limits",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    searches_max: int = setting(
        COUNT,
        16,
        "Number of searches for log lines at work on the node at a time. Further ones fail with OVERLOADED.",
        group="Limits",
        minimum=1,
        maximum=10_000,
    )
    search_threads: int = setting(
        COUNT,
        1,
        "Number of threads that scan log lines. More than one processor has to spare slows down everything else on the node.",
        group="Limits",
        minimum=1,
        maximum=64,
    )
    search_bytes_max: int = setting(
        SIZE,
        16 * GIB,
        "Bytes that one search over HTTP looks through, unpacked, before its answer ends with a place to go on from.",
        group="Limits",
        minimum=1 * MIB,
    )
    inbox_messages_max: int = setting(
        COUNT,
        4096,
        "Number of peer messages that wait for a group. Further ones are dropped and repeated later, so too small"
        " costs throughput.",
        group="Limits",
        minimum=1,
    )
    inbox_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of peer messages that wait for a group. Further ones are dropped and repeated later.",
        group="Limits",
        minimum=64 * KIB,
    )
    proposals_max: int = setting(
        COUNT,
        4096,
        "Number of batches that wait for a group's leader to take them. Then producers wait.",
        group="Limits",
        minimum=1,
    )
    proposal_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of batches that wait for a group's leader to take them. Then producers wait. It bounds memory for"
        " each busy partition.",
        group="Limits",
        minimum=64 * KIB,
    )
    produce_stream_requests_max: int = setting(
        COUNT,
        32,
        "Number of requests of one produce stream that are not answered yet. Then its client waits. Too small"
        " limits the throughput of one producer over a long round trip.",
        group="Limits",
        minimum=1,
    )
    producer_window_batches: int = setting(
        COUNT,
        5,
        "Number of newest batches remembered for each idempotent producer in a partition, to recognise"
        " repetitions. A client keeps at most this many in flight. The same on all nodes.",
        group="Limits",
        minimum=1,
        maximum=WINDOW_BATCHES_MAX,
    )
    producers_max: int = setting(
        COUNT,
        10_000,
        "Number of idempotent producers remembered in a partition; the one heard least recently is forgotten"
        " first. The same on all nodes. Too small, and new producers are refused while there are many; each takes"
        " some hundred bytes of memory.",
        group="Limits",
        minimum=1,
        maximum=PRODUCERS_MAX,
    )
    producer_idle_seconds: float = setting(
        DURATION,
        60.0,
        "Seconds after its last batch for which a producer is not forgotten, so that a batch it repeats is not"
        " taken twice. When none of `producers_max` may be forgotten, new producers get OVERLOADED. It has to"
        " exceed a client's `request_timeout_seconds`.",
        group="Limits",
        minimum=0.0,
        maximum=86400.0,
    )
    fetch_records_max: int = setting(
        COUNT, 100_000, "Number of records in one answer to a consumer.", group="Limits", minimum=1, maximum=10_000_000
    )
    fetch_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Bytes of batches in one answer to a consumer; one batch is always sent. Small values cost a round trip"
        " for few records; large ones take memory for each consumer.",
        group="Limits",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    batch_records_max: int = setting(
        COUNT,
        250_000,
        "Number of records in a batch taken from a producer. A consumer needs memory for all of them at once.",
        group="Limits",
        minimum=1,
        maximum=10_000_000,
    )
    fetched_bytes_max: int = setting(
        SIZE,
        256 * MIB,
        "Bytes of records fetched for consumers and not sent yet, of all connections together. Then consumers"
        " wait. It bounds the memory that slow consumers can take.",
        group="Limits",
        minimum=1 * MIB,
        maximum=64 * GIB,
    )
    fetched_bytes_per_connection_max: int = setting(
        SIZE,
        32 * MIB,
        "The same for one connection. Smaller values leave more to the others.",
        group="Limits",
        minimum=64 * KIB,
        maximum=16 * GIB,
    )
    slow_consumer_seconds: float = setting(
        DURATION,
        10.0,
        "Seconds for which a consumer may leave what was fetched for it unread while others wait for memory."
        " After that its call ends with OVERLOADED.",
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
        DURATION,
        60.0,
        "Seconds for which a fetch may wait for a first record. Consumers may ask for less. Large values keep"
        " calls open; small ones cost a call each time when nothing is produced.",
        group="Limits",
        minimum=0,
        maximum=DAY_SECONDS,
    )
    http_bodies_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of HTTP bodies, of requests and answers, held by all connections together; further requests get"
        " 503. It bounds memory.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * GIB,
    )
    http_body_bytes_max: int = setting(
        SIZE,
        4 * MIB,
        "Bytes of the body of one HTTP request, inflated; larger ones get 413. An upload of lines is not limited,"
        " but each of its lines is. A body is decoded in one turn of the event loop, in which nothing else runs:"
        " 4MiB of JSON take some 20 ms.",
        group="Limits",
        minimum=1 * KIB,
        maximum=64 * MIB,
    )
    http_answer_seconds_max: float = setting(
        DURATION,
        60.0,
        "Seconds until the answer to an HTTP request has to begin; then 503, or 504 when the outcome is unknown."
        " Live tails and uploads of lines have no limit.",
        group="Limits",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    http_tails_max: int = setting(
        COUNT,
        4096,
        "Number of live tails over HTTP at the same time; further ones get 429. Each takes some 100 KiB of memory.",
        group="Limits",
        minimum=1,
        maximum=1_000_000,
    )
    metrics_partitions_max: int = setting(
        COUNT,
        200,
        "Number of partitions with series of their own in `/metrics`; `eventlog_partitions_without_series` counts"
        " the others. Each has seven series; 200 partitions take about 12 ms of the processor for each scrape.",
        group="Limits",
        minimum=0,
        maximum=100_000,
    )
    forward_timeout_seconds: float = setting(
        DURATION,
        30.0,
        "Seconds that a forwarded call may take, all attempts together, when its client has set no deadline. Then"
        " it fails with NO_QUORUM or OUTCOME_UNKNOWN.",
        group="Limits",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    forward_attempt_timeout_seconds: float | None = setting(
        DURATION,
        None,
        "Seconds of silence of the node that a call was forwarded to, after which its connection is closed and"
        " another node is asked. Below the longest election, calls are repeated without need.",
        group="Limits",
        minimum=0.001,
        maximum=DAY_SECONDS,
        default_text="the election timeout, at least 0.5 s",
    )

    # Connections
    peek_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "Seconds within which a new connection has to send its first bytes, TLS included. Large values let idle"
        " connections hold places; small ones refuse clients behind slow links.",
        group="Connections",
        minimum=0.001,
        maximum=3600,
    )
    peek_timeout_seconds_min: float = setting(
        DURATION,
        0.5,
        "What that time is reduced to as the second half of `inbound_unidentified_max` fills up.",
        group="Connections",
        minimum=0.001,
        maximum=3600,
    )
    raise_descriptor_limit: bool | None = setting(
        SWITCH,
        None,
        "Raise the soft limit of open files and connections of the process (`ulimit -n`) to the hard limit at"
        " start. The descriptors are then divided among files and connections, which one log line and `status`"
        " show.",
        group="Connections",
        default_text="on in the daemon, off in a program that embeds a node",
    )
    inbound_clients_max: int | None = setting(
        COUNT,
        None,
        "Number of connections of clients. When one more comes, another one is closed: one of an address with"
        " more than its share, one without a request, or the one that has been idle longest. Too small, and"
        " clients keep losing their connections; each takes a descriptor and memory.",
        group="Connections",
        default_text="a third of the descriptors, at most 4096",
        minimum=1,
        maximum=1_000_000,
    )
    inbound_peers_max: int | None = setting(
        COUNT,
        None,
        "Number of connections of other nodes, which clients cannot use up. At least two for each other node.",
        group="Connections",
        default_text="a twelfth of the descriptors, 16 to 256",
        minimum=8,
        maximum=100_000,
    )
    inbound_probes_max: int = setting(
        COUNT,
        16,
        "Number of connections whose first request is for /health or /ready, which clients cannot use up. Further"
        " ones count as clients.",
        group="Connections",
        minimum=1,
        maximum=10_000,
    )
    inbound_unidentified_max: int = setting(
        COUNT,
        256,
        "Number of connections that have not sent their first bytes; at most a twelfth of the descriptors. When"
        " one more comes, the oldest of the address with the most of them is closed.",
        group="Connections",
        minimum=1,
    )
    streams_per_connection_max: int = setting(
        COUNT,
        1024,
        "Number of calls at a time on one gRPC connection. Clients open another connection, or wait.",
        group="Connections",
        minimum=1,
        maximum=1_000_000,
    )
    useless_frames_per_second_max: int = setting(
        COUNT,
        1000,
        "Number of HTTP/2 frames per second, of all connections together, that cause work and no progress"
        " (resets, pings, settings). Above it, connections that have sent more than an equal part wait until the"
        " second is over.",
        group="Connections",
        minimum=10,
        maximum=1_000_000,
    )
    idle_timeout_seconds: float = setting(
        DURATION,
        600.0,
        "Seconds without a call after which a connection of a client is closed. Small values cost reconnects,"
        " large ones keep places of clients that are gone.",
        group="Connections",
        minimum=0.001,
    )
    link_queue_messages_max: int = setting(
        COUNT,
        4096,
        "Number of messages that wait to be sent to a peer. Further ones are dropped and repeated later.",
        group="Connections",
        minimum=1,
    )
    link_queue_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of messages that wait to be sent to a peer. Further ones are dropped and repeated later. Too small"
        " costs throughput on slow links; it bounds memory for each peer.",
        group="Connections",
        minimum=64 * KIB,
    )
    peer_frame_bytes_max: int = setting(
        SIZE,
        16 * MIB,
        "Bytes of the largest frame taken from a peer; a larger one ends the link. It has to exceed"
        " `append_bytes_max` and `batch_bytes_max` of all nodes.",
        group="Connections",
        minimum=64 * KIB,
        maximum=1 * GIB,
    )
    catch_up_bytes_min: int = setting(
        SIZE,
        64 * MIB,
        "A replica that lacks this much of its log, in sealed segments, fetches them as files. 0: only when its leader does not"
        " hold the entries any more. Too small, and files are fetched for a few entries; too large, and a replica takes longer to"
        " catch up, at a higher cost to its leader.",
        group="Connections",
        minimum=0,
        maximum=1024 * GIB,
    )
    catch_up_hold_seconds: float = setting(
        DURATION,
        3600.0,
        "For how long after a replica has begun to fetch files its leader removes nothing of that partition. Too small, and a slow"
        " replica has to begin again; too large, and one that never gets there keeps space in use.",
        group="Connections",
        minimum=0,
        maximum=30 * DAY_SECONDS,
    )
    transfers_served_max: int = setting(
        COUNT,
        4,
        "Number of other nodes to which this node serves whole files of its logs at the same time. Further ones"
        " wait, or ask another node. More of them take disk and network from clients.",
        group="Connections",
        minimum=1,
        maximum=1000,
    )
    transfers_received_max: int = setting(
        COUNT,
        2,
        "Number of partitions for which this node fetches whole files from other nodes at the same time. Others"
        " wait. More of them take disk and network from clients.",
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
                why = f"with listen {self.listen} it is announced as the host of this node, and {error}; set advertise"
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
        """The address announced to others. `port` is the one that was bound; `host_name` is used when no setting names a host."""
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
    """Settings from, in order of precedence, flags, environment, file, defaults. Of a node, `setting_aliases` come before defaults.

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
    if cls is NodeSettings:
        fill_from_aliases(values, environment or {})
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
