"""Nodes that find each other by names, ready or not, and what each says of its readiness meanwhile."""

import json
from collections.abc import Iterable

import h11
import trio

from tests.cluster.helpers import QUICK, values_on
from trio_eventlog.grpc.health import HEALTH_DESCRIPTOR, NOT_SERVING, SERVING, HealthCheckRequest
from trio_eventlog.net.names import ServiceHost
from trio_eventlog.net.network import split_address
from trio_eventlog.rpc import methods_of
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import Operation
from trio_eventlog.testing.names import TableNames

HEALTH = methods_of(HEALTH_DESCRIPTOR)
SERVICE = "_eventlog._tcp.peers"
BY_NAME = ("dns+srv://peers",)


def published(addresses: Iterable[str]) -> TableNames:
    """Names by which `addresses` are found."""
    names = TableNames()
    publish(names, addresses)
    return names


def publish(names: TableNames, addresses: Iterable[str]) -> None:
    names.records[SERVICE] = [ServiceHost(*split_address(address)) for address in addresses]
    names.hosts |= {service.host: [service.host] for service in names.records[SERVICE]}


async def get(cluster: Cluster, name: str, path: str) -> tuple[int, dict[str, str]]:
    """A GET as a probe makes it: a connection of its own."""
    stream = await cluster.network.host("kubelet").open_stream(cluster.address(name))
    connection = h11.Connection(h11.CLIENT)
    async with stream:
        request = h11.Request(method="GET", target=path, headers=[("host", name), ("connection", "close")])
        await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, json.loads(body)


async def wait_served(cluster: Cluster, name: str, status: int) -> None:
    """Until the standard health service says so of the whole node, which is a tick later."""
    async with cluster.channel(name) as channel, channel.stream(HEALTH["Watch"], HealthCheckRequest()) as call:
        with trio.fail_after(1):
            while (await call.receive()).status != status:
                pass


def unready(cluster: Cluster) -> set[str]:
    return {name for name in cluster.running if cluster.node(name).unready_because()}


async def test_nodes_that_are_not_ready_form_a_cluster_when_dns_publishes_them() -> None:
    """As with `publishNotReadyAddresses`: readiness follows from the quorum, so the quorum must not wait for readiness."""
    names = TableNames()
    async with Cluster(3, seed=71, names=names, starts=False, join=BY_NAME) as cluster:
        for name in cluster.names:
            await cluster.start(name)
        await trio.sleep(30)
        assert unready(cluster) == set(cluster.names)
        for name in cluster.names:
            status, said = await get(cluster, name, "/health")
            assert (status, said["status"]) == (200, "healthy")
            status, said = await get(cluster, name, "/ready")
            assert (status, said["reason"]) == (503, "the node has not found a cluster with a leader yet: 1 of 3 nodes known")
            await wait_served(cluster, name, NOT_SERVING)
        publish(names, map(cluster.address, cluster.names))
        await cluster.wait_leader()
        await cluster.wait_until(lambda: not unready(cluster), "all are ready")
        for name in cluster.names:
            assert await get(cluster, name, "/ready") == (200, {"status": "ready"})
            await wait_served(cluster, name, SERVING)


async def test_nodes_that_dns_publishes_only_when_ready_never_become_ready() -> None:
    """The deadlock that `publishNotReadyAddresses` is there against: this is why the manifest has it."""
    names = TableNames()

    async def publish_the_ready_ones(cluster: Cluster) -> None:
        while True:
            publish(names, [cluster.address(name) for name in cluster.running if name not in unready(cluster)])
            await trio.sleep(1)

    async with Cluster(3, seed=72, names=names, join=BY_NAME) as cluster, trio.open_nursery() as nursery:
        nursery.start_soon(publish_the_ready_ones, cluster)
        await trio.sleep(300)
        assert unready(cluster) == set(cluster.names)
        nursery.cancel_scope.cancel()


async def test_all_addresses_change_and_dns_with_them() -> None:
    """The data directories know no addresses: by the same name the same nodes are the same cluster again."""
    names = published(f"n{number}:8400" for number in (1, 2, 3))
    async with Cluster(3, seed=73, names=names, join=BY_NAME) as cluster:
        async with cluster.client(settings=QUICK) as client:
            await client.produce("orders", b"before")
            await cluster.wait_converged("orders")
        for name in cluster.names:
            await cluster.stop(name)
        for name in cluster.names:
            await cluster.start(name, listen=f"moved-{name}:8400")
        await trio.sleep(30)
        assert cluster.leader() is None, "nobody is where they were"
        publish(names, [f"moved-{name}:8400" for name in cluster.names])
        await cluster.wait_leader("orders")
        await cluster.wait_until(lambda: not unready(cluster), "all are ready")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"before"]


async def test_one_node_moves_while_the_others_run() -> None:
    """It finds them by name, shows them its id on a link, and they follow it to where it is now."""
    names = published(f"n{number}:8400" for number in (1, 2, 3))
    async with Cluster(3, seed=74, names=names, join=BY_NAME) as cluster, cluster.client("n2", settings=QUICK) as client:
        await client.produce("orders", b"before")
        await cluster.wait_converged("orders")
        await cluster.restart("n1", listen="moved:8400")
        await client.produce("orders", b"after")
        await cluster.wait_converged("orders")
        assert await values_on(cluster, "n1", "orders") == [b"before", b"after"]


async def wait_unready(cluster: Cluster, name: str, why: str) -> None:
    await cluster.wait_until(lambda: why in cluster.node(name).unready_because(), f"{name} is not ready: {why}")


async def test_a_node_is_ready_only_while_it_knows_a_leader() -> None:
    """Cut off from the others, a leader and a follower alike; each is alive all the time."""
    async with Cluster(3, seed=75) as cluster:
        await cluster.wait_until(lambda: not unready(cluster), "all are ready")
        leader = await cluster.wait_leader()
        follower = next(name for name in cluster.names if name != leader)
        for name in (leader, follower):
            rest = set(cluster.names) - {name}
            cluster.partition({name}, rest)
            await wait_unready(cluster, name, "no leader")
            status, said = await get(cluster, name, "/health")
            assert (status, said["status"]) == (200, "healthy")
            assert (await get(cluster, name, "/ready"))[0] == 503
            await wait_served(cluster, name, NOT_SERVING)
            await cluster.wait_until(lambda: len(unready(cluster)) == 1, "the others have a leader")
            cluster.heal()
            await cluster.wait_until(lambda: not unready(cluster), "all are ready again")


async def test_a_node_far_behind_is_not_ready_before_it_has_caught_up() -> None:
    async with Cluster(3, seed=76, catch_up_entries_max=10, append_bytes_max=4096) as cluster:
        leader = await cluster.wait_leader()
        late = next(name for name in cluster.names if name != leader)
        async with cluster.client(leader, settings=QUICK) as client:
            await client.create_topic("orders")
            await cluster.wait_converged("orders")
            await cluster.stop(late)
            for _ in range(30):
                await client.produce("orders", bytes(4000))
        cluster.disk(late).latency_seconds[Operation.SYNC] = 0.1
        await cluster.start(late)
        await wait_unready(cluster, late, "entries behind")
        await cluster.wait_until(lambda: not unready(cluster), "all are ready")
        replica = cluster.replica(late, "orders")
        assert replica is not None
        assert replica.entries_behind <= 10


async def test_a_stopping_node_says_so_before_its_door_closes() -> None:
    async with Cluster(3, seed=77) as cluster:
        await cluster.wait_until(lambda: not unready(cluster), "all are ready")
        reasons: list[str] = []
        node = cluster.node("n1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.stop, "n1")
            while not reasons:
                await trio.lowlevel.checkpoint()
                reasons += filter(None, [node.unready_because()])
        assert reasons == ["the node is stopping"]
