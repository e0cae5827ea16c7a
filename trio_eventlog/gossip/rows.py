"""The table of members that the failure detector keeps, and the order in which it walks through them."""

import random
from collections.abc import Callable, Mapping

import attrs

from trio_eventlog.gossip.messages import OWN_VERSIONS, Address, Alive, MemberRecord, RowStatus, Versions
from trio_eventlog.gossip.settings import DEFAULT_PORT, SwimSettings
from trio_eventlog.gossip.suspicion import Suspicion


@attrs.define(slots=True, kw_only=True)
class Row:
    """What the table knows of a member.

    Attributes:
        changed_at: when `status` last changed, by the loop's clock.
        suspicion: while SUSPECT.
    """

    name: str
    address: Address
    incarnation: int
    status: RowStatus
    changed_at: float
    meta: bytes = b""
    versions: Versions = OWN_VERSIONS
    suspicion: Suspicion | None = None

    @property
    def is_here(self) -> bool:
        """Alive, or only suspected."""
        return self.status in (RowStatus.ALIVE, RowStatus.SUSPECT)


@attrs.frozen(slots=True)
class RowJoined:
    """A row became alive that was not there, had failed or had left."""

    row: Row


@attrs.frozen(slots=True)
class RowUpdated:
    """Meta or versions of an alive row changed."""

    row: Row


@attrs.frozen(slots=True)
class RowGone:
    """A row became FAILED or LEFT."""

    row: Row


Change = RowJoined | RowUpdated | RowGone


def filled(address: Address) -> Address:
    """With the usual port where none is given."""
    return address if address.port else Address(address.host, DEFAULT_PORT)


class Table:
    """The rows by name, our own included, and the shuffled walk through them. What changes a row is in `swim.py`.

    Attributes:
        own: our own row.
        order: names in the order of the walk; may hold some that are gone.
    """

    def __init__(self, settings: SwimSettings, own: Row, rng: random.Random) -> None:
        self._gossip_to_dead_seconds = settings.gossip_to_dead_seconds
        self._rng = rng
        self.own = own
        self._rows = {own.name: own}
        self.order = [own.name]
        self._position = 0

    @property
    def rows(self) -> Mapping[str, Row]:
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, name: str) -> Row | None:
        return self._rows.get(name)

    def insert(self, message: Alive, now: float) -> Row:
        """A new row at a random place of the walk; it counts as failed until `swim.py` has applied the message."""
        row = Row(
            name=message.name,
            address=filled(message.address),
            incarnation=0,
            status=RowStatus.FAILED,
            changed_at=now,
            meta=message.meta,
            versions=message.versions,
        )
        self._rows[row.name] = row
        self.order.append(row.name)
        place = self._rng.randrange(len(self.order))
        self.order[place], self.order[-1] = self.order[-1], self.order[place]
        return row

    def forget(self, name: str) -> None:
        """Drop the row of a member that the upper layer has erased, unless it is here."""
        row = self._rows.get(name)
        if row is not None and not row.is_here and row is not self.own:
            del self._rows[name]
            # From the walk too: who comes back gets a place again, and a name with many places would be the only one probed.
            place = self.order.index(name)
            del self.order[place]
            self._position -= place < self._position

    def next_to_probe(self, now: float) -> Row | None:
        """The next row of the shuffled walk that may be pinged; at the wrap the table is cleaned and shuffled again."""
        for _ in range(2 * len(self.order) + 1):
            if self._position >= len(self.order):
                self._clean(now)
                self._rng.shuffle(self.order)
                self._position = 0
            row = self._rows.get(self.order[self._position])
            self._position += 1
            if row is not None and row.is_here and row is not self.own:
                return row
        return None

    def _clean(self, now: float) -> None:
        """Forget rows that have been gone for so long that no rumors about them are left."""
        for row in list(self._rows.values()):
            is_old = now - row.changed_at > self._gossip_to_dead_seconds
            if not row.is_here and is_old and row is not self.own:
                del self._rows[row.name]
        self.order = list(self._rows)

    def pick(self, count: int, is_wanted: Callable[[Row], bool]) -> list[Row]:
        """At most `count` random rows besides our own."""
        candidates = [row for row in self._rows.values() if row is not self.own and is_wanted(row)]
        return candidates if len(candidates) <= count else self._rng.sample(candidates, count)

    def pick_alive(self, count: int, but: str) -> list[Row]:
        """At most `count` random members that are alive, without ourselves and `but`."""
        return self.pick(count, lambda one: one.status is RowStatus.ALIVE and one.name != but)

    def has_others(self) -> bool:
        """Another member is here, or has failed so recently that it is gossiped to."""
        return len(self._rows) > 1

    def others_alive(self) -> int:
        """Members here besides ourselves."""
        return sum(row.is_here for row in self._rows.values()) - self.own.is_here

    def records(self) -> tuple[MemberRecord, ...]:
        """Our side of a push/pull."""
        return tuple(
            MemberRecord(
                name=row.name,
                address=row.address,
                incarnation=row.incarnation,
                status=row.status,
                meta=row.meta,
                versions=row.versions,
            )
            for row in self._rows.values()
        )
