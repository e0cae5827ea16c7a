"""What `Invariants` is there to notice, each planted once."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from trio_eventlog.client.client import Client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.machine.partition import LogStart
from trio_eventlog.machine.producers import Remembered
from trio_eventlog.node.disk_writer import DiskWriter
from trio_eventlog.node.proposals import Appended, Proposal, ProposalsUnderWay
from trio_eventlog.raft import node as raft_node
from trio_eventlog.raft import quorum
from trio_eventlog.raft.ready import Role
from trio_eventlog.records import Acks, Batch
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.testing import determinism
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode, SimFile
from trio_eventlog.testing.invariants import MACHINE_ENTRIES, InvariantBroken, Invariants

Story = Callable[[Cluster, Client], Awaitable[None]]


def watched(story: Story) -> Invariants:
    """Run the story on three nodes. Raises the breach, if there is one."""
    invariants = Invariants()

    async def run() -> None:
        trio.lowlevel.add_instrument(invariants)
        async with Cluster(3, seed=1) as cluster, trio.open_nursery() as nursery:
            nursery.start_soon(invariants.watch)
            async with cluster.client(settings=ClientSettings(attempt_timeout_seconds=1.0)) as client:
                await client.create_topic("t")
                await cluster.wait_topic("t")
                await client.produce("t", b"first")
                await story(cluster, client)
                await client.produce("t", b"last")
                await cluster.wait_converged("t")
            nursery.cancel_scope.cancel()

    try:
        determinism.run(run, seed=1)
    except BaseExceptionGroup as group:
        found = group.subgroup(InvariantBroken)
        if found is None:
            raise
        error: BaseException = found
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return invariants


async def nothing(cluster: Cluster, client: Client) -> None:
    pass


def driver_of(cluster: Cluster, name: str) -> Any:
    replica = cluster.replica(name, "t")
    assert replica is not None
    return replica.driver


async def follower_of(cluster: Cluster) -> str:
    leader = await cluster.wait_leader("t")
    return next(name for name in cluster.names if name != leader)


def test_a_cluster_that_keeps_them_is_left_alone() -> None:
    """Crashes, restarts, a cut leader: everything is looked at, and nothing is found."""

    async def story(cluster: Cluster, client: Client) -> None:
        for _ in range(3):
            leader = await cluster.wait_leader("t")
            cluster.isolate(leader)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.produce, "t", b"somewhere")
                await cluster.wait_leader("t", other_than=leader)
                cluster.heal()
            cluster.crash(await cluster.wait_leader("t"))
            for name in cluster.names:
                if not cluster.is_running(name):
                    await cluster.start(name)
            for number in range(10):
                await client.produce("t", b"%d" % number)

    marks = watched(story).marks
    assert marks["elected"] >= 4
    assert marks["machines compared"]


@pytest.mark.parametrize("file", ["hard_state", ".log"])
def test_an_answer_before_the_disk_has_it(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that returns without having synced: votes and acknowledgements leave too early."""
    sync = SimFile._sync

    def lies(self: SimFile) -> None:
        if file not in self.path:
            sync(self)

    monkeypatch.setattr(SimFile, "_sync", lies)
    with pytest.raises(InvariantBroken, match=r"is not durable from|and the disk has"):
        watched(nothing)


def test_a_hard_state_that_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(self: HardStateFile, state: Any) -> None:
        self._state = state
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(HardStateFile, "save", forgets)
    with pytest.raises(InvariantBroken, match="and the disk has HardState"):
        watched(nothing)


def test_an_answer_that_does_not_wait_for_the_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own order."""
    put = DiskWriter.put

    def hurries(self: DiskWriter, item: Any) -> None:
        put(self, attrs.evolve(item, responses=(), token=None, done=None))
        self._written.append(item)
        self._wake()

    monkeypatch.setattr(DiskWriter, "put", hurries)
    with pytest.raises(InvariantBroken, match=r"has saved|and the log is durable to"):
        watched(nothing)


def test_an_entry_before_its_term() -> None:
    """A crash now would leave a log that is ahead of its hard state."""

    async def story(cluster: Cluster, client: Client) -> None:
        hard_state = driver_of(cluster, await cluster.wait_leader("t"))._hard_state
        hard_state._state = attrs.evolve(hard_state.state, term=0)
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="holds an entry of term 1 and has saved"):
        watched(story)


def test_a_commit_without_a_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest index of any voter instead of the median's."""
    wrong = {**vars(quorum), "joint_committed": lambda incoming, outgoing, acked: max(map(acked, incoming))}
    monkeypatch.setattr(raft_node, "quorum", SimpleNamespace(**wrong))

    async def story(cluster: Cluster, client: Client) -> None:
        cluster.isolate(await follower_of(cluster))
        await client.produce("t", b"x" * 1000)

    with pytest.raises(InvariantBroken, match=r"a quorum of .* holds"):
        watched(story)


@pytest.mark.parametrize(
    ("acks", "what"), [(Acks.LEADER, "and the log is durable to"), (Acks.QUORUM, r"committed there is nothing")]
)
def test_an_acknowledgement_that_comes_too_early(acks: Acks, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the core has taken the batch."""
    add = ProposalsUnderWay.add

    def hurries(self: ProposalsUnderWay, proposal: Proposal, *more: Any) -> None:
        add(self, proposal, *more)
        if isinstance(proposal.payload, Batch):
            proposal.resolve(Appended(0, 1))

    async def story(cluster: Cluster, client: Client) -> None:
        monkeypatch.setattr(ProposalsUnderWay, "add", hurries)
        await client.produce("t", b"x", acks=acks)

    with pytest.raises(InvariantBroken, match=what):
        watched(story)


def test_an_acknowledgement_of_another_entry() -> None:
    """What was proposed in a former term, and replaced."""

    async def story(cluster: Cluster, client: Client) -> None:
        driver = driver_of(cluster, await cluster.wait_leader("t"))
        proposal = Proposal(b"", Acks.QUORUM, 0, index=1, term=0)
        driver.proposing._under_way._by_index[1] = proposal
        proposal.resolve(None)
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match=r"acknowledges 1 of term 0, committed there is \[1\]"):
        watched(story)


def test_two_leaders_of_a_term() -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        driver_of(cluster, await follower_of(cluster))._core._role = Role.LEADER
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="leads term"):
        watched(story)


def test_a_leader_that_rewrites_its_log() -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        core = driver_of(cluster, await cluster.wait_leader("t"))._core
        core._log.last_index -= 1
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="rewrote its log"):
        watched(story)


@pytest.mark.parametrize("field", ["committed", "applied"])
def test_an_index_that_goes_back(field: str) -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        log = driver_of(cluster, await cluster.wait_leader("t"))._core._log
        setattr(log, field, getattr(log, field) - 1)
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="went back from"):
        watched(story)


def test_a_log_start_that_goes_back() -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        name = await follower_of(cluster)
        driver = driver_of(cluster, name)
        for start in (LogStart(1, 1), LogStart()):
            driver.applying._applier._machine.log_start = start
            await client.produce("t", b"one more")
            await cluster.wait_converged("t")

    with pytest.raises(InvariantBroken, match="the log start went back from 1 to 0"):
        watched(story)


def test_other_bytes_at_the_same_index() -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        driver = driver_of(cluster, await follower_of(cluster))
        apply = driver.applying._apply
        driver.applying._apply = lambda frame: apply(attrs.evolve(frame, raw=bytes(frame.raw)[:-1] + b"?"))

    with pytest.raises(InvariantBroken, match="other bytes here"):
        watched(story)


def test_machines_that_differ() -> None:
    async def story(cluster: Cluster, client: Client) -> None:
        driver_of(cluster, await follower_of(cluster)).applying._applier._machine.producers.record(77, 0, Remembered(0, 1, 0))
        for number in range(2 * MACHINE_ENTRIES):
            await client.produce("t", b"%d" % number)

    with pytest.raises(InvariantBroken, match="machines that have applied"):
        watched(story)


@pytest.mark.parametrize(
    ("file", "what", "is_seen"),
    [
        ("hard_state", "has lost nothing, and says: the hard state", True),
        ("hard_state", "came back with HardState", False),
        (".log", "came back with a log to 0", False),
    ],
)
def test_a_promise_that_a_crash_has_undone(file: str, what: str, is_seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was durable is gone although nobody took it away: the node sees that, or begins as if nothing had been."""
    if not is_seen:
        monkeypatch.setattr("trio_eventlog.node.replica.find_loss", lambda held, noted: None)

    async def story(cluster: Cluster, client: Client) -> None:
        name = await follower_of(cluster)
        driver = driver_of(cluster, name)
        cluster.crash(name, CrashMode.KEEP)
        for path in cluster.disk(name).paths():
            if f"{driver.group_id:016x}/" in path and path.endswith(file):
                cluster.disk(name).delete(path)
        await cluster.start(name)
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match=what):
        watched(story)


def test_a_torn_tail_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery finds the end of the log, and does not cut the file there."""

    async def stays(self: SimFile, size_bytes: int) -> None:
        await trio.lowlevel.checkpoint()

    async def story(cluster: Cluster, client: Client) -> None:
        name = await follower_of(cluster)
        directory = f"{driver_of(cluster, name).group_id:016x}/"
        cluster.crash(name, CrashMode.KEEP)
        disk = cluster.disk(name)
        path = next(path for path in disk.paths() if directory in path and path.endswith(".log"))
        disk.put(path, disk.content(path).rstrip(bytes(1)) + b"torn" * 20)
        monkeypatch.setattr(SimFile, "truncate", stays)
        await cluster.start(name)
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="bytes behind the last entry"):
        watched(story)


def test_a_leader_elected_without_what_is_committed() -> None:
    """A voter that grants every vote, and a candidate with an old log."""

    async def story(cluster: Cluster, client: Client) -> None:
        name = await follower_of(cluster)
        cluster.isolate(name)
        await client.produce("t", b"x")
        core = driver_of(cluster, name)._core
        core._term += 1
        core._role = Role.LEADER
        await trio.sleep(1)

    with pytest.raises(InvariantBroken, match="which is committed"):
        watched(story)
