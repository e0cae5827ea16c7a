"""The event store on real daemons: curl as its users type it, on one node and on each of three, while the leader is killed."""

import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from daemons import Daemon, DaemonCluster, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]

EVENT = """{
    "type": "UserCreated",
    "aggregate_id": "user-123",
    "payload": {
      "name": "John Doe",
      "email": "john@example.com"
    },
    "metadata": {
      "source": "api"
    }
  }"""


def curl(*arguments: str) -> tuple[int, Any]:
    """Status and JSON of the answer; 0 without one."""
    command = ["curl", "--silent", "--max-time", "10", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), json.loads(body) if body else None


def append(address: str, body: str) -> tuple[int, Any]:
    return curl("-X", "POST", f"http://{address}/events", "-H", "Content-Type: application/json", "-d", body)


def wait_ready(address: str) -> None:
    wait_until(lambda: curl(f"http://{address}/ready")[0] == 200, "ready")


def test_curl_on_one_node(make_daemon: Callable[..., Daemon]) -> None:
    """Everything is there after a kill; an index that was damaged is made again."""
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0").start()
    wait_ready(daemon.address)
    status, made = append(daemon.address, EVENT)
    assert (status, made["success"], made["index"]) == (201, True, 1), made
    uuid.UUID(made["event_id"])
    _, page = curl(f"http://{daemon.address}/events/user-123")
    (event,) = page["events"]
    assert (page["count"], event["id"], event["payload"]["name"]) == (1, made["event_id"], "John Doe")
    daemon.kill()
    (index,) = (daemon.home / "trio-eventlog-data" / "derived").glob("*.events")
    for path in index.parent.iterdir():
        path.write_bytes(b"damage " * 1000)
    daemon.start()
    wait_ready(daemon.address)
    repeated = json.loads(EVENT) | {"event_id": made["event_id"]}
    status, again = append(daemon.address, json.dumps(repeated))
    assert (status, again["index"]) == (200, 1), again
    assert append(daemon.address, json.dumps(repeated | {"event_id": "new", "expected_version": 0}))[0] == 409
    assert daemon.stop() == 0


def test_two_writers_while_the_leader_is_killed(make_cluster: Callable[..., DaemonCluster]) -> None:
    """Each version is won once; what was acknowledged is there, at every node."""
    cluster = make_cluster().start()
    for address in cluster.addresses:
        wait_ready(address)
    for number, address in enumerate(cluster.addresses, 1):
        status, made = append(address, EVENT)
        assert (status, made["version"] if status == 201 else made) == (201, number)
    won: dict[int, str] = {}
    doubles: list[int] = []
    is_over = threading.Event()

    def write(address: str, name: str) -> None:
        version, number = 0, 0
        while not is_over.is_set():
            number += 1
            event_id = f"{name}-{number}"
            while not is_over.is_set():
                body = {"type": "T", "aggregate_id": "raced", "payload": name, "event_id": event_id, "expected_version": version}
                status, answer = append(address, json.dumps(body))
                if status in (200, 201):
                    if answer["version"] in won:
                        doubles.append(answer["version"])
                    version = answer["version"]
                    won[version] = event_id
                    break
                if status == 409:
                    version = answer["actual_version"]
                    break

    def leader() -> int | None:
        for number, address in enumerate(cluster.addresses):
            status, answer = curl(f"http://{address}/status")
            if status == 200 and answer["is_leader"]:
                return number
        return None

    first = wait_until(leader, "a leader")
    others = [address for number, address in enumerate(cluster.addresses) if number != first]
    writers = [threading.Thread(target=write, args=(address, name)) for name, address in zip("ab", others, strict=True)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(won) >= 10, "the first events")
    cluster.nodes[first].kill()
    before = len(won)
    wait_until(lambda: len(won) >= before + 10, "events after the leader was killed")
    cluster.nodes[first].start()
    wait_ready(cluster.addresses[first])
    is_over.set()
    for writer in writers:
        writer.join(20)
    assert doubles == []
    for address in cluster.addresses:
        events: list[Any] = []
        while True:
            _, page = curl(f"http://{address}/events/raced?from_version={len(events) + 1}&limit=500")
            events += page["events"]
            if not page["events"]:
                break
        assert [event["version"] for event in events] == list(range(1, len(events) + 1))
        assert {event["version"]: event["id"] for event in events if event["version"] in won} == won
