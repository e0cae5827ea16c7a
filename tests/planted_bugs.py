"""Plant one bug at a time, and see how many seeds the simulations need to find it.

    python tests/planted_bugs.py [cores] [replicas] [nodes] [--seeds N] [--first-seed N] [WORD IN A NAME...]

Each bug is a text replaced in a copy of the tree, as in mutations.py. The results are kept in docs/planted-bugs.md. Not a test:
it takes half an hour, most of it for the nodes.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

import attrs
from mutations import MUTATIONS, Mutation, planted

SEEDS_MAX = {"cores": 2000, "replicas": 300, "nodes": 300}
"""A bug that takes more seeds than this is one that the simulations do not find."""

RUN_SECONDS_MAX = {"cores": 20, "replicas": 20, "nodes": 60}
"""A run that takes so much of a processor does not end, which is a way of being found."""

SEARCH = """
import logging, signal, sys
from importlib import import_module
from pathlib import Path

module, first, end, seconds, root = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
simulation = import_module(module)
assert Path(simulation.__file__).is_relative_to(root), "this is not the copy"

logging.disable(logging.CRITICAL)

class NoEnd(BaseException):
    "No Exception, since those are caught where a run ends."

ends = []

def too_long(signum, frame):
    ends.append(f"no end within {seconds} s")
    raise NoEnd

signal.signal(signal.SIGPROF, too_long)
for seed in range(first, end):
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        simulation.run_seed(seed)
    except BaseException as error:
        print(seed, *ends or [str(error).strip().partition("\\n")[0] or repr(error)])
        break
    signal.setitimer(signal.ITIMER_PROF, 0)
"""

NODE = "trio_eventlog/raft/node.py"
LOG = "trio_eventlog/raft/log.py"
PROGRESS = "trio_eventlog/raft/progress.py"
QUORUM = "trio_eventlog/raft/quorum.py"

CORES = (
    Mutation(
        "an entry of an older term commits by counting",
        NODE,
        "        if index <= log.committed or log.term(index) != self._term:\n",
        "        if index <= log.committed:\n",
    ),
    Mutation(
        "a conflicting suffix is kept",
        LOG,
        "            if self.term(entry.index) != entry.term:\n                return position\n",
        "            if self.term(entry.index) is None:\n                return position\n",
    ),
    Mutation(
        "an APPEND always truncates",
        NODE,
        "            conflict = log.find_conflict(entries)\n",
        "            conflict = 0\n",
    ),
    Mutation(
        "the truncation of a suffix is off by one",
        LOG,
        "            del self.entries[first - self.offset :]\n            self.entries.extend(entries)\n",
        "            del self.entries[first - self.offset + 1 :]\n            self.entries.extend(entries)\n",
    ),
    Mutation(
        "replies leave before the disk has what they promise",
        NODE,
        "        responses, self._after_append = self._after_append, []\n",
        "        responses, self._after_append = self._after_append, []\n"
        "        messages += [message for message in responses if message.to != self.node_id]\n"
        "        responses = [message for message in responses if message.to == self.node_id]\n",
    ),
    Mutation(
        "the vote is not persisted",
        NODE,
        "            hard_state = self._emitted_hard_state = HardState(self._term, self._vote, log.committed)\n",
        "            self._emitted_hard_state = HardState(self._term, self._vote, log.committed)\n"
        "            hard_state = HardState(self._term, NOBODY, log.committed)\n",
    ),
    Mutation(
        "the term is not persisted without a vote",
        NODE,
        "            hard_state = self._emitted_hard_state = HardState(self._term, self._vote, log.committed)\n",
        "            self._emitted_hard_state = HardState(self._term, self._vote, log.committed)\n"
        "            hard_state = self._emitted_hard_state if self._vote else None\n",
    ),
    Mutation(
        "a term speaks before it is durable",
        NODE,
        "        if self._durable_term < self._term and messages:\n",
        "        if False:\n",
    ),
    Mutation(
        "the leader counts its own copy at once",
        NODE,
        "        last = first + len(entries) - 1\n        if charged_bytes:\n",
        "        last = first + len(entries) - 1\n"
        "        self._progress[self.node_id].maybe_update(last)\n"
        "        if charged_bytes:\n",
    ),
    Mutation(
        "a majority is one too small",
        QUORUM,
        "    return sorted(map(acked, voters))[(count - 1) // 2]\n",
        "    return sorted(map(acked, voters))[count // 2]\n",
    ),
    Mutation(
        "half of the votes win",
        QUORUM,
        "    return count // 2 + 1\n",
        "    return (count + 1) // 2\n",
    ),
    Mutation(
        "a vote ignores how complete the log is",
        NODE,
        "        if can_vote and self._log.is_up_to_date(message.index, message.log_term) and",
        "        if can_vote and",
    ),
    Mutation(
        "a vote goes to the longer log, not to the newer one",
        LOG,
        "        return term > last_term or (term == last_term and index >= self.last_index)\n",
        "        return last_term >= 0 and index >= self.last_index\n",
    ),
    Mutation(
        "two votes in one term",
        NODE,
        "            or (self._vote == NOBODY and self._leader == NOBODY)\n",
        "            or self._leader == NOBODY\n",
    ),
    Mutation(
        "voters in a lease vote",
        NODE,
        "            if kind in _VOTES and message.context != TRANSFER_CAMPAIGN and self._is_in_lease():\n",
        "            if False:\n",
    ),
    Mutation(
        "a follower commits beyond what was sent",
        NODE,
        "        log.commit_to(min(message.commit, last))\n",
        "        log.commit_to(min(message.commit, log.last_index))\n",
    ),
    Mutation(
        "a heartbeat tells all that is committed",
        NODE,
        "                commit = min(progress.match, committed)\n",
        "                commit = committed\n",
    ),
    Mutation(
        "messages of older terms count",
        NODE,
        "            if term < self._term:\n                self._step_older_term(message)\n                return\n",
        "",
    ),
    Mutation(
        "a joint commit asks the new half only",
        NODE,
        "configuration.voters_outgoing, lambda node: progress[node].match)\n",
        "frozenset(), lambda node: progress[node].match)\n",
    ),
    Mutation(
        "a joint election asks the new half only",
        NODE,
        "        result = quorum.joint_vote(configuration.voters, configuration.voters_outgoing, self._votes)\n",
        "        result = quorum.joint_vote(configuration.voters, frozenset(), self._votes)\n",
    ),
    Mutation(
        "a second change while one is pending",
        NODE,
        "            if self._pending_configuration_index > self._log.applied:\n                raise ProposalDropped(\n",
        "            if False:\n                raise ProposalDropped(\n",
    ),
    Mutation(
        "a campaign with an unapplied change",
        NODE,
        "        elif log.applied < log.committed and log.has_configuration(log.applied + 1, log.committed):\n",
        "        elif False:\n",
    ),
    Mutation(
        "the commit index is not synced with a change",
        NODE,
        "        sync_commit = bool(entries) and log.has_configuration(entries[0].index, entries[-1].index)\n",
        "        sync_commit = False\n",
    ),
    Mutation(
        "the configuration is lost on a snapshot",
        NODE,
        "        self._switch_configuration(snapshot.configuration, snapshot.configuration.nodes)\n        return True\n",
        "        return True\n",
    ),
    Mutation(
        "a change that a snapshot covers is applied on top of it",
        NODE,
        "        if index < self._log.first_index:\n            return self._configuration\n",
        "",
    ),
    Mutation(
        "an old snapshot is installed",
        NODE,
        "        if snapshot.index <= log.committed:\n            return False\n",
        "",
    ),
    Mutation(
        "a joint configuration is not left",
        NODE,
        "            configuration.auto_leave\n            and self._role is Role.LEADER\n",
        "            False\n            and self._role is Role.LEADER\n",
    ),
    Mutation(
        "a joint configuration outlives a transfer that failed",
        NODE,
        "                self._abort_transfer()\n                self._maybe_leave_joint()\n",
        "                self._abort_transfer()\n",
    ),
    Mutation(
        "a removed leader stays",
        NODE,
        "            if self.settings.step_down_on_removal:\n",
        "            if False:\n",
    ),
    Mutation(
        "voters do not tell what is committed",
        NODE,
        "                reject=reject,\n                commit=committed,\n",
        "                reject=reject,\n",
    ),
    Mutation(
        "candidates believe any commit index",
        NODE,
        " or log.term(message.commit) != message.commit_term:\n",
        " or message.commit > log.last_index:\n",
    ),
    Mutation(
        "entries are applied before they are durable here",
        LOG,
        "        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)\n",
        "        return self.committed\n",
    ),
    Mutation(
        "a read is answered without a round of heartbeats",
        NODE,
        "        if own_word_is_enough or (",
        "        if True or (",
    ),
    Mutation(
        "a read is answered before the first commit of the term",
        NODE,
        "        if self._log.term(self._log.committed) != self._term:\n            # Its commit index",
        "        if False:\n            # Its commit index",
    ),
    Mutation(
        "an old heartbeat confirms a new read",
        NODE,
        "                progress.acked_read = max(progress.acked_read, number)\n",
        "                progress.acked_read = self._read_number\n",
    ),
    Mutation(
        "the lease survives a transfer",
        NODE,
        "        if self._lead_transferee != NOBODY or self._timeout_now_sent:\n            return False\n",
        "",
    ),
    Mutation(
        "the lease runs from the answer",
        NODE,
        "                progress.acked_stamp = max(progress.acked_stamp, stamp)\n",
        "                progress.acked_stamp = self._ticks\n",
    ),
    Mutation(
        "a lease without a quorum",
        NODE,
        "        return stamp > 0 and self._ticks - stamp < self.settings.election_timeout_ticks - 1\n",
        "        return True\n",
    ),
    Mutation(
        "a restarted voter forgets the lease it granted",
        NODE,
        "        self._promise_ticks = settings.election_timeout_ticks if",
        "        self._promise_ticks = 0 if",
    ),
    Mutation(
        "a lease ends with the term it was granted in",
        NODE,
        "            self._promise_ticks = self.settings.election_timeout_ticks\n",
        "            pass\n",
    ),
    Mutation(
        "leadership is handed to a follower that lags",
        NODE,
        "        if progress.match == self._log.last_index:\n            self._send_timeout_now(to)\n",
        "        if True:\n            self._send_timeout_now(to)\n",
    ),
    Mutation(
        "a leader without a quorum goes on",
        NODE,
        "        if not won:\n",
        "        if False:\n",
    ),
    Mutation(
        "a leader whose disk hangs goes on",
        NODE,
        "append_wait_ticks >= settings.election_timeout_ticks:\n            # Otherwise its heartbeats",
        "append_wait_ticks < 0:\n            # Otherwise its heartbeats",
    ),
    Mutation(
        "a pre-vote moves the term",
        NODE,
        "(A rejection carries the real term.)\n            return\n",
        "\n            pass\n",
    ),
    Mutation(
        "a lost probe is never repeated",
        NODE,
        "        progress.recent_active = True\n        progress.append_paused = False\n",
        "        progress.recent_active = True\n",
    ),
    Mutation(
        "a new leader appends nothing",
        NODE,
        "        self._append_as_leader([_NO_OP], charged_bytes=0)\n",
        "",
    ),
    Mutation(
        "the window is never full",
        PROGRESS,
        "        self.is_full = len(self._items) >= self._max_messages or 0 < self._max_bytes <= self.size_bytes\n",
        "        self.is_full = False\n",
    ),
    Mutation(
        "the quota of proposals is not kept",
        NODE,
        "        if charged_bytes and waiting and waiting + charged_bytes > self.settings.uncommitted_bytes_max:\n",
        "        if False:\n",
    ),
)

NODES_AS_IN_MUTATIONS = (
    "no fsync before an entry counts as durable",
    "term and vote are written without fsync",
    "term and vote are not written at all",
    "replies leave before the fsync",
    "entries are written before the term they belong to",
    "the commit index becomes durable before its entries",
    "proposals of a lost leadership are acknowledged",
    "a batch whose place went to another entry is acknowledged",
    "consumers read what is not committed",
    "the watermark runs ahead of the machine",
    "repeated batches are not recognised",
    "repeated batches are recognised only once applied",
    "a new leader takes batches before it has applied what older terms left",
    "followers do not remember producers",
    "plain records are repeated without a producer id",
    "acks leader is answered before the leader's disk has it",
    "a linearizable read asks nobody",
    "a linearizable read does not wait for the machine",
    "a replaced suffix stays on the disk",
    "a transfer goes on at the wrong byte",
    "a snapshot is installed although a segment is missing",
)

NODES: tuple[Mutation, ...] = (
    *(mutation for mutation in MUTATIONS if mutation.name in NODES_AS_IN_MUTATIONS),
    Mutation(
        "a consumer goes on one record late",
        "trio_eventlog/client/consumer.py",
        "        self.next_offset = end_offset\n",
        "        self.next_offset = end_offset + 1\n",
    ),
    Mutation(
        "a topic that the asked node does not list has one partition",
        "trio_eventlog/client/calls.py",
        "        await self.call(DESCRIBE_TOPIC, request, self.routing.addresses, check=learn, caller=caller)\n"
        "        known = self.routing.topic(name)\n"
        '        assert known is not None, "it was learned just now, without a checkpoint in between"\n'
        "        return known\n",
        "        answer = await self.call(GET_SERVERS, event_log_pb2.GetServersRequest(), self.routing.addresses)\n"
        "        self._take(answer)\n"
        "        return self.routing.topic(name) or KnownTopic(name=name, group_ids=(0,))\n",
    ),
    Mutation(
        "a consumer of all partitions leaves out the last one",
        "trio_eventlog/service/receivers.py",
        "        groups = dict(enumerate(known.group_ids))\n",
        "        groups = dict(enumerate(known.group_ids[: -1 if known.partitions > 2 else None]))\n",
    ),
    Mutation(
        "a producer's keys are spread over the partitions it knew at first, less one",
        "trio_eventlog/service/producer.py",
        "return partition_of(key, self._topic.partitions) if key else self._sticky\n",
        "return partition_of(key, max(self._topic.partitions - 1, 1)) if key else self._sticky\n",
    ),
    Mutation(
        "a trim moves the log start one record too far",
        "trio_eventlog/machine/partition.py",
        "            self.log_start = start\n",
        "            self.log_start = LogStart(start.index, start.offset + 1)\n",
    ),
    Mutation(
        "a snapshot forgets the log start",
        "trio_eventlog/machine/partition.py",
        "        self.log_start = snapshot.log_start\n",
        "        self.log_start = LogStart()\n",
    ),
    Mutation(
        "a snapshot forgets the producers",
        "trio_eventlog/machine/partition.py",
        "        self.producers.restore(snapshot.producers)\n",
        "",
    ),
    Mutation(
        "a log start goes back",
        "trio_eventlog/machine/partition.py",
        "        if start.offset > self.log_start.offset:\n",
        "        if True:\n",
    ),
    Mutation(
        "a segment goes that is still read from",
        "trio_eventlog/storage/log_contents.py",
        "segment.contents.end_offset > self.hidden_below:\n                break",
        "segment.contents.base_offset > self.hidden_below:\n                break",
    ),
    Mutation(
        "a torn tail is accepted",
        "trio_eventlog/codec/entry.py",
        "    if crc32c(view[position + CHECKED_FROM : end]) != checksum:\n",
        "    if False:\n",
    ),
    Mutation(
        "a torn tail stays in the file",
        "trio_eventlog/storage/log_recovery.py",
        "        await file.truncate(position)  # synced with the rest of what was found\n",
        "",
    ),
    Mutation(
        "the removal of a suffix leaves one entry",
        "trio_eventlog/storage/log_appender.py",
        "            return Cut(segment, slot, kept[:-1], kept[-1].base_offset)\n",
        "            return Cut(segment, slot, kept, kept[-1].base_offset)\n",
    ),
    Mutation(
        "the sparse index is trusted blindly",
        "trio_eventlog/codec/sparse_index.py",
        "    if magic != MAGIC or crc32c(view[_CHECKED_FROM:]) != checksum:\n",
        "    if False:\n",
    ),
    Mutation(
        "the sparse index points one slot too far",
        "trio_eventlog/codec/sparse_index.py",
        "        return bisect_right(self.indexes, index) - 1\n",
        "        return min(bisect_right(self.indexes, index), len(self.indexes) - 1)\n",
    ),
    Mutation(
        "a replica that comes back stands for election at once",
        "trio_eventlog/node/returning.py",
        "        return is_shorter or self._applied_index() < departed.commit_index\n",
        "        return False\n",
    ),
    Mutation(
        "a stream goes on one record early",
        "trio_eventlog/grpc/record_answers.py",
        "                return response, at, settings.response_bytes_max - room_bytes\n",
        "                return response, at - 1, 0\n",
    ),
    Mutation(
        "a command of the catalog is answered before it is committed",
        "trio_eventlog/node/proposing.py",
        "        self._wait_for_own_disk.extend(accepted)\n",
        "        self._wait_for_own_disk.extend(accepted)\n"
        "        for proposal in accepted:\n"
        "            if not isinstance(proposal.payload, Batch):\n"
        "                proposal.resolve(None)\n",
    ),
    Mutation(
        "what is applied again after a restart leaves the last producer out",
        "trio_eventlog/node/applying.py",
        "                first = frames[-1].index + 1\n                self._is_applying",
        "                if self._applier.producers:\n"
        "                    self._applier.producers._producers.popitem()\n"
        "                first = frames[-1].index + 1\n                self._is_applying",
    ),
    Mutation(
        "the name of a new segment is not synced",
        "trio_eventlog/storage/log_appender.py",
        "            await self._disk.sync_directory(self._files.directory)\n        runs =",
        "            pass\n        runs =",
    ),
    Mutation(
        "a roll loses an entry",
        "trio_eventlog/storage/log_appender.py",
        "                await self._seal(active)\n                continue\n",
        "                await self._seal(active)\n                start += 1\n                continue\n",
    ),
    Mutation(
        "a failed write is ignored",
        "trio_eventlog/node/disk_writer.py",
        "                await self._append(part, parts)\n",
        "                try:\n"
        "                    await self._append(part, parts)\n"
        "                except Exception:\n"
        "                    pass\n",
    ),
    Mutation(
        "copies of a data directory are heard",
        "trio_eventlog/node/peer_lives.py",
        "            refusal = self._refuse(hello, known, lives)\n",
        '            refusal = ""\n',
    ),
    Mutation(
        "an accepted life is not written down",
        "trio_eventlog/node/peer_lives.py",
        "            await self._write({**self._known, node_id: accepted})\n",
        "            pass\n",
    ),
    Mutation(
        "a life follows a moment that was left",
        "trio_eventlog/codec/lives.py",
        "        return Relation.CONTINUES if there.moment >= present.moment else Relation.APART\n",
        "        return Relation.CONTINUES\n",
    ),
    Mutation(
        "moments are not told to those who cannot hear the node",
        "trio_eventlog/node/peer_lives.py",
        "            self._remember(node_id, attrs.evolve(known, lives=lives))\n            self._on_news(",
        "            self._remember(node_id, attrs.evolve(known, lives=lives))\n            (lambda claim: None)(",
    ),
    Mutation(
        "a replica that has lost entries keeps its vote",
        "trio_eventlog/node/replica.py",
        "    if found is not None and not departed.loss:\n",
        "    if found is not None and found.is_vote_lost and not departed.loss:\n",
    ),
    Mutation(
        "a lost hard state is taken for a first start",
        "trio_eventlog/node/replica.py",
        "    if found is not None and not departed.loss:\n",
        "    if found is not None and not found.is_vote_lost and not departed.loss:\n",
    ),
)

REPLICAS = (
    Mutation(
        "a commit notice overtakes entries that wait for the disk",
        "trio_eventlog/node/followers.py",
        "            if self._catch_up.get(message.to):\n",
        "            if False:\n",
    ),
    Mutation(
        "entries that are not durable yet are not sent behind older ones",
        "trio_eventlog/node/followers.py",
        "                more = self._log.cached(first, message.last_index, _NO_BOUND)\n                if more is None:\n",
        "                if True:\n",
    ),
    Mutation(
        "a question is given up when it is repeated",
        "trio_eventlog/node/reads.py",
        "            read.contexts.append(context)\n            if len(read.contexts) > self._settings.read_questions_max:\n",
        "            read.contexts.append(context)\n            if len(read.contexts) > 1:\n",
    ),
    Mutation(
        "questions are given up when they are repeated, as often as ever",
        "trio_eventlog/node/reads.py",
        "            if self._ask(reads, wait_ticks):\n                for question in due:\n",
        "            for read in reads:\n"
        "                self._forget(read)\n"
        "            if self._ask(reads, self._settings.read_retry_ticks):\n"
        "                for question in due:\n",
    ),
    Mutation(
        "a removed leader does not tell that it is removed",
        "trio_eventlog/node/raft_driver.py",
        "            self.followers.send_notices()\n            try:\n",
        "            try:\n",
    ),
    Mutation(
        "a finished write makes everything durable up to its last index",
        "trio_eventlog/storage/tail_cache.py",
        "        if not self._is_held(frames[-1]):\n",
        "        if False:\n",
    ),
    Mutation(
        "a run that was replaced while it waited is staged again",
        "trio_eventlog/storage/log_appender.py",
        "        if not self._cache.holds_staged:\n",
        "        if True:\n",
    ),
)

MODULES = {
    "cores": "trio_eventlog.testing.core_simulator",
    "replicas": "tests.sim.replica_simulation",
    "nodes": "trio_eventlog.testing.node_simulator",
}
BUGS = {"cores": CORES, "replicas": REPLICAS, "nodes": NODES}


@attrs.frozen(slots=True)
class Found:
    """How many seeds it took, and what they said; None: not found within the limit."""

    seeds: int | None
    text: str


def find(kind: str, bug: Mutation, first_seed: int, seeds_max: int) -> Found:
    """Run seeds of `kind` with `bug` planted, until one fails."""
    with planted(bug) as copy:
        arguments = [MODULES[kind], str(first_seed), str(first_seed + seeds_max), str(RUN_SECONDS_MAX[kind]), str(copy)]
        ran = subprocess.run(
            [sys.executable, "-c", SEARCH, *arguments],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    seed, _, text = ran.stdout.strip().partition(" ")
    if not seed:
        return Found(None, "")
    return Found(int(seed) - first_seed + 1, text.removeprefix(f"seed {seed}: ").removeprefix(f"seed {seed} failed: "))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Plant one bug at a time, and see how many seeds find it.")
    parser.add_argument("--seeds", type=int, help=f"give up after so many ({SEEDS_MAX})")
    parser.add_argument("--first-seed", type=int, default=0, help="where to begin (%(default)s)")
    parser.add_argument("words", nargs="*", help="cores, replicas, nodes, or words in the names of bugs; all by default")
    options = parser.parse_intermixed_args(arguments)
    kinds = [word for word in options.words if word in BUGS] or list(BUGS)
    words = [word for word in options.words if word not in BUGS]
    print("| planted | seeds | found by |\n| --- | --- | --- |", flush=True)
    for kind in kinds:
        for bug in BUGS[kind]:
            if not words or any(word in bug.name for word in words):
                found = find(kind, bug, options.first_seed, options.seeds or SEEDS_MAX[kind])
                text = found.text.replace("|", "/")
                print(f"| {bug.name} | {found.seeds or '**not found**'} | {text[:110]} |", flush=True)


if __name__ == "__main__":
    main()
