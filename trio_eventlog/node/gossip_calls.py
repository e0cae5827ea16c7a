"""How other tasks call the gossip core, which the driver's task owns: calls wait here, and queries until they are finished."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import attrs
import trio

from trio_eventlog.errors import EventLogError, Overloaded, ShuttingDown
from trio_eventlog.gossip.events import Event, QueryAcked, QueryAnswered, QueryFinished, QueryKey
from trio_eventlog.gossip.serf import Serf

T = TypeVar("T")


@attrs.frozen(slots=True, kw_only=True)
class QueryResult:
    """The outcome of a query.

    Attributes:
        acks: names of the members that acknowledged it.
        answers: payloads, by name of the member that sent them.
    """

    acks: tuple[str, ...]
    answers: Mapping[str, bytes]


@attrs.define(slots=True)
class _Call(Generic[T]):
    call: Callable[[Serf, float], T]
    done: trio.Event = attrs.field(factory=trio.Event)
    value: T | None = None
    error: EventLogError | None = None

    def fail(self, error: EventLogError) -> None:
        self.error = error
        self.done.set()


@attrs.define(slots=True)
class _OpenQuery:
    """A query of ours whose time is not over."""

    acks: list[str] = attrs.field(factory=list)
    answers: dict[str, bytes] = attrs.field(factory=dict)
    finished: trio.Event = attrs.field(factory=trio.Event)


class GossipCalls:
    """`ask` and `collect` are for any task; the others are for the driver's.

    Arguments:
        requests_max: see `GossipSettings.requests_max`.
        wake: ends the wait of the driver's task.
    """

    def __init__(self, requests_max: int, wake: Callable[[], None]) -> None:
        self._requests_max = requests_max
        self._wake = wake
        self._waiting: deque[_Call[Any]] = deque()
        self._queries: dict[QueryKey, _OpenQuery] = {}
        self._is_closed = False

    @property
    def has_waiting(self) -> bool:
        """`serve` has something to do."""
        return bool(self._waiting)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    async def ask(self, call: Callable[[Serf, float], T]) -> T:
        """Have the driver's task call the core.

        Raises:
            EventLogError: as `call`.
            Overloaded: `requests_max` calls wait already.
            ShuttingDown: gossip has ended.
        """
        if self._is_closed:
            raise _ended()
        if len(self._waiting) >= self._requests_max:
            raise Overloaded(f"{len(self._waiting)} requests wait for gossip already")
        request = _Call(call)
        self._waiting.append(request)
        self._wake()
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value  # type: ignore[return-value]

    async def collect(self, begin: Callable[[Serf, float], QueryKey]) -> QueryResult:
        """Begin a query and wait until its time is over. Raises as `ask`."""
        query = _OpenQuery()

        def register(serf: Serf, now: float) -> QueryKey:
            key = begin(serf, now)
            self._queries[key] = query
            return key

        key = await self.ask(register)
        try:
            await query.finished.wait()
        finally:
            self._queries.pop(key, None)
        return QueryResult(acks=tuple(query.acks), answers=query.answers)

    def serve(self, serf: Serf, now: float) -> None:
        """Carry out the calls that wait. Calls that are added meanwhile wait for the next round."""
        for _ in range(len(self._waiting)):
            request = self._waiting.popleft()
            try:
                request.value = request.call(serf, now)
            except EventLogError as error:
                request.fail(error)
            else:
                request.done.set()

    def report(self, event: Event) -> None:
        """Give the acks and answers of our queries to the callers that wait for them; other events are ignored."""
        match event:
            case QueryAcked(key=key, sender=sender):
                if (query := self._queries.get(key)) is not None:
                    query.acks.append(sender)
            case QueryAnswered(key=key, sender=sender, payload=payload):
                if (query := self._queries.get(key)) is not None:
                    query.answers[sender] = payload
            case QueryFinished(key=key):
                if (query := self._queries.get(key)) is not None:
                    query.finished.set()
            case _:
                pass

    def close(self) -> None:
        """Fail the calls that wait, and all later ones, with ShuttingDown."""
        self._is_closed = True
        while self._waiting:
            self._waiting.popleft().fail(_ended())


def _ended() -> ShuttingDown:
    return ShuttingDown("gossip has ended on this node")
