"""Files that nodes fetch from each other, on side connections."""

import pytest
import trio
import trio.testing

from tests.node.transfer_rig import DATA, GROUP, NAME, Node, Received, open_nodes
from trio_eventlog.codec.peer_frame import FrameKind, decode_refused, encode_frame_head
from trio_eventlog.codec.transfer import FetchRefusedCode, SegmentKey, SnapshotKey
from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.transfer_settings import TransferSettings
from trio_eventlog.node.transfers import TransferFailed, is_refused_for_good
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import Fault, Operation

OTHER = SegmentKey(base_index=1, frames_bytes=len(DATA), frames_checksum=6)


async def fetch(node: Node, source: int = 2, position: int = 0, length: int = 1 << 40) -> Received:
    received = Received()
    async with node.transfers.from_node(NodeId(source)) as one:
        assert await one.fetch(GROUP, NAME, position, length, received.take) == len(DATA)
    return received


async def refusal(node: Node, name: SegmentKey | SnapshotKey = NAME, position: int = 0) -> TransferFailed:
    async with node.transfers.from_node(NodeId(2)) as source:
        with pytest.raises(TransferFailed) as caught:
            await source.fetch(GROUP, name, position, 10, Received().take)
    return caught.value


async def test_a_file_arrives_whole_in_pieces(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2, piece_bytes_max=1000) as (_, (n1, n2)):
        n2.has()
        received = await fetch(n1)
        assert received.data == DATA
        assert received.pieces == len(DATA) // 1000
        assert n2.server.served_bytes == len(DATA)


@pytest.mark.parametrize(("position", "length"), [(0, 1), (1, 999), (777, 1 << 40), (len(DATA) - 1, 1), (len(DATA) - 1, 2)])
async def test_any_range_of_it_arrives(autojump_clock: trio.testing.MockClock, position: int, length: int) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        received = await fetch(n1, position=position, length=length)
        assert received.data == DATA[position : position + length]


async def test_several_files_come_on_one_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        n2.has(SnapshotKey(term=1, index=9), b"state")
        received = Received()
        async with n1.transfers.from_node(NodeId(2)) as source:
            await source.fetch(GROUP, NAME, 0, 5, received.take)
            assert await source.fetch(GROUP, SnapshotKey(term=1, index=9), 0, 100, received.take) == 5
            with pytest.raises(TransferFailed):
                await source.fetch(GROUP, OTHER, 0, 5, received.take)
            await source.fetch(GROUP, NAME, 5, 5, received.take)
        assert received.data == DATA[:5] + b"state" + DATA[5:10]


async def test_what_is_not_there_is_said_to_be_missing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        for name in (OTHER, SnapshotKey(term=1, index=1)):
            error = await refusal(n1, name)
            assert error.code == FetchRefusedCode.NOT_HERE
            assert is_refused_for_good(error)
        async with n1.transfers.from_node(NodeId(2)) as source:
            with pytest.raises(TransferFailed, match="no such file"):
                await source.fetch(GroupId(8), NAME, 0, 10, Received().take)


async def test_a_position_at_the_end_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        assert (await refusal(n1, position=len(DATA))).code == FetchRefusedCode.MALFORMED


async def test_a_file_that_cannot_be_read(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2, piece_bytes_max=1000) as (_, (n1, n2)):
        n2.has()
        n2.disk.faults.append(Fault(operation=Operation.READ, after=3))
        received = Received()
        async with n1.transfers.from_node(NodeId(2)) as source:
            with pytest.raises(TransferFailed) as caught:
                await source.fetch(GROUP, NAME, 0, 1 << 40, received.take)
        assert caught.value.code == FetchRefusedCode.UNREADABLE
        assert received.data == DATA[:3000]


async def test_a_node_without_descriptors_is_busy(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        n2.disk.has_descriptors = False
        error = await refusal(n1)
        assert error.code == FetchRefusedCode.BUSY
        assert not is_refused_for_good(error)
        n2.disk.has_descriptors = True
        assert (await fetch(n1)).data == DATA


async def test_no_more_nodes_are_served_than_the_setting_says(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(4, transfers_served_max=2) as (_, (n1, n2, n3, n4)):
        n2.has()
        async with n1.transfers.from_node(NodeId(2)) as first, n3.transfers.from_node(NodeId(2)) as second:
            received = Received()
            await first.fetch(GROUP, NAME, 0, 10, received.take)
            await second.fetch(GROUP, NAME, 10, 10, received.take)
            assert n2.server.serving == 2
            assert (await refusal(n4)).code == FetchRefusedCode.BUSY
            await first.fetch(GROUP, NAME, 20, 10, received.take)
            assert received.data == DATA[:30]
        assert (await fetch(n4)).data == DATA


async def test_a_node_has_one_connection_to_each_other(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        seen: list[int] = []

        async def fetch_and_count() -> None:
            async with n1.transfers.from_node(NodeId(2)) as source:
                await source.fetch(GROUP, NAME, 0, 10, Received().take)
                seen.append(n2.server.serving)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch_and_count)
        assert seen == [1, 1, 1]


async def test_a_new_connection_of_a_node_ends_its_former_one(autojump_clock: trio.testing.MockClock) -> None:
    """It comes from a process that was started again, and whose end was not seen."""
    async with open_nodes(2, transfers_served_max=1) as (_, (n1, n2)):
        n2.has()
        former = await n1.transport.open_side(NodeId(2))
        await trio.testing.wait_all_tasks_blocked()
        assert n2.server.serving == 1
        assert (await fetch(n1)).data == DATA
        assert await former.receive() is None


async def test_a_connection_on_which_nothing_is_asked_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2, transfer_silence_seconds=3.0) as (_, (n1, n2)):
        connection = await n1.transport.open_side(NodeId(2))
        began = trio.current_time()
        assert await connection.receive() is None
        assert trio.current_time() - began == pytest.approx(3.0, abs=0.1)
        assert n2.server.serving == 0


async def test_a_node_that_takes_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2, transfer_silence_seconds=3.0) as (_, (n1, n2)):
        n2.has(data=bytes(50_000_000))
        async with n1.transfers.from_node(NodeId(2)) as source:

            async def sleep_long(piece: object) -> None:
                await trio.sleep(60)
                assert n2.server.serving == 0

            with pytest.raises(TransferFailed):
                await source.fetch(GROUP, NAME, 0, 1 << 40, sleep_long)


async def test_a_source_that_falls_silent_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2, transfer_silence_seconds=3.0) as (_, (n1, n2)):
        n2.has()
        n2.disk.latency_seconds[Operation.READ] = 60.0
        async with n1.transfers.from_node(NodeId(2)) as source:
            with pytest.raises(TransferFailed, match="nothing came for 3 s"):
                await source.fetch(GROUP, NAME, 0, 10, Received().take)


async def test_the_pace_is_kept_by_all_transfers_together(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(3, transfer_bytes_per_second=20_000) as (_, (n1, n2, n3)):
        n2.has()
        began = trio.current_time()
        received: list[Received] = []

        async def fetch_one(node: Node) -> None:
            received.append(await fetch(node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch_one, n1)
            nursery.start_soon(fetch_one, n3)
        assert [one.data for one in received] == [DATA, DATA]
        assert trio.current_time() - began == pytest.approx(2 * len(DATA) / 20_000, rel=0.1)


async def test_a_source_that_dies_leaves_what_has_come(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(3, transfer_bytes_per_second=20_000) as (network, (n1, n2, n3)):
        for node in (n2, n3):
            node.has()
        received = Received()
        async with trio.open_nursery() as nursery:

            async def crash() -> None:
                await trio.sleep(5)
                network.crash("n2")
                n2.scope.cancel()

            nursery.start_soon(crash)
            async with n1.transfers.from_node(NodeId(2)) as source:
                with pytest.raises(TransferFailed) as caught:
                    await source.fetch(GROUP, NAME, 0, 1 << 40, received.take)
        assert not is_refused_for_good(caught.value)
        assert 0 < len(received.data) < len(DATA)
        async with n1.transfers.from_node(NodeId(3)) as source:
            await source.fetch(GROUP, NAME, len(received.data), 1 << 40, received.take)
        assert received.data == DATA


async def test_a_node_that_is_not_trusted_gets_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        n2.trusts = False
        assert (await refusal(n1)).code == FetchRefusedCode.STRANGER
        assert n2.server.served_bytes == 0


async def test_a_release_without_side_connections_says_so(autojump_clock: trio.testing.MockClock) -> None:
    """It takes the hello for a probe: no link of this node is taken for another one, and nobody is lost."""
    async with open_nodes(2, without_side=frozenset({2})) as (_, (n1, n2)):
        with pytest.raises(TransferFailed, match="of a release that serves no files"):
            async with n1.transfers.from_node(NodeId(2)):
                pass
        assert n1.transport.is_connected(NodeId(2))
        assert n2.transport.is_connected(NodeId(1))


async def test_a_node_that_is_not_known_or_not_there(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (network, (n1, n2)):
        with pytest.raises(TransferFailed, match="no address"):
            async with n1.transfers.from_node(NodeId(9)):
                pass
        network.crash("n2")
        n2.scope.cancel()
        with pytest.raises(TransferFailed):
            async with n1.transfers.from_node(NodeId(2)):
                pass


async def test_a_malformed_question_is_answered_and_costs_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        connection = await n1.transport.open_side(NodeId(2))
        await connection.send([encode_frame_head(FrameKind.FETCH, GROUP, b"x" * 40)])
        frame = await connection.receive()
        assert frame is not None
        assert decode_refused(frame.body).code == FetchRefusedCode.MALFORMED
        assert await connection.receive() is None
        assert n2.server.serving == 0


async def test_bytes_that_are_no_frame_end_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, _n2)):
        connection = await n1.transport.open_side(NodeId(2))
        await connection.send([b"\xff" * 100])
        assert await connection.receive() is None


async def test_frames_of_a_later_release_are_skipped(autojump_clock: trio.testing.MockClock) -> None:
    async with open_nodes(2) as (_, (n1, n2)):
        n2.has()
        async with n1.transfers.from_node(NodeId(2)) as source:
            await source._connection.send([encode_frame_head(250, GROUP, b"?")])
            received = Received()
            await source.fetch(GROUP, NAME, 0, 10, received.take)
        assert received.data == DATA[:10]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transfers_served_max", 0),
        ("transfers_received_max", 0),
        ("piece_bytes_max", 0),
        ("piece_bytes_max", (1 << 20) + 1),
        ("transfer_bytes_per_second", -1),
        ("transfer_silence_seconds", 0.0),
        ("fetch_retry_seconds_min", 0.0),
        ("fetch_retry_seconds_max", 0.1),
        ("report_seconds", 0.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        default(TransferSettings, **{name: value})


@pytest.mark.parametrize("rate", [1, 1000, 1 << 20, 1 << 40])
def test_a_slow_pace_has_small_pieces(rate: int) -> None:
    """All transfers together stay well below the silence that ends a connection."""
    settings = default(TransferSettings, transfer_bytes_per_second=rate)
    assert 1 <= settings.piece_bytes <= settings.piece_bytes_max
    if rate >= 1000:
        assert settings.piece_bytes * settings.transfers_served_max / rate <= settings.transfer_silence_seconds / 2
