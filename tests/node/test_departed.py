"""A replica that leaves and comes back is as careful as if it had never lost its log."""

import random
from collections import Counter

import attrs
import pytest
import trio.testing

from tests.node.rig import ME, TWO, Rig, batch_of, data
from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.node.departed import (
    DEPARTED_FILE,
    DEPARTING_FILE,
    Departed,
    decode_departed,
    depart,
    encode_departed,
    has_log,
    load_departed,
)
from trio_eventlog.raft import MessageType
from trio_eventlog.raft.messages import Message
from trio_eventlog.records import Acks
from trio_eventlog.storage.disk import write_atomically
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, SimDisk

LEFT = Departed(last_term=1, last_index=2, commit_index=2)


async def left_behind(disk: SimDisk, voters: tuple[int, ...]) -> Departed:
    """A replica that has led, and has gone; what it left."""
    async with Rig(disk, voters=voters).open() as rig:
        if voters == (ME,):
            rig.replica.driver.requests.campaign()
            await rig.settle()
        else:
            await rig.lead()
        status = rig.replica.status()
        assert status.last_index == status.hard_state.commit == 1
    return Departed(last_term=status.last_term, last_index=status.last_index, commit_index=status.hard_state.commit)


async def test_the_only_first_voter_does_not_elect_itself_when_it_comes_back() -> None:
    """Its group lives elsewhere. By its first voters alone, it would lead at once, and take records that nobody else has."""
    disk = SimDisk(random.Random(1))
    left = await left_behind(disk, (ME,))
    await depart(disk, "g", left)
    assert not await has_log(disk, "g")
    async with Rig(disk, voters=(ME,)).open() as rig:
        rig.replica.driver.requests.campaign()
        await rig.tick(50)
        assert not rig.replica.is_leader
        assert rig.replica.status().last_index == 0
        assert rig.replica.departed == left


async def test_it_does_not_stand_for_election_with_less_than_it_had() -> None:
    """It may have acknowledged more than it knew to be committed. Who has not heard of that would elect it."""
    disk = SimDisk(random.Random(1))
    left = attrs.evolve(await left_behind(disk, (1, 2, 3)), last_index=3)
    await depart(disk, "g", left)
    async with Rig(disk).open() as rig:
        rig.give_append(TWO, 1, (0, 0), data(1, 1, 0, b"x"), data(1, 2, 1, b"y"), commit=2)
        await rig.settle()
        assert rig.replica.status().applied_index == 2 > left.commit_index
        await rig.tick(50)
        assert rig.take_sent(MessageType.PRE_VOTE) == []
        rig.give_append(TWO, 1, (1, 2), data(1, 3, 2, b"z"), commit=2)
        await rig.settle()
        await rig.tick(50)
        assert rig.take_sent(MessageType.PRE_VOTE) != []


async def test_it_elects_nobody_with_less_than_it_had() -> None:
    """A candidate that never heard of the group's last change could win by its vote."""
    disk = SimDisk(random.Random(1))
    left = await left_behind(disk, (1, 2, 3))
    await depart(disk, "g", left)
    async with Rig(disk).open() as rig:
        assert rig.term == left.last_term, "and it remembers what it has voted in"
        for kind in (MessageType.PRE_VOTE, MessageType.VOTE):
            rig.give(Message(type=kind, to=ME, sender=TWO, term=5, log_term=0, index=0))
            await rig.settle()
            assert rig.take_sent() == []
        rig.give(Message(type=MessageType.TIMEOUT_NOW, to=ME, sender=TWO, term=1))
        await rig.settle()
        assert rig.take_sent() == []
        rig.give(Message(type=MessageType.VOTE, to=ME, sender=TWO, term=5, log_term=left.last_term, index=left.last_index))
        await rig.settle()
        ((vote, _),) = rig.take_sent(MessageType.VOTE_RESPONSE)
        assert not vote.reject


SEGMENTS = default(LogSettings, preallocate_bytes=0, segment_bytes=1500)
DEPARTURE_OPERATIONS_MAX = 200


async def left_segments(disk: SimDisk) -> Departed:
    """As `left_behind`, by a leader whose log has several segments."""
    async with Rig(disk, log=SEGMENTS).open() as rig:
        await rig.lead()
        for _ in range(8):
            await rig.replica.propose_batch(batch_of(bytes(600)), Acks.QUORUM)
            await rig.settle()
            await rig.acknowledge()
        status = rig.replica.status()
        assert rig.replica.log.segment_count >= 4
    return Departed(last_term=status.last_term, last_index=status.last_index, commit_index=status.hard_state.commit)


async def check_departure(disk: SimDisk, left: Departed, mode: CrashMode) -> bool:
    """The log is whole and known to be there, or its end is remembered and nothing is left of it. Whether it is gone."""
    if await has_log(disk, "g"):
        async with Rig(disk, log=SEGMENTS).open() as rig:
            assert rig.replica.status().last_index == left.last_index
        return False
    assert await load_departed(disk, "g") == left
    disk = disk.crash(mode)
    assert await load_departed(disk, "g") == left, "what was read was durable"
    assert not await disk.exists(f"g/{DEPARTING_FILE}")
    async with Rig(disk, log=SEGMENTS).open() as rig:
        assert rig.replica.status().last_index == 0
        assert rig.term == left.last_term
    return True


@pytest.mark.parametrize("mode", CrashMode)
async def test_a_departure_cut_short_is_finished(mode: CrashMode) -> None:
    """The power fails at any operation, and once more while the rest is being done after that."""
    outcomes = Counter[bool]()
    for operations in range(DEPARTURE_OPERATIONS_MAX):
        has_power = False
        for seed in range(4 if mode is CrashMode.DRAW else 1):
            disk = SimDisk(random.Random(f"{operations} {seed}"))
            left = await left_segments(disk)
            disk.cut_power_after(operations)
            try:
                await depart(disk, "g", left)
                has_power = True
            except DiskCrashed:
                pass
            disk = disk.crash(mode)
            disk.cut_power_after(operations * 7 % 23)
            try:
                await load_departed(disk, "g")
            except DiskCrashed:
                pass
            outcomes[await check_departure(disk.crash(mode), left, mode)] += 1
        if has_power:
            break
    else:
        raise AssertionError("a departure has no end")
    assert min(outcomes[False], outcomes[True]) > 3, "crashes came before it and after it had begun"


def joined_cases() -> list[tuple[Departed, Departed, Departed]]:
    first = Departed(last_term=2, last_index=9, commit_index=5)
    return [
        (first, Departed(last_term=3, last_index=4, commit_index=4), Departed(last_term=3, last_index=4, commit_index=5)),
        (first, Departed(last_term=2, last_index=3, commit_index=3), first),
    ]


async def test_leaving_twice_forgets_nothing() -> None:
    """The further end of both, by term first."""
    for first, second, both in joined_cases():
        assert first.joined(second) == both


async def test_golden_bytes_and_damage() -> None:
    """What is on disks already stays readable; anything else is refused, as the replica could not be trusted."""
    assert encode_departed(LEFT) == b'{"commit_index": 2, "format": 1, "last_index": 2, "last_term": 1}\n'
    assert decode_departed(encode_departed(LEFT)) == LEFT
    for damaged in (b"", b"{}", b"[1]", encode_departed(LEFT)[:-1], encode_departed(LEFT).replace(b"2", b"true")):
        with pytest.raises(CodecError):
            decode_departed(damaged)
    disk = SimDisk(random.Random(1))
    await disk.make_directory("g")
    await write_atomically(disk, f"g/{DEPARTED_FILE}", b"nonsense")
    with pytest.raises(DamagedData):
        await load_departed(disk, "g")
    await trio.testing.wait_all_tasks_blocked()
