"""The event store on real daemons: curl as its users type it, on one node and on each of three, while the leader is killed."""

import contextlib
import http.client
import itertools
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


LAST = "last"
"""Id of the event behind those of the writers."""


class Node:
    """HTTP to any of some nodes, over one connection at a time: the next one when one fails."""

    def __init__(self, addresses: list[str], first: int) -> None:
        self._addresses = itertools.cycle(addresses[first:] + addresses[:first])
        self._connection: http.client.HTTPConnection | None = None

    def begin(self, method: str, target: str, body: object = None, **headers: str) -> http.client.HTTPResponse | None:
        """An answer whose body is still to be read; None: nothing is known."""
        if self._connection is None:
            host, _, port = next(self._addresses).rpartition(":")
            self._connection = http.client.HTTPConnection(host, int(port), timeout=10)
        data = None if body is None else json.dumps(body)
        more = {} if body is None else {"content-type": "application/json"}
        try:
            self._connection.request(method, target, data, {**more, **headers})
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException):
            self.close()
            return None

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON; 0: nothing is known."""
        response = self.begin(method, target, body)
        if response is None:
            return 0, None
        try:
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return 0, None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def ask(address: str, method: str, target: str, body: object = None) -> tuple[int, Any]:
    """As `Node.ask`, once."""
    with contextlib.closing(Node([address], 0)) as node:
        return node.ask(method, target, body)


class Race:
    """Two writers that append to one aggregate, each at the version that it saw last, and a reader of the stream of all events."""

    def __init__(self, addresses: list[str]) -> None:
        self.won: dict[int, str] = {}
        self.doubles: list[int] = []
        self.refused: set[str] = set()
        self.streamed: list[tuple[int, str]] = []
        self._address = addresses[0]
        self._is_over = threading.Event()
        self._writers = [
            threading.Thread(target=self._write, args=(Node(addresses, number), name), daemon=True)
            for number, name in ((1, "a"), (2, "b"))
        ]
        self._follower = threading.Thread(target=self._follow, args=(Node(addresses, 0),), daemon=True)

    def start(self) -> None:
        for thread in (*self._writers, self._follower):
            thread.start()

    def stop(self) -> None:
        """Every event is decided then, and streamed."""
        self._is_over.set()
        for writer in self._writers:
            writer.join(60)
            assert not writer.is_alive()
        self.won[wait_until(self._append_last, "the last event", 60)] = LAST
        self._follower.join(60)
        assert not self._follower.is_alive()

    def _append_last(self) -> int | None:
        """Its version."""
        status, answer = ask(self._address, "POST", "/events", {"type": "T", "aggregate_id": "raced", "event_id": LAST})
        return int(answer["version"]) if status in (200, 201) else None

    def wait_progress(self) -> None:
        before = len(self.won)
        wait_until(lambda: len(self.won) >= before + 4, "further events", 60)

    def _write(self, node: Node, name: str) -> None:
        version, number = 0, 0
        while not self._is_over.is_set():
            number += 1
            event_id = f"{name}-{number}"
            body = {"type": "T", "aggregate_id": "raced", "payload": name, "event_id": event_id, "expected_version": version}
            while True:
                status, answer = node.ask("POST", "/events", body)
                if status in (200, 201):
                    version = answer["version"]
                    if self.won.setdefault(version, event_id) != event_id:
                        self.doubles.append(version)
                    break
                if status == 409:
                    self.refused.add(event_id)
                    version = answer["actual_version"]
                    break
                node.close()
        node.close()

    def _follow(self, node: Node) -> None:
        last_id = begun_id = ""
        while LAST not in (event_id for _, event_id in self.streamed[-1:]):
            headers = {"last-event-id": last_id} if last_id else {}
            response = node.begin("GET", "/events/stream?start=beginning&aggregate_id=raced", accept="text/event-stream", **headers)
            try:
                while response is not None and (line := response.readline().decode()) and not line.startswith("event: "):
                    if line.startswith("id: "):
                        begun_id = line[4:].strip()
                    elif line.startswith("data: ") and line.endswith("\n"):
                        last_id = begun_id
                        event = json.loads(line[6:])
                        self.streamed.append((event["version"], event["id"]))
                        if event["id"] == LAST:
                            break
            except (OSError, http.client.HTTPException):
                pass  # Its node was killed: go on at the next one, behind the last event that came as a whole.
            node.close()


def partition_leader(addresses: list[str]) -> int | None:
    """The number of the node that leads the partition of the topic of events, as it says itself."""
    for number, address in enumerate(addresses):
        status, answer = ask(address, "GET", "/status")
        if status == 200 and any(group["topic"] == "events" and group["role"] == "leader" for group in answer["groups"]):
            return number
    return None


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_two_writers_while_leaders_are_killed(kills: int, make_cluster: Callable[..., DaemonCluster]) -> None:
    """Each version is won once; what was acknowledged is there, what was refused is not, at every node; the stream of events goes
    on at another node without a gap or a repetition."""
    cluster = make_cluster().start()
    for address in cluster.addresses:
        wait_ready(address)
    for number, address in enumerate(cluster.addresses, 1):
        status, made = append(address, EVENT)
        assert (status, made["version"] if status == 201 else made) == (201, number)
    race = Race(cluster.addresses)
    race.start()
    for _ in range(kills):
        race.wait_progress()
        victim = wait_until(lambda: partition_leader(cluster.addresses), "a leader")
        cluster.nodes[victim].kill()
        race.wait_progress()
        cluster.nodes[victim].start()
        wait_ready(cluster.addresses[victim])
    race.stop()
    assert race.doubles == []
    logs: list[list[tuple[int, str]]] = []
    for address in cluster.addresses:
        found: list[tuple[int, str]] = []
        while True:
            _, page = ask(address, "GET", f"/events/raced?from_version={len(found) + 1}&limit=500")
            found += [(event["version"], event["id"]) for event in page["events"]]
            if not page["events"]:
                break
        logs.append(found)
    assert logs[0] == logs[1] == logs[2] == sorted(race.won.items())
    assert [version for version, _ in logs[0]] == list(range(1, len(logs[0]) + 1))
    assert race.refused.isdisjoint(event_id for _, event_id in logs[0])
    assert race.streamed == logs[0]
    for version, event_id in logs[0][:: len(logs[0]) // 10 + 1]:
        again = {"type": "T", "aggregate_id": "raced", "event_id": event_id, "expected_version": 0}
        status, answer = ask(cluster.addresses[version % 3], "POST", "/events", again)
        assert (status, answer["version"]) == (200, version)
