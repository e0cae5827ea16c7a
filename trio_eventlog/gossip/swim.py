"""The failure detector: SWIM with Lifeguard's corrections, as memberlist does it. Every transition of a row is in this file.

Theory of operation. Each member keeps a table of all members. A row is ALIVE, SUSPECT, FAILED or LEFT, under an incarnation
that only the member itself raises. Messages about a member with a lower incarnation than the row's are old news. `Alive`
messages come from the member itself; `Suspect` and `Dead` from others, and a member that hears one about itself refutes it with
a higher incarnation. What changes a row is passed on as a rumor. In every probe interval one member is pinged; when it does not
answer, others are asked to ping it, and TCP is tried; when all that is in vain, it is suspected, and some seconds later,
without a refutation, held for failed.

Nothing waits here: every call takes the time `now` (seconds of any clock that never goes back) and leaves in `actions` what
should happen. The caller waits until `next_deadline` or until something arrives, then calls `wake`, hands in everything that
has arrived, and calls `tick`: in this order, so that no answer that is already here is taken for missing.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trio_eventlog.gossip.actions import Actions, Exchange
from trio_eventlog.gossip.events import LoopStalled, MemberSuspected, MergeRefused, NameConflict, SuspicionRefuted
from trio_eventlog.gossip.messages import (
    INCARNATION_MAX,
    OWN_VERSIONS,
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    MemberRecord,
    Message,
    Nack,
    Ping,
    RowStatus,
    Suspect,
    Versions,
)
from trio_eventlog.gossip.packets import PacketSender, rumor_bytes_max
from trio_eventlog.gossip.probing import Prober
from trio_eventlog.gossip.rows import Change, Row, RowGone, RowJoined, RowUpdated, Table, filled
from trio_eventlog.gossip.rumors import RumorQueue
from trio_eventlog.gossip.settings import SwimSettings
from trio_eventlog.gossip.suspicion import start_suspicion


class Swim:
    """The failure detector of one node. Owned by one task.

    Arguments:
        address: where others reach this node; both 4 or 16 bytes and the port as they shall see it.
        encode: the bytes of a message.
        actions: where wishes and events go; shared with the layer above.
        refuses: why a member of this name and meta is not of our cluster; empty when it is. Asked for every alive message.
        queues: the upper layer's rumors, sent after the table's own.

    Attributes:
        table: the rows, our own included; for reading.
        packets: makes the packets that leave; the upper layer sends by it too.
        prober: asks members whether they live.
        rumors: what is being spread about members.
        changes: rows that changed since the upper layer last emptied the list.
        counts: what has happened, by name.
    """

    def __init__(
        self,
        *,
        settings: SwimSettings,
        name: str,
        address: Address,
        meta: bytes,
        rng: random.Random,
        now: float,
        encode: Callable[[Message], bytes],
        actions: Actions,
        versions: Versions = OWN_VERSIONS,
        refuses: Callable[[str, bytes], str] = lambda name, meta: "",
        queues: Sequence[RumorQueue] = (),
    ) -> None:
        self.settings = settings
        self.name = name
        self.actions = actions
        self.changes: list[Change] = []
        self.is_leaving = False
        self.counts: Counter[str] = Counter()
        self._encode = encode
        self._refuses = refuses
        self.rumors = RumorQueue(settings.rumors_max, rumor_bytes_max(settings))
        self.own = Row(
            name=name, address=address, incarnation=1, status=RowStatus.ALIVE, changed_at=now, meta=meta, versions=versions
        )
        self.table = Table(settings, self.own, rng)
        self.packets = PacketSender(settings, table=self.table, actions=actions, encode=encode, queues=(self.rumors, *queues))
        self._suspected: dict[str, Row] = {}
        """Rows with a suspicion."""
        self._now = now
        self._promised = math.inf
        """When the caller has said that it would call again at the latest."""
        self.prober = Prober(
            settings,
            name=name,
            table=self.table,
            packets=self.packets,
            actions=actions,
            counts=self.counts,
            rng=rng,
            now=now,
            suspect=self._suspect,
        )
        self._next_gossip_at = now + rng.random() * settings.gossip_interval_seconds
        self._next_push_pull_at = now + rng.random() * self._push_pull_interval()
        self._queue_alive(self.own)

    @property
    def rows(self) -> Mapping[str, Row]:
        """The table by name, our own row included; for reading."""
        return self.table.rows

    # --- Time. ---

    def next_deadline(self) -> float:
        """When to call again at the latest. Asking is a promise: `wake` takes it for a stall when it comes much later."""
        deadline = min(self.prober.next_deadline(), self._next_push_pull_at)
        for row in self._suspected.values():
            assert row.suspicion is not None
            deadline = min(deadline, row.suspicion.deadline)
        if self.packets.has_rumors and self.table.has_others():
            deadline = min(deadline, self._next_gossip_at)
        self._promised = max(deadline, self._now)
        return deadline

    def wake(self, now: float) -> None:
        """The caller has waited. If that took much longer than planned, this process stood still: report it."""
        lateness = now - self._promised
        self._promised = math.inf
        self._now = now
        if lateness > self.settings.late_tick_seconds:
            self._recover_from_stall(lateness, now)

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._now = now
        self.prober.tick(now)
        for row in list(self._suspected.values()):
            assert row.suspicion is not None
            if row.suspicion.deadline <= now:
                self.counts["suspicions expired"] += 1
                self._dead(Dead(name=row.name, incarnation=row.incarnation, accuser=self.name), now)
        if now >= self._next_push_pull_at:
            self._next_push_pull_at = now + self._push_pull_interval()
            self._start_push_pull()
        if now >= self._next_gossip_at and self.packets.has_rumors:
            self._next_gossip_at = now + self.settings.gossip_interval_seconds
            self.packets.gossip(now)

    def _recover_from_stall(self, lateness: float, now: float) -> None:
        """We stood still (stopped, suspended, a blocked loop): silence meanwhile proves nothing about others."""
        self.counts["stalls"] += 1
        self.actions.events.append(LoopStalled(lateness))
        self.prober.change_health(1)
        for row in self._suspected.values():
            assert row.suspicion is not None
            row.suspicion.started_at += lateness
        self.prober.start_over(now)

    # --- Messages. ---

    def receive(self, message: Message, source: Address, now: float) -> None:
        """Act on a message of a packet that came from `source`. Messages of the upper layer are not for here."""
        match message:
            case Ack():
                self.prober.ack(message.sequence, now)
            case Ping():
                self.prober.answer_ping(message, source)
            case Alive():
                self.alive(message, now)
            case Suspect():
                self._suspect(message, now)
            case Dead():
                self._dead(message, now)
            case IndirectPing():
                self.prober.relay_ping(message, source, now)
            case Nack():
                self.prober.nack(message.sequence)
            case _:
                raise AssertionError(f"{type(message).__name__} is the upper layer's")

    # --- The rules of rows. ---

    def alive(self, message: Alive, now: float) -> None:
        """A member says that it lives, and where."""
        if message.versions.protocol_min == 0 or not 0 < message.versions.protocol_min <= message.versions.protocol_max:
            self.counts["alive without versions"] += 1
            return
        is_own = message.name == self.name
        if is_own and self.is_leaving:
            return
        address = filled(message.address)
        row = self.table.get(message.name)
        if row is not None and not is_own and message.incarnation <= row.incarnation and address == row.address:
            return
        if not is_own and (reason := self._refuses(message.name, message.meta)):
            self.counts["alive of another cluster"] += 1
            self.actions.events.append(MergeRefused(reason))
            return
        moves = False
        if row is None:
            if message.incarnation == 0 or not self._has_room(message.name):
                return
            row = self.table.insert(message, now)
        elif address != row.address:
            moves = self._may_move(row, now)
            if not moves:
                self.counts["conflicts"] += 1
                self.actions.events.append(
                    NameConflict(name=row.name, known_address=row.address, other_address=address, is_own=is_own)
                )
                return
        if is_own:
            self._alive_own(message)
            return
        if message.incarnation <= row.incarnation and not moves:
            return
        self._end_suspicion(row)
        was_here = row.is_here
        has_changed = row.meta != message.meta or row.versions != message.versions
        row.incarnation = message.incarnation
        row.address = address
        row.meta = message.meta
        row.versions = message.versions
        if row.status is not RowStatus.ALIVE:
            row.status = RowStatus.ALIVE
            row.changed_at = now
        self.rumors.add(self._encode(message), row.name)
        if not was_here:
            self.changes.append(RowJoined(row))
        elif has_changed:
            self.changes.append(RowUpdated(row))

    def _alive_own(self, message: Alive) -> None:
        own = self.own
        if message.incarnation < own.incarnation:
            return
        is_same = message.meta == own.meta and message.versions == own.versions
        if message.incarnation == own.incarnation and is_same:
            return
        self._refute(message.incarnation)

    def _may_move(self, row: Row, now: float) -> bool:
        if row.status is RowStatus.LEFT:
            return True
        reclaim = self.settings.reclaim_seconds
        return row.status is RowStatus.FAILED and 0 < reclaim < now - row.changed_at

    def _has_room(self, name: str) -> bool:
        if len(self.table) < self.settings.members_max:
            return True
        self.counts["members over the limit"] += 1
        self.actions.events.append(MergeRefused(f"no room for {name!r}: {len(self.table)} members already"))
        return False

    def _suspect(self, message: Suspect, now: float) -> None:
        row = self.table.get(message.name)
        if row is None or message.incarnation < row.incarnation:
            self._repeat_refutation(message.name)
            return
        if row.suspicion is not None:
            if row.suspicion.confirm(message.accuser):
                self.rumors.add(self._encode(message), row.name)
            return
        if row.status is not RowStatus.ALIVE:
            return
        if row is self.own:
            self._refute(message.incarnation)
            return
        self.rumors.add(self._encode(message), row.name)
        row.incarnation = message.incarnation
        row.status = RowStatus.SUSPECT
        row.changed_at = now
        row.suspicion = start_suspicion(
            self.settings, len(self.table), accuser=message.accuser, incarnation=message.incarnation, now=now
        )
        self._suspected[row.name] = row
        self.counts["suspicions"] += 1
        self.actions.events.append(MemberSuspected(row.name, message.accuser))

    def _dead(self, message: Dead, now: float) -> None:
        row = self.table.get(message.name)
        if row is None or message.incarnation < row.incarnation:
            self._repeat_refutation(message.name)
            return
        self._end_suspicion(row)
        if not row.is_here:
            return
        if row is self.own and not self.is_leaving:
            self._refute(message.incarnation)
            return
        self.rumors.add(self._encode(message), row.name)
        row.incarnation = message.incarnation
        row.status = RowStatus.LEFT if message.accuser == message.name else RowStatus.FAILED
        row.changed_at = now
        self.changes.append(RowGone(row))

    def _end_suspicion(self, row: Row) -> None:
        row.suspicion = None
        self._suspected.pop(row.name, None)

    def _refute(self, accused_incarnation: int) -> None:
        own = self.own
        # At the largest incarnation there is nothing left to say; only a forged message leads there.
        own.incarnation = min(max(own.incarnation, accused_incarnation) + 1, INCARNATION_MAX)
        self.prober.change_health(1)
        self.counts["refutations"] += 1
        self.actions.events.append(SuspicionRefuted(own.incarnation))
        self._queue_alive(own)

    def _repeat_refutation(self, name: str) -> None:
        """An accusation of ourselves that was refuted already: its sender has not received the refutation, so send it again.

        memberlist stays silent here, and a lost refutation is lost. Rumors end by themselves, and so does this.
        """
        if name == self.name and not self.is_leaving and name not in self.rumors:
            self.counts["refutations repeated"] += 1
            self._queue_alive(self.own)

    def _queue_alive(self, row: Row) -> None:
        alive = Alive(name=row.name, incarnation=row.incarnation, address=row.address, meta=row.meta, versions=row.versions)
        self.rumors.add(self._encode(alive), row.name)

    # --- Requests. ---

    def set_meta(self, meta: bytes) -> None:
        """Publish other meta."""
        self.own.meta = meta
        self.own.incarnation = min(self.own.incarnation + 1, INCARNATION_MAX)
        self._queue_alive(self.own)

    def leave(self, now: float) -> None:
        """Announce that this node leaves; it still answers."""
        self.is_leaving = True
        self._dead(Dead(name=self.name, incarnation=self.own.incarnation, accuser=self.name), now)

    # --- Push/pull. ---

    def why_not_merge(self, records: Iterable[MemberRecord]) -> str:
        """Why these records cannot be merged with our table; empty when they can."""
        theirs = [record for record in records if record.status is RowStatus.ALIVE]
        for record in theirs:
            if record.name != self.name and (reason := self._refuses(record.name, record.meta)):
                return reason
        known = [(record.name, record.versions) for record in theirs]
        known += [(row.name, row.versions) for row in self.rows.values() if row.is_here]
        if not known:
            return ""
        protocol_min = max(versions.protocol_min for _, versions in known)
        protocol_max = min(versions.protocol_max for _, versions in known)
        layer_min = max(versions.layer_min for _, versions in known)
        layer_max = min(versions.layer_max for _, versions in known)
        for name, versions in known:
            if not protocol_min <= versions.protocol <= protocol_max:
                return f"{name!r} uses protocol {versions.protocol}, all understand {protocol_min} to {protocol_max}"
            if not layer_min <= versions.layer <= layer_max:
                return f"{name!r} uses layer protocol {versions.layer}, all understand {layer_min} to {layer_max}"
        return ""

    def merge(self, records: Iterable[MemberRecord], now: float) -> None:
        """Take over what another table says. Even its dead are only suspected: they get the chance to refute."""
        for record in records:
            if record.status is RowStatus.ALIVE:
                alive = Alive(
                    name=record.name,
                    incarnation=record.incarnation,
                    address=record.address,
                    meta=record.meta,
                    versions=record.versions,
                )
                self.alive(alive, now)
            elif record.status is RowStatus.LEFT:
                self._dead(Dead(name=record.name, incarnation=record.incarnation, accuser=record.name), now)
            else:
                self._suspect(Suspect(name=record.name, incarnation=record.incarnation, accuser=self.name), now)

    def _push_pull_interval(self) -> float:
        members = len(self.table)
        scale = 1 if members <= 32 else math.ceil(math.log2(members) - 5) + 1
        return self.settings.push_pull_interval_seconds * scale

    def _start_push_pull(self) -> None:
        if self.is_leaving:
            return
        for row in self.table.pick(1, lambda one: one.status is RowStatus.ALIVE):
            self.counts["exchanges"] += 1
            self.actions.exchanges.append(Exchange(address=row.address, name=row.name))
