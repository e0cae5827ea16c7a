"""Tasks that an object starts in its methods."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Background:
    """Holds the nursery of an object whose owner runs it by `async with thing.running():`.

    Attributes:
        nursery: None before and after that block.
    """

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tasks live inside this block, and are cancelled at its end."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            try:
                yield
            finally:
                self.nursery = None
                nursery.cancel_scope.cancel()
