"""Break gossip on purpose, one thing at a time, and count the seeds until a simulated cluster shows it.

    python tests/gossip_mutations.py [--seeds 30] [WORD IN A NAME...]

Each mutation is a text replaced in a copy of the tree. All stories of tests/sim/test_gossip.py run with seed 0, then with seed 1,
and so on, until one fails: that is the last column of the table in docs/design/gossip.md. When none does, tests/gossip is asked.
Not a test itself: it takes half an hour.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutations import ROOT, Mutation

SWIM = "trio_eventlog/gossip/swim.py"
SERF = "trio_eventlog/gossip/serf.py"
PROBING = "trio_eventlog/gossip/probing.py"
LEAVING = "trio_eventlog/gossip/leaving.py"
STATE = "trio_eventlog/gossip/serf_state.py"
LAMPORT = "trio_eventlog/gossip/lamport.py"
SUSPICION = "trio_eventlog/gossip/suspicion.py"
RUMORS = "trio_eventlog/gossip/rumors.py"

MUTATIONS = (
    Mutation(
        "who is suspected says nothing",
        SWIM,
        "        if row is self.own:\n            self._refute(message.incarnation)\n            return\n        self.rumors.add",
        "        if row is self.own:\n            return\n        self.rumors.add",
    ),
    Mutation(
        "a refutation keeps its incarnation",
        SWIM,
        "own.incarnation = min(max(own.incarnation, accused_incarnation) + 1, INCARNATION_MAX)",
        "own.incarnation = max(own.incarnation, accused_incarnation)",
    ),
    Mutation(
        "a lost refutation is not repeated",
        SWIM,
        "        if name == self.name and not self.is_leaving and name not in self.rumors:",
        "        if False:",
    ),
    Mutation(
        "further accusers do not shorten a suspicion",
        SUSPICION,
        "        self.accusers.add(accuser)\n        return True",
        "        return True",
    ),
    Mutation(
        "a suspicion takes the shortest time at once",
        SUSPICION,
        "    share = math.log(accusers + 1) / math.log(expected + 1)",
        "    share = 1.0",
    ),
    Mutation(
        "a failure is kept to oneself",
        SWIM,
        "        self.rumors.add(self._encode(message), row.name)\n        row.incarnation = message.incarnation\n"
        "        row.status = RowStatus.LEFT",
        "        row.incarnation = message.incarnation\n        row.status = RowStatus.LEFT",
    ),
    Mutation(
        "a suspicion is kept to oneself",
        SWIM,
        "        self.rumors.add(self._encode(message), row.name)\n        row.incarnation = message.incarnation\n"
        "        row.status = RowStatus.SUSPECT",
        "        row.incarnation = message.incarnation\n        row.status = RowStatus.SUSPECT",
    ),
    Mutation(
        "an alive message of any age revives the dead",
        SWIM,
        "        if row is not None and not is_own and message.incarnation <= row.incarnation and address == row.address:",
        "        if row is not None and not row.is_here:\n            row.incarnation = 0\n"
        "        if row is not None and not is_own and message.incarnation <= row.incarnation and address == row.address:",
    ),
    Mutation(
        "an old accusation counts",
        SWIM,
        "        row = self.table.get(message.name)\n        if row is None or message.incarnation < row.incarnation:\n"
        "            self._repeat_refutation(message.name)\n            return\n        if row.suspicion is not None:",
        "        row = self.table.get(message.name)\n        if row is None:\n            return\n"
        "        if row.suspicion is not None:",
    ),
    Mutation(
        "an alive message does not end a suspicion",
        SWIM,
        "        self._end_suspicion(row)\n        was_here = row.is_here",
        "        was_here = row.is_here",
    ),
    Mutation(
        "nobody else is asked to ping",
        PROBING,
        "helpers = self._table.pick(settings.indirect_probes, lambda one: one.status is RowStatus.ALIVE and one is not row)",
        "helpers: list[Row] = []",
    ),
    Mutation(
        "no ping by stream",
        PROBING,
        "        if row.versions.protocol_max >= TCP_PING_PROTOCOL:",
        "        if False:",
    ),
    Mutation(
        "who stood still accuses",
        SWIM,
        "        if lateness > self.settings.late_tick_seconds:",
        "        if False:",
    ),
    Mutation(
        "no exchange of tables",
        SWIM,
        "        for row in self.table.pick(1, lambda one: one.status is RowStatus.ALIVE):",
        "        for row in self.table.pick(0, lambda one: one.status is RowStatus.ALIVE):",
    ),
    Mutation(
        "the dead of another table are believed at once",
        SWIM,
        "                self._suspect(Suspect(name=record.name, incarnation=record.incarnation, accuser=self.name), now)\n\n",
        "                self._dead(Dead(name=record.name, incarnation=record.incarnation, accuser=self.name), now)\n\n",
    ),
    Mutation(
        "a rumor is told once",
        RUMORS,
        "    return multiplier * math.ceil(math.log10(members + 1))",
        "    return 1",
    ),
    Mutation(
        "a rumor is told for ever",
        RUMORS,
        "            if rumor.transmissions < transmissions:",
        "            if True:",
    ),
    Mutation(
        "failed members are not tried again",
        SERF,
        "        if self._rng.random() < len(failed) / max(1, alive):",
        "        if False:",
    ),
    Mutation(
        "times of others are not witnessed",
        LAMPORT,
        "        if time >= self.time:\n            self.time = time + 1",
        "        pass",
    ),
    Mutation(
        "an event is told on without being remembered",
        LAMPORT,
        "        seen[what] = size_bytes\n",
        "",
    ),
    Mutation(
        "who leaves says so to the failure detector only as a failure",
        SWIM,
        "        self._dead(Dead(name=self.name, incarnation=self.own.incarnation, accuser=self.name), now)\n\n    # --- Push",
        '        self._dead(Dead(name=self.name, incarnation=self.own.incarnation, accuser="?"), now)\n\n    # --- Push',
    ),
    Mutation(
        "who leaves is gone before it has told",
        LEAVING,
        "            if not is_alone and self._name in self._swim.rumors and now < self._until:\n                return\n"
        "            self._stage = _Stage.LINGER\n"
        "            self._until = now if is_alone else now + self._settings.leave_delay_seconds",
        "            self._stage = _Stage.LINGER\n            self._until = now",
    ),
    Mutation(
        "who came back is told of as left",
        STATE,
        "if one.status is GossipStatus.LEFT and not one.last_was_join),",
        "if one.status is GossipStatus.LEFT),",
    ),
    Mutation(
        "the leaving are told of in exchanges",
        STATE,
        "            status_times={one.name: one.status_time for one in records if one.status is not GossipStatus.LEAVING},",
        "            status_times={one.name: one.status_time for one in records},",
    ),
)

HUNT = """
import sys
sys.path.insert(0, "tests/sim")
import test_gossip

stories = []
for name, story in vars(test_gossip).items():
    if name.startswith("test_"):
        marks = [mark for mark in getattr(story, "pytestmark", ()) if mark.name == "parametrize"]
        stories += [(name, story, [value]) for mark in marks for value in mark.args[1]] or [(name, story, [])]
for seed in range(int(sys.argv[1])):
    for name, story, arguments in stories:
        try:
            story(seed, *arguments)
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f" ({type(error).__name__})"
            print(f"`{name}`{kind} | {seed + 1}")
            sys.exit()
"""


def hunt(mutation: Mutation | None, seeds: int) -> str:
    """Story and seeds as cells of a table; the story that failed first."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for name in ("trio_eventlog", "tests/sim", "tests/gossip"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            path = copy / mutation.path
            text = path.read_text()
            assert text.count(mutation.old) == 1, f"{mutation.name}: the text to replace is there {text.count(mutation.old)} times"
            path.write_text(text.replace(mutation.old, mutation.new))
        command = [sys.executable, "-c", HUNT, str(seeds)]
        try:
            ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=1800)
        except subprocess.TimeoutExpired:
            return "(a story that never ended) | "
        assert not ran.stderr, ran.stderr
        if found := ran.stdout.strip():
            return found
        command = [sys.executable, "-m", "pytest", "tests/gossip", "-q", "-x", "-p", "no:cacheprovider"]
        ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=600)
        failed = [line.partition("::")[2].partition(" - ")[0] for line in ran.stdout.splitlines() if line.startswith("FAILED")]
        return f"no story; `{failed[0]}` | {seeds}" if failed else f"**nothing** | {seeds}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Break gossip in one place at a time and count the seeds until a story notices.")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("words", nargs="*", help="only mutations with one of these in their name")
    arguments = parser.parse_args()
    unbroken = hunt(None, 2)
    assert "nothing" in unbroken, f"fails without any mutation: {unbroken}"
    for mutation in MUTATIONS:
        if not arguments.words or any(word in mutation.name for word in arguments.words):
            print(f"| {mutation.name} | {hunt(mutation, arguments.seeds)} |", flush=True)


if __name__ == "__main__":
    main()
