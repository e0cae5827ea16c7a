"""Stories run in virtual time, scheduled by a fixed seed: each of them happens in the same way every time."""

from collections.abc import Iterator

import pytest
import trio.testing

from trio_eventlog.testing.determinism import deterministic_scheduling


@pytest.fixture(autouse=True)
def _deterministic(autojump_clock: trio.testing.MockClock) -> Iterator[None]:
    with deterministic_scheduling(0):
        yield
