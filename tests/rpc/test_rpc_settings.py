"""Settings of the engine are checked when they are made."""

import math

import attrs
import pytest

from trio_eventlog.errors import SettingsError
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.rpc.settings import _RANGES
from trio_eventlog.testing.defaults import default


def test_every_bound_has_a_range_and_every_time_is_positive():
    for attribute in attrs.fields(RpcSettings):
        assert attribute.name in _RANGES or attribute.name.endswith("_seconds")


@pytest.mark.parametrize("name", _RANGES)
def test_the_ends_of_the_ranges(name):
    lowest, highest = _RANGES[name]
    for good in (lowest, highest):
        assert getattr(attrs.evolve(default(RpcSettings), **{name: good}), name) == good
    for bad in (lowest - 1, highest + 1):
        with pytest.raises(SettingsError, match=name):
            attrs.evolve(default(RpcSettings), **{name: bad})


@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_times(bad):
    assert default(RpcSettings, keepalive_seconds=math.inf).keepalive_seconds == math.inf
    with pytest.raises(SettingsError, match="keepalive_seconds"):
        default(RpcSettings, keepalive_seconds=bad)
