"""Whom a node hears, of several processes with one node id; against restarts of its own, and claims of others."""

import random
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.codec.lives import LIVES_MAX, Claim, Lives, first_life
from trio_eventlog.codec.peer_frame import Hello, RefusedCode
from trio_eventlog.errors import DataDirectoryError, DiskFull
from trio_eventlog.ids import NodeId
from trio_eventlog.node import peer_lives
from trio_eventlog.node.peer_lives import PEERS_FILE, PeerLives, PeerLivesSettings
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import Disk
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, SimDisk

ME, TWO, THREE, STRANGER = NodeId(1), NodeId(2), NodeId(3), NodeId(99)
ORIGINAL = first_life(0xA).next_moment().next_moment()
COPY = ORIGINAL.next_life(0xC)


@attrs.define
class Memory:
    """A node that remembers, on a disk that outlives it."""

    disk: SimDisk = attrs.field(factory=lambda: SimDisk(random.Random(1)))
    accepted: list[NodeId] = attrs.field(factory=list)
    told: list[Claim] = attrs.field(factory=list)
    removed: set[NodeId] = attrs.field(factory=set)
    settings: PeerLivesSettings = attrs.field(factory=lambda: default(PeerLivesSettings, inform_seconds_max=0.0))
    is_newcomer: bool = False
    lives: PeerLives = attrs.field(init=False)

    async def open(self) -> "Memory":
        """As at the start of the node; also after a crash that loses all that was not synced."""
        self.disk = self.disk.crash(CrashMode.LOSE)
        async with DataDirectory.open(self.disk, "data", new_node_id=lambda: ME, now_seconds=lambda: 0) as directory:
            self.lives = PeerLives(
                directory,
                is_member=lambda node_id: node_id in (ME, TWO, THREE),
                is_removed=lambda node_id: node_id in self.removed,
                on_accepted=self.accepted.append,
                on_news=self.told.append,
                settings=self.settings,
            )
            await self.lives.load(is_newcomer=self.is_newcomer)
            if not self.is_newcomer:
                await self.lives.join()
        return self

    async def hears(self, lives: Lives | None, address: str = "two:1", *, remembers: bool = True, node_id: NodeId = TWO) -> bool:
        return await self.refusal(lives, address, remembers=remembers, node_id=node_id) == ""

    async def refusal(self, lives: Lives | None, address: str = "two:1", *, remembers: bool = True, node_id: NodeId = TWO) -> str:
        hello = Hello(node_id=node_id, cluster_name="c", address=address, lives=lives)
        refused = await self.lives.recognize(hello, remembers)
        assert refused is None or refused.code == RefusedCode.NOT_THIS_LIFE
        return "" if refused is None else refused.text


async def test_a_node_that_starts_again_is_heard() -> None:
    memory = await Memory().open()
    lives = first_life(1)
    for nonce in range(5):
        assert await memory.hears(lives)
        assert await memory.hears(lives.next_moment())
        lives = lives.next_moment().next_life(nonce)
    assert memory.accepted
    assert set(memory.accepted) == {TWO}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (COPY, ORIGINAL),  # the copy took over
        (COPY, ORIGINAL.next_moment()),  # and the original did not know
        (COPY, ORIGINAL.next_life(0xB)),  # or was started again
        (ORIGINAL.next_moment(), COPY),  # the original has gone on since the copy was made
        (ORIGINAL.next_life(0xB), COPY),  # or was started again
        (ORIGINAL.next_moment().next_moment(), ORIGINAL),  # the memory of a machine was put back
        (ORIGINAL.next_life(0xB).next_life(0xD), ORIGINAL),
    ],
)
async def test_of_two_processes_one_is_heard(first: Lives, then: Lives, restarts: bool) -> None:
    """Whoever was accepted first, as long as the other does not continue it; the refusal names both, and what to do."""
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(first, "first:1")
    if restarts:
        # Moments are written down together a little later; the claim of another node is as good.
        await memory.open()
        await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=first))
        assert await memory.hears(first, "first:1")
    text = await memory.refusal(then, "then:1")
    assert "you at then:1 are not the node 0000000000000002" in text
    assert " at first:1" in text
    assert "node remove" in text
    assert await memory.refusal(then, "then:1", remembers=False)
    assert await memory.hears(first, "first:1")
    assert any("then:1" in warning for warning in memory.lives.warnings())


async def test_a_life_is_durable_before_it_is_heard() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(COPY)
    await memory.open()
    assert not await memory.hears(ORIGINAL.next_life(0xB))
    assert await memory.hears(COPY)


async def test_who_only_asks_is_judged_and_not_remembered() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(COPY, remembers=False)
    assert await memory.hears(ORIGINAL.next_moment())


async def test_a_hello_that_was_overtaken_by_a_moment_is_taken() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    await memory.lives.claimed(TWO, Claim(node_id=TWO, lives=ORIGINAL.next_moment()))
    assert memory.told[-1].lives == ORIGINAL.next_moment()
    assert await memory.hears(ORIGINAL)
    await memory.lives.claimed(TWO, Claim(node_id=TWO, lives=ORIGINAL.next_moment().next_moment()))
    assert not await memory.hears(ORIGINAL)


async def test_what_others_have_seen_keeps_a_copy_out_here_too() -> None:
    """This node could not reach the original when it went on."""
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=ORIGINAL.next_moment()))
    assert not await memory.hears(COPY)
    assert memory.told[-1].lives == ORIGINAL.next_moment()


async def test_a_life_that_others_have_accepted_ends_the_former() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    memory.accepted.clear()
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=COPY))
    assert memory.accepted == [TWO]
    assert memory.lives.lives(TWO) == COPY
    assert not await memory.hears(ORIGINAL)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("here", "there"),
    [(COPY, ORIGINAL.next_moment()), (ORIGINAL.next_moment(), COPY), (COPY, ORIGINAL.next_life(0xB))],
)
async def test_when_two_were_heard_neither_is_heard_any_more(here: Lives, there: Lives, restarts: bool) -> None:
    """What either has promised the other may not know; the rest of the cluster goes on without both."""
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(here)
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=there))
    assert memory.told[-1].is_forked
    if restarts:
        await memory.open()
    for lives in (here, there, here.next_life(0xE)):
        assert "two processes" in await memory.refusal(lives)
    assert memory.lives.lives(TWO) is None
    assert [claim.is_forked for claim in memory.lives.claims(ME)] == [True]
    assert any("two processes" in warning for warning in memory.lives.warnings())


async def test_the_word_of_who_knows_of_a_fork_is_enough() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=ORIGINAL, is_forked=True))
    assert not await memory.hears(ORIGINAL)


@pytest.mark.parametrize(
    ("sender", "claim"),
    [
        (STRANGER, Claim(node_id=TWO, lives=COPY)),  # no member says it
        (STRANGER, Claim(node_id=TWO, lives=COPY, is_forked=True)),
        (THREE, Claim(node_id=ME, lives=first_life(5))),  # of this node itself
        (THREE, Claim(node_id=STRANGER, lives=first_life(5))),  # of nobody
        (THREE, Claim(node_id=TWO, lives=first_life(0xA))),  # old news
        (TWO, Claim(node_id=TWO, lives=COPY)),  # a link does not change who it is of
    ],
)
async def test_claims_that_change_nothing(sender: NodeId, claim: Claim) -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    memory.accepted.clear()
    await memory.lives.claimed(sender, claim)
    assert memory.accepted == []
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(first_life(7), node_id=STRANGER)


async def test_who_has_missed_too_many_starts_asks_others() -> None:
    memory = await Memory().open()
    lives = first_life(1)
    assert await memory.hears(lives)
    for nonce in range(2, LIVES_MAX + 1):
        lives = lives.next_life(nonce)
    assert await memory.hears(lives, remembers=False), "the chain just reaches back"
    lives = lives.next_life(LIVES_MAX + 1)
    text = await memory.refusal(lives)
    assert "too many starts" in text
    assert "data/peers" in text
    assert memory.lives.lives(TWO) == first_life(1)
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=lives))
    assert await memory.hears(lives)
    assert not await memory.hears(first_life(1))


@pytest.mark.parametrize("informs", [False, True])
async def test_a_node_that_starts_asks_before_it_accepts_a_new_life(autojump_clock: trio.testing.MockClock, informs: bool) -> None:
    """It was away when the original went on. What another member knows of this node itself comes last: that was all."""
    memory = await Memory(settings=default(PeerLivesSettings, inform_seconds_max=1.0)).open()
    assert await memory.hears(ORIGINAL), "there is nothing that others could know better"
    await memory.open()
    began = trio.current_time()
    assert await memory.hears(ORIGINAL)
    assert trio.current_time() == began
    heard = []

    async def be_dialled() -> None:
        heard.append(await memory.hears(COPY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_dialled)
        await trio.sleep(0.25)
        assert heard == []
        if informs:
            await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=ORIGINAL.next_moment()))
            await memory.lives.claimed(THREE, Claim(node_id=ME, lives=first_life(1)))
    assert heard == [not informs]
    assert trio.current_time() - began == (0.25 if informs else 1.0)


@pytest.mark.parametrize("informs", [False, True])
async def test_a_node_that_joins_believes_the_members(autojump_clock: trio.testing.MockClock, informs: bool) -> None:
    """A copy came first. Nothing was promised to it, so its original is not lost; from then on it is as with every other node."""
    memory = await Memory(settings=default(PeerLivesSettings, join_seconds_max=1.0), is_newcomer=True).open()
    began = trio.current_time()
    assert await memory.hears(COPY)
    assert trio.current_time() == began, "nobody could tell it more before it has joined"

    async def tell() -> None:
        await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=ORIGINAL.next_moment()))
        await memory.lives.claimed(THREE, Claim(node_id=ME, lives=first_life(1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.lives.join)
        await trio.sleep(0.25)
        if informs:
            await tell()
    assert trio.current_time() - began == (0.25 if informs else 1.0)
    assert not any(claim.is_forked for claim in memory.told)
    assert await memory.hears(ORIGINAL.next_moment()) == informs
    assert await memory.hears(COPY) == (not informs)
    memory.is_newcomer = False
    await memory.open()
    assert await memory.hears(COPY) == (not informs), "it was written down when the node had joined"
    if not informs:
        await tell()
        assert memory.told[-1].is_forked


async def test_a_node_that_joins_waits_for_nobody_when_all_are_in_their_first_life(autojump_clock: trio.testing.MockClock) -> None:
    memory = await Memory(settings=default(PeerLivesSettings, join_seconds_max=1.0), is_newcomer=True).open()
    assert await memory.hears(first_life(1))
    began = trio.current_time()
    await memory.lives.join()
    assert trio.current_time() == began


async def test_releases_without_lives_are_heard() -> None:
    memory = await Memory().open()
    assert await memory.hears(None)
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(None)


async def test_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written down is not accepted, and no reason to end: it comes from the network."""
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)

    async def has_no_room(disk: Disk, path: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise DiskFull(f"{path}: no room")

    monkeypatch.setattr(peer_lives, "write_atomically", has_no_room)
    hello = Hello(node_id=TWO, cluster_name="c", address="two:1", lives=COPY)
    refused = await memory.lives.recognize(hello, True)
    assert refused is not None
    assert refused.code == RefusedCode.BUSY
    await memory.lives.claimed(THREE, Claim(node_id=TWO, lives=COPY))
    assert memory.lives.lives(TWO) == ORIGINAL
    monkeypatch.undo()
    assert await memory.hears(COPY)


async def test_a_removed_node_is_forgotten() -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    assert await memory.hears(ORIGINAL, node_id=THREE)
    memory.removed.add(TWO)
    assert await memory.hears(ORIGINAL.next_life(5), node_id=THREE)
    await memory.open()
    memory.removed.clear()
    assert [NodeId(claim.node_id) for claim in memory.lives.claims(ME)] == [THREE]


async def test_the_limit_of_strangers() -> None:
    memory = await Memory(settings=default(PeerLivesSettings, strangers_max=2, inform_seconds_max=0.0)).open()
    assert await memory.hears(ORIGINAL)
    for number in range(4):
        assert await memory.hears(first_life(number).next_moment(), node_id=NodeId(100 + number))
    # The oldest were forgotten, so that anything continues them; members never are.
    assert await memory.hears(first_life(77), node_id=NodeId(100))
    assert not await memory.hears(first_life(77), node_id=NodeId(103))
    assert not await memory.hears(first_life(77))
    for number in range(4):
        assert not await memory.hears(first_life(77), f"elsewhere:{number}")
    assert len(memory.lives.warnings()) == 2


@pytest.mark.parametrize("spoil", [lambda data: data[:-3], lambda data: data.replace(b"two", b"one"), lambda data: b""])
async def test_a_damaged_memory_is_not_passed_over(spoil: Callable[[bytes], bytes]) -> None:
    memory = await Memory().open()
    assert await memory.hears(ORIGINAL)
    path = f"data/{PEERS_FILE}"
    memory.disk.put(path, spoil(memory.disk.content(path)))
    with pytest.raises(DataDirectoryError, match=f"{path}: cannot be used"):
        await memory.open()
