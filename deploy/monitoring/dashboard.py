"""Write the dashboard for Grafana, or check that it is current: a list of panels stands here, the JSON follows from it.

python deploy/monitoring/dashboard.py           # write
python deploy/monitoring/dashboard.py --check   # exit 1 when it differs
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import attrs

HOME = Path(__file__).resolve().parent
TARGET = HOME / "dashboard.json"
COLUMNS = 24
HEIGHT = 7
INSTANCE = "{{instance}}"


@attrs.frozen(slots=True)
class Query:
    """A line of a panel: PromQL, and what it is called in the legend."""

    expr: str
    legend: str


@attrs.frozen(slots=True, kw_only=True)
class Panel:
    """A picture.

    Attributes:
        unit: as Grafana calls it.
        width: in columns of 24.
        is_number: one number, and not lines over time.
        bad_from: numbers from this one on are red.
    """

    title: str
    means: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    is_number: bool = False
    bad_from: float | None = None


@attrs.frozen(slots=True, kw_only=True)
class Row:
    """Panels that belong together."""

    title: str
    panels: tuple[Panel, ...]


def _number(title: str, means: str, expr: str, *, unit: str = "short", bad_from: float | None = None) -> Panel:
    return Panel(title=title, means=means, queries=(Query(expr, ""),), unit=unit, width=4, is_number=True, bad_from=bad_from)


def _lines(title: str, means: str, *queries: tuple[str, str], unit: str = "short", width: int = 8) -> Panel:
    return Panel(title=title, means=means, queries=tuple(Query(*query) for query in queries), unit=unit, width=width)


def _per_second(counter: str, label: str = "instance") -> str:
    return f"sum by ({label}) (rate({counter}[$__rate_interval]))"


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    rates = f"sum by (le) (rate({histogram}_bucket[$__rate_interval]))"
    return tuple((f"histogram_quantile({quantile}, {rates})", f"p{quantile * 100:g}") for quantile in (0.5, 0.99, 0.999))


ROWS = (
    Row(
        title="Is the cluster well?",
        panels=(
            _number("Nodes that answer", "Scraped by Prometheus.", 'sum(up{job="eventlog"})'),
            _number("Nodes that are not ready", "They should be given no work.", "sum(1 - eventlog_ready)", bad_from=1),
            _number(
                "Without a leader",
                "Partitions, the catalog among them, that nothing can be written to.",
                "count(sum by (topic, partition) (eventlog_is_leader) == 0) or vector(0)",
                bad_from=1,
            ),
            _number("Degraded replicas", "Without a vote, or not open.", 'sum(eventlog_partitions{state="degraded"})', bad_from=1),
            _number("Warnings", "`trio-eventlog status` has them in words.", "sum(eventlog_warnings)", bad_from=1),
            _number("Certificate expires in", "The first one.", "min(eventlog_certificate_expiry_seconds) or vector(0)", unit="s"),
        ),
    ),
    Row(
        title="Producing and reading",
        panels=(
            _lines(
                "Records acknowledged",
                "A second, by the node that producers spoke with.",
                (_per_second("eventlog_produced_records_total"), INSTANCE),
                unit="cps",
            ),
            _lines(
                "Bytes acknowledged",
                "Packed as they came.",
                (_per_second("eventlog_produced_bytes_total"), INSTANCE),
                unit="Bps",
            ),
            _lines("Time to the acknowledgement", "Of a batch.", *_quantiles("eventlog_produce_seconds"), unit="s"),
            _lines(
                "Records of each topic",
                "A second.",
                (
                    'sum by (topic) (max by (topic, partition) (rate(eventlog_records_total{topic!=""}[$__rate_interval])))',
                    "{{topic}}",
                ),
                unit="cps",
            ),
            _lines(
                "Calls of gRPC",
                "Begun a second, and how many ended in an error.",
                ("sum(rate(eventlog_grpc_calls_total[$__rate_interval]))", "begun"),
                ("sum(rate(eventlog_grpc_calls_failed_total[$__rate_interval]))", "failed"),
                unit="reqps",
            ),
            _lines(
                "Requests over HTTP",
                "A second, by the hundred of their status.",
                (_per_second("eventlog_http_requests_total", "status"), "{{status}}"),
                unit="reqps",
            ),
            _lines(
                "Requests that bring records over HTTP",
                "A second, by the hundred of their status.",
                (_per_second("ingest_requests_total", "status"), "{{status}}"),
                unit="reqps",
            ),
        ),
    ),
    Row(
        title="Replication",
        panels=(
            _lines(
                "Followers behind",
                "Entries, in the worst group.",
                ("max by (instance, follower) (eventlog_replication_lag_entries)", "{{instance}} to {{follower}}"),
            ),
            _lines("Elections", "Within ten minutes.", ("sum(increase(eventlog_elections_total[10m]))", "won")),
            _lines(
                "Partitions led",
                "By each node.",
                ('sum by (instance) (eventlog_partitions{state="led"})', INSTANCE),
            ),
            _lines(
                "Sent to peers",
                "Bytes a second.",
                (_per_second("eventlog_peer_sent_bytes_total"), INSTANCE),
                unit="Bps",
            ),
            _lines("Links to peers", "That are up.", ("sum by (instance) (eventlog_peer_link_up)", INSTANCE)),
            _lines("Members", "As each node knows them.", ("max by (status) (eventlog_members)", "{{status}}")),
        ),
    ),
    Row(
        title="Disk",
        panels=(
            _lines("Writes", "Each with its fsync.", *_quantiles("eventlog_fsync_seconds"), unit="s"),
            _lines("On disk", "Records and other entries.", ("sum by (instance) (storage_disk_bytes)", INSTANCE), unit="bytes"),
            _lines("Free", "Without the reserve.", ("min by (instance) (eventlog_disk_free_bytes)", INSTANCE), unit="bytes"),
            _lines(
                "Entries a write",
                "Many share an fsync when there is much to do.",
                (
                    f"{_per_second('eventlog_wal_entries_total')} / {_per_second('eventlog_wal_writes_total')}",
                    INSTANCE,
                ),
            ),
            _lines(
                "The largest topics",
                "One copy of each.",
                ('topk(10, sum by (topic) (max by (topic, partition) (eventlog_log_bytes{topic!=""})))', "{{topic}}"),
                unit="bytes",
            ),
        ),
    ),
    Row(
        title="Limits",
        panels=(
            _lines(
                "Used of what there is",
                "Budgets of the node: 1 is all.",
                ("max by (budget) (eventlog_budget_used / (eventlog_budget_limit > 0))", "{{budget}}"),
                unit="percentunit",
            ),
            _lines(
                "Refused for lack of room",
                "Within five minutes.",
                ("sum by (budget) (increase(eventlog_budget_refused_total[5m]))", "{{budget}}"),
            ),
            _lines("Waiting", "Bytes in queues.", ("max by (queue) (eventlog_queue_bytes)", "{{queue}}"), unit="bytes"),
            _lines(
                "Event loop",
                "By how much a tick came late.",
                ("max by (instance) (eventlog_event_loop_lag_seconds)", INSTANCE),
                unit="s",
            ),
        ),
    ),
)


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green" if panel.bad_from is not None else "text", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if not panel.is_number:
        defaults |= {"min": 0, "color": {"mode": "palette-classic"}}
    return {
        "id": number,
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.means,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": 4 if panel.is_number else HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend}
            for place, query in enumerate(panel.queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
        )
        x, y, line = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, line = 0, y + line, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, line = x + panel.width, max(line, panels[-1]["gridPos"]["h"])
        y += line
    return {
        "uid": "trio-eventlog",
        "title": "trio_eventlog",
        "tags": ["trio-eventlog"],
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if not arguments.check:
        TARGET.write_text(text())
    elif TARGET.read_text() != text():
        sys.exit(f"{TARGET} differs from what {Path(__file__).name} makes")


if __name__ == "__main__":
    main()
