"""Asking members whether they live: pings, pings by way of others, pings by stream, and pings for others."""

import math
import random
from collections import Counter
from collections.abc import Callable

import attrs

from trio_eventlog.gossip.actions import Actions, StreamPing
from trio_eventlog.gossip.events import OnlyStreamsWork
from trio_eventlog.gossip.messages import (
    NACK_PROTOCOL,
    SEQUENCE_MAX,
    TCP_PING_PROTOCOL,
    Ack,
    Address,
    IndirectPing,
    Nack,
    Ping,
    RowStatus,
    Suspect,
)
from trio_eventlog.gossip.packets import PacketSender, knows_checksums
from trio_eventlog.gossip.rows import Table, filled
from trio_eventlog.gossip.settings import SwimSettings


@attrs.define(slots=True, kw_only=True)
class _Probe:
    """The current ping."""

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
    """A ping in progress on behalf of another member."""

    asker: Address
    sequence: int
    nack_at: float
    """Infinite when no nack is wanted, or one was sent."""
    ends_at: float


class Prober:
    """One probe at a time of ours, and a bounded number for others. Its verdict goes to `suspect`; the rows are not changed here.

    Attributes:
        ack_payload: sent with every ack.
        health: 0 (well) up to the settings' maximum less one; the worse, the longer a probe waits.
        last_round_trip_seconds: of the last ping that was answered directly; None before the first.
    """

    def __init__(
        self,
        settings: SwimSettings,
        *,
        name: str,
        table: Table,
        packets: PacketSender,
        actions: Actions,
        counts: Counter[str],
        rng: random.Random,
        now: float,
        suspect: Callable[[Suspect, float], None],
    ) -> None:
        self._settings = settings
        self._name = name
        self._table = table
        self._packets = packets
        self._actions = actions
        self._counts = counts
        self._suspect = suspect
        self.ack_payload = b""
        self.health = 0
        self.last_round_trip_seconds: float | None = None
        self._sequence = rng.getrandbits(16)
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}
        # All loops begin somewhere in their first interval, so that nodes started together do not act together.
        self._next_probe_at = now + rng.random() * settings.probe_interval_seconds

    def next_deadline(self) -> float:
        """When to call `tick` again at the latest."""
        if self._probe is None:
            deadline = self._next_probe_at
        else:
            deadline = self._probe.ends_at if self._probe.is_indirect else self._probe.timeout_at
        for relay in self._relays.values():
            deadline = min(deadline, relay.nack_at, relay.ends_at)
        return deadline

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._tick_relays(now)
        self._tick_probe(now)

    def start_over(self, now: float) -> None:
        """This process stood still: what was not answered meanwhile proves nothing."""
        if self._probe is not None:
            self._probe = None
            self._next_probe_at = now
        self._relays.clear()

    def change_health(self, delta: int) -> None:
        """Change the health score: below 0 when this node has proved reliable, above 0 when it missed something."""
        self.health = min(max(self.health + delta, 0), self._settings.health_score_max - 1)

    def nack(self, sequence: int) -> None:
        """A helper says that the member did not answer it either."""
        probe = self._probe
        if probe is not None and probe.sequence == sequence:
            probe.nacks_received = min(probe.nacks_received + 1, probe.nacks_expected)

    def is_for_us(self, ping: Ping) -> bool:
        """A ping that names another node reached a reused address: answering would keep a dead member alive."""
        return not ping.target or ping.target == self._name

    def answer_ping(self, ping: Ping, source: Address) -> None:
        if not self.is_for_us(ping):
            self._counts["pings for others"] += 1
            return
        self._packets.send(filled(ping.source or source), Ack(ping.sequence, self.ack_payload))

    def relay_ping(self, request: IndirectPing, source: Address, now: float) -> None:
        if len(self._relays) >= self._settings.relays_max:
            self._counts["relays refused"] += 1
            return
        sequence = self._next_sequence()
        self._relays[sequence] = _Relay(
            asker=filled(request.source or source),
            sequence=request.sequence,
            nack_at=now + self._settings.probe_timeout_seconds if request.wants_nack else math.inf,
            ends_at=now + self._settings.probe_interval_seconds,
        )
        self._counts["relays"] += 1
        self._packets.send(filled(request.address), self._ping(sequence, request.target))

    def _tick_relays(self, now: float) -> None:
        for sequence, relay in list(self._relays.items()):
            if relay.nack_at <= now:
                relay.nack_at = math.inf
                self._packets.send(relay.asker, Nack(relay.sequence))
            if relay.ends_at <= now:
                del self._relays[sequence]

    def stream_ack(self, sequence: int, now: float) -> None:
        """A `StreamPing` was answered."""
        probe = self._probe
        if probe is not None and probe.sequence == sequence:
            self._counts["probes saved by streams"] += 1
            self._actions.events.append(OnlyStreamsWork(probe.name))
            self._probe_answered(probe, now)

    def ack(self, sequence: int, now: float) -> None:
        probe = self._probe
        if probe is not None and probe.sequence == sequence:
            if not probe.is_indirect:
                self.last_round_trip_seconds = now - probe.started_at
            self._probe_answered(probe, now)
        elif (relay := self._relays.pop(sequence, None)) is not None:
            self._packets.send(relay.asker, Ack(relay.sequence))

    def _probe_answered(self, probe: _Probe, now: float) -> None:
        self.change_health(-1)
        self._end_probe(probe, now)

    def _end_probe(self, probe: _Probe, now: float) -> None:
        self._probe = None
        self._next_probe_at = max(probe.started_at + self._settings.probe_interval_seconds, now)

    def _tick_probe(self, now: float) -> None:
        probe = self._probe
        if probe is not None and not probe.is_indirect and probe.timeout_at <= now:
            self._probe_by_others(probe, now)
        if probe is not None and probe.ends_at <= now:
            self._probe_failed(probe, now)
        if self._probe is None and self._next_probe_at <= now:
            self._start_probe(now)

    def _start_probe(self, now: float) -> None:
        settings = self._settings
        row = self._table.next_to_probe(now)
        if row is None:
            self._next_probe_at = now + settings.probe_interval_seconds
            return
        self._counts["probes"] += 1
        probe = _Probe(
            name=row.name,
            sequence=self._next_sequence(),
            started_at=now,
            timeout_at=now + settings.probe_timeout_seconds,
            ends_at=now + settings.probe_interval_seconds * (self.health + 1),
        )
        self._probe = probe
        ping = self._ping(probe.sequence, row.name)
        if row.status is RowStatus.SUSPECT:
            # With the accusation beside the ping it can refute at once, and not only when a rumor reaches it.
            accusation = Suspect(name=row.name, incarnation=row.incarnation, accuser=self._name)
            self._packets.send(row.address, ping, accusation, with_checksum=knows_checksums(row))
        else:
            self._packets.send(row.address, ping)

    def _probe_by_others(self, probe: _Probe, now: float) -> None:
        """No answer in time: ask some others to try, and try TCP."""
        settings = self._settings
        probe.is_indirect = True
        # When we are late ourselves, the others still get their time.
        usual = settings.probe_interval_seconds - settings.probe_timeout_seconds
        probe.ends_at = max(probe.ends_at, now + min(usual, settings.probe_timeout_seconds))
        row = self._table.get(probe.name)
        if row is None:
            return
        helpers = self._table.pick(settings.indirect_probes, lambda one: one.status is RowStatus.ALIVE and one is not row)
        for helper in helpers:
            wants_nack = helper.versions.protocol_max >= NACK_PROTOCOL
            probe.nacks_expected += wants_nack
            request = IndirectPing(
                sequence=probe.sequence,
                target=row.name,
                address=row.address,
                wants_nack=wants_nack,
                source=self._table.own.address,
                source_name=self._name,
            )
            self._packets.send(helper.address, request)
        self._counts["indirect pings"] += len(helpers)
        if row.versions.protocol_max >= TCP_PING_PROTOCOL:
            self._actions.stream_pings.append(StreamPing(address=row.address, name=row.name, sequence=probe.sequence))

    def _probe_failed(self, probe: _Probe, now: float) -> None:
        """Missing nacks say that the fault is on our side."""
        self._counts["probes failed"] += 1
        self.change_health(probe.nacks_expected - probe.nacks_received if probe.nacks_expected else 1)
        self._end_probe(probe, now)
        row = self._table.get(probe.name)
        if row is not None:
            self._suspect(Suspect(name=row.name, incarnation=row.incarnation, accuser=self._name), now)

    def _ping(self, sequence: int, target: str) -> Ping:
        return Ping(sequence=sequence, target=target, source=self._table.own.address, source_name=self._name)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        return self._sequence
