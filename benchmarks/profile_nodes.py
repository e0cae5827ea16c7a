"""Where the time of a leader and of a follower goes, by py-spy (`pip install py-spy`; usually as root).

    PYTHONPATH=benchmarks:PEERS python benchmarks/profile_nodes.py --scenario produce --size 100

`PEERS` is the folder of the peer benchmark (see peer_trio_eventlog.py). Prints, for each node and thread, the share of samples on
the processor with each function at the bottom of the stack (self) and anywhere in it (total). System calls and C functions
count for the Python function that called them. With --counts: system calls by strace instead, which slows the nodes down.
"""

import argparse
import asyncio
import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import wait_for
from peer_trio_eventlog import TrioEventlog


async def load(peer, args):
    payload = os.urandom(args.size)
    loop = asyncio.get_running_loop()
    match args.scenario:
        case "produce":
            count = await peer.flood(payload, args.seconds + 1)
        case "latency" | "concurrent":
            end = loop.time() + args.seconds + 1

            async def send():
                count = 0
                while loop.time() < end:
                    await peer.send(payload)
                    count += 1
                return count

            count = sum(await asyncio.gather(*(send() for _ in range(1 if args.scenario == "latency" else 100))))
        case "replay":
            await peer.flood(payload, 3)
            end, count = loop.time() + args.seconds + 1, 0
            while loop.time() < end:
                count += await peer.replay()
    return count


def shorten(frame):
    """`function (module:line)` without the line and without site-packages."""
    match = re.match(r"(.*) \((.*?)(?::\d+)?\)$", frame)
    if not match:
        return frame
    return f"{match[2].replace('trio_eventlog/', '').replace('site-packages/', '')} {match[1]}"


def report(path, seconds, rate, top):
    own, total, samples, stacks = collections.Counter(), collections.Counter(), 0, collections.Counter()
    for line in Path(path).read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [shorten(frame) for frame in stack.split(";")]
        samples += int(count)
        own[frames[-1]] += int(count)
        stacks[next((f for f in frames if "thread" in f.lower()), "")] += int(count)
        for frame in set(frames):
            total[frame] += int(count)
    print(f"  on the processor: {samples / rate / seconds:.0%} of a core (threads added up)")
    for title, counter in (("self", own), ("total", total)):
        print(f"  {title}:")
        for frame, count in counter.most_common(top):
            print(f"    {count / samples:6.1%}  {frame}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=["produce", "latency", "concurrent", "replay"], default="produce")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=400)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--gil", action="store_true", help="only samples that hold the interpreter lock: Python's own share")
    parser.add_argument("--native", action="store_true", help="show C functions too")
    args = parser.parse_args()
    peer = TrioEventlog()
    peer.start()
    try:

        async def measure():
            await peer.connect()
            leader = wait_for(peer.leader)
            follower = (leader + 1) % 3
            task = asyncio.create_task(load(peer, args))
            await asyncio.sleep(3.5 if args.scenario == "replay" else 0.5)
            results = []
            for name, n in (("leader", leader), ("follower", follower)):
                out = tempfile.mktemp(prefix=f"{name}-")
                pid = str(peer.nodes[n].proc.pid)
                if args.counts:
                    command = ["timeout", "-s", "INT", str(args.seconds), "strace", "-f", "-c", "-o", out, "-p", pid]
                else:
                    command = ["py-spy", "record", "--nonblocking", "-f", "raw", "-F", "-o", out, "-p", pid, "-t"]
                    command += (
                        ["-r", str(args.rate), "-d", str(int(args.seconds))]
                        + (["--native"] if args.native else [])
                        + (["--gil"] if args.gil else [])
                    )
                results.append((name, out, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
            before = peer.cpu()
            count = await task
            print(f"{count} records in {args.seconds + 1:g} s; server processor seconds {peer.cpu() - before:.1f}")
            for name, out, process in results:
                await asyncio.to_thread(process.wait)
                print(name)
                if args.counts:
                    print(Path(out).read_text())
                else:
                    report(out, args.seconds, args.rate, args.top)
            await peer.close()

        asyncio.run(measure())
    finally:
        peer.stop()


if __name__ == "__main__":
    sys.exit(main())
