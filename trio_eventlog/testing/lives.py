"""Who a task belongs to in a simulated cluster: the life of a node, or of an application under test."""

from contextvars import ContextVar

import attrs
import trio

from trio_eventlog.agent import Node
from trio_eventlog.errors import EventLogError, StorageFailed
from trio_eventlog.net.network import BoundListener
from trio_eventlog.testing.network import SimHost


class Host:
    """A node's `Network` for one life: after a crash nothing of it reaches anybody, whatever its tasks still try."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self.is_down = False

    async def open_stream(self, address: str) -> trio.abc.Stream:
        self._check()
        stream = await self._host.open_stream(address)
        if self.is_down:
            await trio.aclose_forcefully(stream)
        self._check()
        return stream

    async def listen(self, address: str) -> BoundListener:
        self._check()
        return await self._host.listen(address)

    def _check(self) -> None:
        if self.is_down:
            raise OSError("the simulated machine is down")


@attrs.define(slots=True, eq=False)
class AppLife:
    """The machine of an application under test from one start to its end."""

    host: Host
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    """It has ended, or was killed: then its tasks stand still for ever."""
    is_paused: bool = False
    failure: BaseException | None = None


@attrs.define(slots=True, eq=False)
class Life:
    """A node from one start to its end."""

    host: Host
    may_fail: bool
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    leave: trio.Event = attrs.field(factory=trio.Event)
    over: trio.Event = attrs.field(factory=trio.Event)
    node: Node | None = None
    is_crashed: bool = False
    is_paused: bool = False
    is_outcast: bool = False
    failure: BaseException | None = None


life_of_task: ContextVar[Life | AppLife | None] = ContextVar("life", default=None)
"""The life of the node or application that a task belongs to: tasks inherit it from the task that starts them."""


def is_paused(task: trio.lowlevel.Task) -> bool:
    """The task belongs to a process that stands still."""
    life = task.context.get(life_of_task)
    return life is not None and life.is_paused


def is_outcast(task: trio.lowlevel.Task) -> bool:
    """Whether the task belongs to a node that was started as one that no other is to hear (`Cluster.start`, `start_copy`)."""
    life = task.context.get(life_of_task)
    return isinstance(life, Life) and life.is_outcast


def innermost(error: BaseException) -> BaseException:
    """The first error inside of all groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason_of(error: BaseException) -> str:
    """The innermost error of a group, as text: nurseries wrap."""
    error = innermost(error)
    return str(error) if isinstance(error, EventLogError) else repr(error)


def is_death(error: BaseException) -> bool:
    """What the tasks of a machine that went down run into: its disk and its network are gone."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_death, error.exceptions))
    return isinstance(error, StorageFailed | OSError | trio.ClosedResourceError)
