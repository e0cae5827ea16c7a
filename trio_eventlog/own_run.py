"""Objects that belong to one run of Trio, and refuse calls from anywhere else before these can do harm.

Called from another thread's run, a client would wake tasks of its own run from there, and break both; called from asyncio, it fails
somewhere inside Trio with an error about Trio.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from trio_eventlog.errors import WrongRun

T = TypeVar("T")

NO_RUN = (
    "there is no run of Trio here: call this from a task of Trio, below trio.run(...). Beside asyncio, Trio can run as a guest:"
    " trio.lowlevel.start_guest_run"
)


class OwnRun:
    """The run of Trio in which this was made. Raises WrongRun where there is none."""

    __slots__ = ("_token",)

    def __init__(self) -> None:
        self._token = _current()

    def check(self) -> None:
        """Raises WrongRun unless the caller is in that run."""
        if _current() is not self._token:
            raise WrongRun(
                "this belongs to another run of Trio, in another thread or an earlier one: make one for each run, or pass the call"
                " to its own run (trio.from_thread.run)"
            )


def check_is_in_trio() -> None:
    """Raises WrongRun unless the caller is in a run of Trio."""
    _current()


def belongs_to_run(cls: type[T]) -> type[T]:
    """Have every public method of a class call `self._run.check()` first; for async ones when they are called, not when awaited."""
    for name, method in vars(cls).copy().items():
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, _checked(method))
    return cls


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._run.check()
        return method(self, *args, **kwargs)

    return call


def _current() -> trio.lowlevel.TrioToken:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise WrongRun(NO_RUN) from None
