"""Runs the plain-text scripts of etcd-io/raft, and our own, against our core.

A script is a list of blocks: comments, a command line with arguments, input lines, `----`, the expected output, a blank line.
What it means is that project's `rafttest`, `confchange` and `quorum` test environments; this adapter speaks their language:
message names, the form of a Ready, one storage thread and one apply thread per node.

The rule of comparison: lines that begin with DEBUG, INFO, WARN, ERROR or FATAL (after indentation) are etcd's log and are left
aside on both sides; a block without any other output is the same as one that says "ok". All else has to be equal.

Where our `Ready` is laid out differently it is translated here:

- our votes and their responses also tell what is committed, which is left aside here;
- we hold back every message that speaks for a term not durable yet, etcd only replies; the adapter moves the others back;
- we hand out the hard state with every configuration change, etcd only when it has changed;
- etcd's synchronous mode is a driver's habit (persist, apply, then acknowledge all), so it lives here;
- a change proposed as `v1=true` differs in its printed name only; its context says so.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from trio_eventlog.errors import NotLeader
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import (
    AppendToken,
    ChangeKind,
    Configuration,
    ConfigurationChange,
    ConfigurationError,
    Entry,
    EntryKind,
    HardState,
    MemoryLog,
    Message,
    MessageType,
    NodeChange,
    PeerNotFound,
    ProposalDropped,
    ProposedEntry,
    RaftNode,
    RaftSettings,
    ReadMode,
    SnapshotMetadata,
    StorageAppend,
    Transition,
    configuration,
    decode_change,
    encode_change,
    quorum,
)
from trio_eventlog.raft.progress import Inflights, Progress
from trio_eventlog.testing.defaults import default

LOG_LINE = re.compile(r"\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")
UNLIMITED = (1 << 62) - 1
APPEND_THREAD = "AppendThread"
APPLY_THREAD = "ApplyThread"
V1 = b"v1"

NAMES = {
    MessageType.APPEND: "MsgApp",
    MessageType.APPEND_RESPONSE: "MsgAppResp",
    MessageType.VOTE: "MsgVote",
    MessageType.VOTE_RESPONSE: "MsgVoteResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageType.SNAPSHOT: "MsgSnap",
    MessageType.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageType.TRANSFER_LEADER: "MsgTransferLeader",
    MessageType.READ_INDEX: "MsgReadIndex",
    MessageType.READ_INDEX_RESPONSE: "MsgReadIndexResp",
    MessageType.PROPOSE: "MsgProp",
}
VOTE_RESPONSES = {MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE}
VOTES = {MessageType.VOTE, MessageType.PRE_VOTE} | VOTE_RESPONSES
REPLIES_OF_THE_DISK = {MessageType.APPEND_RESPONSE} | VOTE_RESPONSES


# Script files.


@attrs.define
class Block:
    """One command of a script."""

    line: int
    preamble: list[str]
    command_line: str
    input: list[str]
    expected: str
    fenced: bool

    @property
    def command(self) -> str:
        return self.command_line.split()[0]

    def arguments(self) -> list[tuple[str, list[str]]]:
        """`(key, values)` in order; `x` and `x=y` and `x=(y,z)`."""
        rest = self.command_line.strip()[len(self.command) :]
        result = []
        for key, _, value in re.findall(r"([^\s=()]+)(=(\([^)]*\)|[^\s()]*))?", rest):
            value = value.removeprefix("(").removesuffix(")")
            result.append((key, [part.strip() for part in value.split(",")] if value.strip() else []))
        return result


def read_blocks(text: str) -> list[Block]:
    lines = text.split("\n")
    blocks = []
    position = 0
    preamble: list[str] = []
    while position < len(lines):
        line = lines[position]
        if not line.strip() or line.lstrip().startswith("#"):
            preamble.append(line)
            position += 1
            continue
        number = position + 1
        command_line = line
        position += 1
        while command_line.endswith("\\"):
            command_line = command_line[:-1] + " " + lines[position]
            position += 1
        block_input = []
        while position < len(lines) and lines[position].strip() != "----":
            block_input.append(lines[position])
            position += 1
        position += 1
        expected = []
        fenced = position < len(lines) and lines[position] == "----"
        if fenced:
            position += 1
            while lines[position : position + 2] != ["----", "----"]:
                expected.append(lines[position])
                position += 1
            position += 2
        else:
            while position < len(lines) and lines[position].strip():
                expected.append(lines[position])
                position += 1
        blocks.append(Block(number, preamble, command_line, block_input, "\n".join(expected), fenced))
        preamble = []
    return blocks


def comparable(output: str) -> str:
    """`output` as it is compared: without log lines, "ok" when nothing else is left."""
    kept = [line.rstrip() for line in output.rstrip("\n").split("\n") if not LOG_LINE.match(line)]
    text = "\n".join(kept).strip("\n")
    return text if text.strip() else "ok"


def run_script(path: Path, rewrite: bool = False) -> None:
    """Run every block of `path`; AssertionError at the first that differs. With `rewrite` write down what came out instead."""
    environment = environment_for(path)
    blocks = read_blocks(path.read_text())
    written = []
    for block in blocks:
        actual = comparable(environment(block))
        if rewrite:
            fence = "----\n----" if "\n\n" in actual else "----"
            body = [*block.preamble, block.command_line, *block.input, fence, actual]
            written.extend([*body, "----", "----"] if "\n\n" in actual else body)
            continue
        expected = comparable(block.expected)
        assert actual == expected, (
            f"{path.name}:{block.line}: {block.command_line}\n\n--- expected\n{expected}\n\n--- actual\n{actual}\n"
        )
    if rewrite:
        path.write_text("\n".join(written) + "\n")


def environment_for(path: Path) -> Callable[[Block], str]:
    match path.parent.name:
        case "quorum":
            return run_quorum
        case "confchange":
            return ConfigurationEnvironment().run
        case _:
            return InteractionEnvironment().run


# quorum/*.txt


def run_quorum(block: Block) -> str:
    ids: list[int] = []
    joint_ids: list[int] = []
    joint = False
    values: list[int] = []
    for key, items in block.arguments():
        match key:
            case "cfg":
                ids = [int(item) for item in items]
            case "cfgj":
                joint = True
                joint_ids = [] if items == ["zero"] else [int(item) for item in items]
            case "idx":
                values = [0 if item == "_" else int(item) for item in items]
            case "votes":
                values = [{"_": 0, "n": 1, "y": 2}[item] for item in items]
            case _:
                raise AssertionError(f"unknown argument {key}")
    voters, outgoing = frozenset(ids), frozenset(joint_ids)
    everyone = list(dict.fromkeys(ids + joint_ids))
    if len(values) != len(everyone):
        voters_text = " ".join(f"{voter}:{{}}" for voter in sorted(everyone))
        values_text = " ".join(map(str, values))
        return f"error: mismatched input (explicit or _) for voters map[{voters_text}]: [{values_text}]"
    given = {voter: value for voter, value in zip(everyone, values, strict=True) if value}
    if block.command == "vote":
        votes = {voter: value == 2 for voter, value in given.items()}
        result = quorum.joint_vote(voters, outgoing, votes)
        assert quorum.joint_vote(outgoing, voters, votes) is result
        if not joint:
            assert result is quorum.majority_vote(voters, votes) is quorum.joint_vote(voters, voters, votes)
        return result.value

    def acked(voter: int) -> int:
        return given.get(voter, 0)

    index = quorum.joint_committed(voters, outgoing, acked)
    assert quorum.joint_committed(outgoing, voters, acked) == index
    if not joint:
        assert index == quorum.majority_committed(voters, acked) == quorum.joint_committed(voters, voters, acked)
        for voter in voters:
            # One voter lower by one lowers the result by at most one.
            indexes = {other: acked(other) for other in voters}
            indexes[voter] = max(indexes[voter] - 1, 0)
            assert index - 1 <= quorum.majority_committed(voters, indexes.__getitem__) <= index
    shown = "∞" if index == quorum.UNBOUNDED else str(index)
    return quorum.describe_committed(voters | outgoing, given) + shown


# confchange/*.txt


def parse_changes(text: str) -> list[NodeChange]:
    """`v1 l2 r3 u4`: add voter, add learner, remove, update."""
    kinds = {"v": ChangeKind.ADD_VOTER, "l": ChangeKind.ADD_LEARNER, "r": ChangeKind.REMOVE, "u": ChangeKind.UPDATE}
    return [NodeChange(kinds[token[0]], NodeId(int(token[1:]))) for token in text.split()]


def format_changes(changes: Sequence[NodeChange]) -> str:
    letters = {ChangeKind.ADD_VOTER: "v", ChangeKind.ADD_LEARNER: "l", ChangeKind.REMOVE: "r", ChangeKind.UPDATE: "u"}
    return " ".join(f"{letters[change.kind]}{change.node}" for change in changes)


class ConfigurationEnvironment:
    """A configuration changed command by command; each command counts as one more log index."""

    def __init__(self) -> None:
        self.configuration = Configuration()
        self.progress: dict[NodeId, Progress] = {}
        self.last_index = 0

    def run(self, block: Block) -> str:
        try:
            return self.carry_out(block)
        except ConfigurationError as error:
            return str(error)
        finally:
            self.last_index += 1

    def carry_out(self, block: Block) -> str:
        tokens = " ".join(block.input).split()
        for token in tokens:
            if len(token) < 2:
                return f"unknown token {token}"
            if token[0] not in "vlru":
                return f"unknown input: {token}"
        changes = parse_changes(" ".join(tokens))
        match block.command:
            case "simple":
                changed = configuration.simple(self.configuration, changes)
            case "enter-joint":
                auto_leave = dict(block.arguments()).get("autoleave") == ["true"]
                changed = configuration.enter_joint(self.configuration, auto_leave, changes)
            case "leave-joint":
                if changes:
                    return "this command takes no input"
                changed = configuration.leave_joint(self.configuration)
            case _:
                return "unknown command"
        assert not configuration.contradiction(changed.configuration)
        self.configuration = changed.configuration
        before, self.progress = self.progress, {}
        for node in sorted(changed.configuration.nodes):
            progress = before.get(node)
            if progress is None or node in changed.renewed:
                progress = Progress(match=0, next=max(self.last_index, 1), inflights=Inflights(10, 0), recent_active=True)
            progress.is_learner = node in changed.configuration.learners
            self.progress[node] = progress
        return "\n".join([str(self.configuration), *(f"{node}: {item}" for node, item in self.progress.items())])


# interaction/*.txt


@attrs.frozen
class AppendWork:
    """etcd's MsgStorageAppend."""

    node: NodeId
    append: StorageAppend
    responses: tuple["Item", ...]


@attrs.frozen
class AppendDone:
    """etcd's MsgStorageAppendResp."""

    node: NodeId
    token: AppendToken
    snapshot: SnapshotMetadata | None


@attrs.frozen
class ApplyWork:
    """etcd's MsgStorageApply; its response has the same entries."""

    node: NodeId
    entries: tuple[Entry, ...]


@attrs.frozen
class ApplyDone:
    """etcd's MsgStorageApplyResp."""

    node: NodeId
    entries: tuple[Entry, ...]


Item = Message | AppendDone | ApplyDone
"""What can be under way to a node."""


def describe_entry(entry: Entry) -> str:
    if entry.kind is EntryKind.CONFIGURATION:
        change = decode_change(entry.payload)
        name = "EntryConfChange" if change.context == V1 else "EntryConfChangeV2"
        shown = format_changes(change.changes)
    else:
        name = "EntryNormal"
        shown = json.dumps(entry.payload.decode())
    return f"{entry.term}/{entry.index} {name} {shown}".rstrip()


def describe_snapshot(snapshot: SnapshotMetadata) -> str:
    def ids(nodes: frozenset[NodeId]) -> str:
        return "[" + " ".join(map(str, sorted(nodes))) + "]"

    held = snapshot.configuration
    return (
        f"Index:{snapshot.index} Term:{snapshot.term} ConfState:Voters:{ids(held.voters)} "
        f"VotersOutgoing:{ids(held.voters_outgoing)} Learners:{ids(held.learners)} "
        f"LearnersNext:{ids(held.learners_next)} AutoLeave:{str(held.auto_leave).lower()}"
    )


def describe(
    *,
    sender: object,
    to: object,
    name: str,
    term: int = 0,
    log_term: int = 0,
    index: int = 0,
    reject: bool = False,
    hint: int = 0,
    commit: int = 0,
    vote: int = 0,
    entries: Sequence[Entry] = (),
    snapshot: SnapshotMetadata | None = None,
    responses: Sequence[Item] = (),
    indent: str = "",
) -> str:
    text = f"{indent}{sender}->{to} {name} Term:{term} Log:{log_term}/{index}"
    if reject:
        text += f" Rejected (Hint: {hint})"
    if commit:
        text += f" Commit:{commit}"
    if vote:
        text += f" Vote:{vote}"
    if len(entries) == 1:
        text += f" Entries:[{describe_entry(entries[0])}]"
    elif entries:
        text += " Entries:["
        for entry in entries:
            text += f"\n{indent}  {describe_entry(entry)}"
        text += f"\n{indent}]"
    if snapshot is not None:
        text += f"\n{indent}  Snapshot: {describe_snapshot(snapshot)}"
    if responses:
        text += " Responses:["
        for response in responses:
            text += "\n" + describe_item(response, indent + "  ")
        text += f"\n{indent}]"
    return text


def describe_item(item: "Item | AppendWork | ApplyWork", indent: str = "", with_responses: bool = True) -> str:
    match item:
        case AppendWork(node=node, append=append):
            hard_state = append.hard_state or HardState()
            return describe(
                sender=node,
                to=APPEND_THREAD,
                name="MsgStorageAppend",
                term=hard_state.term,
                commit=hard_state.commit,
                vote=hard_state.vote,
                entries=append.entries,
                snapshot=append.snapshot,
                responses=item.responses if with_responses else (),
                indent=indent,
            )
        case AppendDone(node=node, token=token):
            return describe(
                sender=APPEND_THREAD,
                to=node,
                name="MsgStorageAppendResp",
                term=token.term,
                log_term=token.log_term,
                index=token.index,
                snapshot=item.snapshot,
                indent=indent,
            )
        case ApplyWork(node=node, entries=entries):
            return describe(
                sender=node,
                to=APPLY_THREAD,
                name="MsgStorageApply",
                entries=entries,
                responses=(ApplyDone(node, entries),) if with_responses else (),
                indent=indent,
            )
        case ApplyDone(node=node, entries=entries):
            return describe(sender=APPLY_THREAD, to=node, name="MsgStorageApplyResp", entries=entries, indent=indent)
        case Message() as message:
            entries = message.entries
            if message.type in (MessageType.READ_INDEX, MessageType.READ_INDEX_RESPONSE):
                entries = (Entry(0, 0, EntryKind.DATA, 0, 0, message.context),)
            return describe(
                # etcd names the transferee as the sender.
                sender=message.transferee if message.type is MessageType.TRANSFER_LEADER else message.sender,
                to=message.to,
                name=NAMES[message.type],
                term=message.term,
                log_term=message.log_term,
                index=message.index,
                reject=message.reject,
                hint=message.reject_hint,
                commit=0 if message.type in VOTES else message.commit,
                entries=entries,
                snapshot=message.snapshot,
                indent=indent,
            )


class ScriptLog(MemoryLog):
    """A log whose sendable snapshot is the newest applied state, however little was compacted: as in etcd's environment."""

    def __init__(self, index: int, term: int, history: list[SnapshotMetadata]) -> None:
        super().__init__(index, term)
        self.history = history

    def snapshot(self) -> SnapshotMetadata | None:
        newest = self.history[-1]
        return newest if newest.index else None


class ScriptNode(RaftNode):
    """A node whose outgoing APPENDs carry their entries from the moment they were made, as etcd's do.

    A script may deliver them long after; our driver would rather look the range up when it sends, and drop what is out of date.
    """

    stable: ScriptLog

    def entry_at(self, index: int) -> Entry:
        unstable = self._log.unstable
        return unstable.entries[index - unstable.offset] if index >= unstable.offset else self.stable.entry(index)

    def _maybe_send_append(self, to: NodeId, progress: Progress, send_if_empty: bool) -> bool:
        sent = super()._maybe_send_append(to, progress, send_if_empty)
        if sent and self._messages[-1].type is MessageType.APPEND:
            message = self._messages[-1]
            message.entries = tuple(self.entry_at(index) for index in range(message.index + 1, message.last_index + 1))
        return sent


@attrs.define(eq=False)
class ScriptReplica:
    """A node with its storage, its storage thread's work and its apply thread's."""

    node: ScriptNode
    log: ScriptLog
    asynchronous: bool
    history: list[SnapshotMetadata]
    hard_state: HardState = attrs.Factory(HardState)
    shown_hard_state: HardState | None = None
    append_work: list[AppendWork] = attrs.Factory(list)
    apply_work: list[ApplyWork] = attrs.Factory(list)

    def persist(self, append: StorageAppend) -> None:
        if append.hard_state is not None:
            self.hard_state = append.hard_state
        if append.snapshot is not None:
            assert not append.entries, "can't apply snapshot and entries at the same time"
            self.log.install(append.snapshot)
        self.log.append(append.entries)

    def apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            held = self.history[-1].configuration
            if entry.kind is EntryKind.CONFIGURATION:
                held = self.node.apply_configuration(decode_change(entry.payload), entry.index)
            self.history.append(SnapshotMetadata(index=entry.index, term=entry.term, configuration=held))


class ScriptError(Exception):
    """An error a command reports as its output."""


class InteractionEnvironment:
    """etcd's `rafttest.InteractionEnv`: nodes, and messages under way."""

    def __init__(self) -> None:
        self.replicas: list[ScriptReplica] = []
        self.messages: list[Item] = []
        self.quiet = False
        self.lines: list[str] = []
        self.indent = ""
        self.rng = random.Random(1)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.lines.extend(self.indent + line for line in text.split("\n"))

    def run(self, block: Block) -> str:
        self.lines = []
        self.run_one(block)
        if block.command != "propose-conf-change":
            # Further commands may follow as input lines, which share one output.
            for line in block.input:
                self.run_one(Block(block.line, [], line, [], "", False))
        return "\n".join(self.lines) or "ok"

    def run_one(self, block: Block) -> None:
        command = getattr(self, "do_" + block.command.replace("-", "_"), None)
        try:
            if command is None:
                raise ScriptError("unknown command")
            command(block)
        except ScriptError as error:
            self.lines.append(str(error))

    def indexes(self, block: Block) -> list[int]:
        """The nodes named as bare arguments, as positions in `replicas`."""
        return [int(key) - 1 for key, values in block.arguments() if not values and key.isdigit()]

    def one(self, block: Block) -> ScriptReplica:
        (index,) = self.indexes(block)
        return self.replicas[index]

    # Commands.

    def do_log_level(self, block: Block) -> None:
        self.quiet = block.arguments()[0][0].lower() == "none"

    def do_add_nodes(self, block: Block) -> None:
        (count, _), *options = block.arguments()
        voters: frozenset[NodeId] = frozenset()
        learners: frozenset[NodeId] = frozenset()
        index = 0
        asynchronous = False
        settings = default(
            RaftSettings,
            election_timeout_ticks=3,
            heartbeat_ticks=1,
            append_bytes_max=UNLIMITED,
            inflight_messages_max=UNLIMITED,
            inflight_bytes_max=0,
            uncommitted_bytes_max=UNLIMITED,
            committed_bytes_per_ready_max=UNLIMITED,
            pre_vote=False,
            check_quorum=False,
            step_down_on_removal=False,
            step_down_on_stalled_append=False,
            forward_proposals=True,
        )
        for key, values in options:
            value = values[0] if values else "true"
            flag = value == "true"
            match key:
                case "voters":
                    voters = frozenset(NodeId(int(item)) for item in values)
                case "learners":
                    learners = frozenset(NodeId(int(item)) for item in values)
                case "index":
                    index = int(value)
                case "content":
                    pass  # The machine's content is not part of the core.
                case "async-storage-writes":
                    asynchronous = flag
                case "inflight":
                    settings = attrs.evolve(settings, inflight_messages_max=int(value))
                case "max-inflight-bytes":
                    settings = attrs.evolve(settings, inflight_bytes_max=int(value), append_bytes_max=int(value))
                case "max-size-per-msg":
                    settings = attrs.evolve(settings, append_bytes_max=int(value))
                case "max-committed-size-per-ready":
                    settings = attrs.evolve(settings, committed_bytes_per_ready_max=int(value))
                case "max-uncommitted-size":
                    settings = attrs.evolve(settings, uncommitted_bytes_max=int(value))
                case "prevote":
                    settings = attrs.evolve(settings, pre_vote=flag)
                case "checkquorum":
                    settings = attrs.evolve(settings, check_quorum=flag)
                case "disable-conf-change-validation":
                    settings = attrs.evolve(settings, validate_configuration_changes=not flag)
                case "disable-proposal-forwarding":
                    settings = attrs.evolve(settings, forward_proposals=not flag)
                case "step-down-on-removal":
                    settings = attrs.evolve(settings, step_down_on_removal=flag)
                case "step-down-on-stalled-append":
                    settings = attrs.evolve(settings, step_down_on_stalled_append=flag)
                case "read-only":
                    lease = value in ("lease-based", "leased-based")
                    # etcd accepts it without check-quorum; there its lease means nothing.
                    settings = attrs.evolve(
                        settings,
                        read_mode=ReadMode.LEASE if lease else ReadMode.SAFE,
                        check_quorum=settings.check_quorum or lease,
                    )
                case "priority":
                    settings = attrs.evolve(settings, priority=int(value))
                case _:
                    raise ScriptError(f"unknown argument {key}")
        settings = attrs.evolve(settings, apply_unstable=not asynchronous)
        held = Configuration(voters=voters, learners=learners)
        if held.nodes and index <= 1:
            raise ScriptError("index must be specified as > 1 due to bootstrap")
        term = 1 if held.nodes else 0
        for _ in range(int(count)):
            history = [SnapshotMetadata(index=index, term=term, configuration=held)]
            log = ScriptLog(index, term, history)
            node = self.start(NodeId(len(self.replicas) + 1), settings, HardState(), held, log)
            self.replicas.append(ScriptReplica(node, log, asynchronous, history))

    def start(
        self, node_id: NodeId, settings: RaftSettings, hard_state: HardState, held: Configuration, log: ScriptLog
    ) -> ScriptNode:
        node = ScriptNode(node_id, settings, hard_state, held, log, self.rng, applied_index=log.base_index)
        node.stable = log
        return node

    def do_campaign(self, block: Block) -> None:
        self.one(block).node.campaign()

    def do_compact(self, block: Block) -> None:
        position, index = (int(key) for key, _ in block.arguments())
        self.replicas[position - 1].log.compact(index)
        self.show_log(self.replicas[position - 1])

    def do_deliver_msgs(self, block: Block) -> None:
        wanted: str | None = None
        recipients: list[tuple[int, bool]] = []
        for key, values in block.arguments():
            if key == "type":
                (wanted,) = values
            elif key == "drop":
                recipients.extend((int(value), True) for value in values)
            else:
                recipients.append((int(key), False))
        if not self.deliver(recipients, wanted):
            self.say("no messages")

    def do_forget_leader(self, block: Block) -> None:
        self.one(block).node.forget_leader()

    def do_process_ready(self, block: Block) -> None:
        self.for_each(block, "handling Ready", self.process_ready)

    def do_process_append_thread(self, block: Block) -> None:
        self.for_each(block, "processing append thread", self.process_append)

    def do_process_apply_thread(self, block: Block) -> None:
        self.for_each(block, "processing apply thread", self.process_apply)

    def for_each(self, block: Block, what: str, act: Callable[[ScriptReplica], None]) -> None:
        indexes = self.indexes(block)
        for index in indexes:
            if len(indexes) == 1:
                act(self.replicas[index])
            else:
                self.say(f"> {index + 1} {what}")
                self.indented(act, self.replicas[index])

    def indented(self, act: Callable[[ScriptReplica], None], replica: ScriptReplica) -> None:
        self.indent += "  "
        try:
            act(replica)
        finally:
            self.indent = self.indent[:-2]

    def do_propose(self, block: Block) -> None:
        (position, _), (data, _) = block.arguments()
        self.propose(self.replicas[int(position) - 1], EntryKind.DATA, data.encode())

    def do_propose_conf_change(self, block: Block) -> None:
        version_1 = False
        transition = Transition.AUTO
        for key, values in block.arguments():
            if key == "v1":
                version_1 = values == ["true"]
            elif key == "transition":
                transition = {
                    "auto": Transition.AUTO,
                    "implicit": Transition.JOINT_IMPLICIT,
                    "explicit": Transition.JOINT_EXPLICIT,
                }[values[0]]
        changes = parse_changes(" ".join(block.input))
        if version_1 and (len(changes) > 1 or transition is not Transition.AUTO):
            raise ScriptError("v1 conf change can only have one operation and no transition")
        change = ConfigurationChange(changes=tuple(changes), transition=transition, context=V1 if version_1 else b"")
        self.propose(self.one(block), EntryKind.CONFIGURATION, encode_change(change))

    def propose(self, replica: ScriptReplica, kind: EntryKind, payload: bytes) -> None:
        try:
            replica.node.propose([ProposedEntry(kind, 1 if kind is EntryKind.DATA else 0, len(payload) + 6, payload)])
        except (NotLeader, ProposalDropped):
            raise ScriptError("raft proposal dropped") from None

    def do_raft_log(self, block: Block) -> None:
        self.show_log(self.one(block))

    def show_log(self, replica: ScriptReplica) -> None:
        log = replica.log
        if log.last_index < log.first_index:
            self.say(f"log is empty: first index={log.first_index}, last index={log.last_index}")
        for entry in log.entries:
            self.say(describe_entry(entry))

    def do_raft_state(self, block: Block) -> None:
        for replica in self.replicas:
            node = replica.node
            status = "Voter" if node.node_id in node.configuration.all_voters else "Non-Voter"
            self.say(f"{node.node_id}: {node.role.value} ({status}) Term:{node.term} Lead:{node.leader}")

    def do_report_unreachable(self, block: Block) -> None:
        reporter, target = self.indexes(block)
        self.replicas[reporter].node.report_unreachable(NodeId(target + 1))

    def do_report_snapshot(self, block: Block) -> None:
        reporter, target = self.indexes(block)
        failed = dict(block.arguments()).get("failed") == ["true"]
        self.replicas[reporter].node.report_snapshot(NodeId(target + 1), not failed)

    def do_send_snapshot(self, block: Block) -> None:
        sender, target = self.indexes(block)
        replica = self.replicas[sender]
        message = Message(
            type=MessageType.SNAPSHOT,
            to=NodeId(target + 1),
            sender=NodeId(sender + 1),
            term=replica.node.term,
            snapshot=replica.log.snapshot(),
        )
        self.messages.append(message)
        self.say(describe_item(message))

    def do_set_randomized_election_timeout(self, block: Block) -> None:
        self.one(block).node.set_randomized_election_timeout(int(dict(block.arguments())["timeout"][0]))

    def do_stabilize(self, block: Block) -> None:
        before = self.quiet
        for key, values in block.arguments():
            if key == "log-level":
                self.quiet = values == ["none"]
        try:
            self.stabilize([self.replicas[index] for index in self.indexes(block)] or self.replicas)
        finally:
            self.quiet = before

    def do_status(self, block: Block) -> None:
        for node, progress in self.one(block).node.status().progress.items():
            self.say(f"{node}: {progress.text}")

    def do_tick_election(self, block: Block) -> None:
        self.tick(block, self.one(block).node.settings.election_timeout_ticks)

    def do_tick_heartbeat(self, block: Block) -> None:
        self.tick(block, self.one(block).node.settings.heartbeat_ticks)

    def tick(self, block: Block, count: int) -> None:
        for _ in range(count):
            self.one(block).node.tick()

    def do_transfer_leadership(self, block: Block) -> None:
        arguments = dict(block.arguments())
        node = self.replicas[int(arguments["from"][0]) - 1].node
        try:
            node.transfer_leader(NodeId(int(arguments["to"][0])))
        except (NotLeader, ConfigurationError):
            pass  # etcd logs it and says "ok".

    # Commands of ours.

    def do_crash(self, block: Block) -> None:
        """The node loses what its storage thread has not done, and starts again. Messages it was sent or has sent stay."""
        replica = self.one(block)
        replica.append_work.clear()
        replica.apply_work.clear()
        node = replica.node.node_id
        self.messages = [item for item in self.messages if not (is_local(item) and recipient(item) == node)]
        applied = replica.history[-1]
        replica.node = ScriptNode(
            node,
            replica.node.settings,
            replica.hard_state,
            applied.configuration,
            replica.log,
            self.rng,
            applied_index=applied.index,
        )
        replica.node.stable = replica.log
        replica.shown_hard_state = replica.hard_state

    def do_add_node_with_log(self, block: Block) -> None:
        """`add-node-with-log terms=(1,1,4) term=7 voters=(1,2,3)`: one node that has lived; the payload names term and index."""
        arguments = dict(block.arguments())
        held = Configuration(voters=frozenset(NodeId(int(item)) for item in arguments["voters"]))
        hard_state = HardState(term=int(arguments["term"][0]))
        history = [SnapshotMetadata(index=0, term=0, configuration=held)]
        log = ScriptLog(0, 0, history)
        for index, term in enumerate(arguments["terms"], 1):
            log.append([Entry(int(term), index, EntryKind.DATA, 1, 9, f"{term}/{index}".encode())])
        settings = default(
            RaftSettings,
            election_timeout_ticks=3,
            pre_vote=False,
            check_quorum=False,
            apply_unstable=True,
            step_down_on_removal=True,
        )
        node = self.start(NodeId(len(self.replicas) + 1), settings, hard_state, held, log)
        self.replicas.append(ScriptReplica(node, log, False, history, hard_state))

    def do_terms(self, block: Block) -> None:
        """The logs at a glance: the term of each entry, durable or not, and how far it is committed."""
        for replica in self.replicas:
            node = replica.node
            terms = " ".join(str(node.entry_at(index).term) for index in range(replica.log.first_index, node.last_index + 1))
            self.say(f"{node.node_id}: {terms} (commit {node.commit_index})")

    def do_lose_entries(self, block: Block) -> None:
        """`lose-entries 3 from=5`: the disk of node 3 loses what it had promised to keep. Use `crash` afterwards."""
        (position, _), (_, (first,)) = block.arguments()
        replica = self.replicas[int(position) - 1]
        del replica.log.entries[int(first) - replica.log.first_index :]
        replica.history[:] = [point for point in replica.history if point.index < int(first)]
        replica.hard_state = attrs.evolve(replica.hard_state, commit=min(replica.hard_state.commit, int(first) - 1))

    def do_peer_reset(self, block: Block) -> None:
        """`peer-reset 2 1`: node 2 sees its link to node 1 reset, and campaigns at once if that was its leader."""
        index, target = self.indexes(block)
        node = self.replicas[index].node
        node.peer_reset(NodeId(target + 1))
        if dict(block.arguments()).get("campaign") != ["false"]:
            node.campaign_if_leader_lost(NodeId(target + 1))

    def do_read_index(self, block: Block) -> None:
        (position, _), (context, _) = block.arguments()
        try:
            self.replicas[int(position) - 1].node.read_index(context.encode())
        except (NotLeader, ProposalDropped) as error:
            raise ScriptError(f"{type(error).__name__}: {error}") from None

    # How nodes are driven.

    def stabilize(self, replicas: Sequence[ScriptReplica]) -> None:
        while True:
            busy = False
            for replica in replicas:
                if replica.node.has_ready():
                    busy = True
                    self.say(f"> {replica.node.node_id} handling Ready")
                    self.indented(self.process_ready, replica)
            for replica in replicas:
                node = replica.node.node_id
                if any(recipient(item) == node for item in self.messages):
                    busy = True
                    self.say(f"> {node} receiving messages")
                    self.indented(lambda replica: self.deliver_to(replica), replica)
            for replica in replicas:
                if replica.append_work:
                    busy = True
                    self.say(f"> {replica.node.node_id} processing append thread")
                    while replica.append_work:
                        self.indented(self.process_append, replica)
            for replica in replicas:
                if replica.apply_work:
                    busy = True
                    self.say(f"> {replica.node.node_id} processing apply thread")
                    while replica.apply_work:
                        self.indented(self.process_apply, replica)
            if not busy:
                return

    def deliver_to(self, replica: ScriptReplica) -> None:
        self.deliver([(replica.node.node_id, False)], None)

    def deliver(self, recipients: Sequence[tuple[int, bool]], wanted: str | None) -> int:
        """Hand what is under way to `recipients`, or drop it (never what a node tells itself). Returns how many."""
        count = 0
        for target, drop in recipients:
            taken: list[Item] = []
            left: list[Item] = []
            for item in self.messages:
                fits = wanted is None or type_name(item) == wanted
                mine = recipient(item) == target and fits and not (drop and is_local(item))
                (taken if mine else left).append(item)
            self.messages = left
            count += len(taken)
            for item in taken:
                self.say(("dropped: " if drop else "") + describe_item(item))
                if not drop:
                    self.hand_over(self.replicas[target - 1].node, item)
        return count

    def hand_over(self, node: ScriptNode, item: Item) -> None:
        match item:
            case AppendDone(token=token):
                node.on_appended(token)
            case ApplyDone(entries=entries):
                node.on_applied(entries[-1].index)
            case Message() as message:
                try:
                    node.step(message)
                except PeerNotFound:
                    self.say("raft: cannot step as peer not found")
                except ProposalDropped:
                    self.say("raft proposal dropped")

    def process_ready(self, replica: ScriptReplica) -> None:
        node = replica.node
        ready = node.ready()
        if ready is None:
            self.say("<empty Ready>")
            return
        append = ready.append
        if append is None:
            append = StorageAppend(
                hard_state=None,
                entries=(),
                snapshot=None,
                must_sync=False,
                sync_commit=False,
                responses=(),
                token=AppendToken(node.term),
            )
        if append.hard_state == replica.shown_hard_state:
            append = attrs.evolve(append, hard_state=None)
        elif append.hard_state is not None:
            replica.shown_hard_state = append.hard_state
        held_back = [message for message in append.responses if message.type not in REPLIES_OF_THE_DISK]
        replies = [message for message in append.responses if message.type in REPLIES_OF_THE_DISK]
        outgoing: list[Item] = [*ready.messages, *held_back]
        committed = tuple(node.entry_at(index) for index in ready.committed)
        local: list[AppendWork | ApplyWork] = []
        acknowledges = bool(append.token.index or append.snapshot is not None)
        if replica.asynchronous:
            responses: list[Item] = list(replies)
            if acknowledges:
                responses.append(AppendDone(node.node_id, append.token, append.snapshot))
            if append.hard_state or append.entries or append.snapshot or replies:
                local.append(AppendWork(node.node_id, append, tuple(responses)))
            if committed:
                local.append(ApplyWork(node.node_id, committed))
        else:
            outgoing.extend(message for message in replies if message.to != node.node_id)

        text: list[str] = []
        if ready.soft_state is not None:
            text.append(f"Lead:{ready.soft_state.leader} State:{ready.soft_state.role.value}")
        if append.hard_state is not None:
            text.append(f"HardState {describe_hard_state(append.hard_state)}")
        if ready.read_states:
            states = " ".join(f"{{{state.index} [{' '.join(map(str, state.context))}]}}" for state in ready.read_states)
            text.append(f"ReadStates [{states}]")
        if append.entries:
            text.extend(["Entries:", *map(describe_entry, append.entries)])
        if append.snapshot is not None:
            text.append(f"Snapshot {describe_snapshot(append.snapshot)}")
        if committed:
            text.extend(["CommittedEntries:", *map(describe_entry, committed)])
        if outgoing or local:
            text.extend(["Messages:", *map(describe_item, outgoing), *map(describe_item, local)])
        if text:
            # etcd does not ask for a sync for a snapshot alone; we do.
            must_sync = append.must_sync and (append.snapshot is None or self.vote_or_term_moved(replica, append))
            self.say(f"Ready MustSync={str(must_sync).lower()}:")
            self.say("\n".join(text))
        else:
            self.say("<empty Ready>")

        if replica.asynchronous:
            for work in local:
                if isinstance(work, AppendWork):
                    replica.append_work.append(work)
                else:
                    replica.apply_work.append(work)
            self.messages.extend(outgoing)
            return
        replica.persist(append)
        replica.apply(committed)
        self.messages.extend(outgoing)
        for message in replies:
            if message.to == node.node_id:
                self.hand_over(node, message)
        node.on_appended(append.token)
        if committed:
            node.on_applied(committed[-1].index)

    def vote_or_term_moved(self, replica: ScriptReplica, append: StorageAppend) -> bool:
        before, after = replica.hard_state, append.hard_state
        return after is not None and (before.term, before.vote) != (after.term, after.vote)

    def process_append(self, replica: ScriptReplica) -> None:
        if not replica.append_work:
            self.say("no append work to perform")
            return
        work = replica.append_work.pop(0)
        self.say("Processing:\n" + describe_item(work, with_responses=False))
        replica.persist(work.append)
        self.say("\n".join(["Responses:", *map(describe_item, work.responses)]))
        self.messages.extend(work.responses)

    def process_apply(self, replica: ScriptReplica) -> None:
        if not replica.apply_work:
            self.say("no apply work to perform")
            return
        work = replica.apply_work.pop(0)
        done = ApplyDone(work.node, work.entries)
        self.say("Processing:\n" + describe_item(work, with_responses=False))
        replica.apply(work.entries)
        self.say("Responses:\n" + describe_item(done))
        self.messages.append(done)


def describe_hard_state(hard_state: HardState) -> str:
    vote = f" Vote:{hard_state.vote}" if hard_state.vote != NOBODY else ""
    return f"Term:{hard_state.term}{vote} Commit:{hard_state.commit}"


def type_name(item: Item) -> str:
    match item:
        case AppendDone():
            return "MsgStorageAppendResp"
        case ApplyDone():
            return "MsgStorageApplyResp"
        case Message() as message:
            return NAMES[message.type]


def recipient(item: Item) -> int:
    return item.to if isinstance(item, Message) else item.node


def is_local(item: Item) -> bool:
    """Whether it goes from a node (or one of its threads) to itself."""
    return not isinstance(item, Message) or item.to == item.sender


def scripts_in(folder: Path) -> Iterator[Path]:
    """Every script below `folder`, in a stable order."""
    for kind in ("interaction", "confchange", "quorum"):
        yield from sorted((folder / kind).glob("*.txt"))
