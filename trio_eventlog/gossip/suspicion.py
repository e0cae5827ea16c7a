"""How long a member is suspected before it is held for failed: the more accusers, the shorter."""

import math

import attrs

from trio_eventlog.gossip.settings import SwimSettings


def suspicion_seconds_min(settings: SwimSettings, members: int) -> float:
    """The shortest suspicion in a table of `members` rows."""
    scale = max(1.0, math.log10(max(1, members)))
    return settings.suspicion_multiplier * scale * settings.probe_interval_seconds


def accusers_expected(settings: SwimSettings, members: int) -> int:
    """Number of further accusers that shorten a suspicion to its minimum; 0 when there are not that many other members."""
    expected = settings.suspicion_multiplier - 2
    return 0 if members - 2 < expected else max(0, expected)


def suspicion_seconds(accusers: int, expected: int, seconds_min: float, seconds_max: float) -> float:
    """Length of a suspicion with `accusers` further ones of `expected`."""
    if expected < 1:
        return seconds_min
    share = math.log(accusers + 1) / math.log(expected + 1)
    return max(seconds_min, seconds_max - (seconds_max - seconds_min) * share)


@attrs.define(slots=True, kw_only=True)
class Suspicion:
    """A suspicion that is neither refuted nor confirmed yet.

    Attributes:
        incarnation: of the member when it was accused.
        accusers: the first, and the further ones that counted.
    """

    started_at: float
    incarnation: int
    seconds_min: float
    seconds_max: float
    expected: int
    accusers: set[str]

    @property
    def deadline(self) -> float:
        """When the member is held for failed, by the loop's clock."""
        return self.started_at + suspicion_seconds(len(self.accusers) - 1, self.expected, self.seconds_min, self.seconds_max)

    def confirm(self, accuser: str) -> bool:
        """Count one more accuser; False when it counts for nothing."""
        if len(self.accusers) > self.expected or accuser in self.accusers:
            return False
        self.accusers.add(accuser)
        return True


def start_suspicion(settings: SwimSettings, members: int, *, accuser: str, incarnation: int, now: float) -> Suspicion:
    """A suspicion that begins now, by `accuser`."""
    seconds_min = suspicion_seconds_min(settings, members)
    return Suspicion(
        started_at=now,
        incarnation=incarnation,
        seconds_min=seconds_min,
        seconds_max=settings.suspicion_multiplier_max * seconds_min,
        expected=accusers_expected(settings, members),
        accusers={accuser},
    )
