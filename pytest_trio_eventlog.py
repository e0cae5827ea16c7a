"""Pytest plugin: a whole cluster as a fixture, in virtual time, repeatable by its seed.

    async def test_app(eventlog_cluster):                    # inside of the run, with or without pytest-trio
        async with eventlog_cluster.client() as client:
            await client.produce("orders", b"...")
            eventlog_cluster.crash(await eventlog_cluster.wait_leader("orders"))
            await client.produce("orders", b"...")

    def test_app(eventlog_cluster):                          # outside: as many runs as the test likes
        eventlog_cluster.run(story)

The fixture is a `trio_eventlog.testing.Cluster`. `--eventlog-seeds N` runs each such test with N seeds; the seed is in the test's
name. `@pytest.mark.eventlog_cluster(nodes=5, tick_seconds=0.03)` shapes the cluster: `nodes`, and any setting of a node.

Every pytest session of an environment with this package imports this module. That is why it is no part of the package, whose
import would cost all of them half a second: nothing of it is imported before a test asks for the fixture.
"""

import functools
import inspect
import os
import shlex
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

if TYPE_CHECKING:
    from trio_eventlog.testing import Cluster

FIXTURE = "eventlog_cluster"
EVENTS_SHOWN = 6
LOGS_SHOWN = 3
"""Lines in the report of a failure: the last things that were done, and partitions."""
LINES_SHOWN = 30
"""The same with -v, and of the trace."""

_cluster = pytest.StashKey["Cluster"]()
"""The cluster of the test that runs."""


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
        ids = [f"seed{seed}" for seed in seeds]
        metafunc.parametrize(FIXTURE, seeds, indirect=True, ids=ids, scope="function")


# Hypothesis warns of fixtures that are not made anew for each example, by their scope. This one is: each run begins with empty
# disks. For pytest the scope is the one that the parameters above say.
@pytest.fixture(scope="class")
def eventlog_cluster(request: pytest.FixtureRequest) -> "Cluster":
    """A `trio_eventlog.testing.Cluster`. In an async test it is up, ready and in virtual time; a plain one calls its `run`."""
    from trio_eventlog.testing import Cluster

    marker = request.node.get_closest_marker(FIXTURE)
    settings: dict[str, Any] = dict(marker.kwargs) if marker is not None else {}
    cluster = Cluster(settings.pop("nodes", 3), seed=request.param, **settings)
    request.config.stash[_cluster] = cluster
    return cluster


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With pytest-trio, it runs the async tests, and gives them its own fixtures; only how a run is begun is said here."""
    if config.pluginmanager.has_plugin("trio"):
        for item in items:
            if _uses_cluster(item) and inspect.iscoroutinefunction(item.obj):
                # In front of whatever marker pytest-trio's own mode has added: the first one that names a runner counts.
                item.add_marker(pytest.mark.trio(run=functools.partial(_run, config)), append=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Make async tests plain ones: without pytest-trio, and those of Hypothesis, where pytest-trio takes no other runner."""
    if _uses_cluster(item):
        if inspect.iscoroutinefunction(item.obj) and not item.config.pluginmanager.has_plugin("trio"):
            item.obj = _plain(item.config, item.obj)
        elif hasattr(item.obj, "hypothesis") and inspect.iscoroutinefunction(item.obj.hypothesis.inner_test):
            item.obj.hypothesis.inner_test = _plain(item.config, item.obj.hypothesis.inner_test)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and report.when == "call" and _uses_cluster(item):
        cluster = item.config.stash[_cluster]
        path = os.path.relpath(item.path, item.config.invocation_params.dir)
        test = shlex.quote("::".join([path, *item.nodeid.split("::")[1:]]))
        is_verbose = item.config.get_verbosity() > 0
        done = [event for event in cluster.events if is_verbose or " start n" not in event]
        lines = [
            f"seed {cluster.seed}; to run exactly this again:",
            f"    pytest {test} --eventlog-first-seed {cluster.seed} --eventlog-seeds 1",
            "what was done to the cluster, by time in seconds:" if done else "nothing was done to the cluster",
            *done[-(LINES_SHOWN if is_verbose else EVENTS_SHOWN) :],
            *cluster.logs_at_failure[: LINES_SHOWN if is_verbose else LOGS_SHOWN],
        ]
        if is_verbose:
            lines += [
                cluster.state_at_failure,
                f"the last of {cluster.trace.count} lines of the trace, which is {cluster.trace.digest}:",
                *list(cluster.trace.lines)[-LINES_SHOWN:],
            ]
        else:
            lines.append("(-v shows the nodes and the trace, too)")
        report.sections.append(("eventlog cluster", "\n".join(lines)))
    return report


def _uses_cluster(item: pytest.Item) -> TypeGuard[pytest.Function]:
    return isinstance(item, pytest.Function) and FIXTURE in item.fixturenames


def _run(config: pytest.Config, function: Callable[[], Awaitable[object]], **options: Any) -> object:
    """As `trio.run`, inside of the test's cluster."""
    return config.stash[_cluster].run(lambda _: function(), **options)


def _plain(config: pytest.Config, function: Callable[..., Awaitable[object]]) -> Callable[..., object]:
    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        return _run(config, functools.partial(function, *args, **kwargs))

    run._trio_test_runner_wrapped = True  # type: ignore[attr-defined]  # For pytest-trio: nothing is left to be done.
    return run
