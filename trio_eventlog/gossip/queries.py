"""Queries: a question to every member that its filters choose, and the answers."""

import math
import random
from collections import Counter
from collections.abc import Sequence

import attrs

from trio_eventlog.errors import InvalidArgument, Overloaded
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import QueryAcked, QueryAnswered, QueryFinished, QueryKey, QueryReceived
from trio_eventlog.gossip.filters import is_chosen
from trio_eventlog.gossip.internal_queries import InternalQueries
from trio_eventlog.gossip.lamport import LamportClock, Recent
from trio_eventlog.gossip.member_list import MemberList
from trio_eventlog.gossip.messages import (
    INTERNAL_QUERY_PREFIX,
    QUERY_FLAG_ACK,
    RESPONSE_FLAG_ACK,
    Query,
    QueryFilter,
    QueryResponse,
    Relay,
    UserMessage,
)
from trio_eventlog.gossip.settings import SerfSettings
from trio_eventlog.gossip.swim import Swim
from trio_eventlog.gossip.wire import Keys, Wire


@attrs.define(slots=True, kw_only=True)
class _OpenQuery:
    """A query of ours."""

    ends_at: float
    acks: set[str] = attrs.field(factory=set)
    answers: set[str] = attrs.field(factory=set)


class Queries:
    """The queries of this node that are open, and those of others.

    Arguments:
        keys: the keyring, for key queries; None when gossip is not encrypted.

    Attributes:
        clock: the Lamport clock of queries.
    """

    def __init__(
        self,
        settings: SerfSettings,
        *,
        name: str,
        swim: Swim,
        members: MemberList,
        wire: Wire,
        actions: Actions,
        counts: Counter[str],
        rng: random.Random,
        keys: Keys | None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._swim = swim
        self._members = members
        self._wire = wire
        self._actions = actions
        self._counts = counts
        self._rng = rng
        self._internal = InternalQueries(settings, name=name, members=members, keys=keys, wire=wire, actions=actions, counts=counts)
        self.clock = LamportClock()
        self._recent = Recent(settings.recent_times_max, settings.recent_per_time_max, settings.recent_bytes_max)
        self._open: dict[QueryKey, _OpenQuery] = {}

    def next_deadline(self) -> float:
        """When to call `tick` again at the latest."""
        return min((query.ends_at for query in self._open.values()), default=math.inf)

    def tick(self, now: float) -> None:
        """Close the queries whose time is up."""
        for key, query in list(self._open.items()):
            if query.ends_at <= now:
                del self._open[key]
                self._actions.events.append(QueryFinished(key, len(query.acks), len(query.answers)))

    def ask(
        self,
        name: str,
        payload: bytes,
        now: float,
        *,
        filters: Sequence[QueryFilter] = (),
        wants_ack: bool = False,
        relay_factor: int = 0,
        timeout_seconds: float | None = None,
    ) -> Query:
        """Ask every member that `filters` choose, ourselves too. `QueryAcked`, `QueryAnswered`, `QueryFinished` follow.

        Raises:
            InvalidArgument: the query is too long.
            Overloaded: too many queries are open.
        """
        if len(self._open) >= self._settings.open_queries_max:
            raise Overloaded(f"{len(self._open)} queries are waiting for their answers already")
        if timeout_seconds is None:
            timeout_seconds = self.default_seconds()
        query = Query(
            time=self.clock.time,
            query_id=self._rng.getrandbits(32),
            source=self._swim.own.address,
            source_name=self._name,
            name=name,
            payload=payload,
            filters=tuple(filters),
            flags=QUERY_FLAG_ACK if wants_ack else 0,
            relay_factor=relay_factor,
            timeout_seconds=timeout_seconds,
        )
        size = len(self._wire.encode_body(query))
        if size > self._settings.query_bytes_max:
            raise InvalidArgument(f"a query of {size} bytes, the limit is {self._settings.query_bytes_max}")
        self.clock.increment()
        key = QueryKey(query.time, query.query_id)
        self._open[key] = _OpenQuery(ends_at=now + timeout_seconds)
        self.receive(query, now)
        return query

    def default_seconds(self) -> float:
        """Enough for a query to reach all and for the answers to come back."""
        scale = math.ceil(math.log10(len(self._swim.table) + 1))
        return self._settings.query_timeout_multiplier * self._swim.settings.gossip_interval_seconds * scale

    def receive(self, query: Query, now: float) -> bool:
        """Act on a query of ours or of another member. True when it is news."""
        self.clock.witness(query.time)
        if not self._recent.is_new(self.clock, query.time, query.query_id):
            return False
        if not is_chosen(query.filters, self._name, self._members.own.tags):
            return True
        if query.flags & QUERY_FLAG_ACK:
            ack = QueryResponse(time=query.time, query_id=query.query_id, sender=self._name, flags=RESPONSE_FLAG_ACK)
            self._send(query, ack)
        if query.name.startswith(INTERNAL_QUERY_PREFIX):
            payload = self._internal.answer(query)
            if payload is not None:
                self._send(query, QueryResponse(time=query.time, query_id=query.query_id, sender=self._name, payload=payload))
        else:
            self._actions.events.append(QueryReceived(query, now + query.timeout_seconds))
        return True

    def respond(self, query: Query, payload: bytes) -> None:
        """Answer a query that was received. Raises InvalidArgument when the answer is too long."""
        response = QueryResponse(time=query.time, query_id=query.query_id, sender=self._name, payload=payload)
        size = len(self._wire.encode_body(response))
        if size > self._settings.query_response_bytes_max:
            raise InvalidArgument(f"an answer of {size} bytes, the limit is {self._settings.query_response_bytes_max}")
        self._send(query, response)

    def _send(self, query: Query, response: QueryResponse) -> None:
        if query.source_name == self._name and query.source == self._swim.own.address:
            self.receive_response(response)
            return
        self._swim.packets.send_alone(query.source, UserMessage(response))
        if query.relay_factor:
            relay = Relay(address=query.source, name=query.source_name, body=self._wire.encode_body(response))
            relays = min(query.relay_factor, self._settings.relay_factor_max)
            for row in self._swim.table.pick_alive(relays, but=query.source_name):
                self._swim.packets.send_alone(row.address, UserMessage(relay))

    def receive_response(self, response: QueryResponse) -> None:
        """Act on an answer or an ack."""
        key = QueryKey(response.time, response.query_id)
        query = self._open.get(key)
        if query is None:
            self._counts["answers to no query"] += 1
        elif response.flags & RESPONSE_FLAG_ACK:
            if response.sender not in query.acks:
                query.acks.add(response.sender)
                self._actions.events.append(QueryAcked(key, response.sender))
        elif response.sender not in query.answers:
            query.answers.add(response.sender)
            self._actions.events.append(QueryAnswered(key, response.sender, response.payload))
