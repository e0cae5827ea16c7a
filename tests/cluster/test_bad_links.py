"""Whole nodes over links that are slow, clogged, damage bytes, break inside a frame, or lead elsewhere."""

import logging
from itertools import permutations
from pathlib import Path

import attrs
import pytest
import trio
from authority import Authority

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.client.client import Client, open_client
from trio_eventlog.net.tls import TlsSettings, build_client_context
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.machines import virtual_now_ns
from trio_eventlog.testing.weather import Weather

VALUE = bytes(range(256)) * 4


def others(cluster: Cluster, name: str) -> list[str]:
    return [other for other in cluster.names if other != name]


async def prepare(cluster: Cluster, client: Client) -> tuple[str, list[str]]:
    """A topic; its leader and the others. From now on nothing of the beginning is under way."""
    await client.create_topic("orders")
    await cluster.wait_registered()
    await cluster.wait_topic("orders")
    leader = await cluster.wait_leader("orders")
    return leader, others(cluster, leader)


def term_of(cluster: Cluster, name: str) -> int:
    replica = cluster.replica(name, "orders")
    assert replica is not None
    return replica.status().hard_state.term


async def check_all_have(cluster: Cluster, values: list[bytes]) -> None:
    await cluster.wait_converged("orders")
    for name in cluster.names:
        assert await values_on(cluster, name, "orders") == values


async def test_flipped_bits_between_peers_never_reach_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Every frame is checked: damage ends the link, which comes back, and what was sent in vain is sent again."""
    caplog.set_level(logging.INFO, "trio_eventlog.net.transport")
    async with Cluster(3, seed=64) as cluster, cluster.client(settings=QUICK) as client:
        await prepare(cluster, client)
        weather = attrs.evolve(cluster.network.weather, flip_chance=0.02)
        for one, other in permutations(cluster.names, 2):
            cluster.network.set_weather(one, other, weather, both_ways=False)
        values = [b"%d " % number + VALUE for number in range(300)]
        for value in values:
            await client.produce("orders", value)
        links = [text for text in caplog.messages if " at " in text and "is up" in text]
        damage = [text for text in caplog.messages if "checksum" in text]
        assert len(damage) > 10, "frames were damaged"
        assert len(links) > 10, "and links came back"
        cluster.network.calm()
        await check_all_have(cluster, values)


@pytest.fixture
def tls_files(tmp_path: Path) -> TlsSettings:
    """One certificate for all nodes of a cluster of three."""
    return Authority(tmp_path / "tls").issue("n1", "n2", "n3")


async def test_over_tls_no_flipped_bit_gets_anywhere(tls_files: TlsSettings, caplog: pytest.LogCaptureFixture) -> None:
    """Of peers and of clients: calls are repeated until they get through, and each value is in the log once, as it was sent."""
    caplog.set_level(logging.INFO, "trio_eventlog.net.transport")
    cluster = Cluster(3, seed=71, tls_cert=tls_files.certificate, tls_key=tls_files.key, tls_ca=tls_files.authority)
    async with cluster:
        async with open_client(
            ",".join(map(cluster.address, cluster.names)),
            network=cluster.network.host("client"),
            tls=build_client_context(tls_files.authority, alpn=("h2",)),
            rng=cluster.random("client"),
            now_ns=virtual_now_ns,
        ) as client:
            await client.create_topic("orders")
            await cluster.wait_registered()
            await cluster.wait_topic("orders")
            cluster.network.weather = attrs.evolve(cluster.network.weather, flip_chance=0.02)
            values = [b"%d " % number + bytes(200) for number in range(100)]
            for value in values:
                await client.produce("orders", value)
            assert sum("BAD_RECORD_MAC" in text for text in caplog.messages) > 3, "bits were flipped"
            cluster.network.calm()
            await check_all_have(cluster, values)


@pytest.mark.parametrize("both_ways", [True, False])
async def test_a_clogged_follower_holds_nobody_up(both_ways: bool) -> None:
    """The leader goes on with the other one, at its usual pace; later the follower catches up."""
    async with Cluster(3, seed=62) as cluster, cluster.client(settings=QUICK) as client:
        leader, (follower, _) = await prepare(cluster, client)
        await client.produce("orders", b"before")
        cluster.network.clog(leader, follower, both_ways=both_ways)
        began = trio.current_time()
        values = [b"%d " % number + VALUE for number in range(200)]
        for value in values:
            await client.produce("orders", value)
        assert (trio.current_time() - began) / len(values) < 0.02, "seconds for each"
        assert cluster.leader("orders") == leader
        assert len(await values_on(cluster, follower, "orders")) <= 1
        cluster.network.heal()
        await check_all_have(cluster, [b"before", *values])


@pytest.mark.parametrize("seed", [63, 65])
async def test_a_slow_follower_holds_nobody_up(seed: int) -> None:
    """50 kB/s are too little for what is produced, but enough to stay a follower, and to catch up in the end.

    With one of the seeds the client has not been told the leader of the new topic, and begins with the follower, which carries on
    what comes: it asks again soon.
    """
    async with Cluster(3, seed=seed) as cluster, cluster.client(settings=QUICK) as client:
        leader, (follower, _) = await prepare(cluster, client)
        term = term_of(cluster, leader)
        slow = attrs.evolve(cluster.network.weather, bytes_per_second=50_000)
        cluster.network.set_weather(leader, follower, slow)
        began = trio.current_time()
        values = [b"%d " % number + VALUE for number in range(200)]
        for value in values:
            await client.produce("orders", value)
        assert (trio.current_time() - began) / len(values) < 0.02, "seconds for each"
        await check_all_have(cluster, values)
        assert trio.current_time() - began > len(values) * len(VALUE) / 50_000
        assert term_of(cluster, leader) == term, "nobody stood for election"


async def test_a_cluster_over_a_slow_and_distant_network() -> None:
    """Every way takes 30 to 100 ms and carries 200 kB/s: it begins, elects and replicates, and keeps its leader."""
    distant = Weather(latency_seconds_min=0.03, latency_seconds_max=0.1, bytes_per_second=200_000)
    async with Cluster(3, seed=64) as cluster:
        cluster.network.weather = distant
        async with cluster.client() as client:
            leader, _ = await prepare(cluster, client)
            values = [b"%d " % number + VALUE for number in range(30)]
            for value in values:
                await client.produce("orders", value)
            assert cluster.leader("orders") == leader
            await check_all_have(cluster, values)


async def test_a_reset_inside_every_ninth_byte_of_a_frame() -> None:
    """Wherever a link breaks, in the hello, in a header, in an entry: it is dialled again, and nothing is lost or doubled."""
    async with Cluster(3, seed=65) as cluster, cluster.client(settings=QUICK) as client:
        leader, (follower, _) = await prepare(cluster, client)
        values = []
        for after_bytes in range(0, 200, 9):
            cluster.network.reset_inside(leader, follower, after_bytes=after_bytes, dialled_by=leader)
            values.append(b"%d" % after_bytes)
            await client.produce("orders", values[-1])
            await cluster.wait_converged("orders")
        await cluster.wait_until(lambda: not cluster.network._link(leader, follower).planned, "all of the resets have happened")
        assert cluster.leader("orders") == leader, "the other follower kept it in office"
        await check_all_have(cluster, values)


async def test_a_leader_that_falls_silent() -> None:
    """Power gone, no connection is reset: the others notice by themselves, go on, and take it in again when it is back."""
    async with Cluster(3, seed=66) as cluster, cluster.client(settings=QUICK) as client:
        leader, _ = await prepare(cluster, client)
        await client.produce("orders", b"one")
        cluster.crash(leader, silently=True)
        began = trio.current_time()
        await client.produce("orders", b"two")
        assert trio.current_time() - began > 1.0, "a reset would have told them at once"
        assert await cluster.wait_leader("orders", other_than=leader) != leader
        await trio.sleep(30)
        await cluster.start(leader)
        await client.produce("orders", b"three")
        await check_all_have(cluster, [b"one", b"two", b"three"])


async def test_a_node_that_comes_back_at_another_address() -> None:
    """Its peers learn the new address from itself; the old one leads to nobody."""
    async with Cluster(3, seed=67) as cluster, cluster.client(settings=QUICK) as client:
        _, (follower, _) = await prepare(cluster, client)
        await client.produce("orders", b"one")
        cluster.crash(follower)
        await client.produce("orders", b"two")
        await cluster.start(follower, listen="elsewhere:8400")
        await check_all_have(cluster, [b"one", b"two"])
        for name in others(cluster, follower):
            assert cluster.node(name).parts.transport._links[cluster.node_id(follower)].address == "elsewhere:8400"
        cluster.network.reset(follower, "n1")
        await client.produce("orders", b"three")
        await check_all_have(cluster, [b"one", b"two", b"three"])


async def test_an_old_address_that_leads_to_another_node() -> None:
    """Two nodes change addresses while they are down: each is asked for the other's log, and nothing is mixed up."""
    async with Cluster(3, seed=68) as cluster, cluster.client(settings=QUICK) as client:
        leader, (one, other) = await prepare(cluster, client)
        await client.produce("orders", b"one")
        for name in (one, other):
            cluster.crash(name)
        await cluster.start(one, listen=cluster.address(other))
        await cluster.start(other, listen=cluster.address(one))
        await client.produce("orders", b"two")
        await check_all_have(cluster, [b"one", b"two"])
        assert cluster.node(leader).parts.transport._links[cluster.node_id(one)].address == cluster.address(other)


@pytest.mark.parametrize("tick_seconds", [0.03, 0.05])
async def test_linearizable_reads_when_the_way_to_the_leader_is_long(tick_seconds: float) -> None:
    """There and back is 300 ms, far more than the ticks after which a question is repeated. Each read of a follower is answered
    within four of those ways (the question itself, and the heartbeats by which the leader makes sure, are two)."""
    round_trip_seconds = 0.3
    far = Weather(latency_seconds_min=round_trip_seconds / 2, latency_seconds_max=round_trip_seconds / 2)
    async with Cluster(3, seed=66, tick_seconds=tick_seconds, election_timeout_ticks=60) as cluster:
        async with cluster.client() as client:
            _, followers = await prepare(cluster, client)
            await client.produce("orders", b"before")
            cluster.network.weather = far
            await client.produce("orders", b"after")
            for name in [*followers, *followers]:
                replica = cluster.replica(name, "orders")
                assert replica is not None
                began = trio.current_time()
                await replica.wait_linearizable()
                assert trio.current_time() - began <= 4 * round_trip_seconds
                assert replica.watermark.value == 2
