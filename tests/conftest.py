"""Options of the whole test suite."""

import inspect
import math
import os
from functools import partial

import hypothesis
import pytest
import side_by_side

from trio_eventlog.testing import determinism

hypothesis.settings.register_profile("suite", deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")
"""No example has a limit of its own in real time, since other processes make an example slow: each test has the limit of 300 s.
What reproduces a failure is printed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, help="how many seeds each simulation runs")
    group.addoption("--first-seed", type=int, help="the first one of them")
    group.addoption("--rolls", type=int, default=4, help="how many nodes the stories of rolling restarts restart")


def pytest_configure(config: pytest.Config) -> None:
    # Read where the simulations are parametrised, which is while their modules are imported.
    for option, variable in (("seeds", "TRIO_EVENTLOG_SIM_SEEDS"), ("first_seed", "TRIO_EVENTLOG_SIM_FIRST")):
        value = config.getoption(option)
        if value is not None:
            os.environ[variable] = str(value)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None: a worker for each processor."""
    return None if side_by_side.is_whole_suite(config) else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> side_by_side.Scheduler | None:
    """None: what `--dist` says."""
    if config.option.dist != "load":
        return None
    config.option.loadscopereorder = False
    return side_by_side.Scheduler(config, log)


@pytest.fixture
def rolls(request: pytest.FixtureRequest) -> int:
    """How many nodes are restarted, one after the other."""
    number: int = request.config.getoption("rolls")
    return number


VIRTUAL_TIME = {"cluster": 1000.0, "node": math.inf}
"""Directories whose async tests run in virtual time, scheduled by a fixed seed: each happens in the same way every time.
And how many virtual seconds they may take, which ends a story that waits for what never comes.

So do those of modules that say `VIRTUAL_TIME = True`.
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: side_by_side.turn_of(item.nodeid))
    for item in items:
        function = getattr(item, "obj", None)
        is_virtual = item.path.parent.name in VIRTUAL_TIME or getattr(getattr(item, "module", None), "VIRTUAL_TIME", False)
        if is_virtual and inspect.iscoroutinefunction(function):
            # In front: trio_mode has given everything async a marker with a runner of its own.
            run = partial(determinism.run, seconds_max=VIRTUAL_TIME.get(item.path.parent.name, math.inf))
            item.add_marker(pytest.mark.trio(run=run), append=False)
