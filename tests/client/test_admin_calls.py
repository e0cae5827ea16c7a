"""Topics, status, leadership; and what all calls share: finding a node, repeating, giving up."""

import random

import pytest
import trio
from authority import contexts_for
from fake_cluster import FakeCluster, open_fake

from trio_eventlog.client import ClientSettings, open_client
from trio_eventlog.errors import OutcomeUnknown, Overloaded, TopicExists, TopicNotFound, TopicRecreated, Unavailable


async def test_topics(autojump_clock: trio.testing.MockClock) -> None:
    """Made, described, listed, deleted, and the errors of doing it twice."""
    async with open_fake() as (_, client):
        made = await client.create_topic("new", partitions=2, retention_bytes=5, retention_seconds=90.0)
        assert (made.name, made.partitions) == ("new", 2)
        assert [topic.name for topic in await client.list_topics()] == ["new", "t"]
        described = await client.describe_topic("new")
        assert [item.partition for item in described.partitions] == [0, 1]
        assert described.partitions[0].leader_id == "id-n1"
        assert await client.partitions("new") == 2
        with pytest.raises(TopicExists):
            await client.create_topic("new")
        await client.delete_topic("new")
        with pytest.raises(TopicNotFound):
            await client.delete_topic("new")
        with pytest.raises(TopicNotFound, match="there is no topic 'new'"):
            await client.partitions("new")


async def test_a_topic_is_altered(autojump_clock: trio.testing.MockClock) -> None:
    """What is not said is not sent; a repetition means the topic that was there at first."""
    async with open_fake() as (cluster, client):
        first = (await client.create_topic("new")).group_ids[0]
        altered = await client.alter_topic("new", retention_bytes=5)
        assert (altered.retention_bytes, altered.retention_seconds) == (5, 0.0)
        cluster.lose_next_admin_answer = True
        assert (await client.alter_topic("new", retention_seconds=0.0, group_id=first)).name == "new"
        asked = [(request.group_id, *(field.name for field, _ in request.ListFields()[2:])) for request in cluster.altered]
        assert asked == [(first, "retention_bytes"), (first, "retention_time"), (first, "retention_time")]
        await client.delete_topic("new")
        with pytest.raises(TopicNotFound):
            await client.alter_topic("new", retention_bytes=5)
        await client.create_topic("new")
        with pytest.raises(TopicRecreated):
            await client.alter_topic("new", retention_bytes=5, group_id=first)
        assert len(cluster.altered) == 3


async def test_lost_answers_are_no_errors(autojump_clock: trio.testing.MockClock) -> None:
    """The repetition finds the topic made, or gone: that is what was asked for."""
    async with open_fake() as (cluster, client):
        cluster.lose_next_admin_answer = True
        assert (await client.create_topic("new")).name == "new"
        cluster.lose_next_admin_answer = True
        await client.delete_topic("new")
        assert "new" not in cluster.topics


async def test_a_lost_answer_about_a_leader_is_an_unknown_outcome(autojump_clock: trio.testing.MockClock) -> None:
    """It may lead by now: Unavailable, which the next attempts end with, would say that nothing was changed."""
    async with open_fake(settings=ClientSettings(request_timeout_seconds=3)) as (cluster, client):
        assert await client.transfer_leadership("t", 0, to="id-n2") == "id-n2"
        cluster.loses_transfer_answers = True
        with pytest.raises(OutcomeUnknown, match="may have had its effect"):
            await client.transfer_leadership("t", 0, to="id-n3")


async def test_nodes_point_to_the_leader(autojump_clock: trio.testing.MockClock) -> None:
    """The hint is followed without a wait; nodes that point at each other are given up in the end."""
    async with open_fake(settings=ClientSettings(request_timeout_seconds=3)) as (cluster, client):
        cluster.catalog_leader = "n3"
        await client.create_topic("new")
        assert trio.current_time() == 0
        cluster.catalog_leader = ""
        before = trio.current_time()
        with pytest.raises(Exception, match="does not lead"):
            await client.create_topic("newer")
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)


async def test_status_and_servers(autojump_clock: trio.testing.MockClock) -> None:
    """Of one node, or of any; the nodes and who leads what."""
    async with open_fake() as (cluster, client):
        assert (await client.status("n2:8400")).name == "n2"
        assert (await client.status()).groups[0].term == 2
        assert [server.name for server in await client.servers() if server.is_leader] == ["n1"]
        assert (await client.placements())[0].leader_id == "id-n1"
        cluster.kill("n2")
        with pytest.raises(Unavailable, match="n2:8400"):
            await client.status("n2:8400")


async def test_transfer(autojump_clock: trio.testing.MockClock) -> None:
    """Of a partition and of the catalog."""
    async with open_fake() as (cluster, client):
        assert await client.transfer_leadership("t", to="id-n3") == "id-n3"
        assert cluster.topics["t"][0].leader == "n3"
        assert await client.transfer_leadership() == "id-n2"
        with pytest.raises(TopicNotFound, match="no partition 5"):
            await client.transfer_leadership("t", 5)


async def test_offsets(autojump_clock: trio.testing.MockClock) -> None:
    """Where the log begins and ends."""
    async with open_fake() as (_, client):
        await client.produce("t", b"a", b"b")
        assert await client.offsets("t") == (0, 2)
        with pytest.raises(TopicNotFound):
            await client.offsets("t", 7)


async def test_attempts_are_limited(autojump_clock: trio.testing.MockClock) -> None:
    """By count as well as by time."""
    settings = ClientSettings(attempts_max=3, request_timeout_seconds=1000)
    async with open_fake(settings=settings, target="n9:1") as (_, client):
        with pytest.raises(Unavailable, match="n9:1"):
            await client.list_topics()
        assert trio.current_time() < 10


async def test_callers_deadline_counts(autojump_clock: trio.testing.MockClock) -> None:
    """It comes before the settings' own."""
    async with open_fake() as (cluster, client):
        cluster.network.isolate("client")
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(1):
                await client.list_topics()
        assert trio.current_time() == 1


async def test_connections_are_limited(autojump_clock: trio.testing.MockClock) -> None:
    """An idle one makes room; when all are in use, the call is refused."""
    async with open_fake(settings=ClientSettings(channels_max=2, attempts_max=1)) as (cluster, client):
        for name in cluster.nodes:
            assert (await client.status(f"{name}:8400")).name == name
        pool = client._calls.pool
        assert len(pool._entries) == 2
        async with pool.use("n1:8400"), pool.use("n2:8400"):
            with pytest.raises(Overloaded, match="channels_max"):
                await client.status("n3:8400")
        assert (await client.status("n3:8400")).name == "n3"


async def test_callers_share_a_connection(autojump_clock: trio.testing.MockClock) -> None:
    """Also when they come at once, before it is open; and it is opened again when it was lost."""
    async with open_fake() as (cluster, client):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(client.status, "n1:8400")
        assert cluster.network.reset("client", "n1") == 1
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.status("n1:8400")).name == "n1"
        assert cluster.network.reset("client", "n1") == 1


async def test_tls() -> None:
    """The node's name is checked against its certificate, and strangers' certificates are refused."""
    context, trusting = contexts_for("n1")
    _, stranger = contexts_for("n1")
    for one in (context, trusting, stranger):
        one.set_alpn_protocols(["h2"])
    cluster = FakeCluster(("n1",))
    cluster.tls = context
    cluster.add_topic("t")
    async with trio.open_nursery() as nursery:
        await nursery.start(cluster.run_node, "n1")
        host = cluster.network.host("client")
        async with open_client("n1:8400", network=host, tls=trusting, rng=random.Random(1)) as client:
            assert (await client.produce("t", b"secret")).base_offset == 0
        settings = ClientSettings(attempts_max=1)
        async with open_client("n1:8400", network=host, tls=stranger, settings=settings, rng=random.Random(1)) as client:
            with pytest.raises(Unavailable, match=r"(?i)certificate"):
                await client.list_topics()
        nursery.cancel_scope.cancel()
