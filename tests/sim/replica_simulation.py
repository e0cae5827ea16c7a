"""A group of replicas on simulated disks, with nothing around it: drivers, logs and cores, by seed, hundreds of them a minute.

Between the core simulation, which has no driver and no log, and the node simulation, where few of a run's steps are of one kind.
Here disks take seconds for a read or a write while leaders change, the way to a leader is longer than any fixed time to wait for
it, followers are sent what only the disk still has, and leaders are removed. After each step everything in `testing.invariants`
holds. At the end, when nothing is broken any more:

- all replicas are equal, and every acknowledged batch is where it was said to be;
- every node answers a linearizable read within a few ways to the leader and back;
- a follower far behind is sent each entry about once;
- a leader that removes itself leaves others that can lead.

    python tests/sim/replica_simulation.py SEED
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

import attrs
import trio

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.raft_message import entry_of
from trio_eventlog.errors import EventLogError
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.appliers import PartitionApplier
from trio_eventlog.node.driver_settings import DriverSettings
from trio_eventlog.node.inbox import Received
from trio_eventlog.node.proposals import Appended
from trio_eventlog.node.replica import Replica, ReplicaSettings, open_replica
from trio_eventlog.node.watermark import Watermark
from trio_eventlog.raft import ChangeKind, Configuration, ConfigurationChange, Message, NodeChange, RaftSettings
from trio_eventlog.raft.progress import ProgressState
from trio_eventlog.records import Acks, Batch, Record
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.sealed_segments import SealedSegments
from trio_eventlog.testing import determinism
from trio_eventlog.testing.defaults import default
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.disk import CrashMode, DiskCrashed, Operation, SimDisk
from trio_eventlog.testing.invariants import Invariants

GROUP = GroupId(7)
TICK_SECONDS = 0.1
CHAOS_SECONDS = 40.0
CALM_SECONDS_MAX = 60.0
RUN_SECONDS_MAX = 900.0
WAYS_FOR_A_READ = 12
"""A read of a calm group is answered within so many ways from node to node, and a little for ticks and disks."""
LINK_MESSAGES_MAX = 10_000
FAULTS = ("slow", "slow", "slow", "usurp", "usurp", "usurp", "campaign", "transfer", "cut", "crash", "restart", "heal", "heal")
SENT_FOR_EACH_MAX = 1.2
"""Frames sent to a follower far behind, for each one that it lacked."""


@attrs.frozen(slots=True, kw_only=True)
class Shape:
    """What is drawn first.

    Attributes:
        voters: how many.
        way_seconds: from node to node.
        loss: of messages, while there are faults.
        sync_seconds, read_seconds: of every disk.
        slow_seconds: of one kind of call of one disk, for a while.
        pause_seconds: between faults.
        crash_mode: of nodes that go down.
        removes_leader: at the end.
    """

    voters: int
    way_seconds: float
    loss: float
    sync_seconds: float
    read_seconds: float
    slow_seconds: float
    pause_seconds: float
    crash_mode: CrashMode
    removes_leader: bool
    settings: ReplicaSettings


def draw_shape(seed: int) -> Shape:
    rng = derive(seed, "shape")
    append_bytes = rng.choice((2000, 20_000, 1 << 20))
    return Shape(
        voters=rng.choice((2, 3, 3, 5)),
        way_seconds=rng.choice((0.001, 0.02, 0.15, 0.4)),
        loss=rng.choice((0.0, 0.0, 0.02, 0.1)),
        sync_seconds=rng.choice((0.001, 0.02, 0.2)),
        read_seconds=rng.choice((0.0, 0.01, 0.05)),
        slow_seconds=rng.choice((0.3, 1.0, 3.0)),
        pause_seconds=rng.choice((0.2, 1.0, 3.0)),
        crash_mode=rng.choice(list(CrashMode)),
        removes_leader=rng.random() < 0.5,
        settings=ReplicaSettings(
            # Elections have to be possible over the longest way, with the slowest disk of a run.
            raft=default(
                RaftSettings,
                election_timeout_ticks=30,
                append_bytes_max=append_bytes,
                inflight_messages_max=rng.choice((1, 4, 256)),
                step_down_on_stalled_append=rng.random() < 0.5,
            ),
            driver=default(
                DriverSettings,
                append_bytes_max=append_bytes,
                apply_bytes_max=rng.choice((2000, 1 << 20)),
                snapshot_bytes_min=derive(seed, "snapshot_bytes_min").choice((1, 1, 20_000)),
            ),
            log=default(
                LogSettings,
                preallocate_bytes=0,
                segment_bytes=rng.choice((4096, 64 << 10)),
                tail_cache_bytes=rng.choice((0, 3000, 1 << 20)),
                index_interval_bytes=rng.choice((500, 16_384)),
            ),
        ),
    )


@attrs.define(slots=True, eq=False)
class _Node:
    node_id: NodeId
    disk: SimDisk
    replica: Replica | None = None
    life: trio.CancelScope | None = None
    is_cut_off: bool = False
    is_down: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(slots=True)
class _Sent:
    arrives_at: float
    message: Message
    frames: Sequence[EntryFrame]


class _Run:
    def __init__(self, seed: int) -> None:
        self.shape = draw_shape(seed)
        self.seed = seed
        self.rng = derive(seed, "run")
        self.nodes: dict[NodeId, _Node] = {}
        for number in range(1, self.shape.voters + 1):
            disk = SimDisk(derive(seed, f"disk:{number}"))
            self._usual(disk)
            self.nodes[NodeId(number)] = _Node(NodeId(number), disk)
        self.voters = frozenset(self.nodes)
        self.invariants = Invariants()
        self.acknowledged: dict[int, bytes] = {}
        self.sent: dict[NodeId, Counter[int]] = {node_id: Counter() for node_id in self.nodes}
        self.counts = Counter[str]()
        self.links: dict[tuple[NodeId, NodeId], trio.MemorySendChannel[_Sent]] = {}
        self.is_calm = False
        self.nursery: trio.Nursery

    def _usual(self, disk: SimDisk) -> None:
        disk.latency_seconds = {Operation.SYNC: self.shape.sync_seconds, Operation.READ: self.shape.read_seconds}

    # Nodes and the network between them

    async def live(self, node: _Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        watermark = Watermark()
        lives = self.counts["lives"] = self.counts["lives"] + 1
        scope = node.life = trio.CancelScope()
        try:
            with scope:
                await self.open(node, watermark, lives, task_status)
        except* DiskCrashed:
            if not scope.cancel_called:
                raise
        finally:
            node.replica = None
            node.is_down.set()

    async def open(self, node: _Node, watermark: Watermark, lives: int, task_status: trio.TaskStatus[None]) -> None:
        node.is_down = trio.Event()
        async with open_replica(
            node_id=node.node_id,
            group_id=GROUP,
            name=f"{node.node_id}",
            disk=node.disk,
            directory="g",
            configuration=Configuration(voters=self.voters),
            applier=PartitionApplier(PartitionMachine(5, 100), watermark),
            watermark=watermark,
            send=lambda group_id, message, frames: self.send(node, message, frames),
            settings=self.shape.settings,
            sealed=SealedSegments(2),
            rng=derive(self.seed, f"life:{lives}"),
        ) as node.replica:
            task_status.started()
            drift = derive(self.seed, f"clock:{lives}").uniform(1, 1.2)
            while True:
                await trio.sleep(TICK_SECONDS * drift)
                node.replica.driver.tick()

    def send(self, node: _Node, message: Message, frames: Sequence[EntryFrame]) -> bool:
        if frames and node.replica is not None and node.replica.status().progress[message.to].state != ProgressState.PROBE.value:
            # A probe is repeated at each heartbeat, for as long as the way takes.
            self.sent[message.to].update(frame.index for frame in frames)
        other = self.nodes[message.to]
        if node.is_cut_off or other.is_cut_off or (not self.is_calm and self.rng.random() < self.shape.loss):
            return self.rng.random() < 0.5
        link = self.links.get((node.node_id, message.to))
        if link is None:
            link, arrivals = trio.open_memory_channel[_Sent](LINK_MESSAGES_MAX)
            self.links[node.node_id, message.to] = link
            self.nursery.start_soon(self.carry, other, arrivals)
        try:
            link.send_nowait(_Sent(trio.current_time() + self.shape.way_seconds, message, tuple(frames)))
        except trio.WouldBlock:
            return False
        return True

    async def carry(self, other: _Node, arrivals: trio.MemoryReceiveChannel["_Sent"]) -> None:
        """In order, as links are."""
        async for sent in arrivals:
            await trio.sleep_until(sent.arrives_at)
            if other.replica is not None and not other.is_cut_off:
                message = attrs.evolve(sent.message, entries=tuple(map(entry_of, sent.frames)))
                other.replica.driver.receive(Received(message, sent.frames))

    def leader(self) -> Replica | None:
        leading = [node.replica for node in self.nodes.values() if node.replica is not None and node.replica.is_leader]
        return max(leading, key=lambda replica: replica.status().hard_state.term, default=None)

    # Clients

    async def produce(self, number: int) -> None:
        rng = derive(self.seed, f"producer:{number}")
        count = 0
        while True:
            await trio.sleep(rng.uniform(0, 0.3))
            leader = self.leader()
            if leader is not None:
                count += 1
                await self.append(leader, b"%d/%d " % (number, count) + bytes(rng.choice((10, 1500))))

    async def append(self, leader: Replica, value: bytes) -> None:
        try:
            result = await (await leader.propose_batch(batch_of(value), Acks.QUORUM)).outcome()
        except EventLogError:
            return
        assert isinstance(result, Appended)
        assert result.base_offset not in self.acknowledged, f"offset {result.base_offset} is given twice"
        self.acknowledged[result.base_offset] = value

    async def read(self, number: int) -> None:
        rng = derive(self.seed, f"reader:{number}")
        while True:
            await trio.sleep(rng.uniform(0, 1))
            replica = rng.choice(list(self.nodes.values())).replica
            end = max(self.acknowledged, default=-1)
            if replica is not None:
                with trio.move_on_after(5):
                    try:
                        await replica.wait_linearizable()
                    except EventLogError:
                        continue
                    assert replica.watermark.value > end, f"{replica.name} shows {replica.watermark.value}, {end} was acknowledged"
                    self.counts["reads"] += 1

    # Faults

    async def trouble(self) -> None:
        rng, shape = self.rng, self.shape
        while True:
            await trio.sleep(rng.uniform(0, 2 * shape.pause_seconds))
            node = rng.choice(list(self.nodes.values()))
            fault = rng.choice(FAULTS)
            self.counts[fault] += 1
            if fault == "slow":
                operation = rng.choice((Operation.SYNC, Operation.SYNC, Operation.WRITE, Operation.READ))
                node.disk.latency_seconds[operation] = rng.uniform(0, shape.slow_seconds)
            elif fault == "campaign" and node.replica is not None:
                node.replica.driver.requests.campaign()
            elif fault == "usurp":
                await self.usurp()
            elif fault == "transfer" and (leader := self.leader()) is not None:
                leader.driver.requests.transfer_leadership(node.node_id)
            elif fault == "cut":
                node.is_cut_off = True
            elif fault == "crash" and node.life is not None:
                node.life.cancel()
                node.life = None
                node.disk = node.disk.crash(shape.crash_mode)
            elif fault == "restart":
                await self.restart(node)
            elif fault == "heal":
                for each in self.nodes.values():
                    each.is_cut_off = False
                    await self.restart(each)
                self._usual(node.disk)

    async def usurp(self) -> None:
        """The leader is cut off and takes more, which nobody else gets; the others see its process as gone, and elect another one
        at once. And again, while disks are still at what the first ones have sent."""
        rng = self.rng
        for _ in range(rng.choice((1, 2, 2, 3))):
            leader = self.leader()
            if leader is None:
                return
            self.nodes[leader.node_id].is_cut_off = True
            if rng.random() < 0.5:
                await self.propose(leader, b"in vain" + bytes(rng.choice((10, 1500))))
            others = [node for node in self.nodes.values() if node.replica not in (None, leader)]
            rng.shuffle(others)
            for node in others:
                assert node.replica is not None
                node.is_cut_off = False
                node.replica.driver.requests.peer_reset(leader.node_id)
            for node in others[:1]:
                assert node.replica is not None
                node.replica.driver.requests.campaign_if_leader_lost(leader.node_id)
            await trio.sleep(rng.uniform(0, 6 * self.shape.way_seconds + 3 * self.shape.sync_seconds + 0.1))
            self.nodes[leader.node_id].is_cut_off = rng.random() < 0.3

    async def propose(self, leader: Replica, value: bytes) -> None:
        try:
            await leader.propose_batch(batch_of(value), Acks.NONE)
        except EventLogError:
            pass

    async def restart(self, node: _Node) -> None:
        if node.life is None:
            # The end of the faults must not come in between.
            with trio.CancelScope(shield=True):
                await node.is_down.wait()
                self._usual(node.disk)
                await self.nursery.start(self.live, node)

    # The run

    async def run(self) -> None:
        trio.lowlevel.add_instrument(self.invariants)
        with trio.fail_after(RUN_SECONDS_MAX):
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self.invariants.watch)
                for node in self.nodes.values():
                    await self.nursery.start(self.live, node)
                async with trio.open_nursery() as clients:
                    for number in range(3):
                        clients.start_soon(self.produce, number)
                        clients.start_soon(self.read, number)
                    clients.start_soon(self.trouble)
                    await trio.sleep(CHAOS_SECONDS)
                    clients.cancel_scope.cancel()
                await self.calm_down()
                await self.check_equal()
                await self.check_reads()
                await self.check_catching_up()
                await self.check_equal()
                if self.shape.removes_leader:
                    await self.check_removal()
                self.nursery.cancel_scope.cancel()

    async def calm_down(self) -> None:
        self.is_calm = True
        for node in self.nodes.values():
            node.is_cut_off = False
            self._usual(node.disk)
            await self.restart(node)

    async def until(self, what: str, condition: Callable[[], bool], seconds_max: float = CALM_SECONDS_MAX) -> None:
        with trio.move_on_after(seconds_max):
            while not condition():  # noqa: ASYNC110 - of many parts
                await trio.sleep(TICK_SECONDS)
            return
        raise AssertionError(f"not within {seconds_max:g} s of calm: {what}")

    def replicas(self) -> list[Replica]:
        return [node.replica for node in self.nodes.values() if node.replica is not None and node.node_id in self.voters]

    async def check_equal(self) -> None:
        def are_equal() -> bool:
            statuses = [replica.status() for replica in self.replicas()]
            ends = {(status.last_index, status.last_term) for status in statuses}
            applied = {(status.applied_index, status.last_term) for status in statuses}
            return self.leader() is not None and len(ends) == 1 and applied == ends

        await self.until("all replicas are equal", are_equal)
        for replica in self.replicas():
            for offset, value in self.acknowledged.items():
                (frame, *_) = await replica.log.read_by_offset(offset, offset + 1, 1)
                assert value in bytes(frame.payload), f"{replica.name}: another record is at offset {offset}"

    async def check_reads(self) -> None:
        seconds = WAYS_FOR_A_READ * self.shape.way_seconds + 10 * (TICK_SECONDS + self.shape.sync_seconds)
        for replica in self.replicas():
            with trio.move_on_after(seconds):
                await replica.wait_linearizable()
                continue
            raise AssertionError(f"{replica.name}: a linearizable read takes longer than {seconds:g} s")

    async def check_catching_up(self) -> None:
        """One follower is away while more is appended than the leader keeps in memory. Commits go on while it catches up."""
        leader = self.leader()
        if leader is None or len(self.voters) < 3:
            return
        follower = next(node for node in self.nodes.values() if node.replica is not None and not node.replica.is_leader)
        follower.is_cut_off = True
        for number in range(60):
            await self.append(leader, b"away %d " % number + bytes(1000))
        await trio.sleep(2 * self.shape.way_seconds)
        follower.is_cut_off = False
        if not leader.is_leader:
            return
        missing = range(leader.status().progress[follower.node_id].match + 1, leader.status().last_index + 1)
        term = leader.status().hard_state.term
        self.sent[follower.node_id].clear()
        async with trio.open_nursery() as load:
            load.start_soon(self.keep_appending, leader)
            assert follower.replica is not None
            replica = follower.replica
            # One at a time in the worst case, each there and back.
            seconds_max = CALM_SECONDS_MAX + 3 * self.shape.way_seconds * len(missing)
            await self.until("the follower has caught up", lambda: replica.status().applied_index >= missing[-1], seconds_max)
            load.cancel_scope.cancel()
        if leader.is_leader and leader.status().hard_state.term == term:
            sent = self.sent[follower.node_id]
            total = sum(count for index, count in sent.items() if index in missing)
            assert total <= SENT_FOR_EACH_MAX * len(missing), f"{total} frames are sent for {len(missing)}"
            self.counts["caught up"] += 1

    async def keep_appending(self, leader: Replica) -> None:
        while True:
            await self.append(leader, b"meanwhile")
            await trio.sleep(0.01)

    async def check_removal(self) -> None:
        leader = self.leader()
        assert leader is not None
        change = ConfigurationChange(changes=(NodeChange(ChangeKind.REMOVE, leader.node_id),))
        try:
            await leader.change_configuration(change)
        except EventLogError:
            return
        self.voters -= {leader.node_id}
        node = self.nodes[leader.node_id]
        assert node.life is not None
        # It has nothing to do here any more, and goes. What it has sent arrives.
        node.life.cancel()
        self.counts["removed"] += 1
        await self.until("another one leads", lambda: self.leader() is not None and self.leader() is not leader)
        await self.check_equal()


def batch_of(value: bytes) -> Batch:
    return encode_records([Record(value=value)], now_ns=1)


def run_seed(seed: int) -> Counter[str]:
    """One run; what happened in it. Raises with the seed and the shape in the text."""
    run = _Run(seed)
    try:
        determinism.run(run.run, seed=seed)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise AssertionError(f"seed {seed} failed: {type(error).__name__} {error}\n{run.shape}") from error
    return run.counts + run.invariants.marks


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(argument, dict(run_seed(int(argument))))
