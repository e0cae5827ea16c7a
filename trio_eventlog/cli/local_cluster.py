"""Real daemons on this machine, for `demo` and `bench --cluster`: started, killed, waited for, cleaned up."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_eventlog.cli.loopback_ports import reserve_addresses
from trio_eventlog.errors import Unavailable

START_SECONDS_MAX = 20.0
STOP_SECONDS_MAX = 15.0
PACKAGE_HOME = str(Path(__file__).resolve().parent.parent.parent)
"""The nodes run the same package as this process, wherever that was started."""
_STARTED = re.compile(r"listening on (?P<address>\S+) node=(?P<name>\S+) id=(?P<id>[0-9a-f]{16})")


@attrs.define(eq=False)
class LocalNode:
    """One daemon. `process` is None while it is not running; `id` is "" until it has run once."""

    name: str
    address: str
    directory: Path
    flags: tuple[str, ...]
    id: str = ""
    process: "trio.Process | None" = None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    async def start(self) -> None:
        """Returns when it listens. Raises Unavailable with the end of its log when it does not."""
        assert self.process is None
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_EVENTLOG_")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGE_HOME, environment.get("PYTHONPATH"))))
        command = (sys.executable, "-m", "trio_eventlog", "serve", "--data-dir", str(self.data_dir), "--node-name", self.name)
        with self.log_path.open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [*command, "--listen", self.address, *self.flags],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                # Ctrl-C on the terminal is for us; we stop the nodes in our own order.
                start_new_session=True,
            )
        line = b""
        with trio.move_on_after(START_SECONDS_MAX):
            assert self.process.stdout is not None
            while not line.endswith(b"\n"):
                data = await self.process.stdout.receive_some(4096)
                if not data:
                    break
                line += data
        found = _STARTED.match(line.decode(errors="replace"))
        if found is None:
            await self.kill()
            raise Unavailable(f"{self.name} did not start; the end of {self.log_path}: {self._end_of_log()}")
        self.id = found["id"]

    async def kill(self) -> None:
        """As `kill -9`: nothing is written or said any more."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """As SIGTERM. Returns the exit code."""
        return await self._end(signal.SIGTERM)

    def suspend(self) -> None:
        """As SIGSTOP: it is there, and silent."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Processor time of the running daemon so far, user and system."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Resident memory of the running daemon."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def _end(self, number: signal.Signals) -> int:
        process = self.process
        assert process is not None
        with trio.CancelScope(shield=True):
            process.send_signal(number)
            with trio.move_on_after(STOP_SECONDS_MAX) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
        self.process = None
        assert process.returncode is not None
        return process.returncode

    def _end_of_log(self) -> str:
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "empty"


@attrs.frozen(slots=True)
class LocalCluster:
    """Nodes n1, n2, ... under one directory."""

    home: Path
    nodes: tuple[LocalNode, ...]

    @property
    def target(self) -> str:
        return "eventlog://" + ",".join(node.address for node in self.nodes)

    def by_id(self, node_id: str) -> LocalNode:
        return next(node for node in self.nodes if node.id == node_id)


@asynccontextmanager
async def local_cluster(
    count: int, *, flags: Sequence[str] = (), directory: str | None = None, keep: bool = False
) -> AsyncIterator[LocalCluster]:
    """A cluster of `count` daemons on loopback, listening when the block begins, stopped and removed at its end.

    Args:
        flags: further flags of `serve`, for every node.
        directory: where they keep their data; None: a temporary one.
        keep: leave the nodes running, and the directory, when the block ends in order.
    """
    home = Path(directory) if directory else Path(tempfile.mkdtemp(prefix="trio-eventlog-"))
    addresses = reserve_addresses(count)
    nodes = []
    for number, address in enumerate(addresses):
        joins = [flag for other in addresses if other != address for flag in ("--join", other)]
        own = ("--bootstrap-expect", str(count), *joins, "--shutdown-timeout-seconds", "5s", *flags)
        nodes.append(LocalNode(f"n{number + 1}", address, home / f"n{number + 1}", own))
    kept = False
    try:
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(node.start)
        yield LocalCluster(home, tuple(nodes))
        kept = keep
    finally:
        if not kept:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for node in nodes:
                        if node.process is not None:
                            # A suspended one cannot hear SIGTERM.
                            node.process.send_signal(signal.SIGCONT)
                            nursery.start_soon(node.stop)
            if directory is None:
                _remove(home)


def _remove(home: Path) -> None:
    for path in sorted(home.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    home.rmdir()
