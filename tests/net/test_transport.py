"""Links between nodes over a network in memory."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.codec.first_bytes import PEER_MAGIC, PEER_PREFACE
from trio_eventlog.codec.peer_frame import (
    FRAME_HEADER_BYTES,
    Buffer,
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    Refused,
    RefusedCode,
    decode_refused,
    encode_frame,
    encode_hello,
    encode_refused,
)
from trio_eventlog.errors import CodecError, SettingsError
from trio_eventlog.ids import ClusterId, GroupId, NodeId
from trio_eventlog.net.links import LinkRefused, LinkSettings, Priority
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.transport import (
    LinkEvent,
    PeerConnected,
    PeerIntroduced,
    PeerRefused,
    PeerReset,
    Transport,
)
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings

Event = TypeVar("Event", PeerConnected, PeerIntroduced, PeerRefused, PeerReset)


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError("nobody dials this")


class Node:
    """A transport behind a mux, and what it has told."""

    def __init__(self, network: SimNetwork, number: int, settings: LinkSettings, hello: Hello | None = None) -> None:
        self.node_id = NodeId(number)
        self.name = f"n{number}"
        self.address = f"{self.name}:8400"
        self.hello = hello or Hello(node_id=self.node_id, cluster_name="test", node_name=self.name, address=self.address)
        self.events: list[LinkEvent] = []
        self.event_times: list[float] = []
        self.received: list[tuple[NodeId, int, GroupId, bytes]] = []
        self.happened = trio.lowlevel.ParkingLot()
        self.host = network.host(self.name)
        self.transport = Transport(
            identity=lambda: self.hello,
            network=self.host,
            settings=settings,
            rng=random.Random(number),
            receive=self.receive,
            on_event=self.on_event,
        )
        self.mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=self.transport.handle_inbound)
        self.scope = trio.CancelScope()

    def receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        self.received.append((node_id, kind, group_id, bytes(body)))
        self.happened.unpark_all()

    def on_event(self, event: LinkEvent) -> None:
        self.events.append(event)
        self.event_times.append(trio.current_time())
        self.happened.unpark_all()

    def of_kind(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait(self, condition: Callable[[], object]) -> None:
        """Until `condition`, looked at whenever something happens here; fails after a virtual minute."""
        with trio.fail_after(60):
            while not condition():
                await self.happened.park()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            bound = await self.host.listen(self.address)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.mux.serve, bound.listener)
                await nursery.start(self.transport.run)
                task_status.started()


@attrs.frozen
class Nodes:
    network: SimNetwork
    nursery: trio.Nursery
    nodes: dict[int, Node]

    async def start(self, number: int, settings: LinkSettings | None = None, hello: Hello | None = None) -> Node:
        node = Node(self.network, number, settings or default(LinkSettings), hello)
        self.nodes[number] = node
        await self.nursery.start(node.run)
        return node

    def connect(self, *numbers: int) -> None:
        for one in numbers:
            for other in numbers:
                if one != other:
                    self.nodes[one].transport.set_peer(NodeId(other), f"n{other}:8400")

    async def crash(self, number: int) -> None:
        """As kill -9: the kernel resets the connections, nothing of the process runs."""
        self.network.crash(f"n{number}")
        self.nodes[number].scope.cancel()


@asynccontextmanager
async def open_nodes(settings: SimNetworkSettings | None = None) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Nodes(SimNetwork(random.Random(1), settings), nursery, {})
        nursery.cancel_scope.cancel()


async def test_frames_arrive_in_order_with_their_sender(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        nodes.connect(1, 2)
        await n1.wait(lambda: n1.of_kind(PeerConnected))
        for number in range(100):
            assert n1.transport.send(NodeId(2), encode_frame(FrameKind.RAFT, 7, b"%d" % number), Priority.BULK)
        await n2.wait(lambda: len(n2.received) == 100)
        assert n2.received == [(1, FrameKind.RAFT, 7, b"%d" % number) for number in range(100)]


def frame(body: bytes = b"x", kind: int = FrameKind.RAFT, group_id: int = 7) -> list[Buffer]:
    return encode_frame(kind, group_id, body)


async def connected_pair(nodes: Nodes, settings: LinkSettings | None = None) -> tuple[Node, Node]:
    """Two nodes whose links are up both ways."""
    pair = (await nodes.start(1, settings), await nodes.start(2, settings))
    nodes.connect(1, 2)
    for node in pair:
        await node.wait(lambda node=node: node.of_kind(PeerConnected) and node.of_kind(PeerIntroduced))  # type: ignore[misc]
    return pair


async def test_large_frames_and_their_tails_arrive_whole(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        tails = [random.Random(size).randbytes(size) for size in (0, 1, 70_000, 3_000_000)]
        for tail in tails:
            assert n1.transport.send(NodeId(2), encode_frame(FrameKind.APPEND, 3, b"head", [tail, b"end"]), Priority.BULK)
        await n2.wait(lambda: len(n2.received) == len(tails))
        assert [body for _, _, _, body in n2.received] == [b"head" + tail + b"end" for tail in tails]
        statistics = n2.transport.statistics()[NodeId(1)]
        assert statistics.received_frames == len(tails)
        assert statistics.is_connected


async def test_many_frames_of_one_send_leave_together(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        before = n1.transport.statistics()[NodeId(2)].writes
        for number in range(500):
            n1.transport.send(NodeId(2), frame(b"%d" % number), Priority.BULK)
        await n2.wait(lambda: len(n2.received) == 500)
        assert n1.transport.statistics()[NodeId(2)].writes == before + 1


async def test_urgent_overtakes_bulk_between_frames(autojump_clock: trio.testing.MockClock) -> None:
    """What a write already holds stays in front; of what is queued, all urgent frames leave before the next bulk frame."""
    network = SimNetworkSettings(buffer_bytes_max=1000)
    async with open_nodes(network) as nodes:
        (n1, n2) = await connected_pair(nodes, default(LinkSettings, write_bytes_max=5000))
        nodes.network.isolate("n2")
        for _ in range(10):
            assert n1.transport.send(NodeId(2), frame(bytes(4000), group_id=1), Priority.BULK)
        await trio.testing.wait_all_tasks_blocked()  # The writer has the first one and waits: the network holds 1,000 bytes.
        for _ in range(3):
            assert n1.transport.send(NodeId(2), frame(b"vote", group_id=2), Priority.URGENT)
        nodes.network.heal()
        await n2.wait(lambda: len(n2.received) == 13)
        groups = [group for _, _, group, _ in n2.received]
        assert groups == [1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]


async def test_the_limits_of_the_queue(autojump_clock: trio.testing.MockClock) -> None:
    """Each lane holds so many bytes and so many sends; the next is refused, the caller never waits."""
    settings = default(LinkSettings, link_queue_bytes_max=10_000, link_queue_messages_max=5)
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes, settings)
        nodes.network.isolate("n2")
        send = n1.transport.send
        exact = frame(bytes(10_000 - FRAME_HEADER_BYTES))
        assert send(NodeId(2), exact, Priority.BULK)
        assert not send(NodeId(2), frame(b""), Priority.BULK)
        for _ in range(5):
            assert send(NodeId(2), frame(), Priority.URGENT)
        assert not send(NodeId(2), frame(), Priority.URGENT)
        statistics = n1.transport.statistics()[NodeId(2)]
        assert (statistics.dropped_sends, statistics.queued_bytes) == (2, 10_000 + 5 * (FRAME_HEADER_BYTES + 1))
        nodes.network.heal()
        await n2.wait(lambda: len(n2.received) == 6)
        assert n1.transport.statistics()[NodeId(2)].queued_bytes == 0
        assert send(NodeId(2), frame(bytes(20_000)), Priority.BULK), "one send over the limit passes through an empty lane"
        await n2.wait(lambda: len(n2.received) == 7)


async def test_sending_to_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        assert not n1.transport.send(NodeId(9), frame(), Priority.URGENT)
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await trio.sleep(1)
        assert not n1.transport.send(NodeId(2), frame(), Priority.URGENT)
        assert not n1.transport.is_connected(NodeId(2))
        with pytest.raises(ValueError, match="is no peer"):
            n1.transport.set_peer(NodeId(1), "n1:8400")


async def test_a_crash_is_told_once_and_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        nodes.connect(1, 2)
        await n1.wait(lambda: n1.of_kind(PeerConnected) and n1.of_kind(PeerIntroduced))
        await n2.wait(lambda: n2.of_kind(PeerConnected))
        crashed_at = trio.current_time()
        await nodes.crash(2)
        await n1.wait(lambda: n1.of_kind(PeerReset))
        assert trio.current_time() == crashed_at
        await trio.sleep(30)
        assert len(n1.of_kind(PeerReset)) == 1
        assert not n1.transport.is_connected(NodeId(2))
        assert not n1.transport.send(NodeId(2), encode_frame(FrameKind.RAFT, 7), Priority.URGENT)


async def test_a_crash_behind_a_link_of_one_direction_is_told_too(autojump_clock: trio.testing.MockClock) -> None:
    """n1 has no link of its own to n2: the end of n2's link is what it learns from."""
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        n2.transport.set_peer(NodeId(1), "n1:8400")
        await n2.wait(lambda: n2.of_kind(PeerConnected))
        await nodes.crash(2)
        await n1.wait(lambda: n1.of_kind(PeerReset))
        await trio.sleep(10)
        assert len(n1.of_kind(PeerReset)) == 1


async def test_each_loss_is_told_once(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, _) = await connected_pair(nodes)
        for losses in range(1, 6):
            await nodes.crash(2)
            await n1.wait(lambda losses=losses: len(n1.of_kind(PeerReset)) == losses)  # type: ignore[misc]
            n2 = await nodes.start(2)
            n2.transport.set_peer(NodeId(1), "n1:8400")
            await n1.wait(lambda losses=losses: len(n1.of_kind(PeerConnected)) == losses + 1)  # type: ignore[misc]
            await trio.sleep(5)
            assert len(n1.of_kind(PeerReset)) == losses


async def test_a_reset_connection_is_one_loss_and_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        for count in range(2, 5):
            assert nodes.network.reset("n1", "n2") == 2
            for node in (n1, n2):
                await node.wait(lambda node=node, count=count: len(node.of_kind(PeerConnected)) == count)  # type: ignore[misc]
            await trio.sleep(5)
        assert len(n1.of_kind(PeerReset)) == len(n2.of_kind(PeerReset)) == 3
        assert n1.transport.send(NodeId(2), frame(b"again"), Priority.BULK)
        await n2.wait(lambda: n2.received)


async def test_a_link_that_outlives_a_loss_can_tell_the_next(autojump_clock: trio.testing.MockClock) -> None:
    """n2's link breaks alone, n1's own goes on. When that one breaks later, it is a loss of its own."""
    async with open_nodes() as nodes:
        (n1, _) = await connected_pair(nodes)
        assert nodes.network.reset("n1", "n2", dialled_by="n2") == 1
        await n1.wait(lambda: n1.of_kind(PeerReset))
        await trio.sleep(2)
        assert len(n1.of_kind(PeerConnected)) == 1
        await nodes.crash(2)
        await n1.wait(lambda: len(n1.of_kind(PeerReset)) == 2)


async def test_silence_is_noticed_within_its_bound(autojump_clock: trio.testing.MockClock) -> None:
    """A machine that is cut off closes nothing. Both sides notice within (silent_intervals_max + 1) ping intervals."""
    settings = default(LinkSettings, ping_interval_seconds=0.5, silent_intervals_max=4)
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes, settings)
        await trio.sleep(60)
        assert not n1.of_kind(PeerReset), "pings keep an idle link alive"
        nodes.network.isolate("n2")
        cut_at = trio.current_time()
        for node in (n1, n2):
            await node.wait(lambda node=node: node.of_kind(PeerReset))  # type: ignore[misc]
            assert trio.current_time() - cut_at <= 2.5
        await trio.sleep(30)
        assert len(n1.of_kind(PeerReset)) == len(n2.of_kind(PeerReset)) == 1
        nodes.network.heal()
        for node in (n1, n2):
            await node.wait(lambda node=node: len(node.of_kind(PeerConnected)) == 2)  # type: ignore[misc]


async def test_a_peer_that_reads_nothing_is_lost_too(autojump_clock: trio.testing.MockClock) -> None:
    """The queue fills, sends are refused, and silence ends the link."""
    network = SimNetworkSettings(buffer_bytes_max=10_000)
    settings = default(LinkSettings, link_queue_bytes_max=50_000)
    async with open_nodes(network) as nodes:
        n1 = await nodes.start(1, settings)
        bound = await nodes.network.host("n2").listen("n2:8400")
        async with trio.open_nursery() as nursery:

            async def answer_and_stall() -> None:
                stream = await bound.listener.accept()
                await stream.receive_some()
                reply = Hello(node_id=NodeId(2), cluster_name="test")
                await stream.send_all(encode_frame(FrameKind.HELLO_REPLY, 0, encode_hello(reply))[0])
                await trio.sleep_forever()

            nursery.start_soon(answer_and_stall)
            n1.transport.set_peer(NodeId(2), "n2:8400")
            await n1.wait(lambda: n1.of_kind(PeerConnected))
            while n1.transport.send(NodeId(2), frame(bytes(5000)), Priority.BULK):
                await trio.testing.wait_all_tasks_blocked()
            await n1.wait(lambda: n1.of_kind(PeerReset))
            assert "silent" in n1.of_kind(PeerReset)[0].reason
            nursery.cancel_scope.cancel()


async def test_dialling_again_backs_off_and_a_dial_of_the_peer_cuts_it_short(autojump_clock: trio.testing.MockClock) -> None:
    settings = default(LinkSettings, reconnect_backoff_seconds_min=0.1, reconnect_backoff_seconds_max=30)
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, settings)
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await trio.sleep(300)
        dials = n1.transport.statistics()[NodeId(2)].dials
        assert 300 / 30 <= dials <= 30
        n2 = await nodes.start(2)
        began = trio.current_time()
        n2.transport.set_peer(NodeId(1), "n1:8400")
        await n1.wait(lambda: n1.of_kind(PeerConnected))
        assert trio.current_time() - began < 0.01


async def test_a_link_that_breaks_at_once_does_not_spin(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, reconnect_backoff_seconds_min=0.05, reconnect_backoff_seconds_max=2))
        bound = await nodes.network.host("n2").listen("n2:8400")
        async with trio.open_nursery() as nursery:

            async def answer_and_close() -> None:
                while True:
                    stream = await bound.listener.accept()
                    await stream.receive_some()
                    reply = Hello(node_id=NodeId(2), cluster_name="test")
                    await stream.send_all(encode_frame(FrameKind.HELLO_REPLY, 0, encode_hello(reply))[0])
                    await stream.aclose()

            nursery.start_soon(answer_and_close)
            n1.transport.set_peer(NodeId(2), "n2:8400")
            await trio.sleep(60)
            assert n1.transport.statistics()[NodeId(2)].dials < 80
            nursery.cancel_scope.cancel()


async def test_another_address_redials(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await trio.sleep(1)
        assert len(n1.of_kind(PeerConnected)) == 1, "the same address again changes nothing"
        bound = await n2.host.listen("elsewhere:1")
        mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=n2.transport.handle_inbound)
        nodes.nursery.start_soon(mux.serve, bound.listener)
        n1.transport.set_peer(NodeId(2), "elsewhere:1")
        await n1.wait(lambda: len(n1.of_kind(PeerConnected)) == 2)
        assert not n1.of_kind(PeerReset)
        assert not n2.of_kind(PeerReset), "the new link takes the place of the old one"
        n1.transport.send(NodeId(2), frame(b"there"), Priority.BULK)
        await n2.wait(lambda: n2.received)


async def test_a_removed_peer_is_let_go_in_silence(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, _) = await connected_pair(nodes)
        n1.transport.remove_peer(NodeId(2))
        await trio.sleep(0.01)
        assert not n1.of_kind(PeerReset)
        assert not n1.transport.send(NodeId(2), frame(), Priority.BULK)
        n1.transport.remove_peer(NodeId(2))


async def test_peers_set_before_the_transport_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        await nodes.start(2)
        early = Node(nodes.network, 1, default(LinkSettings))
        early.transport.set_peer(NodeId(2), "n2:8400")
        await nodes.nursery.start(early.run)
        await early.wait(lambda: early.of_kind(PeerConnected))


async def test_events_may_change_the_peers(autojump_clock: trio.testing.MockClock) -> None:
    """`on_event` removing the peer that has just come up, or was just lost."""
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        plain = n1.on_event

        def removing(event: LinkEvent) -> None:
            plain(event)
            if isinstance(event, PeerConnected):
                n1.transport.remove_peer(event.node_id)

        n1.transport._on_event = removing
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await n1.wait(lambda: n1.of_kind(PeerConnected))
        await trio.sleep(5)
        assert not n1.transport.is_connected(NodeId(2))
        assert not n1.of_kind(PeerReset)
        assert len(n1.of_kind(PeerConnected)) == 1
        assert n2.transport.statistics() == {}


# The hello.


def other_hello(number: int, **changes: object) -> Hello:
    hello = Hello(node_id=NodeId(number), cluster_name="test", node_name=f"n{number}", address=f"n{number}:8400")
    return attrs.evolve(hello, **changes)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"cluster_name": "prod"}, RefusedCode.CLUSTER_NAME, ("'prod'", "'test'")),
        ({"protocol_version": 9}, RefusedCode.PROTOCOL_VERSION, ("9", "1")),
        ({"cluster_id": ClusterId(5)}, RefusedCode.CLUSTER_ID, ("0000000000000005", "0000000000000004")),
        ({"node_id": NodeId(1)}, RefusedCode.SAME_NODE_ID, ("0000000000000001", "copied")),
    ],
)
async def test_whom_we_do_not_link_with(
    changes: dict[str, object], code: RefusedCode, says: tuple[str, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """The dialler learns the reason by name, both sides are told, and nobody is let in."""
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, hello=other_hello(1, cluster_id=ClusterId(4)))
        n2 = await nodes.start(2, hello=other_hello(2, **changes))
        n2.transport.set_peer(NodeId(7) if code == RefusedCode.SAME_NODE_ID else NodeId(1), "n1:8400")
        await n2.wait(lambda: n2.of_kind(PeerRefused))
        told = n2.of_kind(PeerRefused)[0]
        assert told.code == code
        for text in says:
            assert text in told.text
        assert n1.of_kind(PeerRefused)[0].code == code
        assert not n1.of_kind(PeerIntroduced)
        with pytest.raises(LinkRefused) as caught:
            await n2.transport.probe("n1:8400")
        assert caught.value.refused.code == code
        await trio.sleep(60)
        assert len(n2.of_kind(PeerRefused)) == 1, "the same refusal is told once, not at every attempt"


async def test_a_cluster_takes_nodes_that_belong_to_none_yet(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        await nodes.start(1, hello=other_hello(1, cluster_id=ClusterId(4)))
        n2 = await nodes.start(2)
        nodes.connect(1, 2)
        await n2.wait(lambda: n2.of_kind(PeerConnected))
        assert n2.of_kind(PeerConnected)[0].hello.cluster_id == 4


async def test_the_identity_is_asked_for_at_every_hello(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        assert (await n2.transport.probe("n1:8400")).known_ids == ()
        n1.hello = other_hello(1, known_ids=(NodeId(1), NodeId(2)), has_data=True)
        assert await n2.transport.probe("n1:8400") == attrs.evolve(n1.hello, is_probe=True)


async def test_another_node_at_the_address_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        n1.transport.set_peer(NodeId(3), "n2:8400")
        await n1.wait(lambda: n1.of_kind(PeerRefused))
        assert n1.of_kind(PeerRefused)[0].code == RefusedCode.WRONG_NODE
        await trio.sleep(10)
        assert not n2.of_kind(PeerReset)


async def test_a_probe_tells_who_is_there_and_is_no_link(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        assert (await n1.transport.probe("n2:8400")).node_id == 2
        await trio.sleep(1)
        assert n2.events == [PeerIntroduced(hello=attrs.evolve(n1.hello, is_probe=True))]
        with pytest.raises(OSError, match="n9:8400"):
            await n1.transport.probe("n9:8400")
        for nonsense in ("nowhere", "host:port", "host:99999"):
            with pytest.raises(OSError, match="cannot be dialled"):
                await n1.transport.probe(nonsense)


async def test_a_probe_of_silence_times_out(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, connect_timeout_seconds=2, hello_seconds_max=3))
        bound = await nodes.network.host("n2").listen("n2:8400")
        began = trio.current_time()
        with pytest.raises(TimeoutError):
            await n1.transport.probe("n2:8400")
        assert trio.current_time() - began == pytest.approx(3)
        await bound.listener.aclose()
        nodes.network.isolate("n1")
        with pytest.raises(TimeoutError):
            await n1.transport.probe("n2:8400")
        assert trio.current_time() - began == pytest.approx(5)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(20), b"", b"\x00" * 24])
async def test_a_probe_of_something_else(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        bound = await nodes.network.host("n2").listen("n2:8400")
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                stream = await bound.listener.accept()
                await stream.receive_some()
                await stream.send_all(answer)
                await stream.aclose()

            nursery.start_soon(serve)
            with pytest.raises(OSError, match="n2:8400"):
                await n1.transport.probe("n2:8400")


async def answering(nodes: Nodes, *answers: Buffer, pause: float = 0.0) -> None:
    """Something at n2:8400 that answers any hello with `answers`, one after the other, and then stays."""
    bound = await nodes.network.host("n2").listen("n2:8400")

    async def serve() -> None:
        while True:
            stream = await bound.listener.accept()
            await stream.receive_some()
            for answer in answers:
                await stream.send_all(answer)
                await trio.sleep(pause)

    nodes.nursery.start_soon(serve)


def reply(**changes: object) -> Buffer:
    return encode_frame(FrameKind.HELLO_REPLY, 0, encode_hello(other_hello(2, **changes)))[0]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cluster_name": "prod"}, RefusedCode.CLUSTER_NAME),
        ({"protocol_version": 9}, RefusedCode.PROTOCOL_VERSION),
        ({"node_id": NodeId(5)}, RefusedCode.WRONG_NODE),
        ({"node_id": NodeId(1)}, RefusedCode.SAME_NODE_ID),
    ],
)
async def test_the_dialler_judges_too(
    changes: dict[str, object], code: RefusedCode, autojump_clock: trio.testing.MockClock
) -> None:
    """A listener that takes everybody is not trusted to have looked."""
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        await answering(nodes, reply(**changes))
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await n1.wait(lambda: n1.of_kind(PeerRefused))
        assert n1.of_kind(PeerRefused)[0].code == code
        assert not n1.of_kind(PeerConnected)


async def test_an_answer_in_pieces(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        whole = bytes(reply())
        await answering(nodes, whole[:10], whole[10:40], whole[40:], pause=0.1)
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await n1.wait(lambda: n1.of_kind(PeerConnected))


@pytest.mark.parametrize("answer", [frame(b"x"), frame(b"x", FrameKind.PONG), frame(b"short", FrameKind.HELLO_REPLY)])
async def test_an_answer_that_is_no_reply(answer: list[Buffer], autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        await answering(nodes, answer[0])
        with pytest.raises(OSError, match="n2:8400 does not answer as a peer"):
            await n1.transport.probe("n2:8400")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (frame(encode_refused(Refused(RefusedCode.BUSY, "not any more")), FrameKind.REFUSED), "not any more"),
        ([b"\xff" * 40], "limit"),
    ],
)
async def test_a_listener_that_ends_the_link_later(said: list[Buffer], reason: str, autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        await answering(nodes, reply(), said[0], pause=0.1)
        n1.transport.set_peer(NodeId(2), "n2:8400")
        await n1.wait(lambda: n1.of_kind(PeerReset))
        assert reason in n1.of_kind(PeerReset)[0].reason


async def test_one_buffer_is_a_send_too(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        assert n1.transport.send(NodeId(2), frame(b"one")[0], Priority.BULK)
        assert n1.transport.send(NodeId(2), frame(b"two")[0], Priority.BULK, more=True)
        await n2.wait(lambda: [body for *_, body in n2.received] == [b"one", b"two"])


async def test_admit_has_the_last_word(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = (await nodes.start(1), await nodes.start(2))
        n1.transport._greeting._admit = lambda hello, info: Refused(99, f"{hello.node_name} from {info.remote_address}: no")
        with pytest.raises(LinkRefused, match="n2 from n2:0: no"):
            await n2.transport.probe("n1:8400")


async def test_the_limit_of_inbound_links(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, inbound_links_max=2))
        others = [await nodes.start(number) for number in (2, 3, 4)]
        for node in others:
            node.transport.set_peer(NodeId(1), "n1:8400")
            await node.wait(lambda node=node: node.events)  # type: ignore[misc]
        assert [type(node.events[0]) for node in others] == [PeerConnected, PeerConnected, PeerRefused]
        assert others[2].of_kind(PeerRefused)[0].code == RefusedCode.BUSY
        assert (await others[2].transport.probe("n1:8400")).node_id == 1, "a probe takes no place"
        await nodes.crash(2)
        await others[2].wait(lambda: others[2].of_kind(PeerConnected))
        assert n1.of_kind(PeerReset)


async def test_links_of_strangers_make_room(autojump_clock: trio.testing.MockClock) -> None:
    """Those that carry nothing are dropped first, the oldest of them; who has proved to be a node keeps his."""
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, inbound_links_max=3))
        n1.transport._inbound._trusts = lambda inbound: inbound.hello.node_id < 10
        (real, *strangers, newcomer) = [await nodes.start(number) for number in (2, 11, 12, 13, 14, 3)]
        for node in (real, *strangers, newcomer):
            node.transport.set_peer(NodeId(1), "n1:8400")
            await node.wait(lambda node=node: node.of_kind(PeerConnected))  # type: ignore[misc]
        assert next(iter(n1.transport._inbound.links)) == 2
        assert [*n1.transport._inbound.links][-1] == 3
        for node in (real, newcomer):
            assert node.transport.send(NodeId(1), frame(b"x"), Priority.URGENT)
        await n1.wait(lambda: {sender for sender, *_ in n1.received} == {2, 3})
        assert strangers[-1].transport.send(NodeId(1), frame(b"y"), Priority.URGENT) in (True, False)
        await trio.sleep(1)
        assert {sender for sender, *_ in n1.received} == {2, 3}
        assert set(n1.transport._epochs) <= {2, 3, 11, 12, 13, 14}


async def test_a_node_that_is_connected_is_not_pushed_out_by_its_id(autojump_clock: trio.testing.MockClock) -> None:
    """Somebody else dials with it and says that he is elsewhere: he is refused as long as the node is there."""
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        assert n2.transport.send(NodeId(1), frame(b"first"), Priority.URGENT)
        await n1.wait(lambda: n1.received)
        inbound = n1.transport._inbound.links[NodeId(2)]
        rogue = await nodes.start(9, hello=other_hello(2, address="n9:8400"))
        rogue.transport.set_peer(NodeId(1), "n1:8400")
        await rogue.wait(lambda: rogue.of_kind(PeerRefused))
        assert rogue.of_kind(PeerRefused)[0].code == RefusedCode.BUSY
        assert "is connected at n2:8400" in rogue.of_kind(PeerRefused)[0].text
        assert n1.transport._inbound.links[NodeId(2)] is inbound
        await nodes.crash(2)
        await rogue.wait(lambda: rogue.of_kind(PeerConnected))


async def test_a_link_says_anew_who_we_are(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        (n1, n2) = await connected_pair(nodes)
        n1.hello = other_hello(1, cluster_id=ClusterId(4))
        n1.transport.renew_links()
        await n2.wait(lambda: n2.transport._inbound.links[NodeId(1)].hello.cluster_id == 4)
        await trio.sleep(1)
        assert not n2.of_kind(PeerReset), "it was meant"


async def raw_peer(nodes: Nodes, first: bytes) -> trio.abc.Stream:
    """A connection to n1 that has sent `first`."""
    stream = await nodes.network.host("rogue").open_stream("n1:8400")
    await stream.send_all(first)
    return stream


async def answer_of(stream: trio.abc.Stream) -> list[Frame]:
    decoder = FrameDecoder(1 << 20)
    return [one async for chunk in stream for one in decoder.feed(chunk)]


GREETING = PEER_PREFACE + b"".join(frame(encode_hello(other_hello(66)), FrameKind.HELLO, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (PEER_MAGIC + b"\x02" + bytes(50), RefusedCode.PROTOCOL_VERSION),
        (PEER_PREFACE + bytes(24), RefusedCode.MALFORMED),
        (PEER_PREFACE + b"\xff" * 24, RefusedCode.MALFORMED),
        (PEER_PREFACE + bytes(frame(b"early")[0]), RefusedCode.MALFORMED),
        (PEER_PREFACE + bytes(frame(b"", FrameKind.HELLO)[0]), RefusedCode.MALFORMED),
        (PEER_PREFACE + bytes(frame(bytes(70_000), FrameKind.HELLO)[0])[:24], RefusedCode.MALFORMED),
        (GREETING + bytes(frame(b"too early")[0]), RefusedCode.MALFORMED),
    ],
    ids=["version", "zeros", "ones", "no hello", "empty hello", "oversized hello", "does not wait"],
)
async def test_what_is_no_hello_is_refused_by_name(first: bytes, code: RefusedCode, autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        (answer,) = await answer_of(await raw_peer(nodes, first))
        assert answer.kind == FrameKind.REFUSED
        assert decode_refused(answer.body).code == code
        assert n1.events == []


async def test_half_a_hello_then_silence(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, hello_seconds_max=2))
        stream = await raw_peer(nodes, GREETING[:20])
        began = trio.current_time()
        assert await answer_of(stream) == []
        assert trio.current_time() - began == pytest.approx(2)
        assert n1.events == []


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff" * 40,
        bytes(frame(b"whole")[0])[:-1] + b"?",
        encode_frame(FrameKind.APPEND, 1, b"h", [bytes(2000)])[0],
    ],
    ids=["garbage", "flipped byte", "oversized"],
)
async def test_damage_on_a_link_ends_it(bad: bytes, autojump_clock: trio.testing.MockClock) -> None:
    """A frame before the damage counts, the connection ends, the node goes on and takes the next link."""
    async with open_nodes() as nodes:
        n1 = await nodes.start(1, default(LinkSettings, peer_frame_bytes_max=1000))
        stream = await raw_peer(nodes, GREETING)
        await n1.wait(lambda: n1.of_kind(PeerIntroduced))
        await stream.send_all(bytes(frame(b"good")[0]))
        await n1.wait(lambda: n1.received)
        await stream.send_all(bad)
        answers = await answer_of(stream)
        assert [one.kind for one in answers] == [FrameKind.HELLO_REPLY]
        await n1.wait(lambda: n1.of_kind(PeerReset))
        assert n1.received == [(66, FrameKind.RAFT, 7, b"good")]
        again = await raw_peer(nodes, GREETING)
        await n1.wait(lambda: len(n1.of_kind(PeerIntroduced)) == 2)
        await again.send_all(bytes(frame(b"again")[0]))
        await n1.wait(lambda: len(n1.received) == 2)


async def test_kinds_of_a_later_release_reach_the_receiver_and_low_ones_do_not(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)
        stream = await raw_peer(nodes, GREETING)
        await n1.wait(lambda: n1.of_kind(PeerIntroduced))
        await stream.send_all(b"".join(bytes(frame(b"?", kind)[0]) for kind in (9, 250)))
        await n1.wait(lambda: n1.received)
        assert n1.received == [(66, 250, 7, b"?")]


async def test_the_receiver_can_refuse_a_body(autojump_clock: trio.testing.MockClock) -> None:
    """A Raft body that cannot be decoded ends the link, not the node."""
    async with open_nodes() as nodes:
        n1 = await nodes.start(1)

        def receive(node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
            raise CodecError("no such message")

        n1.transport._inbound._receive = receive
        stream = await raw_peer(nodes, GREETING)
        await n1.wait(lambda: n1.of_kind(PeerIntroduced))
        await stream.send_all(bytes(frame()[0]))
        await n1.wait(lambda: n1.of_kind(PeerReset))
        assert "no such message" in n1.of_kind(PeerReset)[0].reason


def test_settings_that_cannot_work_are_refused_by_name() -> None:
    for name in ("connect_timeout_seconds", "ping_interval_seconds", "link_queue_bytes_max", "write_bytes_max"):
        with pytest.raises(SettingsError, match=name):
            default(LinkSettings, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="silent_intervals_max"):
        default(LinkSettings, silent_intervals_max=1)
    with pytest.raises(SettingsError, match="reconnect_backoff_seconds_max"):
        default(LinkSettings, reconnect_backoff_seconds_min=3, reconnect_backoff_seconds_max=2)
