# ruff: noqa: E402 -- the simulation lies beside its tests
"""What gossip costs and how fast it is.

    python benchmarks/gossip.py lan --nodes 100 --seeds 5        # many cores on a simulated LAN
    python benchmarks/gossip.py idle --nodes 5 --seconds 60      # processes with real sockets, doing nothing but gossip
    python benchmarks/gossip.py idle --daemons                   # `trio-eventlog serve`; with --profile also gossip's share of it

Figures of the operating system are processor time by `/proc/PID/stat`; the machine may be busy with other things meanwhile. The
profile is py-spy's (`pip install py-spy`; usually as root): samples on the processor, in which of the node's tasks.
"""

import argparse
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sim")]

from gossip_simulation import Simulation

from trio_eventlog.gossip.rumors import transmissions_max
from trio_eventlog.gossip.settings import LAN
from trio_eventlog.gossip.suspicion import suspicion_seconds_min

STEADY_SECONDS = 120


def on_paper(nodes: int) -> dict[str, float]:
    """What the rules of the protocol say, for a cluster at rest."""
    table_bytes = 165 * nodes
    push_pull_seconds = LAN.push_pull_interval_seconds * (1 if nodes <= 32 else math.ceil(math.log2(nodes) - 5) + 1)
    return {
        # A ping out and the ack to somebody else's.
        "packets": 2 / LAN.probe_interval_seconds,
        # UDP and IP headers; names and addresses in the ping, a number in the ack.
        "packet bytes": (28 + 65 + 28 + 20) / LAN.probe_interval_seconds,
        "streams": 2 / push_pull_seconds,
        "stream bytes": 2 * (table_bytes + 200) / push_pull_seconds,
        "crash known": LAN.probe_interval_seconds * 1.5 + suspicion_seconds_min(LAN, nodes) + 0.5,
        "views equal": LAN.gossip_interval_seconds * math.log(nodes) / math.log(1 + LAN.gossip_members),
    }


def measure_lan(nodes: int, seeds: int) -> None:
    """Join over 10 s, rest, crash one."""
    converged: list[float] = []
    detected: list[float] = []
    processor: list[float] = []
    rates: dict[str, list[float]] = {}
    for seed in range(seeds):
        simulation = Simulation(seed)
        simulation.start("m0")
        for number in range(1, nodes):
            simulation.run(10.0 / nodes)
            simulation.start(f"m{number}", join="m0")
        took = simulation.run_until(simulation.agree, 120)
        assert took is not None
        converged.append(took)
        simulation.run(60)
        before = dict(simulation.traffic)
        began = time.process_time()
        simulation.run(STEADY_SECONDS)
        processor.append((time.process_time() - began) / STEADY_SECONDS / nodes)
        for key, value in simulation.traffic.items():
            rates.setdefault(key, []).append((value - before.get(key, 0)) / STEADY_SECONDS / nodes)
        simulation.crash("m1")
        took = simulation.run_until(simulation.agree, 200)
        assert took is not None
        detected.append(took)
    paper = on_paper(nodes)
    print(
        f"{nodes} nodes, LAN profile, {seeds} seeds, joins over 10 s, a rumor is sent {transmissions_max(4, nodes)} times by each"
    )
    print("| figure | measured | on paper |")
    print("| --- | --- | --- |")
    for name, values, key in (
        ("all views equal after the last join, s", converged, "views equal"),
        ("a crash known to all, s", detected, "crash known"),
    ):
        print(f"| {name} | median {statistics.median(values):.2f}, worst {max(values):.2f} | {paper[key]:.1f} |")
    for key, values in rates.items():
        print(f"| {key} per node and second | {statistics.mean(values):.3g} | {paper[key]:.3g} |")
    print(f"| processor time per node, codec and simulator included | {statistics.mean(processor):.3%} of a core | |")


def processor_seconds(process_id: int) -> tuple[float, float]:
    """In the program and in the system so far."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def switches(process_id: int) -> int:
    """How often it has waited."""
    text = Path(f"/proc/{process_id}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.bind(("127.0.0.1", 0))
        return int(tcp.getsockname()[1])


def profile(process_id: int, seconds: float) -> None:
    """Which share of the samples of one process is gossip's."""
    with tempfile.NamedTemporaryFile() as found:
        command = ["py-spy", "record", "--format", "raw", "--rate", "500", "--output", found.name]
        command += ["--duration", str(round(seconds)), "--pid", str(process_id)]
        subprocess.run(command, check=True, capture_output=True)
        shares: Counter[str] = Counter()
        for line in Path(found.name).read_text().splitlines():
            (stack, _, samples) = line.rpartition(" ")
            if "get_events" in stack.rpartition(";")[2]:
                continue  # waits, and py-spy does not always see that
            part = "gossip" if "node/gossip_" in stack else "raft" if "raft_driver" in stack or "net/links" in stack else "the rest"
            shares[part] += int(samples)
        total = max(1, shares.total())
        print(
            f"  one process, {total} samples: " + ", ".join(f"{part} {count / total:.1%}" for part, count in shares.most_common())
        )


def measure_idle(commands: list[list[str]], settle_seconds: float, seconds: float, *, is_profiled: bool) -> None:
    """Start all, let them come to rest, and look at what each uses."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) for command in commands
    ]
    try:
        time.sleep(settle_seconds)
        before = [(processor_seconds(one.pid), switches(one.pid)) for one in running]
        time.sleep(seconds)
        after = [(processor_seconds(one.pid), switches(one.pid)) for one in running]
        if is_profiled:
            profile(running[0].pid, seconds)
    finally:
        for one in running:
            one.send_signal(signal.SIGKILL)
            one.wait()
    user = [(a[0][0] - b[0][0]) / seconds for a, b in zip(after, before, strict=True)]
    system = [(a[0][1] - b[0][1]) / seconds for a, b in zip(after, before, strict=True)]
    waits = [(a[1] - b[1]) / seconds for a, b in zip(after, before, strict=True)]
    shares = [one + other for one, other in zip(user, system, strict=True)]
    print(
        f"  {statistics.mean(shares):.3%} of a core per process (worst {max(shares):.3%}; program {statistics.mean(user):.3%}, "
        f"system {statistics.mean(system):.3%}), {statistics.mean(waits):.1f} wake-ups per second"
    )


def gossiping(nodes: int) -> list[list[str]]:
    """Commands of processes that only gossip."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
    script = str(ROOT / "tests" / "interop" / "gossip_node.py")
    return [
        [sys.executable, script, f"n{number}", address, *(["--join", addresses[0]] if number else [])]
        for number, address in enumerate(addresses)
    ]


def daemons(nodes: int, home: Path) -> list[list[str]]:
    """Commands of a whole cluster."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
    commands = []
    for number, address in enumerate(addresses):
        command = [sys.executable, "-m", "trio_eventlog", "serve", "--node-name", f"n{number}", "--listen", address]
        command += ["--data-dir", str(home / f"n{number}"), "--bootstrap-expect", str(nodes)]
        commands.append(command + [word for other in addresses if other != address for word in ("--join", other)])
    return commands


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure gossip.")
    commands = parser.add_subparsers(dest="command", required=True)
    lan = commands.add_parser("lan")
    lan.add_argument("--nodes", type=int, default=100)
    lan.add_argument("--seeds", type=int, default=5)
    idle = commands.add_parser("idle")
    idle.add_argument("--nodes", type=int, default=5)
    idle.add_argument("--seconds", type=float, default=60.0)
    idle.add_argument("--settle", type=float, default=20.0)
    idle.add_argument("--daemons", action="store_true")
    idle.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "lan":
        measure_lan(arguments.nodes, arguments.seeds)
        return
    with tempfile.TemporaryDirectory() as home:
        started = daemons(arguments.nodes, Path(home)) if arguments.daemons else gossiping(arguments.nodes)
        print(f"{arguments.nodes} {'daemons' if arguments.daemons else 'processes that only gossip'}")
        measure_idle(started, arguments.settle, arguments.seconds, is_profiled=arguments.profile)


if __name__ == "__main__":
    main()
