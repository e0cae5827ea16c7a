"""The plugin as an application's own test suite sees it."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STORIES = """
import time
import pytest

async def test_survives_its_leader(eventlog_cluster):
    async with eventlog_cluster.client() as client:
        await client.produce("orders", b"one")
        eventlog_cluster.crash(await eventlog_cluster.wait_leader("orders"))
        result = await client.produce("orders", b"two")
    assert result.base_offset == 1

@pytest.mark.eventlog_cluster(nodes=1, tick_seconds=0.03)
async def test_of_another_shape(eventlog_cluster):
    assert eventlog_cluster.names == ("n1",)
    assert eventlog_cluster.settings("n1").tick_seconds == 0.03
    before = time.monotonic()
    await eventlog_cluster.advance(100)
    assert time.monotonic() - before < 90

def test_without_a_cluster():
    pass
"""

KINDS = """
import pytest
from hypothesis import given, settings, strategies as st

pytestmark = pytest.mark.eventlog_cluster(nodes=1)
few = settings(max_examples=3, database=None, deadline=None)
seeds = []

async def story(cluster, value):
    async with cluster.client() as client:
        result = await client.produce("orders", value)
    return result.base_offset, cluster.trace.digest

class TestInAClass:
    @pytest.mark.parametrize("value", [b"a", b"b"])
    async def test_async(self, eventlog_cluster, value):
        assert (await story(eventlog_cluster, value))[0] == 0

def test_plain(eventlog_cluster):
    offset, digest = eventlog_cluster.run(story, b"one")
    assert offset == 0
    assert eventlog_cluster.run(story, b"one") == (0, digest)
    assert eventlog_cluster.run(story, b"two")[1] != digest

def test_an_error_comes_out_as_it_is(eventlog_cluster):
    async def fail(cluster):
        import trio
        await trio.sleep_until(1)
        raise KeyError("mine")
    with pytest.raises(KeyError) as caught:
        eventlog_cluster.run(fail)
    assert caught.value.__notes__ == [f"seed {eventlog_cluster.seed}, at 1.000 s of virtual time"]
    assert "n1: catalog:" in eventlog_cluster.state_at_failure

@few
@given(value=st.binary())
async def test_drawn_async(eventlog_cluster, value):
    assert (await story(eventlog_cluster, value))[0] == 0
    seeds.append(eventlog_cluster.seed)

@few
@given(value=st.binary())
def test_drawn_plain(eventlog_cluster, value):
    assert eventlog_cluster.run(story, value)[0] == 0

def test_each_seed_had_its_examples():
    assert seeds in ([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1] * 2)
"""

FIXTURES = """
import pytest

@pytest.fixture
async def client(eventlog_cluster):
    async with eventlog_cluster.client() as client:
        yield client

async def test_with_a_fixture_of_its_own(client, eventlog_cluster, autojump_clock):
    await client.produce("orders", b"one")
    eventlog_cluster.crash(await eventlog_cluster.wait_leader("orders"))
    assert (await client.produce("orders", b"two")).base_offset == 1
    assert autojump_clock.autojump_threshold == 0
"""

BAD = """
import pytest

pytestmark = pytest.mark.eventlog_cluster(nodes=1)

@pytest.mark.parametrize("word", ["it's"])
async def test_inside(eventlog_cluster, word):
    async with eventlog_cluster.client() as client:
        await client.produce("orders", b"one")
    assert False, f"now {eventlog_cluster.random('x').random()}"

def test_outside(eventlog_cluster):
    async def story(cluster):
        assert False, f"now {eventlog_cluster.random('x').random()}"
    eventlog_cluster.run(story)
"""

SHORT = """
async def test_short(eventlog_cluster):
    async with eventlog_cluster.client() as client:
        await client.produce("orders", b"one", b"two")
        await eventlog_cluster.wait_converged("orders")
        eventlog_cluster.pause("n1")
        assert 1 == 2
"""

UNUSED = """
import sys

def test_nothing_is_imported():
    assert not [name for name in sys.modules if name.split(".")[0] in ("trio_eventlog", "trio", "hypothesis", "purerpc", "attrs")]
"""

OTHERS = {
    "pytest-trio in trio_mode": ("-o", "trio_mode=true"),
    "pytest-trio without trio_mode": (),
    "no pytest-trio": ("-p", "no:trio"),
    "anyio in auto mode": ("-o", "anyio_mode=auto", "-p", "no:trio"),
    "anyio in auto mode beside pytest-trio": ("-o", "anyio_mode=auto"),
}
"""Who else would like to run async tests: ours are run by seed and in virtual time with any of them. (In its auto mode, anyio makes
two tests of each, one for each of its back ends.)"""


def run(directory: Path, text: str, *options: str) -> str:
    (directory / "test_app.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    # Installed, the entry point does what -p does here.
    is_installed = any(point.value == "pytest_trio_eventlog" for point in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "pytest_trio_eventlog"]
    command = [sys.executable, "-m", "pytest", *plugin, "-q", "-p", "no:cacheprovider", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False).stdout


def test_a_cluster_in_virtual_time(tmp_path: Path) -> None:
    """A crash and an election, a shape by marker, and nothing changes for other tests."""
    assert "3 passed" in run(tmp_path, STORIES)


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_every_kind_of_test_with_whoever_else_is_there(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Async, plain (each `run` is a fresh one of the same seed), and drawn by Hypothesis: each example has a cluster of its own,
    in which nothing has happened, and no health check has to be silenced."""
    output = run(tmp_path, KINDS, "--eventlog-seeds", "2", *options)
    assert re.search(r"^(13|19) passed in", output, re.MULTILINE), output


def test_fixtures_of_pytest_trio_may_use_the_cluster(tmp_path: Path) -> None:
    """They live inside of its run."""
    assert "1 passed" in run(tmp_path, FIXTURES, "-o", "trio_mode=true")


def test_more_seeds(tmp_path: Path) -> None:
    """Each seed is a test of its own, with the seed in its name."""
    output = run(tmp_path, KINDS, "--eventlog-seeds", "2", "--eventlog-first-seed", "7", "-vv", "-k", "plain")
    names = re.findall(r"::(\S+) PASSED", output)
    assert names == ["test_plain[seed7]", "test_plain[seed8]", "test_drawn_plain[seed7]", "test_drawn_plain[seed8]"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("inside", ()), ("inside", ("-p", "no:trio")), ("outside", ())],
    ids=["pytest-trio", "no pytest-trio", "plain"],
)
def test_a_failure_says_how_to_see_it_again(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """Seed, state, events, last lines of the trace; and the command, which runs that one test and ends in the same trace."""
    options = (*options, "-vv")
    first = run(tmp_path, BAD, "--eventlog-first-seed", "7", "--eventlog-seeds", "2", "-k", f"{name} and seed8", *options)
    assert "seed 8, time " in first
    assert "n1: catalog:" in first
    assert "0.000000 start n1" in first
    match = re.search(r"^    pytest (.* --eventlog-first-seed 8 --eventlog-seeds 1)$", first, re.MULTILINE)
    assert match is not None, first
    again = run(tmp_path, BAD, *shlex.split(match[1]), *options)
    assert "1 failed in" in again

    def essence(output: str) -> list[str]:
        return re.findall(r"now 0\.\d+|lines of the trace, which is \w{64}", output)

    assert essence(first) == essence(again) != []


def test_a_failure_is_read_in_ten_lines(tmp_path: Path) -> None:
    """How to replay it, what was done, what the log holds: no state of nodes, no hashes, nothing of how the cluster ended.

    And a node that stands still does not keep the test from its end.
    """
    output = run(tmp_path, SHORT)
    section = output[output.index("- eventlog cluster -") :].splitlines()[1:]
    section = section[: next(at for at, line in enumerate(section) if line.startswith("="))]
    assert section == [
        "seed 0; to run exactly this again:",
        "    pytest 'test_app.py::test_short[seed0]' --eventlog-first-seed 0 --eventlog-seeds 1",
        "what was done to the cluster, by time in seconds:",
        section[3],
        "orders/0 holds 2 records, the last: 0: b'one', 1: b'two'",
        "(-v shows the nodes and the trace, too)",
    ]
    assert section[3].endswith(" pause n1")
    assert "Captured" not in output, output


def test_an_unused_plugin_imports_nothing(tmp_path: Path) -> None:
    """Every test session of an environment with this package pays for what the plugin imports at its start."""
    quiet = ("-p", "no:trio", "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:schemathesis")
    assert "1 passed" in run(tmp_path, UNUSED, *quiet)
