"""Single records from many senders at once: what a service with many request handlers does to its log.

    PYTHONPATH=benchmarks:PEERS python benchmarks/concurrent_senders.py --peer peer_trio_eventlog:TrioEventlog --peer etcd

`PEERS` is the folder of the peer benchmark; its peers are named as there. One JSON line for each peer and number of senders. Each
sender awaits its acknowledgement before it sends the next record. The client shares the machine with the servers, and its own
processor time is in the line: where it is near the length of the run, the client is what was measured.
"""

import argparse
import asyncio
import importlib
import json
import os
import time

from common import percentiles
from run import PEERS, Meter


async def measure(peer, senders, seconds, payload):
    samples = []
    end = time.perf_counter() + seconds

    async def sender():
        while (begin := time.perf_counter()) < end:
            await peer.send(payload)
            samples.append(time.perf_counter() - begin)

    with Meter(peer) as meter:
        await asyncio.gather(*(sender() for _ in range(senders)))
    return {"senders": senders, **meter.rates(len(samples), len(payload)), **percentiles(samples)}


def run(name, args):
    module, cls = PEERS.get(name, name).split(":")
    peer = getattr(importlib.import_module(module), cls)()
    try:
        peer.start()

        async def all_of_them():
            await peer.connect()
            payload = os.urandom(args.size)
            await measure(peer, 10, 1.0, payload)  # warm up
            for senders in args.senders:
                print(
                    json.dumps({"peer": name, "size": args.size, **await measure(peer, senders, args.seconds, payload)}), flush=True
                )
            await peer.close()

        asyncio.run(all_of_them())
    finally:
        peer.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", required=True)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--senders", type=int, nargs="*", default=[1, 10, 100])
    args = parser.parse_args()
    for name in args.peer:
        run(name, args)


if __name__ == "__main__":
    main()
