"""What a core simulation says to people: one line for each step, a column for each node.

    12.345 1>3 APPEND t4 9..11 after 8@3 c8   |                  |                  |F4  11  8   8   8  |
    12.401 3 disk ..11; 3>1 APPEND_RESPONSE   |                  |                  |F4  11  11  8   8  |

A column shows role and term (and `+` in a joint configuration), then last, durable, commit and applied index; it is empty while
nothing of it changes. Roles: `F`ollower, `P`re-candidate, `C`andidate, `L`eader; `-` is down, `z` paused.
"""

from collections.abc import Callable, Sequence

from trio_eventlog.raft import Message, MessageType, RaftNode, Role

TICK = 1000
"""Length of a tick in units of simulated time."""

CAUSE_WIDTH = 52
COLUMN_WIDTH = 18
HEADER_EVERY_LINES = 40

_LETTERS = {Role.FOLLOWER: "F", Role.PRE_CANDIDATE: "P", Role.CANDIDATE: "C", Role.LEADER: "L"}
_DOWN = "-"


class StepLog:
    """Collects what happens within one step, and writes its line."""

    def __init__(self, nodes: Sequence[int], write: Callable[[str], object]) -> None:
        self._nodes = nodes
        self._write = write
        self._happened: list[str] = []
        self._columns = [_DOWN] * len(nodes)
        self._lines = 0

    def add(self, text: str) -> None:
        """Part of the current step; the first one is its cause."""
        self._happened.append(text)

    def end_step(self, now: int, columns: Sequence[str]) -> None:
        """Write the step's line, unless nothing happened in it. `columns` is in the order of the nodes."""
        if not self._happened and list(columns) == self._columns:
            return
        if self._lines % HEADER_EVERY_LINES == 0:
            names = "|".join(f"node {node}".ljust(COLUMN_WIDTH) for node in self._nodes)
            self._write(f"{'tick':>9s} {'what happened':{CAUSE_WIDTH}s}|{names}|")
            shown = list(columns)
        else:
            shown = [new if new != old else "" for new, old in zip(columns, self._columns, strict=True)]
        self._lines += 1
        self._columns = list(columns)
        # Short things share the line; what does not fit stands after the columns.
        cause, *others = self._happened or [""]
        while others and len(cause) + len(others[0]) + 2 <= CAUSE_WIDTH:
            cause = f"{cause}; {others.pop(0)}"
        cells = "|".join(text.ljust(COLUMN_WIDTH) for text in shown)
        self._write(f"{now / TICK:9.3f} {cause:{CAUSE_WIDTH}s}|{cells}|{'; '.join(others)}".rstrip())
        self._happened.clear()


def column(core: RaftNode | None, durable_index: int, is_paused: bool) -> str:
    """One node's state, as short as it can be read."""
    if core is None:
        return f"{_DOWN}   ..{durable_index}"
    letter = "z" if is_paused else _LETTERS[core.role]
    marks = "+" if core.configuration.is_joint else ""
    return f"{letter}{core.term}{marks} {core.last_index} {durable_index} {core.commit_index} {core.applied_index}"


def describe(message: Message) -> str:
    """A message in a few words: sender, receiver, kind, term and what matters of the rest."""
    kind = message.type
    words = [f"{message.sender}>{message.to} {kind.name}", f"t{message.term}"]
    match kind:
        case MessageType.APPEND:
            sent = f"{message.index + 1}..{message.last_index}" if message.last_index > message.index else "nothing"
            words.append(f"{sent} after {message.index}@{message.log_term} c{message.commit}")
        case MessageType.APPEND_RESPONSE:
            words.append(
                f"no {message.index}, {message.reject_hint}@{message.log_term}?" if message.reject else f"i{message.index}"
            )
        case MessageType.VOTE | MessageType.PRE_VOTE:
            words.append(f"{message.index}@{message.log_term} {message.context.decode()}".rstrip())
        case MessageType.VOTE_RESPONSE | MessageType.PRE_VOTE_RESPONSE:
            words.append("no" if message.reject else "yes")
        case MessageType.HEARTBEAT:
            words.append(f"c{message.commit}")
        case MessageType.SNAPSHOT:
            assert message.snapshot is not None
            words.append(f"{message.snapshot.index}@{message.snapshot.term}")
        case MessageType.TRANSFER_LEADER:
            words.append(f"to {message.transferee}")
        case MessageType.READ_INDEX_RESPONSE:
            words.append(f"i{message.index}")
        case _:
            pass
    return " ".join(words)
