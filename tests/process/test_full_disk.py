"""Real daemons, each on a small file system of its own, which is filled under load: nothing acknowledged is lost."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Container, Sequence
from contextlib import suppress

import pytest
import trio
from daemons import SERVE, Daemon

from trio_eventlog import BEGINNING, Record, open_client
from trio_eventlog.cli.loopback_ports import reserve_addresses
from trio_eventlog.client.client import Client
from trio_eventlog.errors import DiskFull, OutcomeUnknown

FLAGS = ("--segment-bytes", "4MiB", "--preallocate-bytes", "4MiB", "--tick-seconds", "0.05", "--disk-check-seconds", "0.1")
MARKS = ("--disk-reserve-bytes", "8MiB", "--disk-free-bytes-min", "24MiB", "--data-dir", "disk/data")
VALUE_BYTES = 1_000_000
VALUES_MAX = 200


def on_a_file_system_of(size: str) -> tuple[str, ...]:
    """A command whose directory `disk` is in memory, for the process alone."""
    return ("unshare", "-m", "sh", "-c", f'mkdir -p disk && mount -t tmpfs -o size={size} tmpfs disk && exec "$@"', "sh", *SERVE)


def in_its_place(daemon: Daemon, *command: str) -> None:
    """Run a command that sees the files as the daemon does."""
    subprocess.run(("nsenter", "-t", str(daemon.pid), "-m", "-w", *command), check=True, timeout=10)


def can_mount() -> bool:
    if sys.platform != "linux" or not (shutil.which("unshare") and shutil.which("nsenter")):
        return False
    return subprocess.run(("unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"), check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a file system")
def test_disks_are_filled_under_load(make_daemon: Callable[..., Daemon]) -> None:
    """With one full disk the cluster goes on; with all of them full it refuses, and it works again once the room is returned."""
    addresses = reserve_addresses(3)
    daemons = [
        make_daemon(
            f"n{number}",
            *("--listen", address, "--bootstrap-expect", "3", *FLAGS, *MARKS),
            *(flag for other in addresses if other != address for flag in ("--join", other)),
            command=on_a_file_system_of("200m"),
        ).launch()
        for number, address in enumerate(addresses)
    ]
    for daemon in daemons:
        daemon.wait_listening()
        in_its_place(daemon, "fallocate", "-l", "100MiB", "disk/ballast")
    in_its_place(daemons[0], "fallocate", "-l", "60MiB", "disk/more-ballast")
    acknowledged: list[bytes] = []
    uncertain: set[bytes] = set()
    numbers = itertools.count()

    async def produce(client: Client) -> None:
        value = b"%d " % next(numbers) + bytes(VALUE_BYTES)
        try:
            await client.produce("orders", Record(value=value))
        except OutcomeUnknown:
            # Its first answer was lost when the full leader handed over, and the next leader was full.
            uncertain.add(value)
            raise
        acknowledged.append(value)

    async def story() -> None:
        async with open_client("eventlog://" + ",".join(addresses)) as client:
            await client.create_topic("orders")
            with suppress(DiskFull, OutcomeUnknown):
                while len(acknowledged) < VALUES_MAX:
                    await produce(client)
            assert len(acknowledged) < VALUES_MAX
            # The first was full long before, with 40 MB less of which 24 and 8 are kept free.
            assert len(acknowledged) > 40
            assert await read(client, len(acknowledged), uncertain) == acknowledged
            warnings = [warning for address in addresses for warning in (await client.status(address)).warnings]
            assert sum("nearly full" in warning for warning in warnings) >= 2
            for daemon in daemons:
                in_its_place(daemon, "rm", "-f", "disk/ballast", "disk/more-ballast")
            with trio.fail_after(20):
                while True:
                    try:
                        await produce(client)
                        break
                    except (DiskFull, OutcomeUnknown):
                        await trio.sleep(0.1)
            for _ in range(10):
                await produce(client)
            assert await read(client, len(acknowledged), uncertain) == acknowledged

    trio.run(story)
    assert all(daemon.is_running for daemon in daemons)
    assert [daemon.stop() for daemon in daemons] == [0, 0, 0]


async def read(client: Client, count: int, uncertain: Container[bytes]) -> Sequence[bytes]:
    """The first `count` values that were acknowledged."""
    found: list[bytes] = []
    async with client.consume("orders", start=BEGINNING) as records:
        with trio.fail_after(20):
            while len(found) < count:
                value = (await records.receive()).value
                if value not in uncertain:
                    found.append(value)
    return found
