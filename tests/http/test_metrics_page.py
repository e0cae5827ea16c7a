"""`/metrics` of nodes in a simulated cluster: what is counted is there, and a parser of others reads it."""

import re
import subprocess
import sys
from pathlib import Path

import trio
from http_kit import Client
from named_metrics import NAMED_METRICS
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from test_topics_over_http import connected, opened

from trio_eventlog.agent.metrics import METRICS
from trio_eventlog.http.readings import MetricKind
from trio_eventlog.ids import format_id

VIRTUAL_TIME = True

ROOT = Path(__file__).resolve().parent.parent.parent


async def samples_of(client: Client, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    headers = (("accept", accept),) if accept else ()
    status, body = await client.ask("GET", "/metrics", headers=headers)
    assert status == 200
    parse = parse_openmetrics if "openmetrics" in accept else parse_text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


def test_names_are_as_prometheus_wants_them() -> None:
    """And each is there once, with words."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER), metric.name
        assert metric.help.endswith("."), metric.name


async def test_what_happens_is_counted() -> None:
    """On the node where it happens; names and values that alerts are written with."""
    async with opened(3) as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t", "partitions": 2})
        for number in range(10):
            await client.ask_json("POST", "/topics/t/records", {"records": [{"value": "x", "key": str(number)}]})
        await client.ask("POST", "/topics/t/records", b"{}")
        await trio.sleep(1)
        leaders = 0.0
        for name in cluster.names:
            async with connected(cluster, name) as other:
                samples = await samples_of(other)
                if name != "n1":
                    samples_elsewhere = samples
            for partition in ("0", "1"):
                where = (("partition", partition), ("topic", "t"))
                leaders += samples["eventlog_is_leader", where]
                assert samples["eventlog_term", where] >= 1
                assert samples["eventlog_commit_index", where] == samples["eventlog_applied_index", where] > 0
            records = sum(samples["eventlog_records_total", (("partition", partition), ("topic", "t"))] for partition in "01")
            assert records == 10
            assert samples["eventlog_members", (("status", "alive"),)] == 3
            assert samples["eventlog_ready", ()] == 1
            assert samples["eventlog_wal_bytes", ()] == samples["storage_disk_bytes", ()] > 0
            assert samples["eventlog_wal_entries_total", ()] >= 12
            assert samples["eventlog_fsync_seconds_count", ()] > 0
        assert leaders == 2
        own = await samples_of(client)
        assert {name for name, _ in own} >= set(NAMED_METRICS) - {"eventlog_replication_lag_entries"}
        assert own["eventlog_produced_records_total", ()] == own["eventlog_produce_seconds_count", ()] == 10
        assert own["ingest_requests_total", (("status", "2xx"),)] == 10
        assert own["ingest_requests_total", (("status", "4xx"),)] == 1
        assert samples_elsewhere["ingest_requests_total", (("status", "2xx"),)] == 0
        assert own["eventlog_budget_used", (("budget", "live tails over HTTP"),)] == 0


async def test_a_follower_that_is_cut_off_is_behind() -> None:
    async with opened(3) as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        leader = await cluster.wait_leader("t")
        lost = next(name for name in cluster.names if name != leader)
        lost_id = format_id(cluster.node(lost).node_id)
        cluster.isolate(lost)
        async with connected(cluster, leader) as other:
            for _ in range(5):
                assert (await other.ask_json("POST", "/topics/t/records", {"records": [{"value": "x"}]}))[0] == 201
            await trio.sleep(30)
            samples = await samples_of(other)
            assert samples["eventlog_replication_lag_entries", (("follower", lost_id),)] >= 5
            assert samples["eventlog_members", (("status", "failed"),)] == 1
            assert samples["eventlog_peer_link_up", (("peer", lost_id),)] == 0
            cluster.heal()
            await trio.sleep(20)
            samples = await samples_of(other)
            assert samples["eventlog_replication_lag_entries", (("follower", lost_id),)] == 0


async def test_partitions_with_series_are_bounded() -> None:
    async with opened(metrics_partitions_max=3) as (_, client):
        await client.ask_json("POST", "/topics", {"name": "t", "partitions": 3})
        samples = await samples_of(client)
        assert samples["eventlog_partitions_without_series", ()] == 0
        await client.ask_json("POST", "/topics", {"name": "u", "partitions": 2})
        samples = await samples_of(client)
        assert samples["eventlog_partitions_without_series", ()] == 2
        assert sum(name == "eventlog_term" for name, _ in samples) == 4, "and the catalog"
        assert samples["eventlog_partitions", (("state", "open"),)] == 5


async def test_counters_outlive_the_groups_that_they_are_of() -> None:
    """One that goes back looks like a node that was started again."""
    async with opened() as (_, client):
        for number in range(3):
            await client.ask_json("POST", f"/topics/t{number}/records", {"records": [{"value": "x"}]})
        before = await samples_of(client)
        for number in range(3):
            await client.ask("DELETE", f"/topics/t{number}")
        await trio.sleep(2)
        after = await samples_of(client)
        assert after["eventlog_partitions", (("state", "open"),)] == 0
        counters = [metric.name for metric in METRICS if metric.kind is MetricKind.COUNTER and not metric.labels]
        for name in (*counters, "eventlog_fsync_seconds_count"):
            assert after[name, ()] >= before[name, ()], name


async def test_openmetrics_when_it_is_asked_for() -> None:
    async with opened() as (_, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        samples = await samples_of(client, "application/openmetrics-text; version=1.0.0")
        assert samples["eventlog_wal_entries_total", ()] > 0
        assert client.headers[b"content-type"].startswith(b"application/openmetrics-text")


def test_no_metrics_library_is_loaded_by_a_node_that_nobody_asks() -> None:
    """Nor anything else of the application: a start waits for none of it."""
    text = "import sys, trio_eventlog.agent.node; print(*sorted({'starlette', 'msgspec', 'prometheus_client'} & {*sys.modules}))"
    said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == ""
