"""Faults as values: they happen when the script says, end, and shrink to what matters."""

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import trio
from hypothesis import Phase, given, settings

from trio_eventlog import testing
from trio_eventlog.testing import Cluster, Crash, Fault, Isolate, OneWayCut, Partition, Pause, SlowDisk, fault_scripts, run_script
from trio_eventlog.testing.cluster import DEFAULT_SYNC_SECONDS
from trio_eventlog.testing.disk import Operation

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example"


def load_bank(which: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{which}_bank", EXAMPLE / which / "bank.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def looked_at(script: Sequence[Fault], *moments: float) -> list[dict[str, object]]:
    """What of the cluster is out of order at these moments of the script."""
    seen: list[dict[str, object]] = []

    def look(cluster: Cluster) -> dict[str, object]:
        down = [name for name in cluster.names if not cluster.is_running(name)]
        pairs = [(one, two) for one in cluster.names for two in cluster.names if one != two]
        cut = [pair for pair in pairs if not cluster.network._link(*pair).passes]
        sync = {name: cluster.disk(name).latency_seconds[Operation.SYNC] for name in cluster.names}
        slow = {name: seconds for name, seconds in sync.items() if seconds != DEFAULT_SYNC_SECONDS}
        still = [name for name in cluster.names if cluster.is_paused(name)]
        return {name: value for name, value in (("down", down), ("still", still), ("cut", cut), ("slow", slow)) if value}

    async def story(cluster: Cluster) -> None:
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_script, cluster, script)
            for moment in moments:
                await trio.sleep_until(begin + moment)
                seen.append(look(cluster))

    Cluster(3, seed=1).run(story)
    return seen


def test_each_fault_begins_and_ends() -> None:
    """At its time, for its time, and everything works again afterwards."""
    script = [
        Crash(at_seconds=1.0, for_seconds=1.0, node="n1", keeps_unsynced=False),
        Isolate(at_seconds=3.0, for_seconds=1.0, node="n2"),
        Partition(at_seconds=5.0, for_seconds=1.0, side=("n3",)),
        OneWayCut(at_seconds=7.0, for_seconds=1.0, source="n1", target="n3"),
        SlowDisk(at_seconds=9.0, for_seconds=1.0, node="n2", sync_seconds=0.25),
        Pause(at_seconds=11.0, for_seconds=1.0, node="n3"),
    ]
    moments = [number + 0.5 for number in range(13)]
    n2_alone = [("n1", "n2"), ("n2", "n1"), ("n2", "n3"), ("n3", "n2")]
    n3_alone = [("n1", "n3"), ("n2", "n3"), ("n3", "n1"), ("n3", "n2")]
    assert looked_at(script, *moments) == [
        *({}, {"down": ["n1"]}),
        *({}, {"cut": n2_alone}),
        *({}, {"cut": n3_alone}),
        *({}, {"cut": [("n1", "n3")]}),
        *({}, {"slow": {"n2": 0.25}}),
        *({}, {"still": ["n3"]}),
        {},
    ]


def test_faults_that_overlap() -> None:
    """The end of one is not the end of the others; a node is taken down once; the slowest disk counts."""
    script = [
        OneWayCut(at_seconds=1.0, for_seconds=2.0, source="n1", target="n3"),
        OneWayCut(at_seconds=2.0, for_seconds=2.0, source="n3", target="n1"),
        Crash(at_seconds=1.0, for_seconds=3.0, node="n2", keeps_unsynced=True),
        Crash(at_seconds=2.0, for_seconds=1.0, node="n2", keeps_unsynced=True),
        Pause(at_seconds=0.5, for_seconds=1.0, node="n2"),
        Pause(at_seconds=1.0, for_seconds=3.0, node="n3"),
        Pause(at_seconds=2.0, for_seconds=1.0, node="n3"),
        SlowDisk(at_seconds=1.0, for_seconds=3.0, node="n1", sync_seconds=0.1),
        SlowDisk(at_seconds=2.0, for_seconds=1.0, node="n1", sync_seconds=0.2),
    ]
    there, back = ("n1", "n3"), ("n3", "n1")
    assert looked_at(script, 1.5, 2.5, 3.5, 4.5) == [
        {"down": ["n2"], "still": ["n3"], "cut": [there], "slow": {"n1": 0.1}},
        {"down": ["n2"], "still": ["n3"], "cut": [there, back], "slow": {"n1": 0.2}},
        {"down": ["n2"], "still": ["n3"], "cut": [back], "slow": {"n1": 0.1}},
        {},
    ]


def test_what_a_crash_keeps() -> None:
    """`keeps_unsynced` is the difference between a killed process and a power failure."""
    for keeps_unsynced in (True, False):
        cluster = Cluster(1)
        disks = []

        async def story(cluster: Cluster, keeps_unsynced: bool, disks: list[bool]) -> None:
            file = await cluster.disk("n1").open("data/mine", create=True)
            await cluster.disk("n1").sync_directory("data")
            await file.write_at(0, [b"unsynced"])
            await run_script(cluster, [Crash(at_seconds=0.0, for_seconds=0.1, node="n1", keeps_unsynced=keeps_unsynced)])
            found = await cluster.disk("n1").open("data/mine")
            disks.append(await found.read_at(0, 8) == b"unsynced")

        cluster.run(story, keeps_unsynced, disks)
        assert disks == [keeps_unsynced]


@settings(max_examples=200, deadline=None)
@given(script=fault_scripts(("a", "b", "c", "d", "e")))
def test_a_script_is_shown_as_python(script: list[Fault]) -> None:
    """What a failure shows can be pasted into a test."""
    assert eval(repr(script), vars(testing)) == script


@given(script=fault_scripts(("n1",)))
def test_a_lonely_node_has_nobody_to_be_cut_from(script: list[Fault]) -> None:
    """Only what can happen to it is drawn."""
    assert not [fault for fault in script if isinstance(fault, Partition | OneWayCut)]


async def ten_orders(cluster: Cluster, bank_module: ModuleType, script: Sequence[Fault]) -> None:
    async with cluster.client() as client, trio.open_nursery() as nursery:
        bank = bank_module.Bank(client)
        await bank.transfer("order 0", "ann", "bob", 1)
        nursery.start_soon(run_script, cluster, script)
        for number in range(1, 6):
            await bank.transfer(f"order {number}", "ann", "bob", 1)
            await cluster.advance(0.5)
        assert await bank.balances() == {"ann": -6, "bob": 6}


def test_a_bug_of_an_application_shrinks_to_the_fault_that_shows_it() -> None:
    """Of up to six faults at most two are left, the script is the same every time, and the mended application survives it."""
    careless, mended = load_bank("careless"), load_bank("mended")
    cluster = Cluster(3, seed=1)
    failed: list[list[Fault]] = []

    @settings(derandomize=True, database=None, deadline=None, max_examples=50, phases=[Phase.generate, Phase.shrink])
    @given(script=fault_scripts(begin_seconds_max=2.0))
    def search(script: list[Fault]) -> None:
        try:
            cluster.run(ten_orders, careless, script)
        except* AssertionError:
            failed.append(script)
            raise

    before = time.process_time()
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True) as caught:
        search()
    print(f"{len(failed)} failures, {time.process_time() - before:.1f} s of processor time, the last: {failed[-1]}")
    assert 1 <= len(failed[-1]) <= 2
    assert any("script=[" in note for note in caught.value.__notes__)
    assert any("seed 1, at " in note for note in caught.value.__notes__)
    cluster.run(ten_orders, mended, failed[-1])
