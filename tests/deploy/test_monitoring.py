"""Alerts, their runbooks and the dashboard speak of what nodes show; a real Prometheus is asked in tests/process."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from trio_eventlog.agent.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
(GROUP,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
ALERTS: dict[str, Any] = {rule["alert"]: rule for rule in GROUP["rules"]}
SUFFIXES = ("_bucket", "_sum", "_count")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:eventlog|ingest|storage)_\w+", query))


def is_shown(name: str) -> bool:
    names = {metric.name for metric in METRICS}
    return name in names or any(name.endswith(suffix) and name.removesuffix(suffix) in names for suffix in SUFFIXES)


def dashboard() -> dict[str, Any]:
    made = runpy.run_path(str(FOLDER / "dashboard.py"))
    found: dict[str, Any] = made["dashboard"]()
    return found


def test_alerts_ask_for_what_there_is() -> None:
    for name, rule in ALERTS.items():
        assert all(is_shown(metric) for metric in metrics_in(rule["expr"])), name
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_each_alert_has_a_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    assert headings == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"


def test_links_of_the_runbooks_lead_somewhere() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    links = re.findall(r"\]\(([\w./-]+\.md)(?:#([\w-]+))?\)", text)
    assert links
    for page, anchor in links:
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, (page, anchor)


@needs_promtool
def test_prometheus_takes_the_rules_and_each_fires_for_what_it_is_for() -> None:
    """As alerts.test.yaml says; it has every alert."""
    tried = (FOLDER / "alerts.test.yaml").read_text()
    assert all(f'alertname="{name}"' in tried for name in ALERTS)
    done = subprocess.run(("promtool", "test", "rules", FOLDER / "alerts.test.yaml"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    done = subprocess.run(("promtool", "check", "config", FOLDER / "prometheus.yaml"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_the_one_that_the_script_makes() -> None:
    assert json.loads((FOLDER / "dashboard.json").read_text()) == dashboard()


def test_panels_ask_for_what_there_is_and_lie_beside_each_other() -> None:
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel["targets"]:
            assert metrics_in(target["expr"]) or 'up{job="eventlog"}' in target["expr"]
            assert all(is_shown(metric) for metric in metrics_in(target["expr"])), target["expr"]


def test_every_metric_that_people_alert_on_has_a_panel() -> None:
    shown = set().union(*(metrics_in(target["expr"]) for panel in dashboard()["panels"] for target in panel.get("targets", [])))
    alerted = set().union(*(metrics_in(rule["expr"]) for rule in ALERTS.values()))
    assert alerted - shown == {"eventlog_disk_scarce"}, "its panel is that of free room"
