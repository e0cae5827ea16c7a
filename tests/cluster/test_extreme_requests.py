"""Every field of every admin call, at its bounds and beyond: answered or refused, and no node is the worse for it, ever."""

import pytest
import trio
from google.protobuf.message_factory import GetMessageClass

from tests.cluster.helpers import ADMIN, QUICK, values_on
from tests.extremes import extreme_requests
from trio_eventlog.codec.catalog import decode_command
from trio_eventlog.errors import CodecError, EventLogError, InvalidArgument
from trio_eventlog.ids import CATALOG_GROUP
from trio_eventlog.node.replica import Replica
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2

POISON = (
    b'{"command":"create_topic","name":"x","partitions":1,"replica_count":0,"replicas":[1],'
    b'"retention_bytes":0,"retention_seconds":-1}'
)
"""What former releases wrote for whoever asked, and none could read."""


def catalogs(cluster: Cluster) -> list[object]:
    machines = [cluster.node(name)._replicas.machine for name in cluster.names]
    return [(machine.topics, machine.next_group_id, machine.nodes, machine.removed) for machine in machines]


async def restart_all(cluster: Cluster) -> None:
    for name in cluster.names:
        cluster.crash(name)
    for name in cluster.names:
        await cluster.start(name)
    await cluster.wait_ready()
    await cluster.wait_converged()
    assert catalogs(cluster) == [catalogs(cluster)[0]] * len(cluster.names)


async def test_extremes_of_every_admin_field_and_then_all_nodes_are_killed() -> None:
    """Each request has an answer of its own, never INTERNAL; afterwards all nodes come back, are ready, and agree."""
    async with Cluster(3, seed=61) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"before")
        service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
        answered = 0
        refused: list[tuple[str, str]] = []
        async with cluster.channel("n2") as channel:
            for method, request in extreme_requests(service, lambda descriptor: GetMessageClass(descriptor)()):
                try:
                    with trio.fail_after(60):
                        response = await channel.unary(ADMIN[method], request)
                    answered += 1
                    if method == "CreateTopic":
                        await channel.unary(ADMIN["DeleteTopic"], admin_pb2.DeleteTopicRequest(name=response.topic.name))
                except EventLogError as error:
                    refused.append((error.code, f"{method} {request}: {error}"))
        assert [text for code, text in refused if code == "INTERNAL"] == []
        assert answered > 20
        assert len(refused) > 50
        await restart_all(cluster)
        await client.produce("orders", b"after")
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"before", b"after"]


async def test_what_a_former_release_has_poisoned_comes_back() -> None:
    """The command is in every log and stays there. Nodes of this release refuse it alike, and go on."""
    with pytest.raises(CodecError, match="retention_seconds is -1"):
        decode_command(POISON)
    async with Cluster(3, seed=62) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        leader = cluster.leader()
        assert leader is not None
        catalog = cluster.node(leader)._replicas.find(CATALOG_GROUP)
        assert isinstance(catalog, Replica)
        proposal = await catalog.propose_control(POISON)
        with pytest.raises(InvalidArgument, match="cannot be carried out"):
            await proposal.outcome()
        await client.create_topic("payments")
        await restart_all(cluster)
        assert set(cluster.node("n1")._replicas.machine.topics) == {"orders", "payments"}
