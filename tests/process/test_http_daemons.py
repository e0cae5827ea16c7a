"""HTTP on real daemons: curl as people write it, variables of other event stores, and a program that tries what is described."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, DaemonCluster, wait_until

from trio_eventlog.cli.loopback_ports import reserve_addresses

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]


def curl(*arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "30", *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl_json(*arguments: str, text: str = "") -> Any:
    return json.loads(curl(*arguments, text=text))


def wait_ready(address: str) -> None:
    wait_until(lambda: curl("-o", "/dev/null", "-w", "%{http_code}", f"http://{address}/ready") == "200", "ready")


def test_curl_on_a_node_that_is_set_up_by_variables_of_others(make_daemon: Callable[..., Daemon]) -> None:
    """Those of a local start, with an etcd that there is not; its status and health have the fields that are asked for."""
    (address,) = reserve_addresses(1)
    port = address.rpartition(":")[2]
    variables = {"NODE_ID": "event-store-0", "HTTP_PORT": port, "DATA_DIR": "./data/wal", "ETCD_ENDPOINTS": "localhost:2379"}
    daemon = make_daemon("n0", environment=variables).start()
    wait_ready(f"localhost:{port}")
    status = curl_json(f"http://localhost:{port}/status")
    assert status["name"] == "event-store-0"
    assert status["is_leader"] is True
    assert status["leader_id"] == status["id"]
    assert status["term"] >= 1
    assert status["commit_index"] >= status["last_applied"] >= 1
    health = curl_json(f"http://localhost:{port}/health")
    assert {"status", "node_id", "is_leader", "leader_id", "timestamp"} == health.keys()
    assert (health["status"], health["is_leader"]) == ("healthy", True)
    assert (daemon.home / "data" / "wal" / "node.toml").is_file()
    assert daemon.log().count("ETCD_ENDPOINTS is ignored") == 1


def test_curl_on_each_node_of_three(make_cluster: Callable[..., DaemonCluster]) -> None:
    """One leader, on whom all agree; records that one node takes are read from each, and each has all of the description."""
    cluster = make_cluster("--auto-create-topics").start()
    for address in cluster.addresses:
        wait_ready(address)
    statuses = [curl_json(f"http://{address}/status") for address in cluster.addresses]
    assert sum(status["is_leader"] for status in statuses) == 1
    assert len({status["leader_id"] for status in statuses}) == 1
    lines = "".join(f'{{"value": "{number}", "key": "k"}}\n' for number in range(3))
    for number, address in enumerate(cluster.addresses):
        if number:
            records = json.dumps({"records": [{"value": f"from {number}", "key": "k"}]})
            target = f"http://{address}/topics/orders/records"
            assert curl_json("-X", "POST", target, "-H", "Content-Type: application/json", "-d", records)["count"] == 1
        else:
            upload = ("-H", "Content-Type: application/x-ndjson", "--data-binary", "@-")
            assert curl_json("-X", "POST", f"http://{address}/topics/orders/records", *upload, text=lines)["records"] == 3
    for address in cluster.addresses:
        page = curl_json(f"http://{address}/topics/orders/partitions/0/records")
        assert [record["value"] for record in page["records"]] == ["0", "1", "2", "from 1", "from 2"]
        assert [topic["name"] for topic in curl_json(f"http://{address}/topics")["topics"]] == ["orders"]
        assert "/topics/{topic}/records" in curl_json(f"http://{address}/openapi.json")["paths"]


@pytest.mark.slow
def test_a_stranger_tries_what_the_description_allows(make_daemon: Callable[..., Daemon]) -> None:
    """No fault of the node, and every answer as it is described, with requests that fit the description and some that do not."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    assert schemathesis
    daemon = make_daemon("n0", "--http-answer-seconds-max", "2", environment={"TRIO_EVENTLOG_LISTEN": "127.0.0.1:0"}).start()
    wait_ready(daemon.address)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{daemon.address}/openapi.json"]
    command += ["--checks", checks, "--max-examples", "30", "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    command += ["--exclude-path-regex", "(tail|stream)$", "--request-timeout", "10", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=daemon.home, timeout=250)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in daemon.log()
    assert daemon.stop() == 0
