"""Importing much at once, which is what the start of a command consists of."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For imports. What they make stays, so the collector leaves it out: inside this block, where it would look at all of it again
    and again, and ever after, where one look stops a node for 50 ms.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
