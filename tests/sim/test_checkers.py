"""The checkers find what is wrong, and nothing else."""

import random
import time
from collections.abc import Callable

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trio_eventlog.testing.checkers import LOG_MODEL, Interval, Model, check_log, linearizable, log_linearizable
from trio_eventlog.testing.history import Append, History, Outcome, ReadEnd


def simulated(rng: random.Random, clients: int, calls: int, *, gives_up: bool = True) -> tuple[History, list[bytes]]:
    """A right history: calls overlap, take effect at some moment in between, and some are given up."""
    history = History()
    log: list[bytes] = []
    under_way: dict[str, tuple[object, object]] = {}
    number = 0
    while number < calls or under_way:
        client = f"c{rng.randrange(clients)}"
        if client not in under_way:
            if number >= calls:
                client = rng.choice(list(under_way))
            else:
                number += 1
                if rng.random() < 0.3:
                    under_way[client] = (history.read_end(client), None)
                else:
                    values = tuple(b"%d.%d" % (number, at) for at in range(rng.randrange(1, 4)))
                    under_way[client] = (history.append(client, values), None)
                continue
        call, effect = under_way[client]
        if effect is None and (not gives_up or rng.random() < 0.8):
            if hasattr(call, "end"):
                under_way[client] = (call, len(log))
            else:
                under_way[client] = (call, len(log))
                log += call.values  # type: ignore[attr-defined]
            continue
        del under_way[client]
        if effect is None or (gives_up and rng.random() < 0.1):
            history.gave_up(call)  # type: ignore[arg-type]
        elif hasattr(call, "end"):
            history.read(call, effect)  # type: ignore[arg-type]
        else:
            history.appended(call, effect)  # type: ignore[arg-type]
    history.consumed.clear()
    for offset, value in enumerate(log):
        history.consume("reader", offset, value)
    return history, log


@given(st.integers(0, 1 << 32))
@settings(max_examples=200)
def test_right_histories_pass_both_checkers(seed: int) -> None:
    """No false alarm."""
    rng = random.Random(seed)
    history, log = simulated(rng, 3, 12)
    assert check_log(history, log) == []
    assert log_linearizable(history)


@given(st.integers(0, 1 << 32), st.sampled_from(["offset", "end", "early"]))
@settings(max_examples=200)
def test_whatever_the_search_refuses_the_log_checker_refuses_too(seed: int, damage: str) -> None:
    """One answer is changed: when no order explains it any more, the quick checker says so as well."""
    rng = random.Random(seed)
    history, log = simulated(rng, 3, 10)
    appends = [call for call in history.appends if call.offset is not None]
    reads = [call for call in history.reads if call.end is not None]
    if damage == "offset" and appends:
        call = rng.choice(appends)
        assert call.offset is not None
        call.offset = max(0, call.offset + rng.choice([-1, 1, 2]))
    elif damage == "end" and reads:
        read = rng.choice(reads)
        assert read.end is not None
        read.end = max(0, read.end + rng.choice([-2, -1, 1, 2]))
    elif damage == "early" and reads:
        # It returned before it was called by the others' clock: an answer from the past.
        read = rng.choice(reads)
        read.called = (history._places) * 2
        read.returned = read.called + 1
    if not log_linearizable(history):
        assert check_log(history, log) != []


def acknowledged(history: History, rng: random.Random) -> Append:
    return rng.choice([call for call in history.appends if call.outcome is Outcome.OK])


def finished_read(history: History, rng: random.Random) -> ReadEnd:
    return rng.choice([call for call in history.reads if call.outcome is Outcome.OK])


def lose(history: History, log: list[bytes], rng: random.Random) -> None:
    del log[log.index(rng.choice(acknowledged(history, rng).values))]


def double(history: History, log: list[bytes], rng: random.Random) -> None:
    log.insert(rng.randrange(len(log) + 1), rng.choice(log))


def invent(history: History, log: list[bytes], rng: random.Random) -> None:
    log.insert(rng.randrange(len(log) + 1), b"never sent")


def change(history: History, log: list[bytes], rng: random.Random) -> None:
    log[rng.randrange(len(log))] = b"never sent"


def swap(history: History, log: list[bytes], rng: random.Random) -> None:
    at = log.index(acknowledged(history, rng).values[0])
    other = rng.choice([place for place in range(len(log)) if place != at])
    log[at], log[other] = log[other], log[at]


def move_offset(history: History, log: list[bytes], rng: random.Random) -> None:
    call = acknowledged(history, rng)
    assert call.offset is not None
    call.offset += rng.choice([-1, 1, 5])


def refuse_what_is_there(history: History, log: list[bytes], rng: random.Random) -> None:
    acknowledged(history, rng).outcome = Outcome.REFUSED


def read_beyond(history: History, log: list[bytes], rng: random.Random) -> None:
    finished_read(history, rng).end = len(log) + rng.randrange(1, 3)


def read_the_past(history: History, log: list[bytes], rng: random.Random) -> None:
    """Asked once everything was over, it answers what was true before the last acknowledged append."""
    last = max((call for call in history.appends if call.outcome is Outcome.OK), key=lambda call: call.offset or 0)
    history.read(history.read_end("late"), last.offset or 0)


def skip_one(history: History, log: list[bytes], rng: random.Random) -> None:
    del history.consumed[rng.randrange(1, len(history.consumed) - 1)]


def see_again(history: History, log: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(history.consumed))
    history.consumed.insert(at, history.consumed[at])


def see_another(history: History, log: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(history.consumed))
    history.consumed[at] = attrs.evolve(history.consumed[at], value=b"something else")


DAMAGES = [lose, double, invent, change, swap, move_offset, refuse_what_is_there, read_beyond, read_the_past]
TO_CONSUMERS = [skip_one, see_again, see_another]
SEEN_BY_THE_SEARCH = [move_offset, read_beyond, read_the_past]
"""It does not look at the log that was found."""


@pytest.mark.parametrize("damage", DAMAGES + TO_CONSUMERS, ids=lambda damage: damage.__name__)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_a_damaged_history_is_refused(damage: Callable[[History, list[bytes], random.Random], None], seed: int) -> None:
    """Whatever the history was like, one such damage is always noticed: by the log checker, and by the search if it can."""
    rng = random.Random(seed)
    # The search may explain a wrong offset by appends that were given up; so here every call is answered.
    history, log = simulated(rng, 3, 12, gives_up=damage not in SEEN_BY_THE_SEARCH)
    assume(len(log) > 2 and any(call.outcome is Outcome.OK for call in history.appends))
    assume(damage is not read_beyond or any(call.outcome is Outcome.OK for call in history.reads))
    damage(history, log, rng)
    assert check_log(history, log) != []
    assert damage not in SEEN_BY_THE_SEARCH or not log_linearizable(history)


def base() -> tuple[History, list[bytes]]:
    history = History()
    first = history.append("c1", [b"a", b"b"])
    history.appended(first, 0)
    second = history.append("c2", [b"c"])
    history.appended(second, 2)
    read = history.read_end("c1")
    history.read(read, 3)
    return history, [b"a", b"b", b"c"]


def test_the_plain_case_is_right() -> None:
    history, log = base()
    assert check_log(history, log) == []
    assert log_linearizable(history)


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ([b"a", b"b"], "was acknowledged at 2 and is not there"),
        ([b"a", b"b", b"c", b"c"], "twice"),
        ([b"a", b"b", b"c", b"x"], "never sent"),
        ([b"c", b"a", b"b"], "was acknowledged at 0 and is at 1"),
        ([b"a", b"c", b"b"], "torn"),
    ],
)
def test_a_log_that_is_not_what_was_acknowledged(log: list[bytes], problem: str) -> None:
    """Lost, doubled, invented, moved, torn."""
    history, _ = base()
    assert any(problem in text for text in check_log(history, log))


OUTCOMES = {
    Outcome.OK: lambda history, call: history.appended(call, 0),
    Outcome.MAYBE: lambda history, call: history.gave_up(call),
    Outcome.OPEN: lambda history, call: None,
    Outcome.REFUSED: lambda history, call: history.was_refused(call),
}
"""How each outcome comes to be, for an append of the first records."""

BREACHES: dict[str, tuple[list[bytes], dict[Outcome, str | None]]] = {
    # What the log holds of an append of [a, b], and what is to be said of it by the append's outcome; None: all is well.
    "there": ([b"a", b"b"], {Outcome.OK: None, Outcome.MAYBE: None, Outcome.OPEN: None, Outcome.REFUSED: "was refused"}),
    "not there": ([], {Outcome.OK: "is not there", Outcome.MAYBE: None, Outcome.OPEN: None, Outcome.REFUSED: None}),
    "doubled": ([b"a", b"b", b"a", b"b"], dict.fromkeys(Outcome, "is in the log twice")),
    "half of it doubled": ([b"a", b"b", b"b"], dict.fromkeys(Outcome, "is in the log twice")),
    "torn off": ([b"a"], dict.fromkeys(Outcome, "is torn")),
    "its head torn off": ([b"b"], dict.fromkeys(Outcome, "is torn")),
    "turned round": ([b"b", b"a"], dict.fromkeys(Outcome, "is torn")),
    "elsewhere": (
        [b"z", b"a", b"b"],
        {Outcome.OK: "was acknowledged at 0 and is at 1", Outcome.MAYBE: None, Outcome.OPEN: None, Outcome.REFUSED: "was refused"},
    ),
}


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("breach", BREACHES)
def test_each_breach_with_each_outcome(breach: str, outcome: Outcome) -> None:
    """Nobody consumed, so that nothing else gives the breach away: a double of an append without an answer is one too."""
    log, problems = BREACHES[breach]
    expected = problems[outcome]
    history = History()
    OUTCOMES[outcome](history, history.append("c1", [b"a", b"b"]))
    if b"z" in log:
        history.gave_up(history.append("c2", [b"z"]))
    found = check_log(history, log)
    assert bool(found) is (expected is not None), found
    assert expected is None or any(expected in text for text in found), found


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.MAYBE, Outcome.OPEN, Outcome.REFUSED])
def test_the_search_heeds_only_what_was_answered(outcome: Outcome) -> None:
    """An acknowledged append at a wrong offset cannot be explained; one without an answer, or refused, explains nothing."""
    history = History()
    history.appended(history.append("c1", [b"a"]), 0)
    call = history.append("c2", [b"b"])
    if outcome is not Outcome.OPEN:
        history._return(call, outcome)
    call.offset = 5
    history.read(history.read_end("c1"), 1)
    # Acknowledged, it would have to be at 5; refused or open, it may never have had its effect.
    assert log_linearizable(history) is (outcome is not Outcome.OK)


def test_an_append_before_one_that_was_over_when_it_began() -> None:
    """Both checkers: the order of the log contradicts the order of time."""
    history = History()
    first = history.append("c1", [b"a"])
    history.appended(first, 1)
    second = history.append("c2", [b"b"])
    history.appended(second, 0)
    assert not log_linearizable(history)
    assert any("reached to" in text for text in check_log(history, [b"b", b"a"]))


def test_a_read_of_the_past() -> None:
    """The end goes back in real time, or is below what was acknowledged."""
    history, log = base()
    read = history.read_end("c3")
    history.read(read, 2)
    assert not log_linearizable(history)
    assert any("known to be 3 before" in text for text in check_log(history, log))


def test_a_read_of_the_future() -> None:
    """It cannot count what is sent only after it has returned, nor what never was."""
    history = History()
    read = history.read_end("c3")
    history.read(read, 1)
    append = history.append("c1", [b"a"])
    history.appended(append, 0)
    assert not log_linearizable(history)
    assert any("before all of that was sent" in text for text in check_log(history, [b"a"]))
    assert any("the log ends before 0" in text for text in check_log(history, []))


def test_a_refused_append_that_is_there_nevertheless() -> None:
    """Refused means never; given up means perhaps."""
    for refuse in (True, False):
        history = History()
        append = history.append("c1", [b"a"])
        (history.was_refused if refuse else history.gave_up)(append)
        assert bool(check_log(history, [b"a"])) is refuse
        assert check_log(history, []) == []


def test_consumers_that_see_gaps_repetitions_changes_and_the_future() -> None:
    """Each of them by itself."""
    history, log = base()
    for at in (0, 1, 2):
        history.consume("right", at, log[at])
    assert check_log(history, log) == []
    history.consume("gap", 0, b"a")
    history.consume("gap", 2, b"c")
    assert any("offset 2 after 0" in text for text in check_log(history, log))
    history, log = base()
    history.consume("again", 0, b"a")
    history.consume("again", 0, b"a")
    assert any("offset 0 after 0" in text for text in check_log(history, log))
    history, log = base()
    history.consume("changed", 1, b"x")
    assert any("where b'b' is" in text for text in check_log(history, log))
    history = History()
    history.consume("early", 0, b"a")
    history.appended(history.append("c1", [b"a"]), 0)
    assert any("before it was sent" in text for text in check_log(history, [b"a"]))


def test_the_search_on_a_register() -> None:
    """The textbook examples, with another model than a log."""

    def step(state: int, operation: tuple[str, int]) -> int | None:
        kind, value = operation
        return value if kind == "write" else state if state == value else None

    register = Model(initial=0, step=step)
    write, read_new, read_old = ("write", 1), ("read", 1), ("read", 0)
    overlapping = [Interval(write, 1, 6), Interval(read_new, 2, 3), Interval(read_old, 4, 5)]
    assert not linearizable(register, overlapping), "new, then old"
    overlapping = [Interval(write, 1, 6), Interval(read_old, 2, 3), Interval(read_new, 4, 5)]
    assert linearizable(register, overlapping)
    assert linearizable(register, [Interval(write, 1, None), Interval(read_old, 2, 3)]), "a write that never came"
    assert linearizable(register, [Interval(write, 1, None), Interval(read_old, 2, 3), Interval(read_new, 4, 5)])
    assert not linearizable(register, [Interval(read_new, 2, 3)])
    assert linearizable(LOG_MODEL, [])


def test_the_log_checker_takes_long_histories() -> None:
    """Near-linear: ten times the calls, nowhere near a hundred times the time."""
    seconds = []
    for calls in (1000, 10_000):
        history, log = simulated(random.Random(1), 10, calls)
        before = time.process_time()
        assert check_log(history, log) == []
        seconds.append(time.process_time() - before)
    assert seconds[1] < 40 * seconds[0] + 0.05


def removed_and_left() -> tuple[History, list[bytes]]:
    """a b (acknowledged, removed), c d (acknowledged), of a log that begins at 2."""
    history = History()
    for offset, value in enumerate((b"a", b"b", b"c", b"d")):
        history.appended(history.append("c1", [value]), offset)
    return history, [b"c", b"d"]


def test_what_was_removed_on_purpose_need_not_be_there() -> None:
    history, left = removed_and_left()
    history.consume("c2", 0, b"a")
    history.consume("c2", 2, b"c", after_removal=True)
    read = history.read_end("c3")
    history.read(read, 4)
    assert check_log(history, left, 2) == []
    assert check_log(history, left) != []


def test_what_was_not_removed_has_to_be_there() -> None:
    history, left = removed_and_left()
    assert any("is not there" in text for text in check_log(history, left[:1], 2))
    assert any("is at" in text for text in check_log(history, [b"b", *left], 2))


def test_a_reader_passes_over_what_was_removed_and_nothing_else() -> None:
    history, left = removed_and_left()
    history.consume("c2", 0, b"a")
    history.consume("c2", 2, b"c")
    assert any("was given offset 2 after 0" in text for text in check_log(history, left, 2)), "it was not told"
    history, left = removed_and_left()
    history.consume("c2", 0, b"a")
    history.consume("c2", 3, b"d", after_removal=True)
    assert any("was given offset 3 after 0" in text for text in check_log(history, left, 2)), "2 was there"


def test_what_was_read_before_its_removal_is_judged_all_the_same() -> None:
    history, left = removed_and_left()
    history.consume("c2", 1, b"x")
    assert any("was given b'x' at 1" in text for text in check_log(history, left, 2))
    history, left = removed_and_left()
    read = history.read_end("c3")
    history.read(read, 1)
    assert any("known to be 4 before" in text for text in check_log(history, left, 2))
