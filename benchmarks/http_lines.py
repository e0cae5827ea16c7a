"""What HTTP costs on one node: an upload of lines of 1 KiB, and a thousand live tails.

    python -m benchmarks.http_lines [--megabytes 200] [--tails 1000]

The node is a process of its own with data in a temporary directory; the client is this process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

RECORD_BYTES = 1024
CHUNK_LINES = 256


def start(home: str) -> tuple["subprocess.Popen[bytes]", str]:
    """A node, and its address."""
    command = [sys.executable, "-m", "trio_eventlog", "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{home}/data"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[2].decode()


def resident_bytes(process: "subprocess.Popen[bytes]") -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def processor_seconds(process: "subprocess.Popen[bytes]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def upload(process: "subprocess.Popen[bytes]", address: str, megabytes: int, kind: str) -> None:
    host, _, port = address.rpartition(":")
    value = "x" * RECORD_BYTES
    line = (json.dumps({"value": value}) if kind == "records" else value).encode() + b"\n"
    chunk = line * CHUNK_LINES
    count = megabytes * 1_000_000 // len(chunk)
    stream = await trio.open_tcp_stream(host, int(port))
    before, began = processor_seconds(process), time.perf_counter()
    head = f"POST /topics/{kind}/records?lines={kind} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
    await stream.send_all((head + f"content-length: {count * len(chunk)}\r\n\r\n").encode())
    peak = 0
    for number in range(count):
        await stream.send_all(chunk)
        if not number % 64:
            peak = max(peak, resident_bytes(process))
    said = b""
    while b'"done":true' not in said:
        said += bytes(await stream.receive_some(65536))
    seconds = time.perf_counter() - began
    await stream.aclose()
    used = processor_seconds(process) - before
    records = count * CHUNK_LINES
    print(
        f"upload, lines={kind}: {records / seconds:,.0f} rec/s, {records * RECORD_BYTES / seconds / 1e6:.1f} MB/s,"
        f" {used / records * 1e6:.1f} us of the node's processor a record, at most {peak / 2**20:.0f} MiB resident"
    )


async def tails(process: "subprocess.Popen[bytes]", address: str, number: int) -> None:
    host, _, port = address.rpartition(":")
    before = resident_bytes(process)
    streams = []
    for _ in range(number):
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET /topics/values/partitions/0/tail HTTP/1.1\r\nhost: x\r\n\r\n")
        await stream.receive_some(65536)
        streams.append(stream)
    idle = resident_bytes(process)
    began = time.perf_counter()
    poster = await trio.open_tcp_stream(host, int(port))
    body = b'{"records":[{"value":"hello"}],"partition":0}'
    head = b"POST /topics/values/records HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    await poster.send_all(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    async def wait_hello(stream: trio.SocketStream) -> None:
        said = b""
        while b"hello" not in said:
            said += bytes(await stream.receive_some(65536))

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(wait_hello, stream)
    print(
        f"{number} live tails: {(idle - before) / 2**20:.0f} MiB more, {idle / 2**20:.0f} MiB resident in all;"
        f" one record is with the last of them after {(time.perf_counter() - began) * 1000:.0f} ms"
    )


async def run(megabytes: int, number: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        process, address = start(home)
        try:
            await tails_and_uploads(process, address, megabytes, number)
        finally:
            process.terminate()
            process.wait()


async def tails_and_uploads(process: "subprocess.Popen[bytes]", address: str, megabytes: int, number: int) -> None:
    await upload(process, address, 1, "values")
    await tails(process, address, number)
    for kind in ("values", "records"):
        await upload(process, address, megabytes, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--tails", type=int, default=1000)
    arguments = parser.parse_args()
    trio.run(run, arguments.megabytes, arguments.tails)


if __name__ == "__main__":
    main()
