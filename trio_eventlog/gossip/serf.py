"""The layer over the failure detector: tags, graceful leaving, user events, queries, a long memory for failed members.

The same four calls drive it (`wake`, `receive`, `tick`, `next_deadline`), and it drives the failure detector. Order in time
comes from three Lamport clocks (members, events, queries), so that an old intent never undoes a newer one.

Divergences from Serf, each on purpose:

* A name conflict is reported; nobody votes, nobody exits.
* *Leaving* members, ourselves first, are left out of the status times of a push/pull, and no push/pull is begun while leaving:
  otherwise a peer may store the time, drop the intent as old, and report a leave as a failure.
* A member that left and has sent a join intent since is not among the left members of a push/pull: its status time is that of
  the join, and whoever applies "left, one later" to that holds a member that has just come back for leaving. Such a member,
  from others' push/pulls, is alive again when it is still there after `leaving_seconds_max`.
* A leave intent is not only a rumor: so many members are told directly. Few transmissions of a rumor leave somebody out now and
  then, and an agent that hears of the departure from the failure detector alone reports a failure.
* A member whose own word that it leaves reaches the failure detector has left, even when the intent before it was lost.
* Regular expressions in filters must be tame (`filters.py`).
"""

import base64
import enum
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from trio_eventlog.errors import CodecError, InvalidArgument, Overloaded, SettingsError
from trio_eventlog.gossip.actions import Actions, Exchange
from trio_eventlog.gossip.events import (
    KeysChanged,
    LeaveFinished,
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberStatus,
    MemberUpdated,
    MergeRefused,
    QueryAcked,
    QueryAnswered,
    QueryFinished,
    QueryKey,
    QueryReceived,
    UserEventReceived,
)
from trio_eventlog.gossip.filters import is_chosen
from trio_eventlog.gossip.messages import (
    CONFLICT_QUERY,
    INTERNAL_QUERY_PREFIX,
    PING_QUERY,
    QUERY_FLAG_ACK,
    QUERY_FLAG_NO_REBROADCAST,
    RESPONSE_FLAG_ACK,
    Ack,
    Address,
    ConflictAnswer,
    EventsAt,
    IndirectPing,
    JoinIntent,
    KeyAnswer,
    KeyOperation,
    LeaveIntent,
    Message,
    Ping,
    PushPull,
    Query,
    QueryFilter,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfState,
    Status,
    StreamMessage,
    UserBytes,
    UserEvent,
    UserMessage,
    Versions,
)
from trio_eventlog.gossip.rumors import RumorQueue
from trio_eventlog.gossip.settings import SerfSettings, SwimSettings
from trio_eventlog.gossip.swim import Row, RowGone, RowJoined, Swim, rumor_bytes_max
from trio_eventlog.gossip.wire import Keys, Wire

LAMPORT_TIME_MAX = 1 << 62
"""Later times are nobody's: clocks would run out of their 64 bits."""


class LamportClock:
    """Counts what is seen and done, so that an effect always has a later time than its cause."""

    def __init__(self) -> None:
        self.time = 1

    def increment(self) -> int:
        """The time to stamp something new with."""
        time = self.time
        self.time += 1
        return time

    def witness(self, time: int) -> None:
        """Something of this time was seen."""
        if time >= self.time:
            self.time = time + 1


class _Recent:
    """What was seen in the last so many Lamport times, so that nothing is delivered twice."""

    def __init__(self, times_max: int, per_time_max: int, bytes_max: int) -> None:
        self._times_max = times_max
        self._per_time_max = per_time_max
        self._bytes_left = bytes_max
        self._seen: dict[int, dict[object, int]] = {}
        """By time: what, and its bytes."""
        self.time_min = 0
        """Older than this is not wanted."""

    def is_new(self, clock: LamportClock, time: int, what: object, size_bytes: int = 0) -> bool:
        """Remember; False for what is too old, was seen, or is one too many of its time."""
        if time < self.time_min or time + self._times_max < clock.time:
            return False
        seen = self._seen.get(time)
        if seen is None:
            # The oldest go. Times may come in any order, but all lie within the window of the clock.
            while len(self._seen) >= self._times_max:
                self._forget_oldest()
            seen = self._seen[time] = {}
        if what in seen or len(seen) >= self._per_time_max:
            return False
        seen[what] = size_bytes
        self._bytes_left -= size_bytes
        while self._bytes_left < 0:
            self.time_min = max(self.time_min, self._forget_oldest() + 1)
        return True

    def _forget_oldest(self) -> int:
        time = min(self._seen)
        self._bytes_left += sum(self._seen.pop(time).values())
        return time

    def newest_first(self) -> list[tuple[int, list[object]]]:
        """All that is remembered."""
        return [(time, list(self._seen[time])) for time in sorted(self._seen, reverse=True)]


@attrs.define(slots=True, kw_only=True)
class _Record:
    """A member on our list.

    Attributes:
        status_time: Lamport time of the last intent that counted.
        last_was_join: that intent was a join.
        leaving_since: when it last became LEAVING, by the loop's clock.
        gone_at: when it failed or left, by the loop's clock.
        prune_at: forget it then; infinite mostly.
    """

    name: str
    address: Address
    incarnation: int
    meta: bytes
    tags: Mapping[str, str]
    versions: Versions
    status: MemberStatus
    status_time: int = 0
    last_was_join: bool = False
    leaving_since: float = math.inf
    gone_at: float = -math.inf
    prune_at: float = math.inf


@attrs.frozen(slots=True)
class _Intent:
    """About a member that is not known yet."""

    is_leave: bool
    time: int
    arrived_at: float


@attrs.define(slots=True, kw_only=True)
class _OpenQuery:
    """A query of ours."""

    ends_at: float
    acks: set[str] = attrs.field(factory=set)
    answers: set[str] = attrs.field(factory=set)


class _Leaving(enum.Enum):
    """How far a graceful leave has come."""

    NO = enum.auto()
    INTENT = enum.auto()
    """The leave intent is being spread."""
    DEAD = enum.auto()
    """So is the failure detector's message."""
    LINGER = enum.auto()
    """Everybody knows; we still answer, so that nobody takes silence for failure before he has heard."""
    DONE = enum.auto()


class Serf:
    """The whole gossip of one node, without its sockets. Owned by one task.

    Arguments:
        address: where others reach this node.
        tags: at most 512 bytes encoded.
        accepts: is a member of this name and these tags of our cluster? Asked on merge and for every alive message.
        keys: the keyring, for key queries; None when gossip is not encrypted.
        ack_payload: sent with acks, for example an encoded coordinate.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        tags: Mapping[str, str],
        swim_settings: SwimSettings,
        serf_settings: SerfSettings,
        wire: Wire,
        rng: random.Random,
        now: float,
        accepts: Callable[[str, Mapping[str, str]], bool] = lambda name, tags: True,
        keys: Keys | None = None,
        ack_payload: bytes = b"",
    ) -> None:
        self.name = name
        self.settings = serf_settings
        self.actions = Actions()
        self.clock = LamportClock()
        self.event_clock = LamportClock()
        self.query_clock = LamportClock()
        self.counts: Counter[str] = Counter()
        self._wire = wire
        self._rng = rng
        self._accepts = accepts
        self._keys = keys
        self._now = now
        body_bytes_max = rumor_bytes_max(swim_settings)
        self._intent_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
        self._query_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
        self._event_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
        self._tags: Mapping[str, str] = dict(tags)
        self.swim = Swim(
            settings=swim_settings,
            name=name,
            address=address,
            meta=wire.encode_tags(tags),
            rng=rng,
            now=now,
            encode=wire.encode,
            actions=self.actions,
            refuses=self._why_not_ours,
            queues=(self._intent_rumors, self._query_rumors, self._event_rumors),
        )
        self.swim.ack_payload = ack_payload
        own = self.swim.own
        self._own = _Record(
            name=name,
            address=own.address,
            incarnation=own.incarnation,
            meta=own.meta,
            tags=self._tags,
            versions=own.versions,
            status=MemberStatus.ALIVE,
        )
        self._records = {name: self._own}
        self._intents: dict[str, _Intent] = {}
        (self._recent_events, self._recent_queries) = (
            _Recent(serf_settings.recent_times_max, serf_settings.recent_per_time_max, serf_settings.recent_bytes_max)
            for _ in range(2)
        )
        self._open_queries: dict[QueryKey, _OpenQuery] = {}
        self._leaving = _Leaving.NO
        self._leaving_until = math.inf
        self._next_reap_at = now + serf_settings.reap_interval_seconds
        self._next_reconnect_at = now + serf_settings.reconnect_interval_seconds * (0.5 + rng.random())

    # --- Time. ---

    def next_deadline(self) -> float:
        """When to call again at the latest; asking is a promise (`Swim.next_deadline`)."""
        if self._leaving is _Leaving.DONE:
            return math.inf
        deadline = min(self._next_reap_at, self._next_reconnect_at, self._leaving_until)
        for query in self._open_queries.values():
            deadline = min(deadline, query.ends_at)
        return min(deadline, self.swim.next_deadline())

    def wake(self, now: float) -> None:
        """Called first after every wait."""
        self._now = now
        self.swim.wake(now)

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._now = now
        if self._leaving is _Leaving.DONE:
            return
        self.swim.tick(now)
        self._take_changes(now)
        for key, query in list(self._open_queries.items()):
            if query.ends_at <= now:
                del self._open_queries[key]
                self.actions.events.append(QueryFinished(key, len(query.acks), len(query.answers)))
        if self._next_reap_at <= now:
            self._next_reap_at = now + self.settings.reap_interval_seconds
            self._reap(now)
        if self._next_reconnect_at <= now:
            self._next_reconnect_at = now + self.settings.reconnect_interval_seconds
            self._reconnect()
        self._tick_leaving(now)

    # --- What others see. ---

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name, ourselves included, also those that failed or left."""
        return {name: self._snapshot(record) for name, record in self._records.items()}

    def member(self, name: str) -> Member | None:
        """One of them."""
        record = self._records.get(name)
        return None if record is None else self._snapshot(record)

    @property
    def tags(self) -> Mapping[str, str]:
        """Our own."""
        return self._tags

    @property
    def has_left(self) -> bool:
        """A graceful leave is over."""
        return self._leaving is _Leaving.DONE

    @property
    def is_leaving(self) -> bool:
        """A graceful leave has begun."""
        return self._leaving is not _Leaving.NO

    def _snapshot(self, record: _Record) -> Member:
        row = self.swim.rows.get(record.name)
        return Member(
            name=record.name,
            address=record.address,
            tags=record.tags,
            status=record.status,
            incarnation=record.incarnation if row is None else row.incarnation,
            status_time=record.status_time,
            is_suspect=row is not None and row.status is Status.SUSPECT,
            versions=record.versions,
        )

    def statistics(self) -> Mapping[str, int]:
        """Counters since the start, and how things are now (`health`, `members alive`, rumors queued), by name."""
        queues = {
            "member": self.swim.rumors,
            "intent": self._intent_rumors,
            "query": self._query_rumors,
            "event": self._event_rumors,
        }
        return {
            **self.swim.counts,
            **self.counts,
            "health": self.swim.health,
            "members alive": self.swim.others_alive() + 1,
            **{f"{name} rumors queued": len(queue) for name, queue in queues.items()},
            "rumors dropped": sum(queue.dropped for queue in queues.values()),
        }

    # --- Messages. ---

    def receive(self, messages: Iterable[Message], source: Address, now: float) -> None:
        """Act on the messages of one packet from `source`."""
        self._now = now
        if self._leaving is _Leaving.DONE:
            return
        # Pings last: the ack then carries what the rest of the packet made us say, for example a refutation of the accusation
        # that stands beside the ping.
        pings_left = self.swim.settings.pings_per_packet_max
        for message in sorted(messages, key=_is_ping):
            if isinstance(message, Ping | IndirectPing):
                pings_left -= 1
                if pings_left < 0:
                    self.counts["pings over the limit"] += 1
                    continue
            if isinstance(message, UserMessage):
                self.receive_user(message.message, now)
            elif isinstance(message, UserBytes):
                self.counts["user messages not understood"] += 1
            else:
                self.swim.receive(message, source, now)
                if self.swim.changes:
                    self._take_changes(now)

    def receive_stream(self, message: StreamMessage, now: float) -> StreamMessage | None:
        """Act on what a dialler has sent; what to answer, or None to close.

        Raises:
            InvalidArgument: refused; the text is for the dialler.
        """
        self._now = now
        match message:
            case PushPull():
                # The answer is what we knew before, so that both sides see the difference.
                answer = self.push_pull(is_join=message.is_join)
                self.merge(message, now)
                return answer
            case Ping():
                return Ack(message.sequence) if self.swim.is_for_us(message) else None
            case UserMessage():
                self.receive_user(message.message, now)
            case _:
                self.counts["stream messages not understood"] += 1
        return None

    def receive_user(self, message: SerfMessage, now: float) -> None:
        """Act on a message of this layer."""
        self._now = now
        if not isinstance(message, Relay) and message.time > LAMPORT_TIME_MAX:
            self.counts["impossible times"] += 1
            return
        match message:
            case JoinIntent():
                if self._join_intent(message):
                    self._spread(self._intent_rumors, message, message.name)
            case LeaveIntent():
                if self._leave_intent(message):
                    self._spread(self._intent_rumors, message, message.name)
            case UserEvent():
                if self._user_event(message):
                    self._spread(self._event_rumors, message)
            case Query():
                if self._query(message) and not message.flags & QUERY_FLAG_NO_REBROADCAST:
                    self._spread(self._query_rumors, message)
            case QueryResponse():
                self._query_response(message)
            case Relay():
                self.counts["relayed"] += 1
                self.swim.send_upper(message.address, UserBytes(message.body))

    def _spread(self, queue: RumorQueue, message: SerfMessage, key: str | None = None) -> None:
        queue.add(self._wire.encode(UserMessage(message)), key)

    # --- Rows of the failure detector. ---

    def _why_not_ours(self, name: str, meta: bytes) -> str:
        tags = self._decode_tags(meta)
        # With the tags, so that whoever reads of it knows which cluster that is.
        return "" if self._accepts(name, tags) else f"{name!r} is of another cluster: {tags}"

    def _decode_tags(self, meta: bytes) -> dict[str, str]:
        try:
            return self._wire.decode_tags(meta)
        except CodecError:
            self.counts["meta not understood"] += 1
            return {}

    def _take_changes(self, now: float) -> None:
        changes = self.swim.changes
        self.swim.changes = []
        for change in changes:
            if isinstance(change, RowJoined):
                self._row_joined(change.row, now)
            elif isinstance(change, RowGone):
                self._row_gone(change.row, now)
            else:
                record = self._records.get(change.row.name)
                if record is not None:
                    self._copy(change.row, record)
                    self.actions.events.append(MemberUpdated(self._snapshot(record)))

    def _copy(self, row: Row, record: _Record) -> None:
        record.address = row.address
        record.incarnation = row.incarnation
        record.versions = row.versions
        if record.meta != row.meta:
            record.meta = row.meta
            record.tags = self._decode_tags(row.meta)

    def _row_joined(self, row: Row, now: float) -> None:
        record = self._records.get(row.name)
        has_flapped = False
        if record is None:
            self._make_room()
            record = _Record(
                name=row.name,
                address=row.address,
                incarnation=row.incarnation,
                meta=row.meta,
                tags=self._decode_tags(row.meta),
                versions=row.versions,
                status=MemberStatus.ALIVE,
            )
            self._records[row.name] = record
            intent = self._intents.pop(row.name, None)
            if intent is not None:
                record.status_time = intent.time
                record.last_was_join = not intent.is_leave
                if intent.is_leave:
                    record.status = MemberStatus.LEAVING
                    record.leaving_since = now
        else:
            has_flapped = now - record.gone_at < self.settings.flap_seconds
            self.counts["flaps"] += has_flapped
            self._copy(row, record)
            record.status = MemberStatus.ALIVE
            record.gone_at = -math.inf
            record.prune_at = math.inf
        self.actions.events.append(MemberJoined(self._snapshot(record), has_flapped))

    def _make_room(self) -> None:
        """The table of the failure detector soon forgets who is gone, we do not: the longest gone goes for who is new."""
        if len(self._records) >= self.swim.settings.members_max:
            gone = [one for one in self._records.values() if one.status in (MemberStatus.FAILED, MemberStatus.LEFT)]
            if gone:
                self.counts["members forgotten for others"] += 1
                self._erase(min(gone, key=lambda one: one.gone_at))

    def _row_gone(self, row: Row, now: float) -> None:
        record = self._records.get(row.name)
        if record is None:
            return
        self._copy(row, record)
        record.gone_at = now
        if record.status is MemberStatus.LEAVING or row.status is Status.LEFT:
            self.counts["leaves that overtook their intent"] += record.status is MemberStatus.ALIVE
            record.status = MemberStatus.LEFT
            self.actions.events.append(MemberLeft(self._snapshot(record)))
        elif record.status is MemberStatus.ALIVE:
            record.status = MemberStatus.FAILED
            self.actions.events.append(MemberFailed(self._snapshot(record)))

    # --- Intents. ---

    def _join_intent(self, intent: JoinIntent) -> bool:
        """True when it is news."""
        self.clock.witness(intent.time)
        record = self._records.get(intent.name)
        if record is None:
            return self._remember_intent(intent.name, is_leave=False, time=intent.time)
        if intent.time <= record.status_time:
            return False
        # Stored even when nothing else changes: otherwise two messages can rebroadcast each other for ever.
        record.status_time = intent.time
        record.last_was_join = True
        if record.status is MemberStatus.LEAVING and record is not self._own:
            record.status = MemberStatus.ALIVE
            record.prune_at = math.inf
        return True

    def _leave_intent(self, intent: LeaveIntent) -> bool:
        """True when it is news."""
        self.clock.witness(intent.time)
        record = self._records.get(intent.name)
        if record is None:
            return self._remember_intent(intent.name, is_leave=True, time=intent.time)
        if intent.time <= record.status_time:
            return False
        if record is self._own and not self.is_leaving:
            self.counts["leave intents refuted"] += 1
            self._spread_join_intent()
            return False
        record.status_time = intent.time
        record.last_was_join = False
        if record.status is MemberStatus.ALIVE:
            record.status = MemberStatus.LEAVING
            record.leaving_since = self._now
            if intent.prune and record is not self._own:
                record.prune_at = self._now + self.settings.broadcast_timeout_seconds + self.settings.leave_delay_seconds
        elif record.status is MemberStatus.FAILED:
            record.status = MemberStatus.LEFT
            self.actions.events.append(MemberLeft(self._snapshot(record)))
        if intent.prune and record.status is MemberStatus.LEFT and record is not self._own:
            self._erase(record)
        return True

    def _remember_intent(self, name: str, *, is_leave: bool, time: int) -> bool:
        known = self._intents.get(name)
        if known is not None and known.time >= time:
            return False
        if known is None and len(self._intents) >= self.settings.intents_max:
            self.counts["intents over the limit"] += 1
            return False
        self._intents[name] = _Intent(is_leave, time, self._now)
        return True

    def _spread_join_intent(self) -> None:
        intent = JoinIntent(time=self.clock.time, name=self.name)
        self._join_intent(intent)
        self._spread(self._intent_rumors, intent, self.name)

    def joined(self, now: float) -> None:
        """An exchange with `is_join` has succeeded: tell everybody that we are here to stay."""
        self._now = now
        if not self.is_leaving:
            self._spread_join_intent()

    def force_leave(self, name: str, now: float, *, prune: bool = False) -> bool:
        """Call a failed member left, everywhere; `prune`: forget it. A member that is alive refutes it.

        False when there is no such member.
        """
        self._now = now
        if name not in self._records or name == self.name:
            return False
        intent = LeaveIntent(time=self.clock.increment(), name=name, prune=prune)
        if self._leave_intent(intent):
            self._spread(self._intent_rumors, intent, name)
        return True

    # --- Leaving. ---

    def leave(self, now: float) -> None:
        """Begin a graceful leave; `LeaveFinished` comes when the sockets may be closed (LAN: about two seconds)."""
        self._now = now
        if self.is_leaving:
            return
        self._leaving = _Leaving.INTENT
        self._leaving_until = now + self.settings.broadcast_timeout_seconds
        intent = LeaveIntent(time=self.clock.increment(), name=self.name)
        self._leave_intent(intent)
        self._spread(self._intent_rumors, intent, self.name)
        for row in self.swim.pick_alive(self.settings.leave_told_max, but=self.name):
            self.swim.send_upper(row.address, UserMessage(intent))
        # From here on: no push/pull begun by us, and alive messages about us are not answered.
        self.swim.is_leaving = True
        self._tick_leaving(now)

    def _tick_leaving(self, now: float) -> None:
        if self._leaving is _Leaving.NO:
            return
        is_alone = self.swim.others_alive() == 0
        if self._leaving is _Leaving.INTENT:
            if not is_alone and self.name in self._intent_rumors and now < self._leaving_until:
                return
            self._leaving = _Leaving.DEAD
            self._leaving_until = now + self.settings.broadcast_timeout_seconds
            self.swim.leave(now)
            self._take_changes(now)
        if self._leaving is _Leaving.DEAD:
            if not is_alone and self.name in self.swim.rumors and now < self._leaving_until:
                return
            self._leaving = _Leaving.LINGER
            self._leaving_until = now if is_alone else now + self.settings.leave_delay_seconds
        if self._leaving is _Leaving.LINGER and now >= self._leaving_until:
            self._leaving = _Leaving.DONE
            self._leaving_until = math.inf
            self.actions.events.append(LeaveFinished())

    # --- The long memory. ---

    def _reap(self, now: float) -> None:
        settings = self.settings
        for record in list(self._records.values()):
            if record is self._own:
                continue
            if record.status is MemberStatus.LEAVING and now - record.leaving_since > settings.leaving_seconds_max:
                # The failure detector would have noticed long ago: it has changed its mind, and we missed that.
                record.status = MemberStatus.ALIVE
                self.counts["leaves that never came"] += 1
            failed_long = record.status is MemberStatus.FAILED and now - record.gone_at > settings.failed_kept_seconds
            left_long = record.status is MemberStatus.LEFT and now - record.gone_at > settings.left_kept_seconds
            if failed_long or left_long or (record.prune_at <= now and record.status is not MemberStatus.ALIVE):
                self._erase(record)
        for name, intent in list(self._intents.items()):
            if now - intent.arrived_at > settings.intents_kept_seconds:
                del self._intents[name]

    def _erase(self, record: _Record) -> None:
        del self._records[record.name]
        self.swim.forget(record.name)
        self.actions.events.append(MemberReaped(self._snapshot(record)))

    def _reconnect(self) -> None:
        """Try one failed member again, the more likely the more have failed: this is how a partition heals."""
        if self.is_leaving:
            return
        failed = [record for record in self._records.values() if record.status is MemberStatus.FAILED]
        if not failed:
            return
        alive = sum(record.status is MemberStatus.ALIVE for record in self._records.values())
        if self._rng.random() < len(failed) / max(1, alive):
            record = self._rng.choice(failed)
            self.counts["reconnects"] += 1
            self.actions.exchanges.append(Exchange(address=record.address, name=record.name, is_join=True))

    # --- Push/pull. ---

    def push_pull(self, *, is_join: bool) -> PushPull:
        """Our side of an exchange."""
        return PushPull(members=self.swim.table(), is_join=is_join, state=self._state())

    def _state(self) -> SerfState:
        records = self._records.values()
        return SerfState(
            time=self.clock.time,
            status_times={one.name: one.status_time for one in records if one.status is not MemberStatus.LEAVING},
            left_members=tuple(one.name for one in records if one.status is MemberStatus.LEFT and not one.last_was_join),
            event_time=self.event_clock.time,
            events=self._events_for_others(),
            query_time=self.query_clock.time,
        )

    def _events_for_others(self) -> tuple[EventsAt, ...]:
        """The newest events, as many as fit, oldest first."""
        found = []
        room = self.settings.state_events_bytes_max
        for time, seen in self._recent_events.newest_first():
            events = [one for one in seen if isinstance(one, tuple)]
            room -= sum(len(name) + len(payload) + 32 for name, payload in events)
            if room < 0:
                break
            found.append(EventsAt(time, tuple(events)))
        return tuple(reversed(found))

    def merge(self, theirs: PushPull, now: float, *, is_first_join: bool = False) -> None:
        """Take over the other side of an exchange.

        Arguments:
            is_first_join: this is our own joining, so that events from before are not for us
                (`SerfSettings.ignores_events_before_join`).

        Raises:
            InvalidArgument: another cluster, or versions that do not go together; nothing was taken over.
        """
        self._now = now
        reason = self.swim.why_not_merge(theirs.members)
        if not reason and theirs.state is None:
            reason = "the other side does not speak Serf"
        if reason:
            self.counts["merges refused"] += 1
            self.actions.events.append(MergeRefused(reason))
            raise InvalidArgument(f"merge refused: {reason}")
        assert theirs.state is not None
        self.swim.merge(theirs.members, now)
        self._take_changes(now)
        if is_first_join and self.settings.ignores_events_before_join:
            self._recent_events.time_min = max(self._recent_events.time_min, theirs.state.event_time)
        self._merge_state(theirs.state)

    def _merge_state(self, state: SerfState) -> None:
        times = (state.time, state.event_time, state.query_time, *state.status_times.values())
        if max(times) > LAMPORT_TIME_MAX:
            self.counts["impossible times"] += 1
            return
        for clock, time in (
            (self.clock, state.time),
            (self.event_clock, state.event_time),
            (self.query_clock, state.query_time),
        ):
            if time > 0:
                clock.witness(time - 1)
        left = set(state.left_members)
        for name in state.left_members:
            # One later than the intent: so that it outweighs the status time alone, should that have come first.
            self._leave_intent(LeaveIntent(time=state.status_times.get(name, 0) + 1, name=name))
        for name, time in state.status_times.items():
            if name not in left:
                self._join_intent(JoinIntent(time=time, name=name))
        for at in state.events:
            for name, payload in at.events:
                if at.time <= LAMPORT_TIME_MAX:
                    self._user_event(UserEvent(time=at.time, name=name, payload=payload))

    def stream_ack(self, sequence: int, now: float) -> None:
        """A `StreamPing` was answered."""
        self._now = now
        self.swim.stream_ack(sequence, now)

    # --- Requests: tags, events, queries. ---

    def set_tags(self, tags: Mapping[str, str], now: float) -> None:
        """Have other tags. Raises CodecError over 512 bytes."""
        self._now = now
        meta = self._wire.encode_tags(tags)
        self._tags = dict(tags)
        self.swim.set_meta(meta)
        self._own.meta = meta
        self._own.tags = self._tags
        self._own.incarnation = self.swim.own.incarnation
        self.actions.events.append(MemberUpdated(self._snapshot(self._own)))

    def send_event(self, name: str, payload: bytes, now: float, *, coalesce: bool = False) -> int:
        """Tell every member, ourselves included; returns its Lamport time. Raises InvalidArgument when it is too long."""
        self._now = now
        size = len(name.encode("utf-8", "surrogateescape")) + len(payload)
        if size > self.settings.event_bytes_max:
            raise InvalidArgument(f"an event of {size} bytes, the limit is {self.settings.event_bytes_max}")
        event = UserEvent(time=self.event_clock.increment(), name=name, payload=payload, coalesce=coalesce)
        self._user_event(event)
        self._spread(self._event_rumors, event)
        return event.time

    def _user_event(self, event: UserEvent) -> bool:
        """True when it is news."""
        self.event_clock.witness(event.time)
        size_bytes = len(event.name) + len(event.payload)
        if not self._recent_events.is_new(self.event_clock, event.time, (event.name, event.payload), size_bytes):
            return False
        self.actions.events.append(UserEventReceived(event))
        return True

    def query(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        filters: Sequence[QueryFilter] = (),
        wants_ack: bool = False,
        relay_factor: int = 0,
        timeout_seconds: float | None = None,
    ) -> QueryKey:
        """Ask every member that `filters` choose, ourselves too. `QueryAcked`, `QueryAnswered`, `QueryFinished` follow.

        Raises:
            InvalidArgument: the query is too long.
            Overloaded: too many queries are open.
        """
        self._now = now
        if len(self._open_queries) >= self.settings.open_queries_max:
            raise Overloaded(f"{len(self._open_queries)} queries are waiting for their answers already")
        if timeout_seconds is None:
            timeout_seconds = self.default_query_seconds()
        query = Query(
            time=self.query_clock.time,
            query_id=self._rng.getrandbits(32),
            source=self.swim.own.address,
            source_name=self.name,
            name=name,
            payload=payload,
            filters=tuple(filters),
            flags=QUERY_FLAG_ACK if wants_ack else 0,
            relay_factor=relay_factor,
            timeout_seconds=timeout_seconds,
        )
        size = len(self._wire.encode_body(query))
        if size > self.settings.query_bytes_max:
            raise InvalidArgument(f"a query of {size} bytes, the limit is {self.settings.query_bytes_max}")
        self.query_clock.increment()
        key = QueryKey(query.time, query.query_id)
        self._open_queries[key] = _OpenQuery(ends_at=now + timeout_seconds)
        self._query(query)
        self._spread(self._query_rumors, query)
        return key

    def default_query_seconds(self) -> float:
        """Enough for a query to reach all and for the answers to come back."""
        scale = math.ceil(math.log10(len(self.swim.rows) + 1))
        return self.settings.query_timeout_multiplier * self.swim.settings.gossip_interval_seconds * scale

    def ask_keys(self, operation: KeyOperation, key: bytes, now: float) -> QueryKey:
        """Have every member change or list its keyring; the answers' payloads are encoded `KeyAnswer`s."""
        payload = b"" if operation is KeyOperation.LIST else self._wire.encode_key_request(key)
        return self.query(operation.value, payload, now)

    def ask_reachable(self, now: float) -> QueryKey:
        """Have every member ack."""
        return self.query(PING_QUERY, b"", now, wants_ack=True)

    def _query(self, query: Query) -> bool:
        """True when it is news."""
        self.query_clock.witness(query.time)
        if not self._recent_queries.is_new(self.query_clock, query.time, query.query_id):
            return False
        if not is_chosen(query.filters, self.name, self._tags):
            return True
        if query.flags & QUERY_FLAG_ACK:
            ack = QueryResponse(time=query.time, query_id=query.query_id, sender=self.name, flags=RESPONSE_FLAG_ACK)
            self._send_response(query, ack)
        if query.name.startswith(INTERNAL_QUERY_PREFIX):
            self._answer_internally(query)
        else:
            self.actions.events.append(QueryReceived(query, self._now + query.timeout_seconds))
        return True

    def respond(self, query: Query, payload: bytes, now: float) -> None:
        """Answer a query that was received. Raises InvalidArgument when the answer is too long."""
        self._now = now
        response = QueryResponse(time=query.time, query_id=query.query_id, sender=self.name, payload=payload)
        size = len(self._wire.encode_body(response))
        if size > self.settings.response_bytes_max:
            raise InvalidArgument(f"an answer of {size} bytes, the limit is {self.settings.response_bytes_max}")
        self._send_response(query, response)

    def _send_response(self, query: Query, response: QueryResponse) -> None:
        if query.source_name == self.name and query.source == self.swim.own.address:
            self._query_response(response)
            return
        self.swim.send_upper(query.source, UserMessage(response))
        if query.relay_factor:
            relay = Relay(address=query.source, name=query.source_name, body=self._wire.encode_body(response))
            relays = min(query.relay_factor, self.settings.relay_factor_max)
            for row in self.swim.pick_alive(relays, but=query.source_name):
                self.swim.send_upper(row.address, UserMessage(relay))

    def _query_response(self, response: QueryResponse) -> None:
        key = QueryKey(response.time, response.query_id)
        query = self._open_queries.get(key)
        if query is None:
            self.counts["answers to no query"] += 1
        elif response.flags & RESPONSE_FLAG_ACK:
            if response.sender not in query.acks:
                query.acks.add(response.sender)
                self.actions.events.append(QueryAcked(key, response.sender))
        elif response.sender not in query.answers:
            query.answers.add(response.sender)
            self.actions.events.append(QueryAnswered(key, response.sender, response.payload))

    # --- Internal queries. ---

    def _answer_internally(self, query: Query) -> None:
        operations = {operation.value: operation for operation in KeyOperation}
        if query.name == CONFLICT_QUERY:
            self._answer_conflict(query)
        elif query.name in operations:
            self._answer_keys(query, operations[query.name])
        elif query.name != PING_QUERY:
            self.counts["unknown internal queries"] += 1

    def _answer_conflict(self, query: Query) -> None:
        """Whom do you know by this name? Not a question about ourselves: the asker is the other one then."""
        name = query.payload.decode("utf-8", "surrogateescape")
        if name == self.name:
            return
        record = self._records.get(name)
        answer = None
        if record is not None:
            answer = ConflictAnswer(
                name=name,
                address=record.address,
                tags=record.tags,
                status=int(record.status),
                versions=record.versions,
            )
        payload = self._wire.encode_conflict_answer(answer)
        response = QueryResponse(time=query.time, query_id=query.query_id, sender=self.name, payload=payload)
        self._send_response(query, response)

    def _answer_keys(self, query: Query, operation: KeyOperation) -> None:
        answer = self._operate_on_keys(query, operation)
        # Keys that do not fit the answer are left out, as many as need be; the primary is always named.
        while True:
            payload = self._wire.encode_key_answer(answer)
            response = QueryResponse(time=query.time, query_id=query.query_id, sender=self.name, payload=payload)
            if len(self._wire.encode_body(response)) <= self.settings.response_bytes_max or not answer.keys:
                break
            answer = attrs.evolve(answer, keys=answer.keys[:-1], text="truncated: more keys than fit")
        self._send_response(query, response)

    def _operate_on_keys(self, query: Query, operation: KeyOperation) -> KeyAnswer:
        keys = self._keys
        if keys is None:
            return KeyAnswer(succeeded=False, text="no keyring: gossip is not encrypted on this node")
        if operation is KeyOperation.LIST:
            texts = tuple(base64.b64encode(key).decode() for key in keys.keys)
            return KeyAnswer(succeeded=True, keys=texts, primary_key=texts[0])
        try:
            key = self._wire.decode_key_request(query.payload)
            before = keys.keys
            change = {KeyOperation.INSTALL: keys.install, KeyOperation.USE: keys.use, KeyOperation.REMOVE: keys.remove}
            change[operation](key)
        except (CodecError, SettingsError) as error:
            return KeyAnswer(succeeded=False, text=str(error))
        if keys.keys != before:
            self.actions.events.append(KeysChanged())
        return KeyAnswer(succeeded=True)


def _is_ping(message: Message) -> bool:
    return isinstance(message, Ping)
