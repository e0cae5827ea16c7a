"""Whole nodes under faults, by seed: first safety, while everything breaks; then, when all heals, liveness.

    python -m trio_eventlog.testing.node_simulator SEED

runs one seed again and prints a line for each step, with a column for each node.
"""

import argparse
import logging
import math
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_eventlog.client.client import Client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.codec.batch import decode_records, encode_records, stamp
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.codec.peer_frame import encode_frame
from trio_eventlog.errors import (
    DamagedData,
    DiskFull,
    DuplicateOutOfWindow,
    EventLogError,
    InvalidArgument,
    MembershipRefused,
    NodeRemoved,
    NotLeader,
    OffsetOutOfRange,
    OutcomeUnknown,
    OutOfOrderSequence,
    ProducerFenced,
    StorageFailed,
    TopicNotFound,
    Unavailable,
)
from trio_eventlog.grpc.batches import batch_message, encode_produce_request, produce_head
from trio_eventlog.ids import CATALOG_GROUP, NodeId, format_id, parse_id
from trio_eventlog.net.links import Lane
from trio_eventlog.node.raft_driver import RaftDriver
from trio_eventlog.raft.ready import Role
from trio_eventlog.records import Acks, Record
from trio_eventlog.rpc import methods_of
from trio_eventlog.service.requests import ConsumeRequest
from trio_eventlog.service.values import ProduceResult
from trio_eventlog.testing import determinism, inside
from trio_eventlog.testing.checkers import check_log
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.cluster_view import UNPACKED_BYTES_MAX
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.history import History, Outcome
from trio_eventlog.testing.invariants import InvariantBroken, Invariants
from trio_eventlog.testing.lives import is_outcast
from trio_eventlog.testing.machines import NEXT_RELEASE
from trio_eventlog.testing.nemesis import FAULTS, Nemesis, draw_parameters
from trio_eventlog.testing.nemesis_ledger import FaultParameters
from trio_eventlog.testing.revision import revision
from trio_eventlog.v1 import admin_pb2, event_log_pb2

TOPIC = "t"
KEYED = "k"
"""A topic whose records have keys: each is in its key's partition, and who consumes all partitions sees all of them."""
KEYED_RECORDS_MAX = 200
LAST = "the last"
"""The client that appends when all has healed."""
CHAOS_SECONDS = 60.0
BATCHES_MAX = 300
"""Of all producers together."""
RUN_SECONDS_MAX = CHAOS_SECONDS + 180.0
"""A run that is not over by then has a call that nobody answers."""
NEW_FRAME_KIND = 200
NEW_FRAMES_SECONDS = 1.0
LIVENESS_SECONDS_MAX = 30.0
"""After everything has healed: until a leader is there, every client's last call is answered and all replicas are equal."""
LOOKUPS = 20
"""Of single offsets, on each node at the end."""
MARKS = (
    *FAULTS,
    "append",
    "append given up",
    "plain append repeated",
    "simple append, acks QUORUM",
    "acknowledged by the leader alone",
    "read",
    "looked back",
    "consumed",
    "keyed append",
    "keyed record consumed",
    "client of one node that knows no topics",
    "elected",
    "suffix replaced",
    "torn tail",
    "loss noticed",
    "machines compared",
    "frame of a new kind",
    "join",
    "DrainNode",
    "RemoveNode",
    "replaced",
    "replaced what was spent",
    "stopped itself: StorageFailed",
    "stopped itself: DiskFull",
    "stopped itself: DamagedData",
    "QUORUM_LOST",
    "TRANSFER_ENDED",
    "CONFIGURATION_CHANGED",
    "JOINT_LEFT",
    "LEADER_FORGOTTEN",
    "fell asleep as leader",
    "fell asleep as follower",
    "woken by work",
    "woken by message",
    "woken by lost leader",
    "woken by peers",
)
"""A nemesis that does nothing finds nothing: over a hundred seeds each of these has to happen."""

_ADMIN = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])
_EVENT_LOG = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])


@attrs.frozen(slots=True, kw_only=True)
class RunParameters:
    """The shape of one run.

    Attributes:
        nodes: that begin the cluster.
        spares: that join it later. With any, nodes are drained and removed too, and come back with empty disks as new ones.
        drift: by how much a node's ticks are longer or shorter than another's, at most.
        partitions, replicas: of the topic; 0 replicas: every voter.
        keyed_partitions: of a topic of keyed records, whose clients name one node each; 0: there is none.
        producers: clients that append, each one batch after the other.
        plain_producers: the same without our client: one node after the other is asked until one answers.
        simple_producers: the same without a producer id: each batch is sent once, with any acks.
        consumers, readers: clients that follow the log, and that read its end linearizably, and any part of it.
        reads_own: how likely a producer, told that its batch is in the log, at once reads the end.
        batch_records_max, value_bytes_max: of each batch.
        pause_seconds_max: of a producer between two batches.
        settings: of the nodes: small limits make rare paths common.
        faults: of the nemesis.
    """

    nodes: int
    spares: int
    drift: float
    partitions: int
    replicas: int
    keyed_partitions: int
    producers: int
    plain_producers: int
    simple_producers: int
    reads_own: float
    consumers: int
    readers: int
    batch_records_max: int
    value_bytes_max: int
    pause_seconds_max: float
    settings: dict[str, Any]
    faults: FaultParameters


@attrs.frozen(slots=True, kw_only=True)
class RunResult:
    """What a run has shown.

    Attributes:
        digest: of everything on the network, with its times.
        counts: of faults, calls and records.
    """

    digest: str
    counts: Counter[str]


def draw_run(seed: int) -> RunParameters:
    """First the parameters are drawn, then the run: so that some runs have much of one thing and nothing of another."""
    rng = derive(seed, "parameters")
    value_bytes_max = rng.choice((8, 300, 3000))
    spares = rng.choice((0, 0, 1, 2))
    producers = rng.choice((1, 2, 3))
    plain_producers = rng.choice((0, 1, 2))
    simple_producers = rng.choice((0, 1, 2))
    return RunParameters(
        nodes=rng.choice((3, 3, 3, 4, 5)) if not spares else 3,
        spares=spares,
        drift=rng.choice((0.0, 0.1, 0.3)),
        partitions=rng.choice((1, 1, 2)),
        replicas=rng.choice((0, 0, 0, 1, 3)),
        keyed_partitions=derive(seed, "keyed partitions").choice((0, 0, 2, 3)),
        producers=producers,
        plain_producers=plain_producers,
        simple_producers=simple_producers,
        reads_own=rng.choice((0.0, 0.3)),
        consumers=rng.choice((0, 1, 2)),
        readers=rng.choice((0, 1, 1, 2)),
        batch_records_max=rng.choice((1, 3, 10)),
        value_bytes_max=value_bytes_max,
        # All of them together one to four batches a second, so that there is load all the time and no run takes much longer.
        pause_seconds_max=(producers + plain_producers + simple_producers) * rng.choice((0.5, 1.0, 2.0)),
        settings={
            "tick_seconds": rng.choice((0.1, 0.1, 0.2)),
            "tail_cache_bytes": rng.choice((0, 4096, 1 << 20)),
            "segment_bytes": rng.choice((4096, 16384, 1 << 20)),
            "preallocate_bytes": rng.choice((0, 4096, 65536)),
            "index_interval_bytes": rng.choice((1024, 65536)),
            "inflight_messages_max": rng.choice((1, 4, 256)),
            "append_bytes_max": rng.choice((4096, 1 << 20)),
            "producer_window_batches": 5,
            "forward_timeout_seconds": rng.choice((2.0, 30.0)),
            "stabilisation_seconds": rng.choice((0.1, 1.0)),
            "reconcile_seconds": rng.choice((0.3, 1.0)),
            "catch_up_entries_max": rng.choice((1, 250)),
            "sleep_after_ticks": derive(seed, "sleep").choice((0, 1, 1, 2, 5, 30)),
            "leader_balance_seconds": derive(seed, "leader_balance").choice((0.0, 0.1, 1.0)),
            "voters_wanted": rng.choice((3, 5)),
        },
        faults=draw_parameters(rng),
    )


def run_seed(seed: int, *, write: Callable[[str], object] | None = None) -> RunResult:
    """One run. Raises with the seed, the parameters, the release and the command that repeats it in its text.

    Args:
        write: given a line for each step.
    """
    parameters = draw_run(seed)
    try:
        return determinism.run(_simulate, seed, parameters, write, seed=seed)
    except Exception as error:
        raise AssertionError(
            f"seed {seed} failed: {_innermost(error)}\n{describe_run(parameters)}\n{revision()}\n"
            f"to see it again: python -m trio_eventlog.testing.node_simulator {seed}"
        ) from error


def describe_run(parameters: RunParameters) -> str:
    """The parameters in a few lines, without faults that do not happen."""
    values = attrs.asdict(parameters, recurse=False)
    faults = attrs.asdict(values.pop("faults"))
    weights = ", ".join(f"{fault} {weight:.1f}" for fault, weight in faults.pop("weights").items() if weight)
    shape = ", ".join(f"{name} {value}" for name, value in {**values.pop("settings"), **faults}.items())
    return ", ".join(f"{name} {value}" for name, value in values.items()) + f"\n{shape}\n{weights}"


async def _simulate(seed: int, parameters: RunParameters, write: Callable[[str], object] | None) -> RunResult:
    run = _Run(seed, parameters)
    if write is not None:
        steps = _StepLog(run.cluster, write)
        run.cluster.on_note = steps.add
        run.invariants.on_step = lambda driver, what: steps.add(what, driver)
    with trio.fail_after(RUN_SECONDS_MAX):
        await run.run()
    return RunResult(digest=run.cluster.trace.digest, counts=run.counts)


class _StepLog:
    """A line for each step: when, every node's groups after it, which node took it, what it was.

    `L7:12/14` is a leader of term 7 that has committed 12 of its 14 entries; F follows, P and C stand for election. The catalog
    comes first.
    """

    WIDTH = 26

    def __init__(self, cluster: Cluster, write: Callable[[str], object]) -> None:
        self._cluster = cluster
        self._write = write
        write("seconds".rjust(9) + " " + " ".join(name.ljust(self.WIDTH) for name in cluster.names) + " step")

    def add(self, what: str, driver: RaftDriver | None = None) -> None:
        about = f"{self._cluster.called(inside.core(driver).node_id)} {driver.name}: " if driver is not None else ""
        columns = " ".join(self._column(name).ljust(self.WIDTH) for name in self._cluster.names)
        self._write(f"{trio.current_time():9.4f} {columns} {about}{what}")

    def _column(self, name: str) -> str:
        cluster = self._cluster
        if not cluster.is_running(name):
            return "new" if cluster.is_new(name) else "failed" if name in cluster.failures() else "down"
        cores = [inside.core(replica.driver) for replica in inside.groups(cluster.node(name)).all()]
        groups = [f"{_ROLES[core.role]}{core.term}:{core.commit_index}/{core.last_index}" for core in cores]
        return " ".join((["paused"] if cluster.is_paused(name) else []) + groups)


_ROLES = {Role.FOLLOWER: "F", Role.PRE_CANDIDATE: "P", Role.CANDIDATE: "C", Role.LEADER: "L"}


@attrs.define(slots=True, eq=False)
class _SeenKeys:
    """What one consumer of all partitions has been given since it began."""

    target: str
    keys: set[bytes] = attrs.field(factory=set)
    next_offsets: Counter[int] = attrs.field(factory=Counter)

    def take(self, name: str, partition: int, record: Record) -> None:
        expected = self.next_offsets[partition]
        if record.offset != expected:
            raise InvariantBroken(f"{name} was given offset {record.offset} of {KEYED}/{partition}, and expected {expected}")
        self.next_offsets[partition] = expected + 1
        self.keys.add(record.key)


@attrs.define(slots=True, eq=False)
class _Keyed:
    """The keyed records of a run. A key is its record's value too, and is sent once.

    Attributes:
        acknowledged: key -> partition and offset, as the producer was told.
        seen: by consumers, since each began anew.
    """

    sent: int = 0
    clients: int = 0
    acknowledged: dict[bytes, tuple[int, int]] = attrs.field(factory=dict)
    seen: dict[str, _SeenKeys] = attrs.field(factory=dict)

    def new_key(self) -> bytes:
        self.sent += 1
        return b"key %d" % self.sent


class _Run:
    def __init__(self, seed: int, parameters: RunParameters) -> None:
        self.seed = seed
        self.parameters = parameters
        self.cluster = Cluster(
            parameters.nodes + parameters.spares,
            founders=parameters.nodes,
            seed=seed,
            may_fail=self._may_fail,
            **parameters.settings,
        )
        for name in self.cluster.names:
            tick_seconds = parameters.settings["tick_seconds"] * derive(seed, f"clock:{name}").uniform(1, 1 + parameters.drift)
            self.cluster.settings_of[name]["tick_seconds"] = tick_seconds
        # A topic may have fewer replicas than there are voters; a single one must never be damaged.
        voters_min = min(parameters.nodes, parameters.replicas or parameters.nodes, parameters.settings["voters_wanted"])
        self.nemesis = Nemesis(
            self.cluster, parameters.faults, derive(seed, "nemesis"), start=self._start, spendable=(voters_min - 1) // 2
        )
        self.histories = [History() for _ in range(parameters.partitions)]
        self.counts: Counter[str] = Counter()
        self.is_ending = False
        self.invariants = Invariants(
            self.cluster.called, ignores=is_outcast, may_lose=lambda node_id: node_id in self.nemesis.spent.values()
        )
        self._consumed = Counter[tuple[str, int]]()
        self._keyed = _Keyed()

    async def run(self) -> None:
        cluster, parameters = self.cluster, self.parameters
        trio.lowlevel.add_instrument(self.invariants)
        async with cluster, trio.open_nursery() as watching:
            watching.start_soon(self.invariants.watch)
            async with cluster.client(settings=_CLIENT) as client:
                replicas = min(parameters.replicas, parameters.nodes)
                await client.create_topic(TOPIC, partitions=parameters.partitions, replicas=replicas)
                await cluster.wait_topic(TOPIC)
                if parameters.keyed_partitions:
                    await client.create_topic(KEYED, partitions=parameters.keyed_partitions)
                    await cluster.wait_topic(KEYED)
            async with trio.open_nursery() as clients:
                for number in range(parameters.producers):
                    clients.start_soon(self._produce, f"producer {number}")
                for number in range(parameters.plain_producers):
                    clients.start_soon(self._produce_plainly, f"plain producer {number}", 1000 + number)
                for number in range(parameters.simple_producers):
                    clients.start_soon(self._produce_simply, f"simple producer {number}")
                for number in range(parameters.readers):
                    clients.start_soon(self._read, f"reader {number}")
                if parameters.keyed_partitions:
                    for number in range(2):
                        clients.start_soon(self._produce_keyed, f"keyed producer {number}")
                async with trio.open_nursery() as consumers:
                    if parameters.keyed_partitions:
                        for number in range(2):
                            consumers.start_soon(self._consume_keyed, f"keyed consumer {number}")
                    for number in range(parameters.consumers):
                        consumers.start_soon(self._consume, f"consumer {number}")
                    with trio.move_on_after(CHAOS_SECONDS):
                        async with trio.open_nursery() as trouble:
                            trouble.start_soon(self.nemesis.run)
                            trouble.start_soon(self._operate)
                            trouble.start_soon(self._say_new_things)
                    await self.nemesis.end()
                    self.is_ending = True
                    watching.start_soon(self._bring_back_for_ever)
                    # From here on it has to work, and in time.
                    await self._until_alive()
                    await self._until_consumed()
                    if parameters.keyed_partitions:
                        await self._until_keyed_consumed()
                    consumers.cancel_scope.cancel()
            await self._check_end()
            watching.cancel_scope.cancel()
        self.counts.update(self.nemesis.counts)
        self.counts.update(self.invariants.marks)

    # The operator

    async def _say_new_things(self) -> None:
        """Nodes of the next release send their peers frames of a kind that this one does not know."""
        cluster = self.cluster
        rng = derive(self.seed, "next release")
        while True:
            await trio.sleep(rng.uniform(0, 2 * NEW_FRAMES_SECONDS))
            for name in cluster.running:
                if cluster.protocol_versions_of.get(name) == NEXT_RELEASE:
                    for other in cluster.names:
                        if other != name and not cluster.is_new(other):
                            frame = encode_frame(NEW_FRAME_KIND, CATALOG_GROUP, rng.randbytes(rng.randrange(100)))
                            self.counts["frame of a new kind"] += inside.transport(cluster.node(name)).send(
                                cluster.node_id(other), frame, Lane.URGENT
                            )

    async def _operate(self) -> None:
        """Nodes join, are drained, or break for good and are removed; each comes back with an empty disk as a new node."""
        rng = derive(self.seed, "operator")
        cluster = self.cluster
        while True:
            await trio.sleep(rng.uniform(0.5, 5))
            await self._bring_back(rng)
            if self.nemesis.spent:
                await self._replace(rng)
                continue
            if not self.parameters.spares:
                continue
            running = cluster.running
            spare = [name for name in cluster.names if name not in cluster.founders and cluster.is_new(name)]
            if spare and rng.random() < 0.5:
                self.counts["join"] += 1
                await self._start(spare[0])
            elif running and rng.random() < 0.5:
                await self._ask(rng, "DrainNode", admin_pb2.DrainNodeRequest(id=format_id(cluster.node_id(rng.choice(running)))))
            elif len(running) >= len(cluster.founders):
                name = rng.choice(running)
                cluster.crash(name, self.parameters.faults.crash_mode)
                await self._remove(rng, cluster.node_id(name))

    async def _replace(self, rng: random.Random) -> None:
        """Of a node that has lost data nothing is used again: its id is removed, and a new node takes its place."""
        cluster = self.cluster
        for name, node_id in list(self.nemesis.spent.items()):
            if node_id not in cluster.removed_ids():
                if cluster.is_running(name):
                    if rng.random() < 0.8:
                        continue  # people take their time
                    cluster.crash(name)
                await self._remove(rng, node_id)
            elif cluster.node_id(name) == node_id:
                if cluster.is_running(name):
                    cluster.crash(name)
                if cluster.is_startable(name):
                    await self._start(name)
            else:
                voters = cluster.voters_of_groups()
                if cluster.node_id(name) in voters[0] and all(group and node_id not in group for group in voters):
                    self.counts["replaced what was spent"] += 1
                    del self.nemesis.spent[name]
                    self.nemesis.down.pop(name, None)

    async def _remove(self, rng: random.Random, node_id: NodeId) -> None:
        request = admin_pb2.RemoveNodeRequest(id=format_id(node_id))
        for _ in range(5):
            if await self._ask(rng, "RemoveNode", request):
                break
            await trio.sleep(rng.uniform(0, 0.5))

    async def _ask(self, rng: random.Random, method: str, request: Any) -> bool:
        """One command at any node; whether it was answered with success."""
        leaving = self.nemesis.leaving
        news = {NodeId(parse_id(request.id))} - leaving
        leaving |= news
        try:
            with trio.fail_after(2.0):
                async with self.cluster.channel(rng.choice(self.cluster.names), name="operator") as channel:
                    await channel.unary(_ADMIN[method], request)
        except (trio.TooSlowError, OSError, EventLogError) as error:
            self.counts[f"{method}: {getattr(error, 'code', 'no answer')}"] += 1
            if isinstance(error, InvalidArgument | MembershipRefused):
                leaving -= news
            return False
        self.counts[method] += 1
        return True

    async def _bring_back(self, rng: random.Random) -> None:
        """What is down and nobody else's business: removed nodes with an empty disk, others as they are."""
        cluster, nemesis = self.cluster, self.nemesis
        for name in cluster.names:
            is_mine = not cluster.is_running(name) and cluster.is_startable(name) and not cluster.is_new(name)
            if is_mine and not {name} & {*nemesis.down, *nemesis.broken, *nemesis.spent} and rng.random() < 0.7:
                await self._start(name)

    async def _bring_back_for_ever(self) -> None:
        """After everything has healed: drains come to their end, and nodes that were removed hear of it."""
        rng = derive(self.seed, "end")
        while True:
            await self._bring_back(rng)
            await trio.sleep(0.1)

    async def _start(self, name: str) -> None:
        """With an empty disk if the node is known to be removed. If it is and nobody here knows, it ends, and is seen again."""
        cluster = self.cluster
        if not cluster.is_new(name) and cluster.node_id(name) in cluster.removed_ids():
            self.counts["replaced"] += 1
            cluster.wipe(name)
        await cluster.start(name)

    def _may_fail(self, name: str, error: BaseException) -> bool:
        """What a node may stop itself for: that it was removed, and what was done to its disk."""
        if isinstance(error, NodeRemoved):
            return True
        return isinstance(error, StorageFailed | DiskFull | DamagedData) and self.nemesis.explains(name)

    # Clients

    async def _produce(self, name: str) -> None:
        rng = derive(self.seed, name)
        async with self.cluster.client(name=name, settings=_CLIENT) as client:
            while not self.is_ending and self.counts["batches"] < BATCHES_MAX:
                partition = rng.randrange(self.parameters.partitions)
                if await self._append(client, name, partition, self._values(rng, name)):
                    await self._read_own(rng, name, partition)
                await trio.sleep(rng.uniform(0, self.parameters.pause_seconds_max))

    async def _append(self, client: Client, name: str, partition: int, values: list[bytes]) -> bool:
        history = self.histories[partition]
        call = history.append(name, values)
        try:
            result = await client.produce(TOPIC, *values, partition=partition)
        except OutcomeUnknown:
            history.gave_up(call)
            self.counts["append given up"] += 1
        except EventLogError as error:
            history.was_refused(call)
            self.counts[f"append refused: {error.code}"] += 1
        else:
            history.appended(call, result.base_offset)
            self.counts["append"] += 1
        return call.outcome is Outcome.OK

    async def _produce_plainly(self, name: str, producer_id: int) -> None:
        """What a foreign idempotent producer does: the same batch again, to any node, until it is answered."""
        rng = derive(self.seed, name)
        partition = rng.randrange(self.parameters.partitions)
        history = self.histories[partition]
        sequence = 0
        while not self.is_ending and self.counts["batches"] < BATCHES_MAX:
            values = self._values(rng, name)
            batch = stamp(
                encode_records([Record(value=value) for value in values], now_ns=1),
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=sequence,
            )
            request = encode_produce_request(produce_head(TOPIC, partition, 0, Acks.QUORUM), batch_message(batch), batch)
            call = history.append(name, values)
            attempts = 0
            while True:
                attempts += 1
                target = rng.choice(self.cluster.names)
                try:
                    with trio.fail_after(rng.choice((0.2, 1.0, 5.0))):
                        async with self.cluster.channel(target, name=name) as channel:
                            response = await channel.unary(_EVENT_LOG["Produce"], request)
                            break
                except (trio.TooSlowError, OSError, NotLeader, Unavailable, OutcomeUnknown):
                    pass
                except DuplicateOutOfWindow as error:
                    raise InvariantBroken(f"{name}: the last batch of a producer is always remembered: {error}") from error
                except EventLogError as error:
                    if not error.retryable and not isinstance(error, TopicNotFound):
                        raise InvariantBroken(f"{name}: {error.code}: {error}") from error
                await trio.sleep(rng.uniform(0, 0.1))
            history.appended(call, response.base_offset)
            self.counts["plain append"] += 1
            self.counts["plain append repeated"] += attempts > 1
            sequence += len(values)
            await self._read_own(rng, name, partition)
            await trio.sleep(rng.uniform(0, self.parameters.pause_seconds_max))

    async def _produce_simply(self, name: str) -> None:
        """Records without a producer id, sent once to any node. What only the leader has, or nobody yet, may be lost later."""
        rng = derive(self.seed, name)
        while not self.is_ending and self.counts["batches"] < BATCHES_MAX:
            partition = rng.randrange(self.parameters.partitions)
            history = self.histories[partition]
            values = self._values(rng, name)
            acks = rng.choice((*Acks, Acks.QUORUM, Acks.QUORUM))
            request = event_log_pb2.ProduceRequest(topic=TOPIC, partition=partition, acks=int(acks))  # type: ignore[arg-type]
            for value in values:
                request.records.add(value=value)
            call = history.append(name, values)
            try:
                with trio.fail_after(rng.choice((0.2, 1.0, 5.0))):
                    async with self.cluster.channel(rng.choice(self.cluster.names), name=name) as channel:
                        response = await channel.unary(_EVENT_LOG["Produce"], request)
            except (OutOfOrderSequence, DuplicateOutOfWindow, ProducerFenced) as error:
                raise InvariantBroken(f"{name} sends no sequences, and was told: {error}") from error
            except (trio.TooSlowError, OSError, EventLogError):
                history.gave_up(call)
            else:
                self.counts[f"simple append, acks {acks.name}"] += 1
                if acks is Acks.QUORUM:
                    history.appended(call, response.base_offset)
                    await self._read_own(rng, name, partition)
                else:
                    history.gave_up(call)
            await trio.sleep(rng.uniform(0, self.parameters.pause_seconds_max))

    def _values(self, rng: random.Random, name: str) -> list[bytes]:
        self.counts["batches"] += 1
        count = rng.randrange(1, self.parameters.batch_records_max + 1)
        size_bytes = rng.randrange(self.parameters.value_bytes_max)
        # Not zeros, which is what a sector reads as that was lost.
        return [b"%s/%d/%d/" % (name.encode(), self.counts["batches"], at) + rng.randbytes(size_bytes) for at in range(count)]

    async def _read(self, name: str) -> None:
        """Reads of the end at the node that has answered last, or any other; and looks at what came long ago."""
        rng = derive(self.seed, name)
        target = rng.choice(self.cluster.names)
        while not self.is_ending:
            partition = rng.randrange(self.parameters.partitions)
            pause_seconds_max = 2 * self.parameters.pause_seconds_max
            if self.nemesis.deposed is not None:
                target = self.nemesis.deposed
                pause_seconds_max = 0.2
            elif rng.random() < 0.3:
                await self._look_back(rng, name, partition)
            if not await self._read_end(name, target, partition, seconds_max=rng.choice((0.5, 3.0))) or rng.random() < 0.3:
                target = rng.choice(self.cluster.names)
            await trio.sleep(rng.uniform(0, pause_seconds_max))

    async def _read_own(self, rng: random.Random, name: str, partition: int) -> None:
        if rng.random() < self.parameters.reads_own:
            await self._read_end(name, rng.choice(self.cluster.names), partition, seconds_max=0.5)

    async def _read_end(self, name: str, target: str, partition: int, *, seconds_max: float) -> bool:
        """A linearizable read. Whether it was answered."""
        history = self.histories[partition]
        request = event_log_pb2.ConsumeRequest(
            topic=TOPIC,
            partition=partition,
            start=event_log_pb2.END,
            consistency=event_log_pb2.LINEARIZABLE,
        )
        call = history.read_end(name)
        try:
            with trio.fail_after(seconds_max):
                async with self.cluster.channel(target, name=name) as channel:
                    response = await channel.unary(_EVENT_LOG["Consume"], request)
        except (trio.TooSlowError, OSError, EventLogError):
            history.gave_up(call)
            return False
        history.read(call, response.high_watermark)
        self.counts["read"] += 1
        return True

    async def _look_back(self, rng: random.Random, name: str, partition: int) -> None:
        """Some records from the midst of the log, wherever they are kept."""
        history = self.histories[partition]
        end = max((call.end or 0 for call in history.reads[-10:]), default=0)
        offset = rng.randrange(end + 1)
        target = rng.choice(self.cluster.names)
        request = event_log_pb2.ConsumeRequest(topic=TOPIC, partition=partition, offset=offset, max_bytes=1)
        request.max_records = rng.choice((0, 1, 5))
        try:
            with trio.fail_after(1.0):
                async with self.cluster.channel(target, name=name) as channel:
                    response = await channel.unary(_EVENT_LOG["Consume"], request)
        except (trio.TooSlowError, OSError):
            return
        except DamagedData as error:
            if not self.nemesis.has_spoilt_segments:
                raise InvariantBroken(f"{name}: {target} cannot read what is whole: {error}") from error
            return
        except EventLogError:
            return
        self.counts["looked back"] += 1
        if response.records and response.records[0].offset != offset:
            raise InvariantBroken(f"{name} asked for {offset}, and was given {response.records[0].offset}")
        for record in response.records:
            history.consume(f"{name} look {self.counts['looked back']}", record.offset, record.value)

    async def _consume(self, name: str) -> None:
        consume = self._consume_by_client if derive(self.seed, name).random() < 0.5 else self._consume_partition
        async with trio.open_nursery() as nursery:
            for partition in range(self.parameters.partitions):
                nursery.start_soon(consume, name, partition)

    async def _consume_by_client(self, name: str, partition: int) -> None:
        """Our own consumer, which goes on by itself when the node it reads from does not."""
        history = self.histories[partition]
        offset = 0
        async with self.cluster.client(name=name, settings=_CLIENT) as client:
            while True:
                try:
                    async with client.consume(TOPIC, start=offset, partition=partition) as records:
                        async for record in records:
                            history.consume(f"{name}/{partition}", record.offset, record.value)
                            offset = record.offset + 1
                            self.counts["consumed by client"] += 1
                            self._consumed[name, partition] = offset
                except OffsetOutOfRange as error:
                    raise InvariantBroken(f"{name}: what was committed once is out of range: {error}") from error
                except EventLogError:
                    # It has its own patience, and this run has none.
                    await trio.sleep(0.1)

    async def _consume_partition(self, name: str, partition: int) -> None:
        """Plain streams at any node, each from where the last one ended."""
        rng = derive(self.seed, f"{name}/{partition}")
        history = self.histories[partition]
        offset = 0
        while True:
            request = event_log_pb2.ConsumeRequest(topic=TOPIC, partition=partition, offset=offset)
            request.max_records = rng.choice((0, 1, 5))
            try:
                with trio.move_on_after(rng.choice((0.5, 2.0, 10.0))):
                    async with (
                        self.cluster.channel(rng.choice(self.cluster.names), name=name) as channel,
                        channel.stream(_EVENT_LOG["ConsumeStream"], request) as call,
                    ):
                        async for response in call:
                            for record in response.records:
                                history.consume(f"{name}/{partition}", record.offset, record.value)
                                offset = record.offset + 1
                                self.counts["consumed"] += 1
                                self._consumed[name, partition] = offset
                            if response.high_watermark < offset:
                                raise InvariantBroken(f"{name} was given {offset - 1} above the watermark")
            except OffsetOutOfRange as error:
                raise InvariantBroken(f"{name}: what was committed once is out of range: {error}") from error
            except (OSError, EventLogError):
                pass
            await trio.sleep(rng.uniform(0, 0.05))

    # Keyed records

    @asynccontextmanager
    async def _client_of_one(self, rng: random.Random, name: str) -> AsyncIterator[tuple[Client, str]]:
        """A client, and the one node that it has been told of: any one, which may be down, or start just now."""
        cluster = self.cluster
        target = rng.choice(cluster.names)
        knows = cluster.is_running(target) and cluster.node(target).servers().catalog_index
        self.counts["client of one node that knows no topics"] += not knows
        self._keyed.clients += 1
        # Under a name of its own: its producer id is drawn from it.
        async with cluster.client(target, name=f"{name}/{self._keyed.clients}", settings=_CLIENT) as client:
            yield client, target

    async def _produce_keyed(self, name: str) -> None:
        """Short-lived clients and such that stay for a while; single calls and batching producers."""
        rng = derive(self.seed, name)
        while not self.is_ending:
            try:
                with trio.move_on_after(rng.choice((2.0, 5.0, 20.0))):
                    async with self._client_of_one(rng, name) as (client, _):
                        for _ in range(rng.choice((1, 1, 5))):
                            await self._send_keyed(rng, client)
                            await trio.sleep(rng.uniform(0, self.parameters.pause_seconds_max))
            except EventLogError as error:
                self.counts[f"keyed append: {error.code}"] += 1
            await trio.sleep(rng.uniform(0, self.parameters.pause_seconds_max))

    async def _send_keyed(self, rng: random.Random, client: Client) -> None:
        if self.is_ending or self._keyed.sent >= KEYED_RECORDS_MAX:
            return
        keys = [self._keyed.new_key() for _ in range(rng.choice((1, 4)))]
        if rng.random() < 0.5:
            for key in keys:
                self._acknowledge_keyed(key, await client.produce(KEYED, Record(key=key, value=key)))
            return
        async with client.producer(KEYED) as producer:
            deliveries = [await producer.send(key, key=key) for key in keys]
            for key, delivery in zip(keys, deliveries, strict=True):
                self._acknowledge_keyed(key, await delivery.wait())

    def _acknowledge_keyed(self, key: bytes, result: ProduceResult) -> None:
        self.counts["keyed append"] += 1
        self._check_key(key, result.partition, "a producer was told")
        self._keyed.acknowledged[key] = (result.partition, result.base_offset)

    def _check_key(self, key: bytes, partition: int, where: str) -> None:
        expected = partition_of(key, self.parameters.keyed_partitions)
        if partition != expected:
            raise InvariantBroken(f"{where}: key {key!r} is in partition {partition}, and belongs into {expected}")

    async def _consume_keyed(self, name: str) -> None:
        """All partitions at once, from the beginning; sometimes again, by a client that knows nothing."""
        rng = derive(self.seed, name)
        while True:
            try:
                with trio.move_on_after(rng.choice((5.0, 20.0, math.inf))):
                    async with self._client_of_one(rng, name) as (client, target):
                        seen = self._keyed.seen[name] = _SeenKeys(target)
                        async with client.consume(KEYED) as records:
                            async for record in records:
                                seen.take(name, records.partition, record)
                                self._check_key(record.key, records.partition, f"{name} was given")
                                self.counts["keyed record consumed"] += 1
            except OffsetOutOfRange as error:
                raise InvariantBroken(f"{name}: what was committed once is out of range: {error}") from error
            except EventLogError as error:
                self.counts[f"keyed consumer: {error.code}"] += 1
            await trio.sleep(rng.uniform(0, 0.5))

    async def _until_keyed_consumed(self) -> None:
        """A last record in each partition, and all that is acknowledged seen by every consumer whose one node can be reached."""
        cluster = self.cluster
        deadline = trio.current_time() + LIVENESS_SECONDS_MAX
        left = set(range(self.parameters.keyed_partitions))
        async with cluster.client(settings=_CLIENT) as client:
            while left:
                if trio.current_time() > deadline:
                    raise InvariantBroken(f"no progress in {KEYED}/{min(left)}\n{cluster.describe()}")
                key = self._keyed.new_key()
                if partition_of(key, self.parameters.keyed_partitions) in left:
                    try:
                        self._acknowledge_keyed(key, await client.produce(KEYED, Record(key=key, value=key)))
                    except EventLogError as error:
                        self.counts[f"keyed append: {error.code}"] += 1
                    else:
                        left.discard(self._keyed.acknowledged[key][0])

        def have_seen_all() -> bool:
            reachable = {*cluster.running} - {*self.nemesis.broken} - {*self.nemesis.spent}
            keys = self._keyed.acknowledged.keys()
            return all(keys <= seen.keys for seen in self._keyed.seen.values() if seen.target in reachable)

        await cluster.wait_until(have_seen_all, "every consumer of all partitions sees all", LIVENESS_SECONDS_MAX)

    async def _check_keyed_end(self) -> None:
        found: dict[bytes, tuple[int, int]] = {}
        for partition in range(self.parameters.keyed_partitions):
            for name in await self._wait_equal(partition, KEYED):
                for record in await self.cluster.read(name, KEYED, partition):
                    self._check_key(record.key, partition, f"{name} holds")
                    if found.setdefault(record.key, (partition, record.offset)) != (partition, record.offset):
                        raise InvariantBroken(f"{name} holds {record.key!r} at {record.offset}; it is at {found[record.key]} too")
        for key, place in self._keyed.acknowledged.items():
            if found.get(key) != place:
                raise InvariantBroken(f"{key!r} was acknowledged at {place}, and is at {found.get(key)}")

    # The end

    async def _until_alive(self) -> None:
        """A leader of every partition, and a batch acknowledged by each, whatever a client is told at first."""
        cluster = self.cluster
        deadline = trio.current_time() + LIVENESS_SECONDS_MAX
        for partition, history in enumerate(self.histories):
            await cluster.wait_leader(TOPIC, partition, seconds_max=max(deadline - trio.current_time(), 0))
            async with cluster.client(settings=_CLIENT) as client:
                attempt = 0
                while not history.appends or history.appends[-1].client != LAST or history.appends[-1].offset is None:
                    if trio.current_time() > deadline:
                        raise InvariantBroken(f"no progress in {TOPIC}/{partition}\n{cluster.describe()}")
                    attempt += 1
                    await self._append(client, LAST, partition, [b"last %d %d" % (partition, attempt)])

    async def _until_consumed(self) -> None:
        for partition, history in enumerate(self.histories):
            last = history.appends[-1]
            assert last.offset is not None
            for number in range(self.parameters.consumers):
                key = (f"consumer {number}", partition)
                end = last.offset
                await self.cluster.wait_until(
                    lambda key=key, end=end: self._consumed[key] > end,  # type: ignore[misc]
                    f"{key} sees the last record",
                    LIVENESS_SECONDS_MAX,
                )

    async def _check_end(self) -> None:
        cluster = self.cluster
        for partition, history in enumerate(self.histories):
            names = await self._wait_equal(partition)
            logs: dict[str, list[bytes]] = {}
            for name in names:
                records = await cluster.read(name, TOPIC, partition)
                if [record.offset for record in records] != list(range(len(records))):
                    raise InvariantBroken(f"{name}: offsets are not dense")
                logs[name] = [record.value for record in records]
                await self._check_lookups(partition, name, records)
            first = logs[names[0]]
            for name, log in logs.items():
                if log != first:
                    raise InvariantBroken(f"{name} and {names[0]} hold different records")
            problems = check_log(history, first)
            if problems:
                raise InvariantBroken("; ".join(problems))
            self.counts["records"] += len(first)
            await self._check_timestamps(partition, names[0])
            replicas = [cluster.replica(name, TOPIC, partition) for name in names]
            machines = [inside.producers(replica.driver) for replica in replicas if replica is not None]
            if any(machine != machines[0] for machine in machines):
                raise InvariantBroken("machines that have applied the same differ")
        await self._check_keyed_end()

    async def _check_lookups(self, partition: int, name: str, records: list[Record]) -> None:
        """What a node gives from some place in its log on is what stands there. Reading all of it from the start asks no index."""
        rng = derive(self.seed, f"lookups:{name}")
        for wanted in rng.sample(records, min(LOOKUPS, len(records))):
            broker = self.cluster.node(name).broker
            request = ConsumeRequest(topic=TOPIC, partition=partition, max_bytes=1)
            fetched = await broker.fetch(broker.replica(TOPIC, partition), request, wanted.offset)
            found = {record.offset: record for record in decode_records(fetched.batches[0], UNPACKED_BYTES_MAX)}
            if found.get(wanted.offset) != wanted:
                raise InvariantBroken(f"{name}: asked for offset {wanted.offset}, it gave {sorted(found)}")

    async def _check_timestamps(self, partition: int, name: str) -> None:
        """Clocks have jumped, forward and back: what is looked for by time is the first batch in the log that has it."""
        replica = self.cluster.replica(name, TOPIC, partition)
        assert replica is not None
        records = await self.cluster.read(name, TOPIC, partition)
        rng = derive(self.seed, "timestamps")
        for wanted in rng.sample(records, min(3, len(records))):
            expected = next(record.offset for record in records if record.timestamp_ns >= wanted.timestamp_ns)
            found = await replica.offset_at_timestamp(wanted.timestamp_ns)
            # It is the offset of a batch, in which another record may come first.
            if not expected - self.parameters.batch_records_max < found <= expected:
                raise InvariantBroken(f"{name}: time {wanted.timestamp_ns} is at offset {expected}, and found at {found}")

    async def _wait_equal(self, partition: int, topic: str = TOPIC) -> list[str]:
        """Until all nodes that carry the partition, at least a majority of its voters, have the same; their names."""
        cluster = self.cluster
        names: list[str] = []

        def are_equal() -> bool:
            names.clear()
            leader = cluster.leader(topic, partition)
            if leader is None:
                return False
            broken = self.nemesis.broken
            replicas = {
                name: replica
                for name in cluster.names
                if (name == leader or name not in broken) and (replica := cluster.replica(name, topic, partition)) is not None
            }
            if broken:
                # A move to a node that does not come back never ends, and leaves a replica that the group has let go already.
                group = replicas[leader].status().configuration.nodes
                replicas = {name: replica for name, replica in replicas.items() if replica.node_id in group}
            # A leader with damage is still a leader, but cannot be read.
            names.extend(name for name in replicas if name not in self.nemesis.spent)
            states = {(s.last_index, s.last_term, s.applied_index) for s in (replica.status() for replica in replicas.values())}
            (last_index, _, applied_index), *others = sorted(states)
            missing = set(replicas[leader].voters()) - {cluster.node_id(name) for name in replicas}
            is_excused = missing <= {cluster.node_id(name) for name in broken} | {*self.nemesis.spent.values()}
            return not others and last_index == applied_index and is_excused

        await cluster.wait_until(are_equal, f"all replicas of {topic}/{partition} equal", LIVENESS_SECONDS_MAX)
        return names


_CLIENT = ClientSettings(
    attempt_timeout_seconds=1.0,
    request_timeout_seconds=20.0,
    keepalive_seconds=1.0,
    keepalive_timeout_seconds=1.0,
    # Shorter than the patience of this run: a stream may hang between two nodes, of which its client cannot know.
    consumer_idle_seconds=5.0,
)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a seed of the node simulation again, with a line for each step.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--log-level", default="CRITICAL", help="of the nodes' own log lines, which go to standard error")
    arguments = parser.parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(name)s: %(message)s", stream=sys.stderr)
    sys.stdout.write(f"{revision()}\nseed {arguments.seed}\n{describe_run(draw_run(arguments.seed))}\n\n")
    result = run_seed(arguments.seed, write=lambda line: sys.stdout.write(line + "\n"))
    sys.stdout.write("".join(f"{count:12} {what}\n" for what, count in sorted(result.counts.items())) + f"{result.digest}\n")


if __name__ == "__main__":
    main()
