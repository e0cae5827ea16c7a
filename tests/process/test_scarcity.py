"""Real daemons with few descriptors, and more idle clients than those: they work on, and nothing acknowledged is lost."""

import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
from daemons import SERVE, Daemon, wait_until

from trio_eventlog import BEGINNING, Record, open_client

KEPT_ALIVE = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@contextmanager
def room_for_many() -> Iterator[None]:
    """This process holds the idle clients, and must not be short of descriptors itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 16_384) if before[1] > 0 else 16_384, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def with_limit(limit: int) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *SERVE)


def connect(daemon: Daemon) -> socket.socket:
    (host, port) = daemon.address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def is_healthy(daemon: Daemon, path: bytes = b"/health") -> bool:
    with connect(daemon) as probe:
        probe.sendall(b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        return probe.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ elsewhere")
@pytest.mark.parametrize("limit", [256, 1024])
def test_idle_clients_beyond_the_limit(limit: int, make_daemon: Callable[..., Daemon]) -> None:
    """Produce goes on, segments roll, /health answers, newcomers get in; after SIGKILL every acknowledged record is there."""
    daemon = make_daemon(
        "n0",
        *("--listen", "127.0.0.1:0", "--segment-bytes", "64KiB", "--tick-seconds", "0.03"),
        command=with_limit(limit),
    ).start()
    assert f"{limit} descriptors: " in daemon.log()
    idle: list[socket.socket] = []
    acknowledged: list[bytes] = []

    async def story() -> None:
        async with open_client(f"eventlog://{daemon.address}") as client:
            await client.create_topic("orders", partitions=1)
            while len(idle) < limit + 100:
                for number in range(20):
                    idle.append(connect(daemon))
                    if number % 4:
                        with suppress(OSError):  # One that was pushed out already.
                            idle[-1].sendall(KEPT_ALIVE)
                assert await trio.to_thread.run_sync(is_healthy, daemon)
                for _ in range(4):
                    value = b"%d" % len(acknowledged) + bytes(20_000)
                    await client.produce("orders", Record(value=value))
                    acknowledged.append(value)
            budgets = {budget.name: budget for budget in (await client.status()).budgets}
            assert budgets["connections of clients"].used <= budgets["connections of clients"].limit
            assert budgets["new connections"].refused > 0

    async def read_back() -> list[bytes]:
        found: list[bytes] = []
        async with open_client(f"eventlog://{daemon.address}") as client, client.consume("orders", start=BEGINNING) as records:
            with trio.fail_after(20):
                while len(found) < len(acknowledged):
                    found.append((await records.receive()).value)
        return found

    try:
        with room_for_many():
            trio.run(story)
        assert daemon.is_running
        segments = list((daemon.home / "trio-eventlog-data").rglob("*.log"))
        assert len(segments) > 8
        daemon.kill()
        daemon.start()
        wait_until(lambda: is_healthy(daemon, b"/ready"), "the node is ready")
        assert sorted(trio.run(read_back)) == sorted(acknowledged)
        assert "Traceback" not in daemon.log()
    finally:
        for one in idle:
            one.close()


def test_the_limit_is_raised_and_told(make_daemon: Callable[..., Daemon]) -> None:
    """The soft limit is no reason to work with less than the hard one."""
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0", command=("sh", "-c", 'ulimit -Sn 200 && exec "$@"', "sh", *SERVE)).start()
    assert "the limit of descriptors was raised from 200 to " in daemon.log()


def test_too_few_descriptors_are_refused(make_daemon: Callable[..., Daemon]) -> None:
    """In words, and before anything is opened."""
    daemon = make_daemon("n0", "--listen", "127.0.0.1:0", command=with_limit(100)).launch()
    assert daemon.wait_exit() == 2
    assert "ulimit -n" in daemon.log()
