"""The files for Compose say what the program understands, and agree with each other. tests/process runs what they run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trio_eventlog.http.probes import PROBE_PATHS
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.setting_fields import parse_address
from trio_eventlog.settings import NodeSettings, load_settings
from trio_eventlog.testing.defaults import default

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = [name for name in SERVICES if re.fullmatch(r"n\d", name)]
NGINX = (FOLDER / "nginx.conf").read_text()
UNIT_SECONDS = {"s": 1, "m": 60}


def settings(name: str) -> NodeSettings:
    return load_settings(NodeSettings, flags={}, environment=SERVICES[name]["environment"])


def test_every_variable_is_a_setting() -> None:
    for name in NODES:
        read = settings(name)
        assert (read.node_name, read.advertise) == (name, f"{name}:8400")
        assert read.bootstraps == len(NODES) == 3
        assert list(read.join) == [f"{node}:8400" for node in NODES]
        assert parse_address(read.listen) == ("0.0.0.0", 8400)


def test_a_misspelt_variable_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVICES["n1"], "environment", {**SERVICES["n1"]["environment"], "TRIO_EVENTLOG_JOINS": "n1:8400"})
    with pytest.raises(Exception, match="unknown variable TRIO_EVENTLOG_JOINS"):
        settings("n1")


def test_data_is_in_a_volume_of_each_node() -> None:
    for name in NODES:
        (volume,) = SERVICES[name]["volumes"]
        source, target = volume.split(":")
        assert source == name
        assert name in COMPOSE["volumes"]
        assert str(settings(name).data_dir).startswith(f"{target}/")


def test_a_node_has_time_to_stop() -> None:
    for name in NODES:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > settings(name).shutdown_timeout_seconds + 10


def test_health_is_asked_at_a_path_that_there_is() -> None:
    for name in NODES:
        (found,) = re.findall(r"http://127.0.0.1:(\d+)(/\w+)", SERVICES[name]["healthcheck"]["test"][-1])
        assert int(found[0]) == parse_address(settings(name).listen)[1]
        assert found[1] in PROBE_PATHS


def test_the_image_is_built_by_the_file_that_there_is() -> None:
    for name in NODES:
        build = SERVICES[name]["build"]
        context = FOLDER / build["context"]
        assert (context / build["dockerfile"]).samefile(ROOT / "deploy" / "Dockerfile")
        assert SERVICES[name]["image"] in (ROOT / "deploy" / "Dockerfile").read_text().splitlines()[0]


def test_files_that_are_mounted_are_there() -> None:
    mounted = [
        volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ()) if volume.startswith(".")
    ]
    assert len(mounted) == 5
    for path in mounted:
        assert (FOLDER / path).exists(), path


def test_ports_are_open_on_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(set(published)) == len(published)
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_nginx_and_prometheus_know_all_nodes() -> None:
    assert re.findall(r"server (\w+:\d+) ", NGINX) == [settings(name).advertise for name in NODES]
    configuration = yaml.safe_load((FOLDER.parent / "monitoring" / "prometheus.yaml").read_text())
    ((job,),) = (scrape["static_configs"] for scrape in configuration["scrape_configs"])
    assert job["targets"] == [settings(name).advertise for name in NODES]
    (target,) = yaml.safe_load((FOLDER / "grafana" / "datasource.yaml").read_text())["datasources"]
    assert target["url"] == f"http://prometheus:{SERVICES['prometheus']['ports'][0].rpartition(':')[2]}"


def test_nginx_does_not_end_a_tail_between_two_heartbeats() -> None:
    ((number, unit),) = re.findall(r"proxy_read_timeout (\d+)([sm]);", NGINX)
    assert int(number) * UNIT_SECONDS[unit] > 2 * default(HttpSettings).tail_heartbeat_seconds


def test_what_is_started_waits_for_what_it_needs() -> None:
    assert SERVICES["nginx"]["depends_on"] == {name: {"condition": "service_healthy"} for name in NODES}
    assert SERVICES["grafana"]["depends_on"] == ["prometheus"]
