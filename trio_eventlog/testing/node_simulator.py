"""Whole nodes under faults, by seed: first safety, while everything breaks; then, when all heals, liveness.

    python -m trio_eventlog.testing.node_simulator SEED

runs one seed again and prints a line for each step, with a column for each node.

The parts, each with a reference to the run: `node_producers.py`, `node_readers.py`, `node_keyed.py` (a topic with keys),
`node_operator.py` (who adds, drains, removes, replaces), `node_ending.py` (what has to hold at the end). `node_run_values.py`
has what they share.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable

import attrs
import trio

from trio_eventlog.errors import (
    DamagedData,
    NodeRemoved,
    StorageFailed,
)
from trio_eventlog.ids import NodeId
from trio_eventlog.node.raft_driver import RaftDriver
from trio_eventlog.raft.ready import Role
from trio_eventlog.testing import determinism, inside
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.history import History
from trio_eventlog.testing.invariants import Invariants
from trio_eventlog.testing.lives import is_outcast
from trio_eventlog.testing.nemesis import FAULTS, Nemesis, draw_parameters
from trio_eventlog.testing.node_ending import RunEnding
from trio_eventlog.testing.node_keyed import KeyedClients
from trio_eventlog.testing.node_laggards import SimulatedLaggards
from trio_eventlog.testing.node_operator import SimulatedOperator
from trio_eventlog.testing.node_producers import SimulatedProducers
from trio_eventlog.testing.node_readers import SimulatedReaders
from trio_eventlog.testing.node_remover import SimulatedRemover
from trio_eventlog.testing.node_run_values import (
    CHAOS_SECONDS,
    CLIENT,
    KEYED,
    RUN_SECONDS_MAX,
    TOPIC,
    RunParameters,
)
from trio_eventlog.testing.revision import revision

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
    "trim",
    "retention",
    "log start found by a consumer",
    "log began later at the end",
    "catch-up by files",
    "catch-up cut by a crash",
    "leader crashed amid a catch-up",
    "part of a segment kept",
    "snapshot installed",
    "replaced what was spent",
    "stopped itself: StorageFailed",
    "room ran out",
    "append refused: DISK_FULL",
    "damage mended",
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

FALLING_BEHIND = 0.3
"""The share of the runs in which nodes fall far behind."""
FAR_BEHIND = {
    "tail_cache_bytes": 4096,
    "segment_bytes": 4096,
    "catch_up_bytes_min": 4096,
    "snapshot_bytes_min": 4096,
    "snapshot_seconds": 1.0,
    "transfer_bytes_per_second": 32768,
}
"""Settings with which a node that was away for some seconds catches up by files, slowly enough to be cut amid one."""


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
    parameters = RunParameters(
        nodes=rng.choice((3, 3, 3, 4, 5)) if not spares else 3,
        spares=spares,
        drift=rng.choice((0.0, 0.1, 0.3)),
        partitions=rng.choice((1, 1, 2)),
        replicas=rng.choice((0, 0, 0, 1, 3)),
        keyed_partitions=derive(seed, "keyed partitions").choice((0, 0, 2, 3)),
        producers=producers,
        plain_producers=plain_producers,
        simple_producers=simple_producers,
        removals=derive(seed, "removals").choice((0.0, 0.0, 0.3, 1.0)),
        falls_behind=False,
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
            "catch_up_bytes_min": derive(seed, "catch_up_bytes_min").choice((4096, 16384, 65536, 0)),
            # Slow enough to be cut by a fault, fast enough that a whole log is fetched well before liveness is judged.
            "transfer_bytes_per_second": derive(seed, "transfer_bytes_per_second").choice((0, 32768, 131072)),
            "snapshot_bytes_min": derive(seed, "snapshot_bytes_min").choice((4096, 4096, 65536)),
            "snapshot_seconds": derive(seed, "snapshot_seconds").choice((1.0, 5.0, 600.0)),
            "replay_bytes_max": derive(seed, "replay_bytes_max").choice((64 << 10, 1 << 30)),
            "retention_check_seconds": 1.0,
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
            "scrub_interval_seconds": derive(seed, "scrub").choice((1.0, 5.0)),
            "voters_wanted": rng.choice((3, 5)),
        },
        faults=draw_parameters(rng),
    )
    return _falling_behind(parameters) if derive(seed, "falls behind").random() < FALLING_BEHIND else parameters


def _falling_behind(parameters: RunParameters) -> RunParameters:
    """The same run with more load, amid fewer other faults: the log grows while a node is away, and it catches up by files."""
    producers = parameters.producers + parameters.plain_producers + parameters.simple_producers
    return attrs.evolve(
        parameters,
        falls_behind=True,
        value_bytes_max=3000,
        pause_seconds_max=producers * 0.5,
        settings={**parameters.settings, **FAR_BEHIND},
        faults=attrs.evolve(parameters.faults, interval_seconds=3.0),
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
    run = NodeRun(seed, parameters)
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


class NodeRun:
    """One run: the cluster, its clients, the faults and what is found."""

    def __init__(self, seed: int, parameters: RunParameters) -> None:
        self.seed = seed
        self.parameters = parameters
        self.cluster = Cluster(
            parameters.nodes + parameters.spares,
            founders=parameters.nodes,
            seed=seed,
            may_fail=self.may_fail,
            **parameters.settings,
        )
        for name in self.cluster.names:
            tick_seconds = parameters.settings["tick_seconds"] * derive(seed, f"clock:{name}").uniform(1, 1 + parameters.drift)
            self.cluster.settings_of[name]["tick_seconds"] = tick_seconds
        # A topic may have fewer replicas than there are voters; a single one must never be damaged.
        voters_min = min(parameters.nodes, parameters.replicas or parameters.nodes, parameters.settings["voters_wanted"])
        self.nemesis = Nemesis(
            self.cluster, parameters.faults, derive(seed, "nemesis"), start=self.start, spendable=(voters_min - 1) // 2
        )
        self.histories = [History() for _ in range(parameters.partitions)]
        self.counts: Counter[str] = Counter()
        self.is_ending = False
        self.invariants = Invariants(self.cluster.called, ignores=is_outcast, may_lose=self._may_lose)
        self.operator = SimulatedOperator(self)
        self.remover = SimulatedRemover(self)
        self.laggards = SimulatedLaggards(self)
        self.producers = SimulatedProducers(self)
        self.readers = SimulatedReaders(self)
        self.keyed = KeyedClients(self)
        self.ending = RunEnding(self)

    async def run(self) -> None:
        cluster, parameters = self.cluster, self.parameters
        trio.lowlevel.add_instrument(self.invariants)
        async with cluster, trio.open_nursery() as watching:
            watching.start_soon(self.invariants.watch)
            async with cluster.client(settings=CLIENT) as client:
                replicas = min(parameters.replicas, parameters.nodes)
                await client.create_topic(TOPIC, partitions=parameters.partitions, replicas=replicas)
                await cluster.wait_topic(TOPIC)
                if parameters.keyed_partitions:
                    await client.create_topic(KEYED, partitions=parameters.keyed_partitions)
                    await cluster.wait_topic(KEYED)
            async with trio.open_nursery() as clients:
                for number in range(parameters.producers):
                    clients.start_soon(self.producers.produce, f"producer {number}")
                for number in range(parameters.plain_producers):
                    clients.start_soon(self.producers.produce_plainly, f"plain producer {number}", 1000 + number)
                for number in range(parameters.simple_producers):
                    clients.start_soon(self.producers.produce_simply, f"simple producer {number}")
                for number in range(parameters.readers):
                    clients.start_soon(self.readers.read, f"reader {number}")
                if parameters.keyed_partitions:
                    for number in range(2):
                        clients.start_soon(self.keyed.produce_keyed, f"keyed producer {number}")
                async with trio.open_nursery() as consumers:
                    if parameters.keyed_partitions:
                        for number in range(2):
                            consumers.start_soon(self.keyed.consume_keyed, f"keyed consumer {number}")
                    for number in range(parameters.consumers):
                        consumers.start_soon(self.readers.consume, f"consumer {number}")
                    with trio.move_on_after(CHAOS_SECONDS):
                        async with trio.open_nursery() as trouble:
                            trouble.start_soon(self.nemesis.run)
                            trouble.start_soon(self.operator.operate)
                            trouble.start_soon(self.operator.say_new_things)
                            if parameters.removals:
                                trouble.start_soon(self.remover.remove)
                            if parameters.falls_behind:
                                trouble.start_soon(self.laggards.fall_behind)
                                trouble.start_soon(self.laggards.cut_catch_ups)
                    await self.nemesis.end()
                    self.is_ending = True
                    watching.start_soon(self.operator.bring_back_for_ever)
                    # From here on it has to work, and in time.
                    await self.ending.until_alive()
                    await self.ending.until_consumed()
                    if parameters.keyed_partitions:
                        await self.keyed.until_keyed_consumed()
                    consumers.cancel_scope.cancel()
            await self.ending.check_end()
            watching.cancel_scope.cancel()
        self.counts.update(self.nemesis.counts)
        self.counts.update(self.invariants.marks)

    async def start(self, name: str) -> None:
        """With an empty disk if the node is known to be removed. If it is and nobody here knows, it ends, and is seen again."""
        cluster = self.cluster
        if not cluster.is_new(name) and cluster.node_id(name) in cluster.removed_ids():
            self.counts["replaced"] += 1
            cluster.wipe(name)
        await cluster.start(name)

    def _may_lose(self, node_id: NodeId) -> bool:
        return node_id in self.nemesis.spent.values() or node_id in self.nemesis.ever_wounded

    def may_fail(self, name: str, error: BaseException) -> bool:
        """What a node may stop itself for: that it was removed, and what was done to its disk."""
        if isinstance(error, NodeRemoved):
            return True
        return isinstance(error, StorageFailed | DamagedData) and self.nemesis.explains(name)


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
