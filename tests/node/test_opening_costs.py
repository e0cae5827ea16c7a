"""What opening a group asks of the disk: a thousand of them at once wait for each other's syncs."""

from tests.node.rig import Rig
from trio_eventlog.codec.lives import Extent


async def opening_costs(rig: Rig) -> tuple[int, int]:
    """Number of syncs of files, and of directories."""
    statistics = rig.disk.statistics
    before = (statistics.syncs, statistics.directory_syncs)
    async with rig.open():
        return statistics.syncs - before[0], statistics.directory_syncs - before[1]


async def test_a_new_group_costs_one_sync_of_its_hard_state_and_one_of_its_directory() -> None:
    """What was made just now is durable already, and what is empty has nothing to be made durable."""
    assert await opening_costs(Rig()) == (1, 1)


async def test_what_is_found_is_made_durable_before_it_is_relied_upon() -> None:
    """A process that was killed may have left it in the kernel's cache only, names in and of its directories too."""
    rig = Rig()
    await opening_costs(rig)
    assert await opening_costs(Rig(rig.disk)) == (1, 3)


async def test_names_that_were_durable_in_an_earlier_life_are_not_synced_again() -> None:
    """The node has written the group down, which it does once it is open."""
    rig = Rig()
    await opening_costs(rig)
    rig = Rig(rig.disk)
    rig.noted = Extent(term=0, last_term=0, last_index=0, commit_index=0)
    assert await opening_costs(rig) == (1, 1)


async def test_what_was_made_in_this_life_is_not_synced_again() -> None:
    """Making it has done that."""
    rig = Rig()
    await opening_costs(rig)
    rig = Rig(rig.disk)
    rig.is_made = True
    assert await opening_costs(rig) == (0, 0)
