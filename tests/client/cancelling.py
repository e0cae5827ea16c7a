"""Cancel a call at its n-th checkpoint, for every n that it has."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from trio_eventlog.testing import determinism

CHECKPOINTS_MAX = 500
"""A call that has more of them than this waits in a loop: cut its scenario short."""


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task has taken so many steps: it waits at a checkpoint then, or is about to go on from one."""

    def __init__(self, task: trio.lowlevel.Task, step: int, scope: trio.CancelScope) -> None:
        self._task = task
        self._left = step
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(step: int, call: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
    """Make the call in this task, cancelled after its `step`-th step (0: before it begins). Whether it returned, and what."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), step, scope)
        if step == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        try:
            return True, await call()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return False, None


def at_every_checkpoint(scenario: Callable[[int], Awaitable[bool]]) -> int:
    """Run `scenario(step)` for each step, each in a run of its own, until it says that the call returned. How many there were."""
    for step in range(CHECKPOINTS_MAX):
        if determinism.run(scenario, step):
            return step
    raise AssertionError(f"the call has more than {CHECKPOINTS_MAX} checkpoints")
