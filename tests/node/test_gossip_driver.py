"""The gossip driver in virtual time: real codec, mux and core, packets and streams in memory."""

import random

import attrs
import pytest
import trio
from gossip_rig import Node, Rig, no_handler, rig, sees, three, until

from trio_eventlog.codec.gossip_crypto import Keyring, encode_key
from trio_eventlog.codec.memberlist import StreamDecoder, WireLimits, encode_label, encode_stream_message
from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.codec.serf import encode_tags
from trio_eventlog.errors import CodecError, InvalidArgument, Overloaded, ShuttingDown
from trio_eventlog.gossip.events import (
    GossipStatus,
    KeysChanged,
    LoopStalled,
    Member,
    MemberFailed,
    MemberLeft,
    MergeRefused,
    NameConflict,
    OnlyStreamsWork,
    QueryReceived,
    UserEventReceived,
)
from trio_eventlog.gossip.messages import Ack, Address, ErrorText, KeyOperation, NameFilter, Ping, StreamMessage
from trio_eventlog.gossip.settings import LAN
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.net import discovery
from trio_eventlog.net.mux import Mux, MuxSettings
from trio_eventlog.node.gossip_discovery import (
    GossipDiscovery,
    accepts_cluster,
    cluster_tag,
    make_gossip_discovery,
    member_of,
    node_tags,
)
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.node.gossip_streams import GossipRefused
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.weather import Weather

(KEY, OTHER_KEY) = (bytes(range(32)), bytes(32))


# --- Joining, failing, leaving. ---


async def test_join() -> None:
    """All see all within a second, with tags and addresses; asking once is enough."""
    async with rig() as cluster:
        await cluster.start("n1", "n1", tags={"role": "eventlog", "v": "1"})
        await cluster.start("n2", "n1")
        await cluster.start("n3", "n2")
        assert await cluster.agree() < 1.0
        member = cluster.nodes["n3"].driver.members["n1"]
        assert member.tags == {"role": "eventlog", "v": "1"}
        assert cluster.nodes["n3"].driver.shown_host(member.address) == "n1"


async def test_a_seed_may_come_later() -> None:
    """It is tried again until it is there."""
    async with rig() as cluster:
        await cluster.start("n2", "n1")
        await trio.sleep(20)
        await cluster.start("n1")
        assert await cluster.agree() < 31


async def test_a_crash_is_seen() -> None:
    """As failed, within detection and suspicion; a new process of the same name is back at once."""
    async with rig() as cluster:
        (n1, n2, _) = await three(cluster)
        cluster.crash("n3")
        assert await cluster.agree("n1", "n2") < 10
        assert n1.driver.members["n3"].status is GossipStatus.FAILED
        assert len(n2.of(MemberFailed)) == 1
        await cluster.start("n3", "n1")
        assert await cluster.agree() < 2


async def test_leave() -> None:
    """Seen as left; `run` ends by itself, and later calls are refused."""
    async with rig() as cluster:
        (n1, n2, n3) = await three(cluster)
        began = trio.current_time()
        assert await n3.driver.leave()
        assert trio.current_time() - began < 4
        del cluster.nodes["n3"]
        await cluster.agree()
        for node in (n1, n2):
            assert len(node.of(MemberLeft)) == 1
            assert node.driver.members["n3"].status is GossipStatus.LEFT
        with pytest.raises(ShuttingDown):
            await n3.driver.send_event("e", b"")
        await trio.sleep(40)
        assert not n1.of(MemberFailed)


async def test_leave_has_an_end() -> None:
    """A leave that cannot spread is given up."""
    async with rig() as cluster:
        settings = default(GossipSettings, leave_seconds_max=3.0)
        (n1, _, _) = await three(cluster, settings=settings)
        cluster.network.weather = Weather(loss_chance=1.0)
        cluster.network.isolate("n1")
        n1.driver._serf._intent_rumors.take = lambda *arguments: ([], arguments[0])  # type: ignore[method-assign]
        began = trio.current_time()
        assert not await n1.driver.leave()
        assert trio.current_time() - began == pytest.approx(3.0)


async def test_partition() -> None:
    """Both sides fail each other, and find each other again."""
    async with rig() as cluster:
        await three(cluster)
        cluster.network.isolate("n3")
        await cluster.agree("n1", "n2")
        await cluster.agree("n3")
        await trio.sleep(60)
        cluster.network.heal()
        assert await cluster.agree(seconds=200) < 100


async def test_udp_blocked() -> None:
    """TCP alone keeps all alive, and somebody is told."""
    async with rig() as cluster:
        nodes = await three(cluster)
        cluster.network.weather = Weather(loss_chance=1.0)
        await trio.sleep(60)
        for node in nodes:
            assert not node.of(MemberFailed)
            assert node.of(OnlyStreamsWork)


async def test_tcp_blocked() -> None:
    """UDP alone does too; streams fail quietly."""
    async with rig() as cluster:
        (n1, *others) = await three(cluster)
        for node in (n1, *others):
            cluster.network.host(node.name).open_stream = refuse  # type: ignore[method-assign]
        await trio.sleep(100)
        assert not n1.of(MemberFailed)
        assert n1.driver.statistics()["exchanges failed"] >= 1


async def refuse(address: str) -> trio.abc.Stream:
    raise ConnectionRefusedError(f"{address}: blocked")


async def test_a_stall_accuses_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """The loop stood still while packets came in: they are read before time acts."""
    async with rig() as cluster:
        nodes = await three(cluster)
        # Nothing else runs while the clock jumps, as when a process is stopped or a callback blocks.
        for _ in range(5):
            autojump_clock.jump(12.0)
            await trio.sleep(3)
        await trio.sleep(30)
        for node in nodes:
            assert node.of(LoopStalled)
            assert not node.of(MemberFailed)


async def test_duplicate_names_are_reported() -> None:
    """Nobody exits, nobody is replaced."""
    async with rig() as cluster:
        (n1, _, _) = await three(cluster)
        await cluster.start("n9", "n1", gossip_name="n2")
        await until(lambda: n1.of(NameConflict))
        await trio.sleep(10)
        assert n1.driver.shown_host(n1.driver.members["n2"].address) == "n2"
        assert not n1.of(MemberFailed)


async def test_force_leave() -> None:
    """A failed member becomes left everywhere, or is forgotten."""
    async with rig() as cluster:
        (n1, n2, _) = await three(cluster)
        cluster.crash("n3")
        await cluster.agree("n1", "n2")
        assert await n1.driver.force_leave("n3")
        await n2.driver.wait_members(lambda members: members["n3"].status is GossipStatus.LEFT)
        assert await n1.driver.force_leave("n3", prune=True)
        await n2.driver.wait_members(lambda members: "n3" not in members)
        assert not await n1.driver.force_leave("n3")


async def test_a_name_with_several_addresses() -> None:
    """The next one is tried when nobody answers at the first; when nobody answers at all, the last one's error is told."""
    async with rig() as cluster:
        await cluster.start("n1")
        n2 = await cluster.start("n2")
        host = n2.driver._datagram_network
        (nowhere, there) = [*await host.resolve("nowhere:8400"), *await host.resolve("n1:8400")]
        found = [nowhere, there]

        async def resolve(address: str) -> list[Address]:
            return found

        host.resolve = resolve  # type: ignore[method-assign]
        await n2.driver.join("both:8400")
        await cluster.agree()
        found.reverse()
        found.pop(0)
        with pytest.raises(OSError, match="nowhere"):
            await n2.driver.join("both:8400")


async def test_errors_of_the_socket_are_lost_packets() -> None:
    """Also when they come on receiving."""
    async with rig() as cluster:
        (n1, *_) = await three(cluster)
        receive = n1.driver._packets._datagrams.receive_nowait
        errors = [OSError("reset"), OSError("reset")]

        def broken() -> object:
            if errors:
                raise errors.pop()
            return receive()

        n1.driver._packets._datagrams.receive_nowait = broken  # type: ignore[method-assign, assignment]
        await trio.sleep(10)
        assert n1.driver.statistics()["receive errors"] == 2
        await cluster.agree()


# --- Events, queries, tags, keys. ---


async def test_events_and_tags() -> None:
    """Reach all; too long ones are refused to the caller."""
    async with rig() as cluster:
        nodes = await three(cluster)
        await nodes[0].driver.send_event("deploy", b"7")
        await until(lambda: all(node.of(UserEventReceived) for node in nodes))
        with pytest.raises(InvalidArgument):
            await nodes[0].driver.send_event("deploy", bytes(600))
        await nodes[0].driver.set_tags({"role": "eventlog", "v": "9"})
        await nodes[2].driver.wait_members(lambda members: members["n1"].tags.get("v") == "9")
        with pytest.raises(CodecError):
            await nodes[0].driver.set_tags({"v": "9" * 600})


async def test_query() -> None:
    """Acks and answers of those chosen; reachability of all."""
    async with rig() as cluster:
        nodes = await three(cluster)

        async def answer(node: Node) -> None:
            await until(lambda: node.of(QueryReceived))
            [received] = node.of(QueryReceived)
            assert isinstance(received, QueryReceived)
            await node.driver.respond(received.query, node.name.encode())

        async with trio.open_nursery() as nursery:
            for node in nodes[:2]:
                nursery.start_soon(answer, node)
            result = await nodes[2].driver.query("who", filters=[NameFilter(("n1", "n2"))], wants_ack=True, relay_factor=1)
        assert set(result.acks) == {"n1", "n2"}
        assert result.answers == {"n1": b"n1", "n2": b"n2"}
        assert set(await nodes[0].driver.reachable()) == {"n1", "n2", "n3"}


async def test_encryption_and_rotation() -> None:
    """Everything is encrypted; keys are changed on all by queries; who has another key stays outside."""
    async with rig() as cluster:
        nodes = await three(cluster, keys=(KEY,))
        stranger = await cluster.start("n8", "n1", keys=(bytes([7]) * 32,))
        plain = await cluster.start("n9", "n1")
        answers = await nodes[0].driver.operate_on_keys(KeyOperation.INSTALL, OTHER_KEY)
        assert {name: answer.succeeded for name, answer in answers.items()} == dict.fromkeys(("n1", "n2", "n3"), True)
        await nodes[1].driver.operate_on_keys(KeyOperation.USE, OTHER_KEY)
        await nodes[2].driver.operate_on_keys(KeyOperation.REMOVE, KEY)
        listed = await nodes[0].driver.operate_on_keys(KeyOperation.LIST)
        assert [answer.keys for answer in listed.values()] == [(encode_key(OTHER_KEY),)] * 3
        assert [len(node.of(KeysChanged)) for node in nodes] == [3, 3, 3]
        assert [node.keyring.keys for node in nodes if node.keyring] == [(OTHER_KEY,)] * 3
        refused = await nodes[0].driver.operate_on_keys(KeyOperation.USE, KEY)
        assert not any(answer.succeeded for answer in refused.values())
        await trio.sleep(60)
        assert sees({"n1", "n2", "n3"}, nodes[0].driver.members)
        assert sees({"n8"}, stranger.driver.members)
        assert sees({"n9"}, plain.driver.members)
        newcomer = await cluster.start("n4", "n2", keys=(OTHER_KEY,))
        await cluster.agree("n1", "n2", "n3", "n4")
        assert newcomer.keyring is not None


async def test_labels_separate_clusters() -> None:
    """A node of another label gets no answer at all."""
    async with rig() as cluster:
        blue = default(GossipSettings, label=b"blue")
        n1 = await cluster.start("n1", settings=blue)
        await cluster.start("n2", "n1", settings=blue)
        await cluster.agree()
        red = await cluster.start("n3", "n1", settings=default(GossipSettings, label=b"red"))
        await trio.sleep(60)
        assert sees({"n1", "n2"}, n1.driver.members)
        assert sees({"n3"}, red.driver.members)
        with pytest.raises(GossipRefused, match="without an answer"):
            await red.driver.join("n1:8400")


async def test_another_cluster_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """By its tags, on the stream, with a reason that names it; one line a minute in the log of each kind of refusal."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", tags={"cluster": "a"}, accepts=accepts_cluster("a"))
        n2 = await cluster.start("n2", tags={"cluster": "b"}, accepts=accepts_cluster("b"))
        for _ in range(100):
            with pytest.raises(GossipRefused, match=r"'n2' is of another cluster.*'cluster': 'b'"):
                await n2.driver.join("n1:8400")
            await trio.sleep(0.5)
        lines = [record.getMessage() for record in caplog.records if "'cluster': 'b'" in record.getMessage()]
        assert len(lines) == 2
        assert all("'n2'" in line for line in lines)
        assert sees({"n1"}, n1.driver.members)
        assert n1.of(MergeRefused)
        foreign = await cluster.start("n3", tags={"role": "looker-on"})
        await foreign.driver.join("n1:8400")
        await cluster.agree("n1", "n3")


async def test_an_address_only_heard_of_is_given_up() -> None:
    """After a few attempts; heard of again, it is tried again, and found when there is somebody."""
    async with rig() as cluster:
        n1 = await cluster.start("n1")
        n1.driver.try_to_join("n2:8400")
        n1.driver.try_to_join("n2:8400")
        await trio.sleep(120)
        await cluster.start("n2")
        await trio.sleep(120)
        assert sees({"n1"}, n1.driver.members)
        n1.driver.try_to_join("n2:8400")
        await cluster.agree("n1", "n2")
        await trio.sleep(1)
        assert n1.driver._seeds._hints == set()


# --- Streams from strangers. ---


async def dial(cluster: Rig, data: bytes) -> StreamMessage | None:
    """Send bytes to n1's port; its answer."""
    stream = await cluster.network.host("stranger").open_stream("n1:8400")
    async with stream:
        await stream.send_all(data)
        decoder = StreamDecoder(is_accepting=False, limits=default(WireLimits))
        while chunk := await stream.receive_some():
            if (message := decoder.feed(chunk)) is not None:
                return message
    return None


async def test_stream_ping() -> None:
    """Answered when it is for us."""
    async with rig() as cluster:
        await cluster.start("n1")
        assert await dial(cluster, encode_stream_message(Ping(sequence=5, target="n1"))) == Ack(5)
        assert await dial(cluster, encode_stream_message(Ping(sequence=5, target="n2"))) is None


NONSENSE = [
    b"\x00\x81\xc1",
    b"\x06\x90",
    b"\x09\x80",
    b"\x0a\x00\x00\x00\x01x",
    b"\x06\x83\xa5Nodes\xce\xff\xff\xff\xff\xa4Join\xc2\xacUserStateLen\x00",
]


@pytest.mark.parametrize("data", NONSENSE)
async def test_nonsense_is_answered_with_an_error(data: bytes) -> None:
    """And nothing else happens."""
    async with rig() as cluster:
        n1 = await cluster.start("n1")
        answer = await dial(cluster, data)
        assert isinstance(answer, ErrorText), answer
        assert n1.driver.statistics()["streams refused"] == 1
        assert await dial(cluster, encode_label(b"blue") + data) is None


async def test_silent_streams_are_closed() -> None:
    """After the stream timeout; and no more than so many are served at once."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", settings=default(GossipSettings, streams_max=2))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(dial, cluster, b"\x06")
        assert trio.current_time() - began == pytest.approx(LAN.stream_timeout_seconds, abs=0.1)
        assert n1.driver.statistics()["streams refused"] == 1


async def test_nonsense_packets_are_dropped() -> None:
    """Counted, and the good ones beside them are read."""
    async with rig() as cluster:
        (n1, *_) = await three(cluster)
        stranger = await cluster.network.host("s").datagrams.bind("s:1")
        [where] = await cluster.network.host("s").datagrams.resolve("n1:8400")
        for number in range(200):
            stranger.send_nowait(random.Random(number).randbytes(number), where)
        await trio.sleep(5)
        assert n1.driver.statistics()["packets dropped"] > 150
        assert not n1.of(MemberFailed)


async def test_requests_are_bounded() -> None:
    """The last that may wait, and one more; a driver that has ended answers all."""
    async with rig() as cluster:
        n1 = await cluster.start("n1", settings=default(GossipSettings, requests_max=3))
        results: list[str] = []

        async def ask() -> None:
            try:
                await n1.driver.send_event("e", b"")
                results.append("done")
            except Overloaded:
                results.append("overloaded")

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert sorted(results) == ["done"] * 3 + ["overloaded"] * 2
        n1.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ShuttingDown):
            await n1.driver.send_event("e", b"")


async def test_a_failure_to_send_is_a_lost_packet() -> None:
    """The network is unreachable for one of us: failed for the others, and no crash."""
    async with rig() as cluster:
        (n1, n2, n3) = await three(cluster)

        def unreachable(data: bytes, destination: Address) -> None:
            raise OSError(101, "network is unreachable")

        n3.driver._packets._datagrams.send_nowait = unreachable  # type: ignore[method-assign]
        cluster.network.host("n3").open_stream = refuse  # type: ignore[method-assign]
        await trio.sleep(5)
        assert n3.driver.statistics()["send errors"] > 3
        assert n1.driver.members["n2"].status is GossipStatus.ALIVE
        assert n2.driver.members["n1"].status is GossipStatus.ALIVE


# --- Discovery. ---


def hello(number: int) -> Hello:
    return Hello(node_id=NodeId(number), cluster_name="c", node_name=f"n{number}", address=f"n{number}:8400")


@attrs.define(slots=True)
class Discovered:
    """A node whose discovery is gossip."""

    discovery: GossipDiscovery
    told: list[discovery.DiscoveryEvent]
    scope: trio.CancelScope


async def start_discovery(cluster: Rig, number: int, *seeds: str, keys: tuple[bytes, ...] = ()) -> Discovered:
    """n{number}, put together as an agent does it."""
    name = f"n{number}"
    told: list[discovery.DiscoveryEvent] = []
    bound = await cluster.network.host(name).listen(f"{name}:8400")
    rng = random.Random(number)
    packets = cluster.network.host(name).datagrams
    found = make_gossip_discovery(
        node_id=NodeId(number),
        name=name,
        advertised=bound.address,
        cluster_name="c",
        version="1",
        datagrams=await packets.bind(bound.address),
        address=(await packets.resolve(bound.address))[0],
        network=cluster.network.host(name),
        datagram_network=packets,
        rng=rng,
        on_event=told.append,
        seeds=[f"{seed}:8400" for seed in seeds],
        keyring=Keyring(keys, rng) if keys else None,
        settings=default(GossipSettings),
    )
    mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=no_handler, gossip=found.driver.streams.handle)
    scope = trio.CancelScope()

    async def live(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(mux.serve, bound.listener)
                await nursery.start(found.run)
                task_status.started()

    await cluster.nursery.start(live)
    return Discovered(found, told, scope)


async def test_discovery() -> None:
    """Members by id, from their tags: appeared, changed, failed, left; foreign members are none."""
    async with rig() as cluster:
        (one, two, three_) = [await start_discovery(cluster, number) for number in (1, 2, 3)]
        await cluster.start("agent", "n1", tags={"role": "looker-on"})
        one.discovery.introduce(hello(2))
        one.discovery.introduce(hello(1))
        three_.discovery.introduce(hello(2))
        await until(lambda: all(len(each.discovery.members()) == 2 for each in (one, two, three_)))
        one.discovery.introduce(hello(2))
        expected = discovery.Member(
            node_id=NodeId(2),
            name="n2",
            address="n2:8400",
            tags={"role": "eventlog", "id": format_id(2), "port": "8400", "cluster": "c", "v": "1", "addr": "n2:8400"},
        )
        assert one.discovery.members()[NodeId(2)] == expected
        assert discovery.MemberAppeared(expected) in one.told
        assert len(one.told) == 2
        one.told.clear()
        await two.discovery.driver.set_tags({**expected.tags, "addr": "elsewhere:1"})
        await until(lambda: one.told)
        assert one.told == [discovery.MemberChanged(one.discovery.members()[NodeId(2)])]
        assert one.discovery.members()[NodeId(2)].address == "elsewhere:1"
        one.told.clear()
        two.scope.cancel()
        cluster.network.crash("n2")
        await until(lambda: one.told)
        [failed] = one.told
        assert isinstance(failed, discovery.MemberFailed)
        assert set(one.discovery.members()) == {NodeId(3)}
        one.told.clear()
        assert await three_.discovery.driver.leave()
        await until(lambda: one.told)
        assert isinstance(one.told[0], discovery.MemberLeft)
        assert one.discovery.members() == {}


async def test_a_wiped_disk_is_another_node() -> None:
    """The same name comes back with a new id: the old one has failed, the new one has appeared; or with no id at all."""
    async with rig() as cluster:
        (one, two) = [await start_discovery(cluster, number, "n1", keys=(KEY,)) for number in (1, 2)]
        await until(one.discovery.members)
        one.told.clear()
        tags = node_tags(NodeId(77), address="n2:8400", cluster_name="c", version="1")
        await two.discovery.driver.set_tags(tags)
        await until(lambda: len(one.told) == 2)
        assert [(type(event), event.member.node_id) for event in one.told] == [
            (discovery.MemberFailed, 2),
            (discovery.MemberAppeared, 77),
        ]
        await two.discovery.driver.set_tags({"role": "other"})
        await until(lambda: len(one.told) == 3)
        assert one.discovery.members() == {}


async def test_tags_fit() -> None:
    """Also with a long cluster name and address."""
    tags = node_tags(NodeId(1), address="h." * 124 + "h" + ":8400", cluster_name="c" * 255, version="0.1.0.dev0")
    assert len(tags["cluster"]) < 64
    assert tags["cluster"] == cluster_tag("c" * 255) != cluster_tag("c" * 254)
    assert cluster_tag("prod") == "prod"
    encode_tags(tags)


@pytest.mark.parametrize(
    "change",
    [{"role": "web"}, {"id": ""}, {"id": "0"}, {"id": "x"}, {"id": "1" * 17}, {"addr": "nonsense"}, {"addr": "", "port": "x"}],
)
async def test_members_with_other_tags_are_none(change: dict[str, str]) -> None:
    """Whatever strangers write into their tags."""
    tags = node_tags(NodeId(1), address="h:8400", cluster_name="c", version="1")
    member = Member(
        name="n",
        address=Address(bytes(4), 1),
        tags=tags,
        status=GossipStatus.ALIVE,
        incarnation=1,
        versions=(1,) * 6,  # type: ignore[arg-type]
    )
    good = member_of(member, "0.0.0.0")
    assert good is not None
    assert good.address == "h:8400"
    assert member_of(attrs.evolve(member, tags={**tags, **change}), "0.0.0.0") is None
    without = member_of(attrs.evolve(member, tags={**tags, "addr": ""}), "10.0.0.9")
    assert without is not None
    assert without.address == "10.0.0.9:8400"
