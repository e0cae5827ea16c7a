"""`demo`: three nodes, a producer, a consumer, the leader killed, and nothing lost."""

import argparse
import time

import attrs
import trio

from trio_eventlog.cli.arguments import count
from trio_eventlog.cli.local_cluster import LocalCluster, LocalNode, local_cluster
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.client import Client, open_client
from trio_eventlog.errors import EventLogError, Unavailable

TOPIC = "demo"
PAUSE_SECONDS = 0.01
LAG_SECONDS_MAX = 30.0


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "demo")
    parser.add_argument("--records", type=_records, default=500, metavar="N", help="how many to produce. Default: 500")
    parser.add_argument("--keep", action="store_true", help="leave the nodes running at the end, and say where")
    parser.set_defaults(run=lambda arguments: trio.run(demo, arguments))


def _records(text: str) -> int:
    return max(count(text), 100)


@attrs.define
class Progress:
    """What has been seen so far. Offsets are where the records stand."""

    acknowledged: dict[int, bytes] = attrs.field(factory=dict)
    consumed: dict[int, bytes] = attrs.field(factory=dict)
    longest_pause_seconds: float = 0.0


class Story:
    """Lines with the time since the beginning."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.2f} s  {text}", flush=True)


async def demo(arguments: argparse.Namespace) -> int:
    story = Story()
    story.tell("starting three nodes on this machine")
    async with local_cluster(3, keep=arguments.keep) as cluster:
        for node in cluster.nodes:
            story.tell(f"{node.name} listens on {node.address}, its data is in {node.data_dir}")
        async with open_client(cluster.target) as client:
            progress = await _run(client, cluster, arguments.records, story)
        lost = [offset for offset, value in progress.acknowledged.items() if progress.consumed.get(offset) != value]
        twice = len(progress.consumed) - len(set(progress.consumed.values()))
        if lost or twice:
            raise Unavailable(
                f"{len(lost)} acknowledged records were lost and {twice} are there twice: this is a defect, report it"
            )
        story.tell(
            f"{len(progress.acknowledged)} records acknowledged, {len(progress.consumed)} consumed: none lost, none twice,"
            f" in order; longest pause {progress.longest_pause_seconds:.2f} s"
        )
        if arguments.keep:
            print(f"the nodes go on; try: trio-eventlog status --target {cluster.target}")
            ids = " ".join(str(node.process.pid) for node in cluster.nodes if node.process is not None)
            print(f"to stop them: kill {ids}; then remove {cluster.home}")
    return 0


async def _run(client: Client, cluster: LocalCluster, records: int, story: Story) -> Progress:
    progress = Progress()
    await client.create_topic(TOPIC)
    leader = await _leader(client, cluster)
    story.tell(f"topic {TOPIC} made: three replicas, led by {leader.name}")
    async with client.consume(TOPIC) as receiver, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            while len(progress.consumed) < records:
                for record in await receiver.receive_batch():
                    progress.consumed[record.offset] = record.value or b""

        for number in range(records // 2):
            await _produce(client, progress, number)
        story.tell(f"{len(progress.acknowledged)} records acknowledged by a quorum, each durable on two disks")
        leader = await _leader(client, cluster)
        async with trio.open_nursery() as killing:
            killing.start_soon(leader.kill)
            story.tell(f"kill -9 {leader.name}, the leader, while records flow")
            for number in range(records // 2, records // 2 + 10):
                await _produce(client, progress, number)
        new_leader = await _leader(client, cluster, other_than=leader)
        story.tell(f"{new_leader.name} leads now; the producer waited {progress.longest_pause_seconds:.2f} s and lost nothing")
        for number in range(records // 2 + 10, records):
            await _produce(client, progress, number)
        await leader.start()
        story.tell(f"{leader.name} is back and catches up from the others")
        await _caught_up(client, leader, story)
        nursery.cancel_scope.deadline = trio.current_time() + LAG_SECONDS_MAX
    return progress


async def _produce(client: Client, progress: Progress, number: int) -> None:
    value = b"record %d" % number
    before = trio.current_time()
    result = await client.produce(TOPIC, value)
    progress.longest_pause_seconds = max(progress.longest_pause_seconds, trio.current_time() - before)
    progress.acknowledged[result.base_offset] = value
    await trio.sleep(PAUSE_SECONDS)


async def _leader(client: Client, cluster: LocalCluster, other_than: LocalNode | None = None) -> LocalNode:
    with trio.fail_after(LAG_SECONDS_MAX):
        while True:
            for place in await client.placements():
                known = place.topic == TOPIC and any(node.id == place.leader_id for node in cluster.nodes)
                if known and (other_than is None or place.leader_id != other_than.id):
                    return cluster.by_id(place.leader_id)
            await trio.sleep(PAUSE_SECONDS)


async def _caught_up(client: Client, node: LocalNode, story: Story) -> None:
    """Until the node's replica has everything that was acknowledged before."""
    _, end_offset = await client.offsets(TOPIC)
    with trio.fail_after(LAG_SECONDS_MAX):
        while True:
            try:
                groups = (await client.status(node.address)).groups
            except EventLogError:
                groups = ()
            if any(group.topic == TOPIC and group.high_watermark >= end_offset for group in groups):
                story.tell(f"{node.name} has all {end_offset} records again")
                return
            await trio.sleep(PAUSE_SECONDS)
