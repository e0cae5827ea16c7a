"""What clients did and were told, in order: the only thing a checker looks at."""

import enum
from collections.abc import Iterable, Sequence

import attrs


class Outcome(enum.Enum):
    """What a client knows of its call."""

    OPEN = "open"
    """No answer yet; at the end: as MAYBE."""
    OK = "ok"
    MAYBE = "maybe"
    """It may have had its effect, or may have it later."""
    REFUSED = "refused"
    """It had no effect and never will."""


@attrs.define(slots=True, kw_only=True, eq=False)
class Append:
    """A call that appends `values` to the log.

    Attributes:
        called, returned: places in the history; `returned` is None without an answer.
        offset: of the first value, when the answer said so.
    """

    client: str
    values: tuple[bytes, ...]
    called: int
    returned: int | None = None
    outcome: Outcome = Outcome.OPEN
    offset: int | None = None

    @property
    def took_effect_surely(self) -> bool:
        return self.outcome is Outcome.OK


@attrs.define(slots=True, kw_only=True, eq=False)
class ReadEnd:
    """A linearizable read of the log's end (the high watermark)."""

    client: str
    called: int
    returned: int | None = None
    outcome: Outcome = Outcome.OPEN
    end: int | None = None


@attrs.frozen(slots=True, kw_only=True)
class Consumed:
    """A record that a consumer was given, at `place` in the history.

    `after_removal`: it had been told that what comes before was removed.
    """

    consumer: str
    offset: int
    value: bytes
    place: int
    after_removal: bool = False


Call = Append | ReadEnd


@attrs.define(slots=True, eq=False)
class History:
    """One log's calls and consumed records. Values are unique: a value names its append."""

    appends: list[Append] = attrs.field(factory=list)
    reads: list[ReadEnd] = attrs.field(factory=list)
    consumed: list[Consumed] = attrs.field(factory=list)
    _places: int = 0

    def append(self, client: str, values: Iterable[bytes]) -> Append:
        """A call begins."""
        call = Append(client=client, values=tuple(values), called=self._next_place())
        self.appends.append(call)
        return call

    def read_end(self, client: str) -> ReadEnd:
        """A call begins."""
        call = ReadEnd(client=client, called=self._next_place())
        self.reads.append(call)
        return call

    def appended(self, call: Append, offset: int | None) -> None:
        """It is acknowledged; `offset` None when the answer carried none."""
        self._return(call, Outcome.OK)
        call.offset = offset

    def read(self, call: ReadEnd, end: int) -> None:
        self._return(call, Outcome.OK)
        call.end = end

    def gave_up(self, call: Call) -> None:
        """The outcome of the call is unknown."""
        self._return(call, Outcome.MAYBE)

    def was_refused(self, call: Call) -> None:
        self._return(call, Outcome.REFUSED)

    def consume(self, consumer: str, offset: int, value: bytes, *, after_removal: bool = False) -> None:
        self.consumed.append(
            Consumed(consumer=consumer, offset=offset, value=value, place=self._next_place(), after_removal=after_removal)
        )

    def calls(self) -> Sequence[Call]:
        """All calls in the order in which they began."""
        return sorted([*self.appends, *self.reads], key=lambda call: call.called)

    def _return(self, call: Call, outcome: Outcome) -> None:
        assert call.outcome is Outcome.OPEN, "a call returns once"
        call.returned = self._next_place()
        call.outcome = outcome

    def _next_place(self) -> int:
        self._places += 1
        return self._places
