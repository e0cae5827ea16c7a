"""The failure detector, rule by rule."""

import itertools
import math
import random

import attrs
import pytest
from gossip_kit import WIRE, address, alive, events, forget, new_swim, of_type, rumors, run_until, sent
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.gossip.events import (
    LoopStalled,
    MemberSuspected,
    MergeRefused,
    NameConflict,
    OnlyStreamsWork,
    SuspicionRefuted,
)
from trio_eventlog.gossip.messages import (
    INCARNATION_MAX,
    OWN_VERSIONS,
    SEQUENCE_MAX,
    Ack,
    Address,
    Dead,
    IndirectPing,
    MemberRecord,
    Message,
    Nack,
    Ping,
    RowStatus,
    Suspect,
    Versions,
)
from trio_eventlog.gossip.rows import Row, RowGone, RowJoined, RowUpdated
from trio_eventlog.gossip.rumors import RumorQueue, transmissions_max
from trio_eventlog.gossip.settings import LAN, LOCAL, WAN, SwimSettings
from trio_eventlog.gossip.suspicion import (
    accusers_expected,
    start_suspicion,
    suspicion_seconds,
    suspicion_seconds_min,
)
from trio_eventlog.gossip.swim import Swim

HERE = address(99)


def hear(swim: Swim, message: Message, now: float = 0.0) -> None:
    """A message arrives from somewhere."""
    swim.receive(message, HERE, now)


def suspect(number: int, incarnation: int = 1, accuser: str = "m1") -> Suspect:
    return Suspect(name=f"m{number}", incarnation=incarnation, accuser=accuser)


def dead(number: int, incarnation: int = 1, accuser: str = "m1") -> Dead:
    return Dead(name=f"m{number}", incarnation=incarnation, accuser=accuser)


def record(
    number: int, status: RowStatus = RowStatus.ALIVE, incarnation: int = 1, versions: Versions = OWN_VERSIONS
) -> MemberRecord:
    return MemberRecord(name=f"m{number}", address=address(number), incarnation=incarnation, status=status, versions=versions)


# --- Alive. ---


def test_a_new_node_tells_of_itself() -> None:
    """Its own alive message is the first rumor."""
    swim = Swim(
        settings=LAN, name="m0", address=address(0), meta=b"x", rng=random.Random(1), now=0.0, encode=WIRE.encode,
        actions=new_swim().actions,
    )  # fmt: skip
    assert rumors(swim) == [alive(0, meta=b"x")]


def test_alive_of_an_unknown_member() -> None:
    """Taken up, passed on, reported."""
    swim = new_swim()
    hear(swim, alive(1, 5, meta=b"tags"))
    row = swim.rows["m1"]
    assert (row.status, row.incarnation, row.meta, row.address) == (RowStatus.ALIVE, 5, b"tags", address(1))
    assert rumors(swim) == [alive(1, 5, meta=b"tags")]
    assert swim.changes == [RowJoined(row)]


@pytest.mark.parametrize(
    "versions",
    [Versions(0, 5, 2, 2, 5, 5), Versions(0, 0, 0, 0, 0, 0), Versions(3, 2, 2, 2, 5, 5)],
)
def test_alive_with_impossible_versions(versions: Versions) -> None:
    """pmin 0, pmax 0 or pmin > pmax: ignored."""
    swim = new_swim()
    hear(swim, alive(1, versions=versions))
    assert "m1" not in swim.rows
    assert rumors(swim) == []


@pytest.mark.parametrize(
    ("incarnation", "meta", "is_news"),
    [(4, b"", False), (5, b"", False), (5, b"other", False), (6, b"", True), (6, b"other", True)],
)
def test_alive_of_a_known_member(incarnation: int, meta: bytes, is_news: bool) -> None:
    """News only with a greater incarnation."""
    swim = new_swim()
    hear(swim, alive(1, 5))
    forget(swim)
    hear(swim, alive(1, incarnation, meta=meta))
    assert rumors(swim) == ([alive(1, incarnation, meta=meta)] if is_news else [])
    assert swim.changes == ([RowUpdated(swim.rows["m1"])] if is_news and meta else [])


def test_port_zero_is_the_default_port() -> None:
    """In the row; the rumor keeps what came."""
    swim = new_swim()
    hear(swim, alive(1, at=address(1, 0)))
    assert swim.rows["m1"].address == address(1, 7946)
    assert rumors(swim) == [alive(1, at=address(1, 0))]
    hear(swim, alive(1, 2, at=address(1, 7946)))
    assert not events(swim, NameConflict)


MOVED = Address(bytes((10, 9, 9, 9)), 7946)


@pytest.mark.parametrize(
    ("status", "age", "moves"),
    [
        (RowStatus.ALIVE, 1000.0, False),
        (RowStatus.SUSPECT, 1.0, False),
        (RowStatus.FAILED, 29.0, False),
        (RowStatus.FAILED, 31.0, True),
        (RowStatus.LEFT, 0.0, True),
    ],
)
@pytest.mark.parametrize("incarnation", [1, 9])
def test_alive_from_another_address(status: RowStatus, age: float, moves: bool, incarnation: int) -> None:
    """Taken from one that left, or failed longer ago than the reclaim time, at any incarnation; otherwise a conflict."""
    swim = new_swim()
    hear(swim, alive(1, 5))
    row = swim.rows["m1"]
    if status is RowStatus.SUSPECT:
        hear(swim, suspect(1, 5))
    elif status is RowStatus.FAILED:
        hear(swim, dead(1, 5))
    elif status is RowStatus.LEFT:
        hear(swim, dead(1, 5, accuser="m1"))
        assert row.status is RowStatus.LEFT
        hear(swim, dead(1, 5, accuser="m7"))
    if status is RowStatus.FAILED:
        row.status = RowStatus.FAILED
    forget(swim)
    hear(swim, alive(1, incarnation, at=MOVED), age)
    if moves:
        assert (row.address, row.incarnation, row.status) == (MOVED, incarnation, RowStatus.ALIVE)
        assert swim.changes == [RowJoined(row)]
        assert not events(swim, NameConflict)
    else:
        assert (row.address, row.status) == (address(1), status)
        assert events(swim, NameConflict) == [NameConflict(name="m1", known_address=address(1), other_address=MOVED, is_own=False)]
        assert rumors(swim) == []


def test_reclaim_can_be_switched_off() -> None:
    """Zero: a failed member's name is never given away."""
    swim = new_swim(1, attrs.evolve(LAN, reclaim_seconds=0.0))
    hear(swim, dead(1, accuser="m2"))
    hear(swim, alive(1, 9, at=MOVED), 1e6)
    assert swim.rows["m1"].address == address(1)


def test_a_thief_of_our_own_name_is_reported() -> None:
    """Nothing else happens: no refutation, no exit."""
    swim = new_swim()
    hear(swim, alive(0, 50, at=MOVED))
    assert events(swim, NameConflict) == [NameConflict(name="m0", known_address=address(0), other_address=MOVED, is_own=True)]
    assert swim.own.incarnation == 1
    assert rumors(swim) == []


def test_mapped_and_plain_addresses_are_different() -> None:
    """Others compare byte by byte as well."""
    swim = new_swim(1)
    mapped = Address(bytes(10) + b"\xff\xff" + address(1).host, 7946)
    hear(swim, alive(1, 2, at=mapped))
    assert len(events(swim, NameConflict)) == 1


@pytest.mark.parametrize(
    ("incarnation", "meta", "own_after"),
    [(1, b"", None), (1, b"other", 2), (0, b"other", None), (7, b"", 8), (INCARNATION_MAX, b"", INCARNATION_MAX)],
)
def test_alive_about_ourselves(incarnation: int, meta: bytes, own_after: int | None) -> None:
    """Old or the same: ignored. From a former life, or changed on the way: refuted above it."""
    swim = new_swim()
    hear(swim, alive(0, incarnation, meta=meta))
    if own_after is None:
        assert rumors(swim) == []
        assert swim.own.incarnation == 1
    else:
        assert rumors(swim) == [alive(0, own_after)]
        assert swim.prober.health == 1


def test_alive_clears_suspicion() -> None:
    """A refutation from the suspect itself; no event, it was never gone."""
    swim = new_swim(3)
    hear(swim, suspect(1))
    hear(swim, alive(1, 2))
    row = swim.rows["m1"]
    assert (row.status, row.suspicion) == (RowStatus.ALIVE, None)
    assert swim.changes == []
    run_until(swim, 0.0, 0.4)
    assert row.status is RowStatus.ALIVE


def test_alive_of_another_cluster() -> None:
    """Neither taken up nor passed on; the meta is asked about each time it is news."""
    swim = new_swim(refuses=lambda name, meta: "other" if meta == b"other" else "")
    hear(swim, alive(1, meta=b"other"))
    hear(swim, alive(2, meta=b"ours"))
    hear(swim, alive(2, 2, meta=b"other"))
    assert set(swim.rows) == {"m0", "m2"}
    assert swim.rows["m2"].meta == b"ours"
    assert len(events(swim, MergeRefused)) == 2


def test_the_table_is_bounded() -> None:
    """The last row that fits, and one more."""
    swim = new_swim(1, attrs.evolve(LAN, members_max=3))
    hear(swim, alive(2))
    hear(swim, alive(3))
    assert set(swim.rows) == {"m0", "m1", "m2"}
    assert swim.counts["members over the limit"] == 1
    hear(swim, alive(1, 2))
    assert swim.rows["m1"].incarnation == 2


# --- Suspect. ---


@pytest.mark.parametrize("message", [suspect(9), suspect(1, 4), dead(9), dead(1, 4)])
def test_unknown_names_and_old_news_are_ignored(message: Message) -> None:
    """Neither changes a row nor is passed on."""
    swim = new_swim()
    hear(swim, alive(1, 5))
    forget(swim)
    hear(swim, message)
    assert swim.rows["m1"].status is RowStatus.ALIVE
    assert rumors(swim) == []


def test_suspect() -> None:
    """An alive member becomes suspect, under the incarnation of the accusation; passed on and reported."""
    swim = new_swim(3)
    hear(swim, suspect(1, 4, "m2"))
    row = swim.rows["m1"]
    assert (row.status, row.incarnation) == (RowStatus.SUSPECT, 4)
    assert rumors(swim) == [suspect(1, 4, "m2")]
    assert events(swim, MemberSuspected) == [MemberSuspected("m1", "m2")]
    assert swim.changes == []


def test_further_accusers() -> None:
    """Each new one counts and is passed on, up to as many as are expected; then no more."""
    swim = new_swim(5)
    hear(swim, suspect(1, accuser="m2"))
    suspicion = swim.rows["m1"].suspicion
    assert suspicion is not None
    lengths = [suspicion.deadline]
    for accuser, counts in (("m2", False), ("m3", True), ("m3", False), ("m4", True), ("m5", False)):
        forget(swim)
        hear(swim, suspect(1, accuser=accuser))
        assert bool(rumors(swim)) is counts, accuser
        lengths.append(suspicion.deadline)
    assert lengths[0] == lengths[1] == 24.0
    assert lengths[2] == lengths[3]
    assert lengths[0] > lengths[2] > lengths[4] == lengths[5] == 4.0


@pytest.mark.parametrize("status", [RowStatus.FAILED, RowStatus.LEFT])
def test_only_alive_members_become_suspect(status: RowStatus) -> None:
    """The gone stay gone."""
    swim = new_swim(1)
    hear(swim, dead(1, accuser="m1" if status is RowStatus.LEFT else "m2"))
    forget(swim)
    hear(swim, suspect(1, 9))
    assert swim.rows["m1"].status is status
    assert rumors(swim) == []


@pytest.mark.parametrize("message", [suspect(0, 3), dead(0, 3), dead(0, 3, "m0")])
def test_accusations_of_ourselves_are_refuted(message: Message) -> None:
    """Above the accusation; it costs health."""
    swim = new_swim(1)
    hear(swim, message)
    assert rumors(swim) == [alive(0, 4)]
    assert swim.own.status is RowStatus.ALIVE
    assert swim.prober.health == 1
    assert events(swim, SuspicionRefuted) == [SuspicionRefuted(4)]


@pytest.mark.parametrize("message", [suspect(0, 3), dead(0, 2)])
def test_a_refuted_accusation_is_refuted_again(message: Message) -> None:
    """Under the same incarnation, and once at a time: whoever still says it has lost our answer."""
    swim = new_swim(1)
    hear(swim, suspect(0, 3))
    hear(swim, message)
    assert rumors(swim) == [alive(0, 4)]
    forget(swim)
    hear(swim, message)
    assert rumors(swim) == [alive(0, 4)]
    assert (swim.own.incarnation, swim.prober.health) == (4, 1)
    swim.leave(0.0)
    forget(swim)
    hear(swim, message)
    assert rumors(swim) == []


def test_suspicion_expires() -> None:
    """With two others than the suspect there is nobody to confirm: 4 s, then failed, by our own word."""
    swim = new_swim(2)
    hear(swim, suspect(1, accuser="m2"), 0.0)
    row = swim.rows["m1"]
    advance(swim, 3.999)
    assert row.status is RowStatus.SUSPECT
    forget(swim)
    advance(swim, 4.0)
    assert row.status is RowStatus.FAILED
    assert dead(1, accuser="m0") in rumors(swim)
    assert swim.changes == [RowGone(row)]


# --- Dead. ---


@pytest.mark.parametrize(("accuser", "status"), [("m2", RowStatus.FAILED), ("m1", RowStatus.LEFT)])
@pytest.mark.parametrize("was_suspect", [False, True])
def test_dead(accuser: str, status: RowStatus, was_suspect: bool) -> None:
    """Failed by another's word, left by its own; passed on once."""
    swim = new_swim(3)
    if was_suspect:
        hear(swim, suspect(1))
        forget(swim)
    hear(swim, dead(1, 2, accuser))
    row = swim.rows["m1"]
    assert (row.status, row.suspicion, row.incarnation) == (status, None, 2)
    assert rumors(swim) == [dead(1, 2, accuser)]
    assert swim.changes == [RowGone(row)]
    forget(swim)
    hear(swim, dead(1, 9, "m3"))
    assert rumors(swim) == []
    assert (row.status, row.incarnation) == (status, 2)


@pytest.mark.parametrize(("incarnation", "comes_back"), [(2, False), (3, True)])
def test_no_old_news_brings_back_the_dead(incarnation: int, comes_back: bool) -> None:
    """Only a greater incarnation does."""
    swim = new_swim(1)
    hear(swim, dead(1, 2, "m2"))
    hear(swim, alive(1, incarnation))
    assert (swim.rows["m1"].status is RowStatus.ALIVE) is comes_back


# --- Push/pull. ---


def test_merge_of_unknown_members() -> None:
    """Only the alive are taken up: a newcomer does not learn of the others."""
    swim = new_swim()
    swim.merge([record(1), record(2, RowStatus.SUSPECT), record(3, RowStatus.FAILED), record(4, RowStatus.LEFT)], 0.0)
    assert set(swim.rows) == {"m0", "m1"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (RowStatus.ALIVE, RowStatus.ALIVE),
        (RowStatus.SUSPECT, RowStatus.SUSPECT),
        (RowStatus.FAILED, RowStatus.SUSPECT),
        (RowStatus.LEFT, RowStatus.LEFT),
    ],
)
def test_merge_of_a_known_member(theirs: RowStatus, ours: RowStatus) -> None:
    """Their dead are only suspected here, by ourselves, so that they can refute."""
    swim = new_swim(1)
    swim.merge([record(1, theirs, 2)], 0.0)
    assert swim.rows["m1"].status is ours
    if ours is RowStatus.SUSPECT:
        assert rumors(swim) == [suspect(1, 2, "m0")]


@pytest.mark.parametrize("status", [RowStatus.SUSPECT, RowStatus.FAILED, RowStatus.LEFT])
def test_merge_of_our_own_record(status: RowStatus) -> None:
    """From a former life: refuted."""
    swim = new_swim()
    swim.merge([record(0, status, 7)], 0.0)
    assert rumors(swim) == [alive(0, 8)]


def test_restart_is_refuted_on_join() -> None:
    """A restarted process begins at incarnation 1; its own old record comes back and is outdone."""
    swim = new_swim()
    swim.merge([record(0, RowStatus.ALIVE, 12), record(1)], 0.0)
    assert swim.own.incarnation == 13


@pytest.mark.parametrize(
    ("versions", "refused"),
    [
        (OWN_VERSIONS, False),
        (Versions(1, 5, 2, 2, 5, 4), False),
        (Versions(1, 5, 2, 4, 5, 5), False),
        (Versions(1, 5, 5, 0, 0, 0), True),
        (Versions(3, 5, 3, 2, 5, 5), True),
        (Versions(1, 1, 1, 2, 5, 5), True),
        (Versions(1, 5, 2, 2, 4, 4), True),
    ],
)
def test_versions_are_checked(versions: Versions, refused: bool) -> None:
    """What each speaks, all must understand: a bare memberlist peer and a Serf peer cannot be in one cluster."""
    swim = new_swim(1)
    assert bool(swim.why_not_merge([record(5, versions=versions)])) is refused
    assert not swim.why_not_merge([record(5, RowStatus.FAILED, versions=versions)]), "only the alive count"


def test_another_cluster_is_not_merged() -> None:
    """One row of it is enough."""
    swim = new_swim(refuses=lambda name, meta: "" if meta == b"ours" else f"{name} is not ours")
    theirs = [attrs.evolve(record(1), meta=b"ours"), attrs.evolve(record(2), meta=b"theirs")]
    assert "m2" in swim.why_not_merge(theirs)
    assert not swim.why_not_merge(theirs[:1])


def test_the_table_holds_everybody() -> None:
    """Ourselves, and the gone with their status, so that it can be sent."""
    swim = new_swim(2)
    hear(swim, dead(1, accuser="m2"))
    assert {(one.name, one.status) for one in swim.table.records()} == {
        ("m0", RowStatus.ALIVE), ("m1", RowStatus.FAILED), ("m2", RowStatus.ALIVE),
    }  # fmt: skip


@pytest.mark.parametrize(("members", "scale"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (129, 4)])
def test_push_pull_interval(members: int, scale: int) -> None:
    """Longer above 32 members."""
    swim = new_swim(members - 1)
    now = run_until(swim, 0.0, 200.0)
    swim.actions.take()
    for number in range(1, members):
        swim.rows[f"m{number}"].status = RowStatus.ALIVE
    assert swim._push_pull_interval() == 30.0 * scale
    assert now == 200.0


def test_push_pull_goes_to_one_alive_member() -> None:
    """Once per interval; not while leaving."""
    swim = new_swim(2)
    hear(swim, dead(1, accuser="m2"))
    (ended, answered) = (0.0, [])
    while ended < 95:
        ended = min(swim.next_deadline(), 95)
        swim.wake(ended)
        swim.tick(ended)
        answer_pings(swim, ended, {"m2"})
        answered += swim.actions.exchanges
        swim.actions.exchanges = []
    assert {one.name for one in answered} == {"m2"}
    assert len(answered) in (3, 4)
    swim.is_leaving = True
    swim._start_push_pull()
    assert swim.actions.exchanges == []


# --- Probing. ---


def answer_pings(swim: Swim, now: float, who: set[str]) -> list[tuple[Address, Ping]]:
    """Those of `who` that were pinged answer; returns all pings."""
    pings = of_type(sent(swim.actions), Ping)
    swim.actions.datagrams = []
    for where, ping in pings:
        if ping.target in who:
            swim.receive(Ack(ping.sequence), where, now)
    return pings


def first_probe(swim: Swim) -> tuple[float, Ping]:
    """Run until a ping is sent; returns when, and the ping."""
    while True:
        now = swim.next_deadline()
        swim.wake(now)
        swim.tick(now)
        pings = of_type(sent(swim.actions), Ping)
        swim.actions.datagrams = []
        if pings:
            return now, pings[-1][1]
        assert now < 10


def advance(swim: Swim, now: float) -> None:
    """One call at `now`, punctual."""
    swim.next_deadline()
    swim._promised = math.inf
    swim.wake(now)
    swim.tick(now)


def test_probing_walks_over_everybody() -> None:
    """In each round every member that is here is pinged once; ourselves, the failed and the left never."""
    swim = new_swim(6)
    hear(swim, dead(5, accuser="m1"))
    hear(swim, dead(6, accuser="m6"))
    now = 0.0
    pinged = []
    starts = []
    while len(pinged) < 16:
        now = swim.next_deadline()
        swim.wake(now)
        swim.tick(now)
        pings = answer_pings(swim, now, {f"m{number}" for number in range(7)})
        pinged += [ping.target for _, ping in pings]
        starts += [now] * len(pings)
    assert set(pinged) == {"m1", "m2", "m3", "m4"}
    for name in ("m1", "m2", "m3", "m4"):
        assert 3 <= pinged.count(name) <= 5
    assert all(abs(after - before - 1.0) < 1e-9 for before, after in itertools.pairwise(starts))


def test_ping_names_source_and_target() -> None:
    """The answer must find us, and the target must know that it is meant."""
    swim = new_swim(1)
    (_, ping) = first_probe(swim)
    assert (ping.target, ping.source, ping.source_name) == ("m1", address(0), "m0")


def test_an_ack_in_time() -> None:
    """Ends the probe well: health improves, the next comes one interval after the first."""
    swim = new_swim(1)
    swim.prober.health = 3
    (now, ping) = first_probe(swim)
    hear(swim, Ack(ping.sequence), now + 0.1)
    assert swim.prober.health == 2
    assert swim.prober.last_round_trip_seconds == pytest.approx(0.1)
    assert swim.rows["m1"].status is RowStatus.ALIVE
    (again, _) = first_probe(swim)
    assert again == pytest.approx(now + 1.0)


def test_a_foreign_ack_means_nothing() -> None:
    """Another sequence."""
    swim = new_swim(1)
    (now, ping) = first_probe(swim)
    hear(swim, Ack(ping.sequence + 1), now)
    advance(swim, now + 0.5)
    advance(swim, now + 1.0)
    assert swim.rows["m1"].status is RowStatus.SUSPECT


def test_no_ack_in_time_asks_others_and_tcp() -> None:
    """Three random alive members, and a stream, at the timeout; the indirect pings want nacks."""
    swim = new_swim(6)
    hear(swim, suspect(6, accuser="m1"))
    forget(swim)
    (now, ping) = first_probe(swim)
    if ping.target == "m6":
        hear(swim, Ack(ping.sequence), now)
        (now, ping) = first_probe(swim)
    forget(swim)
    advance(swim, now + 0.499)
    assert of_type(sent(swim.actions), IndirectPing) == []
    advance(swim, now + 0.5)
    requests = of_type(sent(swim.actions), IndirectPing)
    assert len(requests) == 3
    assert len({where for where, _ in requests}) == 3
    for where, request in requests:
        assert where not in (address(0), address(6), swim.rows[ping.target].address)
        assert (request.sequence, request.target, request.wants_nack) == (ping.sequence, ping.target, True)
        assert (request.address, request.source) == (swim.rows[ping.target].address, address(0))
    assert [(one.name, one.sequence) for one in swim.actions.stream_pings] == [(ping.target, ping.sequence)]


@pytest.mark.parametrize("protocol_max", [2, 3, 4])
def test_older_members_are_asked_for_less(protocol_max: int) -> None:
    """TCP pings from protocol 3, nacks from 4."""
    swim = new_swim()
    for number in (1, 2, 3):
        hear(swim, alive(number, versions=Versions(1, protocol_max, 2, 2, 5, 5)))
    forget(swim)
    (now, _) = first_probe(swim)
    forget(swim)
    advance(swim, now + 0.5)
    assert len(swim.actions.stream_pings) == (protocol_max >= 3)
    assert [request.wants_nack for _, request in of_type(sent(swim.actions), IndirectPing)] == [protocol_max >= 4] * 2


@pytest.mark.parametrize("saviour", ["direct", "stream"])
def test_a_late_answer_saves(saviour: str) -> None:
    """By whatever way, up to the end of the interval."""
    swim = new_swim(3)
    swim.prober.health = 1
    (now, ping) = first_probe(swim)
    advance(swim, now + 0.5)
    if saviour == "stream":
        swim.prober.stream_ack(ping.sequence, now + 0.9)
        assert events(swim, OnlyStreamsWork) == [OnlyStreamsWork(ping.target)]
    else:
        hear(swim, Ack(ping.sequence), now + 0.9)
        assert not events(swim, OnlyStreamsWork)
    advance(swim, now + 1.5)
    assert swim.rows[ping.target].status is RowStatus.ALIVE
    assert swim.prober.health == 0


@pytest.mark.parametrize(
    ("members", "nacks", "health"),
    [(1, 0, 1), (4, 0, 3), (4, 1, 2), (4, 3, 0), (4, 9, 0)],
)
def test_a_failed_probe(members: int, nacks: int, health: int) -> None:
    """Suspects; health falls by the nacks that did not come, or by one where none could come."""
    swim = new_swim(members)
    (now, ping) = first_probe(swim)
    advance(swim, now + 0.5)
    for _ in range(nacks):
        hear(swim, Nack(ping.sequence), now + 0.9)
    forget(swim)
    advance(swim, now + 1.0)
    assert swim.rows[ping.target].status is RowStatus.SUSPECT
    assert events(swim, MemberSuspected) == [MemberSuspected(ping.target, "m0")]
    assert swim.prober.health == health


def test_health_stretches_the_interval() -> None:
    """By the score plus one; the timeout stays; the score stays below its maximum."""
    swim = new_swim(1)
    swim.prober.health = 2
    (now, ping) = first_probe(swim)
    forget(swim)
    advance(swim, now + 0.5)
    assert len(swim.actions.stream_pings) == 1
    advance(swim, now + 2.9)
    assert swim.rows["m1"].status is RowStatus.ALIVE
    advance(swim, now + 3.0)
    assert swim.rows["m1"].status is RowStatus.SUSPECT
    assert ping.target == "m1"
    swim.prober.change_health(100)
    assert swim.prober.health == 7
    swim.prober.change_health(-100)
    assert swim.prober.health == 0


def test_a_suspect_is_told_so_with_the_ping() -> None:
    """One packet with both, with a checksum, since the receiver knows checksums."""
    swim = new_swim(1)
    hear(swim, suspect(1, accuser="m7"))
    forget(swim)
    now = swim.next_deadline()
    while not swim.actions.datagrams:
        now = swim.next_deadline()
        swim.wake(now)
        swim.tick(now)
    packet = swim.actions.datagrams[0]
    assert packet.with_checksum
    (ping, accusation) = [message for _, message in sent(swim.actions)][:2]
    assert isinstance(ping, Ping)
    assert accusation == suspect(1, accuser="m0")


def test_only_one_member_in_the_table() -> None:
    """Nothing to probe, nothing to say, and no busy loop."""
    swim = new_swim()
    calls = 0
    now = 0.0
    while now < 10:
        now = max(now, swim.next_deadline())
        swim.wake(now)
        swim.tick(now)
        calls += 1
    assert calls < 15
    assert swim.actions.datagrams == []


# --- Answering. ---


@pytest.mark.parametrize(("target", "answers"), [("m0", True), ("", True), ("m1", False)])
def test_pings_are_answered(target: str, answers: bool) -> None:
    """Unless they name another node: its address has become ours."""
    swim = new_swim()
    swim.prober.ack_payload = b"payload"
    swim.receive(Ping(sequence=7, target=target, source=address(3), source_name="m3"), HERE, 0.0)
    assert sent(swim.actions) == ([(address(3), Ack(7, b"payload"))] if answers else [])


def test_without_a_source_the_sender_is_answered() -> None:
    """Older members do not say where they are."""
    swim = new_swim()
    swim.receive(Ping(sequence=7, target="m0"), HERE, 0.0)
    assert sent(swim.actions) == [(HERE, Ack(7))]


def test_relay() -> None:
    """An own sequence towards the target, the asker's towards the asker; nothing after that."""
    swim = new_swim(2)
    request = IndirectPing(sequence=7, target="m1", address=address(1), wants_nack=True, source=address(2), source_name="m2")
    swim.receive(request, HERE, 0.0)
    [(where, ping)] = of_type(sent(swim.actions), Ping)
    assert where == address(1)
    assert ping.target == "m1"
    assert ping.sequence != 7
    swim.actions.take()
    swim.receive(Ack(ping.sequence), address(1), 0.1)
    assert sent(swim.actions) == [(address(2), Ack(7))]
    swim.actions.take()
    swim.receive(Ack(ping.sequence), address(1), 0.2)
    advance(swim, 0.6)
    assert not of_type(sent(swim.actions), Nack)
    assert not of_type(sent(swim.actions), Ack)


@pytest.mark.parametrize("wants_nack", [True, False])
def test_relay_in_vain(wants_nack: bool) -> None:
    """A nack after the probe timeout, if wanted; a late ack is still passed on, until the interval is over."""
    swim = new_swim(2)
    request = IndirectPing(sequence=7, target="m9", address=address(9, 0), wants_nack=wants_nack)
    swim.receive(request, address(2), 0.0)
    [(where, ping)] = of_type(sent(swim.actions), Ping)
    assert where == address(9, 7946)
    swim.prober._next_probe_at = 100.0
    swim.actions.take()
    advance(swim, 0.49)
    assert sent(swim.actions) == []
    advance(swim, 0.5)
    assert sent(swim.actions) == ([(address(2), Nack(7))] if wants_nack else [])
    swim.actions.take()
    swim.receive(Ack(ping.sequence), address(9), 0.9)
    assert sent(swim.actions) == [(address(2), Ack(7))]
    swim.actions.take()
    swim.receive(request, address(2), 1.0)
    advance(swim, 2.0)
    assert swim.prober._relays == {}


def test_relays_are_bounded() -> None:
    """The last that is taken, and one more."""
    swim = new_swim(1, attrs.evolve(LAN, relays_max=2))
    for number in range(3):
        swim.receive(IndirectPing(sequence=number, target="m1", address=address(1)), HERE, 0.0)
    assert len(of_type(sent(swim.actions), Ping)) == 2
    assert swim.counts["relays refused"] == 1


def test_sequences_wrap() -> None:
    """32 bits, never 0."""
    swim = new_swim()
    swim.prober._sequence = SEQUENCE_MAX
    assert swim.prober._next_sequence() == 1


# --- Stalls. ---


def test_nobody_is_accused_for_our_own_stall() -> None:
    """Stopped for 12 s with a probe and a suspicion under way: both get their time again; it costs health."""
    swim = new_swim(2)
    hear(swim, suspect(2, accuser="m1"), 0.0)
    forget(swim)
    (now, ping) = first_probe(swim)
    deadline = swim.next_deadline()
    late = deadline + 12.0
    swim.wake(late)
    swim.tick(late)
    assert [row.status for row in swim.rows.values()] == [RowStatus.ALIVE, RowStatus.ALIVE, RowStatus.SUSPECT]
    assert [event.seconds for event in events(swim, LoopStalled)] == [pytest.approx(12.0)]
    assert swim.prober.health == 1
    suspicion = swim.rows["m2"].suspicion
    assert suspicion is not None
    assert suspicion.deadline == pytest.approx(16.0)
    assert ping.sequence
    assert now < 2


def test_being_late_a_little_is_no_stall() -> None:
    """Below the setting the rules hold as they are, but those asked for help get their time."""
    swim = new_swim(3)
    (now, ping) = first_probe(swim)
    swim.next_deadline()
    swim.wake(now + 1.3)
    swim.tick(now + 1.3)
    assert not events(swim, LoopStalled)
    assert of_type(sent(swim.actions), IndirectPing)
    assert swim.rows[ping.target].status is RowStatus.ALIVE
    advance(swim, now + 1.8)
    assert swim.rows[ping.target].status is RowStatus.SUSPECT


def test_a_rumor_after_long_silence_is_no_stall() -> None:
    """The gossip loop sleeps while there is nothing to say; waking it is not lateness."""
    swim = new_swim(1, attrs.evolve(LAN, probe_interval_seconds=100.0, push_pull_interval_seconds=1000.0))
    swim.prober._next_probe_at = 100.0
    swim._next_push_pull_at = 1000.0
    assert swim.next_deadline() == 100.0
    swim.wake(50.0)
    hear(swim, alive(1, 2), 50.0)
    assert swim.next_deadline() <= 50.0
    swim.wake(50.0)
    swim.tick(50.0)
    assert not events(swim, LoopStalled)
    assert len(swim.actions.datagrams) == 1


# --- Rumors. ---


@pytest.mark.parametrize(("members", "times"), [(0, 0), (1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12)])
def test_transmissions(members: int, times: int) -> None:
    """The multiplier times ceil(log10(n + 1))."""
    assert transmissions_max(4, members) == times


def test_queue_order() -> None:
    """Fewest transmissions first, then longest, then newest; one place per key."""
    queue = RumorQueue(10, 1000)
    for body, key in ((b"a", "a"), (b"bb", "b"), (b"c", "c"), (b"A", "a")):
        queue.add(body, key)
    assert queue.take(1000, 255, 9)[0] == [b"bb", b"A", b"c"]
    queue.add(b"d", "d")
    assert queue.take(3, 255, 9) == ([b"d"], 0)
    assert queue.take(8, 255, 9) == ([b"bb", b"d"], 1)
    assert queue.take(1000, 1, 9)[0] == [b"A"]
    assert "a" in queue
    assert "z" not in queue


def test_queue_forgets_what_was_sent_often_enough() -> None:
    """Exactly so often."""
    queue = RumorQueue(10, 1000)
    queue.add(b"x", "x")
    queue.add(b"y")
    assert [len(queue.take(1000, 255, 3)[0]) for _ in range(5)] == [2, 2, 2, 0, 0]
    assert "x" not in queue
    assert len(queue) == 0


def test_queue_bounds() -> None:
    """When full, the most sent goes; what would fit no packet is not taken at all."""
    queue = RumorQueue(2, 3)
    queue.add(b"old")
    queue.take(1000, 255, 9)
    queue.add(b"new")
    queue.add(b"abc")
    assert queue.dropped == 1
    assert queue.take(1000, 255, 9)[0] == [b"abc", b"new"]
    queue.add(b"four")
    assert queue.dropped == 2
    assert len(queue) == 2


@given(st.lists(st.tuples(st.sampled_from(["add", "take"]), st.integers(1, 30), st.none() | st.sampled_from("abc")), max_size=60))
def test_queue_against_a_simple_one(steps: list[tuple[str, int, str | None]]) -> None:
    """Any run gives what a plain list gives that is searched anew each time."""
    queue = RumorQueue(5, 100)
    plain: list[list[object]] = []
    for number, (step, size, key) in enumerate(steps):
        if step == "add":
            queue.add(bytes(size), key)
            same = [one for one in plain if key is not None and one[2] == key]
            if same:
                plain.remove(same[0])
            elif len(plain) >= 5:
                plain.remove(max(plain, key=lambda one: (one[0], -len(one[1]), -one[3])))  # type: ignore[arg-type, operator]
            plain.append([0, bytes(size), key, number])
        else:
            left = 3 * size
            expected = []
            for one in sorted(plain, key=lambda one: (one[0], -len(one[1]), -one[3])):  # type: ignore[arg-type, operator]
                if len(one[1]) + 2 <= left:  # type: ignore[arg-type]
                    left -= len(one[1]) + 2  # type: ignore[arg-type]
                    expected.append(one[1])
                    one[0] += 1  # type: ignore[operator]
            plain = [one for one in plain if one[0] < 2]  # type: ignore[operator]
            assert queue.take(3 * size, 255, 2) == (expected, left)
    assert len(queue) == len(plain)


def test_gossip_goes_to_some() -> None:
    """Three random members per interval, with what fits the packet; silence when there is nothing to say."""
    swim = new_swim(8)
    swim.prober._next_probe_at = 100.0
    run_until(swim, 0.0, 0.2)
    assert swim.actions.datagrams == []
    for number in range(1, 9):
        hear(swim, alive(number, 2, meta=bytes(200)))
    run_until(swim, 0.2, 0.2)
    packets = swim.actions.datagrams
    assert len(packets) == 3
    assert len({packet.address for packet in packets}) == 3
    for packet in packets:
        assert packet.with_checksum
        assert 1000 < sum(2 + len(body) for body in packet.messages) + 2 + 5 <= 1400


@pytest.mark.parametrize(
    ("status", "age", "hears"),
    [
        (RowStatus.ALIVE, 50.0, True),
        (RowStatus.SUSPECT, 50.0, True),
        (RowStatus.FAILED, 29.9, True),
        (RowStatus.FAILED, 30.1, False),
        (RowStatus.LEFT, 0.0, False),
    ],
)
def test_who_is_gossiped_to(status: RowStatus, age: float, hears: bool) -> None:
    """The alive, the suspect, and those that failed a short while ago: they can refute."""
    swim = new_swim(1)
    row: Row = swim.rows["m1"]
    row.status = status
    row.changed_at = 0.0
    swim.set_meta(b"new")
    swim.packets.gossip(age)
    assert bool(swim.actions.datagrams) is hears


def test_pings_and_acks_carry_rumors() -> None:
    """As many as fit beside them."""
    swim = new_swim(1)
    swim.set_meta(b"x" * 500)
    swim.receive(Ping(sequence=1, target="m0", source=address(1)), HERE, 0.0)
    [packet] = swim.actions.datagrams
    assert len(packet.messages) == 2
    for number in range(2, 5):
        hear(swim, alive(number, meta=bytes(500)))
    swim.actions.take()
    swim.receive(Ping(sequence=1, target="m0", source=address(1)), HERE, 0.0)
    [packet] = swim.actions.datagrams
    assert len(packet.messages) == 3
    assert sum(2 + len(body) for body in packet.messages) + 2 + 5 <= 1400


def test_a_full_packet_of_small_rumors() -> None:
    """A compound holds no more than 255 messages, however small."""
    swim = new_swim(1, attrs.evolve(LAN, packet_bytes_max=60_000))
    for number in range(2, 400):
        hear(swim, alive(number))
    swim.packets.gossip(0.0)
    assert {len(packet.messages) for packet in swim.actions.datagrams} == {255}
    swim.actions.take()
    swim.receive(Ping(sequence=1, target="m0", source=address(1)), HERE, 0.0)
    assert [len(packet.messages) for packet in swim.actions.datagrams] == [255]


# --- Cleaning, leaving, changing. ---


@pytest.mark.parametrize("accuser", ["m2", "m1"])
def test_the_gone_are_forgotten(accuser: str) -> None:
    """Failed or left longer than gossip-to-dead, at the wrap of the walk."""
    swim = new_swim(2)
    hear(swim, dead(1, accuser=accuser), 0.0)
    now = 0.0
    while now < 35:
        assert "m1" in swim.rows or now > 30
        now = swim.next_deadline()
        swim.wake(now)
        swim.tick(now)
        answer_pings(swim, now, {"m2"})
    assert set(swim.rows) == {"m0", "m2"}


def test_forget_spares_the_alive() -> None:
    """The upper layer may erase a member that has just come back."""
    swim = new_swim(2)
    swim.table.forget("m1")
    swim.table.forget("m0")
    swim.table.forget("m9")
    assert set(swim.rows) == {"m0", "m1", "m2"}
    hear(swim, dead(1, accuser="m2"))
    swim.table.forget("m1")
    assert set(swim.rows) == {"m0", "m2"}


def test_set_meta() -> None:
    """A new alive message with the next incarnation."""
    swim = new_swim(1)
    swim.set_meta(b"new")
    assert rumors(swim) == [alive(0, 2, meta=b"new")]


def test_leave() -> None:
    """Dead by our own word; afterwards we neither refute nor listen to what is said of us, but still answer."""
    swim = new_swim(1)
    swim.leave(0.0)
    assert rumors(swim) == [dead(0, accuser="m0")]
    assert swim.own.status is RowStatus.LEFT
    assert swim.changes == [RowGone(swim.own)]
    forget(swim)
    for message in (alive(0, 9), suspect(0, 9), dead(0, 9)):
        hear(swim, message)
    assert rumors(swim) == []
    swim.receive(Ping(sequence=1, target="m0", source=address(1)), HERE, 0.0)
    assert len(of_type(sent(swim.actions), Ack)) == 1
    assert swim.table.others_alive() == 1


def test_messages_of_the_upper_layer_are_not_for_the_table() -> None:
    """A programming error."""
    with pytest.raises(AssertionError):
        hear(new_swim(), object())  # type: ignore[arg-type]


# --- Suspicion arithmetic. ---


@pytest.mark.parametrize(
    ("settings", "members", "seconds"),
    [
        (LAN, 1, 4.0), (LAN, 3, 4.0), (LAN, 10, 4.0), (LAN, 100, 8.0), (LAN, 1000, 12.0), (LOCAL, 3, 3.0), (WAN, 3, 30.0),
        (WAN, 100, 60.0),
    ],
)  # fmt: skip
def test_shortest_suspicion(settings: SwimSettings, members: int, seconds: float) -> None:
    """The multiplier times max(1, log10 n) times the interval."""
    assert suspicion_seconds_min(settings, members) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("settings", "members", "expected"),
    [(LAN, 2, 0), (LAN, 3, 0), (LAN, 4, 2), (LAN, 100, 2), (LOCAL, 2, 0), (LOCAL, 3, 1), (WAN, 5, 0), (WAN, 6, 4)],
)
def test_accusers_expected(settings: SwimSettings, members: int, expected: int) -> None:
    """The multiplier less 2, or none where there are not so many others."""
    assert accusers_expected(settings, members) == expected


@pytest.mark.parametrize(
    ("accusers", "expected", "seconds"),
    [
        (0, 3, 30.0),
        (1, 3, 16.0),
        (2, 3, 30.0 - 28.0 * math.log(3) / math.log(4)),
        (3, 3, 2.0),
        (4, 3, 2.0),
        (0, 0, 2.0),
        (5, 0, 2.0),
    ],
)
def test_suspicion_length(accusers: int, expected: int, seconds: float) -> None:
    """Logarithmic from the longest to the shortest."""
    assert suspicion_seconds(accusers, expected, 2.0, 30.0) == pytest.approx(seconds)


@given(st.integers(0, 10), st.integers(0, 10), st.floats(0.1, 10), st.floats(1, 10))
def test_suspicion_length_is_bounded(accusers: int, expected: int, shortest: float, factor: float) -> None:
    """Never outside, and never longer with more accusers."""
    longest = shortest * factor
    length = suspicion_seconds(accusers, expected, shortest, longest)
    assert shortest <= length <= max(shortest, longest) + 1e-9
    assert suspicion_seconds(accusers + 1, expected, shortest, longest) <= length + 1e-9


def test_confirmations() -> None:
    """Each accuser once, the first not again, and no more than expected."""
    suspicion = start_suspicion(LAN, 10, accuser="a", incarnation=1, now=5.0)
    assert suspicion.deadline == 29.0
    assert [suspicion.confirm(one) for one in "abbcd"] == [False, True, False, True, False]
    assert suspicion.deadline == 9.0
    alone = start_suspicion(LAN, 3, accuser="a", incarnation=1, now=5.0)
    assert not alone.confirm("b")
    assert alone.deadline == 9.0


def test_settings_are_checked() -> None:
    """Contradictions are refused when they are made."""
    with pytest.raises(ValueError, match="timeout"):
        attrs.evolve(LAN, probe_timeout_seconds=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        attrs.evolve(LAN, health_score_max=0)


# --- Anything at any time. ---

numbers = st.integers(0, 4)
incarnations = st.sampled_from([0, 1, 2, 3, INCARNATION_MAX])
anything = st.one_of(
    st.builds(alive, numbers, incarnations, meta=st.sampled_from([b"", b"x"])),
    st.builds(lambda number, incarnation: alive(number, incarnation, at=MOVED), numbers, incarnations),
    st.builds(suspect, numbers, incarnations, st.sampled_from(["m0", "m1", "m2", "m3"])),
    st.builds(dead, numbers, incarnations, st.sampled_from(["m0", "m1", "m2", "m3"])),
    st.builds(Ack, st.integers(0, 1 << 17)),
    st.builds(Nack, st.integers(0, 1 << 17)),
    st.builds(lambda number: Ping(sequence=1, target=f"m{number}"), numbers),
    st.builds(lambda number: IndirectPing(sequence=1, target=f"m{number}", address=address(number)), numbers),
)


@given(st.lists(st.tuples(st.floats(0, 3), anything), max_size=40), st.integers(0, 1000))
def test_invariants(steps: list[tuple[float, Message]], seed: int) -> None:
    """Whatever comes: we are alive, incarnations never go back, suspicion and status agree, packets fit."""
    swim = new_swim(2, seed=seed)
    now = 0.0
    own_incarnation = 1
    known: dict[str, tuple[int, Address]] = {}
    for pause, message in steps:
        now += pause
        swim.wake(now)
        hear(swim, message, now)
        swim.tick(now)
        assert swim.own.status is RowStatus.ALIVE
        assert swim.own.incarnation >= own_incarnation
        own_incarnation = swim.own.incarnation
        assert 0 <= swim.prober.health < LAN.health_score_max
        assert swim.next_deadline() >= 0.0
        for name, row in swim.rows.items():
            assert (row.suspicion is not None) is (row.status is RowStatus.SUSPECT)
            assert (name in swim._suspected) is (row.status is RowStatus.SUSPECT)
            (before, where) = known.get(name, (0, row.address))
            assert row.incarnation >= before or row.address != where
            known[name] = (row.incarnation, row.address)
        for packet in swim.actions.take().datagrams:
            assert 1 <= len(packet.messages) <= 255
            assert sum(2 + len(body) for body in packet.messages) + 2 + 5 <= 1400
