import trio
from bank import Bank


async def test_each_order_is_booked_once(eventlog_cluster):
    async with eventlog_cluster.client() as client:
        bank = Bank(client)
        await bank.transfer("order 1", "ann", "bob", 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bank.transfer, "order 2", "ann", "bob", 1)
            eventlog_cluster.isolate(await eventlog_cluster.wait_leader("transfers"))
        assert await bank.balances() == {"ann": -101, "bob": 101}
