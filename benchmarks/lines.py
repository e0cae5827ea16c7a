"""Lines through the command line beside what `bench` gets out of the same cluster in the same run.

    python benchmarks/lines.py --lines 3000000

Three daemons on loopback. `bench` sends and reads batches that are made once; `produce` reads lines from a pipe, and `consume`
writes them to one. One JSON line: rates in records per second, and ratios. The start of `produce` and `consume` is in theirs.

Where kcat is installed, it sends the same lines to the mock broker of its library: one process, in memory, nothing replicated and
nothing on a disk. So it is what reading and batching lines costs in C, and no log to compare with.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time

import trio

from trio_eventlog.cli.local_cluster import local_cluster

COMMAND = (sys.executable, "-m", "trio_eventlog")
MAKE_LINES = "import sys\nblock = (b'x' * %d + b'\\n') * 1000\nfor _ in range(%d): sys.stdout.buffer.write(block)"


def bench(target: str, *arguments: str) -> float:
    done = subprocess.run(
        [*COMMAND, "bench", *arguments, "--target", target, "--json"], stdout=subprocess.PIPE, check=True, text=True
    )
    return float(json.loads(done.stdout)["records_per_second"])


def produce(target: str, lines: int, line_bytes: int) -> float:
    """Records per second of the whole command."""
    begin = time.perf_counter()
    maker = subprocess.Popen([sys.executable, "-c", MAKE_LINES % (line_bytes, lines // 1000)], stdout=subprocess.PIPE)
    done = subprocess.run(
        [*COMMAND, "produce", "lines", "--target", target, "--json"],
        stdin=maker.stdout,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds = time.perf_counter() - begin
    assert maker.stdout is not None
    maker.stdout.close()
    assert maker.wait() == 0
    assert sum(item["records"] for item in json.loads(done.stdout)["partitions"]) == lines
    return lines / seconds


def consume(target: str, lines: int) -> float:
    """Records per second of the whole command."""
    begin = time.perf_counter()
    done = subprocess.run(
        f"{sys.executable} -m trio_eventlog consume lines --target {target} | wc -l",
        shell=True,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert int(done.stdout) == lines
    return lines / (time.perf_counter() - begin)


def kcat_to_mock(lines: int, line_bytes: int) -> float:
    """Records per second of the whole command."""
    begin = time.perf_counter()
    maker = subprocess.Popen([sys.executable, "-c", MAKE_LINES % (line_bytes, lines // 1000)], stdout=subprocess.PIPE)
    mock = ("-X", "test.mock.num.brokers=1", "-X", "queue.buffering.max.messages=1000000")
    subprocess.run(
        ["kcat", "-P", "-b", "mock:1", "-t", "lines", "-l", *mock, "/dev/stdin"],
        stdin=maker.stdout,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    assert maker.stdout is not None
    maker.stdout.close()
    assert maker.wait() == 0
    return lines / (time.perf_counter() - begin)


async def run(arguments: argparse.Namespace) -> dict[str, float]:
    async with local_cluster(3) as cluster:

        def measure() -> dict[str, float]:
            target = cluster.target
            size = ("--record-bytes", str(arguments.bytes))
            figures = {"bench_produce": bench(target, "produce", *size, "--seconds", str(arguments.seconds))}
            subprocess.run([*COMMAND, "topics", "create", "lines", "--target", target], check=True, stdout=subprocess.DEVNULL)
            figures["produce"] = produce(target, arguments.lines, arguments.bytes)
            figures["bench_produce_again"] = bench(target, "produce", *size, "--seconds", str(arguments.seconds))
            figures["bench_consume"] = bench(target, "consume", *size, "--records", str(arguments.lines))
            figures["consume"] = consume(target, arguments.lines)
            if shutil.which("kcat"):
                figures["kcat_to_mock"] = kcat_to_mock(arguments.lines, arguments.bytes)
            return figures

        figures = await trio.to_thread.run_sync(measure)
    best = (figures["bench_produce"] + figures["bench_produce_again"]) / 2
    figures["produce_ratio"] = figures["produce"] / best
    figures["consume_ratio"] = figures["consume"] / figures["bench_consume"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=3_000_000)
    parser.add_argument("--bytes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    print(json.dumps({name: round(value, 3) for name, value in trio.run(run, arguments).items()}))


if __name__ == "__main__":
    main()
