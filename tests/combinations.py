"""Stories that are told for every combination of some circumstances."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def combinations(*axes: Iterable[Any]) -> list[Any]:
    """Every combination of one value of each axis, for `parametrize`. All but enough to have each value once are marked `slow`."""
    listed: list[Sequence[Any]] = [list(axis) for axis in axes]
    quick = [tuple(axis[turn % len(axis)] for axis in listed) for turn in range(max(map(len, listed)))]
    return [pytest.param(*values, marks=() if values in quick else pytest.mark.slow) for values in product(*listed)]
