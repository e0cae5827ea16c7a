"""Calls that need a group's leader, wherever it is: here, on another node, or about to be elected."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import attrs
import trio

from trio_eventlog.background import Background
from trio_eventlog.backoff import Backoff
from trio_eventlog.errors import (
    CallUnsent,
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    ShuttingDown,
    Unavailable,
    WrongExpectedVersion,
)
from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.service.remote_node import RemoteNode, RemoteNodes
from trio_eventlog.service.requests import ConsumeRequest, ForwardedAnswer
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller, Position

T = TypeVar("T")
TRIED_AGAIN = (NotLeader, NoQuorum, OutcomeUnknown, ShuttingDown, Unavailable)
"""Errors of an attempt after which another one is made: "not here", "not now" and "not known". All others are final."""
LOOKS_PER_ATTEMPT = 10
"""How many times within an attempt's time limit the nodes of a group without a known leader are asked who leads."""


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class ForwardingSettings:
    """Bounds of forwarded calls.

    Attributes:
        forward_timeout_seconds: seconds that a call without a deadline of its own is tried; then it fails with `NoQuorum`, or with
            `OutcomeUnknown` when an attempt may have taken effect.
        forward_attempt_timeout_seconds: seconds without a byte, answers to PINGs included, after which the connection to
            another node is closed. A call without an answer for as long makes this node ask the group's other nodes whether one
            of them leads by now. Below the round-trip time nothing can be forwarded.
        forward_backoff_seconds_min, forward_backoff_seconds_max: seconds between two attempts; doubles from the first to the
            second, each wait is drawn from its upper half. A leader that becomes known ends the wait.
    """

    forward_timeout_seconds: float
    forward_attempt_timeout_seconds: float
    forward_backoff_seconds_min: float
    forward_backoff_seconds_max: float


class Doubt:
    """Collects, for a call that changes something, which attempts may have had an effect, so that the final error does not hide it.

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
        """The error for the caller, when the last attempt ended with `error`."""
        if self.cause is None or isinstance(
            error, OutcomeUnknown | DuplicateOutOfWindow | OutOfOrderSequence | WrongExpectedVersion
        ):
            # Refusals by sequence, and by version after a look at the event ids, say what is in the log, whichever attempt has put
            # it there.
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


class Forwarder:
    """Does calls at a group's leader, wherever it is, and has the patience to find it.

    Args:
        place: this node's replica of a group, or what stands in for one. Raises TopicNotFound.
        nodes: the other nodes.
    """

    def __init__(
        self,
        node_id: NodeId,
        place: Callable[[GroupId], Replica | RemoteGroup],
        nodes: RemoteNodes,
        settings: ForwardingSettings,
        rng: random.Random,
    ) -> None:
        self._node_id = node_id
        self._place = place
        self._nodes = nodes
        self._settings = settings
        self._rng = rng
        self._watched: set[RemoteGroup] = set()
        self._background = Background()

    def running(self) -> AbstractAsyncContextManager[None]:
        """The tasks that look for leaders live inside this block."""
        return self._background.running()

    async def at_leader(
        self,
        place: Replica | RemoteGroup,
        local: Callable[[], Awaitable[T]],
        remote: Callable[[RemoteNode], Awaitable[T]],
        doubt: Doubt | None = None,
        *,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> T:
        """Do `local` when this node leads the group, else `remote` at the leader, until one of them is answered.

        Both must be safe to repeat. Errors other than TRIED_AGAIN are raised at once; after those, another attempt is made until
        the caller's deadline, or for `forward_timeout_seconds`. A call that was forwarded here is done here and nowhere else.

        Args:
            doubt: of a call that changes something: what earlier attempts have left open, and these add to. None: it only reads.

        Raises:
            NoQuorum: no leader could be found or reached in time; the call had no effect.
            OutcomeUnknown: an attempt may have had an effect, and no later one could find out.
            NotLeader: the call was forwarded here, and this node does not lead.
            TopicNotFound: the topic was deleted meanwhile.
        """
        if caller.is_forwarded:
            return await local()
        doubt = _NoDoubt() if doubt is None else doubt
        try:
            return await self._at_leader(place, local, remote, doubt, caller.deadline)
        except EventLogError as error:
            final = doubt.final(error)
            if final is error:
                raise
            raise final from error

    async def _at_leader(
        self,
        place: Replica | RemoteGroup,
        local: Callable[[], Awaitable[T]],
        remote: Callable[[RemoteNode], Awaitable[T]],
        doubt: Doubt,
        deadline: float,
    ) -> T:
        backoff = Backoff(self._rng, self._settings.forward_backoff_seconds_min, self._settings.forward_backoff_seconds_max)
        last: EventLogError | None = None
        has_begun = False
        with trio.move_on_at(min(trio.current_time() + self._settings.forward_timeout_seconds, deadline)):
            while True:
                if isinstance(place, RemoteGroup):
                    place = self._place(place.group_id)  # it may be open here by now
                leader_id = place.leader_id
                has_begun = False
                try:
                    if isinstance(place, RemoteGroup) and (refusal := place.why_unopened()) is not None:
                        raise refusal
                    if leader_id == self._node_id:
                        has_begun = True
                        return await local()
                    if leader_id != NOBODY:
                        if isinstance(place, RemoteGroup):
                            self._watch(place)
                        # A leader that was cut off answers nothing, and its connections break much later than it is replaced.
                        with trio.CancelScope() as scope, place.while_led_by(leader_id, scope):
                            node = await self._nodes.get(leader_id)
                            has_begun = True
                            answer = await remote(node)
                            if isinstance(place, RemoteGroup):
                                place.worked(leader_id)
                            return answer
                        last = OutcomeUnknown(f"{place.name} has another leader now")
                        if has_begun:
                            doubt.add(last)
                except TRIED_AGAIN as error:
                    last = error
                    if has_begun:
                        doubt.add(error)
                    if isinstance(place, RemoteGroup):
                        place.correct(error, leader_id)
                has_begun = False
                with trio.move_on_after(backoff.next_seconds()):
                    try:
                        await place.wait_leader_other_than(leader_id)
                    except NotLeader as error:
                        # It was closed here, since its group has moved: there, then.
                        last = error
                        closed, place = place, self._place(place.group_id)
                        if place is closed:
                            await trio.sleep_forever()  # it is about to be replaced; the pause ends this
                # Neither a refusal nor the wait need have let other tasks run.
                await trio.lowlevel.checkpoint()
        if has_begun:
            doubt.add(OutcomeUnknown(f"no answer within {self._settings.forward_timeout_seconds:g} s"))
        raise NoQuorum(
            f"no leader of {place.name} answered within {self._settings.forward_timeout_seconds:g} s: fewer than a majority of its"
            " voters can be reached; nothing was changed, try again later"
        ) from last

    async def stream(
        self, group: RemoteGroup, request: ConsumeRequest, caller: Caller, deliver: Callable[[ForwardedAnswer], Awaitable[None]]
    ) -> None:
        """Read a consumer's stream from a node that has the group, and pass its answers to `deliver`, for ever.

        When that node stops or falls silent, the stream continues at another one, after the last record that was passed on.

        Raises:
            EventLogError: what that node says; that no node of the group can be reached.
        """
        last: EventLogError = Unavailable(f"no other node carries {group.name}")
        failed_nodes = 0
        answer_with_records: ForwardedAnswer | None = None
        while failed_nodes < len(group.nodes()):
            node_id = group.leader_id
            try:
                node = await self._nodes.get(node_id)
                if request.start is Position.END:
                    # Asked again after a lost stream, it would leave out what came meanwhile.
                    end = (await node.consume(request, caller)).fetched()
                    request = attrs.evolve(request, start=end.high_watermark)
                async with node.consume_stream(request, caller) as answers:
                    async for answer in answers:
                        failed_nodes = 0
                        await deliver(answer)
                        if answer.holds_records:
                            answer_with_records = answer
                raise Unavailable(f"the node that {group.name} was read from has ended the stream")
            except TRIED_AGAIN as error:
                group.correct(error, node_id)
                last = error
                failed_nodes += 1
            # (Looked into here, and not for every answer that passes.)
            next_offset = answer_with_records.next_offset if answer_with_records is not None else None
            if next_offset is not None:
                request = attrs.evolve(request, start=next_offset)
        raise last

    # Who leads a group that lives on other nodes

    def _watch(self, group: RemoteGroup) -> None:
        """See that calls to the group follow its leader: one task for all of them, which ends some time after the last one."""
        if group not in self._watched and self._background.nursery is not None:
            self._watched.add(group)
            self._background.nursery.start_soon(self._keep_watching, group)

    async def _keep_watching(self, group: RemoteGroup) -> None:
        try:
            while await group.wait_sought(self._settings.forward_attempt_timeout_seconds):
                await self._look_for_leader(group)
        finally:
            self._watched.discard(group)

    async def _look_for_leader(self, group: RemoteGroup) -> None:
        """Ask the nodes of the group whether they lead: each again and again while no leader is known, otherwise once."""
        interval_seconds = self._settings.forward_attempt_timeout_seconds / LOOKS_PER_ATTEMPT
        with trio.move_on_after(self._settings.forward_attempt_timeout_seconds) as scope:
            async with trio.open_nursery() as nursery:
                for node_id in group.nodes():
                    if node_id != group.known_leader_id:
                        nursery.start_soon(self._ask_whether_it_leads, group, node_id, interval_seconds)
                was_sought = group.is_sought
                while group.is_sought:
                    # For as long as it takes; one node that does not answer holds up none of the others.
                    scope.deadline = trio.current_time() + self._settings.forward_attempt_timeout_seconds
                    await trio.sleep(interval_seconds)
                if was_sought:
                    nursery.cancel_scope.cancel()

    async def _ask_whether_it_leads(self, group: RemoteGroup, node_id: NodeId, interval_seconds: float) -> None:
        while True:
            with trio.move_on_after(self._settings.forward_attempt_timeout_seconds):
                if await self._leads(node_id, group.group_id):
                    group.found(node_id)
                    return
            if not group.is_sought:
                return
            await trio.sleep(interval_seconds)

    async def _leads(self, node_id: NodeId, group_id: GroupId) -> bool:
        """By its own word: a hint of another node may be as old as the leader that is looked for."""
        # To hand the group over to the node that has it already changes nothing, and every other node refuses it.
        try:
            node = await self._nodes.get(node_id)
            await node.transfer_leadership(group_id, node_id, NOBODY_IN_PARTICULAR)
        except InvalidArgument:
            return True  # It leads, and is about to leave the group.
        except EventLogError:
            return False
        return True
