"""What `consume` writes while it reads: bounded, in order, and counted only once it is written."""

import threading

import pytest
import trio
import trio.testing

from trio_eventlog.cli import consume
from trio_eventlog.cli.consume import PENDING_BYTES_MAX, Chunk, Output, Written


class HeldBackWrites:
    """Stands for a pipe whose reader is slow: each write waits until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.data: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.begun.release()
        self.let_go.acquire()
        self.data.append(data)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> HeldBackWrites:
    writes = HeldBackWrites()
    monkeypatch.setattr(consume, "_write", writes.write)
    return writes


def chunk(number: int, size_bytes: int = 1) -> Chunk:
    return Chunk(b"%d" % number * size_bytes, 1, ("t", 0), number + 1)


async def test_small_batches_that_arrive_during_a_write_are_written_together(writes: HeldBackWrites) -> None:
    written = Written(None)
    output = Output(written)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        await output.add(chunk(0))
        await trio.to_thread.run_sync(writes.begun.acquire)
        await output.add(chunk(1))
        await output.add(chunk(2))
        assert (written.records, written.next_offsets) == (0, {})  # Nothing has left yet.
        writes.let_go.release(2)
        await output.until_written()
        nursery.cancel_scope.cancel()
    assert writes.data == [b"0", b"12"]
    assert (written.records, written.next_offsets) == (3, {("t", 0): 3})


async def test_output_that_waits_to_be_written_is_bounded(writes: HeldBackWrites) -> None:
    output = Output(Written(None))
    is_added = trio.Event()

    async def fill() -> None:
        await output.add(chunk(2))
        is_added.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.run)
        await output.add(chunk(0))
        await trio.to_thread.run_sync(writes.begun.acquire)
        await output.add(chunk(1, PENDING_BYTES_MAX - 1))
        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_added.is_set()
        writes.let_go.release(2)
        await is_added.wait()
        await output.until_written()
        nursery.cancel_scope.cancel()
