"""How the whole suite is divided among worker processes of pytest-xdist, one for each processor.

Tests of one module run in one process, in their order: some share a cluster, others count what they have reached together. Tests
with daemons run one after the other, whatever module they are in: a cluster of three wants all the processors of a small machine.
"""

from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

TESTS = Path(__file__).resolve().parent

WITH_DAEMONS = ("tests/process/", "tests/interop/", "tests/docs/test_tutorial.py")
"""Where tests are marked `process`."""

LONGEST_FIRST = (*WITH_DAEMONS, "tests/sim/", "tests/docs/", "tests/cluster/test_copies.py", "tests/cluster/test_lost_files.py")
"""What takes half a minute and more, longest first: at the end there is only little left, that fits in beside anything."""


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether a run is asked for that takes longer than the start of the workers, each of which collects all of it."""
    return any(Path(argument).resolve() in (TESTS, TESTS.parent) for argument in config.args)


def unit_of(nodeid: str) -> str:
    """The name of the tests that this one has to run together with."""
    return "with daemons" if nodeid.startswith(WITH_DAEMONS) else nodeid.partition("::")[0]


def turn_of(nodeid: str) -> int:
    """The smaller, the earlier."""
    return next((turn for turn, start in enumerate(LONGEST_FIRST) if nodeid.startswith(start)), len(LONGEST_FIRST))


class Scheduler(LoadScopeScheduling):
    """Gives each worker unit after unit.

    A group mark of pytest-xdist's own would do the same, and add its name to that of each test: what a failure shows could not be
    run again as it stands there.
    """

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
