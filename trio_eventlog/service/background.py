"""A nursery for the helpers of a block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Helpers run beside the block and are cancelled when it ends.

    An exception of the block comes out as it is: that there are helpers is no business of its author, who would otherwise find
    every ValueError inside an ExceptionGroup. A helper that crashes cancels the block, and comes out in a group as usual.
    """
    raised: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as error:  # Whatever it is, Cancelled included: it goes on two lines below.
            raised = error
        nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised
