"""How long a fresh cluster of three daemons takes until its first record is acknowledged, and what each process spends on it.

    PYTHONPATH=. python benchmarks/start.py --rounds 10
    PYTHONPATH=. python benchmarks/start.py --rounds 10 --beside /path/to/another/checkout

With `--beside`, rounds of the two checkouts alternate, so that whatever else the machine does burdens both alike.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from trio_eventlog.cli.loopback_ports import reserve_addresses
from trio_eventlog.client import ClientSettings, open_client
from trio_eventlog.errors import EventLogError

NODES = 3
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


async def measure(checkout: str) -> tuple[float, float]:
    """Seconds from the first process on, and the mean of their processor seconds, when a record is acknowledged."""
    home = Path(tempfile.mkdtemp(prefix="start-"))
    addresses = reserve_addresses(NODES)
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "trio_eventlog", "serve", "--node-name", f"n{number}", "--data-dir", str(home / f"n{number}")]
            + ["--listen", address, "--bootstrap-expect", str(NODES), "--log-level", "warning"]
            + [flag for other in addresses if other != address for flag in ("--join", other)],
            env=os.environ | {"PYTHONPATH": checkout},
            cwd=home,
            stdout=subprocess.DEVNULL,
        )
        for number, address in enumerate(addresses)
    ]
    try:
        # A short backoff: what is measured is when the cluster is there, and not when somebody asks.
        settings = ClientSettings(retry_backoff_seconds_min=0.005, retry_backoff_seconds_max=0.01, attempts_max=10_000)
        async with open_client(",".join(addresses), settings=settings) as client:
            while True:
                try:
                    await client.create_topic("start")
                    break
                except EventLogError:
                    await trio.sleep(0.005)
            await client.produce("start", b"first")
        seconds = time.perf_counter() - began
        return seconds, statistics.mean(cpu_seconds(process.pid) for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        shutil.rmtree(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--beside", metavar="CHECKOUT", help="another checkout, to compare with")
    arguments = parser.parse_args()
    checkouts = [str(Path(__file__).resolve().parent.parent)]
    checkouts += [str(Path(arguments.beside).resolve())] if arguments.beside else []
    found: dict[str, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(arguments.rounds):
        for checkout in checkouts:
            found[checkout].append(trio.run(measure, checkout))
    for checkout, rounds in found.items():
        seconds, cpu = sorted(one[0] for one in rounds), sorted(one[1] for one in rounds)
        times = f"{seconds[0]:.2f} to {seconds[-1]:.2f} s, median {statistics.median(seconds):.2f}"
        used = f"{cpu[0]:.2f} to {cpu[-1]:.2f} s a process, median {statistics.median(cpu):.2f}"
        print(f"{checkout}: first acknowledgement after {times}; processor {used}")


if __name__ == "__main__":
    main()
