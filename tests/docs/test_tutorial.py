"""The tutorial is run as a reader would type it: all shell blocks, in order, in one bash; shown output is compared. So are the
commands of the README that make three nodes.

Only the ports are others than in the text, since somebody may use those on this machine.
"""

import doctest
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from trio_eventlog.cli.loopback_ports import reserve_ports

ROOT = Path(__file__).resolve().parent.parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
README = ROOT / "README.md"
BLOCK_SECONDS_MAX = 60.0
OUTPUT_SECONDS_MAX = 20.0
PORTS = ("8400", "8401", "8402", "8403")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.process


@attrs.frozen
class Step:
    """A block of commands and the output shown for it; "" when none is."""

    line: int
    commands: str
    output: str


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        kind, body = match.groups()
        line = text[: match.start()].count("\n") + 1
        if kind == "sh":
            found.append(Step(line, body, ""))
        elif kind == "text":
            assert found, f"line {line}: output of what?"
            assert not found[-1].output, f"line {line}: a second output of one block"
            found[-1] = attrs.evolve(found[-1], output=body)
        else:
            assert kind == "console", f"line {line}: a block of kind {kind}"
    return found


class Shell:
    """A bash that is fed block by block. Standard error comes along with standard output, as in a terminal."""

    def __init__(self, home: Path) -> None:
        bin_directory = home / "bin"
        bin_directory.mkdir()
        for name, words in (("trio-eventlog", "-m trio_eventlog"), ("python", "")):
            command = bin_directory / name
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            command.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TRIO_EVENTLOG_")}
        environment |= {"PATH": f"{bin_directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(home)}
        self.process = subprocess.Popen(
            ["bash", "--norc", "-m"],  # -m: jobs have numbers, as at a prompt
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
        self._received = b""

    def run(self, commands: str) -> tuple[int, str]:
        """The exit code and what was written until the last command was done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{commands}\nprintf '\\n:done:%d:\\n' $?\n".encode())
        self.process.stdin.flush()
        done = re.compile(rb"\n:done:(\d+):\n")
        self._read_until(lambda: done.search(self._received) is not None, BLOCK_SECONDS_MAX)
        match = done.search(self._received)
        assert match is not None, f"not done within {BLOCK_SECONDS_MAX:g} s:\n{commands}\n{self._received.decode()}"
        output, self._received = self._received[: match.start()], self._received[match.end() :]
        return int(match[1]), output.decode()

    def more(self, seconds_max: float) -> str:
        """What background jobs write, as soon as they write something."""
        self._read_until(lambda: bool(self._received), seconds_max)
        output, self._received = self._received, b""
        return output.decode()

    def _read_until(self, is_enough: object, seconds_max: float) -> None:
        assert callable(is_enough)
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds_max
        while not is_enough() and time.monotonic() < deadline:
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                part = os.read(self.process.stdout.fileno(), 65536)
                if not part:
                    return
                self._received += part

    def close(self) -> None:
        """End bash and what it has started: its jobs are groups of their own, all in one session."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _session_of(entry) == self.process.pid:
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


def _session_of(entry: Path) -> int:
    try:
        text = (entry / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(text[text.rindex(")") + 2 :].split()[3])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(ports), lambda match: ports[match[0]], text)


def without_job_notices(text: str) -> str:
    """What bash says of its jobs depends on when it looks."""
    notice = re.compile(
        r"^\[\d+\][-+ ].*\n?|^\[\d+\] \d+\n|^bash: line \d+:.*(Killed|Terminated).*\n|^\s.*(Killed|Terminated).*\n", re.MULTILINE
    )
    return notice.sub("", text)


def test_every_command_of_the_tutorial_does_what_it_says(shell: Shell) -> None:
    """Exit codes are 0, and the output is the one shown."""
    ports = dict(zip(PORTS, map(str, reserve_ports(len(PORTS))), strict=True))
    code, _ = shell.run(
        f"export TRIO_EVENTLOG_TARGET=eventlog://127.0.0.1:{ports['8400']} TRIO_EVENTLOG_LISTEN=127.0.0.1:{ports['8400']}"
    )
    assert code == 0
    checker = doctest.OutputChecker()
    for step in steps(TUTORIAL.read_text()):
        where = f"docs/tutorial.md, line {step.line}:\n{step.commands}"
        code, output = shell.run(with_ports(step.commands, ports))
        output = without_job_notices(output)
        assert code == 0, f"{where}\nended with {code}:\n{output}"
        if not step.output:
            continue
        wanted = with_ports(step.output, ports)
        deadline = time.monotonic() + OUTPUT_SECONDS_MAX
        while (
            not checker.check_output(wanted, output, FLAGS) and time.monotonic() < deadline and step.commands.rstrip().endswith("&")
        ):
            output = without_job_notices(output + shell.more(1.0))
        assert checker.check_output(wanted, output, FLAGS), f"{where}\nshown:\n{wanted}\nfound:\n{output}"


def test_the_three_nodes_of_the_readme(shell: Shell) -> None:
    """From the first command to the last record."""
    section = README.read_text().split("\n## Three nodes\n")[1].split("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ") and not line.strip().startswith("PATH=")]
    assert len(commands) == 7
    ports = dict(zip(PORTS, map(str, reserve_ports(len(PORTS))), strict=True))
    code, output = shell.run(with_ports("\n".join(commands), ports))
    assert code == 0, output
    assert output.splitlines()[-1] == "100000", output
