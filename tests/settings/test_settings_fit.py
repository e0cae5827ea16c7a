"""Settings that contradict each other are refused under the names that operators know: what is accepted, a node can be built of."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog import part_settings
from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_fields import COUNT, DURATION, SIZE, settings_of
from trio_eventlog.settings import NodeSettings

DESCRIPTORS = 1 << 20


def values_of(name: str) -> tuple[Any, ...]:
    """The smallest accepted value, the default, and a large one."""
    described = settings_of(NodeSettings)[name]
    number = float if described.kind is DURATION else int
    lowest = number(described.minimum if described.minimum is not None else 0)
    highest = number(described.maximum if described.maximum is not None else 1 << 40)
    return tuple(dict.fromkeys((lowest, highest)))


NUMBERS = [name for name, described in settings_of(NodeSettings).items() if described.kind in (COUNT, SIZE, DURATION)]


def build(values: dict[str, Any]) -> None:
    """Everything of a node that its settings are made into. What is refused names a setting."""
    try:
        settings = NodeSettings(**values)
    except SettingsError as error:
        refusal = str(error)
    else:
        build_parts(settings)
        return
    assert refusal.removeprefix("setting ").partition(":")[0] in settings_of(NodeSettings), refusal


def build_parts(settings: NodeSettings) -> None:
    try:
        budgets = part_settings.descriptors(settings, DESCRIPTORS)
    except SettingsError:
        return  # It depends on the process too, and is found when the node starts; its own tests look at the words.
    part_settings.replicas(settings, budgets)
    part_settings.mux(settings, budgets)
    for part in ("tls", "joiner", "links", "patience", "reconciler", "service", "rpc", "forwarding", "gossip"):
        getattr(part_settings, part)(settings)


def test_there_are_numbers_to_try() -> None:
    assert len(NUMBERS) > 30


@pytest.mark.parametrize("name", NUMBERS)
def test_every_pair_of_extremes(name: str) -> None:
    """Each setting at its bounds, with each other one at its bounds."""
    for other in NUMBERS:
        for values in itertools.product(values_of(name), values_of(other)):
            build(dict(zip((name, other), values, strict=True)))


@given(st.integers(0, 1 << 32))
def test_many_at_once(seed: int) -> None:
    """A few settings, anywhere between their bounds."""
    rng = random.Random(seed)
    values: dict[str, Any] = {}
    for name in rng.sample(NUMBERS, rng.randint(2, 6)):
        lowest, *rest = values_of(name)
        highest = rest[-1] if rest else lowest
        value = lowest + (highest - lowest) * rng.random() ** 4
        values[name] = value if isinstance(lowest, float) else int(value)
    build(values)


def test_an_append_that_does_not_fit_the_window_is_refused_by_its_name() -> None:
    with pytest.raises(SettingsError, match=r"^setting append_bytes_max: .* it is above inflight_bytes_max"):
        NodeSettings(append_bytes_max=2 << 20, inflight_bytes_max=1 << 20)
