"""Strangers fill no disk with lines of the log."""

import logging

import pytest
import trio
import trio.testing

from trio_eventlog.net.line_budget import LineBudget

logger = logging.getLogger(__name__)


async def test_so_many_lines_and_one_that_says_so(caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock) -> None:
    caplog.set_level(logging.INFO, logger=logger.name)
    budget = LineBudget(logger, "probes", lines_max=3, interval_seconds=60)
    for number in range(1000):
        budget.log(logging.DEBUG, "nobody sees this")
        budget.log(logging.INFO, "line %d", number)
    assert caplog.messages == ["line 0", "line 1", "line 2", "probes: too many; no further lines about them for 60 s"]
    await trio.sleep(60)
    budget.log(logging.INFO, "again")
    assert caplog.messages[-1] == "again"
