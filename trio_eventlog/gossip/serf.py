"""The layer over the failure detector: tags, graceful leaving, user events, queries, a long memory for failed members.

The same four calls drive it (`wake`, `receive`, `tick`, `next_deadline`), and it drives the failure detector. Order in time
comes from three Lamport clocks (members, events, queries), so that an old intent never undoes a newer one.

Divergences from Serf, each on purpose:

* A name conflict is only reported: there is no vote, and no member exits.
* *Leaving* members, ourselves first, are left out of the status times of a push/pull, and no push/pull is begun while leaving:
  otherwise a peer may store the time, drop the intent as old, and report a leave as a failure.
* A member that left and has sent a join intent since is not among the left members of a push/pull: its status time is that of
  the join, and a receiver that applies "left, one later" to that takes a member that has just come back for leaving. Such a member,
  from others' push/pulls, is alive again when it is still there after `leaving_seconds_max`.
* A leave intent is not only a rumor: some members get it directly. Few transmissions of a rumor leave out a member now and
  then, and an agent that hears of the departure from the failure detector alone reports a failure.
* A member whose own word that it leaves reaches the failure detector has left, even when the intent before it was lost.
* Regular expressions in filters must be tame (`filters.py`).
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.gossip.actions import Actions, Exchange
from trio_eventlog.gossip.events import (
    GossipStatus,
    Member,
    MemberUpdated,
    MergeRefused,
    QueryKey,
)
from trio_eventlog.gossip.lamport import LAMPORT_TIME_MAX, LamportClock
from trio_eventlog.gossip.leaving import Leaving
from trio_eventlog.gossip.member_list import MemberList, record_of
from trio_eventlog.gossip.messages import (
    PING_QUERY,
    QUERY_FLAG_NO_REBROADCAST,
    Ack,
    Address,
    IndirectPing,
    JoinIntent,
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
    StreamMessage,
    UserBytes,
    UserEvent,
    UserMessage,
)
from trio_eventlog.gossip.packets import rumor_bytes_max
from trio_eventlog.gossip.queries import Queries
from trio_eventlog.gossip.rumors import RumorQueue
from trio_eventlog.gossip.serf_state import StateExchange
from trio_eventlog.gossip.settings import SerfSettings, SwimSettings
from trio_eventlog.gossip.swim import Swim
from trio_eventlog.gossip.user_events import UserEvents
from trio_eventlog.gossip.wire import Keys, Wire


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
        self.counts: Counter[str] = Counter()
        self._wire = wire
        self._rng = rng
        self._accepts = accepts
        body_bytes_max = rumor_bytes_max(swim_settings)
        self._intent_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
        self._query_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
        self._event_rumors = RumorQueue(swim_settings.rumors_max, body_bytes_max)
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
        self.swim.prober.ack_payload = ack_payload
        self._now = now
        self._members = MemberList(
            serf_settings,
            swim=self.swim,
            own=record_of(self.swim.own, tags),
            clock=self.clock,
            wire=wire,
            actions=self.actions,
            counts=self.counts,
            refute=self._spread_join_intent,
        )
        self._events = UserEvents(serf_settings, self.actions)
        self._queries = Queries(
            serf_settings,
            name=name,
            swim=self.swim,
            members=self._members,
            wire=wire,
            actions=self.actions,
            counts=self.counts,
            rng=rng,
            keys=keys,
        )
        self._exchange = StateExchange(
            clock=self.clock, members=self._members, events=self._events, queries=self._queries, counts=self.counts
        )
        self._leaving = Leaving(
            serf_settings,
            name=name,
            swim=self.swim,
            members=self._members,
            clock=self.clock,
            intent_rumors=self._intent_rumors,
            actions=self.actions,
            spread=lambda intent: self._spread(self._intent_rumors, intent, intent.name),
        )
        self._next_reap_at = now + serf_settings.reap_interval_seconds
        self._next_reconnect_at = now + serf_settings.reconnect_interval_seconds * (0.5 + rng.random())

    # --- Time. ---

    def next_deadline(self) -> float:
        """When to call again at the latest; asking is a promise (`Swim.next_deadline`)."""
        if self._leaving.is_over:
            return math.inf
        deadline = min(self._next_reap_at, self._next_reconnect_at, self._leaving.next_deadline())
        return min(deadline, self._queries.next_deadline(), self.swim.next_deadline())

    def wake(self, now: float) -> None:
        """Called first after every wait."""
        self._now = now
        self.swim.wake(now)

    def tick(self, now: float) -> None:
        """Do all that is due."""
        self._now = now
        if self._leaving.is_over:
            return
        self.swim.tick(now)
        self._members.take_changes(now)
        self._queries.tick(now)
        if self._next_reap_at <= now:
            self._next_reap_at = now + self.settings.reap_interval_seconds
            self._members.reap(now)
        if self._next_reconnect_at <= now:
            self._next_reconnect_at = now + self.settings.reconnect_interval_seconds
            self._reconnect()
        self._leaving.tick(now)

    # --- What others see. ---

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name, ourselves included, also those that failed or left."""
        return {name: self._members.snapshot(record) for name, record in self._members.records.items()}

    def member(self, name: str) -> Member | None:
        """One of them."""
        record = self._members.records.get(name)
        return None if record is None else self._members.snapshot(record)

    @property
    def tags(self) -> Mapping[str, str]:
        """Our own."""
        return self._members.own.tags

    @property
    def has_left(self) -> bool:
        """A graceful leave is over."""
        return self._leaving.is_over

    @property
    def is_leaving(self) -> bool:
        """A graceful leave has begun."""
        return self._leaving.has_begun

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
            "health": self.swim.prober.health,
            "members alive": self.swim.table.others_alive() + 1,
            **{f"{name} rumors queued": len(queue) for name, queue in queues.items()},
            "rumors dropped": sum(queue.dropped for queue in queues.values()),
        }

    # --- Messages. ---

    def receive(self, messages: Iterable[Message], source: Address, now: float) -> None:
        """Act on the messages of one packet from `source`."""
        self._now = now
        if self._leaving.is_over:
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
                    self._members.take_changes(now)

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
                return Ack(message.sequence) if self.swim.prober.is_for_us(message) else None
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
                if self._members.join_intent(message, now):
                    self._spread(self._intent_rumors, message, message.name)
            case LeaveIntent():
                if self._members.leave_intent(message, now):
                    self._spread(self._intent_rumors, message, message.name)
            case UserEvent():
                if self._events.receive(message):
                    self._spread(self._event_rumors, message)
            case Query():
                if self._queries.receive(message, now) and not message.flags & QUERY_FLAG_NO_REBROADCAST:
                    self._spread(self._query_rumors, message)
            case QueryResponse():
                self._queries.receive_response(message)
            case Relay():
                self.counts["relayed"] += 1
                self.swim.packets.send_alone(message.address, UserBytes(message.body))

    def _why_not_ours(self, name: str, meta: bytes) -> str:
        tags = self._members.decode_tags(meta)
        # With the tags, so that the reader of the message knows which cluster that is.
        return "" if self._accepts(name, tags) else f"{name!r} is of another cluster: {tags}"

    def _spread(self, queue: RumorQueue, message: SerfMessage, key: str | None = None) -> None:
        queue.add(self._wire.encode(UserMessage(message)), key)

    def _spread_join_intent(self) -> None:
        intent = JoinIntent(time=self.clock.time, name=self.name)
        self._members.join_intent(intent, self._now)
        self._spread(self._intent_rumors, intent, self.name)

    def joined(self, now: float) -> None:
        """An exchange with `is_join` has succeeded: announce our join to all members."""
        self._now = now
        if not self.is_leaving:
            self._spread_join_intent()

    def leave(self, now: float) -> None:
        """Begin a graceful leave; `LeaveFinished` comes when the sockets may be closed (LAN: about two seconds)."""
        self._now = now
        self._leaving.begin(now)

    def force_leave(self, name: str, now: float, *, prune: bool = False) -> bool:
        """Mark a failed member as left, on all members; `prune`: remove it from their lists. A member that is alive refutes it.

        False when there is no such member.
        """
        self._now = now
        if name not in self._members.records or name == self.name:
            return False
        intent = LeaveIntent(time=self.clock.increment(), name=name, prune=prune)
        if self._members.leave_intent(intent, now):
            self._spread(self._intent_rumors, intent, name)
        return True

    def _reconnect(self) -> None:
        """Try one failed member again, the more likely the more have failed: this is how a partition heals."""
        if self.is_leaving:
            return
        failed = [record for record in self._members.records.values() if record.status is GossipStatus.FAILED]
        if not failed:
            return
        alive = sum(record.status is GossipStatus.ALIVE for record in self._members.records.values())
        if self._rng.random() < len(failed) / max(1, alive):
            record = self._rng.choice(failed)
            self.counts["reconnects"] += 1
            self.actions.exchanges.append(Exchange(address=record.address, name=record.name, is_join=True))

    # --- Push/pull. ---

    def push_pull(self, *, is_join: bool) -> PushPull:
        """Our side of an exchange."""
        return PushPull(members=self.swim.table.records(), is_join=is_join, state=self._exchange.state())

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
        self._members.take_changes(now)
        if is_first_join and self.settings.ignores_events_before_join:
            self._events.ignore_before(theirs.state.event_time)
        self._exchange.merge(theirs.state, now)

    def stream_ack(self, sequence: int, now: float) -> None:
        """A `StreamPing` was answered."""
        self._now = now
        self.swim.prober.stream_ack(sequence, now)

    # --- Requests: tags, events, queries. ---

    def set_tags(self, tags: Mapping[str, str], now: float) -> None:
        """Have other tags. Raises CodecError over 512 bytes."""
        self._now = now
        meta = self._wire.encode_tags(tags)
        self.swim.set_meta(meta)
        own = self._members.own
        own.meta = meta
        own.tags = dict(tags)
        own.incarnation = self.swim.own.incarnation
        self.actions.events.append(MemberUpdated(self._members.snapshot(own)))

    def send_event(self, name: str, payload: bytes, now: float, *, coalesce: bool = False) -> int:
        """Send an event to every member, ourselves included; returns its Lamport time. Raises InvalidArgument if it is too long."""
        self._now = now
        event = self._events.new(name, payload, coalesce=coalesce)
        self._spread(self._event_rumors, event)
        return event.time

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
        query = self._queries.ask(
            name,
            payload,
            now,
            filters=filters,
            wants_ack=wants_ack,
            relay_factor=relay_factor,
            timeout_seconds=timeout_seconds,
        )
        self._spread(self._query_rumors, query)
        return QueryKey(query.time, query.query_id)

    def ask_keys(self, operation: KeyOperation, key: bytes, now: float) -> QueryKey:
        """Have every member change or list its keyring; the answers' payloads are encoded `KeyAnswer`s."""
        payload = b"" if operation is KeyOperation.LIST else self._wire.encode_key_request(key)
        return self.query(operation.value, payload, now)

    def ask_reachable(self, now: float) -> QueryKey:
        """Have every member ack."""
        return self.query(PING_QUERY, b"", now, wants_ack=True)

    def respond(self, query: Query, payload: bytes, now: float) -> None:
        """Answer a query that was received. Raises InvalidArgument when the answer is too long."""
        self._now = now
        self._queries.respond(query, payload)


def _is_ping(message: Message) -> bool:
    return isinstance(message, Ping)
