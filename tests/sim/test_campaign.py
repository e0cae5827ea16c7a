"""The runner of many seeds: it tells failures, and marks that were never reached."""

import sys
from pathlib import Path

import pytest

from trio_eventlog.testing import campaign
from trio_eventlog.testing.campaign import KINDS, Kind, run_campaign

SIMULATION = """
from collections import Counter
from types import SimpleNamespace

MARKS = ("even", "never")

def run_seed(seed):
    if seed == 5:
        raise AssertionError("five")
    return SimpleNamespace(counts=Counter({"even": seed % 2 == 0, "runs": 1}))
"""


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A simulation whose fifth seed fails, found by the processes too."""
    (tmp_path / "small_simulation.py").write_text(SIMULATION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["campaign"])
    return Kind(module="small_simulation", marked_seeds_min=8, replay="again")


def test_what_failed_and_what_was_reached(kind: Kind) -> None:
    """Counts are summed, failures have their seed and their command, a mark that no seed reached is named."""
    said: list[str] = []
    outcome = run_campaign(kind, range(8), 2, said.append)
    assert outcome.failures == {5: "seed 5: AssertionError: five"}
    assert said == ["seed 5: AssertionError: five\nagain: again 5"]
    assert (outcome.counts["runs"], outcome.counts["even"]) == (7, 4)
    assert outcome.unreached == ["never"]
    assert not outcome.is_good


def test_few_seeds_need_not_reach_everything(kind: Kind) -> None:
    """Marks are for many seeds."""
    outcome = run_campaign(kind, range(4), 1, print)
    assert outcome.unreached == []
    assert outcome.is_good


def test_the_command_says_by_its_end_whether_all_was_well(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For those who run it in a script."""
    monkeypatch.setitem(KINDS, "small", kind)
    assert campaign.main(["small", "--seeds", "4", "--workers", "1"]) == 0
    assert campaign.main(["small", "--seeds", "2", "--first-seed", "5", "--workers", "1"]) == 1
    assert "again: again 5" in capsys.readouterr().out
    assert campaign.main(["small", "--seeds", "4", "--first-seed", "6", "--workers", "1"]) == 0
    capsys.readouterr()
    assert campaign.main(["small=2", "small", "--seeds", "3", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "small: 2 seeds from 0" in printed
    assert "small: 3 seeds from 0" in printed
    for wrong in ("small=0", "small=x", "small=-1"):
        with pytest.raises(SystemExit):
            campaign.main([wrong])
    with pytest.raises(SystemExit):
        campaign.main(["smaller"])


@pytest.mark.parametrize("name", ["cores", "nodes"])
def test_the_kinds_there_are(name: str) -> None:
    """One seed of each, in a process of its own."""
    outcome = run_campaign(KINDS[name], range(1, 2), 1, print)
    assert outcome.failures == {}
    assert outcome.counts
