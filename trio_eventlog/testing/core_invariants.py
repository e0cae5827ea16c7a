"""What Raft promises, checked after every event of a core simulation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    OutOfLog,
    RaftNode,
    ReadMode,
    StorageAppend,
)
from trio_eventlog.testing.core_replicas import (
    ENTRIES_MAX,
    ENTRY_BYTES_MAX,
    Checkpoint,
    Replica,
    next_digest,
)
from trio_eventlog.testing.core_trace import TICK

if TYPE_CHECKING:
    from trio_eventlog.testing.core_simulator import CoreSimulation


class CoreInvariants:
    """Looks at the node concerned, from its disk and not from the opinion of its core."""

    def __init__(self, simulation: "CoreSimulation") -> None:
        self.sim = simulation
        self.leaders: dict[int, NodeId] = {}
        self.votes: dict[tuple[int, NodeId], NodeId] = {}
        self.entries: dict[tuple[int, int], tuple[Entry, int]] = {}
        """Every entry ever handed to a disk, by (index, term), with the term before it."""
        self.committed: list[Entry] = []
        """What any node has committed, from index 1 on."""
        self.committed_in: list[int] = []
        """In which term each of these was committed, which is its own or a later one."""
        self.digests: list[bytes] = [b""]
        """The machine's state after each committed index."""
        self.configurations: dict[int, Configuration] = {}
        """The machine's configuration after each applied index."""
        self.commit_floor = 0
        """Highest commit index any node has ever shown: what a read asked for from now on must cover."""
        self.released: set[int] = set()
        """Terms whose leaders have told someone to campaign: no promise made to them holds."""

    def check(self, replica: Replica, core: RaftNode) -> None:
        if core.is_leader:
            leader = self.leaders.setdefault(core.term, replica.node_id)
            if leader != replica.node_id:
                self.sim.fail(f"{leader} and {replica.node_id} both lead term {core.term}")
            if replica.led_term != core.term:
                replica.led_term = core.term
                replica.heard = dict.fromkeys(self.sim.replicas, replica.ticks)
                self.check_election(replica, core)
                self.check_leader_completeness(replica, core)
            elif core.commit_index > replica.commit_seen:
                if self.sim.nodes.term(replica, core.commit_index) != core.term:
                    # Counting copies says nothing about an older entry: another leader may still replace it (paper, figure 8).
                    self.sim.fail(f"leader {replica.node_id} of term {core.term} commits an older entry, {core.commit_index}")
                if (
                    replica.commit_seen >= replica.log.base_index
                    and self.sim.nodes.term(replica, replica.commit_seen + 1) != core.term
                ):
                    self.sim.counts["older entries committed by a newer one"] += 1
        commit = core.commit_index
        if commit < replica.commit_seen:
            self.sim.fail(f"{replica.node_id}: commit went back from {replica.commit_seen} to {commit}")
        if commit > replica.commit_seen:
            self.check_committed(replica, core, commit)
            replica.commit_seen = commit
            self.commit_floor = max(self.commit_floor, commit)
        if not core.applied_index <= commit <= core.last_index:
            self.sim.fail(f"{replica.node_id}: applied {core.applied_index}, commit {commit}, last {core.last_index}")
        if core.applied_index < replica.applied_seen:
            self.sim.fail(f"{replica.node_id}: applied went back from {replica.applied_seen} to {core.applied_index}")
        replica.applied_seen = core.applied_index

    def check_election(self, replica: Replica, core: RaftNode) -> None:
        """A new leader has the votes of a majority of each half, by what the voters have said (thesis, section 4.3)."""
        granted = {node for node in self.sim.replicas if self.votes.get((core.term, node)) == replica.node_id}
        for voters in (core.configuration.voters, core.configuration.voters_outgoing):
            if voters and 2 * len(voters & granted) <= len(voters):
                self.sim.fail(f"{replica.node_id} leads term {core.term} in {core.configuration} by the votes of {sorted(granted)}")

    def check_leader_completeness(self, replica: Replica, core: RaftNode) -> None:
        """A new leader holds every entry that was committed in an earlier term than its own (paper, section 5.4).

        One whose votes were long on their way leads when entries have been committed in later terms, and they are nothing to it.
        """
        for entry, committed_in in zip(self.committed, self.committed_in, strict=True):
            if committed_in >= core.term:
                break
            if entry.index <= replica.log.base_index:
                continue
            try:
                held = self.sim.nodes.entry(replica, entry.index)
            except OutOfLog:
                self.sim.fail(f"leader {replica.node_id} of term {core.term} lacks committed {entry.term}/{entry.index}")
            else:
                if (held.term, held.payload) != (entry.term, entry.payload):
                    self.sim.fail(f"leader {replica.node_id} has {held.term}/{held.index}, committed is {entry.term}")

    def check_committed(self, replica: Replica, core: RaftNode, commit: int) -> None:
        """What this node takes for committed is what all others do, and it is durable on a quorum."""
        for index in range(max(replica.commit_seen, replica.log.base_index) + 1, commit + 1):
            entry = self.sim.nodes.entry(replica, index)
            if index <= len(self.committed):
                known = self.committed[index - 1]
                if (known.term, known.payload) != (entry.term, entry.payload):
                    self.sim.fail(f"{replica.node_id} commits {entry.term}/{index}, committed before was {known.term}/{index}")
            else:
                if index != len(self.committed) + 1:
                    self.sim.fail(f"{replica.node_id} commits {index} after {len(self.committed)}")
                self.check_durable_on_quorum(core, entry)
                self.committed.append(entry)
                self.committed_in.append(core.term)
                self.digests.append(next_digest(self.digests[-1], entry))

    def check_durable_on_quorum(self, core: RaftNode, entry: Entry) -> None:
        """Counted on the disks, not in the cores."""
        holders = set()
        for node, replica in self.sim.replicas.items():
            log = replica.log
            if log.base_index >= entry.index or (log.last_index >= entry.index and log.term(entry.index) == entry.term):
                holders.add(node)
        for voters in (core.configuration.voters, core.configuration.voters_outgoing):
            if voters and 2 * len(voters & holders) <= len(voters):
                self.sim.fail(f"{core.node_id} commits {entry.term}/{entry.index}; only {sorted(holders)} hold it")

    def check_change_durable(self, replica: Replica, entry: Entry) -> None:
        """A change in a log says that those before it are committed, and the same disk has to say so (`StorageAppend.sync_commit`).

        Otherwise this node could wake up two changes back, and win an election there.
        """
        if entry.kind is EntryKind.CONFIGURATION:
            for index in range(max(replica.durable_commit, replica.log.base_index) + 1, entry.index):
                if replica.log.entry(index).kind is EntryKind.CONFIGURATION:
                    self.sim.fail(
                        f"{replica.node_id} saves change {entry.index} after {index}, committed is {replica.durable_commit}"
                    )

    def check_one_change(self, replica: Replica, core: RaftNode, entries: Sequence[Entry]) -> None:
        """No change before the last one is applied: quorums two changes apart need not overlap (thesis, section 4.1)."""
        first = entries[0].index
        before = 0
        for index in range(max(core.applied_index, replica.log.base_index) + 1, entries[-1].index + 1):
            entry = entries[index - first] if index >= first else self.sim.nodes.entry(replica, index)
            if entry.kind is EntryKind.CONFIGURATION:
                if before and index >= first and entry.term == core.term:
                    self.sim.fail(f"leader {replica.node_id} adds change {index}, {before} waits, applied is {core.applied_index}")
                before = index

    def check_handed_out(self, replica: Replica, core: RaftNode, append: StorageAppend) -> None:
        """Log matching, by induction: an index and a term name one entry and one predecessor (paper, section 5.3)."""
        snapshot = append.snapshot
        if snapshot is not None:
            replica.handed_last = snapshot.index
            if snapshot.index > len(self.committed) or self.committed[snapshot.index - 1].term != snapshot.term:
                self.sim.fail(f"{replica.node_id} restores {snapshot}, which was not committed")
            replica.commit_seen = max(replica.commit_seen, snapshot.index)
        if append.entries:
            first = append.entries[0].index
            self.sim.marks.mark_conflict(replica, replica.handed_last - first + 1, replica.log.last_index - first + 1)
            if core.is_leader and any(entry.kind is EntryKind.CONFIGURATION for entry in append.entries):
                self.check_one_change(replica, core, append.entries)
            if core.is_leader and first <= replica.handed_last and append.entries[0].term == core.term:
                # The first entries of a new leader may replace nothing either: its log only grows.
                self.sim.fail(f"leader {replica.node_id} rewrites {first}, its log ends at {replica.handed_last}")
            before = self.sim.nodes.term(replica, first - 1)
            for entry in append.entries:
                known = self.entries.setdefault((entry.index, entry.term), (entry, before))
                if known != (entry, before):
                    self.sim.fail(f"{replica.node_id} has {entry} after term {before}, elsewhere it is {known}")
                before = entry.term
            replica.handed_last = append.entries[-1].index

    def check_shown(self, replica: Replica, core: RaftNode) -> None:
        """At its leader's word it commits what it has told this leader to hold; the rest may be another's (paper, figure 2)."""
        shown = replica.acknowledged.get(core.term, 0)
        if core.commit_index > shown:
            self.sim.fail(f"{replica.node_id} commits {core.commit_index} in term {core.term}, and has acknowledged {shown}")

    def has_promised(self, replica: Replica, core: RaftNode) -> bool:
        """Whether this node has promised a leader to elect no other node yet (thesis, sections 4.2.3 and 6.4.1).

        When reads rely on it, it is a matter of time alone: neither a restart nor another term ends it.
        """
        settings = core.settings
        timeout = settings.election_timeout_ticks
        if settings.read_mode is ReadMode.LEASE:
            if not replica.followed_term or replica.followed_term in self.released:
                return False
            # A tick of it is lost to rounding.
            return self.sim.now - replica.followed_at < (timeout - 1) * TICK
        return (
            settings.check_quorum
            and core.leader != NOBODY
            and core.term == replica.followed_term
            and replica.followed_tick >= 0
            and replica.ticks - replica.followed_tick < timeout
        )

    def check_applied(self, replica: Replica, entry: Entry, machine: Checkpoint) -> None:
        """State machine safety: equal machines at equal indexes (paper, section 5.4.3)."""
        if entry.index > len(self.committed) or self.digests[entry.index] != machine.digest:
            self.sim.fail(f"{replica.node_id} applied {entry}, which is not what was committed there")

    def check_configuration(self, replica: Replica, core: RaftNode, machine: Checkpoint) -> None:
        """Equal configurations at equal indexes, whether applied or restored, and the core acts in the newest."""
        known = self.configurations.setdefault(machine.index, machine.configuration)
        if known != machine.configuration:
            self.sim.fail(f"{replica.node_id} has {machine.configuration} at {machine.index}, elsewhere it is {known}")
        if any(append.snapshot is not None for append in replica.writes):
            self.sim.counts["change applied while a snapshot is restored"] += core.configuration != machine.configuration
        elif core.configuration != machine.configuration:
            self.sim.fail(f"{replica.node_id} acts in {core.configuration}, at {machine.index} it is {machine.configuration}")

    def check_promise(self, replica: Replica, message: Message) -> None:
        """Which entry an acknowledgement is about, for when it leaves."""
        if message.type is not MessageType.APPEND_RESPONSE or message.reject:
            return
        replica.acknowledged[message.term] = max(replica.acknowledged.get(message.term, 0), message.index)
        if message.index > replica.log.base_index:
            if message.index > replica.handed_last:
                self.sim.fail(f"{replica.node_id} acknowledges {message.index}, its log ends at {replica.handed_last}")
            term = self.sim.nodes.term(replica, message.index)
            promised = replica.promised.setdefault((message.term, message.index), term)
            if promised != term:
                self.sim.fail(f"{replica.node_id} acknowledges {message.index} in term {message.term} as {term} and as {promised}")

    def check_leaving(self, replica: Replica, message: Message) -> None:
        """Nothing leaves before what it promises is durable."""
        durable = replica.hard_state
        kind = message.type
        term = message.term - 1 if kind is MessageType.PRE_VOTE else message.term
        if kind is MessageType.PRE_VOTE_RESPONSE and not message.reject:
            return
        if durable.term < term:
            self.sim.fail(f"{kind.name} of term {term} leaves {replica.node_id}, durable is {durable}")
        if kind is MessageType.VOTE_RESPONSE and not message.reject:
            if durable.term == term and durable.vote != message.to:
                self.sim.fail(f"{replica.node_id} grants its vote of term {term} to {message.to}, durable is {durable}")
            granted = self.votes.setdefault((term, replica.node_id), message.to)
            if granted != message.to:
                self.sim.fail(f"{replica.node_id} votes for {granted} and {message.to} in term {term}")
        if kind is MessageType.VOTE:
            granted = self.votes.setdefault((term, replica.node_id), replica.node_id)
            if granted != replica.node_id:
                self.sim.fail(f"{replica.node_id} votes for {granted} and itself in term {term}")
        if kind is MessageType.TIMEOUT_NOW:
            self.released.add(term)
            assert replica.core is not None
            last = replica.core.last_index
            target = self.sim.replicas[message.to].log
            if target.last_index < last or (target.base_index < last and target.term(last) != self.sim.nodes.term(replica, last)):
                self.sim.fail(f"{replica.node_id} hands over to {message.to}, which does not have {last} yet")
        if kind is MessageType.APPEND_RESPONSE and not message.reject and message.index > replica.log.base_index:
            promised = replica.promised[message.term, message.index]
            if message.index > replica.log.last_index or replica.log.term(message.index) != promised:
                self.sim.fail(f"{replica.node_id} acknowledges {promised}/{message.index}, durable is {replica.log.last_index}")

    def check_read(self, replica: Replica, index: int, context: bytes) -> None:
        """A read sees all that was committed anywhere when it was asked for."""
        read = self.sim.load.reads.pop(context, None)
        if read is None:
            # A duplicate answer; the first one was checked.
            return
        core = replica.core
        assert core is not None
        self.sim.counts["reads answered"] += 1
        if not core.is_leader:
            self.sim.counts["read answered to a follower"] += 1
        elif read.asked_at == self.sim.now and len(core.configuration.voters) > 1:
            self.sim.counts["read answered under a lease"] += 1
        if index < read.floor:
            self.sim.fail(
                f"{replica.node_id}: read {context!r} is answered with {index}, {read.floor} was committed when it was asked"
            )

    def look_at_followers(self, replica: Replica, core: RaftNode) -> None:
        """What a leader knows of others is bounded, and moves."""
        settings = core.settings
        status = core.status()
        for node, progress in status.progress.items():
            if node == core.node_id:
                continue
            if progress.inflight_messages > settings.inflight_messages_max:
                self.sim.fail(f"leader {core.node_id} has {progress.inflight_messages} messages in flight to {node}")
            # The message that fills the window may exceed it, and is as large as an APPEND or an entry may be.
            largest = max(settings.append_bytes_max, ENTRY_BYTES_MAX)
            if settings.inflight_bytes_max and progress.inflight_bytes >= settings.inflight_bytes_max + largest:
                self.sim.fail(f"leader {core.node_id} has {progress.inflight_bytes} bytes in flight to {node}")
            before = replica.following.get(node)
            if before is not None and before.state != progress.state:
                self.sim.counts[f"{before.state} to {progress.state}"] += 1
            if progress.inflight_messages == settings.inflight_messages_max:
                self.sim.counts["window full"] += 1
        if status.uncommitted_bytes > max(settings.uncommitted_bytes_max, ENTRIES_MAX * ENTRY_BYTES_MAX):
            self.sim.fail(f"leader {core.node_id} has taken {status.uncommitted_bytes} bytes that wait")
        replica.following = status.progress

    def check_still_leading(self, replica: Replica, core: RaftNode) -> None:
        """Who cannot commit does not keep others from leading."""
        settings = core.settings
        configuration = core.configuration
        patience_ticks = 2 * settings.election_timeout_ticks + 1
        writes_entries = replica.writing and bool(replica.writes[0].entries)
        if writes_entries and replica.ticks - replica.writing_since > patience_ticks:
            self.sim.fail(f"leader {core.node_id} goes on although its disk hangs since its tick {replica.writing_since}")
        if core.node_id not in configuration.all_voters and settings.step_down_on_removal:
            self.sim.fail(f"leader {core.node_id} goes on in {configuration}")
        heard = {node for node, at in replica.heard.items() if replica.ticks - at <= patience_ticks} | {core.node_id}
        for voters in (configuration.voters, configuration.voters_outgoing):
            if settings.check_quorum and voters and 2 * len(voters & heard) <= len(voters):
                self.sim.fail(f"leader {core.node_id} goes on although it has heard from {sorted(heard)} only")
