"""The command line on a terminal: progress, colours, questions, Ctrl-C."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import Daemon, clean_environment, run_command, watched

pytestmark = pytest.mark.process

SECONDS_MAX = 60.0


class Terminal:
    """The other side of one: what programs have written there so far, as `text`."""

    def __init__(self) -> None:
        self._descriptor, self.slave = pty.openpty()
        self.text = ""

    def wait_for(self, part: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while part not in self.text:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{part!r} did not appear: {self.text!r}"
            self.text += os.read(self._descriptor, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def close(self) -> None:
        os.close(self._descriptor)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


@pytest.fixture(scope="module")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("node")
    daemon = Daemon(home, "--data-dir", str(home / "data"), "--listen", "127.0.0.1:0", "--node-name", "solo")
    with watched(request.node, [daemon]):
        yield daemon.start()


@contextmanager
def started(
    node: Daemon, *arguments: str, environment: dict[str, str] | None = None, **streams: int
) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_eventlog", *arguments],
        env=clean_environment({"TRIO_EVENTLOG_TARGET": node.address, "TERM": "xterm"} | (environment or {})),
        **streams,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def test_progress_and_ctrl_c(node: Daemon, terminal: Terminal) -> None:
    """A count and a rate while input comes, on standard error alone; the first Ctrl-C ends it with what is acknowledged."""
    with started(node, "produce", "t", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal.slave) as process:
        assert process.stdin is not None
        process.stdin.write(b"x\n" * 1000)
        process.stdin.flush()
        terminal.wait_for("1,000 records, ")
        terminal.wait_for("/s")
        process.send_signal(signal.SIGINT)
        terminal.wait_for("cut short: 1000 of the 1000 records taken are acknowledged")
        assert process.wait(SECONDS_MAX) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b"produced 1000 records, offsets 0..999\n"
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize(("environment", "has_colours"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours(node: Daemon, terminal: Terminal, environment: dict[str, str], has_colours: bool) -> None:
    """Headings and states, unless somebody has said otherwise; and lines no longer than the terminal is wide."""
    with started(
        node, "members", environment={"COLUMNS": "60"} | environment, stdout=terminal.slave, stderr=subprocess.DEVNULL
    ) as process:
        terminal.wait_for("alive")
        assert process.wait(SECONDS_MAX) == 0
    assert ("\x1b[32malive" in terminal.text) is has_colours
    if not has_colours:
        assert "\x1b" not in terminal.text


def test_question_before_delete(node: Daemon, terminal: Terminal, tmp_path: Path) -> None:
    """No is an answer, and so is silence; yes deletes."""
    target = {"TRIO_EVENTLOG_TARGET": node.address}
    assert run_command("topics", "create", "q", home=tmp_path, environment=target).returncode == 0
    for number, (answer, code) in enumerate((("n\n", 1), ("\n", 1), ("y\n", 0))):
        with started(node, "topics", "delete", "q", stdin=terminal.slave, stdout=subprocess.PIPE, stderr=terminal.slave) as process:
            terminal.text = ""
            terminal.wait_for("Delete topic q, its 1 partitions and about 0 records, for ever? [y/N]")
            terminal.type(answer)
            assert process.wait(SECONDS_MAX) == code, number
            assert process.stdout is not None
            assert process.stdout.read() == (b"" if code else b"deleted q\n")
            if code:
                terminal.wait_for("NOT_CONFIRMED")
