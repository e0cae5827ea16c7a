"""Real daemons on loopback, for tests: started from the command line, watched by pid, stopped by pid.

Times here are bounds on waiting, never waits: a test waits for a line, an exit, an answer.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import pytest

from trio_eventlog.cli.loopback_ports import reserve_addresses

ROOT = Path(__file__).resolve().parent.parent.parent
SERVE = (sys.executable, "-m", "trio_eventlog", "serve")
START_SECONDS_MAX = 30.0
POLL_SECONDS = 0.02

T = TypeVar("T")


def wait_until(probe: Callable[[], T | None], what: str, seconds_max: float = 30.0) -> T:
    """The first answer of `probe` that is neither None nor False."""
    deadline = time.monotonic() + seconds_max
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds_max:g} s")
        time.sleep(POLL_SECONDS)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, without settings that a developer may have exported, and with this tree to import from."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIO_EVENTLOG_")}
    return environment | {"PYTHONPATH": str(ROOT)} | dict(extra or {})


class Daemon:
    """One `serve` process and what it leaves behind in `home`: data directory and log.

    Attributes:
        start_line: the last one printed.
        address: "host:port", from the start line.
    """

    def __init__(
        self, home: Path, *flags: str, environment: Mapping[str, str] | None = None, command: Sequence[str] = SERVE
    ) -> None:
        self.home = home
        self.log_path = home / "stderr.log"
        self.start_line = ""
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._flags = flags
        self._environment = environment
        self._command = command
        home.mkdir(parents=True, exist_ok=True)

    def launch(self) -> Self:
        """Start the process and go on."""
        assert not self.is_running
        self._close_pipe()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.home,
                env=clean_environment(self._environment),
                start_new_session=True,
            )
        return self

    def wait_listening(self, seconds_max: float = START_SECONDS_MAX) -> Self:
        """Until the start line is there; fails, with the end of the log, when the process ends instead."""
        assert self.process is not None
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + seconds_max
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{self.home.name} did not say that it listens within {seconds_max:g} s:\n{self.log_tail()}"
            part = os.read(descriptor, 4096)
            assert part, f"{self.home.name} ended with {self.process.wait()} before it listened:\n{self.log_tail()}"
            line += part
        self.start_line = line.decode().splitlines()[0]
        self.address = self.start_line.split()[2]
        return self

    def start(self) -> Self:
        return self.launch().wait_listening()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has cleaned up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait_exit(self, seconds_max: float = 30.0) -> int:
        """The exit code."""
        assert self.process is not None
        try:
            return self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.home.name} did not end within {seconds_max:g} s:\n{self.log_tail()}") from None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_exit()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    def wait_logged(self, text: str, seconds_max: float = 30.0) -> None:
        wait_until(lambda: text in self.log() or None, f"{text!r} in the log of {self.home.name}", seconds_max)

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def close(self) -> None:
        """End it, whatever it does."""
        if self.is_running:
            self.kill()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


class DaemonCluster:
    """Daemons that form a cluster by their settings alone.

    Attributes:
        addresses: "host:port" of each, chosen before the start, since each must be told the others'.
        nodes: in the order of their names, n0, n1, n2.
    """

    def __init__(self, home: Path, *flags: str, size: int = 3) -> None:
        self.addresses = reserve_addresses(size)
        self.nodes = [
            Daemon(
                home / f"n{number}",
                *("--node-name", f"n{number}", "--listen", address, "--data-dir", str(home / f"n{number}" / "data")),
                *(flag for other in self.addresses if other != address for flag in ("--join", other)),
                *("--bootstrap-expect", str(size)),
                *flags,
            )
            for number, address in enumerate(self.addresses)
        ]

    def start(self) -> Self:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_listening()
        return self

    def alive(self) -> list[int]:
        return [number for number, node in enumerate(self.nodes) if node.is_running]


def run_command(
    *arguments: str, home: Path, environment: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """A `trio-eventlog` command to its end, with `text` on its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "trio_eventlog", *arguments],
        cwd=home,
        env=clean_environment(environment),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


STARTED: pytest.StashKey[list[Daemon]] = pytest.StashKey()
"""Daemons of a test, or of a collection of them: whose logs are shown when it fails."""


@contextmanager
def watched(node: pytest.Item | pytest.Collector, daemons: Sequence[Daemon]) -> Iterator[list[Daemon]]:
    """Daemons that end with the block, and whose logs are shown when a test of `node` fails."""
    started = node.stash[STARTED] = list(daemons)
    try:
        yield started
    finally:
        for daemon in started:
            daemon.close()
