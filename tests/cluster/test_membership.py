"""Growing, shrinking, replacing: nodes join, are promoted, drained, removed, while records flow."""

from functools import partial

import pytest
import trio

from tests.cluster.helpers import ADMIN, EVENT_LOG, QUICK, consume, produce, values_on
from trio_eventlog.client.client import Client
from trio_eventlog.errors import MembershipRefused
from trio_eventlog.ids import CATALOG_GROUP, NodeId, format_id
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode
from trio_eventlog.testing.weather import Weather
from trio_eventlog.v1 import admin_pb2, event_log_pb2


async def produce_until(client: Client, topic: str, enough: trio.Event, acknowledged: dict[bytes, int]) -> None:
    """One batch after the other; `acknowledged` is filled with value and offset."""
    number = 0
    while not enough.is_set():
        value = b"value-%d" % number
        acknowledged[value] = (await client.produce(topic, value, partition=0)).base_offset
        number += 1
        await trio.sleep(0.05)


async def check_acknowledged(cluster: Cluster, topic: str, acknowledged: dict[bytes, int], *names: str) -> None:
    """On these nodes: each acknowledged value once, at its offset."""
    for name in names:
        replica = cluster.replica(name, topic)
        assert replica is not None
        await replica.wait_linearizable()
        values = await values_on(cluster, name, topic)
        assert len(set(values)) == len(values), f"{name} holds a value twice"
        for value, offset in acknowledged.items():
            assert values[offset] == value, f"{name}: {value!r} is not at {offset}"


async def drain(cluster: Cluster, name: str, *, by: str) -> None:
    async with cluster.channel(by) as channel:
        await channel.unary(ADMIN["DrainNode"], admin_pb2.DrainNodeRequest(id=format_id(cluster.node_id(name))))


async def test_three_nodes_grow_to_five_and_shrink_to_three_under_load() -> None:
    """Two join and vote after the stabilisation time; two old ones, the leader first, are drained, and their disks wiped."""
    acknowledged: dict[bytes, int] = {}
    enough = trio.Event()
    async with Cluster(5, founders=3, seed=21) as cluster, cluster.client("n3", "n4", "n5", settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_leader("orders")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_until, client, "orders", enough, acknowledged)
            began = trio.current_time()
            await cluster.start("n4")
            await cluster.start("n5")
            await cluster.wait_voters(None, *cluster.names)
            assert trio.current_time() - began > 10, "nobody votes before it was healthy for long enough"
            await cluster.wait_voters("orders", *cluster.names)
            first = await cluster.wait_leader()
            second = next(name for name in ("n1", "n2", "n3") if name != first)
            for name in (first, second):
                await drain(cluster, name, by="n5")
                await cluster.wait_over(name)
                cluster.wipe(name)
                await cluster.wait_gone(cluster.node_id(name))
            rest = set(cluster.names) - {first, second}
            await cluster.wait_voters(None, *rest)
            await cluster.wait_voters("orders", *rest)
            enough.set()
        assert len(acknowledged) > 100
        await check_acknowledged(cluster, "orders", acknowledged, *rest)


async def test_a_node_that_comes_and_goes_between_two_rounds_is_not_promoted() -> None:
    """It answers whenever it is asked, and is never up for the stabilisation time all the same."""
    async with Cluster(5, founders=3, seed=32, stabilisation_seconds=4.0) as cluster:
        await cluster.start("n4")
        await cluster.start("n5")
        for _ in range(6):
            await trio.sleep(3)
            cluster.crash("n4")
            await cluster.wait_down("n4")
            await cluster.start("n4")
            assert cluster.voters() == {"n1", "n2", "n3"}
        await cluster.wait_voters(None, *cluster.names)


async def remove(cluster: Cluster, name: str, *, by: str) -> None:
    async with cluster.channel(by) as channel:
        await channel.unary(ADMIN["RemoveNode"], admin_pb2.RemoveNodeRequest(id=format_id(cluster.node_id(name))))


async def members(cluster: Cluster, by: str) -> dict[str, admin_pb2.Member]:
    async with cluster.channel(by) as channel:
        response = await channel.unary(ADMIN["ListMembers"], admin_pb2.ListMembersRequest())
    return {cluster.name_of(NodeId(int(member.id, 16))): member for member in response.members}


async def test_a_fourth_node_stays_a_learner_and_serves_everybody() -> None:
    """Four voters tolerate no more than three do. What it does not have itself, it fetches from those that have it."""
    async with Cluster(4, founders=3, seed=22) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_leader("orders")
        await cluster.start("n4")
        await cluster.wait_registered(*cluster.names)
        await trio.sleep(20)
        assert cluster.voters() == {"n1", "n2", "n3"}
        assert cluster.replica("n4", "orders") is None
        async with cluster.channel("n4") as channel:
            for number in range(3):
                response = await produce(channel, "orders", b"x%d" % number)
                assert response.base_offset == number
            fetched = await consume(channel, "orders", 1)
            assert [record.value for record in fetched.records] == [b"x1", b"x2"]
            request = event_log_pb2.ConsumeRequest(topic="orders", offset=0)
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                first = await call.receive()
                assert [record.value for record in first.records] == [b"x0", b"x1", b"x2"]
                await produce(channel, "orders", b"x3")
                second = await call.receive()
                assert [record.value for record in second.records] == [b"x3"]
            described = await channel.unary(ADMIN["DescribeTopic"], admin_pb2.DescribeTopicRequest(name="orders"))
            assert described.partitions[0].leader_id == format_id(cluster.node_id(await cluster.wait_leader("orders")))
            group_id = described.partitions[0].group_id
            moved = await channel.unary(ADMIN["TransferLeadership"], admin_pb2.TransferLeadershipRequest(group_id=group_id))
            assert moved.leader_id != described.partitions[0].leader_id
            assert (await produce(channel, "orders", b"x4")).base_offset == 4
        seen = await members(cluster, "n4")
        assert {name: member.role for name, member in seen.items() if member.role != "leader"} == {
            name: "learner" if name == "n4" else "voter" for name in cluster.names if name != cluster.leader()
        }


@pytest.mark.parametrize("replicas", [1, 2])
async def test_partitions_with_fewer_replicas_move_to_a_node_that_comes_and_back(replicas: int) -> None:
    """As many as its share; what moved away is gone from the disk, and comes back whole when the new node is drained.

    The group's first voter, coming back with an empty log, must not believe that it is alone: with one replica it could elect
    itself.
    """
    async with Cluster(4, founders=3, seed=23) as cluster, cluster.client("n1", settings=QUICK) as client:
        await client.create_topic("orders", partitions=8, replicas=replicas)
        for partition in range(8):
            await client.produce("orders", b"before-%d" % partition, partition=partition)
        await cluster.start("n4")
        machine = cluster.node("n1").parts.replicas.machine

        def has_settled() -> bool:
            return not any(partition.is_moving for partition in machine.topics["orders"].partitions)

        def carried_by(name: str) -> list[int]:
            node_id = cluster.node_id(name)
            return [number for number, item in enumerate(machine.topics["orders"].partitions) if node_id in item.replicas]

        await cluster.wait_until(lambda: bool(carried_by("n4")) and has_settled(), "n4 has its share")
        assert 1 <= len(carried_by("n4")) <= 6

        def open_at(name: str) -> list[int]:
            return [number for number in range(8) if cluster.replica(name, "orders", number) is not None]

        await cluster.wait_until(lambda: all(open_at(name) == carried_by(name) for name in cluster.names), "all know that too")
        for partition in range(8):
            await client.produce("orders", b"between-%d" % partition, partition=partition)
        await drain(cluster, "n4", by="n1")
        await cluster.wait_over("n4")
        await cluster.wait_until(has_settled, "everything is where it was")
        for partition in range(8):
            await client.produce("orders", b"after-%d" % partition, partition=partition)
            values = [b"before-%d" % partition, b"between-%d" % partition, b"after-%d" % partition]
            for name in ("n1", "n2", "n3"):
                if partition in carried_by(name):
                    replica = cluster.replica(name, "orders", partition)
                    assert replica is not None
                    await replica.wait_linearizable()
                    assert await values_on(cluster, name, "orders", partition) == values


async def test_nobody_is_removed_for_being_silent_and_a_dangerous_removal_is_refused() -> None:
    """A failed node stays a voter however long it is away; with it away, no other can go."""
    async with Cluster(3, seed=24) as cluster:
        await cluster.wait_registered()
        leader = await cluster.wait_leader()
        one, two = (name for name in cluster.names if name != leader)
        cluster.crash(one, CrashMode.KEEP)
        await trio.sleep(100)
        assert cluster.voters() == set(cluster.names)
        assert (await members(cluster, two))[one].status == "failed"
        for act in (remove, drain):
            with pytest.raises(MembershipRefused, match="healthy"):
                await act(cluster, two, by=leader)
            with pytest.raises(MembershipRefused, match="healthy"):
                await act(cluster, leader, by=two)
        await remove(cluster, one, by=two)
        await cluster.wait_voters(None, leader, two)


async def test_a_removed_node_is_refused_for_ever_and_says_what_to_do() -> None:
    """It was away when it was removed, and hears of it from whomever it dials. With an empty disk it is a new node."""
    async with Cluster(3, seed=25) as cluster:
        await cluster.wait_registered()
        leader = await cluster.wait_leader()
        name = next(name for name in cluster.names if name != leader)
        former_id = cluster.node_id(name)
        cluster.crash(name, CrashMode.KEEP)
        await remove(cluster, name, by=leader)
        await cluster.wait_gone(former_id)
        for _ in range(2):
            await cluster.start(name, may_fail=True)
            reason = await cluster.wait_failure(name)
            assert "removed" in reason
            assert "empty data directory" in reason
        cluster.wipe(name)
        await cluster.start(name)
        await cluster.wait_voters(None, *cluster.names)
        assert cluster.node_id(name) != former_id


async def test_a_drained_node_that_hears_of_its_removal_from_others_first_ends_in_good_order() -> None:
    """Those whose log has the removal refuse it at once, while its own log comes late."""
    async with Cluster(3, seed=26) as cluster:
        leader = await cluster.wait_leader()
        (goes, stays) = (name for name in cluster.names if name != leader)
        node_id = cluster.node_id(goes)
        cluster.network.set_weather(leader, goes, Weather(latency_seconds_min=0.3, latency_seconds_max=0.3))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(drain, cluster, goes, by=stays))
            await cluster.wait_until(
                lambda: node_id in cluster.node(stays).parts.replicas.machine.removed, "the removal, in the log of another one"
            )
            node = cluster.node(goes)
            assert node_id not in node.parts.replicas.machine.removed
            with pytest.raises(LinkRefused, match="was removed"):
                await node.parts.transport.probe(cluster.address(stays))
            await cluster.wait_over(goes)
        assert cluster.failures() == {}


async def test_rolling_restart_faster_than_the_stabilisation_time() -> None:
    """Nobody was healthy for long enough to be anything but what it was; the cluster stays as it is and works."""
    async with Cluster(3, seed=26) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        for round_number in range(3):
            for name in cluster.names:
                await cluster.restart(name)
                await cluster.wait_leader("orders")
                await client.produce("orders", b"%d %b" % (round_number, name.encode()))
        await cluster.wait_voters(None, *cluster.names)
        await cluster.wait_voters("orders", *cluster.names)
        await cluster.wait_converged("orders")
        assert len(await values_on(cluster, "n1", "orders")) == 9


async def test_all_addresses_change_at_once() -> None:
    """Identity is the id: the nodes come back on each other's machines, and only --join tells where."""
    async with Cluster(6, founders=3, seed=27) as cluster, cluster.client("n4", "n5", "n6", settings=QUICK) as client:
        await cluster.wait_registered()
        ids = {name: cluster.node_id(name) for name in cluster.founders}
        cluster_id = cluster.node("n1").parts.directory.cluster_id
        for name in cluster.founders:
            await cluster.stop(name)
        movers = dict(zip(cluster.founders, ("n4", "n5", "n6"), strict=True))
        for former, now in movers.items():
            cluster.move_disk(former, now)
        join = tuple(cluster.address(now) for now in movers.values())
        for now in movers.values():
            await cluster.start(now, join=join)
        for former, now in movers.items():
            assert cluster.node_id(now) == ids[former]
            assert cluster.node(now).parts.directory.cluster_id == cluster_id
        await cluster.wait_until(
            lambda: any(replica is not None and replica.is_leader for replica in (cluster.replica(now) for now in movers.values())),
            "the same cluster has a leader again",
        )
        await client.create_topic("orders")
        assert (await client.produce("orders", b"x")).base_offset == 0


async def test_the_last_voter_cannot_go() -> None:
    """A cluster of one has nobody to hand over to."""
    async with Cluster(1, seed=28) as cluster:
        await cluster.wait_registered()
        for act in (drain, remove):
            with pytest.raises(MembershipRefused):
                await act(cluster, "n1", by="n1")
        assert cluster.replica("n1") is cluster.node("n1").parts.replicas.find(CATALOG_GROUP)


async def test_who_restarts_faster_than_the_stabilisation_time_is_given_nothing_however_quick_it_is() -> None:
    """It is back before anybody has looked, and still has not been healthy for long enough without a break."""
    async with Cluster(5, founders=3, seed=29) as cluster:
        await cluster.wait_registered()
        await cluster.start("n4")
        await cluster.start("n5")
        for _ in range(10):
            await trio.sleep(4)
            for name in ("n4", "n5"):
                # A graceful stop takes its time with goodbyes; a killed process is back at once.
                cluster.crash(name)
                await cluster.start(name)
        assert cluster.voters() == {"n1", "n2", "n3"}
        ids = {cluster.node_id("n4"), cluster.node_id("n5")}
        assert not ids & cluster.node("n1").parts.replicas.machine.nodes.keys(), "nor does it carry partitions"
        await cluster.wait_voters(None, *cluster.names)


async def test_leave_on_every_node_at_once_loses_no_data() -> None:
    """SIGTERM everywhere under load is no goodbye for Raft: all are the voters they were, and everything acknowledged is there."""
    acknowledged: dict[bytes, int] = {}
    enough = trio.Event()
    async with Cluster(3, seed=30) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_topic("orders")
        await cluster.wait_registered()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_until, client, "orders", enough, acknowledged)
            for _ in range(2):
                count = len(acknowledged)
                await cluster.wait_until(lambda count=count: len(acknowledged) > count + 10, "records flow")  # type: ignore[misc]
                async with trio.open_nursery() as stopping:
                    for name in cluster.names:
                        stopping.start_soon(cluster.stop, name)
                assert not cluster.running
                for name in cluster.names:
                    await cluster.start(name)
            await cluster.wait_leader("orders")
            enough.set()
        await cluster.wait_voters(None, *cluster.names)
        await cluster.wait_voters("orders", *cluster.names)
        await check_acknowledged(cluster, "orders", acknowledged, *cluster.names)


async def test_the_catalogs_leader_is_drained_and_the_next_one_meanwhile_refused() -> None:
    """It hands over first, so that somebody sees it through; a second drain is refused until the first has ended, then done."""
    acknowledged: dict[bytes, int] = {}
    enough = trio.Event()
    async with Cluster(5, seed=31) as cluster, cluster.client(settings=QUICK) as client:
        await client.create_topic("orders")
        await cluster.wait_registered()
        leader = await cluster.wait_leader()
        second = next(name for name in cluster.names if name != leader)
        witness = next(name for name in cluster.names if name not in (leader, second))
        refusals: dict[str, str] = {}

        async def try_to_drain(name: str) -> None:
            try:
                await drain(cluster, name, by=witness)
            except MembershipRefused as error:
                refusals[name] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_until, client, "orders", enough, acknowledged)
            await cluster.wait_until(lambda: len(acknowledged) > 10, "records flow")
            async with trio.open_nursery() as both:
                both.start_soon(try_to_drain, leader)
                both.start_soon(try_to_drain, second)
            ((refused, reason),) = refusals.items()
            assert "one at a time" in reason
            first = leader if refused == second else second
            await cluster.wait_over(first)
            await cluster.wait_gone(cluster.node_id(first))
            await drain(cluster, refused, by=witness)
            await cluster.wait_over(refused)
            await cluster.wait_gone(cluster.node_id(refused))
            enough.set()
        rest = set(cluster.names) - {leader, second}
        await cluster.wait_voters(None, *rest)
        await cluster.wait_voters("orders", *rest)
        await check_acknowledged(cluster, "orders", acknowledged, *rest)
