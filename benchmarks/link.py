"""Peer links over loopback, one process each side: MB/s, processor time, and the cost of a small message.

    python benchmarks/link.py [--seconds 3] [--tls] [--profile FILE]

The sender keeps a window of frames under way; the receiver answers each with a small frame on its own link, as a follower
answers AppendEntries. Processor time is that of each whole process, kernel included.

The sketch on paper: loopback moves 2.5-3.7 GB/s from C, one copy into the kernel and one out of it. So 256 KiB cost about
0.1 ms on each side before Python has done anything, and Python's 20 to 50 microseconds a frame matter below 100 KiB only.
"""

import argparse
import cProfile
import multiprocessing
import multiprocessing.connection
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import attrs
import trio

from trio_eventlog.codec.peer_frame import FrameKind, Hello, encode_frame, encode_frame_head
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.net.links import Lane, LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import FileTls, TlsSettings
from trio_eventlog.net.transport import Transport
from trio_eventlog.testing.defaults import default

SENDER = NodeId(1)
RECEIVER = NodeId(2)
HEAD = bytes(64)
"""About the size of an AppendEntries header and of its answer."""


@attrs.frozen(slots=True, kw_only=True)
class Case:
    name: str
    frame_bytes: int
    window: int
    frames_per_send: int = 1


CASES = [
    Case(name="1 MiB frames", frame_bytes=1 << 20, window=8),
    Case(name="256 KiB frames", frame_bytes=256 << 10, window=16),
    Case(name="64 KiB frames", frame_bytes=64 << 10, window=32),
    Case(name="16 KiB frames", frame_bytes=16 << 10, window=64),
    Case(name="100 B, one under way", frame_bytes=100, window=1),
    Case(name="100 B, 64 under way", frame_bytes=100, window=64),
    Case(name="100 B, 1000 under way", frame_bytes=100, window=1000),
]


async def unexpected(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Side:
    """A transport behind a mux on a port of the kernel's choice."""

    def __init__(self, node_id: NodeId, tls: FileTls | None) -> None:
        self.node_id = node_id
        self.tls = tls
        self.received = 0
        self.transport = Transport(
            identity=lambda: Hello(node_id=node_id, cluster_name="bench"),
            network=RealNetwork(),
            settings=default(LinkSettings),
            rng=random.Random(node_id),
            receive=self.receive,
            on_event=lambda event: None,
            tls=tls,
        )
        self.woken = trio.Event()
        self.answer = False

    def receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        self.received += 1
        if self.answer:
            self.transport.send(node_id, encode_frame_head(FrameKind.RAFT, group_id, HEAD), Lane.URGENT)
        else:
            self.woken.set()

    async def open(self, nursery: trio.Nursery) -> int:
        mux = Mux(default(MuxSettings), grpc=unexpected, http=unexpected, peer=self.transport.handle_inbound, tls=self.tls)
        bound = await RealNetwork().listen("127.0.0.1:0")
        await nursery.start(mux.serve, bound.listener)
        await nursery.start(self.transport.run)
        return int(bound.address.rpartition(":")[2])

    async def connect(self, node_id: NodeId, port: int) -> None:
        self.transport.set_peer(node_id, f"localhost:{port}")
        while not self.transport.is_connected(node_id):
            await trio.sleep(0.01)


def run_receiver(pipe: multiprocessing.connection.Connection, tls: FileTls | None, profile: str | None) -> None:
    async def main() -> None:
        side = Side(RECEIVER, tls)
        side.answer = True
        async with trio.open_nursery() as nursery:
            pipe.send(await side.open(nursery))
            await side.connect(SENDER, await trio.to_thread.run_sync(pipe.recv))
            pipe.send("up")
            while await trio.to_thread.run_sync(pipe.recv) == "cpu":
                pipe.send((cpu_seconds(), side.received))
            nursery.cancel_scope.cancel()

    profiled(main, profile)


def profiled(main: object, profile: str | None) -> None:
    if profile is None:
        trio.run(main)  # type: ignore[arg-type]
        return
    profiler = cProfile.Profile()
    profiler.enable()
    trio.run(main)  # type: ignore[arg-type]
    profiler.disable()
    profiler.dump_stats(profile)


async def run_case(side: Side, case: Case, seconds: float, pipe: multiprocessing.connection.Connection) -> str:
    tail = [bytes(case.frame_bytes)]
    sent = acknowledged = 0
    base = side.received
    lane = Lane.BULK

    def ask() -> tuple[float, int]:
        pipe.send("cpu")
        answer: tuple[float, int] = pipe.recv()
        return answer

    (their_cpu, _) = ask()
    my_cpu = cpu_seconds()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        while sent - acknowledged < case.window:
            if not side.transport.send(RECEIVER, encode_frame(FrameKind.APPEND, 1, HEAD, tail), lane):
                break
            sent += 1
        await side.woken.wait()
        side.woken = trio.Event()
        acknowledged = side.received - base
    elapsed = time.perf_counter() - began
    my_cpu = cpu_seconds() - my_cpu
    their_cpu = ask()[0] - their_cpu
    while side.received - base < sent:
        await side.woken.wait()
        side.woken = trio.Event()
    megabytes = acknowledged * case.frame_bytes / 1e6
    per_frame = 1e6 / acknowledged
    writes = side.transport.statistics()[RECEIVER].writes
    return (
        f"{case.name:24} {megabytes / elapsed:8.0f} MB/s {acknowledged / elapsed:9.0f} frames/s   "
        f"sender {my_cpu * 1e3 / megabytes:7.3f} ms/MB {my_cpu * per_frame:6.1f} us/frame   "
        f"receiver {their_cpu * 1e3 / megabytes:7.3f} ms/MB {their_cpu * per_frame:6.1f} us/frame   "
        f"busy {my_cpu / elapsed:4.2f}/{their_cpu / elapsed:4.2f}   writes so far {writes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--profile", help="write FILE.sender and FILE.receiver for pstats")
    arguments = parser.parse_args()
    tls = make_tls() if arguments.tls else None
    (mine, theirs) = multiprocessing.Pipe()
    receiver = multiprocessing.get_context("fork").Process(
        target=run_receiver, args=(theirs, tls, arguments.profile and arguments.profile + ".receiver")
    )
    receiver.start()

    async def run_sender() -> None:
        side = Side(SENDER, tls)
        async with trio.open_nursery() as nursery:
            mine.send(await side.open(nursery))
            port = await trio.to_thread.run_sync(mine.recv)
            await side.connect(RECEIVER, port)
            assert await trio.to_thread.run_sync(mine.recv) == "up"
            for case in CASES:
                if arguments.case in case.name:
                    print(await run_case(side, case, arguments.seconds, mine), flush=True)
            nursery.cancel_scope.cancel()

    profiled(run_sender, arguments.profile and arguments.profile + ".sender")
    mine.send("end")
    receiver.join(10)
    sys.exit(receiver.exitcode)


def make_tls() -> FileTls:
    import trustme

    folder = Path(tempfile.mkdtemp())
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(folder / "node.pem"))
    issued.private_key_pem.write_to_path(str(folder / "node.key"))
    return FileTls(
        default(TlsSettings, certificate=str(folder / "node.pem"), key=str(folder / "node.key"), authority=str(folder / "ca.pem"))
    )


if __name__ == "__main__":
    main()
