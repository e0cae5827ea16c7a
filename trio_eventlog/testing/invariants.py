"""What must hold of every replica after every step of its driver, looked at from outside.

`Invariants` is a Trio instrument: Trio calls it after each step of each task, so nothing in the product has to. When a driver's
task begins it also puts itself between the driver and three of its own calls (send, apply, log an event), on that one object.

| holds | looked at |
| --- | --- |
| one leader for each term | after each step |
| a leader of one term only ever appends | after each step |
| log matching: same index and term, same entry before it and same bytes | each entry once per replica |
| what is committed is the same everywhere, and durable on a quorum when it first is | each entry once per replica |
| leader completeness: a new leader has everything committed in earlier terms | at each election |
| commit, applied, watermark and log start never go back; applied <= commit <= last | after each step |
| the same bytes applied at the same index, equal machines at the same index | each entry; machines at intervals |
| a vote, or "I hold this entry", leaves after it is durable, on the disk itself | each such message |
| no entry is durable in a term that is not: a crash at any moment leaves a log that its hard state knows | after each step |
| a batch or command is acknowledged when it is as safe as its acks say, and is itself what stands at its index | after each step |
| after a crash the disk holds what was promised, and nothing but zeros where the next write goes | each start |
"""

import copy
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.hard_state import decode_file
from trio_eventlog.codec.segment import MARK_BYTES
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.machine.partition import PartitionMachine
from trio_eventlog.node.proposals import Proposal
from trio_eventlog.node.raft_driver import RaftDriver
from trio_eventlog.node.sleeping import Peers
from trio_eventlog.raft import Event, HardState, Message, MessageType
from trio_eventlog.raft.quorum import joint_committed
from trio_eventlog.records import Acks
from trio_eventlog.testing import inside
from trio_eventlog.testing.disk import SimFile

MACHINE_ENTRIES = 16
"""Machines are compared at every index that this divides."""


class InvariantBroken(AssertionError):
    """Something that must always hold does not."""


@attrs.define(slots=True, eq=False)
class _Entry:
    """An entry that a node holds. The checksum is that of its bytes; None until a node has applied it."""

    previous_term: int
    checksum: int | None = None


@attrs.define(slots=True, eq=False)
class _Group:
    """What is known of a group, from all of its replicas."""

    leaders: dict[int, NodeId] = attrs.field(factory=dict)
    entries: dict[tuple[int, int], _Entry] = attrs.field(factory=dict)
    """By index and term."""
    committed: list[int] = attrs.field(factory=list)
    """Terms of the committed entries, from index 1 on."""
    committed_in: list[tuple[int, int]] = attrs.field(factory=list)
    """(term of the leader, last index committed under it), terms ascending as far as leaders tell at once."""
    machines: dict[int, Any] = attrs.field(factory=dict)
    """By applied index: a copy of the first machine that got there."""
    drivers: dict[NodeId, RaftDriver] = attrs.field(factory=dict)
    """The last one of each node, whether it still runs or not."""


@attrs.define(slots=True, eq=False)
class _Promise:
    """What a node has promised others, and must keep across crashes."""

    term: int = 0
    voted_in: int = 0
    vote: NodeId = NOBODY
    index: int = 0
    index_term: int = 0


@attrs.define(slots=True, eq=False)
class _Seen:
    """A driver as it was after its last step."""

    driver: RaftDriver
    group: _Group
    promise: _Promise
    terms: list[int] = attrs.field(factory=list)
    """Of the entries in its log, from index 1 on."""
    commit: int = 0
    applied: int = 0
    watermark: int = 0
    log_start: int = 0
    led_term: int = 0
    """The term in which it led after its last step; 0 when it did not."""
    checked_state: HardState | None = None
    """The hard state that the disk was last found to hold."""
    proposals: dict[Proposal, bool] = attrs.field(factory=dict)
    """Proposals in flight after the last step, or undecided then; the value: whether the proposal was decided."""


class Invariants(trio.abc.Instrument):
    """Give it to `trio.run`, or add it to a run, before the first node starts.

    Args:
        name_of: how a node is called in messages.
        ignores: tasks of replicas whose messages no node may accept, so that no invariant is checked on them. A node that
            accepts one of their messages all the same breaks an invariant of its own.
        may_lose: whether files were taken from this node, so that it may say that something is lost.

    Attributes:
        marks: rare things seen: the events of the cores, and some of this module's own.
        broken: set at the first breach; `error` is it. An instrument cannot raise.
        on_step: called for each step in which something has changed, with what has; for logs.
    """

    def __init__(
        self,
        name_of: Callable[[NodeId], str] = str,
        *,
        ignores: Callable[[trio.lowlevel.Task], bool] = lambda task: False,
        may_lose: Callable[[NodeId], bool] = lambda node_id: False,
    ) -> None:
        self._ignores = ignores
        self._may_lose = may_lose
        self.marks: Counter[str] = Counter()
        self.broken = trio.Event()
        self.error: InvariantBroken | None = None
        self.on_step: Callable[[RaftDriver, str], None] | None = None
        self._name_of = name_of
        self._groups: dict[GroupId, _Group] = {}
        self._promises: dict[tuple[GroupId, NodeId], _Promise] = {}
        self._seen: dict[object, _Seen] = {}
        """By driver, and by those of its parts that have tasks of their own."""
        self._tasks: dict[trio.lowlevel.Task, _Seen] = {}
        self._lost: set[tuple[GroupId, NodeId]] = set()
        """Replicas that have once noticed that files of theirs were gone."""

    async def watch(self) -> None:
        """Until something is broken; then raises it."""
        await self.broken.wait()
        assert self.error is not None
        raise self.error

    # The instrument

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name in inside.STEPS and not self._ignores(task):
            part = inside.part_of(task)
            if isinstance(part, RaftDriver) and part not in self._seen:
                self._check(self._begin, part)
            # Not there when it was already found broken as it began, or something else before.
            if (seen := self._seen.get(part)) is not None:
                self._tasks[task] = seen

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        seen = self._tasks.get(task)
        if seen is not None:
            self._check(self._look, seen)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._tasks.pop(task, None)

    def _check(self, look: Callable[[Any], None], subject: Any) -> None:
        if self.error is None:
            try:
                look(subject)
            except InvariantBroken as error:
                self.error = error
                self.broken.set()

    # A replica begins

    def _begin(self, driver: RaftDriver) -> None:
        core = inside.core(driver)
        key = (driver.group_id, core.node_id)
        group = self._groups.setdefault(driver.group_id, _Group())
        promise = self._promises.setdefault(key, _Promise())
        seen = _Seen(driver, group, promise)
        for part in inside.parts_with_tasks(driver):
            self._seen[part] = seen
        group.drivers[core.node_id] = driver
        self._interpose(seen)
        if inside.log(driver).recovery.torn_bytes:
            self.marks["torn tail"] += 1
        self._check_end_of_log(seen)
        departed = inside.departed(driver)
        if departed.loss:
            # Files were taken away, and the node knows it. Its promises from here on are checked as before.
            if not self._may_lose(core.node_id):
                raise self._broken_by(seen, f"has lost nothing, and says: {departed.loss}")
            self.marks["loss noticed"] += 1
            self._lost.add((driver.group_id, core.node_id))
            promise.index = promise.index_term = 0
            if departed.is_vote_lost:
                promise.term = promise.voted_in = 0
                promise.vote = NOBODY
        state = inside.hard_state(driver)
        if state.term < promise.term or (state.term == promise.voted_in and state.vote != promise.vote):
            raise self._broken_by(seen, f"came back with {state} after {promise}")
        if (departed.last_term, departed.last_index) >= (promise.index_term, promise.index):
            promise.index = promise.index_term = 0
        elif promise.index > inside.log(driver).base.index and inside.term_in_core(driver, promise.index) != promise.index_term:
            raise self._broken_by(seen, f"came back with a log to {core.last_index} after {promise}")
        self._look(seen)

    def _check_end_of_log(self, seen: _Seen) -> None:
        """What stands behind the last entry would be taken for the end of the next write, should that be torn."""
        active = inside.active_segment(seen.driver)
        if active is not None and isinstance(active.file, SimFile):
            behind = active.file.content()[active.contents.frames_bytes + MARK_BYTES :]
            if any(behind):
                raise self._broken_by(
                    seen, f"begins with {len(behind.rstrip(bytes(1)))} bytes behind the last entry of {active.path}"
                )

    def _interpose(self, seen: _Seen) -> None:
        driver = seen.driver

        def watching_send(send: Callable[..., bool]) -> Callable[..., bool]:
            def sending(group_id: GroupId, message: Message, frames: Sequence[EntryFrame]) -> bool:
                self._check(lambda message: self._check_promise(seen, message), message)
                return send(group_id, message, frames)

            return sending

        def watching_apply(apply: Callable[[EntryFrame], None]) -> Callable[[EntryFrame], None]:
            def applying(frame: EntryFrame) -> None:
                apply(frame)
                self._check(lambda frame: self._check_applied(seen, frame), frame)

            return applying

        def watching_log_event(log_event: Callable[[Event], None]) -> Callable[[Event], None]:
            def logging(event: Event) -> None:
                self.marks[event.kind.name] += 1
                if self.on_step is not None:
                    self.on_step(driver, f"{event.kind.value} {event.text}".rstrip())
                if event.kind.name.startswith("ALARM"):
                    self._check(lambda event: self._alarm(seen, event), event)
                log_event(event)

            return logging

        def watching_fall_asleep(fall_asleep: Callable[[Peers], None]) -> Callable[[Peers], None]:
            def falling_asleep(peers: Peers) -> None:
                self._check_sleeper(seen)
                self.marks[f"fell asleep as {'leader' if inside.core(driver).is_leader else 'follower'}"] += 1
                fall_asleep(peers)

            return falling_asleep

        def watching_rouse(rouse: Callable[[str], None]) -> Callable[[str], None]:
            def rousing(why: str) -> None:
                self.marks[f"woken by {why}"] += driver.sleeping.is_asleep
                rouse(why)

            return rousing

        inside.watch(
            driver,
            send=watching_send,
            apply=watching_apply,
            log_event=watching_log_event,
            fall_asleep=watching_fall_asleep,
            rouse=watching_rouse,
        )

    def _check_sleeper(self, seen: _Seen) -> None:
        """A sleeping group gets no ticks and no messages: a replica that lacks entries would lack them for ever."""
        core = inside.core(seen.driver)
        if not core.last_index == core.commit_index == core.applied_index:
            raise self._broken_by(
                seen, f"falls asleep with applied {core.applied_index}, commit {core.commit_index}, last {core.last_index}"
            )

    def _alarm(self, seen: _Seen, event: Event) -> None:
        core = inside.core(seen.driver)
        if {(seen.driver.group_id, core.node_id), (seen.driver.group_id, event.node)} & self._lost:
            return  # of what is known to be lost
        raise self._broken_by(seen, f"{event.kind.value} ({event.text})")

    # After a step

    def _look(self, seen: _Seen) -> None:
        driver, core = seen.driver, inside.core(seen.driver)
        before = (len(seen.terms), seen.commit)
        self._look_at_log(seen)
        last_term, saved = inside.log(driver).last_term, inside.hard_state(driver)
        if last_term > saved.term:
            raise self._broken_by(seen, f"holds an entry of term {last_term} and has saved {saved}")
        if core.is_leader:
            self._look_at_leader(seen)
        else:
            seen.led_term = 0
        commit, applied = core.commit_index, core.applied_index
        if commit < seen.commit or applied < seen.applied:
            raise self._broken_by(seen, f"went back from commit {seen.commit}, applied {seen.applied} to {commit}, {applied}")
        if not applied <= commit <= core.last_index:
            raise self._broken_by(seen, f"applied {applied}, commit {commit}, last {core.last_index}")
        if commit > seen.commit:
            self._look_at_commits(seen, commit)
            seen.commit = commit
        seen.applied = applied
        if seen.proposals or inside.has_proposals_under_way(driver):
            self._look_at_proposals(seen)
        if self.on_step is not None and before != (len(seen.terms), commit):
            self.on_step(seen.driver, f"last {before[0]} -> {len(seen.terms)}, commit {before[1]} -> {commit}")

    def _look_at_log(self, seen: _Seen) -> None:
        """Follow the log to where it is now, and compare what is new in it with what others hold there."""
        driver, terms = seen.driver, seen.terms
        last = inside.core(driver).last_index
        if last == len(terms) and (not terms or inside.term_in_core(driver, last) == terms[-1]):
            return
        removed = inside.log(driver).base.index
        if len(terms) < removed:
            # It begins without what it has removed, which was committed.
            terms += seen.group.committed[len(terms) : removed]
        kept = min(last, len(terms))
        while kept > removed and inside.term_in_core(driver, kept) != terms[kept - 1]:
            kept -= 1
        if kept < len(terms):
            if seen.led_term and seen.led_term == inside.core(seen.driver).term:
                raise self._broken_by(seen, f"leads term {seen.led_term} and rewrote its log from {kept + 1} on")
            self.marks["suffix replaced"] += 1
            if kept < seen.promise.index:
                # Entries that were acknowledged and never committed, which a later leader does not have.
                seen.promise.index = kept
                seen.promise.index_term = terms[kept - 1] if kept else 0
            del terms[kept:]
        entries = seen.group.entries
        previous_term = terms[-1] if terms else 0
        for index in range(kept + 1, last + 1):
            term = inside.term_in_core(driver, index)
            assert term is not None
            known = entries.setdefault((index, term), _Entry(previous_term))
            if known.previous_term != previous_term:
                raise self._broken_by(
                    seen,
                    f"entry {index} of term {term} follows one of term {previous_term} here, of {known.previous_term} elsewhere",
                )
            terms.append(term)
            previous_term = term

    def _look_at_leader(self, seen: _Seen) -> None:
        core = inside.core(seen.driver)
        if seen.led_term == core.term:
            return
        leader = seen.group.leaders.setdefault(core.term, core.node_id)
        if leader != core.node_id:
            raise self._broken_by(seen, f"leads term {core.term}, which {self._name_of(leader)} leads")
        self.marks["elected"] += 1
        seen.led_term = core.term
        index = max((index for term, index in seen.group.committed_in if term < core.term), default=0)
        # By log matching the last one speaks for all.
        if index and (index > len(seen.terms) or seen.terms[index - 1] != seen.group.committed[index - 1]):
            raise self._broken_by(seen, f"was elected in term {core.term} without entry {index}, which is committed")

    def _look_at_commits(self, seen: _Seen, commit: int) -> None:
        group, core = seen.group, inside.core(seen.driver)
        committed = group.committed
        for index in range(seen.commit + 1, min(commit, len(committed)) + 1):
            if committed[index - 1] != seen.terms[index - 1]:
                raise self._broken_by(seen, f"committed {index} of term {seen.terms[index - 1]}, others of {committed[index - 1]}")
        if commit <= len(committed):
            return
        if seen.commit:
            # Not in a new life of the node: its former life may have been told a commit index that no other node remembers.
            configuration = core.configuration

            def held(node_id: NodeId) -> int:
                driver = group.drivers.get(node_id)
                if driver is None:
                    return 0
                log = inside.log(driver)
                last = min(commit, log.last_index)
                while last > log.base.index and log.term(last) != seen.terms[last - 1]:
                    last -= 1
                return last

            durable = joint_committed(configuration.voters, configuration.voters_outgoing, held)
            if durable < commit:
                raise self._broken_by(seen, f"commits {commit}, and a quorum of {configuration} holds {durable}")
        committed.extend(seen.terms[len(committed) : commit])
        group.committed_in.append((core.term, commit))

    def _look_at_proposals(self, seen: _Seen) -> None:
        under_way = dict.fromkeys(inside.proposals_under_way(seen.driver))
        proposals = dict.fromkeys((*seen.proposals, *under_way))
        for proposal in proposals:
            # Checked once: an answered proposal may stay in flight, and its entry may be replaced later without harm.
            is_answered = proposal.is_decided and not seen.proposals.get(proposal) and not proposal.has_failed
            if is_answered and proposal.acks is not Acks.NONE:
                self._check_acknowledged(seen, proposal)
        seen.proposals = {item: item.is_decided for item in proposals if item in under_way or not item.is_decided}

    def _check_acknowledged(self, seen: _Seen, proposal: Proposal) -> None:
        index, term, committed = proposal.index, proposal.term, seen.group.committed
        if proposal.acks is Acks.QUORUM:
            if index > len(committed) or committed[index - 1] != term:
                others = committed[index - 1 : index] or "nothing"
                raise self._broken_by(seen, f"acknowledges {index} of term {term}, committed there is {others}")
            return
        self._check_durable(seen, index)
        held = inside.log(seen.driver).term(index)
        if held != term:
            raise self._broken_by(seen, f"acknowledges {index} of term {term}, and holds one of {held}")
        self.marks["acknowledged by the leader alone"] += index > len(committed)

    # What a driver does in a step

    def _check_applied(self, seen: _Seen, frame: EntryFrame) -> None:
        checksum = zlib.crc32(frame.raw)
        entry = seen.group.entries.get((frame.index, frame.term))
        if entry is None:
            raise self._broken_by(seen, f"applied entry {frame.index} of term {frame.term}, which nobody was seen to hold")
        if entry.checksum is None:
            entry.checksum = checksum
        if entry.checksum != checksum:
            raise self._broken_by(seen, f"entry {frame.index} of term {frame.term} has other bytes here than elsewhere")
        machine = inside.machine(seen.driver)
        watermark = getattr(machine, "high_watermark", 0)
        if watermark < seen.watermark:
            raise self._broken_by(seen, f"the watermark went back from {seen.watermark} to {watermark}")
        seen.watermark = watermark
        log_start = machine.log_start.offset if isinstance(machine, PartitionMachine) else 0
        if log_start < seen.log_start:
            raise self._broken_by(seen, f"the log start went back from {seen.log_start} to {log_start}")
        seen.log_start = log_start
        if frame.index % MACHINE_ENTRIES == 0:
            known = seen.group.machines.get(frame.index)
            if known is None:
                seen.group.machines[frame.index] = copy.deepcopy(vars(machine))
            elif known != vars(machine):
                raise self._broken_by(seen, f"machines that have applied {frame.index} differ: {vars(machine)}, elsewhere {known}")
            else:
                self.marks["machines compared"] += 1

    def _check_promise(self, seen: _Seen, message: Message) -> None:
        """Nothing leaves a node before what it promises is durable."""
        promise, driver = seen.promise, seen.driver
        if message.reject or message.term != inside.core(driver).term:
            return
        if message.type is MessageType.VOTE_RESPONSE:
            self._check_hard_state(seen)
            promise.term, promise.voted_in, promise.vote = message.term, message.term, inside.vote(driver)
            if promise.vote != message.to:
                raise self._broken_by(seen, f"grants {self._name_of(message.to)} what {self._name_of(promise.vote)} has")
        elif message.type is MessageType.APPEND_RESPONSE:
            self._check_hard_state(seen)
            self._check_durable(seen, message.index)
            promise.term = message.term
            if message.index > promise.index:
                promise.index, promise.index_term = message.index, inside.log(driver).term(message.index)

    def _check_hard_state(self, seen: _Seen) -> None:
        driver = seen.driver
        state = inside.hard_state(driver)
        if state.term != inside.core(driver).term:
            raise self._broken_by(seen, f"speaks in term {inside.core(driver).term} and has saved {state}")
        file = inside.hard_state_file(driver)
        if state is not seen.checked_state and isinstance(file, SimFile):
            try:
                found = decode_file(file.durable_content()).state
            except CodecError as error:
                raise self._broken_by(seen, f"relies on {state}, and the disk has nothing: {error}") from error
            if (found.term, found.vote) != (state.term, state.vote):
                raise self._broken_by(seen, f"relies on {state}, and the disk has {found}")
            seen.checked_state = state

    def _check_durable(self, seen: _Seen, index: int) -> None:
        log = inside.log(seen.driver)
        if index > log.last_index:
            raise self._broken_by(seen, f"acknowledges {index}, and the log is durable to {log.last_index}")
        for segment in inside.newest_segments(seen.driver, 2):
            if isinstance(segment.file, SimFile) and segment.contents.base_index <= index:
                unsynced = segment.file.unsynced_from()
                if unsynced < segment.contents.frames_bytes or not segment.file.is_named_durably():
                    raise self._broken_by(seen, f"acknowledges {index}, and {segment.path} is not durable from {unsynced} on")

    def _broken_by(self, seen: _Seen, what: str) -> InvariantBroken:
        driver = seen.driver
        return InvariantBroken(f"{self._name_of(inside.core(driver).node_id)}: {driver.name}: {what}")
