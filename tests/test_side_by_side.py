"""The whole suite in several processes at once: what may run beside what, and that daemons of two tests never want one port."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import side_by_side

ROOT = Path(__file__).resolve().parents[1]
RESERVE = """
import sys
from trio_eventlog.cli.loopback_ports import reserve_ports

print(*reserve_ports(200), flush=True)
sys.stdin.read()
"""


def test_tests_with_daemons_run_one_after_the_other() -> None:
    """Every module that says that it starts some is in the one unit of those."""
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if any(f"mark.{mark}" in path.read_text() for mark in ("process", "agent"))
    }
    assert len(marked) > 10
    assert {path for path in marked if side_by_side.unit_of(f"{path}::test[it]") != "with daemons"} == set()


def test_a_module_runs_in_one_process() -> None:
    """Whatever its parameters are called."""
    units = {side_by_side.unit_of(f"tests/sim/test_core.py::{name}") for name in ("test_one", "TestIt::test_two[a::b@c]")}
    assert units == {"tests/sim/test_core.py"}


@pytest.mark.parametrize(
    ("arguments", "is_whole"),
    [(["tests"], True), (["."], True), ([str(ROOT / "tests")], True), (["tests/test_ids.py"], False), (["tests/raft"], False)],
)
def test_only_the_whole_suite_is_divided(arguments: list[str], is_whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take longer to start than a file or a directory takes."""
    monkeypatch.chdir(ROOT)
    assert side_by_side.is_whole_suite(SimpleNamespace(args=arguments)) == is_whole  # type: ignore[arg-type]


def test_a_single_file_starts_no_workers() -> None:
    """With the options of this suite, on however many processors."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_ids.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker" not in done.stdout


def test_ci_runs_what_is_left_out_for_its_length() -> None:
    """Once more with the marker, and nothing else is left out of both."""
    options = shlex.split(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"])
    assert options[options.index("-m") + 1] == "not agent and not agent_long and not slow"
    commands = [
        line.partition("-m pytest")[2].strip() for line in (ROOT / ".ci/run").read_text().splitlines() if "-m pytest" in line
    ]
    assert commands == ["-q", "-q -m slow"]


def test_no_port_is_given_twice() -> None:
    """Not to two processes of this machine at once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", RESERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    try:
        ports = [port for process in processes if process.stdout is not None for port in process.stdout.readline().split()]
        assert len(ports) == 800
        assert len(set(ports)) == 800
    finally:
        for process in processes:
            process.communicate()


def test_reserved_ports_are_not_reported_as_sockets_left_open() -> None:
    """They are kept until the process ends, on purpose; a warning about each would hide the ones about real leaks."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", RESERVE]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
