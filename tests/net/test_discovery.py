"""When a cluster begins, and who is out there."""

import itertools
import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.peer_frame import Hello, Refused, RefusedCode
from trio_eventlog.ids import ClusterId, NodeId
from trio_eventlog.net.discovery import (
    Bootstrap,
    DiscoveryEvent,
    DiscoverySettings,
    HelloDiscovery,
    Join,
    MemberAppeared,
    MemberChanged,
    MemberFailed,
    MemberForgotten,
    Refuse,
    Wait,
    decide_bootstrap,
    derive_cluster_id,
)
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.testing.defaults import default

A, B, C, D = (NodeId(number) for number in (0xA, 0xB, 0xC, 0xD))


def hello(node_id: NodeId, known: Sequence[NodeId] = (), expect: int = 3, **changes: object) -> Hello:
    plain = Hello(
        node_id=node_id,
        cluster_name="test",
        node_name=f"n{node_id:x}",
        address=f"n{node_id:x}:1",
        bootstrap_expect=expect,
        known_ids=tuple(known),
    )
    return attrs.evolve(plain, **changes)


ABC = (A, B, C)
THREE = Bootstrap(cluster_id=derive_cluster_id("test", ABC), voters=ABC)


@pytest.mark.parametrize(
    ("own", "hellos", "expected"),
    [
        (hello(A, expect=1), [], Bootstrap(cluster_id=derive_cluster_id("test", [A]), voters=(A,))),
        (hello(A, ABC), [hello(B, ABC), hello(C, ABC)], THREE),
        (hello(C, ABC), [hello(B, (C, A, B)), hello(A, ABC)], THREE),
        (hello(A, ABC), [hello(B, ABC), hello(C, ABC), hello(D, (), expect=0)], THREE),
        (hello(A), [hello(B, ABC), hello(C, ABC)], THREE),
        (hello(A, ABC, cluster_id=ClusterId(7)), [hello(B, ABC), hello(C, ABC)], Join(ClusterId(7))),
        (hello(A, ABC), [hello(B, ABC, cluster_id=ClusterId(7)), hello(C, ABC)], Join(ClusterId(7))),
        (hello(A, expect=0), [hello(B, cluster_id=ClusterId(7))], Join(ClusterId(7))),
        (hello(A, expect=5), [hello(B, expect=3, cluster_id=ClusterId(7))], Join(ClusterId(7))),
    ],
    ids=[
        "alone",
        "three",
        "in any order",
        "a joiner does not count",
        "own list follows from what was heard",
        "we belong already",
        "another belongs already",
        "a joiner finds a cluster",
        "an old expectation does not matter",
    ],
)
def test_certain(own: Hello, hellos: list[Hello], expected: object) -> None:
    assert decide_bootstrap(own, hellos) == expected


@pytest.mark.parametrize(
    ("own", "hellos", "says"),
    [
        (hello(A), [], "1 of 3"),
        (hello(A), [hello(B, (A, B))], "2 of 3"),
        (hello(A, ABC), [hello(B, ABC)], "heard 1 of the 2"),
        (hello(A, ABC), [hello(B, ABC), hello(C, (B, C))], "knows 2 of 3"),
        (hello(A, ABC), [hello(B, ABC), hello(C, (B, C, D))], "knows 3 of 3"),
        (hello(A, ABC), [hello(B, ABC), hello(C, ABC, has_data=True)], "has data"),
        (hello(A, expect=0), [hello(B, ABC), hello(C, ABC)], "may not begin one"),
    ],
)
def test_not_yet(own: Hello, hellos: list[Hello], says: str) -> None:
    decision = decide_bootstrap(own, hellos)
    assert isinstance(decision, Wait)
    assert says in decision.reason


@pytest.mark.parametrize(
    ("own", "hellos", "says"),
    [
        (hello(A), [hello(B, cluster_name="prod")], ("'prod'", "'test'")),
        (hello(A, expect=3), [hello(B, expect=5)], ("5", "3")),
        (hello(A, ABC), [hello(B, ABC), hello(C, ABC), hello(D, ABC)], ("4 nodes", "of 3", "000d")),
        (hello(A), [hello(B, cluster_id=ClusterId(7)), hello(C, cluster_id=ClusterId(8))], ("0007", "0008")),
        (hello(A, cluster_id=ClusterId(7)), [hello(C, cluster_id=ClusterId(8))], ("0007", "0008")),
        (hello(A, has_data=True), [], ("has data",)),
    ],
    ids=["cluster name", "expectation", "too many", "two clusters", "another cluster", "data of no cluster"],
)
def test_settings_that_contradict_each_other_are_named(own: Hello, hellos: list[Hello], says: tuple[str, ...]) -> None:
    decision = decide_bootstrap(own, hellos)
    assert isinstance(decision, Refuse)
    for text in says:
        assert text in decision.reason


def test_the_cluster_id_depends_on_name_and_voters_only() -> None:
    assert derive_cluster_id("test", [A, B]) == derive_cluster_id("test", [B, A]) == 0xC73E94039AFA651E
    assert derive_cluster_id("test", [A, C]) != derive_cluster_id("test", [A, B]) != derive_cluster_id("prod", [A, B])


class Model:
    """A node that is forming a cluster: it only learns, and once it has begun a cluster it says so for ever."""

    def __init__(self, node_id: NodeId, expect: int) -> None:
        self.own = hello(node_id, (node_id,), expect)
        self.heard: dict[NodeId, Hello] = {}

    def hear(self, other: Hello) -> None:
        self.heard[other.node_id] = other
        if not self.own.cluster_id and not other.cluster_id:
            self.own = attrs.evolve(self.own, known_ids=tuple(sorted({*self.own.known_ids, other.node_id})))
        decision = decide_bootstrap(self.own, list(self.heard.values()))
        if isinstance(decision, Bootstrap) and not self.own.cluster_id:
            self.own = attrs.evolve(self.own, cluster_id=decision.cluster_id, known_ids=decision.voters)


@given(st.data())
def test_no_interleaving_of_hellos_begins_two_clusters(data: st.DataObject) -> None:
    """N nodes expected, up to 2N-1 there (a mistake, but one that must do no harm), hellos late, lost, repeated, out of order."""
    expect = data.draw(st.integers(1, 4))
    nodes = [Model(NodeId(number + 1), expect) for number in range(data.draw(st.integers(expect, 2 * expect - 1)))]
    under_way: list[tuple[int, Hello]] = []
    pairs = list(itertools.permutations(range(len(nodes)), 2)) or [(0, 0)]
    for _ in range(data.draw(st.integers(0, 60))):
        if under_way and data.draw(st.booleans()):
            (to, said) = under_way[data.draw(st.integers(0, len(under_way) - 1))]  # stays: it may come again, later
            nodes[to].hear(said)
        else:
            (sender, to) = data.draw(st.sampled_from(pairs))
            if sender != to:
                under_way.append((to, nodes[sender].own))
    begun = {node.own.cluster_id for node in nodes if node.own.cluster_id}
    assert len(begun) <= 1


@given(st.permutations(list(itertools.permutations(range(3), 2))))
def test_every_order_of_enough_hellos_begins_one(order: list[tuple[int, int]]) -> None:
    """The property above would hold for a function that always waits; so: three rounds of hellos are enough for each node."""
    nodes = [Model(node_id, 3) for node_id in ABC]
    for _ in range(3):
        for sender, to in order:
            nodes[to].hear(nodes[sender].own)
    assert {node.own.cluster_id for node in nodes if node.own.cluster_id} == {THREE.cluster_id}


# Static discovery.


class World:
    """Addresses, and what a probe of each gives at the moment."""

    def __init__(self) -> None:
        self.answers: dict[str, Hello | Exception] = {}
        self.probes: list[tuple[str, float]] = []
        self.events: list[DiscoveryEvent] = []

    async def probe(self, address: str) -> Hello:
        await trio.lowlevel.checkpoint()
        self.probes.append((address, trio.current_time()))
        answer = self.answers.get(address, ConnectionRefusedError(f"{address}: nobody"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def discovery(
        self,
        own: Callable[[], Hello],
        *addresses: str,
        is_known: Callable[[NodeId], bool] = lambda node_id: True,
        is_linked: Callable[[NodeId], bool] = lambda node_id: False,
        **settings: float,
    ) -> HelloDiscovery:
        return HelloDiscovery(
            addresses,
            probe=self.probe,
            identity=own,
            settings=default(DiscoverySettings, **settings),  # type: ignore[arg-type]
            rng=random.Random(1),
            on_event=self.events.append,
            is_known=is_known,
            is_linked=is_linked,
        )


async def running(discovery: HelloDiscovery, story: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(discovery.run)
        await story()
        nursery.cancel_scope.cancel()


def sleeping(seconds: float) -> Callable[[], Awaitable[None]]:
    async def sleep() -> None:
        await trio.sleep(seconds)

    return sleep


async def test_members_come_change_fail_and_come_back(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.answers["nb:1"] = hello(B)
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)), "nb:1", probe_seconds_max=5, failed_probes_max=3)

    async def story() -> None:
        await trio.sleep(1)
        assert [member.name for member in discovery.members().values()] == ["nb"]
        world.answers["nb:1"] = hello(B, node_name="renamed")
        await trio.sleep(6)
        world.answers["nb:1"] = OSError("gone")
        await trio.sleep(20)
        assert discovery.members() == {}
        world.answers["nb:1"] = hello(B)
        await trio.sleep(6)
        assert list(discovery.members()) == [B]

    await running(discovery, story)
    assert [type(event) for event in world.events] == [MemberAppeared, MemberChanged, MemberFailed, MemberAppeared]


async def test_our_own_address_is_noticed_and_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.answers["me:1"] = LinkRefused(Refused(RefusedCode.SAME_NODE_ID, "that is you"), "me:1")
    discovery = world.discovery(lambda: hello(A), "me:1", "me:1")
    await running(discovery, sleeping(60))
    assert len(world.probes) == 1
    assert discovery.members() == {}


async def test_probing_is_quick_while_a_cluster_forms_and_slow_afterwards(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    own = hello(A)
    discovery = world.discovery(lambda: own, "nb:1", probe_seconds_min=0.1, probe_seconds_max=5)

    async def story() -> None:
        nonlocal own
        await trio.sleep(10)
        assert 100 <= len(world.probes) <= 201
        own = hello(A, cluster_id=ClusterId(7))
        await trio.sleep(1)
        world.probes.clear()
        await trio.sleep(100)
        assert 20 <= len(world.probes) <= 41

    await running(discovery, story)


async def test_a_refusal_is_not_asked_for_again_at_once(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.answers["nb:1"] = LinkRefused(Refused(RefusedCode.CLUSTER_NAME, "another cluster"), "nb:1")
    discovery = world.discovery(lambda: hello(A), "nb:1", probe_seconds_min=0.1, probe_seconds_max=5)
    await running(discovery, sleeping(100))
    assert 20 <= len(world.probes) <= 41


async def test_who_introduces_himself_is_probed_and_is_a_member_once_he_answers(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.answers["nb:1"] = hello(B)
    discovery = world.discovery(lambda: hello(A))

    async def story() -> None:
        discovery.introduce(hello(B))
        assert discovery.members() == {}, "anybody may say that he is B"
        discovery.introduce(hello(A))
        await trio.sleep(1)
        assert list(discovery.members()) == [B]
        assert {address for address, _ in world.probes} == {"nb:1"}

    await running(discovery, story)


async def test_hints_are_probed_for_as_long_as_they_are_given(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever answers there stays watched; where nobody ever did, probing ends with the hint, and begins again with it."""
    world = World()
    world.answers["nb:1"] = hello(B)
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)))

    def probes_of(address: str) -> int:
        count = sum(probed == address for probed, _ in world.probes)
        world.probes.clear()
        return count

    async def story() -> None:
        discovery.set_hints(["nb:1", "nowhere:1"])
        await trio.sleep(20)
        assert list(discovery.members()) == [B]
        assert probes_of("nowhere:1") >= 4
        discovery.set_hints([])
        await trio.sleep(20)
        assert probes_of("nowhere:1") <= 1
        await trio.sleep(20)
        assert {address for address, _ in world.probes} == {"nb:1"}
        discovery.set_hints(["nowhere:1"])
        await trio.sleep(20)
        assert probes_of("nowhere:1") >= 4

    await running(discovery, story)


async def test_another_node_at_an_address_means_that_the_former_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    """A wiped disk: the same address, another id. The former member has failed; it moves when it shows itself elsewhere."""
    world = World()
    world.answers["nb:1"] = hello(B)
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)), "nb:1")

    async def story() -> None:
        await trio.sleep(1)
        world.answers["nb:1"] = hello(C, address="nb:1")
        await trio.sleep(6)
        assert list(discovery.members()) == [C]
        assert list(discovery.failed()) == [B]
        world.answers["elsewhere:1"] = hello(B, address="elsewhere:1")
        discovery.introduce(hello(B, address="elsewhere:1"))
        await trio.sleep(6)
        assert set(discovery.members()) == {B, C}

    await running(discovery, story)


async def test_the_limit_of_addresses(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.answers = {"nb:1": hello(B), "nc:1": hello(C), "nd:1": hello(D)}
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)), addresses_max=2)

    async def story() -> None:
        for node_id in (B, C, D):
            discovery.introduce(hello(node_id))
            await trio.sleep(1)
        assert set(discovery.members()) == {B, C}, "those that our own log knows stay"

    await running(discovery, story)


async def test_what_was_only_claimed_takes_nobodys_place(autojump_clock: trio.testing.MockClock) -> None:
    """Hundreds that do not exist, again and again; one more that does is met all the same, and nothing is left of the others."""
    world = World()
    world.answers["nb:1"] = hello(B)
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)), "nowhere:1")

    async def story() -> None:
        for number in range(1000):
            discovery.introduce(hello(NodeId(1000 + number), address=f"x{number}:1"))
            if number % 300 == 0:
                await trio.sleep(1)
        discovery.introduce(hello(B))
        for number in range(20):
            discovery.introduce(hello(NodeId(1000 + number), address=f"x{number}:1"))
        await trio.sleep(30)
        assert list(discovery.members()) == [B]
        assert discovery.failed() == {}
        world.probes.clear()
        await trio.sleep(60)
        assert {address for address, _ in world.probes} == {"nb:1", "nowhere:1"}

    await running(discovery, story)


async def test_those_that_answer_and_that_nobody_has_named_make_room_for_others(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever has an address can answer there, too, as anybody he likes. Members of the cluster and those of --join stay."""
    world = World()
    known = {B, C}
    discovery = world.discovery(
        lambda: hello(A, cluster_id=ClusterId(7)), "nc:1", "fixed:1", addresses_max=8, is_known=lambda node_id: node_id in known
    )
    world.answers |= {"nb:1": hello(B), "nc:1": hello(C), "fixed:1": hello(D, address="fixed:1")}

    async def story() -> None:
        discovery.introduce(hello(B))
        await trio.sleep(1)
        for number in range(100):
            (one, address) = (NodeId(1000 + number), f"x{number}:1")
            world.answers[address] = hello(one, address=address)
            discovery.introduce(hello(one, address=address))
            await trio.sleep(0.1)
            assert len(discovery.members()) <= 8
            assert {B, C, D, one} <= set(discovery.members())
        for number in range(100):
            world.answers.pop(f"x{number}:1")
        await trio.sleep(30)
        assert set(discovery.members()) == {B, C, D}
        assert sum(isinstance(event, MemberForgotten) for event in world.events) == 100

    await running(discovery, story)


async def test_a_member_that_is_connected_does_not_move_by_somebody_elses_word(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    linked = {B}
    discovery = world.discovery(lambda: hello(A, cluster_id=ClusterId(7)), "nb:1", is_linked=lambda node_id: node_id in linked)
    world.answers |= {"nb:1": hello(B), "evil:1": hello(B, address="evil:1")}

    async def story() -> None:
        await trio.sleep(1)
        discovery.introduce(hello(B, address="evil:1"))
        discovery.set_hints(["evil:1"])
        await trio.sleep(20)
        assert discovery.members()[B].address == "nb:1"
        linked.clear()
        await trio.sleep(20)
        assert discovery.members()[B].address == "evil:1", "it has moved, as far as one can see"

    await running(discovery, story)


async def test_candidates_are_those_that_answer_our_own_probes(autojump_clock: trio.testing.MockClock) -> None:
    """By id, wherever each is; joiners and members of a cluster are none; who has gone is forgotten unless it was agreed to."""
    world = World()
    own = hello(A)
    discovery = world.discovery(lambda: own, is_known=lambda node_id: False)

    async def story() -> None:
        nonlocal own
        assert discovery.known_ids() == (A,)
        discovery.introduce(hello(B))
        await trio.sleep(1)
        assert discovery.known_ids() == (A,), "a claim counts for nothing"
        world.answers |= {"nb:1": hello(B), "nc:1": hello(C, expect=0), "nd:1": hello(D, cluster_id=ClusterId(7))}
        for other in (hello(B), hello(C), hello(D)):
            discovery.introduce(other)
        await trio.sleep(1)
        assert discovery.known_ids() == (A, B)
        del world.answers["nb:1"]
        await trio.sleep(5)
        assert discovery.known_ids() == (A,)
        discovery.agree((A, B))
        assert discovery.known_ids() == (A, B)
        own = hello(A, expect=0)
        assert discovery.known_ids() == ()

    await running(discovery, story)


@given(st.data())
def test_candidates_are_counted_by_id(data: st.DataObject) -> None:
    """Each has several addresses and moves between them, and addresses pass from one to another: each id counts once."""
    world = World()
    discovery = world.discovery(lambda: hello(A, expect=9), is_known=lambda node_id: False)
    last: dict[NodeId, str] = {}
    for _ in range(data.draw(st.integers(1, 20))):
        node_id = data.draw(st.sampled_from([B, C, D]))
        address = data.draw(st.sampled_from(["x:1", "y:1", "z:1"]))
        advertised = data.draw(st.sampled_from([address, "w:1", ""]))
        discovery.met(hello(node_id, address=advertised), address)
        last[node_id] = advertised or address
        assert discovery.known_ids() == tuple(sorted({A, *last}))
        assert {one: member.address for one, member in discovery.members().items()} == last


async def test_three_nodes_with_each_others_addresses_decide_alike(autojump_clock: trio.testing.MockClock) -> None:
    """Within a second of the last one's start, whatever the order."""
    worlds = {node_id: World() for node_id in ABC}
    owns = {node_id: hello(node_id) for node_id in ABC}
    decisions: dict[NodeId, object] = {}

    def identity(node_id: NodeId) -> Hello:
        known = discoveries[node_id].known_ids() if node_id in discoveries else ()
        return attrs.evolve(owns[node_id], known_ids=known)

    discoveries: dict[NodeId, HelloDiscovery] = {}
    started: set[NodeId] = set()

    def probe_of(asking: NodeId) -> Callable[[str], Awaitable[Hello]]:
        async def probe(address: str) -> Hello:
            await trio.lowlevel.checkpoint()
            asked = NodeId(int(address[1], 16))
            if asked not in started:
                raise ConnectionRefusedError("not yet")
            if asked == asking:
                raise LinkRefused(Refused(RefusedCode.SAME_NODE_ID, "you"), address)
            discoveries[asked].introduce(identity(asking))
            return identity(asked)

        return probe

    async with trio.open_nursery() as nursery:
        for node_id in ABC:
            worlds[node_id].probe = probe_of(node_id)  # type: ignore[method-assign]
            discoveries[node_id] = worlds[node_id].discovery(lambda node_id=node_id: owns[node_id], "na:1", "nb:1", "nc:1")  # type: ignore[misc]

        async def decide(node_id: NodeId) -> None:
            decisions[node_id] = await discoveries[node_id].wait_decision()
            owns[node_id] = attrs.evolve(owns[node_id], cluster_id=THREE.cluster_id)

        for node_id in ABC:
            started.add(node_id)
            nursery.start_soon(discoveries[node_id].run)
            nursery.start_soon(decide, node_id)
            await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert set(decisions) == set(ABC)
    assert THREE in decisions.values()
    assert all(decision in (THREE, Join(THREE.cluster_id)) for decision in decisions.values())
