"""A bank whose only memory is a log: each transfer is a record, and balances follow from reading them all."""

import json
from collections import Counter

import trio

from trio_eventlog import Client

PATIENCE_SECONDS = 1.0


class Bank:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def transfer(self, order: str, source: str, target: str, cents: int) -> None:
        """Book a customer's order. Returns once it is in the books."""
        entry = json.dumps({"order": order, "source": source, "target": target, "cents": cents})
        while True:
            with trio.move_on_after(PATIENCE_SECONDS):
                await self.client.produce("transfers", entry.encode())
                return

    async def balances(self) -> dict[str, int]:
        """Of every account, in cents, as of now."""
        balances: Counter[str] = Counter()
        booked: set[str] = set()
        _, end = await self.client.offsets("transfers")
        async with self.client.consume("transfers") as records:
            async for record in records:
                entry = json.loads(record.value)
                if entry["order"] not in booked:
                    booked.add(entry["order"])
                    balances[entry["source"]] -= entry["cents"]
                    balances[entry["target"]] += entry["cents"]
                if record.offset == end - 1:
                    break
        return dict(balances)
