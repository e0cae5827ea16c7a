"""When a node says that a stranger could be a node."""

import random
from pathlib import Path

import pytest
from authority import Authority

from trio_eventlog.agent import Surroundings, open_node
from trio_eventlog.settings import NodeSettings, is_loopback
from trio_eventlog.testing.disk import SimDisk


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("n1", False),
    ],
)
def test_what_only_programs_of_the_same_machine_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("values", "has_tls", "says"),
    [
        ({}, False, ""),
        ({"listen": "0.0.0.0:0", "advertise": "127.0.0.1:1"}, False, "no TLS and no peer secret"),
        ({"advertise": "log.example:8400"}, False, "any process that reaches log.example:8400 can act as a node"),
        ({"advertise": "log.example:8400", "peer_secret_file": "a secret of ours"}, False, ""),
        ({"advertise": "log.example:8400", "peer_secret_file": "none"}, False, "any process that reaches"),
        ({}, True, "tls_peer_name"),
        ({"tls_peer_name": "peers.example"}, True, ""),
        ({"peer_secret_file": "a secret of ours"}, True, ""),
    ],
)
async def test_a_node_says_so_at_start_and_in_its_status(
    tmp_path: Path, values: dict[str, str], has_tls: bool, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    if "peer_secret_file" in values:
        path = tmp_path / "secret"
        path.write_text(values["peer_secret_file"])
        values = values | {"peer_secret_file": str(path)}
    if has_tls:
        files = Authority(tmp_path / "ca").issue("127.0.0.1", "peers.example")
        values = values | {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
    settings = NodeSettings(**({"data_dir": "data", "node_name": "localhost", "listen": "127.0.0.1:0"} | values))  # type: ignore[arg-type]
    async with open_node(settings, Surroundings(disk=SimDisk(random.Random(1)))) as node:
        warnings = [text for text in node.status().warnings if "does not gossip" not in text]
    if says:
        assert [says in text for text in warnings] == [True]
        assert any(says in record.getMessage() and record.levelname == "WARNING" for record in caplog.records)
    else:
        assert warnings == []
