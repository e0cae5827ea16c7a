"""What is being spread: rumors, and who may be sent how often."""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable

import attrs


def transmissions_max(multiplier: int, members: int) -> int:
    """How often one rumor is sent in a table of `members` rows."""
    return multiplier * math.ceil(math.log10(members + 1))


@attrs.define(slots=True)
class _Rumor:
    body: bytes
    key: str | None
    number: int
    transmissions: int = 0

    def rank(self) -> tuple[int, int, int]:
        """Fewest transmissions first, then longest, then newest."""
        return self.transmissions, -len(self.body), -self.number


class RumorQueue:
    """Rumors of one kind. A rumor with a key replaces the older one of the same key.

    Arguments:
        rumors_max: when there are more, the most sent is dropped.
        body_bytes_max: longer ones would fit no packet and stay for ever; they are dropped at once.
    """

    def __init__(self, rumors_max: int, body_bytes_max: int) -> None:
        self._rumors_max = rumors_max
        self._body_bytes_max = body_bytes_max
        self._rumors: list[_Rumor] = []
        """By rank, always: strangers can fill the queue, and each step of theirs should be cheap then."""
        self._by_key: dict[str, _Rumor] = {}
        self._numbers = 0
        self.dropped = 0
        """Rumors given up because they or the queue were too long."""

    def __len__(self) -> int:
        return len(self._rumors)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def add(self, body: bytes, key: str | None = None) -> None:
        """Spread `body`."""
        if len(body) > self._body_bytes_max:
            self.dropped += 1
            return
        if key is not None and (older := self._by_key.pop(key, None)) is not None:
            self._remove(older)
        elif len(self._rumors) >= self._rumors_max:
            self._forget(self._rumors.pop())
            self.dropped += 1
        self._numbers += 1
        rumor = _Rumor(body, key, self._numbers)
        insort(self._rumors, rumor, key=_Rumor.rank)
        if key is not None:
            self._by_key[key] = rumor

    def take(self, bytes_left: int, count_left: int, transmissions: int, overhead_bytes: int = 2) -> tuple[list[bytes], int]:
        """Rumors for one packet, and the bytes left after them; each costs `overhead_bytes` more than its own.

        A rumor that has been sent `transmissions` times is forgotten.
        """
        taken: list[_Rumor] = []
        for rumor in self._rumors:
            if bytes_left <= overhead_bytes or len(taken) >= count_left:
                break
            cost = len(rumor.body) + overhead_bytes
            if cost <= bytes_left:
                bytes_left -= cost
                taken.append(rumor)
        for rumor in taken:
            self._remove(rumor)
            rumor.transmissions += 1
            if rumor.transmissions < transmissions:
                insort(self._rumors, rumor, key=_Rumor.rank)
            else:
                self._forget(rumor)
        return [rumor.body for rumor in taken], bytes_left

    def _remove(self, rumor: _Rumor) -> None:
        del self._rumors[bisect_left(self._rumors, rumor.rank(), key=_Rumor.rank)]

    def _forget(self, rumor: _Rumor) -> None:
        if rumor.key is not None and self._by_key.get(rumor.key) is rumor:
            del self._by_key[rumor.key]


def take_rumors(queues: Iterable[RumorQueue], bytes_left: int, count_left: int, members: int, multiplier: int) -> list[bytes]:
    """Rumors for one packet, from the first queue first."""
    taken: list[bytes] = []
    transmissions = transmissions_max(multiplier, members)
    for queue in queues:
        (more, bytes_left) = queue.take(bytes_left, count_left - len(taken), transmissions)
        taken += more
    return taken
