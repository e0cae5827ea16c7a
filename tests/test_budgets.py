"""What a node may use is divided when it starts: the parts fit into the whole, whatever the whole is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.budgets import DESCRIPTORS_MIN, Allowance, divide_descriptors
from trio_eventlog.errors import SettingsError


@given(
    st.integers(0, 1 << 21),
    st.none() | st.integers(1, 1 << 20),
    st.none() | st.integers(8, 100_000),
    st.integers(1, 10_000),
    st.integers(1, 1 << 20),
)
def test_the_parts_never_exceed_the_whole(
    limit: int, clients: int | None, peers: int | None, probes: int, unidentified: int
) -> None:
    """Nothing is promised twice; what a setting says is kept; each part is enough to work with, or the start is refused."""
    try:
        budgets = divide_descriptors(
            limit,
            inbound_clients_max=clients,
            inbound_peers_max=peers,
            inbound_probes_max=probes,
            inbound_unidentified_max=unidentified,
        )
    except SettingsError:
        return
    parts = (
        budgets.own,
        budgets.partitions,
        budgets.segments,
        budgets.peers,
        budgets.probes,
        budgets.unidentified,
        budgets.clients,
    )
    assert sum(parts) <= limit
    assert min(parts) >= 1
    assert budgets.partitions_max >= 4
    assert clients in (None, budgets.clients)
    assert peers in (None, budgets.peers)
    assert budgets.unidentified <= unidentified


@given(st.integers(DESCRIPTORS_MIN, 1 << 21))
def test_the_defaults_work_with_every_limit(limit: int) -> None:
    """From the smallest limit on, files get the most, and clients as many as peers at least."""
    budgets = divide_descriptors(limit)
    assert budgets.partitions >= budgets.clients * 0.9
    assert budgets.clients * 2 >= budgets.peers


@pytest.mark.parametrize(("limit", "partitions", "clients"), [(256, 48, 62), (1024, 227, 297), (1 << 20, 455_000, 4096)])
def test_usual_limits(limit: int, partitions: int, clients: int) -> None:
    """What the guide tells."""
    budgets = divide_descriptors(limit)
    assert budgets.clients == clients
    assert budgets.partitions_max == partitions or budgets.partitions_max > partitions > 1000
    assert f"{clients} for clients" in str(budgets)


def test_too_few_to_work_with_is_refused_in_words() -> None:
    """The limit of the process, or a setting that leaves nothing: said before anything starts."""
    with pytest.raises(SettingsError, match="ulimit -n"):
        divide_descriptors(DESCRIPTORS_MIN - 1)
    with pytest.raises(SettingsError, match="inbound_clients_max"):
        divide_descriptors(1024, inbound_clients_max=1000)


def test_an_allowance_is_never_overdrawn() -> None:
    """At the limit all of it can be taken, and nothing more until something is given back."""
    allowance = Allowance("bytes", 10)
    assert allowance.take_nowait(10)
    assert not allowance.take_nowait(1)
    allowance.give_back(1)
    assert allowance.take_nowait(1)
    assert (allowance.use().used, allowance.use().refused) == (10, 1)
