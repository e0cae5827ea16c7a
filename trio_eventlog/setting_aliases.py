"""Variables without our prefix that `serve` takes as well: those that manifests of small event stores on Kubernetes have.

They stand behind everything else: a flag, a `TRIO_EVENTLOG_*` variable or the settings file of the same setting comes first.
"""

from collections.abc import Mapping
from typing import Any

from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_fields import DEFAULT_PORT, format_address, parse_address

NODE_ID, HTTP_PORT, DATA_DIR, SERVICE_NAME, NAMESPACE = "NODE_ID", "HTTP_PORT", "DATA_DIR", "SERVICE_NAME", "NAMESPACE"
ETCD_ENDPOINTS = "ETCD_ENDPOINTS"
ALIASES = (NODE_ID, HTTP_PORT, DATA_DIR, SERVICE_NAME, NAMESPACE)
DEFAULT_NAMESPACE = "default"
REPLICAS = 3
"""Nodes of a first start behind a service, unless `bootstrap_expect` says otherwise."""

REFERENCE = """\
`serve` also takes these variables, which stand behind everything else: a flag, a `TRIO_EVENTLOG_*` variable or the file comes
first.

| variable | stands for |
| --- | --- |
| `NODE_ID` | `node_name` |
| `HTTP_PORT` | the port of `listen`; on every address with `SERVICE_NAME`, else on 127.0.0.1 |
| `DATA_DIR` | `data_dir` |
| `SERVICE_NAME` | a headless service of Kubernetes: `join` is SERVICE_NAME.NAMESPACE.svc with the port of `listen`, \
`bootstrap_expect` is 3, and with `NODE_ID` `advertise` is NODE_ID.SERVICE_NAME.NAMESPACE.svc |
| `NAMESPACE` | of that service; `default` without it |
| `ETCD_ENDPOINTS` | nothing: nodes elect their leaders themselves. The log says so once |
"""


def fill_from_aliases(values: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Add the settings that aliases stand for and that `values` does not have. Raises SettingsError."""
    given = {name: environment[name].strip() for name in ALIASES if environment.get(name, "").strip()}
    if NODE_ID in given:
        values.setdefault("node_name", given[NODE_ID])
    if DATA_DIR in given:
        values.setdefault("data_dir", given[DATA_DIR])
    if HTTP_PORT in given:
        values.setdefault("listen", format_address("0.0.0.0" if SERVICE_NAME in given else "127.0.0.1", _port(given[HTTP_PORT])))
    if SERVICE_NAME in given and "join" not in values:
        service = f"{given[SERVICE_NAME]}.{given.get(NAMESPACE, DEFAULT_NAMESPACE)}.svc"
        port = _listen_port(values)
        values["join"] = (format_address(service, port),)
        values.setdefault("bootstrap_expect", REPLICAS)
        if NODE_ID in given:
            values.setdefault("advertise", format_address(f"{given[NODE_ID]}.{service}", port))


def alias_notes(environment: Mapping[str, str]) -> list[str]:
    """What the log should say about such variables, one line each."""
    used = [name for name in ALIASES if environment.get(name, "").strip()]
    notes = [f"settings that nothing else says are taken from {', '.join(used)}"] if used else []
    if environment.get(ETCD_ENDPOINTS, "").strip():
        notes.append(f"{ETCD_ENDPOINTS} is ignored: nodes elect their leaders themselves, and need no etcd")
    return notes


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise SettingsError(f"environment: {HTTP_PORT} is {text[:100]!r}: write a port, 0 to 65535")
    return int(text)


def _listen_port(values: Mapping[str, Any]) -> int:
    try:
        return parse_address(values["listen"])[1] if "listen" in values else DEFAULT_PORT
    except ValueError:
        return DEFAULT_PORT  # The setting itself is refused, with words.
