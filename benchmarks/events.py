"""The event store over HTTP, beside `eventsourcing` on SQLite and etcd, in one run.

    python benchmarks/events.py --seconds 8                              # those that are installed
    python benchmarks/events.py --seconds 0 --index-events 1000000       # the index of aggregates, made from the log

One JSON line for each system and number of clients: acknowledged events per second, p50 and p99 in milliseconds, and events per
second of the processor time of all its servers. A client sends one event, waits for the answer and sends the next one, over a
connection that it keeps. This process is the client of all systems; `eventsourcing` (`--eventsourcing`: a Python that has it) is a
library, so that its server and its clients are one process, and clients are threads. etcd is spoken to by HTTP like ours, through
the JSON gateway that it serves beside gRPC.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from trio_eventlog.cli.loopback_ports import reserve_addresses

PAYLOAD = {"name": "John Doe", "email": "john@example.com", "note": "x" * 40}
EVENTS_PER_AGGREGATE = 10

MakeRequest = Callable[[int, int], tuple[str, object]]
"""Target and JSON of the event `number` of client `client`."""


class Keep:
    """A connection on which requests follow each other."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def post(self, target: str, value: object) -> bytes:
        body = json.dumps(value).encode()
        head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        await self._stream.send_all(head.encode() + body)
        return await self.answer(target)

    async def get(self, target: str, *others: bytes) -> bytes:
        await self._stream.send_all(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await self.answer(target, *others)

    async def answer(self, target: str, *others: bytes) -> bytes:
        """The body. `others`: statuses that are fine too."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._piece(target)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length:
            body += await self._piece(target)
        if head.split(b" ", 2)[1] not in (b"200", b"201", *others):
            raise SystemExit(f"{target}: {head.decode()}\n{body.decode()}")
        return body

    async def _piece(self, target: str) -> bytes:
        piece = bytes(await self._stream.receive_some(1 << 18))
        if not piece:
            raise SystemExit(f"{target}: the connection was closed")
        return piece


async def connected(address: str) -> Keep:
    host, _, port = address.rpartition(":")
    return Keep(await trio.open_tcp_stream(host, int(port)))


def processor_seconds(processes: Sequence["subprocess.Popen[bytes]"]) -> float:
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def show(system: str, clients: int, samples: list[float], seconds: float, processor: float) -> None:
    samples.sort()
    line = {
        "system": system,
        "clients": clients,
        "events_per_second": round(len(samples) / seconds),
        "p50_ms": round(samples[len(samples) // 2] * 1000, 2),
        "p99_ms": round(samples[len(samples) * 99 // 100] * 1000, 2),
        "events_per_server_cpu_second": round(len(samples) / processor),
    }
    print(json.dumps(line), flush=True)


async def load(
    system: str, address: str, processes: Sequence["subprocess.Popen[bytes]"], clients: int, seconds: float, request: MakeRequest
) -> None:
    samples: list[float] = []

    async def client(number: int) -> None:
        connection = await connected(address)
        count = 0
        await connection.post(*request(number, count))
        while (began := time.perf_counter()) < end:
            count += 1
            await connection.post(*request(number, count))
            samples.append(time.perf_counter() - began)

    began, used = time.perf_counter(), processor_seconds(processes)
    end = began + seconds
    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(client, number)
    show(system, clients, samples, time.perf_counter() - began, processor_seconds(processes) - used)


async def reads(address: str, processes: Sequence["subprocess.Popen[bytes]"], seconds: float) -> None:
    """An aggregate of 1,000 events as one page, again and again; its events were appended one by one."""
    connection = await connected(address)
    for _ in range(1000):
        await connection.post("/events", {"aggregate_id": "long", "type": "UserNamed", "payload": PAYLOAD})
    samples: list[float] = []
    first, used, end = time.perf_counter(), 0.0, 0.0
    while not end or time.perf_counter() < end:
        began = time.perf_counter()
        await connection.get("/events/long?limit=1000")
        samples.append(time.perf_counter() - began)
        if not end:
            print(json.dumps({"first_read_of_1000_events_ms": round(samples.pop() * 1000, 1)}))
            first, used, end = time.perf_counter(), processor_seconds(processes), time.perf_counter() + seconds
    show("trio-eventlog, reads of 1,000 events", 1, samples, time.perf_counter() - first, processor_seconds(processes) - used)


def event(client: int, number: int) -> tuple[str, object]:
    return "/events", {"aggregate_id": f"user-{client}-{number // EVENTS_PER_AGGREGATE}", "type": "UserNamed", "payload": PAYLOAD}


def put(client: int, number: int) -> tuple[str, object]:
    key, value = f"user-{client}-{number}".encode(), json.dumps({"type": "UserNamed", "payload": PAYLOAD}).encode()
    return "/v3/kv/put", {"key": base64.b64encode(key).decode(), "value": base64.b64encode(value).decode()}


def start_ours(home: str, size: int) -> tuple[list["subprocess.Popen[bytes]"], list[str]]:
    addresses = reserve_addresses(size)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "trio_eventlog", "serve", "--node-name", f"n{number}", "--listen", address]
            + ["--data-dir", f"{home}/n{number}", "--bootstrap-expect", str(size)]
            + [part for other in addresses if other != address for part in ("--join", other)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, address in enumerate(addresses)
    ]
    return processes, addresses


async def wait_ours(address: str) -> None:
    while True:
        try:
            connection = await connected(address)
            if b'"ready":true' in (await connection.get("/status")).replace(b" ", b""):
                return
        except OSError:
            pass
        await trio.sleep(0.1)


async def leader_of(addresses: Sequence[str]) -> str:
    """Of the topic of events."""
    while True:
        for address in addresses:
            groups = json.loads(await (await connected(address)).get("/status"))["groups"]
            if any(group["topic"] == "events" and group["role"] == "leader" for group in groups):
                return address
        await trio.sleep(0.1)


async def ours(size: int, clients: Sequence[int], seconds: float) -> None:
    with tempfile.TemporaryDirectory() as home:
        processes, addresses = start_ours(home, size)
        try:
            for address in addresses:
                await wait_ours(address)
            await (await connected(addresses[0])).post(*event(-1, 0))
            for count in clients:
                await load(f"trio-eventlog, nodes: {size}", await leader_of(addresses), processes, count, seconds, event)
            if size == 1:
                await reads(addresses[0], processes, seconds)
        finally:
            kill_all(processes)


async def etcd(clients: Sequence[int], seconds: float) -> None:
    with tempfile.TemporaryDirectory() as home:
        addresses, peers = reserve_addresses(3), reserve_addresses(3)
        cluster = ",".join(f"e{number}=http://{peer}" for number, peer in enumerate(peers))
        processes = [
            subprocess.Popen(
                ["etcd", "--name", f"e{number}", "--data-dir", f"{home}/e{number}", "--initial-cluster", cluster]
                + ["--listen-client-urls", f"http://{address}", "--advertise-client-urls", f"http://{address}"]
                + ["--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number, (address, peer) in enumerate(zip(addresses, peers, strict=True))
        ]
        try:
            await trio.sleep(3)
            leader = addresses[0]
            for address in addresses:
                status = json.loads(await (await connected(address)).post("/v3/maintenance/status", {}))
                leader = address if status["leader"] == status["header"]["member_id"] else leader
            for count in clients:
                await load("etcd, nodes: 3, JSON gateway", leader, processes, count, seconds, put)
        finally:
            kill_all(processes)


def kill_all(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.kill()
        process.wait()


LIBRARY = """
import json, os, sys, threading, time
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

class User(Aggregate):
    def __init__(self): self.note = ""
    @event("Named")
    def name(self, name, email, note): self.note = note

clients, seconds, path, payload = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
app = Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": path, "SQLITE_LOCK_TIMEOUT": "60"})
samples, errors = [], []
def client():
    user = User()
    app.save(user)
    while (began := time.perf_counter()) < end:
        user.name(**payload)
        app.save(user)
        samples.append(time.perf_counter() - began)
began, used = time.perf_counter(), time.process_time()
end = began + seconds
threads = [threading.Thread(target=client) for _ in range(clients)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([samples, time.perf_counter() - began, time.process_time() - used]))
"""


def library(python: str, clients: Sequence[int], seconds: float) -> None:
    for count in clients:
        with tempfile.TemporaryDirectory() as home:
            command = [python, "-c", LIBRARY, str(count), str(seconds), f"{home}/events.db", json.dumps(PAYLOAD)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            samples, took, processor = json.loads(done.stdout)
            show("eventsourcing on SQLite", count, samples, took, processor)


async def index(events: int) -> None:
    """Append events, remove the index, and see how it is made again."""
    with tempfile.TemporaryDirectory() as home:
        processes, (address,) = start_ours(home, 1)
        try:
            await wait_ours(address)
            numbers = iter(range(events // EVENTS_PER_AGGREGATE))
            await (await connected(address)).post(*event(-1, 0))

            async def client() -> None:
                connection = await connected(address)
                for number in numbers:
                    several = [{"type": "UserNamed", "payload": PAYLOAD}] * EVENTS_PER_AGGREGATE
                    await connection.post("/events", {"aggregate_id": f"user-{number}", "events": several})

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(client)
            kill_all(processes)
            (made,) = Path(home).glob("n0/derived/*.events")
            for path in made.parent.iterdir():
                path.unlink()
            command = processes[0].args
            processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
            began = time.perf_counter()
            await wait_ours(address)
            before, peak = resident_bytes(processes[0]), 0
            connection = await connected(address)
            # A read waits for the index for two seconds, and is refused then.
            while b'"version":10' not in await connection.get("/events/user-0", b"429"):
                peak = max(peak, resident_bytes(processes[0]))
            seconds = time.perf_counter() - began
            size_bytes = made.stat().st_size
            line = {
                "index_of_events": events,
                "events_per_second": round(events / seconds),
                "bytes_per_event": round(size_bytes / events, 1),
                "processor_seconds": processor_seconds(processes),
                "resident_mib_more": round((peak - before) / 2**20),
                "resident_mib": round(peak / 2**20),
            }
            print(json.dumps(line), flush=True)
        finally:
            kill_all(processes)


def resident_bytes(process: "subprocess.Popen[bytes]") -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement; 0: none")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--eventsourcing", default=sys.executable, help="a Python that can import it")
    parser.add_argument("--index-events", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.seconds:
        for size in (3, 1):
            trio.run(ours, size, arguments.clients, arguments.seconds)
        if shutil.which("etcd"):
            trio.run(etcd, arguments.clients, arguments.seconds)
        probe = [arguments.eventsourcing, "-c", "import eventsourcing"]
        if not subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:
            library(arguments.eventsourcing, arguments.clients, arguments.seconds)
    if arguments.index_events:
        trio.run(index, arguments.index_events)


if __name__ == "__main__":
    main()
