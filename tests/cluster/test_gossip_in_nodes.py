"""Whole nodes that find each other, and tell how the others are, by gossip."""

import logging

import pytest
import trio

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK, values_on
from trio_eventlog.codec.gossip_crypto import encode_key
from trio_eventlog.gossip.events import GossipStatus
from trio_eventlog.gossip.messages import KeyOperation
from trio_eventlog.grpc.answers import member_info
from trio_eventlog.ids import NO_CLUSTER, format_id
from trio_eventlog.node.gossip_driver import GossipDriver
from trio_eventlog.records import Record
from trio_eventlog.service.values import MemberInfo
from trio_eventlog.storage.disk import read_whole, write_atomically
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import admin_pb2, event_log_pb2

(KEY, OTHER_KEY) = (bytes(range(32)), bytes(32))
FAILED_SECONDS_MAX = 10.0
"""LAN profile, a few nodes: the next probe (1 s), its time (1 s), suspicion (4 s at the least), and what rumors take."""


def driver(cluster: Cluster, name: str) -> GossipDriver:
    gossip = cluster.node(name).parts.gossip
    assert gossip is not None
    return gossip.driver


def sees(cluster: Cluster, name: str, status: GossipStatus, *others: str) -> bool:
    members = driver(cluster, name).members
    return all(other in members and members[other].status is status for other in others)


async def wait_gossip(cluster: Cluster) -> None:
    """Until all running nodes see each other."""
    running = cluster.running
    await cluster.wait_until(lambda: all(sees(cluster, one, GossipStatus.ALIVE, *running) for one in running), "all are seen")


async def members(cluster: Cluster, by: str) -> dict[str, MemberInfo]:
    """What `trio-eventlog members` shows, by name."""
    async with cluster.channel(by) as channel:
        response = await channel.unary(ADMIN["ListMembers"], admin_pb2.ListMembersRequest())
    return {message.name: member_info(message) for message in response.members}


async def status(cluster: Cluster, name: str) -> admin_pb2.GetStatusResponse:
    async with cluster.channel(name) as channel:
        response: admin_pb2.GetStatusResponse = await channel.unary(ADMIN["GetStatus"], admin_pb2.GetStatusRequest())
        return response


async def start_with_key(cluster: Cluster, name: str, *keys: bytes, **settings: object) -> None:
    lines = "".join(f"{encode_key(key)}\n" for key in keys)
    await write_atomically(cluster.disk(name), "gossip.key", lines.encode())
    await cluster.start(name, gossip_key_file="gossip.key", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("named", ["n1", "n3"])
async def test_three_nodes_begin_when_only_one_of_them_is_named(named: str) -> None:
    """The others learn of each other by gossip; what they then prove to each other is as ever."""
    async with Cluster(3, seed=71, starts=False) as cluster:
        for name in cluster.names:
            await cluster.start(name, join=(cluster.address(named),) if name != named else (), bootstrap_expect=3)
        await cluster.wait_leader()
        await cluster.wait_voters(None, *cluster.names)

        def cluster_ids() -> set[int]:
            return {cluster.node(name).parts.directory.cluster_id for name in cluster.names}

        await cluster.wait_until(lambda: NO_CLUSTER not in cluster_ids(), "all belong to a cluster")
        assert len(cluster_ids()) == 1
        await wait_gossip(cluster)


async def test_all_nodes_come_back_under_other_addresses() -> None:
    """All at once, each told of one other only: the same cluster, the same records."""
    async with Cluster(3, seed=72) as cluster:
        async with cluster.client(settings=QUICK) as client:
            await client.create_topic("orders")
            await cluster.wait_topic("orders")
            await client.produce("orders", b"before")
            await cluster.wait_converged("orders")
        cluster_id = cluster.node("n1").parts.directory.cluster_id
        for name in cluster.names:
            cluster.crash(name)
        moved = {name: f"{name}-moved:9{number}00" for number, name in enumerate(cluster.names)}
        for name, address in moved.items():
            await cluster.start(name, listen=address, join=() if name == "n1" else (moved["n1"],))
        leader = await cluster.wait_leader("orders")
        for name in cluster.names:
            assert cluster.node(name).parts.directory.cluster_id == cluster_id
        await cluster.node("n1").produce("orders", [Record(value=b"after")])
        await cluster.wait_converged("orders")
        assert await values_on(cluster, leader, "orders") == [b"before", b"after"]
        await cluster.wait_until(
            lambda: all(sees(cluster, one, GossipStatus.ALIVE, *cluster.names) for one in cluster.names), "seen"
        )


async def test_who_is_gone_and_how_is_told_apart() -> None:
    """A killed node has failed within the profile's bound, a stopped one has left, and both are alive again when they are back."""
    async with Cluster(4, seed=73) as cluster:
        await cluster.wait_registered()
        await wait_gossip(cluster)
        leader = await cluster.wait_leader()
        (killed, stopped, witness) = (name for name in cluster.names if name != leader)
        cluster.crash(killed)
        await cluster.wait_until(
            lambda: all(sees(cluster, one, GossipStatus.FAILED, killed) for one in cluster.running), "failed", FAILED_SECONDS_MAX
        )
        began_at = trio.current_time()
        await cluster.stop(stopped)
        assert trio.current_time() - began_at < 2
        await cluster.wait_until(lambda: sees(cluster, leader, GossipStatus.LEFT, stopped), "left", 1)
        await cluster.start(killed)
        await wait_gossip(cluster)
        shown = await members(cluster, witness)
        assert {name: shown[name].status for name in cluster.names} == {
            leader: "alive",
            witness: "alive",
            killed: "alive",
            stopped: "left",
        }
        async with cluster.channel(witness) as channel:
            servers = await channel.unary(EVENT_LOG["GetServers"], event_log_pb2.GetServersRequest())
        assert {server.name: server.tags["status"] for server in servers.servers}[stopped] == "left"
        await cluster.start(stopped)
        await wait_gossip(cluster)
        await cluster.wait_until(lambda: cluster.node(leader).parts.transport.is_connected(cluster.node_id(stopped)), "a link")
        shown = await members(cluster, witness)
        for name in cluster.names:
            assert shown[name].status == "alive"
            tags = dict(shown[name].tags)
            assert tags["role"] == "eventlog"
            assert tags["id"] == shown[name].id == format_id(cluster.node_id(name))
            assert tags["cluster"] == "default"
            assert shown[name].role == ("leader" if name == leader else "voter")


async def test_a_single_node_stops_at_once() -> None:
    """There is nobody to say goodbye to."""
    async with Cluster(1, seed=74) as cluster:
        await cluster.wait_ready()
        began_at = trio.current_time()
        await cluster.stop("n1")
        assert trio.current_time() - began_at < 0.1


async def test_a_wiped_node_is_another_one_of_the_same_name() -> None:
    """Its new id is reported beside the former one, which counts as failed and is removed by an operator."""
    async with Cluster(3, seed=75) as cluster:
        await cluster.wait_registered()
        await wait_gossip(cluster)
        former_id = cluster.node_id("n3")
        cluster.crash("n3")
        cluster.wipe("n3")
        await cluster.start("n3", bootstrap_expect=None)
        await cluster.node("n3").wait_ready()
        new_id = cluster.node_id("n3")
        assert new_id != former_id
        await wait_gossip(cluster)
        [warning] = (await status(cluster, "n1")).warnings
        assert f"'n3' was node {format_id(former_id)} and is node {format_id(new_id)}" in warning
        async with cluster.channel("n1") as channel:
            response = await channel.unary(ADMIN["ListMembers"], admin_pb2.ListMembersRequest())
        shown = {message.id: message.status for message in response.members if message.name == "n3"}
        assert shown == {format_id(former_id): "failed", format_id(new_id): "alive"}


async def test_two_nodes_of_one_name_are_reported_and_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """In the log and in the status; nobody shuts down, and both carry their part."""
    async with Cluster(3, seed=76, starts=False) as cluster:
        await cluster.start("n1")
        await cluster.start("n2", node_name="twin")
        await cluster.start("n3", node_name="twin")
        await cluster.wait_leader()
        await cluster.wait_voters(None, *cluster.names)
        await trio.sleep(60)
        assert len(cluster.running) == 3
        told = [warning for name in cluster.names for warning in (await status(cluster, name)).warnings]
        assert any("'twin' is used at n2:8400, and also at n3:8400" in warning for warning in told)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert any("'twin' is used at" in line for line in lines)


async def test_gossip_of_another_cluster_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A node that was given a seed of another cluster: each is told of the other's name, and neither takes the other up."""
    async with Cluster(2, seed=77, starts=False) as cluster:
        await cluster.start("n1", join=(), bootstrap_expect=1)
        await cluster.start("n2", join=("n1:8400",), bootstrap_expect=1, cluster_name="other", may_fail=True)
        await trio.sleep(150)
        assert set(driver(cluster, "n1").members) == {"n1"}
        lines = [record.getMessage() for record in caplog.records if "is of another cluster" in record.getMessage()]
        assert lines
        refusals_of_n1 = [line for line in lines if line.startswith("gossip with another node was refused: 'n2'")]
        assert 1 <= len(refusals_of_n1) <= 3
        assert "'cluster': 'other'" in refusals_of_n1[0]


async def test_only_who_has_the_key_gossips(caplog: pytest.LogCaptureFixture) -> None:
    """Another key, or none, is no way in; the log says so."""
    async with Cluster(4, founders=2, seed=78, starts=False) as cluster:
        for name in ("n1", "n2"):
            await start_with_key(cluster, name, KEY)
        await wait_gossip(cluster)
        await start_with_key(cluster, "n3", OTHER_KEY)
        await cluster.start("n4")
        await trio.sleep(90)
        assert set(driver(cluster, "n1").members) == {"n1", "n2"}
        lines = [record.getMessage() for record in caplog.records]
        assert any("no installed key decrypts the message" in line for line in lines)
        assert any("not encrypted" in line for line in lines)


async def test_keys_are_rotated_and_stay_rotated() -> None:
    """Install, use, remove: every node saves the ring, and is understood after a restart. The former key is of no use then."""
    async with Cluster(3, seed=79, starts=False) as cluster:
        for name in cluster.names:
            await start_with_key(cluster, name, KEY)
        await wait_gossip(cluster)
        for operation, key in ((KeyOperation.INSTALL, OTHER_KEY), (KeyOperation.USE, OTHER_KEY), (KeyOperation.REMOVE, KEY)):
            answers = await driver(cluster, "n1").operate_on_keys(operation, key)
            assert {name: answer.succeeded for name, answer in answers.items()} == dict.fromkeys(cluster.names, True)
        await trio.sleep(1)
        expected = f"{encode_key(OTHER_KEY)}\n".encode()
        for name in cluster.names:
            assert await read_whole(cluster.disk(name), "gossip.key", 1000) == expected
            cluster.crash(name)
        for name in cluster.names:
            await cluster.start(name, gossip_key_file="gossip.key")
        await wait_gossip(cluster)
        cluster.crash("n3")
        await start_with_key(cluster, "n3", KEY)
        await trio.sleep(30)
        assert sees(cluster, "n1", GossipStatus.FAILED, "n3")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "at least one key"), (b"c2hvcnQ=\n", "16, 24 or 32"), (b"\xff", "not text")],
)
async def test_what_is_no_key_file(content: bytes | None, reason: str) -> None:
    """Refused by the name of the setting, saying how to make one."""
    async with Cluster(1, seed=80, starts=False) as cluster:
        if content is not None:
            await write_atomically(cluster.disk("n1"), "gossip.key", content)
        await cluster.start("n1", may_fail=True, gossip_key_file="gossip.key")
        text = await cluster.wait_failure("n1")
        assert reason in text
        assert "gossip_key_file gossip.key" in text
        assert "base64" in text


async def test_keys_that_cannot_be_saved_are_called_for(caplog: pytest.LogCaptureFixture) -> None:
    """The ring is changed all the same, as everywhere; the operator is told what to do before the next restart."""
    async with Cluster(1, seed=81, starts=False) as cluster:
        await start_with_key(cluster, "n1", KEY)

        open_file = cluster.disk("n1").open

        async def refuse(path: str, **options: object) -> object:
            if path.startswith("gossip.key"):
                raise PermissionError(13, "Permission denied", path)
            return await open_file(path, **options)  # type: ignore[arg-type]

        cluster.disk("n1").open = refuse  # type: ignore[method-assign, assignment]
        await driver(cluster, "n1").operate_on_keys(KeyOperation.INSTALL, OTHER_KEY)
        await cluster.wait_until(lambda: any("could not be saved" in record.getMessage() for record in caplog.records), "a line")
        assert cluster.is_running("n1")
