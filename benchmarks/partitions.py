"""Many partitions on three real nodes: making them, being idle, starting again after a kill.

    PYTHONPATH=. python benchmarks/partitions.py --partitions 1024

Prints one JSON line: seconds until every partition has a leader after `topics create`, processor seconds of the nodes meanwhile,
the share of a core that each node takes when nothing happens, and seconds from the start of all nodes until every partition is
open and has a leader again. `--data` names a folder on the disk to be measured.
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

from tests.process.daemons import DaemonCluster
from trio_eventlog.client import Client, open_client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.errors import EventLogError

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.5
PATIENT = ClientSettings(request_timeout_seconds=300.0, attempt_timeout_seconds=120.0)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


async def wait_led(client: Client, topic: str, count: int, *, progress: bool) -> None:
    began = time.perf_counter()
    while True:
        try:
            described = await client.describe_topic(topic)
            led = sum(1 for partition in described.partitions if partition.leader_id and not partition.problem)
            if progress:
                print(f"# {time.perf_counter() - began:.1f} s: {led} of {count} led", file=sys.stderr)
            if led == count:
                return
        except EventLogError as error:
            print(f"# {error}", file=sys.stderr)
        await trio.sleep(POLL_SECONDS)


def start_profiles(args: argparse.Namespace, cluster: DaemonCluster, what: str) -> list[subprocess.Popen[bytes]]:
    if not args.profile:
        return []
    return [
        subprocess.Popen(
            ["py-spy", "record", "--nonblocking", "-f", "raw", "-F", "-t", "-r", "200", "-o", f"{args.profile}.{what}.{number}"]
            + ["-p", str(node.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number, node in enumerate(cluster.nodes)
    ]


def end_profiles(profiles: list[subprocess.Popen[bytes]]) -> None:
    for profile in profiles:
        profile.send_signal(2)
    for profile in profiles:
        profile.wait()


async def measure(args: argparse.Namespace, cluster: DaemonCluster) -> dict[str, object]:
    result: dict[str, object] = {"partitions": args.partitions}
    async with open_client("eventlog://" + ",".join(cluster.addresses), settings=PATIENT) as client:
        before = [cpu_seconds(node.pid) for node in cluster.nodes]
        profiles = start_profiles(args, cluster, "create")
        began = time.perf_counter()
        await client.create_topic("many", partitions=args.partitions, replicas=3)
        result["created_seconds"] = round(time.perf_counter() - began, 2)
        await wait_led(client, "many", args.partitions, progress=args.progress)
        result["led_seconds"] = round(time.perf_counter() - began, 2)
        end_profiles(profiles)
        result["cpu_seconds"] = [round(cpu_seconds(node.pid) - start, 2) for node, start in zip(cluster.nodes, before, strict=True)]
        if args.idle_seconds:
            await trio.sleep(args.settle_seconds)
            before = [cpu_seconds(node.pid) for node in cluster.nodes]
            profiles = start_profiles(args, cluster, "idle")
            await trio.sleep(args.idle_seconds)
            end_profiles(profiles)
            shares = [
                round((cpu_seconds(node.pid) - start) / args.idle_seconds * 100, 2)
                for node, start in zip(cluster.nodes, before, strict=True)
            ]
            result["idle_percent"] = shares
    if args.restart:
        for node in cluster.nodes:
            node.kill()
        began = time.perf_counter()
        for node in cluster.nodes:
            node.launch()
        for node in cluster.nodes:
            node.wait_listening(120)
        result["listening_seconds"] = round(time.perf_counter() - began, 2)
        async with open_client("eventlog://" + ",".join(cluster.addresses), settings=PATIENT) as client:
            await wait_led(client, "many", args.partitions, progress=args.progress)
            result["restarted_seconds"] = round(time.perf_counter() - began, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=1024)
    parser.add_argument("--idle-seconds", type=float, default=0.0)
    parser.add_argument("--settle-seconds", type=float, default=15.0)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--data", default=None)
    parser.add_argument("--profile", default="", help="record with py-spy into files of this name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.data) as home:
        cluster = DaemonCluster(Path(home)).start()
        try:
            print(json.dumps(trio.run(measure, args, cluster)))
        finally:
            for node in cluster.nodes:
                node.close()
            if args.profile:
                for node in cluster.nodes:
                    Path(f"{args.profile}.log.{node.home.name}").write_text(node.log())


if __name__ == "__main__":
    main()
