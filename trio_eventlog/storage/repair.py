"""The way back for a replica whose term was not reached by elections: offline, with every node of its cluster stopped.

A message that no correct node sends (of another program, of a faulty node, of an attacker) can have made a term durable that
leaves none above it to elect a leader in. To set the term of one replica back in a running cluster would be wrong: it would lose
a vote. With all of them stopped, and all set back to the same term that is above every term in any log, no vote that could still
count is lost, and the next election is one term further on.
"""

import attrs

from trio_eventlog.bounds import TERM_BY_ELECTIONS_MAX, TERM_REPAIRED
from trio_eventlog.errors import DamagedData
from trio_eventlog.ids import NOBODY
from trio_eventlog.raft.ready import HardState
from trio_eventlog.storage.data_directory import HARD_STATE_FILE, LOG_DIRECTORY
from trio_eventlog.storage.disk import Disk, join_path
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.verify import EntryPlace, dump_log, verify_log


@attrs.frozen(slots=True, kw_only=True)
class TermRepair:
    """A term that has to be set back.

    Attributes:
        term: as it was found.
        refusal: why it was not set back; "" when it was, or would be.
    """

    term: int
    refusal: str = ""


async def repair_term(disk: Disk, directory: str, *, writes: bool) -> TermRepair | None:
    """Set the term of the replica in `directory` back to `TERM_REPAIRED`, without a vote. None: its term needs no repair.

    Args:
        writes: False: only look.
    """
    names = await disk.list_directory(directory)
    if HARD_STATE_FILE not in names:
        return None
    try:
        hard_state = await HardStateFile.open(disk, join_path(directory, HARD_STATE_FILE), is_repair=True)
    except DamagedData as error:
        return TermRepair(term=0, refusal=str(error))
    async with hard_state:
        state = hard_state.state
        if state.term <= TERM_BY_ELECTIONS_MAX:
            return None
        last_term = last_index = 0
        if LOG_DIRECTORY in names:  # else its group has moved to other nodes
            log = join_path(directory, LOG_DIRECTORY)
            report = await verify_log(disk, log)
            if report.is_damaged:
                return TermRepair(term=state.term, refusal="its log is damaged (see `log verify`)")
            last_term, last_index = report.base.term, report.last_index
            async with dump_log(disk, log, first_index=max(last_index, 1)) as places:
                async for place in places:
                    if isinstance(place, EntryPlace):
                        last_term = max(last_term, place.frame.term)
        if last_term >= TERM_REPAIRED:
            return TermRepair(term=state.term, refusal=f"its log holds entries of term {last_term}: restore a backup")
        if writes:
            await hard_state.save(HardState(term=TERM_REPAIRED, vote=NOBODY, commit=min(state.commit, last_index)))
    return TermRepair(term=state.term)
