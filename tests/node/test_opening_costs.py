"""What opening a group asks of the disk: a thousand of them at once wait for each other's syncs."""

from tests.node.rig import Rig


async def test_a_new_group_costs_one_sync_of_its_hard_state_and_one_of_its_directory() -> None:
    """What was made just now is durable already, and what is empty has nothing to be made durable."""
    rig = Rig()
    async with rig.open():
        assert (rig.disk.statistics.syncs, rig.disk.statistics.directory_syncs) == (1, 1)


async def test_what_is_found_is_made_durable_before_it_is_relied_upon() -> None:
    """A process that was killed may have left it in the kernel's cache only."""
    rig = Rig()
    async with rig.open():
        pass
    rig = Rig(rig.disk)
    before = (rig.disk.statistics.syncs, rig.disk.statistics.directory_syncs)
    async with rig.open():
        statistics = rig.disk.statistics
        assert (statistics.syncs - before[0], statistics.directory_syncs - before[1]) == (1, 1)
