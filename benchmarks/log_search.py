"""What a search of log lines costs on one node: five million lines, and appends beside the searches.

    python -m benchmarks.log_search [--lines 5000000]

The node is a process of its own with data in a temporary directory; the client is this process.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from urllib.parse import urlencode

import trio

from benchmarks.http_lines import processor_seconds, resident_bytes, start
from trio_eventlog.client import open_client
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.log_lines import LogLine, record_of, timestamp_text
from trio_eventlog.records import Batch, Compression, Record

BATCH_LINES = 1_000
SECOND = 1_000_000_000
SERVICES = ("focus_allocator", "event_creator", "auth_service", "notification_service")
MESSAGES = ("user {} signed in", "request {} took 31 ms", "cache miss for key {}", "sent mail {} to queue", "allocated slot {}")


NEEDLE = "needle_in_the_haystack"
SERVICE = {"service": "auth_service", "since": "1h"}
QUERIES = {
    "a rare text": {"contains": NEEDLE, "limit": "1000"},
    "a rare text, again": {"contains": NEEDLE, "limit": "1000"},
    "an expression with a rare text": {"regex": NEEDLE[:10] + "[a-z_]*", "limit": "1000"},
    "the same without regard to case": {"regex": "(?i)" + NEEDLE.upper(), "limit": "1000"},
    "an expression without a text": {"regex": "[0-9]{20}", "limit": "1000"},
    "newest lines of a service": SERVICE,
    "errors of a service": {**SERVICE, "level": "ERROR"},
    "a rare text, last hour of a service": {**SERVICE, "contains": NEEDLE},
}


def batches(lines: int, end_ns: int) -> Iterator[Batch]:
    """Of the last ten hours, in the order of time; each batch has all services. One needle in a million."""
    rng = random.Random(1)
    step_ns = 36_000 * SECOND // lines
    for begin in range(0, lines, BATCH_LINES):
        records = []
        for number in range(begin, begin + BATCH_LINES):
            timestamp_ns = end_ns - (lines - number) * step_ns
            needle = " needle_in_the_haystack" if number % 1_000_000 == 500_000 else ""
            line = LogLine(
                service=rng.choice(SERVICES),
                level="ERROR" if rng.random() < 0.02 else "INFO",
                message=rng.choice(MESSAGES).format(rng.randrange(10**9)) + needle,
                timestamp=timestamp_text(timestamp_ns),
                labels={},
                received_at=timestamp_text(timestamp_ns),
                client_ip="10.0.0.1",
                ingested_node_id="0123456789abcdef",
                tenant="anonymous",
            )
            records.append(record_of(line, timestamp_ns))
        yield encode_records(records, Compression.ZSTD)


async def fill(address: str, lines: int) -> None:
    async with open_client(f"eventlog://{address}") as client:
        await client.create_topic("logs", partitions=4)
        began = time.perf_counter()
        raw_bytes = 0
        for number, batch in enumerate(batches(lines, time.time_ns())):
            raw_bytes += len(batch.payload)
            delivery = await client.submit_batch("logs", number % 4, batch)
            if not number % 64:
                await trio.lowlevel.checkpoint()
        await delivery.wait()
        for partition in range(4):
            await client.offsets("logs", partition)
        print(f"{lines:,} lines, {raw_bytes / 1e6:.0f} MB as they are stored, made in {time.perf_counter() - began:.0f} s")


async def ask(address: str, path: str, **query: str) -> tuple[dict[str, object], float]:
    """A JSON answer, and how long it took."""
    host, _, port = address.rpartition(":")
    began = time.perf_counter()
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(f"GET {path}?{urlencode(query)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        data = b"".join([part async for part in stream])
    head, _, body = data.partition(b"\r\n\r\n")
    assert b" 200 " in head[:20], data[:1000]
    return json.loads(body), time.perf_counter() - began


async def measure(process: "subprocess.Popen[bytes]", address: str, what: str, path: str, **query: str) -> None:
    before = processor_seconds(process)
    answer, seconds = await ask(address, path, **query)
    used = processor_seconds(process) - before
    scanned = int(str(answer["scanned_bytes"]))
    found = answer.get("count", "-")
    print(
        f"{what}: {seconds:.3f} s, {used:.2f} s of the processor, {scanned / 1e6:.0f} MB looked through"
        f" ({scanned / 1e6 / seconds:.0f} MB/s), {found} found, {resident_bytes(process) / 2**20:.0f} MiB resident"
    )


async def appends(address: str, seconds: float, searching: bool) -> list[float]:
    """Times of appends of 100 lines of 100 bytes, one after the other, beside one search after the other or alone."""
    times: list[float] = []
    batch = [Record(value=b"x" * 100)] * 100
    async with open_client(f"eventlog://{address}") as client, trio.open_nursery() as nursery:

        async def search() -> None:
            while True:
                await ask(address, "/v1/logs", contains="no such text", limit="1")

        if searching:
            nursery.start_soon(search)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            await client.produce("beside", batch)
            times.append((time.perf_counter() - began) * 1000)
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    return times


async def run(lines: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        process, address = start(home)
        try:
            await fill(address, lines)
            for what, query in QUERIES.items():
                await measure(process, address, what, "/v1/logs", **query)
            await measure(process, address, "services of the last hour", "/v1/logs/services")
            await measure(process, address, "histogram of ten hours", "/v1/logs/histogram", since="10h")
            for round_number in range(3):
                for searching in (False, True):
                    times = await appends(address, 6.0, searching)
                    cuts = statistics.quantiles(times, n=100)
                    name = "beside searches" if searching else "alone"
                    print(f"appends {name}: p50 {cuts[49]:.2f} ms, p99 {cuts[98]:.2f} ms ({len(times)}, round {round_number + 1})")
            print(f"resident at the end: {resident_bytes(process) / 2**20:.0f} MiB")
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5_000_000)
    trio.run(run, parser.parse_args().lines)


if __name__ == "__main__":
    sys.exit(main())
