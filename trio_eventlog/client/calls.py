"""Calls that find the right node, and are repeated while that is safe and the time allows."""

import logging
import random
from collections.abc import Callable, Collection
from typing import Any

import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.client.channels import ChannelPool
from trio_eventlog.client.routing import Routing
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.errors import (
    CallUnsent,
    EventLogError,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    QuotaExceeded,
    ResourceShortage,
    ShuttingDown,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.grpc.answers import cluster_view, described_topic
from trio_eventlog.grpc.callers import client_metadata
from trio_eventlog.grpc.methods import DESCRIBE_TOPIC, GET_SERVERS
from trio_eventlog.rpc import Method, MethodKind
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, KnownTopic
from trio_eventlog.v1 import admin_pb2, event_log_pb2

logger = logging.getLogger(__name__)

HINTS_MAX = 3
"""Leader hints followed without a wait; nodes that point at each other are not chased for ever."""


class Calls:
    """What senders, consumers and admin calls share: routing, channels, and the way to repeat a call."""

    def __init__(self, routing: Routing, pool: ChannelPool, settings: ClientSettings, rng: random.Random) -> None:
        self.routing = routing
        self.pool = pool
        self.settings = settings
        self.rng = rng
        self._refresh_lock = trio.Lock()

    def is_outdated(self) -> bool:
        """Whether nodes, topics and leaders were not asked for within routing_refresh_seconds."""
        return self.routing.updated_at <= trio.current_time() - self.settings.routing_refresh_seconds

    def backoff(self) -> Backoff:
        return Backoff(self.rng, self.settings.retry_backoff_seconds_min, self.settings.retry_backoff_seconds_max)

    async def call(
        self,
        method: Method,
        request: Any,
        addresses: Callable[[float], list[str]],
        *,
        check: Callable[[Any], None] = lambda response: None,
        on_uncertain: Callable[[], None] | None = None,
        grace: "TopicGrace | None" = None,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> Any:
        """A unary call that may be repeated.

        Args:
            addresses: time -> where to try, the best first.
            check: given the answer; raises Unavailable when another node has to be asked.
            on_uncertain: for a call that changes something: called when an attempt may have had an effect without an answer.
            grace: for calls about a topic that may be new to the node.

        Raises:
            EventLogError: what the node said, or the last error once time or attempts have run out.
            OutcomeUnknown: of a call that changes something, when some attempt may have had its effect.
        """
        self.pool.check_open()
        is_uncertain = False
        backoff = self.backoff()
        last: EventLogError | None = None
        hints = 0
        hinted = ""
        with trio.move_on_at(min(trio.current_time() + self.settings.request_timeout_seconds, caller.deadline)):
            for attempt in range(self.settings.attempts_max):
                address = hinted or addresses(trio.current_time())[0]
                hinted = ""
                try:
                    response = await self.call_once(address, method, request, caller=caller)
                    check(response)
                except NotLeader as error:
                    last = error
                    hinted = self.routing.hinted(error)
                    if hinted and hinted != address and hints < HINTS_MAX:
                        hints += 1
                        continue
                    hinted = ""
                except EventLogError as error:
                    if not error.retryable and not (grace is not None and grace.forgives(error)):
                        raise
                    last = error
                    if not isinstance(error, Overloaded | QuotaExceeded | ResourceShortage | TopicNotFound | CallUnsent):
                        is_uncertain = True
                        if on_uncertain is not None:
                            on_uncertain()
                    if isinstance(error, Unavailable | ShuttingDown):
                        self.routing.avoid(address, trio.current_time())
                else:
                    self.routing.worked(address)
                    return response
                hints = 0
                if attempt + 1 < self.settings.attempts_max:
                    await self.before_retry(backoff, last)
        last = last or Unavailable(f"no answer within {self.settings.request_timeout_seconds:g} s (request_timeout_seconds)")
        if is_uncertain and on_uncertain is not None:
            raise OutcomeUnknown(f"an attempt whose answer was lost may have had its effect; the last error: {last}") from last
        raise last

    async def call_once(
        self,
        address: str,
        method: Method,
        request: Any,
        timeout_seconds: float = float("inf"),
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> Any:
        """One attempt at one node. Of a method that streams its answers: the first one.

        Raises Unavailable when there is no answer in time.
        """
        metadata = client_metadata(caller)
        timeout_seconds = min(timeout_seconds, self.settings.attempt_timeout_seconds)
        with trio.move_on_after(timeout_seconds):
            try:
                async with self.pool.use(address) as channel:
                    if method.kind is MethodKind.UNARY:
                        return await channel.unary(method, request, metadata=metadata)
                    async with channel.stream(method, metadata=metadata) as call:
                        await call.send(request)
                        await call.done_sending()
                        response = await call.receive()
                    if response is None:
                        raise Unavailable("the node ended a stream without an answer")
                    return response
            except Unavailable as error:
                if address in str(error):
                    raise
                named = CallUnsent if isinstance(error, CallUnsent) else Unavailable
                raise named(f"{address}: {error}") from error
        raise Unavailable(f"{address} did not answer within {timeout_seconds:g} s")

    async def before_retry(self, backoff: Backoff, error: EventLogError, not_after: float = float("inf")) -> None:
        """Wait, and learn who leads now. Returns at `not_after` at the latest, refreshing excepted."""
        failed_at = trio.current_time()
        asked_seconds = error.retry_after_seconds if isinstance(error, Overloaded | QuotaExceeded) else 0.0
        await trio.sleep_until(min(trio.current_time() + backoff.next_seconds(asked_seconds), not_after))
        if not asked_seconds:
            await self.refresh_if_possible(newer_than=failed_at)

    async def refresh(self, newer_than: float | None = None, last: Collection[str] = ()) -> None:
        """Ask any node for nodes and leaders, unless that was done since `newer_than` (default: routing_refresh_seconds ago).

        Args:
            last: addresses to ask after all others.

        Raises:
            Unavailable: no node answers; the text names each one and why.
        """
        if newer_than is None:
            newer_than = trio.current_time() - self.settings.routing_refresh_seconds
        if self.routing.updated_at > newer_than:
            return
        async with self._refresh_lock:
            if self.routing.updated_at > newer_than:
                return
            reasons: list[str] = []
            is_answered = False
            addresses = self.routing.addresses(trio.current_time())
            for address in sorted(addresses, key=lambda address: address in last):
                try:
                    response = await self.call_once(
                        address, GET_SERVERS, event_log_pb2.GetServersRequest(), self.settings.connect_timeout_seconds
                    )
                except EventLogError as error:
                    if not error.retryable:
                        raise
                    self.routing.avoid(address, trio.current_time())
                    reasons.append(str(error))
                    continue
                self.routing.worked(address)
                is_answered = True
                if self._take(response):
                    return
                reasons.append(f"{address} has not applied the catalog as far as others have")
            if is_answered and not self.routing.catalog_index:
                # No node knows more: the cluster is being formed, or its nodes are of an older release.
                return
            raise Unavailable("no node answers: " + "; ".join(reasons))

    def _take(self, response: event_log_pb2.GetServersResponse) -> bool:
        view = cluster_view(response)
        return self.routing.update(
            view.servers,
            view.placements,
            trio.current_time(),
            catalog_index=view.catalog_index,
            cluster_id=view.cluster_id,
        )

    async def refresh_if_possible(self, newer_than: float | None = None, last: Collection[str] = ()) -> None:
        """As `refresh`; when no node answers, what is known stays, and the call that needed it raises the error."""
        try:
            await self.refresh(newer_than, last)
        except Unavailable as error:
            logger.debug("routing stays as it is: %s", error)

    async def know_topic(self, name: str, *, create: bool = False, caller: Caller = NOBODY_IN_PARTICULAR) -> KnownTopic:
        """The topic, as the newest answer has it. Asks when it is not known or was asked long ago.

        Whether a topic exists is answered only by a node that has applied everything the catalog's leader has acknowledged: to not
        know is not to know that there is none.

        Args:
            create: have it created if it does not exist, where the nodes create topics on first use.

        Raises:
            TopicNotFound: there is no such topic.
            EventLogError: the topic is not known, and no node that knows answered in time.
        """
        known = self.routing.topic(name)
        if known is not None and self.is_outdated():
            await self.refresh_if_possible()
            known = self.routing.topic(name)
        if known is not None:
            return known

        def learn(response: admin_pb2.DescribeTopicResponse) -> None:
            topic, placements = described_topic(response)
            if not topic.group_ids or not self.routing.learn(topic, placements, response.catalog_index):
                raise Unavailable(f"a node has not heard of the newest topics yet, and describes topic {name!r} as it was")

        request = admin_pb2.DescribeTopicRequest(name=name, create=create)
        await self.call(DESCRIBE_TOPIC, request, self.routing.addresses, check=learn, caller=caller)
        known = self.routing.topic(name)
        assert known is not None, "it was learned just now, without a checkpoint in between"
        return known


class TopicGrace:
    """Retries for a topic that the asked node does not know yet. It is an error only if that lasts.

    Nodes of this release ask the catalog's leader before they say that there is no topic: what they say is believed at once.
    """

    def __init__(self, calls: Calls, topic: str, partition: int) -> None:
        self._calls = calls
        self._topic = topic
        self._partition = partition
        self._missing_since: float | None = None

    def reset(self) -> None:
        """A node knew the topic."""
        self._missing_since = None

    def forgives(self, error: EventLogError) -> bool:
        """Whether to try again: other nodes know the topic, and attempt_timeout_seconds are not over yet."""
        if not isinstance(error, TopicNotFound):
            return False
        routing = self._calls.routing
        if error.catalog_index or isinstance(error, TopicRecreated):
            routing.forget_topic(self._topic, error.catalog_index)
            return False
        known = routing.topic(self._topic)
        if known is None or self._partition >= known.partitions:
            return False
        now = trio.current_time()
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since < self._calls.settings.attempt_timeout_seconds
