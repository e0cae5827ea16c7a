"""One integer seed, one run: randomness by name, Trio's scheduling in a fixed order, and a hash to compare runs by.

Trio runs the tasks of a batch in random order, on purpose. A private switch makes that order depend on a seed, and `Freezer` takes
tasks out of a private queue; this is the only file that touches such things, and tests/sim/test_determinism.py notices when a new
Trio no longer has them.
"""

import contextlib
import hashlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import trio
import trio.testing
from trio._core import _run

T = TypeVar("T")

SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
LINES_KEPT = 200


def derive(seed: int, name: str) -> random.Random:
    """The generator called `name` of a run: a draw more in one of them shifts no other. The same in every process."""
    # Seeding with text hashes it by SHA-512, not by the process's own salted hash.
    return random.Random(f"{seed}/{name}")


@contextlib.contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Trio runs begun inside the block schedule their tasks in an order that follows from `seed`.

    Not for several threads that run Trio at once: the switch is global.

    Raises:
        RuntimeError: this Trio has no such switch any more.
    """
    generator = getattr(_run, "_r", None)
    if not hasattr(_run, SWITCH) or not isinstance(generator, random.Random):
        raise RuntimeError(f"trio {trio.__version__} cannot be made deterministic in the way known here: look at trio._core._run")
    former = getattr(_run, SWITCH)
    state = generator.getstate()
    setattr(_run, SWITCH, True)
    generator.seed(f"{seed}/trio")
    try:
        yield
    finally:
        setattr(_run, SWITCH, former)
        generator.setstate(state)


def run(
    function: Callable[..., Awaitable[T]],
    *args: object,
    seed: int = 0,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
    seconds_max: float = math.inf,
) -> T:
    """`trio.run` in virtual time, scheduled by `seed`. Time jumps whenever every task waits.

    Args:
        clock, instruments: as for `trio.run`. They make it fit for `pytest.mark.trio(run=...)`.

    Raises:
        trio.TooSlowError: after `seconds_max` of virtual time. What waits for something that never comes would wait for ever
            while others tick.
    """

    async def bounded() -> T:
        with trio.fail_after(seconds_max):
            return await function(*args)

    clock = clock or trio.testing.MockClock(autojump_threshold=0.0)
    with deterministic_scheduling(seed):
        return trio.run(bounded, clock=clock, instruments=instruments)


class Freezer(trio.abc.Instrument):
    """Stops tasks as SIGSTOP stops a process, without their knowing: time passes, timers run out, bytes arrive, and they see all of
    it when they go on. It works in an `async with freezer.working():` block.

    Trio has no such thing. But whatever wakes a task goes through its queue of tasks to run, from which this takes those that are
    not to run yet.

    Args:
        is_frozen: asked whenever a task is woken.
    """

    def __init__(self, is_frozen: Callable[[trio.lowlevel.Task], bool]) -> None:
        self._is_frozen = is_frozen
        self._held: list[trio.lowlevel.Task] = []

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if self._is_frozen(task):
            last = _run.GLOBAL_RUN_CONTEXT.runner.runq.pop()
            assert last is task, "Trio puts a task at the end of its queue, then tells its instruments"
            self._held.append(task)

    def changed(self) -> None:
        """`is_frozen` answers differently from now on: what it does not hold any more is run next.

        A task that was woken just before it was frozen takes one step more.
        """
        held, self._held = self._held, []
        queue = _run.GLOBAL_RUN_CONTEXT.runner.runq
        for task in held:
            (self._held if self._is_frozen(task) else queue).append(task)


class Trace:
    """What happened in a run, as a running hash and its last lines.

    Two runs of one seed that differ somewhere differ in `digest` from there on.
    """

    def __init__(self, lines_kept: int = LINES_KEPT) -> None:
        self._hash = hashlib.sha256()
        self.count = 0
        self.lines: deque[str] = deque(maxlen=lines_kept)

    def add(self, line: str) -> None:
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        self.count += 1
        self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
