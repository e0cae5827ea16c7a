"""Numbers at their bounds and beyond, in admin calls and from peers: answered or refused, and no node is the worse for it, ever."""

import pytest
import trio
from google.protobuf.message_factory import GetMessageClass

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK, values_on
from tests.extremes import extreme_requests, fields_of, set_field
from trio_eventlog.bounds import TERM_MAX
from trio_eventlog.codec.catalog import decode_command
from trio_eventlog.codec.peer_frame import FrameKind, encode_frame
from trio_eventlog.codec.raft_message import encode_raft_message
from trio_eventlog.errors import CodecError, DamagedData, EventLogError, InvalidArgument
from trio_eventlog.ids import CATALOG_GROUP, GroupId
from trio_eventlog.net.links import Priority
from trio_eventlog.node.replica import Replica
from trio_eventlog.raft import TRANSFER_CAMPAIGN, HardState, Message, MessageType
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.repair import repair_term
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.v1 import admin_pb2, event_log_pb2

POISON = (
    b'{"command":"create_topic","name":"x","partitions":1,"replica_count":0,"replicas":[1],'
    b'"retention_bytes":0,"retention_seconds":-1}'
)
"""What former releases wrote for whoever asked, and none could read."""


def catalogs(cluster: Cluster) -> list[object]:
    machines = [cluster.node(name).parts.replicas.machine for name in cluster.names]
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
        catalog = cluster.node(leader).parts.replicas.find(CATALOG_GROUP)
        assert isinstance(catalog, Replica)
        proposal = await catalog.propose_control(POISON)
        with pytest.raises(InvalidArgument, match="cannot be carried out"):
            await proposal.outcome()
        await client.create_topic("payments")
        await restart_all(cluster)
        assert set(cluster.node("n1").parts.replicas.machine.topics) == {"orders", "payments"}


@pytest.mark.parametrize("term", [TERM_MAX + 1, (1 << 64) - 1, TERM_MAX])
async def test_a_term_beyond_every_election_is_adopted_by_nobody(term: int) -> None:
    """Sent by a member to all the others, in every kind of message; then all nodes are killed, and all come back."""
    async with Cluster(3, seed=63) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await client.produce("orders", b"before")
        liar = cluster.node("n2")
        for kind in MessageType:
            for name in ("n1", "n3"):
                message = Message(
                    type=MessageType.VOTE, to=cluster.node_id(name), sender=liar.node_id, term=term, context=TRANSFER_CAMPAIGN
                )
                head = bytearray(encode_raft_message(message))
                head[0] = kind
                for group_id in (0, 1):
                    buffers = encode_frame(FrameKind.RAFT, group_id, bytes(head))
                    liar.parts.transport.send(message.to, buffers, Priority.URGENT)
        await trio.sleep(5)
        for name in cluster.names:
            assert all(replica.status().hard_state.term < 1000 for replica in cluster.node(name).parts.replicas.all())
        await restart_all(cluster)
        await client.produce("orders", b"after")
        await cluster.wait_converged("orders")


async def test_a_cluster_whose_terms_were_poisoned_is_repaired() -> None:
    """Nodes refuse to start and say how: once their terms are set back, on all of them, everything is there."""
    async with Cluster(3, seed=64, may_fail=lambda name, error: isinstance(error, DamagedData)) as cluster:
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic("orders")
            await client.produce("orders", b"before")
        await cluster.wait_converged("orders")
        directories = [cluster.node("n1").parts.directory.group_path(GroupId(number)) for number in (0, 1)]
        for name in cluster.names:
            cluster.crash(name, CrashMode.KEEP)
        for name in cluster.names:
            for directory in directories:
                async with await HardStateFile.open(cluster.disk(name), f"{directory}/hard_state") as hard_state:
                    await hard_state.save(HardState(term=(1 << 64) - 1, commit=hard_state.state.commit))
        await cluster.start("n1", may_fail=True)
        assert "log repair" in await cluster.wait_failure("n1")
        for name in cluster.names:
            for directory in directories:
                repair = await repair_term(cluster.disk(name), directory, writes=True)
                assert repair is not None
                assert repair.refusal == ""
        for name in cluster.names:
            await cluster.start(name)
        async with cluster.client(settings=QUICK) as client:
            await client.produce("orders", b"after")
        await cluster.wait_converged("orders")
        for name in cluster.names:
            assert await values_on(cluster, name, "orders") == [b"before", b"after"]


async def test_extremes_of_every_field_of_consume() -> None:
    """None is INTERNAL: a wait below zero was."""
    internal: list[str] = []
    async with Cluster(1, seed=65) as cluster, cluster.client() as client:
        await client.create_topic("t")
        async with cluster.channel("n1") as channel:
            for path, value in fields_of(event_log_pb2.ConsumeRequest.DESCRIPTOR):
                request = event_log_pb2.ConsumeRequest(topic="t")
                set_field(request, path, value)
                with trio.move_on_after(120):
                    try:
                        await channel.unary(EVENT_LOG["Consume"], request)
                    except EventLogError as error:
                        if error.code == "INTERNAL":
                            internal.append(f"{request}: {error}")
            request = event_log_pb2.ConsumeRequest(topic="t")
            request.max_wait.nanos = -1
            with pytest.raises(InvalidArgument, match="max_wait"):
                await channel.unary(EVENT_LOG["Consume"], request)
    assert internal == []
