"""The plugin as an application's own test suite sees it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
import time
import pytest
import trio

async def test_survives_its_leader(eventlog_cluster):
    before = time.monotonic()
    async with eventlog_cluster.client() as client:
        await client.produce("orders", b"one")
        eventlog_cluster.crash(await eventlog_cluster.wait_leader("orders"))
        result = await client.produce("orders", b"two")
    assert result.base_offset == 1
    await trio.sleep(100)
    assert time.monotonic() - before < 60

@pytest.mark.eventlog_cluster(nodes=1, tick_seconds=0.03)
async def test_of_another_shape(eventlog_cluster):
    assert eventlog_cluster.names == ("n1",)
    assert eventlog_cluster.settings("n1").tick_seconds == 0.03

def test_without_a_cluster():
    pass
"""

BAD = """
import pytest

async def test_fails(eventlog_cluster):
    print("digest", eventlog_cluster.trace.digest)
    assert False

def test_forgets_async(eventlog_cluster):
    pass
"""


def run(directory: Path, text: str, *options: str) -> str:
    (directory / "test_app.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    # Installed, the entry point does what -p does here.
    plugin = [] if "trio_eventlog" in _entry_points() else ["-p", "trio_eventlog.testing.plugin"]
    command = [sys.executable, "-m", "pytest", *plugin, "-q", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("TRIO_EVENTLOG_SIM_SEEDS", None)
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False).stdout


def _entry_points() -> set[str]:
    from importlib.metadata import entry_points

    return {point.name for point in entry_points(group="pytest11")}


def test_a_cluster_in_virtual_time(tmp_path: Path) -> None:
    """A crash and an election, shapes by marker, and nothing changes for other tests."""
    assert "3 passed" in run(tmp_path, GOOD)


def test_more_seeds(tmp_path: Path) -> None:
    """Each seed is a test of its own, with the seed in its name."""
    output = run(tmp_path, GOOD, "--eventlog-seeds", "3", "--eventlog-first-seed", "7", "-vv")
    assert "7 passed" in output
    assert "test_survives_its_leader[seed9]" in output


def test_a_failure_shows_the_cluster_and_repeats(tmp_path: Path) -> None:
    """State and last lines of the trace are in the report; the same seed fails in the same way."""
    outputs = [run(tmp_path, BAD, "-k", "fails") for _ in range(2)]
    for output in outputs:
        assert "eventlog cluster" in output
        assert "n1: catalog:" in output
        assert "test_fails[seed0]" in output
    digests = [[line for line in output.splitlines() if line.startswith("digest")] for output in outputs]
    assert digests[0] == digests[1] != []


def test_a_plain_function_is_told_what_is_missing(tmp_path: Path) -> None:
    """The commonest slip has a clear answer."""
    assert "write `async def test_forgets_async(...)`" in run(tmp_path, BAD, "-k", "forgets")
