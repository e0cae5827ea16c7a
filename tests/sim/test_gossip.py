"""Simulated gossip clusters: detection and convergence against the formulas, no false alarm, nobody comes back from the dead.

Each story runs for `--seeds N` seeds (4; of more than a hundred a twentieth, since there are many stories), beginning with
`--first-seed N` (0). A failure prints how to replay it.
"""

import math
import os
import random
from collections.abc import Callable
from functools import partial

import pytest
from gossip_simulation import Simulation, Weather, gone_events

from trio_eventlog.gossip.events import (
    GossipStatus,
    LoopStalled,
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    UserEventReceived,
)
from trio_eventlog.gossip.messages import Dead, Suspect
from trio_eventlog.gossip.settings import LAN, LOCAL, SwimSettings
from trio_eventlog.gossip.suspicion import suspicion_seconds_min

pytestmark = pytest.mark.sim

WANTED = int(os.environ.get("TRIO_EVENTLOG_SIM_SEEDS", "4"))
SEEDS = WANTED if WANTED <= 100 else 100 + (WANTED - 100) // 20
FIRST = int(os.environ.get("TRIO_EVENTLOG_SIM_FIRST", "0"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(FIRST, FIRST + SEEDS))


@pytest.fixture(autouse=True)
def _tell_how_to_replay(request: pytest.FixtureRequest, seed: int) -> None:
    """pytest shows captured output of failures only."""
    print(f"replay: python -m pytest {request.node.path}::{request.node.originalname} --first-seed {seed} --seeds 1")


def cluster(seed: int, size: int, *, settings: SwimSettings = LAN, weather: Weather | None = None) -> Simulation:
    """A cluster whose members know each other; the weather begins afterwards."""
    simulation = Simulation(seed, settings=settings)
    simulation.start("m0")
    for number in range(1, size):
        simulation.start(f"m{number}", join="m0")
    took = simulation.run_until(simulation.agree, 60)
    assert took is not None, "the cluster has not come together"
    simulation.run(2)
    simulation.weather = weather or Weather()
    return simulation


def sizes(seed: int, most: int = 50) -> int:
    """5 to `most`, small ones more often."""
    rng = random.Random(f"size {seed}")
    return round(5 * (most / 5) ** rng.random())


def detection_seconds_max(settings: SwimSettings, members: int) -> float:
    """Until somebody probes it (rarely more than four intervals), the probe, the suspicion, the spreading."""
    probe = 5 * settings.probe_interval_seconds
    spreading = settings.gossip_interval_seconds * 4 * math.ceil(math.log2(members + 1))
    return probe + suspicion_seconds_min(settings, members) + spreading + 2.0


def test_convergence(seed: int) -> None:
    """Members that join at random moments are known to all within seconds of the last."""
    rng = random.Random(f"story {seed}")
    size = sizes(seed)
    simulation = Simulation(seed, weather=Weather(loss=rng.choice([0, 0.05, 0.2]), duplication=rng.choice([0, 0.1])))
    simulation.start("m0")
    for number in range(1, size):
        simulation.run(rng.random() * 0.2)
        simulation.start(f"m{number}", join=f"m{rng.randrange(number)}")
    took = simulation.run_until(simulation.agree, 60)
    # Rumors need a few gossip intervals; what they miss, the push/pull of 30 s makes up for.
    assert took is not None
    assert took < 35.0, took
    assert simulation.failures() == []


@pytest.mark.parametrize("weather", [
    Weather(loss=0.05, duplication=0.1, delay_seconds_max=0.05, streams_work=False),
    Weather(loss=0.4, duplication=0.05, delay_seconds_max=0.05),
    Weather(delay_seconds_min=0.15, delay_seconds_max=0.2),
], ids=["5% lost, no TCP", "40% lost, TCP", "slow"])  # fmt: skip
def test_no_false_failure(seed: int, weather: Weather) -> None:
    """Below the documented loss nobody who lives is held for failed, in any view, at any time."""
    simulation = cluster(seed, sizes(seed, 25), weather=weather)
    simulation.run(60)
    assert simulation.failures() == []
    assert simulation.agree()


@pytest.mark.parametrize("settings", [LAN, LOCAL], ids=["lan", "local"])
def test_detection(seed: int, settings: SwimSettings) -> None:
    """A crash is seen by all within the bound, as failed, and never before the shortest suspicion; nobody else is."""
    size = sizes(seed)
    simulation = cluster(seed, size, settings=settings, weather=Weather(loss=0.02))
    crashed_at = simulation.now
    simulation.crash("m1")
    took = simulation.run_until(simulation.agree, 60)
    assert took is not None
    assert took <= detection_seconds_max(settings, size), (took, size)
    assert took >= suspicion_seconds_min(settings, size) + settings.probe_timeout_seconds
    seen = gone_events(simulation, "m1")
    assert {how for _, how in seen.values()} == {"failed"}
    assert len(seen) == size - 1
    simulation.run(60)
    joined = [
        event
        for at, _, event in simulation.events
        if at > crashed_at + 1 and isinstance(event, MemberJoined) and event.member.name == "m1"
    ]
    assert joined == [], "nobody comes back from the dead"
    assert {whom for _, _, whom in simulation.failures()} == {"m1"}


def views(simulation: Simulation, name: str) -> list[Member]:
    """How the others see it."""
    found = [node.serf.member(name) for node in simulation.live() if node.serf is not None and node.name != name]
    return [member for member in found if member is not None]


@pytest.mark.parametrize("kind", [Suspect, Dead])
def test_false_accusations(seed: int, kind: type[Suspect] | type[Dead]) -> None:
    """Members that live are accused by others, as after lost packets: each refutes it under a higher incarnation. Whoever was only
    suspected is never held for failed; whoever was is back in all views by the next exchange of tables, mostly much sooner."""
    rng = random.Random(f"story {seed}")
    size = sizes(seed, 25)
    simulation = cluster(seed, size, weather=Weather(loss=0.05, streams_work=kind is Dead))
    names = sorted(node.name for node in simulation.live())
    accused = rng.sample(names, 2)
    for name in accused:
        before = simulation.incarnations[name]
        accuser = simulation.nodes[rng.choice([one for one in names if one not in accused])]
        assert accuser.serf is not None
        accuser.serf.wake(simulation.now)
        accuser.serf.receive([kind(name=name, incarnation=before, accuser=accuser.name)], accuser.address, simulation.now)
        simulation.settle(accuser)

        def is_cleared(name: str = name, before: int = before) -> bool:
            is_refuted = simulation.incarnations[name] > before
            return is_refuted and all(one.status is GossipStatus.ALIVE and not one.is_suspect for one in views(simulation, name))

        assert simulation.run_until(is_cleared, 15 if kind is Suspect else 65) is not None
    simulation.run(60)
    assert simulation.agree()
    if kind is Suspect:
        assert simulation.failures() == []
    else:
        assert {whom for _, _, whom in simulation.failures()} <= set(accused)


def test_many_crashes(seed: int) -> None:
    """A third at once; the rest agree, and stay agreed while old rumors die out."""
    rng = random.Random(f"story {seed}")
    size = max(6, sizes(seed, 30))
    simulation = cluster(seed, size, weather=Weather(loss=0.05))
    victims = {f"m{number}" for number in rng.sample(range(size), size // 3)}
    for name in sorted(victims):
        simulation.crash(name)
    took = simulation.run_until(simulation.agree, 120)
    assert took is not None
    assert took < 3 * detection_seconds_max(LAN, size)
    simulation.run(60)
    assert simulation.agree()
    assert {whom for _, _, whom in simulation.failures()} == victims


def test_leaves(seed: int) -> None:
    """Several leave at once: all see them as left, none as failed, in about two seconds each."""
    rng = random.Random(f"story {seed}")
    size = max(6, sizes(seed, 30))
    simulation = cluster(seed, size)
    leavers = {f"m{number}" for number in rng.sample(range(size), max(1, size // 4))}
    for name in sorted(leavers):
        simulation.leave(name)
    took = simulation.run_until(lambda: len(simulation.live()) == size - len(leavers), 20)
    assert took is not None
    assert 1.0 < took < 6.0
    assert simulation.run_until(simulation.agree, 5) is not None
    simulation.run(40)
    for name in leavers:
        seen = gone_events(simulation, name)
        stayers = {node.name for node in simulation.live()}
        assert stayers <= set(seen)
        assert {how for who, (_, how) in seen.items() if who in stayers} == {"left"}
        assert all(simulation.status(node, name) is GossipStatus.LEFT for node in simulation.live())


@pytest.mark.parametrize("how", ["crash", "leave"])
def test_restart(seed: int, how: str) -> None:
    """A new process of the same name and address is back, though it begins at incarnation 1; whoever misses all rumors of it
    hears by the next push/pull."""
    size = sizes(seed, 20)
    simulation = cluster(seed, size)
    if how == "crash":
        simulation.crash("m1")
        simulation.run(random.Random(f"story {seed}").choice([0.0, 3.0, 15.0, 60.0]))
    else:
        simulation.leave("m1")
        simulation.run(10)
    simulation.start("m1", join="m0")
    took = simulation.run_until(simulation.agree, 40)
    assert took is not None
    assert took < 35.0
    simulation.run(40)
    assert simulation.agree()


def test_pause(seed: int) -> None:
    """A process that stood still accuses nobody when it goes on, and is itself back in all views soon after."""
    size = sizes(seed, 25)
    simulation = cluster(seed, size, weather=Weather(loss=0.02))
    rng = random.Random(f"story {seed}")
    seconds = rng.uniform(3, 25)
    simulation.pause("m1", seconds)
    simulation.run(seconds)
    took = simulation.run_until(simulation.agree, 60)
    assert took is not None
    assert took < 15.0, took
    simulation.run(40)
    assert {whom for _, _, whom in simulation.failures()} <= {"m1"}
    stalls = [who for _, who, event in simulation.events if isinstance(event, LoopStalled)]
    assert set(stalls) == {"m1"}


def test_slow_observers(seed: int) -> None:
    """Members that stop again and again for a second or two do not have the well ones thrown out."""
    size = max(6, sizes(seed, 20))
    simulation = cluster(seed, size)
    rng = random.Random(f"story {seed}")
    slow = {"m1", "m2"}
    for _ in range(20):
        for name in sorted(slow):
            simulation.pause(name, rng.uniform(0.3, 2.5))
        simulation.run(3)
    assert {whom for _, _, whom in simulation.failures()} <= slow
    assert simulation.run_until(simulation.agree, 60) is not None


def test_others_vouch(seed: int) -> None:
    """Two who do not hear each other, by packets or streams, do not even suspect each other: others ping for them."""
    size = max(5, sizes(seed, 20))
    simulation = cluster(seed, size)
    simulation.cut_pairs = {frozenset(("m1", "m2")), frozenset(("m0", "m3"))}
    simulation.run(60)
    assert not [event for _, _, event in simulation.events if isinstance(event, MemberSuspected)]
    assert simulation.agree()


def test_the_dead_stay_dead(seed: int) -> None:
    """Copies of packets come late, with all that was once true in them: in nobody's view does a member that has failed or left come
    back, nor one that lives go. Not after `gossip_to_dead_seconds`: then nobody knows the incarnation any more."""
    size = sizes(seed, 16)
    simulation = Simulation(seed, weather=Weather(duplication=0.5, copy_delay_seconds_max=LAN.gossip_to_dead_seconds - 5))
    simulation.start("m0")
    for number in range(1, size):
        simulation.start(f"m{number}", join="m0")
    assert simulation.run_until(simulation.agree, 60) is not None
    simulation.run(random.Random(f"story {seed}").uniform(0, 20))
    simulation.crash("m1")
    simulation.leave("m2")
    assert simulation.run_until(simulation.agree, 60) is not None
    simulation.run(90)
    gone: set[tuple[str, str]] = set()
    for _, who, event in simulation.events:
        if isinstance(event, MemberFailed | MemberLeft):
            gone.add((who, event.member.name))
        elif isinstance(event, MemberJoined):
            assert (who, event.member.name) not in gone
    assert {whom for _, whom in gone} == {"m1", "m2"}


def test_partition_heals(seed: int) -> None:
    """Both sides hold the other for failed; long after the failure detector has forgotten them, they find each other again."""
    size = sizes(seed, 16)
    simulation = cluster(seed, size)
    names = [node.name for node in simulation.live()]
    cut = random.Random(f"story {seed}").randrange(1, size)
    (one, other) = (set(names[:cut]), set(names[cut:]))
    simulation.partition(one, other)

    def apart() -> bool:
        return all(simulation.agree([simulation.nodes[name] for name in side], side) for side in (one, other))

    assert simulation.run_until(apart, 200) is not None
    simulation.run(60)
    assert apart()
    simulation.heal()
    took = simulation.run_until(simulation.agree, 600)
    assert took is not None
    simulation.run(60)
    assert simulation.agree()


def test_events_reach_all(seed: int) -> None:
    """A user event is delivered once to each, in spite of loss and duplication."""
    size = sizes(seed)
    simulation = cluster(seed, size, weather=Weather(loss=0.1, duplication=0.3))
    sender = simulation.nodes["m1"]
    assert sender.serf is not None
    for number in range(5):
        sender.serf.wake(simulation.now)
        sender.serf.send_event("deploy", str(number).encode(), simulation.now)
        simulation.settle(sender)

    def heard() -> list[str]:
        return sorted(who for _, who, event in simulation.events if isinstance(event, UserEventReceived))

    took = simulation.run_until(lambda: len(heard()) == 5 * size, 60)
    assert took is not None
    simulation.run(5)
    assert heard() == sorted(node.name for node in simulation.live() for _ in range(5))


def send_events(simulation: Simulation, name: str, count: int) -> list[int]:
    """So many of this member, a few each gossip interval; their Lamport times."""
    sender = simulation.nodes[name]
    assert sender.serf is not None
    times = []
    for number in range(count):
        sender.serf.wake(simulation.now)
        times.append(sender.serf.send_event("deploy", f"{name} {number}".encode(), simulation.now))
        simulation.settle(sender)
        if number % 20 == 19:
            simulation.run(0.2)
    return times


def test_clocks_follow_each_other(seed: int) -> None:
    """What a member does after it has heard of something has a later time; a member that was silent while others said more than
    anybody remembers is heard nevertheless, and so is one that has only just joined."""
    size = sizes(seed, 12)
    simulation = cluster(seed, size)
    heard = send_events(simulation, "m1", 530)

    def heard_by(text: str) -> list[str]:
        received = [(who, event.event) for _, who, event in simulation.events if isinstance(event, UserEventReceived)]
        return sorted(who for who, event in received if event.payload == text.encode())

    assert simulation.run_until(lambda: "m2" in heard_by("m1 529"), 100) is not None
    answered = send_events(simulation, "m2", 1)
    assert min(answered) > max(heard)
    newcomer = simulation.start(f"m{size}", join="m0")
    assert simulation.run_until(simulation.agree, 40) is not None
    simulation.run(1)
    newest = send_events(simulation, newcomer.name, 1)
    assert min(newest) > max(answered)
    # Whom no rumor of it reaches hears of it by an exchange of tables. The past need not reach the newcomer.
    for text, listeners in ((f"{newcomer.name} 0", size + 1), ("m2 0", size)):

        def is_heard(text: str = text, listeners: int = listeners) -> bool:
            return len(set(heard_by(text)) - ({newcomer.name} if listeners == size else set())) == listeners

        assert simulation.run_until(is_heard, 100) is not None
        assert len(heard_by(text)) == len(set(heard_by(text)))


def test_swarm(seed: int) -> None:
    """Everything at once, drawn from the seed; then quiet, and all must agree. Ends with an equal trace when run twice."""

    def story() -> tuple[Simulation, str]:
        rng = random.Random(f"swarm {seed}")
        size = sizes(seed, 20)
        simulation = cluster(seed, size)
        log: list[str] = []
        for _ in range(12):
            simulation.weather = Weather(
                loss=rng.choice([0, 0.05, 0.3]),
                duplication=rng.choice([0, 0.2]),
                delay_seconds_max=rng.choice([0.005, 0.1, 0.4]),
                streams_work=rng.random() < 0.8,
            )
            running = sorted(node.name for node in simulation.live())
            stopped = sorted(set(simulation.nodes) - set(running))
            acts: list[Callable[[], object]] = [lambda: None]
            if len(running) > 3:
                name = rng.choice(running[1:])
                acts.append(partial(simulation.crash, name))
                acts.append(partial(simulation.leave, name))
                acts.append(partial(simulation.pause, name, rng.uniform(0.5, 10)))
            if stopped:
                acts += 2 * [partial(simulation.start, rng.choice(stopped), join="m0")]
            rng.choice(acts)()
            simulation.run(rng.uniform(0, 15))
            log.append(f"{simulation.now:.6f} {simulation.traffic}")
        simulation.weather = Weather()
        took = simulation.run_until(simulation.agree, 400)
        assert took is not None, "no agreement in quiet"
        simulation.run(60)
        assert simulation.agree()
        return simulation, "\n".join(log)

    (first, trace) = story()
    if seed % 3 == 0:
        (second, again) = story()
        assert trace == again, "the same seed must give the same run"
        assert first.traffic == second.traffic
