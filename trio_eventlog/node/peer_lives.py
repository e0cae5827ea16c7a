"""What a node remembers of the lives (starts) of other nodes, and which processes it refuses because of that.

Two processes with one node id can break promises: one does not know what the other has promised. So for each id one life is
accepted at a time, and another life only if it continues the accepted one at the moment at which that ended (codec/lives.py).
What is accepted is made durable before it takes effect, and announced to all other nodes, so that a node that was away, or cannot
reach the node in question, knows it too.

| shown | in a hello | claimed by another member |
| --- | --- | --- |
| the same life, the same moment or a later one | heard | remembered |
| a life that continues what is known | heard, once it is durable here | the same; links of the former life end |
| a moment or a life that was left | refused: a copy, or a directory put back | nothing new |
| both continue an earlier moment | refused | *forked*: members have heard both. Neither is heard any more |
| out of reach: more than 63 starts were missed | refused, until another member claims it | remembered |

A node that is joining has not promised anything yet: a claim of a member replaces what it has accepted, and never marks a node as
forked.

    <data-dir>/peers    the lives accepted, written before they are
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.lives import Claim, Lives, Relation, decode_lives, encode_lives, relate
from trio_eventlog.codec.peer_frame import Hello, Refused, RefusedCode
from trio_eventlog.errors import CodecError, DataDirectoryError, EventLogError
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.disk import is_shortage, join_path, read_whole, write_atomically

logger = logging.getLogger(__name__)

PEERS_FILE = "peers"
PEERS_FILE_BYTES_MAX = 16 * 1024 * 1024
WAY_BACK = (
    "only one process may be this node. If it is to be this one: stop the other, remove the node from the cluster"
    " (`trio-eventlog node remove`), and start this one with an empty data directory and --join; it becomes a new node"
)


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class PeerLivesSettings:
    """Attributes:
    strangers_max: nodes that are no members and whose lives are remembered, in memory alone; the oldest is forgotten first.
    inform_seconds_max: a node that starts waits this long, at most, for what another member knows, before it accepts a life that it
        has not heard of: a copy must not find a node that was away when the original went on.
    write_seconds: moments that were only heard of are written down together, this long after the first of them.
    """

    strangers_max: int
    write_seconds: float
    inform_seconds_max: float
    join_seconds_max: float


@attrs.frozen(slots=True, kw_only=True)
class _Known:
    """What is remembered of a node: the newest life accepted, where it was, and whether two of its lives were heard."""

    lives: Lives
    address: str = ""
    is_forked: bool = False


class PeerLives:
    """The lives of other nodes. `run` writes down what need not be durable at once; the rest may be called from any task.

    Args:
        is_member: whether a node is in a configuration that this one knows. Only then do its claims about other nodes count, and
            are its lives remembered durably.
        is_removed: whether a node was removed from the cluster; then its lives are forgotten.
        on_accepted: called when another life is accepted, or none is any more (forked): links of other lives have to end.
        on_news: called with claims that have to be sent to all other nodes.
    """

    def __init__(
        self,
        directory: DataDirectory,
        *,
        is_member: Callable[[NodeId], bool],
        is_removed: Callable[[NodeId], bool],
        on_accepted: Callable[[NodeId], None],
        on_news: Callable[[Claim], None],
        settings: PeerLivesSettings,
    ) -> None:
        self._directory = directory
        self._own_id = directory.node_id
        self._is_in_configuration = is_member
        self._is_removed = is_removed
        self._on_accepted = on_accepted
        self._on_news = on_news
        self._settings = settings
        self._known: OrderedDict[NodeId, _Known] = OrderedDict()
        self._written: Mapping[NodeId, _Known] = {}
        self._refused: OrderedDict[tuple[NodeId, str], str] = OrderedDict()
        self._writing = trio.Lock()
        self._is_behind = trio.Event()
        self._informed = trio.Event()
        self._informed_by = 0.0
        self._is_provisional = False

    async def load(self, *, is_newcomer: bool) -> None:
        """Read what earlier lives of this node have accepted.

        Args:
            is_newcomer: this node belongs to no cluster yet.

        Raises: DataDirectoryError.
        """
        self._informed_by = trio.current_time() + self._settings.inform_seconds_max
        path = self._path
        try:
            known = decode_peers(await read_whole(self._directory.disk, path, PEERS_FILE_BYTES_MAX))
        except FileNotFoundError:
            self._is_provisional = True
            if is_newcomer:
                self._informed.set()  # It receives no claims before it has joined.
            return
        except (OSError, CodecError) as error:
            raise DataDirectoryError(
                f"{path}: cannot be used: {error}. It says which processes this node takes for the others. When you are certain"
                " that no copy of another node runs, remove the file: those that come first are taken then."
            ) from error
        self._written = dict(known)
        self._known.update(known)

    async def join(self) -> None:
        """Call this when the members are known, and before any message of Raft is taken or sent.

        A node without its file of peers has accepted, for each node id, the first process that connected, which may be a copy. No
        promises have been exchanged yet, so until this returns, claims of members replace what was accepted, and no node is marked
        as forked because of them.

        Raises: StorageFailed, DiskFull.
        """
        if not self._is_provisional:
            return
        self._informed = trio.Event()
        self._informed_by = trio.current_time() + self._settings.join_seconds_max
        # The start of a copy is never the first life of its directory.
        if any(known.lives.number > 1 for known in self._known.values()):
            with trio.move_on_at(self._informed_by):
                await self._informed.wait()
        self._informed.set()
        async with self._writing:
            self._is_provisional = False
            try:
                await self._write(self._known)
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                logger.warning("the lives of other nodes cannot be written down just now: %s", error)
                self._is_behind.set()

    async def run(self) -> None:
        """Until cancelled. Raises StorageFailed, DiskFull."""
        while True:
            await self._is_behind.wait()
            await trio.sleep(self._settings.write_seconds)
            self._is_behind = trio.Event()
            try:
                async with self._writing:
                    await self._write(self._known)
            except EventLogError as error:
                if not is_shortage(error):
                    raise
                logger.warning("the lives of other nodes cannot be written down just now: %s", error)
                self._is_behind.set()

    @property
    def has_known(self) -> bool:
        """Whether any other node was ever a member, as far as this one has written down."""
        return bool(self._written)

    def lives(self, node_id: NodeId) -> Lives | None:
        """The newest life accepted of a node that is not forked."""
        known = self._known.get(node_id)
        return known.lives if known is not None and not known.is_forked else None

    def claims(self, receiver: NodeId) -> Iterable[Claim]:
        """All that is known of members, for a node whose link has just come up. What is known of itself is last: that was all."""
        for node_id, known in sorted(self._known.items(), key=lambda item: item[0] == receiver):
            if self._is_member(node_id) or node_id == receiver:
                yield Claim(node_id=node_id, lives=known.lives, is_forked=known.is_forked)

    def warnings(self) -> list[str]:
        """Which nodes are refused and why, for people."""
        forked = [
            f"node {format_id(node_id)} is not heard any more: {_FORKED}"
            for node_id, known in self._known.items()
            if known.is_forked and self._is_member(node_id)
        ]
        return [*forked, *(f"node {format_id(node_id)} at {address}: {text}" for (node_id, address), text in self._refused.items())]

    async def recognize(self, hello: Hello, remembers: bool) -> Refused | None:
        """Whether the process that says `hello` is the node as it is known. None: it is.

        Args:
            remembers: no other is from now on; durable when this returns. Without, nothing follows from it.
        """
        lives = hello.lives
        if lives is None:
            return None  # of a release that has none: nothing can be told
        known = self._known.get(hello.node_id)
        is_news = not known.lives.present.is_life_of(lives.present) if known is not None else lives.number > 1
        if is_news:
            with trio.move_on_at(self._informed_by):
                await self._informed.wait()
        async with self._writing:
            known = self._known.get(hello.node_id)
            refusal = self._refuse(hello, known, lives)
            if refusal:
                self._refused[hello.node_id, hello.address] = refusal
                if len(self._refused) > self._settings.strangers_max:
                    self._refused.popitem(last=False)
                return Refused(RefusedCode.NOT_THIS_LIFE, f"{refusal}; {WAY_BACK}")
            if not remembers:
                return None
            self._refused.pop((hello.node_id, hello.address), None)
            if known is None or relate(known.lives, lives) is Relation.CONTINUES:
                try:
                    await self._accept(hello.node_id, _Known(lives=lives, address=hello.address))
                except EventLogError as error:
                    if not is_shortage(error):
                        raise
                    return Refused(RefusedCode.BUSY, f"that you are heard cannot be written down here just now: {error}")
            elif known.address != hello.address:
                # Where it is was not in what others have said of it; refusals of another process name it, also after a restart.
                self._remember(hello.node_id, attrs.evolve(known, address=hello.address))
                try:
                    await self._write(self._known)
                except EventLogError as error:
                    if not is_shortage(error):
                        raise
                    logger.warning("where %s is cannot be written down just now: %s", format_id(hello.node_id), error)
        return None

    def _refuse(self, hello: Hello, known: _Known | None, lives: Lives) -> str:
        if known is None:
            return ""
        if known.is_forked:
            return _FORKED
        relation = relate(known.lives, lives)
        who = f"you at {hello.address} are not the node {format_id(hello.node_id)} that is known here"
        where = f" at {known.address}" if known.address and known.address != hello.address else ""
        match relation:
            case Relation.SAME | Relation.CONTINUES:
                return ""
            case Relation.BEHIND if known.lives.present.moment - lives.present.moment <= 1 and known.lives.present.is_life_of(
                lives.present
            ):
                return ""  # it has gone on since it has sent this hello
            case Relation.OUT_OF_REACH if lives.number > known.lives.number:
                return (
                    f"{who}: this node has missed too many starts of it to tell (life {known.lives.number} is known,"
                    f" you show life {lives.number}). A node that has not missed them vouches for it when it is connected with this"
                    f" one; where there is none, stop this one, remove {self._path} and start it again"
                )
            case Relation.BEHIND:
                return (
                    f"{who}{where}: your data directory is an earlier state of its (it is in life {known.lives.number}, you are in"
                    f" life {lives.number}), put back from an image or a backup"
                )
            case _:
                return (
                    f"{who}{where}: your data directory is a copy, or was put back to an earlier state, and that one has gone on"
                    f" meanwhile (it is in life {known.lives.number}, you are in life {lives.number})"
                )

    async def claimed(self, sender: NodeId, claim: Claim) -> None:
        """A link of `sender`, which was recognized, has said what it knows."""
        node_id = NodeId(claim.node_id)
        if node_id == self._own_id and self._is_member(sender):
            self._informed.set()
        if node_id == self._own_id or (sender != node_id and not self._is_member(sender)):
            return
        try:
            await self._take_claim(sender, node_id, claim)
        except EventLogError as error:
            if not is_shortage(error):
                raise
            # It is said again when the link comes up the next time.
            logger.warning("what is said of the life of %s cannot be written down just now: %s", format_id(node_id), error)

    async def _take_claim(self, sender: NodeId, node_id: NodeId, claim: Claim) -> None:
        async with self._writing:
            known = self._known.get(node_id)
            if sender == node_id:
                # Of itself, on a link that is open: a link of a life that is not heard any more has ended.
                if known is not None and known.lives.present.is_life_of(claim.lives.present):
                    self._go_on(node_id, known, claim.lives)
                return
            if not self._is_member(node_id) or (known is not None and known.is_forked):
                return
            relation = relate(known.lives, claim.lives) if known is not None else Relation.CONTINUES
            is_news = relation is Relation.CONTINUES or (
                relation is Relation.OUT_OF_REACH and known is not None and claim.lives.number > known.lives.number
            )
            if relation is Relation.APART and self._is_provisional and not claim.is_forked:
                await self._accept(node_id, _Known(lives=claim.lives))
            elif claim.is_forked or relation is Relation.APART:
                former = known or _Known(lives=claim.lives)
                logger.error("node %s is not heard any more: %s", format_id(node_id), _FORKED)
                await self._accept(node_id, attrs.evolve(former, is_forked=True))
            elif is_news and known is not None and known.lives.present.is_life_of(claim.lives.present):
                self._go_on(node_id, known, claim.lives)
            elif is_news:
                await self._accept(node_id, _Known(lives=claim.lives))

    def _go_on(self, node_id: NodeId, known: _Known, lives: Lives) -> None:
        """The life that is heard is at a later moment."""
        if lives.present.moment > known.lives.present.moment:
            self._remember(node_id, attrs.evolve(known, lives=lives))
            self._on_news(Claim(node_id=node_id, lives=lives))

    async def _accept(self, node_id: NodeId, accepted: _Known) -> None:
        """From here on no other life is heard: durable first, then in effect."""
        if self._is_member(node_id):
            await self._write({**self._known, node_id: accepted})
        self._remember(node_id, accepted)
        self._on_accepted(node_id)
        self._on_news(Claim(node_id=node_id, lives=accepted.lives, is_forked=accepted.is_forked))

    def _is_member(self, node_id: NodeId) -> bool:
        """A node that was one when this one ran before may not be known yet, as the log is applied again."""
        return not self._is_removed(node_id) and (self._is_in_configuration(node_id) or node_id in self._written)

    def _remember(self, node_id: NodeId, known: _Known) -> None:
        self._known[node_id] = known
        self._known.move_to_end(node_id)
        strangers = [other for other in self._known if not self._is_member(other)]
        for stranger in strangers[: max(len(strangers) - self._settings.strangers_max, 0)]:
            del self._known[stranger]
        self._is_behind.set()

    async def _write(self, known: Mapping[NodeId, _Known]) -> None:
        members = {node_id: item for node_id, item in known.items() if self._is_member(node_id)}
        if members != self._written and not self._is_provisional:
            await write_atomically(self._directory.disk, self._path, encode_peers(members))
            self._written = members

    @property
    def _path(self) -> str:
        return join_path(self._directory.path, PEERS_FILE)


_FORKED = (
    "two processes with this node id were heard that went on from one data directory, so neither keeps what the other has promised;"
    " remove it (`trio-eventlog node remove`) and start its machine with an empty data directory and --join"
)


def encode_peers(known: Mapping[NodeId, _Known]) -> bytes:
    """A line of JSON, and its checksum."""
    nodes = [
        {
            "id": format_id(node_id),
            "lives": encode_lives(item.lives).hex(),
            "address": item.address,
            "is_forked": item.is_forked,
        }
        for node_id, item in sorted(known.items())
    ]
    body = json.dumps({"format": 1, "nodes": nodes}).encode() + b"\n"
    return body + b"%08x\n" % crc32c(body)


def decode_peers(data: bytes) -> dict[NodeId, _Known]:
    """Raises CodecError for anything that `encode_peers` does not make."""
    (body, newline, checksum) = data.removesuffix(b"\n").rpartition(b"\n")
    body += newline
    if checksum != b"%08x" % crc32c(body):
        raise CodecError("peers: the checksum does not agree")
    try:
        return {
            NodeId(int(node["id"], 16)): _Known(
                lives=decode_lives(bytes.fromhex(node["lives"])), address=str(node["address"]), is_forked=bool(node["is_forked"])
            )
            for node in json.loads(body)["nodes"]
        }
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CodecError(f"peers: {error}") from error
