"""Pytest plugin: a whole cluster as a fixture, in virtual time, repeatable by its seed.

    async def test_app(eventlog_cluster):
        async with eventlog_cluster.client() as client:
            await client.produce("orders", b"...")
            eventlog_cluster.crash(await eventlog_cluster.wait_leader("orders"))
            await client.produce("orders", b"...")

Needs pytest-trio. Nothing takes real time, so a ten-second election costs nothing. `--eventlog-seeds N` runs each such test
with N seeds; the seed is in the test's name. `@pytest.mark.eventlog_cluster(nodes=5, tick_seconds=0.03)` shapes the cluster:
`nodes`, and any setting of a node.
"""

import inspect
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from trio_eventlog.testing.cluster import Cluster

FIXTURE = "eventlog_cluster"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trio-eventlog")
    group.addoption("--eventlog-seeds", type=int, default=1, metavar="N", help=f"seeds to run each test with {FIXTURE} by")
    group.addoption("--eventlog-first-seed", type=int, default=0, metavar="N", help="the first of these seeds")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{FIXTURE}(nodes=3, **settings): the shape of the test's cluster, and settings of its nodes"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if FIXTURE in metafunc.fixturenames:
        first = metafunc.config.getoption("--eventlog-first-seed")
        seeds = range(first, first + metafunc.config.getoption("--eventlog-seeds"))
        metafunc.parametrize(FIXTURE, seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FIXTURE in getattr(item, "fixturenames", ()) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            from trio_eventlog.testing.determinism import run_virtually

            run = partial(run_virtually, seed=item.callspec.params[FIXTURE])  # type: ignore[attr-defined]
            # In front of whatever marker pytest-trio's own mode has added: the first one that names a runner counts.
            item.add_marker(pytest.mark.trio(run=run), append=False)


@pytest.fixture
async def eventlog_cluster(request: pytest.FixtureRequest) -> AsyncIterator["Cluster"]:
    """A `trio_eventlog.testing.cluster.Cluster` that is ready to work. In virtual time: see `trio_eventlog.testing.plugin`."""
    # Only here: a session that does not use the fixture does not pay for the import.
    from trio_eventlog.testing.cluster import Cluster

    marker = request.node.get_closest_marker(FIXTURE)
    settings: dict[str, Any] = dict(marker.kwargs) if marker is not None else {}
    cluster = Cluster(settings.pop("nodes", 3), seed=request.param, **settings)
    async with cluster:
        await cluster.wait_ready()
        try:
            yield cluster
        finally:
            text = "\n".join([cluster.describe(), *cluster.trace.lines])
            request.node.add_report_section("call", "eventlog cluster", text)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    function = getattr(item, "obj", None)
    if FIXTURE in getattr(item, "fixturenames", ()) and not inspect.iscoroutinefunction(function):
        pytest.fail(f"{FIXTURE} is for async tests: write `async def {item.name.partition('[')[0]}(...)`", pytrace=False)
