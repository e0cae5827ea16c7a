"""The layer over the failure detector, rule by rule; and the known troubles of others."""

import random
import time
from collections.abc import Iterable

import attrs
import pytest
from gossip_kit import WIRE, address, alive, events, new_serf, of_type, sent
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.gossip_crypto import Keyring, encode_key
from trio_eventlog.codec.memberlist import decode_gossip_message
from trio_eventlog.codec.serf import decode_conflict_answer, decode_key_answer
from trio_eventlog.errors import CodecError, InvalidArgument, Overloaded
from trio_eventlog.gossip.events import (
    GossipStatus,
    KeysChanged,
    LeaveFinished,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberUpdated,
    MergeRefused,
    QueryAcked,
    QueryAnswered,
    QueryFinished,
    QueryKey,
    QueryReceived,
    UserEventReceived,
)
from trio_eventlog.gossip.filters import is_chosen, is_tame, matches
from trio_eventlog.gossip.lamport import LAMPORT_TIME_MAX, LamportClock
from trio_eventlog.gossip.messages import (
    CONFLICT_QUERY,
    OWN_VERSIONS,
    QUERY_FLAG_ACK,
    QUERY_FLAG_NO_REBROADCAST,
    RESPONSE_FLAG_ACK,
    Ack,
    Dead,
    ErrorText,
    EventsAt,
    JoinIntent,
    KeyOperation,
    LeaveIntent,
    MemberRecord,
    NameFilter,
    Ping,
    PushPull,
    Query,
    QueryResponse,
    Relay,
    RowStatus,
    SerfMessage,
    SerfState,
    Suspect,
    TagFilter,
    UserBytes,
    UserEvent,
    UserMessage,
)
from trio_eventlog.gossip.rumors import RumorQueue
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.gossip.settings import LAN, SerfSettings
from trio_eventlog.testing.defaults import default

HERE = address(99)
(ALIVE, LEAVING, LEFT, FAILED) = (GossipStatus.ALIVE, GossipStatus.LEAVING, GossipStatus.LEFT, GossipStatus.FAILED)


def hear(serf: Serf, *messages: SerfMessage, now: float = 0.0) -> None:
    """Messages of this layer arrive."""
    serf.receive([UserMessage(message) for message in messages], HERE, now)


def die(serf: Serf, number: int, now: float = 0.0, incarnation: int = 1) -> None:
    """m{number} fails, as the failure detector hears."""
    serf.receive([Dead(name=f"m{number}", incarnation=incarnation, accuser="mx")], HERE, now)


def go(serf: Serf, number: int, now: float = 0.0, incarnation: int = 1) -> None:
    """m{number} leaves, as the failure detector hears."""
    serf.receive([Dead(name=f"m{number}", incarnation=incarnation, accuser=f"m{number}")], HERE, now)


def status(serf: Serf, number: int) -> GossipStatus | None:
    member = serf.member(f"m{number}")
    return None if member is None else member.status


def leave_intent(number: int, at: int, *, prune: bool = False) -> LeaveIntent:
    return LeaveIntent(time=at, name=f"m{number}", prune=prune)


def join_intent(number: int, at: int) -> JoinIntent:
    return JoinIntent(time=at, name=f"m{number}")


def queued(*queues: RumorQueue) -> list[SerfMessage]:
    """What is to be spread; it stays queued."""
    found = []
    for queue in queues:
        for body in queue.take(1 << 20, 1 << 20, 1 << 20)[0]:
            message = decode_gossip_message(body)
            assert isinstance(message, UserMessage)
            found.append(message.message)
    return found


def intents(serf: Serf) -> list[SerfMessage]:
    return queued(serf._intent_rumors)


def state(**fields: object) -> SerfState:
    return SerfState(**{"time": 1, "status_times": {}, **fields})  # type: ignore[arg-type]


def exchange(records: Iterable[MemberRecord] = (), **fields: object) -> PushPull:
    return PushPull(members=tuple(records), state=state(**fields))


# --- Lamport clocks. ---


def test_lamport_clock() -> None:
    """Starts at 1; stamping uses the value and increments; a seen time pushes beyond itself."""
    clock = LamportClock()
    assert [clock.increment(), clock.increment(), clock.time] == [1, 2, 3]
    clock.witness(2)
    assert clock.time == 3
    clock.witness(3)
    assert clock.time == 4
    clock.witness(10)
    assert clock.time == 11


# --- Member status. ---


def test_members() -> None:
    """Ourselves from the start; others with tags when they are heard of."""
    serf = new_serf(members=1)
    assert {name: member.status for name, member in serf.members.items()} == {"m0": ALIVE, "m1": ALIVE}
    assert serf.members["m1"].tags == {"role": "eventlog"}
    serf.receive([alive(2)], HERE, 0.0)
    [joined] = events(serf, MemberJoined)
    assert (joined.member.name, joined.has_flapped) == ("m2", False)


def test_update() -> None:
    """Other tags in an alive message."""
    serf = new_serf(members=1)
    meta = WIRE.encode_tags({"role": "web"})
    serf.receive([alive(1, 2, meta=meta)], HERE, 0.0)
    assert [event.member.tags for event in events(serf, MemberUpdated)] == [{"role": "web"}]


def test_meta_that_is_not_understood() -> None:
    """No tags, but a member all the same."""
    serf = new_serf()
    serf.receive([alive(1, meta=b"\xff\xc1")], HERE, 0.0)
    assert serf.members["m1"].tags == {}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("fail", FAILED),
        ("intent fail", LEFT),
        ("intent go", LEFT),
        ("go", LEFT),
        ("intent", LEAVING),
        ("intent join", ALIVE),
        ("intent join fail", FAILED),
        ("fail intent", LEFT),
        ("fail back", ALIVE),
        ("intent go back", ALIVE),
    ],
)
def test_status(steps: str, expected: GossipStatus) -> None:
    """none, alive, leaving, left; or alive, failed; and back."""
    serf = new_serf(members=2)
    for at, step in enumerate(steps.split(), 1):
        match step:
            case "fail":
                die(serf, 1)
            case "go":
                go(serf, 1)
            case "intent":
                hear(serf, leave_intent(1, at))
            case "join":
                hear(serf, join_intent(1, at))
            case "back":
                serf.receive([alive(1, 5)], HERE, 1.0)
    assert status(serf, 1) is expected


def test_events_of_status() -> None:
    """Failed, then left by force; flapped when soon back, not later."""
    serf = new_serf(members=2)
    serf.actions.take()
    die(serf, 1, 10.0)
    hear(serf, leave_intent(1, 5), now=11.0)
    serf.receive([alive(1, 2)], HERE, 69.9)
    die(serf, 1, 100.0, incarnation=2)
    serf.receive([alive(1, 3)], HERE, 160.0)
    kinds = [type(event) for event in serf.actions.events]
    assert kinds == [MemberFailed, MemberLeft, MemberJoined, MemberFailed, MemberJoined]
    assert [event.has_flapped for event in events(serf, MemberJoined)] == [True, False]


def test_the_ack_carries_the_refutation() -> None:
    """The accusation beside a ping is acted on first, so that the asker has the answer in the same round trip."""
    serf = new_serf(members=1)
    ping = Ping(sequence=7, target="m0", source=address(1), source_name="m1")
    serf.receive([ping, Suspect(name="m0", incarnation=1, accuser="m1")], HERE, 0.0)
    assert [message for _, message in sent(serf.actions)] == [Ack(7), attrs.evolve(alive(0, 2), meta=serf.swim.own.meta)]


# --- Intents. ---


@pytest.mark.parametrize("make", [leave_intent, join_intent])
def test_old_intents_are_dropped(make: object) -> None:
    """And only new ones are passed on."""
    serf = new_serf(members=1)
    for at, is_news in ((5, True), (5, False), (4, False), (6, True)):
        before = len(serf._intent_rumors)
        serf._intent_rumors.take(1 << 20, 255, 1)
        hear(serf, make(1, at))  # type: ignore[operator]
        assert bool(len(serf._intent_rumors)) is is_news, at
        assert before <= 1
    assert serf.clock.time == 7


def test_two_intents_do_not_rebroadcast_each_other_for_ever() -> None:
    """The time is stored even where the status does not change (the intent storms of others)."""
    serf = new_serf(members=1)
    go(serf, 1)
    for at in (5, 6):
        hear(serf, leave_intent(1, at))
    serf._intent_rumors.take(1 << 20, 255, 1)
    for _ in range(3):
        for at in (5, 6):
            hear(serf, leave_intent(1, at))
            hear(serf, join_intent(1, at))
    assert intents(serf) == []


def test_an_intent_has_one_place_per_member() -> None:
    """Newer intents about a member replace older ones in the queue."""
    serf = new_serf(members=1)
    hear(serf, leave_intent(1, 5), join_intent(1, 6), leave_intent(1, 7))
    assert intents(serf) == [leave_intent(1, 7)]


@pytest.mark.parametrize(
    ("steps", "expected", "time"),
    [
        ([leave_intent(7, 5)], LEAVING, 5),
        ([join_intent(7, 5)], ALIVE, 5),
        ([leave_intent(7, 5), join_intent(7, 6)], ALIVE, 6),
        ([join_intent(7, 6), leave_intent(7, 5)], ALIVE, 6),
        ([leave_intent(7, 5), join_intent(7, 5)], LEAVING, 5),
    ],
)
def test_intents_come_before_their_member(steps: list[SerfMessage], expected: GossipStatus, time: int) -> None:
    """The newest is kept until the member is known."""
    serf = new_serf()
    hear(serf, *steps)
    serf.receive([alive(7)], HERE, 1.0)
    member = serf.members["m7"]
    assert (member.status, member.status_time) == (expected, time)


def test_intents_of_unknown_members_are_bounded() -> None:
    """In number and in time."""
    serf = new_serf(serf_settings=default(SerfSettings, intents_max=2))
    hear(serf, *(leave_intent(number, 5) for number in (7, 8, 9)))
    assert set(serf._members.intents) == {"m7", "m8"}
    hear(serf, leave_intent(7, 6))
    assert serf._members.intents["m7"].time == 6
    advance(serf, 0.0, 299.0)
    assert serf._members.intents
    advance(serf, 299.0, 320.0)
    assert not serf._members.intents


def advance(serf: Serf, now: float, until: float) -> float:
    """Punctual ticks; whoever is pinged answers."""
    while (deadline := max(now, serf.next_deadline())) <= until:
        now = deadline
        serf.wake(now)
        serf.tick(now)
        answer(serf, now)
    serf.wake(until)
    serf.tick(until)
    answer(serf, until)
    return until


def answer(serf: Serf, now: float) -> None:
    for where, ping in of_type(sent(serf.actions), Ping):
        serf.receive([Ack(ping.sequence)], where, now)
    serf.actions.datagrams.clear()


@pytest.mark.parametrize(("members", "told"), [(3, 3), (5, 4)])
def test_who_leaves_tells_others_directly(members: int, told: int) -> None:
    """As many as the setting allows; the rest hears the rumor."""
    serf = new_serf(members=members, serf_settings=default(SerfSettings, leave_told_max=4))
    serf.leave(0.0)
    intents_sent = [(where, one.message) for where, one in of_type(sent(serf.actions), UserMessage)]
    assert len({where for where, _ in intents_sent}) == len(intents_sent) == told
    assert {message for _, message in intents_sent} == {leave_intent(0, 1)}


def test_leave_intents_about_ourselves_are_refuted() -> None:
    """With a join intent that is later than the accusation."""
    serf = new_serf(members=1)
    hear(serf, leave_intent(0, 9))
    assert status(serf, 0) is ALIVE
    [join] = intents(serf)
    assert isinstance(join, JoinIntent)
    assert (join.name, join.time > 9) == ("m0", True)
    serf._intent_rumors.take(1 << 20, 255, 1)
    hear(serf, leave_intent(0, 9))
    assert intents(serf) == [], "an old accusation has been answered"


def test_a_restart_outdoes_its_former_leave() -> None:
    """A cluster that remembers us as left says so in the join's push/pull."""
    serf = new_serf()
    theirs = exchange(
        [MemberRecord(name="m0", address=address(0), incarnation=3, status=RowStatus.LEFT)],
        time=20,
        status_times={"m0": 12, "m1": 3},
        left_members=("m0",),
    )
    serf.merge(theirs, 0.0, is_first_join=True)
    serf.joined(0.0)
    assert status(serf, 0) is ALIVE
    assert serf.swim.own.incarnation == 4
    [join] = intents(serf)
    assert join.time > 13  # type: ignore[union-attr]


# --- Forced leave, prune, reap. ---


def test_force_leave() -> None:
    """A failed member becomes left, everywhere; unknown names and ourselves do not."""
    serf = new_serf(members=2)
    die(serf, 1)
    assert serf.force_leave("m1", 1.0)
    assert status(serf, 1) is LEFT
    assert intents(serf) == [leave_intent(1, 1)]
    assert not serf.force_leave("m9", 1.0)
    assert not serf.force_leave("m0", 1.0)


def test_prune_forgets_at_once_what_is_gone() -> None:
    """And the failure detector forgets it too."""
    serf = new_serf(members=2)
    die(serf, 1)
    serf.force_leave("m1", 1.0, prune=True)
    assert status(serf, 1) is None
    assert "m1" not in serf.swim.rows
    assert [event.member.name for event in events(serf, MemberReaped)] == ["m1"]


def test_an_older_intent_that_still_spreads_does_not_replace_a_prune() -> None:
    """It comes back from others after the member is forgotten here; then the others would never hear of the prune."""
    serf = new_serf(members=3)
    die(serf, 1)
    serf.force_leave("m1", 1.0)
    (older,) = intents(serf)
    serf.force_leave("m1", 1.0, prune=True)
    hear(serf, older)
    assert [intent.prune for intent in intents(serf)] == [True]


@pytest.mark.parametrize("comes_back", [False, True])
def test_prune_of_the_living_waits(comes_back: bool) -> None:
    """Time to leave, or to say that it lives."""
    serf = new_serf(members=2)
    hear(serf, leave_intent(1, 5, prune=True))
    assert status(serf, 1) is LEAVING
    if comes_back:
        hear(serf, join_intent(1, 6))
    advance(serf, 0.0, 40.0)
    assert status(serf, 1) is (ALIVE if comes_back else None)


def test_nobody_prunes_us() -> None:
    """Our own record stays, whatever is said."""
    serf = new_serf(members=1)
    hear(serf, leave_intent(0, 5, prune=True))
    advance(serf, 0.0, 40.0)
    assert status(serf, 0) is ALIVE


def test_reap() -> None:
    """Failed and left members are forgotten after their times, and not before."""
    serf = new_serf(members=4, serf_settings=default(SerfSettings, failed_kept_seconds=100.0, left_kept_seconds=200.0))
    die(serf, 1)
    go(serf, 2)
    now = advance(serf, 0.0, 100.0)
    assert (status(serf, 1), status(serf, 2)) == (FAILED, LEFT)
    now = advance(serf, now, 120.0)
    assert (status(serf, 1), status(serf, 2)) == (None, LEFT)
    advance(serf, now, 220.0)
    assert status(serf, 2) is None
    assert set(serf.members) == {"m0", "m3", "m4"}


def test_remembered_members_are_bounded() -> None:
    """Names that come and go, as a stranger may make them up: the longest gone is forgotten for the next, nobody who is here."""
    serf = new_serf(members=2, swim_settings=attrs.evolve(LAN, members_max=5))
    for number in range(3, 8):
        now = 100.0 * number
        serf.receive([alive(number)], HERE, now)
        die(serf, number, now)
        advance(serf, now, now + 99.0)
    assert set(serf.members) == {"m0", "m1", "m2", "m6", "m7"}
    assert serf.statistics()["members forgotten for others"] == 3
    assert [event.member.name for event in events(serf, MemberReaped)] == ["m3", "m4", "m5"]


def test_a_name_has_one_place_in_the_walk() -> None:
    """However often a stranger has it forgotten and brings it back: else nobody but it would be probed."""
    serf = new_serf(members=3)
    for incarnation in range(2, 50):
        die(serf, 1, incarnation=incarnation)
        hear(serf, leave_intent(1, incarnation, prune=True))
        assert "m1" not in serf.swim.rows
        serf.receive([alive(1, incarnation)], HERE, 0.0)
        assert sorted(serf.swim.table.order) == ["m0", "m1", "m2", "m3"]
    probed = {row.name for row in (serf.swim.table.next_to_probe(0.0) for _ in range(6)) if row is not None}
    assert probed == {"m1", "m2", "m3"}


def test_failed_members_are_tried_again() -> None:
    """Long after the failure detector has forgotten them, so that a partition heals; with `is_join`."""
    serf = new_serf(members=1)
    die(serf, 1)
    advance(serf, 0.0, 300.0)
    assert "m1" not in serf.swim.rows
    tried = [one for one in serf.actions.exchanges if one.is_join]
    assert len(tried) >= 8
    assert {(one.name, one.address) for one in tried} == {("m1", address(1))}


def test_few_failed_among_many_are_tried_less_often() -> None:
    """With the probability failed / alive."""
    serf = new_serf(members=20)
    die(serf, 1)
    advance(serf, 0.0, 3000.0)
    tried = [one for one in serf.actions.exchanges if one.is_join]
    assert 1 <= len(tried) <= 15


# --- Leaving. ---


def test_graceful_leave_in_order() -> None:
    """Leave intent until it is spread, then dead by our own word, then a moment of answering, then done."""
    serf = new_serf(members=3)
    serf.actions.take()
    serf.leave(0.0)
    assert status(serf, 0) is LEAVING
    assert serf.is_leaving
    now = 0.0
    story: list[str] = []
    while not serf.has_left:
        now = serf.next_deadline()
        serf.wake(now)
        serf.tick(now)
        for _, message in sent(serf.actions):
            if isinstance(message, UserMessage) and isinstance(message.message, LeaveIntent):
                story.append("intent")
            elif isinstance(message, Dead):
                assert message.name == message.accuser == "m0"
                story.append("dead")
        answer(serf, now)
    assert story == sorted(story, reverse=True), "all intents before the first dead message"
    assert {"intent", "dead"} == set(story)
    assert default(SerfSettings).leave_delay_seconds < now < 4.0
    assert status(serf, 0) is LEFT
    assert len(events(serf, LeaveFinished)) == 1
    assert serf.next_deadline() == float("inf")
    serf.tick(now + 10)
    serf.receive([Ping(sequence=1, target="m0")], HERE, now + 10)
    assert serf.actions.datagrams == []


def test_leave_alone_is_immediate() -> None:
    """Nobody has to be told."""
    serf = new_serf()
    serf.leave(0.0)
    assert serf.has_left
    serf.leave(0.0)
    assert len(events(serf, LeaveFinished)) == 1


def test_leave_does_not_wait_for_ever() -> None:
    """Five seconds per step at most, also when there is nobody who could be gossiped to."""
    serf = new_serf(members=2)
    serf.leave(0.0)
    now = 0.0
    while not serf.has_left:
        # Nothing is ever taken from the queues.
        serf.swim._next_gossip_at = now + 100.0
        serf.swim.prober._next_probe_at = now + 100.0
        now = serf.next_deadline()
        serf.wake(now)
        serf.tick(now)
    settings = default(SerfSettings)
    assert now == pytest.approx(2 * settings.broadcast_timeout_seconds + settings.leave_delay_seconds)


def test_the_leaving_are_not_in_status_times() -> None:
    """Otherwise a peer stores the time, drops the intent as old, and reports a failure. Ourselves first."""
    serf = new_serf(members=3)
    hear(serf, leave_intent(1, 5))
    die(serf, 2)
    go(serf, 3)
    theirs = serf.push_pull(is_join=False).state
    assert theirs is not None
    assert set(theirs.status_times) == {"m0", "m2", "m3"}
    assert theirs.left_members == ("m3",)
    serf.leave(0.0)
    theirs = serf.push_pull(is_join=False).state
    assert theirs is not None
    assert set(theirs.status_times) == {"m2", "m3"}


def test_no_exchange_is_begun_while_leaving() -> None:
    """Neither the periodic one nor a reconnect."""
    serf = new_serf(members=3)
    die(serf, 1)
    serf.leave(0.0)
    serf._reconnect()
    serf.swim._start_push_pull()
    assert serf.actions.exchanges == []
    serf.joined(0.0)
    assert not any(isinstance(one, JoinIntent) for one in intents(serf))


def test_a_leave_reaches_who_missed_the_intent() -> None:
    """By a push/pull from a third one, before or after the failure detector's word."""
    for order in ("state first", "dead first"):
        serf = new_serf(members=2)
        theirs = exchange(time=9, status_times={"m1": 8, "m2": 1}, left_members=("m1",))
        if order == "state first":
            serf.merge(theirs, 0.0)
            assert status(serf, 1) is LEAVING
            die(serf, 1)
        else:
            die(serf, 1)
            assert status(serf, 1) is FAILED
            serf.merge(theirs, 0.0)
        assert status(serf, 1) is LEFT, order


def test_who_came_back_is_not_told_of_as_left() -> None:
    """The status time is the join's by then: "left, one later" would hold one who has just come back for leaving."""
    serf = new_serf(members=2)
    hear(serf, leave_intent(1, 5))
    go(serf, 1)
    assert serf.push_pull(is_join=False).state.left_members == ("m1",)  # type: ignore[union-attr]
    hear(serf, join_intent(1, 9))
    assert status(serf, 1) is LEFT, "its alive message is still to come"
    theirs = serf.push_pull(is_join=False).state
    assert theirs is not None
    assert (theirs.left_members, theirs.status_times["m1"]) == ((), 9)
    hear(serf, leave_intent(1, 10))
    assert serf.push_pull(is_join=False).state.left_members == ("m1",)  # type: ignore[union-attr]


def test_a_leave_that_never_comes_is_forgotten() -> None:
    """Another's push/pull may say "left" of one who has come back: who is still here after 30 s is not leaving."""
    serf = new_serf(members=2)
    serf.merge(exchange(status_times={"m1": 9}, left_members=("m1",)), 0.0)
    now = advance(serf, 0.0, 29.0)
    assert status(serf, 1) is LEAVING
    advance(serf, now, 46.0)
    assert status(serf, 1) is ALIVE
    assert serf.members["m1"].status_time == 10


# --- Push/pull. ---


def test_push_pull_of_streams() -> None:
    """The answer is what we knew before, `is_join` echoed; then theirs is taken over."""
    serf = new_serf(members=1)
    theirs = PushPull(
        members=(MemberRecord(name="m5", address=address(5), incarnation=2, status=RowStatus.ALIVE, versions=OWN_VERSIONS),),
        is_join=True,
        state=state(time=7, event_time=8, query_time=9),
    )  # fmt: skip
    ours = serf.receive_stream(theirs, 0.0)
    assert isinstance(ours, PushPull)
    assert ours.is_join
    assert {one.name for one in ours.members} == {"m0", "m1"}
    assert status(serf, 5) is ALIVE
    assert (serf.clock.time, serf._events.clock.time, serf._queries.clock.time) == (7, 8, 9)


def test_clocks_witness_one_less() -> None:
    """The sender's clock is the time it would stamp next."""
    serf = new_serf()
    serf.merge(exchange(time=1), 0.0)
    assert serf.clock.time == 1
    serf.merge(exchange(time=0), 0.0)
    assert serf.clock.time == 1
    serf.merge(exchange(time=5), 0.0)
    assert serf.clock.time == 5


def test_refused_merges_change_nothing() -> None:
    """Another cluster's tag, no Serf at all, versions: an error for the dialler, an event for us."""
    serf = new_serf(accepts=lambda name, tags: tags.get("cluster", "a") == "a")
    other = attrs.evolve(alive(1), meta=WIRE.encode_tags({"cluster": "b"}))
    foreign = MemberRecord(
        name="m1", address=address(1), incarnation=1, status=RowStatus.ALIVE, meta=other.meta, versions=other.versions
    )
    old = attrs.evolve(foreign, meta=b"", versions=attrs.evolve(alive(1)).versions._replace(protocol=5, layer=0))
    for theirs in (exchange([foreign]), exchange([old]), PushPull(members=())):
        with pytest.raises(InvalidArgument, match="merge refused"):
            serf.receive_stream(theirs, 0.0)
    assert set(serf.members) == {"m0"}
    assert len(events(serf, MergeRefused)) == 3
    serf.receive([other], HERE, 0.0)
    assert set(serf.members) == {"m0"}, "two clusters must not merge through a recycled address either"


@pytest.mark.parametrize(("target", "answers"), [("m0", True), ("", True), ("m1", False)])
def test_pings_on_streams(target: str, answers: bool) -> None:
    """Answered, or closed when they are for another."""
    serf = new_serf()
    assert serf.receive_stream(Ping(sequence=4, target=target), 0.0) == (Ack(4) if answers else None)


def test_other_stream_messages() -> None:
    """User messages are taken, the rest is counted."""
    serf = new_serf()
    assert serf.receive_stream(UserMessage(UserEvent(time=1, name="e")), 0.0) is None
    assert len(events(serf, UserEventReceived)) == 1
    assert serf.receive_stream(ErrorText("oops"), 0.0) is None
    assert serf.receive_stream(UserBytes(b"?"), 0.0) is None
    serf.receive([UserBytes(b"?")], HERE, 0.0)
    assert serf.counts["stream messages not understood"] == 2
    assert serf.counts["user messages not understood"] == 1


def test_impossible_times_do_not_wear_out_the_clocks() -> None:
    """A forged time near the end of 64 bits would stop the cluster's clocks."""
    serf = new_serf(members=1)
    for at in (LAMPORT_TIME_MAX + 1, (1 << 64) - 1):
        hear(serf, join_intent(1, at), UserEvent(time=at, name="e"), leave_intent(1, at))
        serf.merge(exchange(time=at), 0.0)
        serf.merge(exchange(status_times={"m1": at}), 0.0)
    assert (serf.clock.time, serf._events.clock.time) == (1, 1)
    hear(serf, join_intent(1, LAMPORT_TIME_MAX))
    assert serf.clock.time == LAMPORT_TIME_MAX + 1


# --- Tags. ---


def test_set_tags() -> None:
    """A new alive message; too many are refused and change nothing."""
    serf = new_serf(members=1)
    serf.set_tags({"role": "eventlog", "v": "2"}, 0.0)
    assert serf.tags == {"role": "eventlog", "v": "2"}
    assert serf.members["m0"].tags == serf.tags
    assert serf.swim.own.incarnation == 2
    assert serf.members["m0"].incarnation == 2
    with pytest.raises(CodecError):
        serf.set_tags({"x": "y" * 512}, 0.0)
    assert serf.tags == {"role": "eventlog", "v": "2"}


# --- User events. ---


def test_events_are_delivered_once() -> None:
    """By time, name and payload; news is passed on."""
    serf = new_serf()
    event = UserEvent(time=5, name="deploy", payload=b"1")
    hear(serf, event, event, attrs.evolve(event, payload=b"2"), attrs.evolve(event, time=6), event)
    assert len(events(serf, UserEventReceived)) == 3
    assert len(serf._event_rumors) == 3
    assert serf._events.clock.time == 7


def test_old_events_are_dropped() -> None:
    """More than 512 ticks behind the clock."""
    serf = new_serf()
    hear(serf, UserEvent(time=1000, name="new"))
    hear(serf, UserEvent(time=1001 - 512, name="just"), UserEvent(time=1000 - 512, name="old"))
    assert [event.event.name for event in events(serf, UserEventReceived)] == ["new", "just"]


def test_remembered_events_are_bounded() -> None:
    """512 times, and so many of each."""
    serf = new_serf(serf_settings=default(SerfSettings, recent_per_time_max=2))
    hear(serf, *(UserEvent(time=3, name=str(number)) for number in range(4)))
    assert len(events(serf, UserEventReceived)) == 2
    hear(serf, *(UserEvent(time=at, name="e") for at in range(4, 2000)))
    assert len(serf._events._recent._seen) == 512


def test_remembered_events_are_bounded_in_bytes() -> None:
    """The oldest are forgotten for the newest, and what is forgotten is not news again."""
    serf = new_serf(serf_settings=default(SerfSettings, recent_bytes_max=30))
    flood = [UserEvent(time=at, name="e", payload=bytes(9)) for at in range(5, 9)]
    hear(serf, *flood, *flood)
    assert [event.event.time for event in events(serf, UserEventReceived)] == [5, 6, 7, 8]
    assert sorted(serf._events._recent._seen) == [6, 7, 8]


def test_own_events() -> None:
    """Stamped, delivered here too, spread; at most 512 bytes."""
    serf = new_serf()
    assert [serf.send_event("e", b"x", 0.0), serf.send_event("e", b"x", 0.0, coalesce=True)] == [1, 2]
    assert len(events(serf, UserEventReceived)) == 2
    assert len(serf._event_rumors) == 2
    serf.send_event("e", b"x" * 511, 0.0)
    with pytest.raises(InvalidArgument, match="513 bytes"):
        serf.send_event("e", b"x" * 512, 0.0)


@pytest.mark.parametrize(("is_first_join", "delivered"), [(True, ["new"]), (False, ["old", "new"])])
def test_events_of_a_push_pull(is_first_join: bool, delivered: list[str]) -> None:
    """What was missed is made up for; but the past is not for one who joins."""
    serf = new_serf()
    theirs = exchange(event_time=5, events=(EventsAt(4, (("old", b""),)), EventsAt(5, (("new", b""),))))
    serf.merge(theirs, 0.0, is_first_join=is_first_join)
    assert [event.event.name for event in events(serf, UserEventReceived)] == delivered


def test_events_are_handed_on() -> None:
    """The newest, as many as fit, oldest first."""
    serf = new_serf(serf_settings=default(SerfSettings, state_events_bytes_max=1000))
    for number in range(10):
        serf.send_event(f"e{number}", bytes(200), 0.0)
    theirs = serf.push_pull(is_join=False).state
    assert theirs is not None
    assert [(at.time, [name for name, _ in at.events]) for at in theirs.events] == [
        (7, ["e6"]), (8, ["e7"]), (9, ["e8"]), (10, ["e9"]),
    ]  # fmt: skip


# --- Queries. ---


def query(**fields: object) -> Query:
    """From m1, seen for the first time."""
    defaults: dict[str, object] = {
        "time": 5, "query_id": 77, "source": address(1), "source_name": "m1", "name": "uptime", "payload": b"?",
        "timeout_seconds": 3.0,
    }  # fmt: skip
    return Query(**{**defaults, **fields})  # type: ignore[arg-type]


def test_queries_are_delivered_once() -> None:
    """By time and id; passed on unless the asker does not want it; old ones dropped."""
    serf = new_serf(members=1)
    hear(serf, query(), query(), now=10.0)
    [received] = events(serf, QueryReceived)
    assert (received.query, received.deadline) == (query(), 13.0)
    assert queued(serf._query_rumors) == [query()]
    hear(serf, query(query_id=78, flags=QUERY_FLAG_NO_REBROADCAST))
    assert len(events(serf, QueryReceived)) == 2
    assert len(serf._query_rumors) == 1
    hear(serf, query(time=1000))
    hear(serf, query(time=400, query_id=9))
    assert len(events(serf, QueryReceived)) == 3


def test_acks_and_answers_go_straight_to_the_asker() -> None:
    """By UDP, each a message by itself."""
    serf = new_serf(members=1)
    hear(serf, query(flags=QUERY_FLAG_ACK))
    ack = QueryResponse(time=5, query_id=77, sender="m0", flags=RESPONSE_FLAG_ACK)
    assert sent(serf.actions) == [(address(1), UserMessage(ack))]
    serf.actions.take()
    serf.respond(query(), b"3 days", 1.0)
    response = QueryResponse(time=5, query_id=77, sender="m0", payload=b"3 days")
    assert sent(serf.actions) == [(address(1), UserMessage(response))]
    with pytest.raises(InvalidArgument, match="an answer of"):
        serf.respond(query(), bytes(1024), 1.0)


def test_relays_of_answers() -> None:
    """So many copies by way of others; never by the asker."""
    serf = new_serf(members=4)
    hear(serf, query(flags=QUERY_FLAG_ACK, relay_factor=2))
    (direct, *relayed) = sent(serf.actions)
    assert direct[0] == address(1)
    assert len(relayed) == 2
    for where, message in relayed:
        assert where in {address(2), address(3), address(4)}
        assert isinstance(message, UserMessage)
        assert isinstance(message.message, Relay)
        assert (message.message.address, message.message.name) == (address(1), "m1")
        assert WIRE.encode(direct[1]) == b"\x08" + message.message.body


def test_relays_of_answers_are_bounded() -> None:
    """A query of 255 relays gets so many as we allow: it says itself where answers go, and each relay is one packet more."""
    serf = new_serf(members=12)
    hear(serf, query(flags=QUERY_FLAG_ACK, relay_factor=255))
    assert len(serf.actions.datagrams) == 1 + serf.settings.relay_factor_max == 9


def test_pings_of_one_packet_are_bounded() -> None:
    """Acks go where a ping says: many pings in one packet would make many packets for somebody else."""
    serf = new_serf(members=3)
    serf.actions.take()
    pings = [Ping(sequence=number, target="m0", source=address(7)) for number in range(20)]
    serf.receive(pings, HERE, 0.0)
    assert [message for _, message in sent(serf.actions)] == [Ack(0), Ack(1)]
    assert serf.statistics()["pings over the limit"] == 18


def test_relaying() -> None:
    """What comes in a relay goes on, unread."""
    serf = new_serf()
    hear(serf, Relay(address=address(3, 0), name="m3", body=b"\x05anything"))
    assert sent(serf.actions) == [(address(3), UserBytes(b"\x05anything"))]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ((), True),
        ((NameFilter(("m0", "m5")),), True),
        ((NameFilter(("m5",)),), False),
        ((NameFilter(()),), False),
        ((TagFilter("role", "^event"),), True),
        ((TagFilter("role", "web"),), False),
        ((TagFilter("missing", "."),), False),
        ((TagFilter("missing", "^$"),), True),
        ((NameFilter(("m0",)), TagFilter("role", "web")), False),
    ],
)
def test_filters(filters: tuple[NameFilter | TagFilter, ...], chosen: bool) -> None:
    """All must match; those not chosen stay silent but pass the query on."""
    serf = new_serf(members=1)
    hear(serf, query(filters=filters, flags=QUERY_FLAG_ACK))
    assert bool(events(serf, QueryReceived)) is chosen
    assert bool(sent(serf.actions)) is chosen
    assert len(serf._query_rumors) == 1


@pytest.mark.parametrize("expression", [
    "(a+)+$", "(a|a)*b", "a*a*a*b", "(.*)(.*)(.*)(.*)x", r"(a)\1", "(?=a)", "(?i)a", "(?P<n>a)", "(a){50}", "a" * 129,
    "a|b|c|d|e|f", "[[]", "[a--b]", "((a)?)?", r"\(?:*?*?*?",
])  # fmt: skip
def test_wild_expressions_are_not_run(expression: str) -> None:
    """A query comes from the network: nobody may make us search for minutes."""
    assert not is_tame(expression)
    assert not matches(expression, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")


@pytest.mark.parametrize(
    ("expression", "value", "found"),
    [
        ("web.*", "web-1", True), ("^east-[0-9]+$", "east-12", True), ("^(a|b|c)$", "b", True),
        ("(?:x|y)z", "yz", True), (r"\(a\)", "(a)", True),
        ("[]+*?]+", "+*", True), ("[^]a]", "b", True), ("", "anything", True), ("[", "x", False),
        ("a{2,3}", "aa", True), ("x", "x" * 101, False),
        (r"a\+b", "a+b", True), ("*", "x", False), (r"x\\", "x\\", True), ("a\\", "a", False),
    ],
)  # fmt: skip
def test_ordinary_expressions(expression: str, value: str, found: bool) -> None:
    """What people write."""
    assert matches(expression, value) is found


@given(st.text(alphabet="a(|)*+?[]{}\\^$.:1,", max_size=40))
def test_any_expression_is_quick(expression: str) -> None:
    """Nothing is raised, and nothing takes long, on a value made for going back."""
    began = time.perf_counter()
    matches(expression, "a" * 99 + "!")
    is_chosen([TagFilter("t", expression)], "m", {"t": "a" * 100})
    assert time.perf_counter() - began < 5.0


def test_own_query() -> None:
    """We answer it ourselves too; each other's ack and answer counts once; then it is over."""
    serf = new_serf(members=2)
    key = serf.query("uptime", b"", 0.0, wants_ack=True, timeout_seconds=2.0)
    [received] = events(serf, QueryReceived)
    serf.respond(received.query, b"mine", 0.1)
    for _ in range(2):
        hear(
            serf,
            QueryResponse(time=key.time, query_id=key.query_id, sender="m1", flags=RESPONSE_FLAG_ACK),
            QueryResponse(time=key.time, query_id=key.query_id, sender="m1", payload=b"theirs"),
            QueryResponse(time=key.time, query_id=key.query_id + 1, sender="m1"),
            now=0.5,
        )
    assert events(serf, QueryAcked) == [QueryAcked(key, "m0"), QueryAcked(key, "m1")]
    assert events(serf, QueryAnswered) == [QueryAnswered(key, "m0", b"mine"), QueryAnswered(key, "m1", b"theirs")]
    assert serf.counts["answers to no query"] == 2
    advance(serf, 0.5, 2.0)
    assert events(serf, QueryFinished) == [QueryFinished(key, 2, 2)]
    hear(serf, QueryResponse(time=key.time, query_id=key.query_id, sender="m2"), now=2.1)
    assert len(events(serf, QueryAnswered)) == 2


def test_own_queries_are_bounded() -> None:
    """In size and number."""
    serf = new_serf(serf_settings=default(SerfSettings, open_queries_max=2))
    with pytest.raises(InvalidArgument, match="a query of"):
        serf.query("q", bytes(1024), 0.0)
    serf.query("q", b"", 0.0)
    serf.query("q", b"", 0.0)
    with pytest.raises(Overloaded):
        serf.query("q", b"", 0.0)
    advance(serf, 0.0, 10.0)
    serf.query("q", b"", 10.0)


@pytest.mark.parametrize(("members", "seconds"), [(0, 3.2), (8, 3.2), (9, 6.4)])
def test_default_timeout_of_queries(members: int, seconds: float) -> None:
    """16 gossip intervals times ceil(log10(n + 1))."""
    assert new_serf(members=members)._queries.default_seconds() == pytest.approx(seconds)


def test_reachability() -> None:
    """An internal query that everybody only acks."""
    asker = new_serf(members=1)
    key = asker.ask_reachable(0.0)
    [question] = queued(asker._query_rumors)
    other = new_serf(1)
    hear(other, question)
    assert not events(other, QueryReceived)
    [(where, message)] = sent(other.actions)
    assert where == address(0)
    asker.receive([message], address(1), 0.2)  # type: ignore[list-item]
    assert events(asker, QueryAcked) == [QueryAcked(key, "m0"), QueryAcked(key, "m1")]


def test_conflict_query() -> None:
    """We say whom we know by that name; about ourselves we say nothing, the asker is the other one."""
    serf = new_serf(members=2)
    for name, expected in ((b"m2", "m2"), (b"m9", None)):
        serf.actions.take()
        hear(serf, query(name=CONFLICT_QUERY, payload=name, query_id=ord(name[1:])))
        [(where, message)] = sent(serf.actions)
        assert isinstance(message, UserMessage)
        assert isinstance(message.message, QueryResponse)
        found = decode_conflict_answer(message.message.payload)
        assert (found and (found.name, found.address)) == (expected and (expected, address(2)))
        assert where == address(1)
    serf.actions.take()
    hear(serf, query(name=CONFLICT_QUERY, payload=b"m0", query_id=5))
    assert sent(serf.actions) == []
    hear(serf, query(name="_serf_what", query_id=6))
    assert serf.counts["unknown internal queries"] == 1


# --- Keys. ---

(KEY, OTHER) = (bytes(range(32)), bytes(32))


def ask(serf: Serf, operation: KeyOperation, key: bytes, query_id: int) -> object:
    """A key query of m1, and our answer."""
    asker = new_serf(1)
    asker._queries._rng = random.Random(query_id)
    asker.ask_keys(operation, key, 0.0)
    [question] = queued(asker._query_rumors)
    serf.actions.datagrams.clear()
    hear(serf, question)
    [(_, message)] = sent(serf.actions)
    assert isinstance(message, UserMessage)
    assert isinstance(message.message, QueryResponse)
    return decode_key_answer(message.message.payload)


def test_key_rotation() -> None:
    """Install, use, remove, list, as an agent asks for them; the driver is told to save."""
    ring = Keyring([KEY], random.Random(1))
    serf = new_serf(members=1, keys=ring)
    install = ask(serf, KeyOperation.INSTALL, OTHER, 1)
    assert install.succeeded  # type: ignore[attr-defined]
    assert ring.keys == (KEY, OTHER)
    assert ask(serf, KeyOperation.USE, OTHER, 2).succeeded  # type: ignore[attr-defined]
    assert ring.primary == OTHER
    refused = ask(serf, KeyOperation.REMOVE, OTHER, 3)
    assert (refused.succeeded, "primary" in refused.text) == (False, True)  # type: ignore[attr-defined]
    assert ask(serf, KeyOperation.REMOVE, KEY, 4).succeeded  # type: ignore[attr-defined]
    assert ring.keys == (OTHER,)
    listed = ask(serf, KeyOperation.LIST, b"", 5)
    assert listed.keys == (encode_key(OTHER),)  # type: ignore[attr-defined]
    assert listed.primary_key == encode_key(OTHER)  # type: ignore[attr-defined]
    assert not ask(serf, KeyOperation.INSTALL, b"short", 6).succeeded  # type: ignore[attr-defined]
    assert not ask(serf, KeyOperation.USE, KEY, 7).succeeded  # type: ignore[attr-defined]
    assert len(events(serf, KeysChanged)) == 3


def test_key_queries_without_a_keyring() -> None:
    """Answered all the same: silence would be an error at the asker's."""
    answer_ = ask(new_serf(members=1), KeyOperation.LIST, b"", 1)
    assert not answer_.succeeded  # type: ignore[attr-defined]


def test_a_long_key_list_is_cut() -> None:
    """To what fits an answer."""
    ring = Keyring([number.to_bytes(32, "big") for number in range(32)], random.Random(1))
    answer_ = ask(new_serf(members=1, keys=ring), KeyOperation.LIST, b"", 1)
    assert 10 < len(answer_.keys) < 32  # type: ignore[attr-defined]
    assert answer_.primary_key == encode_key(bytes(32))  # type: ignore[attr-defined]


def test_own_key_query_is_answered_here_too() -> None:
    """The asker changes its own keyring by the same way."""
    ring = Keyring([KEY], random.Random(1))
    serf = new_serf(keys=ring)
    key = serf.ask_keys(KeyOperation.INSTALL, OTHER, 0.0)
    assert ring.keys == (KEY, OTHER)
    [answered] = events(serf, QueryAnswered)
    assert (answered.key, answered.sender) == (key, "m0")
    assert isinstance(answered.key, QueryKey)


def test_statistics() -> None:
    """Counters and queues by name."""
    serf = new_serf(members=2)
    hear(serf, join_intent(1, 3))
    found = serf.statistics()
    assert found["members alive"] == 3
    assert found["intent rumors queued"] == 1
    assert found["health"] == 0


# --- Anything at any time. ---

numbers = st.integers(0, 3)
times = st.sampled_from([0, 1, 2, 5, 600, LAMPORT_TIME_MAX, 1 << 63])
layer_messages = st.one_of(
    st.builds(leave_intent, numbers, times, prune=st.booleans()),
    st.builds(join_intent, numbers, times),
    st.builds(UserEvent, time=times, name=st.sampled_from("ab"), payload=st.sampled_from([b"", b"x" * 9000])),
    st.builds(lambda at, query_id, flags, relay: query(time=at, query_id=query_id, flags=flags, relay_factor=relay),
              times, st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)),
    st.builds(QueryResponse, time=times, query_id=st.integers(0, 3), sender=st.sampled_from(["m1"])),
).map(UserMessage)  # fmt: skip
table_messages = st.one_of(
    st.builds(alive, numbers, st.integers(0, 5)),
    st.builds(lambda number, accuser: Dead(name=f"m{number}", incarnation=3, accuser=f"m{accuser}"), numbers, numbers),
)


@given(st.lists(st.tuples(st.floats(0, 20), st.one_of(layer_messages, table_messages)), max_size=30), st.booleans())
def test_invariants(steps: list[tuple[float, UserMessage]], leaves: bool) -> None:
    """Whatever comes: we are on our own list, alive unless leaving; lists agree with the table; a leave ends."""
    serf = new_serf(members=2)
    now = 0.0
    for pause, message in steps:
        now = advance(serf, now, now + pause)
        serf.receive([message], HERE, now)
        assert status(serf, 0) is ALIVE
        for name, row in serf.swim.rows.items():
            member = serf.members.get(name)
            if member is not None:
                assert (member.status in (ALIVE, LEAVING)) is row.is_here, (member, row)
    if leaves:
        serf.leave(now)
        advance(serf, now, now + 20)
        assert serf.has_left
        assert status(serf, 0) is LEFT
