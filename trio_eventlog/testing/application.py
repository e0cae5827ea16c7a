"""Faults of the application itself: its task is cancelled, or its machine dies, at any step that it takes.

    async def test_each_order_is_shipped_once(eventlog_cluster):
        shop = Shop()                                           # what outlives the application: its database
        await eventlog_cluster.run_app(ship_orders, shop)       # ship_orders(client, shop), ended and started again
        assert shop.shipped == ORDERS

Nodes that break are one half of what can go wrong; the other half is the program that uses them. Which step a fault
has to hit is not known beforehand, so the step is drawn: by the seed, or by Hypothesis, which then looks for the earliest one that
does harm.
"""

import enum
import random
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

FAULTS_MAX = 6
STEP_MAX = 256
"""Latest step that is drawn. A consumer of half a dozen records takes some eighty steps, its client's included."""


class AppFaultKind(enum.Enum):
    """What ends the application."""

    CANCEL = "cancel"
    """Its task is cancelled, as by a timeout or a request that was given up: the process goes on, and so does its client."""
    KILL = "kill"
    """Its machine dies: not another line of it runs, no `finally`, and its connections break."""


@attrs.frozen(slots=True)
class AppFault:
    """One end of the application.

    Attributes:
        at_step: which step of its tasks is the last one, counted from the start of the application; a step is what a task does from
            one checkpoint to the next. Steps that its client takes for it count. An application that is done by then is not hit.
    """

    kind: AppFaultKind
    at_step: int

    def __str__(self) -> str:
        return f"{self.kind.value} at step {self.at_step}"


def draw_app_faults(rng: random.Random, faults_max: int = FAULTS_MAX, step_max: int = STEP_MAX) -> list[AppFault]:
    """One to `faults_max` faults. Half of the steps are drawn evenly and half by their logarithm, for short programs."""
    count = rng.randrange(1, faults_max + 1)
    steps = (rng.randrange(1, step_max + 1) if rng.random() < 0.5 else round(step_max ** rng.random()) for _ in range(count))
    return [AppFault(rng.choice(list(AppFaultKind)), step) for step in steps]


def app_faults(*, faults_max: int = FAULTS_MAX, step_max: int = STEP_MAX) -> "SearchStrategy[list[AppFault]]":
    """A Hypothesis strategy for `Cluster.run_app(..., faults=...)`. Shrinks to few faults, at early steps."""
    from hypothesis import strategies as st

    # Small numbers first by more than their share, as above.
    step = st.one_of(st.integers(1, min(64, step_max)), st.integers(1, step_max))
    return st.lists(st.builds(AppFault, st.sampled_from(AppFaultKind), step), max_size=faults_max)


class AppRun(trio.abc.Instrument):
    """One start of an application, on a machine whose client is there already. Used by `Cluster.run_app`.

    Args:
        fault: ends it. None: it runs to its end.
        kill: called in the very step in which the machine dies.

    Attributes:
        steps: taken so far by the application's tasks.
        is_cut_short: the fault has ended it.
        result: what the application returned.
    """

    def __init__(self, fault: AppFault | None, kill: Callable[[], None]) -> None:
        self._fault = fault
        self._kill = kill
        self._scope = trio.CancelScope()
        self.steps = 0
        self.is_cut_short = False
        self.result: Any = None

    async def run(self, app: Callable[..., Awaitable[object]], *args: object) -> None:
        """Until it returns, or is cancelled. Of one that is killed nothing returns: it never takes another step."""
        token = _run_of_task.set(self)
        trio.lowlevel.add_instrument(self)
        try:
            with self._scope:
                self.result = await app(*args)
                # It was done before a cancellation could reach it.
                self.is_cut_short = False
        finally:
            trio.lowlevel.remove_instrument(self)
            _run_of_task.reset(token)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._fault is None or task.context.get(_run_of_task) is not self:
            return
        self.steps += 1
        if self.steps < self._fault.at_step:
            return
        (fault, self._fault) = (self._fault, None)
        self.is_cut_short = True
        if fault.kind is AppFaultKind.CANCEL:
            self._scope.cancel()
        else:
            self._kill()


_run_of_task: ContextVar[AppRun | None] = ContextVar("run of an application", default=None)
"""The run that a task belongs to: tasks inherit it from the task that starts them."""


def faults_text(faults: Sequence[AppFault]) -> str:
    """For the story that a failure tells."""
    return ", ".join(map(str, faults)) or "nothing"
