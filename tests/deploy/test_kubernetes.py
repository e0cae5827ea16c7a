"""The Kubernetes files say what the program understands, and agree with each other. There is no cluster here to try them on."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from trio_eventlog.cli import make_parser, serve
from trio_eventlog.http.probes import PROBE_PATHS
from trio_eventlog.setting_fields import parse_address, parse_join
from trio_eventlog.settings import NodeSettings, load_settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"


def documents() -> dict[tuple[str, str], Any]:
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found[document["kind"], document.get("metadata", {}).get("name", "")] = document
    return found


MANIFEST = documents()
STATEFUL_SET = MANIFEST["StatefulSet", "eventlog"]["spec"]
TEMPLATE = STATEFUL_SET["template"]
POD = TEMPLATE["spec"]
(CONTAINER,) = POD["containers"]
PEERS = MANIFEST["Service", "eventlog-peers"]["spec"]
CLIENTS = MANIFEST["Service", "eventlog"]["spec"]
PORTS = {port["name"]: port for port in CONTAINER["ports"]}
FIELDS = {"metadata.name": "eventlog-1", "metadata.namespace": "log"}


def variables() -> dict[str, str]:
    """As the kubelet makes them: each may name those before it as $(NAME)."""
    made: dict[str, str] = {}
    for entry in CONTAINER["env"]:
        if "value" in entry:
            assert isinstance(entry["value"], str), f"{entry['name']} is no text"
            made[entry["name"]] = expanded(entry["value"], made)
        else:
            made[entry["name"]] = FIELDS[entry["valueFrom"]["fieldRef"]["fieldPath"]]
    return made


def expanded(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], text)


def settings() -> NodeSettings:
    environment = variables()
    arguments = make_parser().parse_args([expanded(text, environment) for text in CONTAINER["args"]])
    assert arguments.run is serve.run
    return load_settings(NodeSettings, flags=vars(arguments), environment=environment)


def test_every_file_is_applied() -> None:
    listed = MANIFEST["Kustomization", ""]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in FOLDER.glob("*.yaml"))
    assert set(MANIFEST) == {
        ("Kustomization", ""),
        ("Service", "eventlog"),
        ("Service", "eventlog-peers"),
        ("StatefulSet", "eventlog"),
        ("PodDisruptionBudget", "eventlog"),
    }


def test_every_flag_and_variable_is_a_setting() -> None:
    """Unknown ones are refused when they are read, and so are values that cannot be."""
    read = settings()
    assert read.node_name == "eventlog-1"
    assert read.has_tls
    assert read.tls_peer_name


def test_a_misspelt_flag_or_variable_would_be_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(CONTAINER, "args", [*CONTAINER["args"], "--bootstrap-expects=3"])
    with pytest.raises(SystemExit):
        settings()
    assert "--bootstrap-expects" in capsys.readouterr().err
    monkeypatch.setitem(CONTAINER, "args", CONTAINER["args"][:-1])
    monkeypatch.setitem(CONTAINER, "env", [*CONTAINER["env"], {"name": "TRIO_EVENTLOG_TLS_CERTS", "value": "x"}])
    with pytest.raises(Exception, match="unknown variable TRIO_EVENTLOG_TLS_CERTS"):
        settings()


def test_nodes_find_each_other_before_any_is_ready() -> None:
    """The deadlock that this is against is told in tests/cluster/test_names_and_readiness.py."""
    assert PEERS["clusterIP"] == "None"
    assert PEERS["publishNotReadyAddresses"] is True
    assert STATEFUL_SET["podManagementPolicy"] == "Parallel"
    assert not CLIENTS.get("publishNotReadyAddresses"), "clients are to find nodes that are ready"


def test_the_name_to_join_is_the_srv_record_of_the_headless_service() -> None:
    (text,) = settings().join
    target = parse_join(text)
    port, protocol, host = target.host.split(".", 2)
    assert target.is_service
    published = [entry for entry in PEERS["ports"] if (f"_{entry['name']}", f"_{entry['protocol'].lower()}") == (port, protocol)]
    assert len(published) == 1
    assert host == f"{STATEFUL_SET['serviceName']}.{FIELDS['metadata.namespace']}.svc.cluster.local"


def test_a_node_is_told_to_others_by_the_name_of_its_pod() -> None:
    host, port = parse_address(settings().advertise)
    assert host == f"{FIELDS['metadata.name']}.{STATEFUL_SET['serviceName']}.{FIELDS['metadata.namespace']}.svc.cluster.local"
    assert port == parse_address(settings().listen)[1]
    assert variables()["TRIO_EVENTLOG_TARGET"] == f"eventlog://{host}:{port}"


def test_as_many_begin_as_there_are() -> None:
    assert settings().bootstraps == STATEFUL_SET["replicas"] == 3


def test_ports_are_the_same_everywhere() -> None:
    _, listening = parse_address(settings().listen)
    assert {port["containerPort"] for port in PORTS.values()} == {listening}
    assert {name: port["protocol"] for name, port in PORTS.items()} == {"eventlog": "TCP", "gossip": "UDP"}
    for service in (PEERS, CLIENTS):
        for entry in service["ports"]:
            assert PORTS[entry["targetPort"]]["protocol"] == entry["protocol"]
            assert entry["port"] == listening


def test_selectors_mean_these_pods() -> None:
    labels = TEMPLATE["metadata"]["labels"]
    budget = MANIFEST["PodDisruptionBudget", "eventlog"]["spec"]
    apart = POD["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    for selector in (
        PEERS["selector"],
        CLIENTS["selector"],
        STATEFUL_SET["selector"]["matchLabels"],
        budget["selector"]["matchLabels"],
        apart["labelSelector"]["matchLabels"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert budget["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]
)
def test_probes_ask_what_is_answered(probe: str, path: str) -> None:
    get = CONTAINER[probe]["httpGet"]
    assert (get["path"], get["port"]) == (path, "eventlog")
    assert get["scheme"] == ("HTTPS" if settings().has_tls else "HTTP")
    assert not settings().tls_require_client_cert, "a kubelet has no certificate to show"
    assert get["path"] in PROBE_PATHS


def test_an_election_does_not_restart_a_node() -> None:
    live, ready = CONTAINER["livenessProbe"], CONTAINER["readinessProbe"]
    assert live["httpGet"]["path"] != ready["httpGet"]["path"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60


def test_a_stop_has_the_time_it_needs() -> None:
    pause = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] >= pause + settings().shutdown_timeout_seconds + 10


def test_files_that_settings_name_are_mounted() -> None:
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"] for volume in POD["volumes"]}
    claims = {claim["metadata"]["name"] for claim in STATEFUL_SET["volumeClaimTemplates"]}
    read = settings()
    for path, is_secret in (
        (read.data_dir, False),
        (read.tls_cert, True),
        (read.tls_key, True),
        (read.tls_ca, True),
        (read.gossip_key_file, True),
    ):
        mount = mounts[str(Path(path).parent)]
        assert mount["name"] in (volumes if is_secret else claims)
        assert bool(mount.get("readOnly")) is is_secret
    assert POD["securityContext"]["fsGroup"] == POD["securityContext"]["runAsUser"], "the secrets are readable by group"


def test_services_do_not_become_settings() -> None:
    """A service called trio-eventlog would make TRIO_EVENTLOG_SERVICE_HOST, which is no setting and so is refused."""
    assert POD["enableServiceLinks"] is False


def test_the_image_runs_as_the_user_of_the_pod() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"USER {POD['securityContext']['runAsUser']}\n" in dockerfile
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    arguments = make_parser().parse_args(yaml.safe_load(command))
    assert load_settings(NodeSettings, flags=vars(arguments)).data_dir == "/data"
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()


def test_commands_of_the_page_are_commands() -> None:
    """Everything after `-- trio-eventlog` on the page, up to a comment or a pipe, is understood."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    found = re.findall(r"-- trio-eventlog ([^#|\n]*)", page)
    assert len(found) >= 4
    for text in found:
        make_parser().parse_args(shlex.split(text))
