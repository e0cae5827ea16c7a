"""Writers of aggregates at several nodes while leaders change, by seed: the judge, the window and the index, without Trio or bytes.

    python -m trio_eventlog.testing.event_simulator --seeds 10000
    python -m trio_eventlog.testing.event_simulator --seed 17

The log beneath is a small model of Raft: terms, elections by a quorum of durable logs, suffixes that are replaced, crashes that
lose what was not durable. What is tested is what leaders do with it: `EventJudge`, `EventWindow`, and an index that is behind, and
loses its last transactions in a crash. Invariants: of each aggregate the committed versions are 1, 2, 3, ...; an event id is there
once; what was acknowledged stays at its version; a refusal names a version that the aggregate had during the call.
"""

import argparse
import random
import sys
from collections import Counter
from typing import NoReturn

import attrs

from trio_eventlog.errors import WrongExpectedVersion
from trio_eventlog.events import ANY, EventHead
from trio_eventlog.machine.events import (
    Accepted,
    AppendIntent,
    EventJudge,
    EventWindow,
    Follows,
    InLog,
    LoadedAggregate,
    Outdated,
    Refused,
    Waits,
)
from trio_eventlog.storage.event_index import IndexPosition, IndexQuestion, MemoryEventIndex
from trio_eventlog.testing.journal import Journal

NODES = 3
WRITERS = 3
AGGREGATES = ("a", "b")
STEPS = 400
WINDOW_MAX = 6
MARKS = ("appended", "repeated", "followed", "waited", "refused", "outdated", "elected", "replaced", "crashed", "index went back")


class EventInvariantBroken(AssertionError):
    """What must not be."""


@attrs.frozen(slots=True)
class Entry:
    """Of the log. Without an event it opens a term."""

    term: int
    head: EventHead | None = None


@attrs.define(slots=True, eq=False)
class Attempt:
    """A call of a writer on its way at one node."""

    writer: "Writer"
    intent: AppendIntent
    loaded: LoadedAggregate
    number: int
    seen_at_begin: int


@attrs.define(slots=True, eq=False)
class Writer:
    """Appends one event after the other, each at the version that it has seen last; the same again until that is decided."""

    name: str
    aggregate_id: str = ""
    event_id: str = ""
    expected: int = 0
    number: int = 0
    events: int = 0
    is_busy: bool = False
    """An attempt is on its way, as far as the writer knows."""
    acknowledged_before: int = 0
    """Highest version of the aggregate acknowledged to anybody before this event was first tried."""


class Node:
    """One node: its log, of which a prefix is durable; what it has applied; what it leads by."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.log: list[Entry] = []
        self.durable = 0
        self.term = 0
        self.commit = 0
        self.journal = Journal()
        self.begin()

    def begin(self) -> None:
        """It starts, with what is durable."""
        self.log = self.log[: self.durable]
        self.commit = 0
        self.applied = 0
        self.leads = False
        self.accepts_from = 0
        self.queue: list[Attempt] = []
        self.put_aside: dict[int, list[Attempt]] = {}
        self.in_flight: dict[int, list[Attempt]] = {}
        self.index = MemoryEventIndex()
        for heads, position in self.journal.transactions:
            self.index.write(heads, position)
        self.window = EventWindow(self.index.position.index, WINDOW_MAX)
        self.judge: EventJudge[int] = EventJudge(self.window)


class EventSimulation:
    """One run. `run()` raises EventInvariantBroken, or returns how often what happened."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.nodes = [Node(number) for number in range(NODES)]
        self.writers = [Writer(f"w{number}") for number in range(WRITERS)]
        self.counts: Counter[str] = Counter()
        self.committed: list[Entry] = []
        self.versions: Counter[str] = Counter()
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.acknowledged_version: Counter[str] = Counter()
        self.is_healed = False
        self.weights = {
            self.write: 10,
            self.take: 10,
            self.replicate: 16,
            self.persist: 12,
            self.apply: 14,
            self.index: self.rng.choice((2, 8)),
            self.elect: self.rng.choice((0, 1, 2)),
            self.crash: self.rng.choice((0, 0, 1)),
            self.give_up: 2,
        }

    def run(self) -> Counter[str]:
        self.elect_at(self.nodes[0])
        steps = self.rng.choices(list(self.weights), list(self.weights.values()), k=STEPS)
        for step in steps:
            step()
        self.is_healed = True
        leader = self.any_leader()
        for number in range(40 * WRITERS):
            if number < 39 * WRITERS:
                self.write()
                self.take()
            for node in self.nodes:
                self.persist_at(node)
                self.replicate_to(leader, node)
            for node in self.nodes:
                self.apply_at(node)
                self.index_at(node)
        if not any(writer.events for writer in self.writers):
            self.fail("no append succeeded although everything was healed")
        self.check_indexes(leader)
        return self.counts

    # Clients

    def write(self) -> None:
        """A writer tries its event, a new one or the one that it does not know the outcome of, at some node."""
        writer = self.rng.choice(self.writers)
        if writer.is_busy:
            return
        if not writer.event_id:
            writer.number += 1
            writer.event_id = f"{writer.name}/{writer.number}"
            writer.aggregate_id = self.rng.choice(AGGREGATES)
            writer.expected = self.acknowledged_version[writer.aggregate_id]
            writer.acknowledged_before = writer.expected
        node = self.any_leader() if self.is_healed else self.rng.choice(self.nodes)
        if not node.leads:
            return
        expected = ANY if writer.number % 7 == 0 else writer.expected
        intent = AppendIntent(aggregate_id=writer.aggregate_id, event_ids=(writer.event_id,), expected=expected)
        if not node.window.covers(node.index.position.index + 1):
            return
        (answer,) = node.index.ask([IndexQuestion(intent.aggregate_id, intent.event_ids)])
        loaded = LoadedAggregate(node.index.position.index, answer.state, answer.known)
        writer.is_busy = True
        node.queue.append(Attempt(writer, intent, loaded, writer.number, writer.acknowledged_before))

    def give_up(self) -> None:
        """A writer has heard nothing for long, and tries elsewhere. The attempt goes on without it."""
        writer = self.rng.choice(self.writers)
        writer.is_busy = False

    def succeed(self, attempt: Attempt, version: int) -> None:
        key = (attempt.intent.aggregate_id, attempt.intent.event_ids[0])
        if self.acknowledged.setdefault(key, version) != version:
            self.fail(f"{key} was acknowledged at version {self.acknowledged[key]}, and again at {version}")
        self.acknowledged_version[key[0]] = max(self.acknowledged_version[key[0]], version)
        if attempt.writer.number == attempt.number:
            attempt.writer.event_id = ""
            attempt.writer.is_busy = False
            attempt.writer.events += 1

    def refuse(self, attempt: Attempt, error: WrongExpectedVersion) -> None:
        self.counts["refused"] += 1
        actual = error.actual_version
        if not attempt.seen_at_begin <= actual <= self.versions[attempt.intent.aggregate_id]:
            self.fail(
                f"{attempt.writer.name} was told version {actual} of {attempt.intent.aggregate_id}, which had"
                f" {attempt.seen_at_begin} to {self.versions[attempt.intent.aggregate_id]} during the call"
            )
        if attempt.writer.number == attempt.number:
            if (attempt.intent.aggregate_id, attempt.intent.event_ids[0]) in self.acknowledged:
                self.fail(f"{attempt.intent.event_ids[0]} is in the log, and was refused by its version")
            attempt.writer.event_id = ""
            attempt.writer.is_busy = False

    def drop(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            if attempt.writer.number == attempt.number:
                attempt.writer.is_busy = False

    # Leaders

    def any_leader(self) -> Node:
        leaders = [node for node in self.nodes if node.leads]
        newest = max(leaders, key=lambda node: node.term, default=None)
        if newest is None or newest.term < max(node.term for node in self.nodes):
            best = max(self.nodes, key=lambda node: (node.log[-1].term if node.log else 0, len(node.log)))
            for node in self.nodes:
                self.persist_at(node)
            self.elect_at(best)
            return best
        return newest

    def take(self) -> None:
        for node in self.nodes:
            if not node.leads or node.applied < node.accepts_from:
                continue
            queue, node.queue = node.queue, []
            for attempt in queue:
                self.judge(node, attempt)

    def judge(self, node: Node, attempt: Attempt) -> None:
        verdict = node.judge.judge(attempt.intent, attempt.loaded)
        match verdict:
            case Accepted(first_version=version):
                index = len(node.log) + 1
                offset = sum(entry.head is not None for entry in node.log)
                intent = attempt.intent
                node.log.append(Entry(node.term, EventHead(offset, intent.aggregate_id, intent.event_ids[0], "T", version)))
                node.judge.appended(index, intent, version, index)
                node.in_flight[index] = [attempt]
                self.counts["appended"] += 1
            case InLog(first=first):
                self.counts["repeated"] += 1
                self.succeed(attempt, first.version)
            case Follows(original=index):
                self.counts["followed"] += 1
                node.in_flight[index].append(attempt)
            case Waits(other=index):
                self.counts["waited"] += 1
                node.put_aside.setdefault(index, []).append(attempt)
            case Refused(error=error):
                if self.is_confirmed(node) and isinstance(error, WrongExpectedVersion):
                    self.refuse(attempt, error)
                else:
                    self.drop([attempt])
            case Outdated():
                self.counts["outdated"] += 1
                self.drop([attempt])

    def is_confirmed(self, node: Node) -> bool:
        """What a round of heartbeats would say."""
        return sum(other.term <= node.term for other in self.nodes) * 2 > NODES

    def depose(self, node: Node) -> None:
        if not node.leads:
            return
        node.leads = False
        node.judge.abandon_above(node.applied)
        for attempts in (*node.in_flight.values(), *node.put_aside.values(), node.queue):
            self.drop(attempts)
        node.in_flight, node.put_aside, node.queue = {}, {}, []

    def elect(self) -> None:
        self.elect_at(self.rng.choice(self.nodes))

    def elect_at(self, node: Node) -> None:
        """Elect `node` by the nodes whose durable logs are no newer. Some nodes may not learn of the election."""
        term = max(other.term for other in self.nodes) + 1

        def last(other: Node) -> tuple[int, int]:
            return (other.log[other.durable - 1].term if other.durable else 0, other.durable)

        self.persist_at(node)
        voters = [other for other in self.nodes if other is node or last(other) <= last(node)]
        self.rng.shuffle(voters)
        voters = [node, *[other for other in voters if other is not node]]
        if len(voters) * 2 <= NODES:
            return
        for other in voters[: NODES // 2 + 1] if self.rng.random() < 0.7 else voters:
            other.term = term
            self.depose(other)
        node.leads = True
        node.log.append(Entry(term))
        node.accepts_from = len(node.log)
        self.counts["elected"] += 1

    # The log

    def replicate(self) -> None:
        leaders = [node for node in self.nodes if node.leads]
        if leaders:
            self.replicate_to(self.rng.choice(leaders), self.rng.choice(self.nodes))

    def replicate_to(self, leader: Node, node: Node) -> None:
        if not leader.leads:
            return
        if node is not leader:
            if node.term > leader.term:
                self.depose(leader)
                return
            if node.term < leader.term:
                self.depose(node)
                node.term = leader.term
            same = 0
            while same < min(len(node.log), len(leader.log)) and node.log[same] == leader.log[same]:
                same += 1
            if same < len(node.log):
                if same < node.commit:
                    self.fail("the model of the log is wrong: a committed entry would be replaced")
                self.counts["replaced"] += 1
            node.log = leader.log[: len(leader.log) if self.is_healed else self.rng.randint(same, len(leader.log))]
            node.durable = min(node.durable, same)
            node.commit = max(node.commit, min(leader.commit, len(node.log)))
        matched = sorted(
            (self.common(leader, other) for other in self.nodes if other.term == leader.term or other is leader), reverse=True
        )
        quorum = NODES // 2 + 1
        if len(matched) >= quorum and (index := matched[quorum - 1]) and leader.log[index - 1].term == leader.term:
            leader.commit = max(leader.commit, index)
            self.commit_entries(leader)

    def common(self, leader: Node, node: Node) -> int:
        """Durable entries that are those of the leader."""
        count = 0
        while count < min(node.durable, len(leader.log)) and node.log[count] == leader.log[count]:
            count += 1
        return count

    def commit_entries(self, leader: Node) -> None:
        for entry in leader.log[len(self.committed) : leader.commit]:
            self.committed.append(entry)
            head = entry.head
            if head is None:
                continue
            self.versions[head.aggregate_id] += 1
            if head.version != self.versions[head.aggregate_id]:
                self.fail(
                    f"version {head.version} of {head.aggregate_id} is in the log where {self.versions[head.aggregate_id]} belongs"
                )
            if any(other.head and other.head.event_id == head.event_id for other in self.committed[:-1]):
                self.fail(f"event {head.event_id} is in the log twice")

    def persist(self) -> None:
        self.persist_at(self.rng.choice(self.nodes))

    def persist_at(self, node: Node) -> None:
        node.durable = len(node.log)

    def apply(self) -> None:
        self.apply_at(self.rng.choice(self.nodes))

    def apply_at(self, node: Node) -> None:
        while node.applied < node.commit:
            node.applied += 1
            entry = node.log[node.applied - 1]
            covers = node.window.covers(node.applied)
            node.window.apply(node.applied, [entry.head] if entry.head is not None and covers else [])
            node.judge.decided(node.applied)
            for attempt in node.in_flight.pop(node.applied, ()):
                assert entry.head is not None
                self.succeed(attempt, entry.head.version)
            node.queue = node.put_aside.pop(node.applied, []) + node.queue

    def index(self) -> None:
        self.index_at(self.rng.choice(self.nodes))

    def index_at(self, node: Node) -> None:
        """What is applied and durable here goes into the index, from the window or from the log."""
        last = min(node.applied, node.durable)
        first = node.index.position.index + 1
        if last < first:
            return
        last = last if self.is_healed else self.rng.randint(first, last)
        heads = tuple(entry.head for entry in node.log[first - 1 : last] if entry.head is not None)
        position = IndexPosition(last, node.log[last - 1].term)
        node.index.write(heads, position)
        node.journal.transactions.append((heads, position))
        pins = [attempt.loaded.as_of for attempts in (node.queue, *node.put_aside.values()) for attempt in attempts]
        node.window.trim(min([last, *pins]))

    def crash(self) -> None:
        """What is not durable is lost, and of the index the last transactions. One that is ahead of the log is made again."""
        node = self.rng.choice(self.nodes)
        self.depose(node)
        transactions = node.journal.transactions
        kept = max(0, len(transactions) - self.rng.choice((0, 0, 1, 2)))
        self.counts["index went back"] += kept < len(transactions)
        node.journal = Journal(transactions[:kept])
        node.begin()
        position = node.index.position
        if position.index > len(node.log) or (position.index and node.log[position.index - 1].term != position.term):
            self.fail(f"the index of node {node.number} is ahead of its log")
        self.counts["crashed"] += 1

    def check_indexes(self, leader: Node) -> None:
        for node in self.nodes:
            for aggregate_id in AGGREGATES:
                (answer,) = node.index.ask([IndexQuestion(aggregate_id)])
                if answer.state.version != self.versions[aggregate_id]:
                    log_version = self.versions[aggregate_id]
                    self.fail(f"node {node.number} has {aggregate_id} at {answer.state.version}: the log at {log_version}")

    def fail(self, reason: str) -> NoReturn:
        raise EventInvariantBroken(reason)


def run_seed(seed: int) -> Counter[str]:
    """One run. Raises EventInvariantBroken with the seed in its text."""
    try:
        return EventSimulation(seed).run()
    except Exception as error:
        raise EventInvariantBroken(
            f"seed {seed}: {error!r}\nreplay: python -m trio_eventlog.testing.event_simulator --seed {seed}"
        ) from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run seeds of the simulation of the event store.")
    parser.add_argument("--seed", type=int, help="this one")
    parser.add_argument("--seeds", type=int, default=1000, help="the first ones. Default: 1000")
    options = parser.parse_args(arguments)
    total: Counter[str] = Counter()
    for seed in range(options.seeds) if options.seed is None else [options.seed]:
        total.update(run_seed(seed))
    sys.stdout.write("".join(f"{count:10d} {name}\n" for name, count in sorted(total.items())))


if __name__ == "__main__":
    main()
