"""Applications that are ended at any step: what run_app does to them, and the mistakes that it finds."""

import inspect
from collections.abc import Callable

import hypothesis
import pytest
import trio

import trio_eventlog as el
from tests.testing.applications import BUGS, ORDERS, Store, fill, nothing_is_left_out, position_first
from trio_eventlog.testing import AppFault, AppFaultKind, Cluster, app_faults

SEEDS_MAX = 50
LINES_MAX = 15
MENDED_SEEDS = 4
KILL, CANCEL = AppFaultKind.KILL, AppFaultKind.CANCEL


def holds(cluster: Cluster, story: Callable[..., object], mended: bool) -> bool:
    """Whether the story ends well."""
    is_well = True
    try:
        cluster.run(story, mended)  # type: ignore[arg-type]
    except* (AssertionError, el.EventLogError):
        is_well = False
    return is_well


@pytest.mark.parametrize("bug", BUGS)
def test_each_mistake_is_found(bug: str) -> None:
    """Within fifty seeds, by a test of fifteen lines; the application without the mistake passes."""
    assert len(inspect.getsource(BUGS[bug]).splitlines()) <= LINES_MAX
    assert not all(holds(Cluster(3, seed=seed), BUGS[bug], False) for seed in range(SEEDS_MAX)), "no seed finds it"
    for seed in range(MENDED_SEEDS):
        assert holds(Cluster(3, seed=seed), BUGS[bug], True), seed


def test_hypothesis_finds_the_simplest_end() -> None:
    """One fault is left of whatever was drawn, at the first step that does the harm."""

    def fails(faults: list[AppFault]) -> bool:
        async def story(cluster: Cluster) -> bool:
            store = Store()
            async with cluster.client() as client:
                await fill(client)
            await cluster.run_app(position_first, store, False, faults=faults)
            return set(store.done) != set(ORDERS)

        return Cluster(1).run(story)

    settings = hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
    (fault,) = hypothesis.find(app_faults(step_max=400), fails, settings=settings)
    assert fails([fault])
    assert not any(fails([AppFault(fault.kind, step)]) for step in range(max(1, fault.at_step - 5), fault.at_step))


def test_a_run_is_repeated_by_its_seed() -> None:
    """The faults are drawn from it, and another seed draws others."""

    def told(seed: int) -> tuple[list[str], str]:
        cluster = Cluster(1, seed=seed)
        holds(cluster, nothing_is_left_out, True)
        return cluster.events, cluster.trace.digest

    assert told(3) == told(3)
    assert [line for line in told(3)[0] if "run app" in line] != [line for line in told(4)[0] if "run app" in line]


def test_what_a_kill_leaves_undone() -> None:
    """Not another line runs: no `finally`, no answer. The next run has a new client, whose records are its own."""
    lines: list[str] = []
    producers: list[int] = []

    async def app(client: el.Client) -> str:
        producers.append(client.producer_id)
        lines.append("begins")
        try:
            await client.produce("orders", b"x")
            lines.append("produced")
            await trio.sleep(1)
            lines.append("slept")
        finally:
            lines.append("finally")
        return "done"

    async def story(cluster: Cluster) -> list[str]:
        assert await cluster.run_app(app, faults=[AppFault(KILL, 5)]) == "done"
        return list(lines)

    assert Cluster(1).run(story) == ["begins", "begins", "produced", "slept", "finally"]
    assert len(set(producers)) == 2
    assert lines[-1] == "finally", "once the cluster has ended, the dead may be buried"


def test_what_a_cancellation_leaves() -> None:
    """`finally` runs, and the same client goes on with the next run."""
    lines: list[str] = []
    producers: list[int] = []

    async def app(client: el.Client) -> int:
        producers.append(client.producer_id)
        try:
            await client.produce("orders", b"x")
            await trio.sleep(1)
            lines.append("slept")
        finally:
            lines.append("finally")
        return len(producers)

    async def story(cluster: Cluster) -> int:
        return await cluster.run_app(app, faults=[AppFault(CANCEL, 1), AppFault(CANCEL, 3), AppFault(CANCEL, 100_000)])

    assert Cluster(1).run(story) == 3
    assert lines == ["finally", "finally", "slept", "finally"]
    assert len(set(producers)) == 1


@pytest.mark.parametrize("kind", AppFaultKind)
def test_every_step_can_be_the_last(kind: AppFaultKind) -> None:
    """From the first one on, until the application is done before it is hit: then it is run once."""
    for step in range(1, 200):
        runs: list[int] = []

        async def app(client: el.Client, runs: list[int] = runs) -> None:
            runs.append(1)
            await client.produce("orders", b"x")

        async def story(cluster: Cluster, step: int = step, app: Callable[..., object] = app) -> None:
            await cluster.run_app(app, faults=[AppFault(kind, step)])  # type: ignore[arg-type]

        Cluster(1).run(story)
        assert len(runs) in (1, 2)
        if len(runs) == 1:
            break
    assert 3 < step < 199


def test_errors_and_cancellation_of_the_application_come_out() -> None:
    """As they are; and whoever gives up waiting for it takes it down."""

    async def fails(client: el.Client) -> None:
        raise KeyError("mine")

    async def hangs(client: el.Client, ended: list[str]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("yes")

    async def story(cluster: Cluster) -> None:
        with pytest.raises(KeyError):
            await cluster.run_app(fails, faults=[])
        ended: list[str] = []
        with trio.move_on_after(5):
            await cluster.run_app(hangs, ended, faults=[])
        await cluster.advance(1)
        assert ended == ["yes"]

    Cluster(1).run(story)
