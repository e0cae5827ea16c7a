"""What a node keeps of a replica whose group has moved to other nodes: the replica may come back.

Raft does not allow a node that has lost its log to vote as if it never had one: it could grant a vote that it has denied before, or
stand for election with the group's first configuration, long after the group has changed it. So the hard state is kept, and with
it the position of the log's end. (A replica that has lost files in another way is treated alike, see `Departed.loss`.) A replica
that comes back does not stand for election before it holds again what it held, and has applied again what it knew to be
committed; and it grants no vote to a candidate whose log ends before its own log did.

```
<group>/departing   written first: the log is about to be removed
<group>/departed    the log is removed
```
"""

import json

import attrs

from trio_eventlog.errors import CodecError, DamagedData
from trio_eventlog.storage.data_directory import DEPARTED_FILE, DEPARTING_FILE, HARD_STATE_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path, read_whole, write_atomically
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.snapshots import remove_snapshots

FILE_BYTES_MAX = 1024


@attrs.frozen(slots=True, kw_only=True)
class Departed:
    """The position of a log's end. All 0: there was no log before.

    Attributes:
        last_term, last_index: of its last entry.
        commit_index: highest index that was known to be committed, changes of the configuration included. (The applied index
            would be less useful: right after opening it is 0.)
        loss: which files are missing or damaged although the log was not removed; "" when nothing is lost. The amount is
            unknown, so the replica neither votes nor stands for election before it has caught up with a leader: every committed
            entry that it had acknowledged is held by that leader.
        is_vote_lost: term and vote are lost. Its former votes are unknown, so it takes no part in the group any more.
    """

    last_term: int = 0
    last_index: int = 0
    commit_index: int = 0
    loss: str = ""
    is_vote_lost: bool = False

    def joined(self, later: "Departed") -> "Departed":
        """The combination of this departure and a later one."""
        last_term, last_index = max((self.last_term, self.last_index), (later.last_term, later.last_index))
        return attrs.evolve(
            later, last_term=last_term, last_index=last_index, commit_index=max(self.commit_index, later.commit_index)
        )


NEVER = Departed()


async def load_departed(disk: Disk, directory: str) -> Departed:
    """Read the position of the end of the log that was here before. Finishes a removal that a crash has interrupted. Raises
    DamagedData."""
    names = await disk.list_directory(directory)
    if DEPARTING_FILE in names:
        await finish_departure(disk, directory)
        names = await disk.list_directory(directory)
    path = join_path(directory, DEPARTED_FILE)
    if DEPARTED_FILE not in names:
        return NEVER
    try:
        return decode_departed(await read_whole(disk, path, FILE_BYTES_MAX))
    except CodecError as error:
        raise DamagedData(
            f"{path}: {error}. This replica must not vote again from here: remove the node and add it as a new one.", path=path
        ) from error


async def save_departed(disk: Disk, directory: str, departed: Departed) -> None:
    """Write down what a replica that stays has lost, or that it has caught up."""
    await write_atomically(disk, join_path(directory, DEPARTED_FILE), encode_departed(departed))


async def depart(disk: Disk, directory: str, departed: Departed) -> None:
    """Remove the log of a replica that is closed."""
    await write_atomically(disk, join_path(directory, DEPARTING_FILE), encode_departed(departed))
    await finish_departure(disk, directory)


async def finish_departure(disk: Disk, directory: str) -> None:
    """Nothing to do unless one has begun. Every step can be taken again."""
    departing = join_path(directory, DEPARTING_FILE)
    if not await disk.exists(departing):
        return
    async with await HardStateFile.open(disk, join_path(directory, HARD_STATE_FILE)) as hard_state:
        # Term and vote stay; without a log nothing is committed.
        await hard_state.save(attrs.evolve(hard_state.state, commit=0))
    # First: a snapshot whose entries are missing shows a loss.
    await remove_snapshots(disk, directory)
    log_directory = join_path(directory, LOG_DIRECTORY)
    for name in await disk.list_directory(log_directory):
        await disk.remove(join_path(log_directory, name))
    await disk.sync_directory(log_directory)
    await disk.rename(departing, join_path(directory, DEPARTED_FILE))
    await disk.sync_directory(directory)


async def has_log(disk: Disk, directory: str) -> bool:
    """Whether a log is here and its removal has not begun."""
    if await disk.exists(join_path(directory, DEPARTING_FILE)):
        return False
    log_directory = join_path(directory, LOG_DIRECTORY)
    return await disk.exists(log_directory) and bool(await disk.list_directory(log_directory))


def encode_departed(departed: Departed) -> bytes:
    """Of format 1, which older releases know, as long as nothing is lost."""
    fields = attrs.asdict(departed)
    if not departed.loss:
        del fields["loss"], fields["is_vote_lost"]
    return json.dumps({"format": 2 if departed.loss else 1} | fields, sort_keys=True).encode() + b"\n"


def decode_departed(data: bytes) -> Departed:
    """Raises CodecError for anything `encode_departed` does not make."""
    try:
        match json.loads(data):
            case {"last_term": int(last_term), "last_index": int(last_index), "commit_index": int(commit_index), **more}:
                departed = Departed(
                    last_term=last_term,
                    last_index=last_index,
                    commit_index=commit_index,
                    loss=str(more.get("loss", "")),
                    is_vote_lost=more.get("is_vote_lost") is True,
                )
                if encode_departed(departed) == data and all(
                    type(value) is int and value >= 0 for value in (last_term, last_index, commit_index)
                ):
                    return departed
    except (ValueError, RecursionError) as error:
        raise CodecError(f"departed: {error}") from error
    raise CodecError("departed: not a file that this release wrote")
