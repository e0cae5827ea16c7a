import trio
from bank import Bank
from hypothesis import given, settings

from trio_eventlog.testing import fault_scripts, run_script


@settings(deadline=None, max_examples=30)
@given(script=fault_scripts())
async def test_whatever_breaks(eventlog_cluster, script):
    async with eventlog_cluster.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(run_script, eventlog_cluster, script)
        bank = Bank(client)
        for number in range(10):
            await bank.transfer(f"order {number}", "ann", "bob", 1)
            await eventlog_cluster.advance(0.2)
        assert await bank.balances() == {"ann": -10, "bob": 10}
