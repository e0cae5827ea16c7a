"""Options of the whole test suite."""

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, help="how many seeds each simulation runs")
    group.addoption("--first-seed", type=int, help="the first one of them")


def pytest_configure(config: pytest.Config) -> None:
    # Read where the simulations are parametrised, which is while their modules are imported.
    for option, variable in (("seeds", "TRIO_EVENTLOG_SIM_SEEDS"), ("first_seed", "TRIO_EVENTLOG_SIM_FIRST")):
        value = config.getoption(option)
        if value is not None:
            os.environ[variable] = str(value)
