"""Scans in real threads."""

import threading

import trio

from trio_eventlog.service.log_search import ScanThreads


async def test_as_many_scans_at_a_time_as_threads() -> None:
    """Further ones wait until one of them is done."""
    scans = ScanThreads(2)
    lock, release = threading.Lock(), threading.Event()
    running: list[int] = []
    most = 0

    def scan() -> None:
        nonlocal most
        with lock:
            running.append(1)
            most = max(most, len(running))
        release.wait(60)
        with lock:
            running.pop()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(scans, scan)
        with trio.fail_after(60):
            while len(running) < 2:  # noqa: ASYNC110 - threads tell nobody
                await trio.sleep(0.01)
        release.set()
    assert (most, running) == (2, [])
