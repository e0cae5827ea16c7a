"""The metrics of a node: what there is, and where each is read. Nothing is counted here: parts count, and this asks them.

`docs/reference/metrics.md` is written from METRICS.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.agent.status import StatusAnswers
from trio_eventlog.http.readings import Metric, MetricKind, Reading
from trio_eventlog.ids import CATALOG_GROUP, NodeId, format_id
from trio_eventlog.measures import Histogram
from trio_eventlog.node.open_groups import GroupTotals
from trio_eventlog.node.replica import Replica
from trio_eventlog.release import VERSION

Series = Sequence[tuple[tuple[str, ...], float | Histogram]]

PARTITION = ("topic", "partition")


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind=MetricKind.COUNTER, help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind=MetricKind.GAUGE, help=text, labels=labels)


def _histogram(name: str, text: str) -> Metric:
    return Metric(name=name, kind=MetricKind.HISTOGRAM, help=text)


INFO = _gauge("eventlog_info", "1; its labels say which node this is.", "node_id", "node", "cluster", "version")
READY = _gauge("eventlog_ready", "1 when the node should be given work, else 0: what GET /ready says.")
LOOP_LAG = _gauge("eventlog_event_loop_lag_seconds", "By how much a tick came late, at most, in the last 15 to 30 s.")
WARNINGS = _gauge("eventlog_warnings", "Number of warnings of the node; `trio-eventlog status` has them in words.")

WAL_ENTRIES = _counter("eventlog_wal_entries_total", "Entries written to logs.")
WAL_WRITTEN = _counter("eventlog_wal_written_bytes_total", "Bytes of entries written to logs.")
WAL_WRITES = _counter("eventlog_wal_writes_total", "Writes with entries, each with one fsync.")
WAL_BYTES = _gauge("eventlog_wal_bytes", "Bytes that the logs of all partitions, and of the catalog, have on this node.")
FSYNC = _histogram("eventlog_fsync_seconds", "How long a write took, its fsync included.")
STORAGE = _gauge("storage_disk_bytes", "Bytes of records and other entries on this node's disk: the same as eventlog_wal_bytes.")
DISK_FREE = _gauge("eventlog_disk_free_bytes", "Free room on the disk, without what the reserve holds.")
DISK_SCARCE = _gauge("eventlog_disk_scarce", "1 while no new records are taken for lack of room, else 0.")
APPLIED = _counter("eventlog_applied_entries_total", "Entries given to the machines.")

PRODUCE = _histogram("eventlog_produce_seconds", "From taking a batch to its acknowledgement, wherever its leader is.")
PRODUCED_RECORDS = _counter("eventlog_produced_records_total", "Records that producers of this node had acknowledged.")
PRODUCED_BYTES = _counter("eventlog_produced_bytes_total", "Bytes of their batches, packed as they came.")
INGEST = _counter("ingest_requests_total", "HTTP requests that brought records, by the hundred of their status.", "status")

PARTITIONS = _gauge("eventlog_partitions", "Partitions on this node by state: open, led (of these), opening, degraded.", "state")
WITHOUT_SERIES = _gauge(
    "eventlog_partitions_without_series",
    "Partitions on this node beyond `metrics_partitions_max`: they have no series here.",
)
ELECTIONS = _counter("eventlog_elections_total", "Elections that this node has won, of the catalog and of all partitions.")
LAG = _gauge(
    "eventlog_replication_lag_entries",
    "Entries that a follower is behind in the groups led here, in the worst one.",
    "follower",
)
TERM = _gauge("eventlog_term", "Raft's term. The catalog has no topic.", *PARTITION)
IS_LEADER = _gauge("eventlog_is_leader", "1 when this node leads the group, else 0.", *PARTITION)
COMMIT = _gauge("eventlog_commit_index", "Highest index known to be committed.", *PARTITION)
APPLIED_INDEX = _gauge("eventlog_applied_index", "Highest index that the machine has taken.", *PARTITION)
HIGH_WATERMARK = _gauge("eventlog_high_watermark", "One past the last offset that can be read.", *PARTITION)
RECORDS = _counter("eventlog_records_total", "Records of the partition since it was made, as far as they can be read.", *PARTITION)
LOG_BYTES = _gauge("eventlog_log_bytes", "Bytes of the group's log on this node.", *PARTITION)

QUEUE_BYTES = _gauge("eventlog_queue_bytes", "Bytes that wait, by queue.", "queue")
QUEUE_DROPPED = _counter(
    "eventlog_queue_dropped_total", "Messages dropped because a queue was full: Raft sends them again.", "queue"
)
BUDGET_LIMIT = _gauge("eventlog_budget_limit", "What the node may use at most, by what it is.", "budget")
BUDGET_USED = _gauge("eventlog_budget_used", "What it uses now.", "budget")
BUDGET_REFUSED = _counter("eventlog_budget_refused_total", "What was refused, or pushed out, because of it.", "budget")

MEMBERS = _gauge("eventlog_members", "Nodes that this node knows of, itself included, by status.", "status")
LINK_UP = _gauge("eventlog_peer_link_up", "1 while the link to a peer is connected, else 0.", "peer")
LINK_BYTES = _counter("eventlog_peer_sent_bytes_total", "Bytes sent to a peer.", "peer")
GOSSIP = _gauge("eventlog_gossip", "Counters of gossip since the start, and its present numbers, by name.", "what")
CERTIFICATE = _gauge("eventlog_certificate_expiry_seconds", "Seconds until the node's certificate is no longer valid.")

ACCEPTED = _counter("eventlog_connections_accepted_total", "Connections that the port has accepted.")
CLOSED = _counter("eventlog_connections_closed_total", "Connections that were turned away or pushed out, by reason.", "reason")
CRASHED = _counter("eventlog_connections_crashed_total", "Connections that ended in a fault of this node.")
GRPC_CALLS = _counter("eventlog_grpc_calls_total", "Calls of gRPC that were begun.")
GRPC_FAILED = _counter("eventlog_grpc_calls_failed_total", "Calls of gRPC that ended in an error.")
GRPC_OPEN = _gauge("eventlog_grpc_calls_open", "Calls of gRPC that are open.")
HTTP_REQUESTS = _counter(
    "eventlog_http_requests_total", 'Requests over HTTP by the hundred of their status; "left": the client left first.', "status"
)
HTTP_SECONDS = _counter("eventlog_http_seconds_total", "How long they took, all together: tails and uploads take long.")
HTTP_BYTES = _counter("eventlog_http_body_bytes_total", "Bytes of their bodies.", "direction")
HTTP_OPEN = _gauge("eventlog_http_requests_open", "Requests over HTTP that are being answered.")

METRICS: tuple[Metric, ...] = tuple(value for value in globals().values() if isinstance(value, Metric))
"""Every metric, in the order of this file."""


class NodeMetrics:
    """Reads the metrics of one node.

    Args:
        unready_because: see `Readiness`.
        partitions_max: partitions with series of their own: those that come first in the catalog.
    """

    def __init__(self, parts: NodeParts, answers: StatusAnswers, unready_because: Callable[[], str], partitions_max: int) -> None:
        self._parts = parts
        self._answers = answers
        self._unready_because = unready_because
        self._partitions_max = partitions_max

    def read(self) -> Iterable[Reading]:
        """Every metric as it is now; without those of what the node does not have."""
        parts = self._parts
        groups = parts.replicas.all()
        totals = parts.replicas.totals()
        yield from self._node()
        yield from self._storage(groups, totals)
        yield from self._producing()
        yield from self._groups(groups, totals)
        yield from self._queues(totals)
        yield from self._others()
        yield from self._clients()

    def _node(self) -> Iterable[Reading]:
        parts = self._parts
        identity = parts.identity
        labels = (format_id(identity.node_id), identity.name, parts.settings.cluster_name, VERSION)
        yield Reading(INFO, [(labels, 1)])
        yield _single(READY, not self._unready_because())
        yield _single(LOOP_LAG, parts.loop_lag.value(trio.current_time()))
        yield _single(WARNINGS, len(self._answers.warnings()))
        if (expires_at := parts.credentials.expires_at()) is not None:
            yield _single(CERTIFICATE, expires_at - parts.surroundings.now_ns() / 1e9)

    def _storage(self, groups: Sequence[Replica], totals: GroupTotals) -> Iterable[Reading]:
        log_bytes = sum(replica.log.size_bytes for replica in groups)
        yield _single(WAL_ENTRIES, totals.appended_entries)
        yield _single(WAL_WRITTEN, totals.appended_bytes)
        yield _single(WAL_WRITES, totals.appends)
        yield _single(WAL_BYTES, log_bytes)
        yield Reading(FSYNC, [((), totals.write_seconds)])
        yield _single(STORAGE, log_bytes)
        yield _single(DISK_FREE, self._parts.disk_space.free_bytes)
        yield _single(DISK_SCARCE, self._parts.disk_space.is_scarce)
        yield _single(APPLIED, totals.applied_entries)

    def _producing(self) -> Iterable[Reading]:
        producing = self._parts.services.producing
        yield Reading(PRODUCE, [((), producing.seconds)])
        yield _single(PRODUCED_RECORDS, producing.records)
        yield _single(PRODUCED_BYTES, producing.payload_bytes)
        yield _by_label(INGEST, self._parts.http.statistics.uploads)

    def _groups(self, groups: Sequence[Replica], totals: GroupTotals) -> Iterable[Reading]:
        parts = self._parts
        unopened = parts.replicas.unopened()
        partitions = [replica for replica in groups if replica.group_id != CATALOG_GROUP]
        states = {
            "open": len(partitions),
            "led": sum(replica.is_leader for replica in partitions),
            "opening": sum(not group.trouble for group in unopened),
            "degraded": sum(bool(group.trouble) for group in unopened),
        }
        yield _by_label(PARTITIONS, states)
        shown = groups[: self._partitions_max + 1]
        yield _single(WITHOUT_SERIES, len(groups) - len(shown))
        yield _single(ELECTIONS, totals.elections_won)
        lags: dict[NodeId, int] = {}
        for replica in groups:
            if replica.is_leader:
                for node_id, follower in replica.followers().items():
                    lags[node_id] = max(lags.get(node_id, 0), follower.lag_entries)
        yield Reading(LAG, [((format_id(node_id),), lag) for node_id, lag in sorted(lags.items())])
        yield from self._each_group(shown)

    def _each_group(self, groups: Sequence[Replica]) -> Iterable[Reading]:
        place_of = self._parts.replicas.machine.place_of
        rows = []
        for replica in groups:
            place = place_of.get(replica.group_id)
            if place is not None or replica.group_id == CATALOG_GROUP:
                labels = (place.topic, str(place.number)) if place is not None else ("", "0")
                rows.append((labels, replica))
        yield Reading(TERM, [(labels, replica.core.term) for labels, replica in rows])
        yield Reading(IS_LEADER, [(labels, int(replica.is_leader)) for labels, replica in rows])
        yield Reading(COMMIT, [(labels, replica.core.commit_index) for labels, replica in rows])
        yield Reading(APPLIED_INDEX, [(labels, replica.core.applied_index) for labels, replica in rows])
        yield Reading(HIGH_WATERMARK, [(labels, replica.watermark.value) for labels, replica in rows])
        yield Reading(RECORDS, [(labels, replica.watermark.value) for labels, replica in rows])
        yield Reading(LOG_BYTES, [(labels, replica.log.size_bytes) for labels, replica in rows])

    def _queues(self, totals: GroupTotals) -> Iterable[Reading]:
        parts = self._parts
        links = parts.transport.statistics().values()
        waiting = {
            "proposals": parts.replicas.queued_proposal_bytes(),
            "peer links": sum(link.queued_bytes for link in links),
        }
        dropped = {"peer messages": totals.dropped_messages, "peer links": sum(link.dropped_sends for link in links)}
        yield _by_label(QUEUE_BYTES, waiting)
        yield _by_label(QUEUE_DROPPED, dropped)
        budgets = self._answers.budgets()
        yield _by_label(BUDGET_LIMIT, {one.name: one.limit for one in budgets})
        yield _by_label(BUDGET_USED, {one.name: one.used for one in budgets})
        yield _by_label(BUDGET_REFUSED, {one.name: one.refused for one in budgets})

    def _others(self) -> Iterable[Reading]:
        parts = self._parts
        statuses = Counter(dict(server.tags).get("status", "") for server in self._answers.nodes())
        yield _by_label(MEMBERS, {"alive": 0, "failed": 0, "left": 0, **statuses})
        links = {format_id(node_id): link for node_id, link in sorted(parts.transport.statistics().items())}
        yield _by_label(LINK_UP, {peer: int(link.is_connected) for peer, link in links.items()})
        yield _by_label(LINK_BYTES, {peer: link.sent_bytes for peer, link in links.items()})
        if parts.gossip is not None:
            yield _by_label(GOSSIP, dict(sorted(parts.gossip.driver.statistics().items())))

    def _clients(self) -> Iterable[Reading]:
        parts = self._parts
        port, grpc, http = parts.mux.statistics(), parts.server.statistics(), parts.http
        yield _single(ACCEPTED, port.accepted)
        yield _by_label(CLOSED, port.closed)
        yield _single(CRASHED, port.crashed)
        yield _single(GRPC_CALLS, grpc.calls_total)
        yield _single(GRPC_FAILED, grpc.calls_failed_total)
        yield _single(GRPC_OPEN, grpc.calls_open)
        yield _by_label(HTTP_REQUESTS, http.statistics.requests)
        yield _single(HTTP_SECONDS, http.statistics.seconds)
        yield _by_label(HTTP_BYTES, {"received": http.statistics.received_bytes, "sent": http.statistics.sent_bytes})
        yield _single(HTTP_OPEN, http.open_requests)


def _single(metric: Metric, value: float) -> Reading:
    return Reading(metric, [((), value)])


def _by_label(metric: Metric, values: Mapping[str, int]) -> Reading:
    return Reading(metric, [((label,), value) for label, value in values.items()])
