"""A real Prometheus scrapes three nodes, and answers what alerts are written with."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from daemons import DaemonCluster, run_command, wait_until
from named_metrics import NAMED_METRICS

from trio_eventlog.cli.loopback_ports import reserve_addresses

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus"),
]

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[list[str]], str]]:
    """Starts one that asks these nodes, and returns its address."""
    started: list[subprocess.Popen[bytes]] = []

    def start(targets: list[str]) -> str:
        (address,) = reserve_addresses(1)
        config = tmp_path / "prometheus.yml"
        scrape = {"job_name": "eventlog", "scrape_interval": "200ms", "static_configs": [{"targets": targets}]}
        config.write_text(json.dumps({"scrape_configs": [scrape], "rule_files": [str(MONITORING / "alerts.yaml")]}))
        flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={address}"]
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log, cwd=tmp_path))
        return address

    yield start
    for process in started:
        process.kill()
        process.wait()


def ask(address: str, query: str) -> list[dict[str, object]]:
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[dict[str, object]] = json.load(answer)["data"]["result"]
            return found
    except OSError:
        return []


def test_prometheus_answers_each_name(
    tmp_path: Path, prometheus: Callable[[list[str]], str], make_cluster: Callable[..., DaemonCluster]
) -> None:
    """From all three nodes, and sums over them that are right."""
    cluster = make_cluster("--auto-create-topics").start()
    made = run_command("produce", "orders", "--target", f"eventlog://{cluster.addresses[0]}", home=tmp_path, text="a\nb\nc\n")
    assert made.returncode == 0, made.stderr
    address = prometheus(cluster.addresses)
    wait_until(lambda: len(ask(address, "up == 1")) == 3, "all nodes are scraped", 60)
    for query in NAMED_METRICS:
        wait_until(lambda query=query: ask(address, query), query)
    for query, nodes in (("eventlog_term{topic=''}", 3), ("sum(eventlog_is_leader{topic='orders'}) == 1", 1)):
        wait_until(lambda query=query, nodes=nodes: len(ask(address, query)) == nodes, query)
    wait_until(lambda: ask(address, "max by (topic) (eventlog_records_total{topic='orders'}) == 3"), "every record is counted")
    assert ask(address, "histogram_quantile(0.99, sum by (le) (eventlog_fsync_seconds_bucket)) > 0")
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            # Grafana puts a time in that holds four scrapes at least.
            query = target["expr"].replace("$__rate_interval", "1m")
            wait_until(lambda query=query: ask(address, query), f"{panel['title']}: {query}")
    firing = {str(alert["metric"]["alertname"]) for alert in ask(address, "ALERTS") if isinstance(alert["metric"], dict)}
    assert not firing - {"EventlogCertificateExpires"}
