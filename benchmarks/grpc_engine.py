"""The gRPC engine beside grpcio's asyncio server: calls per second, latency, and the server's CPU per call or per MB.

    python -m benchmarks.grpc_engine [--seconds 2] [--client grpcio|ours] [--only NAME]

Both servers run the same service (messages are parsed and built on both) in a process of their own; the client is another
process and is the same for both. On a small machine the client takes as much CPU as the server, so the figure to trust is the
server's CPU per call; rates are for the feeling.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time

import trio

from tests.rpc.echo import ECHO, PATH, Blob
from trio_eventlog.rpc import Encoded, RpcSettings, Server, Service, methods_of, open_channel
from trio_eventlog.testing.defaults import default

SIZES = {"1KiB": 1024, "64KiB": 64 * 1024, "256KiB": 256 * 1024}


# The servers.


async def serve_ours() -> None:
    async def unary(request, context):
        return request

    async def collect(requests, context):
        size = 0
        async for request in requests:
            size += len(request.payload)
        return Blob(number=size)

    async def expand(request, context, send):
        payload = bytes(request.number & 0xFFFFFFFF)
        for _ in range(request.number >> 32):
            await send(Blob(payload=payload))

    async def chat(requests, context, send):
        async for request in requests:
            await send(request)

    server = Server([Service(ECHO, {"Unary": unary, "Collect": collect, "Expand": expand, "Chat": chat})], default(RpcSettings))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(server.serve, [listener])


async def serve_grpcio() -> None:
    import grpc

    async def unary(request, context):
        return request

    async def collect(requests, context):
        size = 0
        async for request in requests:
            size += len(request.payload)
        return Blob(number=size)

    async def expand(request, context):
        payload = bytes(request.number & 0xFFFFFFFF)
        for _ in range(request.number >> 32):
            yield Blob(payload=payload)

    async def chat(requests, context):
        async for request in requests:
            yield request

    def handler(make, function):
        return make(function, request_deserializer=Blob.FromString, response_serializer=Blob.SerializeToString)

    server = grpc.aio.server()
    handlers = {
        "Unary": handler(grpc.unary_unary_rpc_method_handler, unary),
        "Collect": handler(grpc.stream_unary_rpc_method_handler, collect),
        "Expand": handler(grpc.unary_stream_rpc_method_handler, expand),
        "Chat": handler(grpc.stream_stream_rpc_method_handler, chat),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ECHO.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


# The clients: each case returns (seconds per call at the median, calls).


class GrpcioClient:
    def __init__(self, port, mark):
        self.port = port
        self.mark = mark
        self.channel = None

    def run(self, name, *args):
        import grpc

        async def main():
            options = [("grpc.max_receive_message_length", -1)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) as self.channel:
                return await getattr(self, name)(*args)

        return asyncio.run(main())

    async def unary(self, seconds, at_once):
        call = self.channel.unary_unary(PATH + "Unary")
        request = Blob(payload=bytes(100)).SerializeToString()
        for _ in range(50):
            await call(request)
        end = time.perf_counter() + seconds
        times = []

        async def worker():
            while (start := time.perf_counter()) < end:
                await call(request)
                times.append(time.perf_counter() - start)

        self.mark()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return times

    async def expand(self, seconds, size, count):
        call = self.channel.unary_stream(PATH + "Expand")
        request = Blob(number=count << 32 | size).SerializeToString()
        total = 0
        self.mark()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            async for _ in call(request):
                total += 1
        return total

    async def collect(self, seconds, size, count):
        call = self.channel.stream_unary(PATH + "Collect")
        request = Blob(payload=bytes(size)).SerializeToString()
        total = 0
        self.mark()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            stream = call()
            for _ in range(count):
                await stream.write(request)
            await stream.done_writing()
            assert Blob.FromString(await stream).number == size * count
            total += count
        return total


class OurClient:
    def __init__(self, port, mark):
        self.port = port
        self.mark = mark
        self.methods = methods_of(ECHO)
        self.channel = None

    def run(self, name, *args):
        async def main():
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with open_channel(stream, default(RpcSettings)) as self.channel:
                return await getattr(self, name)(*args)

        return trio.run(main)

    async def unary(self, seconds, at_once):
        method = self.methods["Unary"]
        request = Blob(payload=bytes(100))
        for _ in range(50):
            await self.channel.unary(method, request)
        end = time.perf_counter() + seconds
        times = []

        async def worker():
            while (start := time.perf_counter()) < end:
                await self.channel.unary(method, request)
                times.append(time.perf_counter() - start)

        self.mark()
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(worker)
        return times

    async def expand(self, seconds, size, count):
        total = 0
        self.mark()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            async with self.channel.stream(self.methods["Expand"], Blob(number=count << 32 | size), raw=True) as call:
                async for _ in call:
                    total += 1
        return total

    async def collect(self, seconds, size, count):
        request = Encoded(Blob(payload=bytes(size)).SerializeToString())
        total = 0
        self.mark()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            async with self.channel.stream(self.methods["Collect"]) as call:
                for _ in range(count):
                    await call.send(request)
                await call.done_sending()
                assert (await call.receive()).number == size * count
                total += count
        return total


def cpu_seconds(pid):
    """User and system time of a process with all its threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server, client_class, case, seconds):
    """One case against a fresh server: (calls or messages per second, server CPU seconds per one, median seconds)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.grpc_engine", "--serve", server], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(process.stdout.readline())
        marks = {}

        def mark():
            marks["cpu"] = cpu_seconds(process.pid)
            marks["time"] = time.perf_counter()

        name, *args = case
        result = client_class(port, mark).run(name, seconds, *args)
        elapsed = time.perf_counter() - marks["time"]
        cpu = cpu_seconds(process.pid) - marks["cpu"]
        count = len(result) if isinstance(result, list) else result
        return count / elapsed, cpu / count, statistics.median(result) if isinstance(result, list) else 0.0
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--client", choices=["grpcio", "ours"], default="grpcio")
    parser.add_argument("--only", default="")
    parser.add_argument("--serve", choices=["ours", "grpcio"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "ours":
        trio.run(serve_ours)
        return
    if options.serve == "grpcio":
        asyncio.run(serve_grpcio())
        return
    socket.setdefaulttimeout(60)
    client_class = GrpcioClient if options.client == "grpcio" else OurClient
    cases = {"unary 100 B, 1 in flight": ("unary", 1), "unary 100 B, 64 in flight": ("unary", 64)}
    for name, size in SIZES.items():
        count = max(20, min(2000, 64 * 1024 * 1024 // size))
        cases[f"server stream {name}"] = ("expand", size, count)
        cases[f"client stream {name}"] = ("collect", size, count)
    print(f"client: {options.client}; {options.seconds:g} s per case")
    print(f"{'case':28} {'server':7} {'per s':>9} {'MB/s':>7} {'CPU us':>8} {'p50 us':>7}")
    for name, case in cases.items():
        if options.only not in name:
            continue
        for server in ("grpcio", "ours"):
            rate, cpu, median = measure(server, client_class, case, options.seconds)
            megabytes = rate * case[1] / 1e6 if case[0] != "unary" else 0
            line = f"{name:28} {server:7} {rate:9.0f} {megabytes:7.0f} {cpu * 1e6:8.1f} {median * 1e6:7.0f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
