"""Calls that need a group's leader, wherever it is: here, there, or about to be elected."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from trio_eventlog.errors import EventLogError, NoQuorum, NotLeader, OutcomeUnknown, ShuttingDown, Unavailable
from trio_eventlog.ids import NOBODY, GroupId, NodeId, format_id
from trio_eventlog.node.elsewhere import Elsewhere
from trio_eventlog.node.replica import Replica
from trio_eventlog.rpc import Channel, Encoded, Method, RpcSettings, Send, open_channel

FORWARDED = "eventlog-forwarded"
"""Metadata of a call that another node has carried here: it is answered here or refused, never carried on."""

T = TypeVar("T")
_TRY_AGAIN = (NotLeader, NoQuorum, OutcomeUnknown, ShuttingDown, Unavailable)


@attrs.frozen(slots=True, kw_only=True)
class ForwardingSettings:
    """Bounds of forwarded calls.

    Attributes:
        timeout_seconds: for a call whose client set no deadline; then `NoQuorum`.
        backoff_seconds_min, backoff_seconds_max: between two attempts, doubling, each drawn from its upper half. A leader
            becoming known ends the wait early.
    """

    timeout_seconds: float = 30.0
    backoff_seconds_min: float = 0.01
    backoff_seconds_max: float = 0.5


Connect = Callable[[NodeId], Awaitable[trio.abc.Stream]]
"""Dial a node of the cluster for gRPC. Raises OSError, also when its address is not known."""


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
        self._rpc = rpc
        self._rng = rng
        self._channels: dict[NodeId, Channel] = {}
        self._opening: dict[NodeId, trio.Lock] = {}
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
        self, replica: Replica | Elsewhere, local: Callable[[], Awaitable[T]], remote: Callable[[Channel], Awaitable[T]]
    ) -> T:
        """Do `local` when this node leads the group, else `remote` on a channel to the leader, until one of them is answered.

        Both must be safe to repeat. Refusals (a batch out of order, say) are raised at once; "not here", "not now" and "don't
        know" are tried again until the caller's deadline, or for `timeout_seconds`.

        Raises:
            NoQuorum: no leader could be found or reached in time.
            TopicNotFound: the topic was deleted meanwhile.
        """
        backoff = self._settings.backoff_seconds_min
        last: EventLogError | None = None
        with trio.move_on_after(self._settings.timeout_seconds):
            while True:
                if isinstance(replica, Elsewhere):
                    replica = self._place(replica.group_id)  # it may be open here by now
                leader_id = replica.leader_id
                try:
                    if isinstance(replica, Elsewhere) and (refusal := replica.why_unopened()) is not None:
                        raise refusal
                    if leader_id == self._node_id:
                        return await local()
                    if leader_id != NOBODY:
                        # A leader that was cut off answers nothing, and its connections break much later than it is replaced.
                        with trio.CancelScope() as scope, replica.while_led_by(leader_id, scope):
                            answer = await remote(await self.channel(leader_id))
                            if isinstance(replica, Elsewhere):
                                replica.worked(leader_id)
                            return answer
                        last = OutcomeUnknown(f"{replica.name} has another leader now")
                except _TRY_AGAIN as error:
                    last = error
                    if isinstance(replica, Elsewhere):
                        replica.correct(error)
                with trio.move_on_after(backoff * self._rng.uniform(0.5, 1.0)):
                    try:
                        await replica.wait_leader_other_than(leader_id)
                    except NotLeader as error:
                        # It was closed here, since its group has moved: there, then.
                        last = error
                        replica = self._place(replica.group_id)
                backoff = min(2 * backoff, self._settings.backoff_seconds_max)
        raise NoQuorum(
            f"no leader of {replica.name} answered within {self._settings.timeout_seconds:g} s: fewer than a majority of its"
            " voters can be reached; nothing is lost, try again later"
        ) from last

    async def stream(self, elsewhere: Elsewhere, method: Method, request: Any, send: Send) -> None:
        """Carry a call with one request and many answers to a node that has the group, and its answers back, for ever.

        Raises:
            EventLogError: what that node says; once an answer was sent, also that it went away: the client goes on by itself.
        """
        last: EventLogError = Unavailable(f"no other node carries {elsewhere.name}")
        for _ in elsewhere.nodes():
            has_answered = False
            try:
                channel = await self.channel(elsewhere.leader_id)
                async with channel.stream(method, request, metadata=((FORWARDED, "1"),), raw=True) as call:
                    async for answer in call:
                        has_answered = True
                        await send(Encoded(answer))
                raise Unavailable(f"the node that {elsewhere.name} was read from has ended the stream: go on from the next offset")
            except _TRY_AGAIN as error:
                if has_answered:
                    raise
                elsewhere.correct(error)
                last = error
        raise last

    async def channel(self, node_id: NodeId) -> Channel:
        """To a node, opened when there is none. Raises Unavailable, ShuttingDown."""
        ready = self._channels.get(node_id)
        if ready is not None and ready.is_usable:
            return ready
        lock = self._opening.setdefault(node_id, trio.Lock())
        async with lock:
            channel = self._channels.get(node_id)
            if channel is None or not channel.is_usable:
                if self._nursery is None:
                    raise ShuttingDown("this node is stopping: go to another one")
                try:
                    stream = await self._connect(node_id)
                except OSError as error:
                    raise Unavailable(f"node {format_id(node_id)} cannot be reached: {error}") from error
                channel = await self._nursery.start(self._keep_channel, node_id, stream)
                self._channels[node_id] = channel
            return channel

    async def _keep_channel(self, node_id: NodeId, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[Channel]) -> None:
        async with open_channel(stream, self._rpc) as channel:
            task_status.started(channel)
            await channel.wait_unusable()
        if self._channels.get(node_id) is channel:
            del self._channels[node_id]


async def forward(channel: Channel, method: Method, request: Any | Encoded) -> Any:
    """A unary call in the name of a client."""
    return await channel.unary(method, request, metadata=((FORWARDED, "1"),))
