"""What is written down of a cluster's beginning, and how it is learned."""

import random
from collections.abc import Sequence

import pytest
import trio

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.errors import CodecError, DataDirectoryError
from trio_eventlog.ids import NO_CLUSTER, ClusterId, NodeId
from trio_eventlog.net.discovery import Bootstrap, BootstrapDecision, Join, Refuse, Wait, derive_cluster_id
from trio_eventlog.node.bootstrap import Forming, decode_voters, encode_voters, find_cluster, load_voters, save_voters
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.testing.disk import CrashMode, SimDisk

VOTERS = (NodeId(1), NodeId(2), NodeId(3))
CLUSTER = derive_cluster_id("test", VOTERS)


def test_voters_are_written_as_they_are_read() -> None:
    assert decode_voters(encode_voters(VOTERS)) == VOTERS
    assert decode_voters(encode_voters((NodeId(3), NodeId(1)))) == (1, 3), "in order"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]\n",
        b'{"format": 1, "voters": []}\n',
        b'{"format": 2, "voters": ["0000000000000001"]}\n',
        b'{"format": 1, "voters": [1]}\n',
        b'{"format": 1, "voters": ["x"]}\n',
        b'{"format": 1, "voters": ["1"]}\n',
        b"[" * 100_000,
        encode_voters(VOTERS)[:-1],
        encode_voters(VOTERS) + b" ",
    ],
)
def test_anything_else_is_refused(damage: bytes) -> None:
    with pytest.raises(CodecError):
        decode_voters(damage)


def open_directory(disk: SimDisk) -> object:
    return DataDirectory.open(disk, "data", new_node_id=lambda: NodeId(1), now_seconds=lambda: 0.0)


async def save_and_crash(rng: random.Random) -> SimDisk:
    """The disk as it is found after a crash at some moment of `save_voters`, or soon after it."""
    disk = SimDisk(rng)
    found: SimDisk | None = None
    async with open_directory(disk) as directory:  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:

            async def crash_soon() -> None:
                nonlocal found
                for _ in range(rng.randrange(40)):
                    await trio.lowlevel.checkpoint()
                found = disk.crash(rng.choice(list(CrashMode)))
                nursery.cancel_scope.cancel()

            nursery.start_soon(crash_soon)
            await save_voters(directory, CLUSTER, "test", VOTERS)
            nursery.cancel_scope.cancel()
    return found if found is not None else disk.crash()


async def test_the_first_voters_survive_every_crash_that_the_cluster_id_survives() -> None:
    """A node that knows its cluster knows its voters, whenever the power fails."""
    outcomes = set()
    for seed in range(60):
        disk = await save_and_crash(random.Random(seed))
        async with open_directory(disk) as directory:  # type: ignore[attr-defined]
            voters = await load_voters(directory)
            assert voters == (VOTERS if directory.cluster_id else ())
            outcomes.add(directory.cluster_id)
    assert outcomes == {NO_CLUSTER, CLUSTER}, "crashes came before and after"


async def test_voters_that_are_missing_damaged_or_of_another_cluster_are_refused() -> None:
    """The text names the file and what to do."""
    for content in (None, b"x", encode_voters((NodeId(1), NodeId(9)))):
        disk = SimDisk(random.Random(1))
        async with open_directory(disk) as directory:  # type: ignore[attr-defined]
            await save_voters(directory, CLUSTER, "test", VOTERS)
            path = "data/groups/0000000000000000/first_voters"
            if content is None:
                disk.delete(path)
            else:
                disk.put(path, content)
            with pytest.raises(DataDirectoryError, match=r"first_voters.*Restore it"):
                await load_voters(directory)


class Told:
    """A discovery that plays a script."""

    def __init__(self, *decisions: BootstrapDecision, hellos: Sequence[Hello] = (), known: Sequence[NodeId] = ()) -> None:
        self._decisions = list(decisions)
        self._hellos = hellos
        self._known = tuple(known)
        self.waited = 0
        self.agreed: list[tuple[NodeId, ...]] = []

    def decision(self) -> BootstrapDecision:
        return self._decisions.pop(0)

    def hellos(self) -> Sequence[Hello]:
        return self._hellos

    def known_ids(self) -> tuple[NodeId, ...]:
        return self._known

    def agree(self, ids: Sequence[NodeId]) -> None:
        self.agreed.append(tuple(ids))

    async def wait_heard(self) -> None:
        self.waited += 1
        await trio.lowlevel.checkpoint()


async def find(told: Told, disk: SimDisk | None = None, expect: int = 3) -> Bootstrap:
    async with open_directory(disk or SimDisk(random.Random(1))) as directory:  # type: ignore[attr-defined]
        return await find_cluster(told, directory, "test", expect, Forming())  # type: ignore[arg-type]


def hello(node_id: int, cluster_id: ClusterId = CLUSTER, known: Sequence[NodeId] = VOTERS) -> Hello:
    return Hello(
        node_id=NodeId(node_id), cluster_name="test", node_name="x", address="x:1", cluster_id=cluster_id, known_ids=tuple(known)
    )


BEGIN = Bootstrap(cluster_id=CLUSTER, voters=VOTERS)


async def test_a_node_waits_until_it_is_certain() -> None:
    told = Told(Wait("1 of 3"), Wait("1 of 3"), BEGIN)
    assert (await find(told)).voters == VOTERS
    assert told.waited == 2


async def test_contradicting_settings_are_told_and_waited_out(caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may say anything: it ends no node. What is waited for can be asked."""
    told = Told(Refuse("it expects 2, this one 3"), Refuse("it expects 2, this one 3"), BEGIN)
    assert (await find(told)).voters == VOTERS
    assert told.waited == 2
    assert [record.levelname for record in caplog.records if "expects 2" in record.message] == ["WARNING"]


async def test_what_a_node_agrees_to_is_written_down_before_it_is_told_and_remembered() -> None:
    """The first complete set, and no other; also after a power failure in the same moment."""
    disk = SimDisk(random.Random(1))
    crashed: list[SimDisk] = []

    class Crashing(Told):
        def agree(self, ids: Sequence[NodeId]) -> None:
            super().agree(ids)
            if ids:
                crashed.append(disk.crash(CrashMode.LOSE))

    told = Crashing(Wait("1 of 3"), BEGIN, known=VOTERS)
    await find(told, disk)
    assert told.agreed == [(), VOTERS]
    again = Told(Wait("heard 1 of 2"), BEGIN, known=(*VOTERS, NodeId(9)))
    await find(again, crashed[0])
    assert again.agreed == [VOTERS]


async def test_another_number_than_was_agreed_to_is_named_and_a_cluster_is_still_found() -> None:
    """It begins no cluster of five after it has agreed to one of three, whatever the others say."""
    disk = SimDisk(random.Random(1))
    await find(Told(Wait("1 of 3"), BEGIN, known=VOTERS), disk)
    disk = disk.crash()
    five = tuple(map(NodeId, range(1, 6)))
    begin_five = Bootstrap(cluster_id=derive_cluster_id("test", five), voters=five)
    told = Told(Wait("3 of 5"), begin_five, Join(CLUSTER), hellos=[hello(2)], known=five)
    assert await find(told, disk, expect=5) == BEGIN
    assert told.waited == 2


async def test_a_damaged_agreement_is_refused() -> None:
    disk = SimDisk(random.Random(1))
    await find(Told(Wait("1 of 3"), BEGIN, known=VOTERS), disk)
    disk = disk.crash()
    disk.put("data/groups/0000000000000000/candidates", b"x")
    with pytest.raises(DataDirectoryError, match=r"candidates.*empty data directory"):
        await find(Told(BEGIN), disk)


async def test_a_node_that_founds_nothing_agrees_to_nothing() -> None:
    """It has heard of nobody yet, and 0 are expected: nothing to write down, nothing that is in the way when it starts again."""
    disk = SimDisk(random.Random(1))
    told = Told(Wait("nobody"), BEGIN)
    await find(told, disk, expect=0)
    assert (told.waited, told.agreed) == (1, [()])
    await find(Told(BEGIN), disk, expect=0)


async def test_a_node_that_comes_later_learns_the_first_voters_from_any_other() -> None:
    """A founder that missed the beginning, or one that is to be added.

    The cluster id is derived from name and voters, so whoever tells them cannot be wrong.
    """
    found = await find(Told(Join(CLUSTER), hellos=[hello(2)]))
    assert (found.cluster_id, found.voters) == (CLUSTER, VOTERS)


@pytest.mark.parametrize(
    "hellos",
    [
        [],
        [hello(2, known=(NodeId(1), NodeId(2), NodeId(4)))],
        [hello(2, cluster_id=ClusterId(77))],
    ],
)
async def test_who_joins_waits_until_somebody_proves_who_founded_it(hellos: list[Hello]) -> None:
    """Nobody says who founded it, or what is said does not prove itself. Whether this node is among them does not matter."""
    told = Told(*[Join(CLUSTER)] * 1000, hellos=hellos)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(find, told)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert told.waited >= 1
