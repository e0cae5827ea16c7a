"""Calls that need a group's leader, wherever it is: here, there, or about to be elected."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from trio_eventlog.errors import (
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    ShuttingDown,
    Unavailable,
)
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.elsewhere import Elsewhere
from trio_eventlog.node.replica import Replica
from trio_eventlog.rpc import CallUnsent, Channel, Encoded, Method, RpcSettings, Send, methods_of, open_channel
from trio_eventlog.v1 import admin_pb2, event_log_pb2

FORWARDED = "eventlog-forwarded"
"""Metadata of a call that another node has carried here: it is answered here or refused, never carried on."""

T = TypeVar("T")
_TRY_AGAIN = (NotLeader, NoQuorum, OutcomeUnknown, ShuttingDown, Unavailable)
_TRANSFER_LEADERSHIP = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])["TransferLeadership"]
_CONSUME = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])["Consume"]
ANSWER_HEAD_BYTES_MAX = 22
"""Of an answer to a consumer without records: two numbers with their tags."""
LOOKS_PER_ATTEMPT = 10
"""How many times within an attempt's time limit the nodes of a group without a known leader are asked who leads."""


@attrs.frozen(slots=True, kw_only=True)
class ForwardingSettings:
    """Bounds of forwarded calls.

    Attributes:
        timeout_seconds: for a call whose client set no deadline; then `NoQuorum`, or `OutcomeUnknown`.
        attempt_timeout_seconds: how long a node that a call was forwarded to may stay silent, answers to PINGs included, before
            its connection is given up. A call without an answer for as long makes this node ask the group's other nodes whether
            one of them leads by now. Below the round-trip time nothing can be forwarded.
        backoff_seconds_min, backoff_seconds_max: between two attempts, doubling, each drawn from its upper half. A leader
            becoming known ends the wait early.
    """

    timeout_seconds: float = 30.0
    attempt_timeout_seconds: float = 1.0
    backoff_seconds_min: float = 0.01
    backoff_seconds_max: float = 0.5


Connect = Callable[[NodeId], Awaitable[trio.abc.Stream]]
"""Dial a node of the cluster for gRPC. Raises OSError, also when its address is not known."""


class Doubt:
    """What the attempts of one call that changes something have left open, so that its final error says no less than the truth.

    An attempt that ended without an answer may have had its effect, and no later refusal changes that: "no leader was found" or
    "this node is stopping" is then true of the last attempt only, and the caller would repeat what is in the log already.
    """

    def __init__(self) -> None:
        self.cause: EventLogError | None = None

    def __bool__(self) -> bool:
        """Whether some attempt may have had its effect."""
        return self.cause is not None

    def add(self, error: EventLogError) -> None:
        """An attempt that had begun ended with `error`. Only two of those that are tried again promise that it had no effect."""
        if not isinstance(error, NotLeader | CallUnsent):
            self.cause = error

    def final(self, error: EventLogError) -> EventLogError:
        """What the caller is told when the last attempt ended with `error`."""
        if self.cause is None or isinstance(error, OutcomeUnknown | DuplicateOutOfWindow | OutOfOrderSequence):
            # The two refusals by sequence say what is in the log, whichever attempt has put it there.
            return error
        unknown = OutcomeUnknown(
            f"an attempt whose answer was lost may have had its effect ({self.cause}); the last attempt: {error}."
            " Look before you repeat it, or repeat it under the same producer id and sequence"
        )
        unknown.__cause__ = error
        return unknown


class _NoDoubt(Doubt):
    """Of calls that change nothing: whether they had their effect does not matter."""

    def add(self, error: EventLogError) -> None:
        pass


@attrs.define(slots=True, eq=False)
class _Dial:
    """A connection on its way. Every caller that waits for it gets its outcome; none dials a silent node once more after it."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    channel: Channel | None = None
    error: EventLogError | None = None

    def decide(self, channel: Channel | None, error: EventLogError | None) -> None:
        if not self.done.is_set():
            self.channel, self.error = channel, error
            self.done.set()


class Forwarder:
    """Channels to the other nodes, opened when first needed, and the patience to find a leader.

    Args:
        place: this node's replica of a group, or what stands in for one. Raises TopicNotFound.
    """

    def __init__(
        self,
        node_id: NodeId,
        place: Callable[[GroupId], Replica | Elsewhere],
        connect: Connect,
        settings: ForwardingSettings,
        rpc: RpcSettings,
        rng: random.Random,
    ) -> None:
        self._node_id = node_id
        self._place = place
        self._connect = connect
        self._settings = settings
        self._rpc = attrs.evolve(rpc, call_silence_seconds=settings.attempt_timeout_seconds)
        self._rng = rng
        self._dials: dict[NodeId, _Dial] = {}
        self._watched: set[Elsewhere] = set()
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The channels live inside this block."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def at_leader(
        self,
        replica: Replica | Elsewhere,
        local: Callable[[], Awaitable[T]],
        remote: Callable[[Channel], Awaitable[T]],
        doubt: Doubt | None = None,
    ) -> T:
        """Do `local` when this node leads the group, else `remote` on a channel to the leader, until one of them is answered.

        Both must be safe to repeat. Refusals (a batch out of order, say) are raised at once; "not here", "not now" and "don't
        know" are tried again until the caller's deadline, or for `timeout_seconds`.

        Args:
            doubt: of a call that changes something: what earlier attempts have left open, and these add to. None: it only reads.

        Raises:
            NoQuorum: no leader could be found or reached in time; the call had no effect.
            OutcomeUnknown: an attempt may have had its effect, and no later one could tell.
            TopicNotFound: the topic was deleted meanwhile.
        """
        doubt = _NoDoubt() if doubt is None else doubt
        try:
            return await self._at_leader(replica, local, remote, doubt)
        except EventLogError as error:
            final = doubt.final(error)
            if final is error:
                raise
            raise final from error

    async def _at_leader(
        self,
        replica: Replica | Elsewhere,
        local: Callable[[], Awaitable[T]],
        remote: Callable[[Channel], Awaitable[T]],
        doubt: Doubt,
    ) -> T:
        backoff = self._settings.backoff_seconds_min
        last: EventLogError | None = None
        has_begun = False
        with trio.move_on_after(self._settings.timeout_seconds):
            while True:
                if isinstance(replica, Elsewhere):
                    replica = self._place(replica.group_id)  # it may be open here by now
                leader_id = replica.leader_id
                has_begun = False
                try:
                    if isinstance(replica, Elsewhere) and (refusal := replica.why_unopened()) is not None:
                        raise refusal
                    if leader_id == self._node_id:
                        has_begun = True
                        return await local()
                    if leader_id != NOBODY:
                        if isinstance(replica, Elsewhere):
                            self._watch(replica)
                        # A leader that was cut off answers nothing, and its connections break much later than it is replaced.
                        with trio.CancelScope() as scope, replica.while_led_by(leader_id, scope):
                            channel = await self.channel(leader_id)
                            has_begun = True
                            answer = await remote(channel)
                            if isinstance(replica, Elsewhere):
                                replica.worked(leader_id)
                            return answer
                        last = OutcomeUnknown(f"{replica.name} has another leader now")
                        if has_begun:
                            doubt.add(last)
                except EventLogError as error:
                    if not isinstance(error, _TRY_AGAIN):
                        raise
                    last = error
                    if has_begun:
                        doubt.add(error)
                    if isinstance(replica, Elsewhere):
                        replica.correct(error, leader_id)
                has_begun = False
                with trio.move_on_after(backoff * self._rng.uniform(0.5, 1.0)):
                    try:
                        await replica.wait_leader_other_than(leader_id)
                    except NotLeader as error:
                        # It was closed here, since its group has moved: there, then.
                        last = error
                        replica = self._place(replica.group_id)
                backoff = min(2 * backoff, self._settings.backoff_seconds_max)
        if has_begun:
            doubt.add(OutcomeUnknown(f"no answer within {self._settings.timeout_seconds:g} s"))
        raise NoQuorum(
            f"no leader of {replica.name} answered within {self._settings.timeout_seconds:g} s: fewer than a majority of its"
            " voters can be reached; nothing was changed, try again later"
        ) from last

    async def stream(self, elsewhere: Elsewhere, method: Method, request: Any, send: Send) -> None:
        """Carry a call with one request and many answers to a node that has the group, and its answers back, for ever.

        When that node goes away or falls silent, the stream goes on at another one, behind the last record that was sent on.

        Raises:
            EventLogError: what that node says; that no node of the group can be reached.
        """
        last: EventLogError = Unavailable(f"no other node carries {elsewhere.name}")
        failed_nodes = 0
        answer_with_records = b""
        while failed_nodes < len(elsewhere.nodes()):
            node_id = elsewhere.leader_id
            try:
                channel = await self.channel(node_id)
                if request.start == event_log_pb2.END:
                    # Asked again after a lost stream, it would leave out what came meanwhile.
                    end = await forward(channel, _CONSUME, request)
                    request = _request_from(request, end.high_watermark)
                async with channel.stream(method, request, metadata=((FORWARDED, "1"),), raw=True) as call:
                    async for answer in call:
                        failed_nodes = 0
                        await send(Encoded(answer))
                        if len(answer) > ANSWER_HEAD_BYTES_MAX or _next_offset(answer) is not None:
                            answer_with_records = answer
                raise Unavailable(f"the node that {elsewhere.name} was read from has ended the stream")
            except _TRY_AGAIN as error:
                elsewhere.correct(error, node_id)
                last = error
                failed_nodes += 1
            # (Parsed here, and not for every answer that passes.)
            next_offset = _next_offset(answer_with_records)
            if next_offset is not None:
                request = _request_from(request, next_offset)
        raise last

    async def channel(self, node_id: NodeId) -> Channel:
        """To a node, opened when there is none. Raises Unavailable, ShuttingDown."""
        dial = self._dials.get(node_id)
        if dial is None or (dial.channel is not None and not dial.channel.is_usable):
            if self._nursery is None:
                raise ShuttingDown("this node is stopping: go to another one")
            dial = self._dials[node_id] = _Dial()
            self._nursery.start_soon(self._keep_channel, node_id, dial)
        if dial.channel is None:
            await dial.done.wait()
            if dial.error is not None:
                raise dial.error
        assert dial.channel is not None
        return dial.channel

    def on_link_lost(self, node_id: NodeId) -> None:
        """Give up the connection to the node. After a silent cut it would be in TCP's backoff for as long as the cut has lasted."""
        dial = self._dials.pop(node_id, None)
        if dial is not None:
            dial.decide(None, CallUnsent(f"the link to node {format_id(node_id)} was lost"))
            dial.scope.cancel()

    def on_link_renewed(self, node_id: NodeId) -> None:
        """The node can be reached again: what was dialled before may wait for TCP's next attempt, a new dial does not."""
        dial = self._dials.get(node_id)
        if dial is not None and dial.channel is None:
            self.on_link_lost(node_id)

    async def _keep_channel(self, node_id: NodeId, dial: _Dial) -> None:
        try:
            with dial.scope:
                stream = await self._dial(node_id)
                async with open_channel(stream, self._rpc) as channel:
                    dial.decide(channel, None)
                    await channel.wait_unusable()
        except OSError as error:
            dial.decide(None, CallUnsent(f"node {format_id(node_id)} cannot be reached: {error}"))
        finally:
            dial.decide(None, ShuttingDown("this node is stopping: go to another one"))
            if self._dials.get(node_id) is dial:
                del self._dials[node_id]

    async def _dial(self, node_id: NodeId) -> trio.abc.Stream:
        with trio.move_on_after(self._settings.attempt_timeout_seconds):
            return await self._connect(node_id)
        raise TimeoutError(f"no answer within {self._settings.attempt_timeout_seconds:g} s")

    # Who leads a group that lives on other nodes

    def _watch(self, elsewhere: Elsewhere) -> None:
        """See that calls to the group follow its leader: one task for all of them, which ends some time after the last one."""
        if elsewhere not in self._watched and self._nursery is not None:
            self._watched.add(elsewhere)
            self._nursery.start_soon(self._keep_watching, elsewhere)

    async def _keep_watching(self, elsewhere: Elsewhere) -> None:
        try:
            while await elsewhere.wait_sought(self._settings.attempt_timeout_seconds):
                await self._look_for_leader(elsewhere)
        finally:
            self._watched.discard(elsewhere)

    async def _look_for_leader(self, elsewhere: Elsewhere) -> None:
        """Ask the nodes of the group whether they lead: each again and again while no leader is known, otherwise once."""
        interval_seconds = self._settings.attempt_timeout_seconds / LOOKS_PER_ATTEMPT
        with trio.move_on_after(self._settings.attempt_timeout_seconds) as scope:
            async with trio.open_nursery() as nursery:
                for node_id in elsewhere.nodes():
                    if node_id != elsewhere.known_leader_id:
                        nursery.start_soon(self._ask_whether_it_leads, elsewhere, node_id, interval_seconds)
                was_sought = elsewhere.is_sought
                while elsewhere.is_sought:
                    # For as long as it takes; one node that does not answer holds up none of the others.
                    scope.deadline = trio.current_time() + self._settings.attempt_timeout_seconds
                    await trio.sleep(interval_seconds)
                if was_sought:
                    nursery.cancel_scope.cancel()

    async def _ask_whether_it_leads(self, elsewhere: Elsewhere, node_id: NodeId, interval_seconds: float) -> None:
        while True:
            with trio.move_on_after(self._settings.attempt_timeout_seconds):
                if await self._leads(node_id, elsewhere.group_id):
                    elsewhere.found(node_id)
                    return
            if not elsewhere.is_sought:
                return
            await trio.sleep(interval_seconds)

    async def _leads(self, node_id: NodeId, group_id: GroupId) -> bool:
        """By its own word: a hint of another node may be as old as the leader that is looked for."""
        # To hand the group over to the node that has it already changes nothing, and every other node refuses it.
        request = admin_pb2.TransferLeadershipRequest(group_id=group_id, to_id=format_id(node_id))
        try:
            await forward(await self.channel(node_id), _TRANSFER_LEADERSHIP, request)
        except InvalidArgument:
            return True  # It leads, and is about to leave the group.
        except EventLogError:
            return False
        return True


async def forward(channel: Channel, method: Method, request: Any | Encoded) -> Any:
    """A unary call in the name of a client."""
    return await channel.unary(method, request, metadata=((FORWARDED, "1"),))


def _next_offset(answer: bytes) -> int | None:
    """One past the last record of an answer to a consumer; None when it has none."""
    response = event_log_pb2.ConsumeResponse.FromString(answer)
    if response.batches:
        return response.batches[-1].base_offset + response.batches[-1].record_count
    return response.records[-1].offset + 1 if response.records else None


def _request_from(request: event_log_pb2.ConsumeRequest, offset: int) -> event_log_pb2.ConsumeRequest:
    """The same request, of what begins at `offset`."""
    later = event_log_pb2.ConsumeRequest()
    later.CopyFrom(request)
    later.start = event_log_pb2.OFFSET
    later.offset = offset
    later.ClearField("start_timestamp")
    return later
