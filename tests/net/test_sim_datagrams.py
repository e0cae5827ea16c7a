"""Packets: the same suite on UDP sockets and on a `SimNetwork`, then what only one of them has."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.real_datagrams import RealDatagramNetwork, RealDatagrams
from trio_eventlog.testing.network import SimNetwork, SimNetworkSettings
from trio_eventlog.testing.weather import Weather


@asynccontextmanager
async def pair(kind: str) -> AsyncIterator[tuple[Datagrams, Datagrams, DatagramNetwork]]:
    """Two bound sockets, and the second one's network."""
    if kind == "simulated":
        network = SimNetwork(random.Random(1))
        (one_network, other_network) = (network.host("n1").datagrams, network.host("n2").datagrams)
        (one, other) = (await one_network.bind("n1:0"), await other_network.bind("n2:0"))
    else:
        host = "127.0.0.1" if kind == "v4" else "[::1]"
        (one_network, other_network) = (RealDatagramNetwork(), RealDatagramNetwork())  # type: ignore[assignment]
        try:
            (one, other) = (await one_network.bind(f"{host}:0"), await other_network.bind(f"{host}:0"))
        except OSError as error:
            pytest.skip(str(error))
    try:
        yield one, other, other_network
    finally:
        one.close()
        other.close()


kinds = pytest.mark.parametrize("kind", ["simulated", "v4", "v6"])


@kinds
async def test_packets_come_with_their_sender(kind: str) -> None:
    """And one can answer to where they came from."""
    with trio.fail_after(5):
        async with pair(kind) as (one, other, network):
            assert not other.address.endswith(":0"), "port 0 is any free one"
            [destination] = (await network.resolve(other.address))[:1]
            assert other.receive_nowait() is None
            one.send_nowait(b"question", destination)
            one.send_nowait(b"", destination)
            one.send_nowait(b"x" * 60_000, destination)
            found = []
            while len(found) < 3:
                await other.wait_receivable()
                while (received := other.receive_nowait()) is not None:
                    found.append(received)
            assert [data for data, _ in found] == [b"question", b"", b"x" * 60_000]
            sender = found[0][1]
            other.send_nowait(b"answer", sender)
            await one.wait_receivable()
            assert one.receive_nowait() == (b"answer", destination)


@kinds
async def test_a_packet_too_long(kind: str) -> None:
    """Is an error, not a loss."""
    async with pair(kind) as (one, other, network):
        [destination] = (await network.resolve(other.address))[:1]
        with pytest.raises(OSError, match=r"[Tt]oo long"):
            one.send_nowait(b"x" * 70_000, destination)


@kinds
async def test_nobody_there(kind: str) -> None:
    """Losing a packet is no error."""
    async with pair(kind) as (one, other, network):
        [destination] = (await network.resolve(other.address))[:1]
        other.close()
        one.send_nowait(b"x", destination)
        one.send_nowait(b"x", destination)


@kinds
async def test_closing(kind: str) -> None:
    """Wakes who waits, may be repeated; afterwards nothing goes."""
    with trio.fail_after(5):
        async with pair(kind) as (one, other, network):
            [destination] = (await network.resolve(other.address))[:1]

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await one.wait_receivable()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                one.close()
            one.close()
            await wait()
            with pytest.raises(OSError):
                one.send_nowait(b"x", destination)


@kinds
async def test_waiting_can_be_cancelled(kind: str) -> None:
    """And begun again."""
    with trio.fail_after(5):
        async with pair(kind) as (one, other, network):
            [destination] = (await network.resolve(other.address))[:1]
            with trio.move_on_after(0):
                await other.wait_receivable()
            one.send_nowait(b"x", destination)
            await other.wait_receivable()
            assert other.receive_nowait() is not None


@kinds
async def test_taken_address(kind: str) -> None:
    """The text says which."""
    async with pair(kind) as (one, _, network):
        with pytest.raises(OSError, match=f"cannot receive packets on {re.escape(one.address)}"):
            await network.bind(one.address)


@kinds
async def test_addresses_and_names(kind: str) -> None:
    """What is resolved can be dialled."""
    async with pair(kind) as (_, other, network):
        [found] = (await network.resolve(other.address))[:1]
        assert network.dialable(found) == other.address


async def test_mapped_addresses_are_unmapped() -> None:
    """An agent bound to all addresses may call itself ::ffff:127.0.0.1."""
    with trio.fail_after(5):
        async with pair("v4") as (one, other, network):
            [destination] = (await network.resolve(other.address))[:1]
            mapped = Address(bytes(10) + b"\xff\xff" + destination.host, destination.port)
            assert network.dialable(mapped) == other.address
            one.send_nowait(b"x", mapped)
            await other.wait_receivable()
            assert other.receive_nowait() is not None


async def test_an_address_of_the_other_kind_is_an_error() -> None:
    """Which for gossip is a lost packet."""
    async with pair("v4") as (one, _, _):
        with pytest.raises(OSError):
            one.send_nowait(b"x", Address(bytes(15) + b"\x01", 9))
        assert isinstance(one, RealDatagrams)


async def test_unknown_host() -> None:
    """An OSError, as the driver expects."""
    with pytest.raises(OSError):
        await RealDatagramNetwork().bind("no such host.invalid:1")


async def test_weather(autojump_clock: trio.testing.MockClock) -> None:
    """Latency, cuts, loss, duplication, a crash."""
    slow = Weather(latency_seconds_min=0.5, latency_seconds_max=0.5)
    network = SimNetwork(random.Random(1), SimNetworkSettings(weather=slow))
    one = await network.host("n1").datagrams.bind("n1:1")
    other = await network.host("n2").datagrams.bind("n2:1")
    [destination] = await network.host("n1").datagrams.resolve("n2:1")

    async def heard(count: int, seconds: float = 2.0) -> int:
        for _ in range(count):
            one.send_nowait(b"x", destination)
        found = 0
        with trio.move_on_after(seconds):
            while True:
                await other.wait_receivable()
                while other.receive_nowait() is not None:
                    found += 1
        return found

    assert await heard(1, 0.49) == 0
    assert await heard(0, 0.02) == 1
    network.cut("n1", "n2")
    assert await heard(3) == 0
    network.heal()
    network.weather = attrs.evolve(slow, loss_chance=0.5)
    assert 300 < await heard(1000) < 700
    network.weather = attrs.evolve(slow, duplication_chance=0.5)
    assert 1300 < await heard(1000) < 1700
    network.crash("n2")
    one.send_nowait(b"x", destination)
    with pytest.raises(trio.ClosedResourceError):
        await other.wait_receivable()
    with pytest.raises(OSError, match="in use"):
        await network.host("n3").datagrams.bind("n1:1")
