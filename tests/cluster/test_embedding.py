"""An application that embeds a node: everything that a client offers, and the changes of the membership."""

import pytest
import trio

from tests.cluster.helpers import EVENT_LOG
from trio_eventlog.errors import EventLogError, Overloaded, ShuttingDown
from trio_eventlog.grpc.callers import ADDRESS, FORWARDED, SUBJECT, TENANT
from trio_eventlog.ids import format_id
from trio_eventlog.records import Record
from trio_eventlog.service.values import Caller, MembershipChange, MembershipEvent
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import event_log_pb2

VIRTUAL_TIME = True


async def wait_change(changes: "trio.abc.ReceiveChannel[MembershipChange]", name: str, event: MembershipEvent) -> MembershipChange:
    with trio.fail_after(120.0):
        while True:
            change = await changes.receive()
            if (change.name, change.event) == (name, event):
                return change
    raise AssertionError


async def wait_all_alive(cluster: Cluster, name: str) -> None:
    """Until the node gossips with all others."""

    def is_so() -> bool:
        gossip = cluster.node(name).parts.gossip
        assert gossip is not None
        return [seen.status for seen in gossip.seen()] == ["alive"] * len(cluster.names)

    await cluster.wait_until(is_so, f"{name} gossips with all others")


async def test_membership_changes() -> None:
    """A node that stops has left, one that crashes has failed, and each that comes back has joined; with its tags."""
    async with Cluster(3, seed=41) as cluster:
        node_id = format_id(cluster.node("n3").node_id)
        await wait_all_alive(cluster, "n1")
        with cluster.node("n1").membership_changes() as changes:
            await cluster.stop("n3")
            left = await wait_change(changes, "n3", MembershipEvent.LEFT)
            assert left.id == node_id
            await cluster.start("n3")
            joined = await wait_change(changes, "n3", MembershipEvent.JOINED)
            assert (joined.id, dict(joined.tags)["role"]) == (node_id, "eventlog")
            cluster.crash("n3")
            await wait_change(changes, "n3", MembershipEvent.FAILED)


async def test_a_reader_of_changes_that_does_not_read() -> None:
    """The node goes on; the reader is told, and then hears what happens next."""
    async with Cluster(3, seed=42) as cluster:
        await wait_all_alive(cluster, "n1")
        with cluster.node("n1").membership_changes(changes_max=1) as changes:
            for _ in range(2):
                await cluster.stop("n3")
                await cluster.start("n3")
                await wait_all_alive(cluster, "n1")
            assert (await changes.receive()).name == "n3"
            with pytest.raises(Overloaded, match="missing"):
                await changes.receive()
            await cluster.stop("n3")
            await wait_change(changes, "n3", MembershipEvent.LEFT)


async def test_an_application_outlives_a_loss_of_leadership() -> None:
    """Its producer and its consumer go on without it doing anything, and nothing is lost, doubled or out of order."""
    async with Cluster(3, seed=43) as cluster:
        log = cluster.node("n1").client()
        await log.create_topic("t")
        values: list[bytes] = []
        async with log.consume("t") as records, log.producer("t", linger=0.0, batch_records=1) as producer:
            for number in range(60):
                await producer.send(b"%d" % number)
                if number in (20, 40):
                    await producer.flush()
                    await log.transfer_leadership("t")
            await producer.flush()
            with trio.fail_after(60.0):
                while len(values) < 60:
                    values.append((await records.receive()).value)
        assert values == [b"%d" % number for number in range(60)]


async def test_calls_that_are_open_when_the_node_stops() -> None:
    """End with an error and do not hang."""
    async with Cluster(1, seed=44) as cluster:
        log = cluster.node("n1").client()
        await log.produce("t", b"x")
        errors: list[EventLogError] = []
        async with trio.open_nursery() as nursery:

            async def consume() -> None:
                try:
                    async with log.consume("t") as records:
                        while True:
                            await records.receive()
                except EventLogError as error:
                    errors.append(error)

            nursery.start_soon(consume)
            await trio.sleep(1.0)
            await cluster.stop("n1")
        assert isinstance(errors[0], ShuttingDown)
        with pytest.raises(EventLogError):
            await log.submit_batch("t", 0, _batch())


def _batch() -> object:
    from trio_eventlog.codec.batch import encode_records

    return encode_records([Record(value=b"x")], now_ns=1)


async def test_streams_that_a_node_forwards_are_bounded() -> None:
    """`forwarded_streams_max`: one more is refused with words, and has room again when another one has ended."""
    async with Cluster(3, seed=45, forwarded_streams_max=2) as cluster, cluster.client("n1") as client:
        topic, _ = await topic_not_on(cluster, client, "n1")
        await client.produce(topic, b"x")
        request = event_log_pb2.ConsumeRequest(topic=topic, batches=True)
        used = lambda: cluster.node("n1").parts.services.consuming.budgets()[1].used  # noqa: E731
        async with cluster.channel("n1") as channel:
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as first:
                assert (await first.receive()).batches
                async with channel.stream(EVENT_LOG["ConsumeStream"], request) as second:
                    assert (await second.receive()).batches
                    assert used() == 2
                    async with channel.stream(EVENT_LOG["ConsumeStream"], request) as third:
                        with pytest.raises(Overloaded, match="forwards 2 streams"):
                            await third.receive()
            await cluster.wait_until(lambda: used() == 0, "they have ended")
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as again:
                assert (await again.receive()).batches


async def test_records_of_a_partition_that_lives_elsewhere() -> None:
    """For a consumer that wants no batches, the asked node takes them apart: all of them, also when an answer cannot hold them."""
    async with Cluster(3, seed=46) as cluster, cluster.client("n1") as client:
        topic, _ = await topic_not_on(cluster, client, "n1")
        await client.produce(topic, [b"%d" % number for number in range(10)])
        request = event_log_pb2.ConsumeRequest(topic=topic, offset=3, max_records=2)
        async with cluster.channel("n1") as channel:
            answer = await channel.unary(EVENT_LOG["Consume"], request)
            assert [(record.offset, record.value) for record in answer.records] == [(3, b"3"), (4, b"4")]
            found: list[int] = []
            async with channel.stream(EVENT_LOG["ConsumeStream"], request) as call:
                while len(found) < 7:
                    found += [record.offset for record in (await call.receive()).records]
            assert found == list(range(3, 10))


async def test_a_forwarded_call_carries_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that does the work sees whose call it is, and not the node in between."""
    from trio_eventlog.service.produce import ProduceService

    seen: list[Caller] = []
    begin = ProduceService.begin

    async def spy(self: ProduceService, request: object, caller: Caller, stream: object = None) -> object:
        seen.append(caller)
        return await begin(self, request, caller, stream)  # type: ignore[arg-type]

    monkeypatch.setattr(ProduceService, "begin", spy)
    async with Cluster(3, seed=47) as cluster, cluster.client("n1") as client:
        topic, _ = await topic_not_on(cluster, client, "n1")
        seen.clear()
        caller = Caller(subject="alice smith", tenant="acme", address="10.0.0.7:1")
        await cluster.node("n1").client().produce(topic, b"x", caller=caller)
        first, *others = seen
        assert (first.subject, first.is_forwarded) == ("alice smith", False)
        assert others
        for one in others:
            assert (one.subject, one.tenant, one.address, one.is_forwarded) == ("alice smith", "acme", "10.0.0.7:1", True)
        # From a client, what only a node may say means nothing.
        seen.clear()
        async with cluster.channel("n1") as channel:
            request = event_log_pb2.ProduceRequest(topic=topic, partition=0)
            request.records.add(value=b"y")
            metadata = ((SUBJECT, "root"), (ADDRESS, "1.2.3.4:5"), (TENANT, "acme"))
            await channel.unary(EVENT_LOG["Produce"], request, metadata=metadata)
        assert (seen[0].subject, seen[0].tenant, seen[0].is_forwarded) == ("anonymous", "acme", False)
        assert seen[0].address not in ("", "1.2.3.4:5")
    assert FORWARDED


async def topic_not_on(cluster: Cluster, client: object, name: str) -> tuple[str, tuple[str, ...]]:
    """A topic of one partition, whose only replica is not on this node, and where it is."""
    from trio_eventlog.client import Client

    assert isinstance(client, Client)
    node_id = format_id(cluster.node(name).node_id)
    for number in range(20):
        await client.create_topic(f"x{number}", replicas=1)
        (partition,) = (await client.describe_topic(f"x{number}")).partitions
        if node_id not in partition.replica_ids:
            return f"x{number}", partition.replica_ids
    raise AssertionError("twenty topics, and all of them on one node")
