"""Many seeds of a simulation, on every core, and what they have reached.

    python -m trio_eventlog.testing.campaign cores=2000 nodes=300            # before a release
    python -m trio_eventlog.testing.campaign [cores] [nodes] --seeds 2000 --first-seed 0 --workers 2

Ends with 1 when a seed failed, or when enough of them ran and one of the marks was never reached: a rare branch that
this number of seeds takes as long as the faults still have their effect.
"""

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context

import attrs

FAILURES_SHOWN_MAX = 10


@attrs.frozen(slots=True, kw_only=True)
class Kind:
    """A simulation that can be run by seed.

    Attributes:
        module: has `run_seed(seed)`, whose result has `counts`, and `MARKS`: which of them must not stay 0.
        marked_seeds_min: the number of seeds after which each mark must have been reached.
        replay: the command that runs one seed again, but for the seed.
    """

    module: str
    marked_seeds_min: int
    replay: str


KINDS = {
    "cores": Kind(
        module="trio_eventlog.testing.core_simulator",
        marked_seeds_min=200,
        replay="python -m trio_eventlog.testing.core_simulator --seed",
    ),
    "nodes": Kind(
        module="trio_eventlog.testing.node_simulator",
        marked_seeds_min=100,
        replay="python -m trio_eventlog.testing.node_simulator",
    ),
}


@attrs.define(slots=True, kw_only=True)
class Outcome:
    """What a campaign of one kind has shown.

    Attributes:
        counts: of all seeds that passed.
        failures: by seed, what went wrong.
        seconds: that it took, of the wall clock.
        unreached: marks that no seed has reached; empty when too few ran.
    """

    seeds: int
    counts: Counter[str] = attrs.field(factory=Counter)
    failures: dict[int, str] = attrs.field(factory=dict)
    seconds: float = 0.0
    unreached: list[str] = attrs.field(factory=list)

    @property
    def is_good(self) -> bool:
        return not self.failures and not self.unreached


def run_campaign(kind: Kind, seeds: range, workers: int, say: Callable[[str], object]) -> Outcome:
    """Run all seeds in worker processes, many seeds each; `say` is called with each failure as it happens."""
    outcome = Outcome(seeds=len(seeds))
    began = time.monotonic()
    # Fresh processes: a fork would share what this one has open, and a test run has much.
    with ProcessPoolExecutor(workers, get_context("spawn"), logging.disable, (logging.CRITICAL,)) as pool:
        for seed, counts, failure in pool.map(_run_seed, [kind.module] * len(seeds), seeds):
            if failure:
                outcome.failures[seed] = failure
                if len(outcome.failures) <= FAILURES_SHOWN_MAX:
                    say(f"{failure}\nagain: {kind.replay} {seed}")
            outcome.counts.update(counts)
    outcome.seconds = time.monotonic() - began
    if len(seeds) >= kind.marked_seeds_min:
        outcome.unreached = [mark for mark in import_module(kind.module).MARKS if not outcome.counts[mark]]
    return outcome


def _run_seed(module: str, seed: int) -> tuple[int, Counter[str], str]:
    try:
        return seed, Counter(import_module(module).run_seed(seed).counts), ""
    except Exception as error:
        # It is what the campaign is there to find, of whatever type; the traceback comes with the replay.
        return seed, Counter(), f"seed {seed}: {type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run many seeds of a simulation.")
    kinds_help = f"{' or '.join(KINDS)}, with a number of seeds of its own as in cores=2000; all of them by default"
    parser.add_argument("kinds", nargs="*", type=_kind, metavar="KIND[=N]", help=kinds_help)
    parser.add_argument("--seeds", type=int, default=100, help="number of seeds of each kind (%(default)s)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first one (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s, the cores of this machine)"
    )
    options = parser.parse_args(arguments)
    is_good = True
    for name, count in options.kinds or [(name, None) for name in KINDS]:
        seeds = range(options.first_seed, options.first_seed + (count or options.seeds))
        outcome = run_campaign(KINDS[name], seeds, options.workers, _say)
        is_good &= outcome.is_good
        for what, times in sorted(outcome.counts.items()):
            _say(f"{times:12} {what}")
        _say(
            f"{name}: {outcome.seeds} seeds from {options.first_seed} in {outcome.seconds:.1f} s,"
            f" {outcome.seeds / outcome.seconds:.2f} a second, {len(outcome.failures)} failed"
            + (f": {sorted(outcome.failures)}" if outcome.failures else "")
        )
        if outcome.unreached:
            _say(f"{name}: never reached: {', '.join(outcome.unreached)}")
    return 0 if is_good else 1


def _kind(text: str) -> tuple[str, int | None]:
    name, _, number = text.partition("=")
    if name not in KINDS:
        raise argparse.ArgumentTypeError(f"{name}: there are {' and '.join(KINDS)}")
    if not number:
        return name, None
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text}: {number!r} is no number of seeds")
    return name, int(number)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
