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

import attrs

from trio_eventlog.gossip.actions import Actions, Datagram, Exchange, StreamPing
from trio_eventlog.gossip.events import (
    LoopStalled,
    MemberSuspected,
    MergeRefused,
    NameConflict,
    OnlyStreamsWork,
    SuspicionRefuted,
)
from trio_eventlog.gossip.messages import (
    CRC_PROTOCOL,
    INCARNATION_MAX,
    NACK_PROTOCOL,
    OWN_VERSIONS,
    SEQUENCE_MAX,
    TCP_PING_PROTOCOL,
    Ack,
    Address,
    Alive,
    Dead,
    IndirectPing,
    MemberRecord,
    Message,
    Nack,
    Ping,
    Status,
    Suspect,
    Versions,
)
from trio_eventlog.gossip.rumors import RumorQueue, take_rumors
from trio_eventlog.gossip.settings import DEFAULT_PORT, SwimSettings
from trio_eventlog.gossip.suspicion import Suspicion, start_suspicion

COMPOUND_BYTES = 2
MESSAGES_MAX = 255
"""In one packet."""


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
    status: Status
    changed_at: float
    meta: bytes = b""
    versions: Versions = OWN_VERSIONS
    suspicion: Suspicion | None = None

    @property
    def is_here(self) -> bool:
        """Alive, as far as anybody knows for sure."""
        return self.status in (Status.ALIVE, Status.SUSPECT)


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


@attrs.define(slots=True, kw_only=True)
class _Probe:
    """The ping under way."""

    name: str
    sequence: int
    started_at: float
    timeout_at: float
    ends_at: float
    is_indirect: bool = False
    """Others have been asked."""
    nacks_expected: int = 0
    nacks_received: int = 0


@attrs.define(slots=True, kw_only=True)
class _Relay:
    """A ping under way for another member."""

    asker: Address
    sequence: int
    nack_at: float
    """Infinite when no nack is wanted, or one was sent."""
    ends_at: float


class Swim:
    """The failure detector of one node. Owned by one task.

    Arguments:
        address: where others reach this node; both 4 or 16 bytes and the port as they shall see it.
        encode: the bytes of a message.
        actions: where wishes and events go; shared with the layer above.
        refuses: why a member of this name and meta is not of our cluster; empty when it is. Asked for every alive message.
        queues: the upper layer's rumors, sent after the table's own.

    Attributes:
        rows: the table by name, our own row included; for reading.
        changes: rows that changed since the upper layer last emptied the list.
        ack_payload: sent with every ack.
        health: 0 (well) up to the settings' maximum less one.
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
        self.ack_payload = b""
        self.health = 0
        self.is_leaving = False
        self.counts: Counter[str] = Counter()
        self.last_round_trip_seconds: float | None = None
        self._rng = rng
        self._encode = encode
        self._refuses = refuses
        self.rumors = RumorQueue(settings.rumors_max, rumor_bytes_max(settings))
        self._queues: tuple[RumorQueue, ...] = (self.rumors, *queues)
        own = Row(name=name, address=address, incarnation=1, status=Status.ALIVE, changed_at=now, meta=meta, versions=versions)
        self.own = own
        self._rows = {name: own}
        self._order = [name]
        """Names in the order of the probe walk; may hold some that are gone."""
        self._position = 0
        self._sequence = rng.getrandbits(16)
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}
        self._suspected: dict[str, Row] = {}
        """Rows with a suspicion."""
        self._now = now
        self._promised = math.inf
        """When the caller has said that it would call again at the latest."""
        # All loops begin somewhere in their first interval, so that nodes started together do not act together.
        self._next_probe_at = now + rng.random() * settings.probe_interval_seconds
        self._next_gossip_at = now + rng.random() * settings.gossip_interval_seconds
        self._next_push_pull_at = now + rng.random() * self._push_pull_interval()
        self._queue_alive(own)

    @property
    def rows(self) -> Mapping[str, Row]:
        return self._rows

    # --- Time. ---

    def next_deadline(self) -> float:
        """When to call again at the latest. Asking is a promise: `wake` takes it for a stall when it comes much later."""
        if self._probe is None:
            deadline = self._next_probe_at
        else:
            deadline = self._probe.ends_at if self._probe.is_indirect else self._probe.timeout_at
        deadline = min(deadline, self._next_push_pull_at)
        for relay in self._relays.values():
            deadline = min(deadline, relay.nack_at, relay.ends_at)
        for row in self._suspected.values():
            assert row.suspicion is not None
            deadline = min(deadline, row.suspicion.deadline)
        if any(self._queues) and self.has_others():
            deadline = min(deadline, self._next_gossip_at)
        self._promised = max(deadline, self._now)
        return deadline

    def wake(self, now: float) -> None:
        """The caller goes on after a wait. Was it so long that this process must have stood still?"""
        lateness = now - self._promised
        self._promised = math.inf
        self._now = now
        if lateness > self.settings.stall_seconds:
            self._recover_from_stall(lateness, now)

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._now = now
        self._tick_relays(now)
        self._tick_probe(now)
        for row in list(self._suspected.values()):
            assert row.suspicion is not None
            if row.suspicion.deadline <= now:
                self.counts["suspicions expired"] += 1
                self._dead(Dead(name=row.name, incarnation=row.incarnation, accuser=self.name), now)
        if now >= self._next_push_pull_at:
            self._next_push_pull_at = now + self._push_pull_interval()
            self._start_push_pull()
        if now >= self._next_gossip_at and any(self._queues):
            self._next_gossip_at = now + self.settings.gossip_interval_seconds
            self._gossip(now)

    def _recover_from_stall(self, lateness: float, now: float) -> None:
        """We stood still (stopped, suspended, a blocked loop): silence meanwhile proves nothing about others."""
        self.counts["stalls"] += 1
        self.actions.events.append(LoopStalled(lateness))
        self._change_health(1)
        for row in self._suspected.values():
            assert row.suspicion is not None
            row.suspicion.started_at += lateness
        if self._probe is not None:
            self._probe = None
            self._next_probe_at = now
        self._relays.clear()

    # --- Messages. ---

    def receive(self, message: Message, source: Address, now: float) -> None:
        """Act on a message of a packet that came from `source`. Messages of the upper layer are not for here."""
        match message:
            case Ack():
                self._ack(message.sequence, now)
            case Ping():
                self._answer_ping(message, source)
            case Alive():
                self.alive(message, now)
            case Suspect():
                self._suspect(message, now)
            case Dead():
                self._dead(message, now)
            case IndirectPing():
                self._relay_ping(message, source, now)
            case Nack():
                probe = self._probe
                if probe is not None and probe.sequence == message.sequence:
                    probe.nacks_received = min(probe.nacks_received + 1, probe.nacks_expected)
            case _:
                raise AssertionError(f"{type(message).__name__} is the upper layer's")

    def is_for_us(self, ping: Ping) -> bool:
        """A ping that names another node reached a reused address: answering would keep a dead member alive."""
        return not ping.target or ping.target == self.name

    def _answer_ping(self, ping: Ping, source: Address) -> None:
        if not self.is_for_us(ping):
            self.counts["pings for others"] += 1
            return
        self._send(self._filled(ping.source or source), Ack(ping.sequence, self.ack_payload))

    def _relay_ping(self, request: IndirectPing, source: Address, now: float) -> None:
        if len(self._relays) >= self.settings.relays_max:
            self.counts["relays refused"] += 1
            return
        sequence = self._next_sequence()
        self._relays[sequence] = _Relay(
            asker=self._filled(request.source or source),
            sequence=request.sequence,
            nack_at=now + self.settings.probe_timeout_seconds if request.wants_nack else math.inf,
            ends_at=now + self.settings.probe_interval_seconds,
        )
        self.counts["relays"] += 1
        self._send(self._filled(request.address), self._ping(sequence, request.target))

    def _tick_relays(self, now: float) -> None:
        for sequence, relay in list(self._relays.items()):
            if relay.nack_at <= now:
                relay.nack_at = math.inf
                self._send(relay.asker, Nack(relay.sequence))
            if relay.ends_at <= now:
                del self._relays[sequence]

    # --- Probing. ---

    def stream_ack(self, sequence: int, now: float) -> None:
        """A `StreamPing` was answered."""
        probe = self._probe
        if probe is not None and probe.sequence == sequence:
            self.counts["probes saved by streams"] += 1
            self.actions.events.append(OnlyStreamsWork(probe.name))
            self._probe_answered(probe, now)

    def _ack(self, sequence: int, now: float) -> None:
        probe = self._probe
        if probe is not None and probe.sequence == sequence:
            if not probe.is_indirect:
                self.last_round_trip_seconds = now - probe.started_at
            self._probe_answered(probe, now)
        elif (relay := self._relays.pop(sequence, None)) is not None:
            self._send(relay.asker, Ack(relay.sequence))

    def _probe_answered(self, probe: _Probe, now: float) -> None:
        self._change_health(-1)
        self._end_probe(probe, now)

    def _end_probe(self, probe: _Probe, now: float) -> None:
        self._probe = None
        self._next_probe_at = max(probe.started_at + self.settings.probe_interval_seconds, now)

    def _tick_probe(self, now: float) -> None:
        probe = self._probe
        if probe is not None and not probe.is_indirect and probe.timeout_at <= now:
            self._probe_by_others(probe, now)
        if probe is not None and probe.ends_at <= now:
            self._probe_failed(probe, now)
        if self._probe is None and self._next_probe_at <= now:
            self._start_probe(now)

    def _start_probe(self, now: float) -> None:
        settings = self.settings
        row = self._next_to_probe(now)
        if row is None:
            self._next_probe_at = now + settings.probe_interval_seconds
            return
        self.counts["probes"] += 1
        probe = _Probe(
            name=row.name,
            sequence=self._next_sequence(),
            started_at=now,
            timeout_at=now + settings.probe_timeout_seconds,
            ends_at=now + settings.probe_interval_seconds * (self.health + 1),
        )
        self._probe = probe
        ping = self._ping(probe.sequence, row.name)
        if row.status is Status.SUSPECT:
            # With the accusation beside the ping it can refute at once, and not only when a rumor reaches it.
            accusation = Suspect(name=row.name, incarnation=row.incarnation, accuser=self.name)
            self._send(row.address, ping, accusation, with_checksum=_knows_checksums(row))
        else:
            self._send(row.address, ping)

    def _next_to_probe(self, now: float) -> Row | None:
        """The next row of the shuffled walk that may be pinged; at the wrap the table is cleaned and shuffled again."""
        for _ in range(2 * len(self._order) + 1):
            if self._position >= len(self._order):
                self._clean(now)
                self._rng.shuffle(self._order)
                self._position = 0
            row = self._rows.get(self._order[self._position])
            self._position += 1
            if row is not None and row.is_here and row is not self.own:
                return row
        return None

    def _clean(self, now: float) -> None:
        """Forget rows that are gone for so long that nobody is gossiping about them any more."""
        for row in list(self._rows.values()):
            is_old = now - row.changed_at > self.settings.gossip_to_dead_seconds
            if not row.is_here and is_old and row is not self.own:
                del self._rows[row.name]
        self._order = list(self._rows)

    def _probe_by_others(self, probe: _Probe, now: float) -> None:
        """No answer in time: ask some others to try, and try TCP."""
        settings = self.settings
        probe.is_indirect = True
        # When we are late ourselves, the others still get their time.
        usual = settings.probe_interval_seconds - settings.probe_timeout_seconds
        probe.ends_at = max(probe.ends_at, now + min(usual, settings.probe_timeout_seconds))
        row = self._rows.get(probe.name)
        if row is None:
            return
        helpers = self._pick(settings.indirect_probes, lambda one: one.status is Status.ALIVE and one is not row)
        for helper in helpers:
            wants_nack = helper.versions.protocol_max >= NACK_PROTOCOL
            probe.nacks_expected += wants_nack
            request = IndirectPing(
                sequence=probe.sequence,
                target=row.name,
                address=row.address,
                wants_nack=wants_nack,
                source=self.own.address,
                source_name=self.name,
            )
            self._send(helper.address, request)
        self.counts["indirect pings"] += len(helpers)
        if row.versions.protocol_max >= TCP_PING_PROTOCOL:
            self.actions.stream_pings.append(StreamPing(address=row.address, name=row.name, sequence=probe.sequence))

    def _probe_failed(self, probe: _Probe, now: float) -> None:
        """Missing nacks say that the fault is on our side."""
        self.counts["probes failed"] += 1
        self._change_health(probe.nacks_expected - probe.nacks_received if probe.nacks_expected else 1)
        self._end_probe(probe, now)
        row = self._rows.get(probe.name)
        if row is not None:
            self._suspect(Suspect(name=row.name, incarnation=row.incarnation, accuser=self.name), now)

    def _change_health(self, delta: int) -> None:
        self.health = min(max(self.health + delta, 0), self.settings.health_score_max - 1)

    # --- The rules of rows. ---

    def alive(self, message: Alive, now: float) -> None:
        """A member says that it lives, and where."""
        if message.versions.protocol_min == 0 or not 0 < message.versions.protocol_min <= message.versions.protocol_max:
            self.counts["alive without versions"] += 1
            return
        is_own = message.name == self.name
        if is_own and self.is_leaving:
            return
        address = self._filled(message.address)
        row = self._rows.get(message.name)
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
            row = self._insert(message, now)
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
        if row.status is not Status.ALIVE:
            row.status = Status.ALIVE
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
        if row.status is Status.LEFT:
            return True
        reclaim = self.settings.reclaim_seconds
        return row.status is Status.FAILED and 0 < reclaim < now - row.changed_at

    def _has_room(self, name: str) -> bool:
        if len(self._rows) < self.settings.members_max:
            return True
        self.counts["members over the limit"] += 1
        self.actions.events.append(MergeRefused(f"no room for {name!r}: {len(self._rows)} members already"))
        return False

    def _insert(self, message: Alive, now: float) -> Row:
        """A new row at a random place of the walk, failed as long as nobody has said otherwise."""
        row = Row(
            name=message.name,
            address=self._filled(message.address),
            incarnation=0,
            status=Status.FAILED,
            changed_at=now,
            meta=message.meta,
            versions=message.versions,
        )
        self._rows[row.name] = row
        self._order.append(row.name)
        place = self._rng.randrange(len(self._order))
        self._order[place], self._order[-1] = self._order[-1], self._order[place]
        return row

    def _suspect(self, message: Suspect, now: float) -> None:
        row = self._rows.get(message.name)
        if row is None or message.incarnation < row.incarnation:
            self._repeat_refutation(message.name)
            return
        if row.suspicion is not None:
            if row.suspicion.confirm(message.accuser):
                self.rumors.add(self._encode(message), row.name)
            return
        if row.status is not Status.ALIVE:
            return
        if row is self.own:
            self._refute(message.incarnation)
            return
        self.rumors.add(self._encode(message), row.name)
        row.incarnation = message.incarnation
        row.status = Status.SUSPECT
        row.changed_at = now
        row.suspicion = start_suspicion(
            self.settings, len(self._rows), accuser=message.accuser, incarnation=message.incarnation, now=now
        )
        self._suspected[row.name] = row
        self.counts["suspicions"] += 1
        self.actions.events.append(MemberSuspected(row.name, message.accuser))

    def _dead(self, message: Dead, now: float) -> None:
        row = self._rows.get(message.name)
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
        row.status = Status.LEFT if message.accuser == message.name else Status.FAILED
        row.changed_at = now
        self.changes.append(RowGone(row))

    def _end_suspicion(self, row: Row) -> None:
        row.suspicion = None
        self._suspected.pop(row.name, None)

    def _refute(self, accused_incarnation: int) -> None:
        own = self.own
        # At the largest incarnation there is nothing left to say; only a forged message leads there.
        own.incarnation = min(max(own.incarnation, accused_incarnation) + 1, INCARNATION_MAX)
        self._change_health(1)
        self.counts["refutations"] += 1
        self.actions.events.append(SuspicionRefuted(own.incarnation))
        self._queue_alive(own)

    def _repeat_refutation(self, name: str) -> None:
        """An accusation of ourselves that is refuted already: somebody has not heard it yet, so say it again.

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
        """Tell everybody of other meta."""
        self.own.meta = meta
        self.own.incarnation = min(self.own.incarnation + 1, INCARNATION_MAX)
        self._queue_alive(self.own)

    def leave(self, now: float) -> None:
        """Tell everybody that this node goes; it still answers."""
        self.is_leaving = True
        self._dead(Dead(name=self.name, incarnation=self.own.incarnation, accuser=self.name), now)

    def forget(self, name: str) -> None:
        """Drop the row of a member that the upper layer has erased, unless it is here."""
        row = self._rows.get(name)
        if row is not None and not row.is_here and row is not self.own:
            del self._rows[name]
            # From the walk too: who comes back gets a place again, and a name with many places would be the only one probed.
            place = self._order.index(name)
            del self._order[place]
            self._position -= place < self._position

    def has_others(self) -> bool:
        """Somebody else is here, or has failed so recently that it is gossiped to."""
        return len(self._rows) > 1

    def others_alive(self) -> int:
        """Members here besides ourselves."""
        return sum(row.is_here for row in self._rows.values()) - self.own.is_here

    # --- Push/pull. ---

    def table(self) -> tuple[MemberRecord, ...]:
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

    def why_not_merge(self, records: Iterable[MemberRecord]) -> str:
        """Why these records cannot be merged with our table; empty when they can."""
        theirs = [record for record in records if record.status is Status.ALIVE]
        for record in theirs:
            if record.name != self.name and (reason := self._refuses(record.name, record.meta)):
                return reason
        known = [(record.name, record.versions) for record in theirs]
        known += [(row.name, row.versions) for row in self._rows.values() if row.is_here]
        if not known:
            return ""
        protocol_min = max(versions.protocol_min for _, versions in known)
        protocol_max = min(versions.protocol_max for _, versions in known)
        layer_min = max(versions.layer_min for _, versions in known)
        layer_max = min(versions.layer_max for _, versions in known)
        for name, versions in known:
            if not protocol_min <= versions.protocol <= protocol_max:
                return f"{name!r} speaks protocol {versions.protocol}, all understand {protocol_min} to {protocol_max}"
            if not layer_min <= versions.layer <= layer_max:
                return f"{name!r} speaks layer protocol {versions.layer}, all understand {layer_min} to {layer_max}"
        return ""

    def merge(self, records: Iterable[MemberRecord], now: float) -> None:
        """Take over what another table says. Even its dead are only suspected: they get the chance to refute."""
        for record in records:
            if record.status is Status.ALIVE:
                alive = Alive(
                    name=record.name,
                    incarnation=record.incarnation,
                    address=record.address,
                    meta=record.meta,
                    versions=record.versions,
                )
                self.alive(alive, now)
            elif record.status is Status.LEFT:
                self._dead(Dead(name=record.name, incarnation=record.incarnation, accuser=record.name), now)
            else:
                self._suspect(Suspect(name=record.name, incarnation=record.incarnation, accuser=self.name), now)

    def _push_pull_interval(self) -> float:
        members = len(self._rows)
        scale = 1 if members <= 32 else math.ceil(math.log2(members) - 5) + 1
        return self.settings.push_pull_interval_seconds * scale

    def _start_push_pull(self) -> None:
        if self.is_leaving:
            return
        for row in self._pick(1, lambda one: one.status is Status.ALIVE):
            self.counts["exchanges"] += 1
            self.actions.exchanges.append(Exchange(address=row.address, name=row.name))

    # --- Sending. ---

    def send_upper(self, address: Address, message: Message) -> None:
        """Send a message of the upper layer by itself."""
        self.actions.datagrams.append(Datagram(self._filled(address), (self._encode(message),)))

    def pick_alive(self, count: int, but: str) -> list[Row]:
        """So many random members that are alive, without ourselves and `but`."""
        return self._pick(count, lambda one: one.status is Status.ALIVE and one.name != but)

    def _gossip(self, now: float) -> None:
        settings = self.settings

        def is_worth_it(row: Row) -> bool:
            if row.status is Status.FAILED:
                return now - row.changed_at < settings.gossip_to_dead_seconds
            return row.is_here

        room = settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES
        for row in self._pick(settings.gossip_members, is_worth_it):
            bodies = take_rumors(self._queues, room, MESSAGES_MAX, len(self._rows), settings.retransmit_multiplier)
            if not bodies:
                return
            self.actions.datagrams.append(Datagram(row.address, tuple(bodies), _knows_checksums(row)))

    def _send(self, address: Address, *messages: Message, with_checksum: bool = False) -> None:
        """Messages, and as many rumors as fit beside them."""
        settings = self.settings
        bodies = [self._encode(message) for message in messages]
        if any(self._queues):
            room = settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES
            room -= sum(2 + len(body) for body in bodies)
            bodies += take_rumors(self._queues, room, MESSAGES_MAX - len(bodies), len(self._rows), settings.retransmit_multiplier)
        self.actions.datagrams.append(Datagram(address, tuple(bodies), with_checksum))

    def _pick(self, count: int, is_wanted: Callable[[Row], bool]) -> list[Row]:
        """At most `count` random rows besides our own."""
        candidates = [row for row in self._rows.values() if row is not self.own and is_wanted(row)]
        return candidates if len(candidates) <= count else self._rng.sample(candidates, count)

    def _ping(self, sequence: int, target: str) -> Ping:
        return Ping(sequence=sequence, target=target, source=self.own.address, source_name=self.name)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        return self._sequence

    def _filled(self, address: Address) -> Address:
        return address if address.port else Address(address.host, DEFAULT_PORT)


def rumor_bytes_max(settings: SwimSettings) -> int:
    """The longest rumor that fits a packet by itself."""
    return settings.packet_bytes_max - settings.packet_overhead_bytes - COMPOUND_BYTES - 2


def _knows_checksums(row: Row) -> bool:
    return row.versions.protocol_max >= CRC_PROTOCOL
