"""Consumers at the end of the log: memory of the node that holds them, and how soon all of them have a new record.

    PYTHONPATH=benchmarks:PEERS python benchmarks/idle_tails.py --tails 1000

`PEERS` is the folder of the peer benchmark (`common` and the settings of peer_trio_eventlog.py come from there).
"""

import argparse
import asyncio
import json
import time

import grpc
from common import wait_for
from peer_trio_eventlog import NO_LIMIT, TOPIC, TrioEventlog

from trio_eventlog.v1 import event_log_pb2

TAILS_PER_CONNECTION = 100


async def measure(peer, args):
    await peer.connect()
    leader = wait_for(peer.leader)
    await peer.send(b"x" * 100)
    before = peer.nodes[leader].rss()
    cpu = peer.nodes[leader].cpu()
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{peer.ports[leader]}", options=NO_LIMIT)
        for _ in range(0, args.tails, TAILS_PER_CONNECTION)
    ]
    seen = asyncio.Semaphore(0)

    async def tail(channel):
        call = channel.unary_stream(
            "/trio_eventlog.v1.EventLog/ConsumeStream",
            event_log_pb2.ConsumeRequest.SerializeToString,
            event_log_pb2.ConsumeResponse.FromString,
        )(event_log_pb2.ConsumeRequest(topic=TOPIC, batches=True))
        async for response in call:
            for _ in response.batches:
                seen.release()

    tasks = [asyncio.create_task(tail(channels[n // TAILS_PER_CONNECTION])) for n in range(args.tails)]

    async def wait_all():
        for _ in tasks:
            await seen.acquire()

    await wait_all()
    idle = peer.nodes[leader].rss()
    delays = []
    for _ in range(args.records):
        begin = time.perf_counter()
        await peer.send(b"x" * 100)
        await wait_all()
        delays.append(time.perf_counter() - begin)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    await peer.close()
    delays.sort()
    return {
        "tails": args.tails,
        "rss_before_mib": round(before, 1),
        "rss_idle_mib": round(idle, 1),
        "rss_after_mib": round(peer.nodes[leader].rss(), 1),
        "all_have_it_ms": round(delays[len(delays) // 2] * 1e3, 1),
        "leader_cpu_ms_per_delivery": round((peer.nodes[leader].cpu() - cpu) / (args.tails * (args.records + 1)) * 1e3, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tails", type=int, default=1000)
    parser.add_argument("--records", type=int, default=20)
    args = parser.parse_args()
    peer = TrioEventlog()
    try:
        peer.start()
        print(json.dumps(asyncio.run(measure(peer, args))))
    finally:
        peer.stop()


if __name__ == "__main__":
    main()
