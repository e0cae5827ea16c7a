"""`log dump` and `log verify`: a data directory, offline, read and never written. `log repair` writes hard states."""

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import trio

from trio_eventlog.bounds import TERM_REPAIRED
from trio_eventlog.cli.arguments import natural
from trio_eventlog.cli.output import print_json, size_text
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import progress
from trio_eventlog.codec.batch import decode_records
from trio_eventlog.codec.entry import EntryFrame, EntryKind
from trio_eventlog.codec.lives import decode_lives_file
from trio_eventlog.codec.stored_batch import entry_batch
from trio_eventlog.errors import CodecError, DataDirectoryError, UnknownBatchFormat
from trio_eventlog.ids import GroupId, parse_id
from trio_eventlog.records import Batch
from trio_eventlog.storage.data_directory import GROUPS_DIRECTORY, HARD_STATE_FILE, LOCK_FILE, LOG_DIRECTORY, parse_group_name
from trio_eventlog.storage.lives import LIVES_FILE
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.repair import TermRepair, repair_term
from trio_eventlog.storage.verify import LogReport, Problem, SegmentReport, dump_log, verify_replica

UNPACKED_BYTES_MAX = 256 << 20
FAILED = 1


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "log")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    verify = add_command(actions, "verify", "check every byte of every log; tells what is damaged, changes nothing")
    verify.add_argument("directory")
    verify.add_argument("--json", action="store_true", help="answer in JSON")
    verify.set_defaults(run=run_verify)
    repair = add_command(actions, "repair", "set back terms that no elections have led to; every node has to be stopped")
    repair.add_argument("directory")
    repair.add_argument(
        "--every-node-is-stopped",
        action="store_true",
        help="say so: a node that runs, or that is not repaired too, could give its vote twice. Without it nothing is changed",
    )
    repair.add_argument("--json", action="store_true", help="answer in JSON")
    repair.set_defaults(run=run_repair)
    dump = add_command(actions, "dump", "write the entries of the logs, one a line")
    dump.add_argument("directory")
    dump.add_argument("--group", metavar="ID", help="only this group, as its directory is named")
    dump.add_argument("--first", type=natural, default=0, metavar="INDEX", help="from this index on")
    dump.add_argument("--records", action="store_true", help="write the records too")
    dump.add_argument("--json", action="store_true", help="an object a line")
    dump.set_defaults(run=run_dump)


def run_verify(arguments: argparse.Namespace) -> int:
    home = Path(arguments.directory)
    with _locked(home):
        reports = trio.run(_verify, home)
    is_damaged = any(report.is_damaged for report in reports.values())
    if arguments.json:
        print_json({"groups": [_as_json(group, report) for group, report in reports.items()], "damaged": is_damaged})
        return FAILED if is_damaged else 0
    for group, report in reports.items():
        damages = _damages(report)
        state = f"{len(damages)} damaged places" if damages else "whole"
        torn = f", a torn tail of {report.torn_bytes} bytes that was never acknowledged" if report.torn_bytes else ""
        print(
            f"group {group}: {state}; {len(report.segments)} segments, {report.entries} entries"
            f" ({_first_index(report)} to {report.last_index}), {_records(report)} records, {_bytes(report)} bytes{torn}"
        )
    for report in reports.values():
        for problem in report.problems:
            print(_described(problem))
    if is_damaged:
        print(
            "in a cluster: move the data directory away and let the node join again, its peers have the data;"
            " a single node: restore a backup"
        )
    return FAILED if is_damaged else 0


async def _verify(home: Path) -> dict[str, LogReport]:
    disk = RealDisk()
    try:
        extents = decode_lives_file((home / LIVES_FILE).read_bytes()).extents
    except FileNotFoundError:
        extents = {}
    except CodecError as error:
        raise DataDirectoryError(f"{home / LIVES_FILE}: {error}") from error
    groups = _groups(home)
    reports: dict[str, LogReport] = {}
    checked_bytes = 0

    def count(report: SegmentReport) -> None:
        nonlocal checked_bytes
        checked_bytes += report.file_bytes

    async with progress(lambda: f"{len(reports)} of {len(groups)} groups, {size_text(checked_bytes)} checked"):
        for group in groups:
            reports[group.name] = await verify_replica(disk, str(group), extents.get(GroupId(parse_id(group.name))), count)
    return reports


def _damages(report: LogReport) -> list[Problem]:
    return [problem for problem in report.problems if problem.is_damage]


def _first_index(report: LogReport) -> int:
    return next((segment.base_index for segment in report.segments if segment.entries), 0)


def _records(report: LogReport) -> int:
    return sum(segment.records for segment in report.segments)


def _bytes(report: LogReport) -> int:
    return sum(segment.file_bytes for segment in report.segments)


def _described(problem: Problem) -> str:
    kind = "damaged" if problem.is_damage else "mended when it is opened"
    return f"{kind}: {problem.path} at byte {problem.position}, entries from {problem.index} on: {problem.text}"


def _as_json(group: str, report: LogReport) -> dict[str, object]:
    def shown(problem: Problem) -> dict[str, object]:
        return {
            "path": problem.path,
            "position": problem.position,
            "entries_lost_from": problem.index,
            "text": problem.text,
        }

    return {
        "group": group,
        "segments": len(report.segments),
        "entries": report.entries,
        "records": _records(report),
        "bytes": _bytes(report),
        "first_index": _first_index(report),
        "last_index": report.last_index,
        "torn_bytes": report.torn_bytes,
        "damages": [shown(problem) for problem in _damages(report)],
        "mended_when_opened": [shown(problem) for problem in report.problems if not problem.is_damage],
    }


def run_repair(arguments: argparse.Namespace) -> int:
    home = Path(arguments.directory)
    is_agreed: bool = arguments.every_node_is_stopped
    with _locked(home):
        repairs = trio.run(_repair, _groups(home), is_agreed)
    is_refused = any(repair is not None and repair.refusal for repair in repairs.values())
    is_left = any(repairs.values()) and not is_agreed
    if arguments.json:
        print_json({"groups": [_repair_as_json(group, repair, is_agreed) for group, repair in repairs.items()]})
        return FAILED if is_refused or is_left else 0
    for group, repair in repairs.items():
        print(f"group {group}: {_repaired(repair, is_agreed)}")
    if is_left and not is_refused:
        print("nothing was changed: stop every node of the cluster, then run this with --every-node-is-stopped for each of them")
    return FAILED if is_refused or is_left else 0


def _repair_as_json(group: str, repair: TermRepair | None, is_agreed: bool) -> dict[str, object]:
    if repair is None:
        return {"group": group, "needs_repair": False, "repaired": False, "term": None, "refusal": ""}
    is_repaired = is_agreed and not repair.refusal
    return {"group": group, "needs_repair": True, "repaired": is_repaired, "term": repair.term, "refusal": repair.refusal}


async def _repair(groups: list[Path], is_agreed: bool) -> dict[str, TermRepair | None]:
    disk = RealDisk()
    return {group.name: await repair_term(disk, str(group), writes=is_agreed) for group in groups}


def _repaired(repair: TermRepair | None, is_agreed: bool) -> str:
    if repair is None:
        return "its term is one that elections lead to"
    if repair.refusal:
        return f"term {repair.term} stays: {repair.refusal}"
    return f"term {repair.term} {'was' if is_agreed else 'would be'} set back to {TERM_REPAIRED}, without a vote"


def run_dump(arguments: argparse.Namespace) -> int:
    home = Path(arguments.directory)
    with _locked(home):
        groups = [path for path in _groups(home) if arguments.group in (None, path.name)]
        if not groups:
            raise DataDirectoryError(
                f"{home}: no group {arguments.group} here; there are {', '.join(p.name for p in _groups(home))}"
            )
        return trio.run(_dump, groups, arguments)


async def _dump(groups: list[Path], arguments: argparse.Namespace) -> int:
    """The entries to standard output, and what is damaged among them to standard error."""
    disk = RealDisk()
    result = 0
    for group in groups:
        if not (group / LOG_DIRECTORY).is_dir():
            continue
        async with dump_log(disk, str(group / LOG_DIRECTORY), first_index=arguments.first) as places:
            async for place in places:
                if isinstance(place, Problem):
                    print(_described(place), file=sys.stderr)
                    result = FAILED
                else:
                    _print_entry(group.name, place.frame, arguments)
    return result


def _print_entry(group: str, frame: EntryFrame, arguments: argparse.Namespace) -> None:
    fields: dict[str, object] = {
        "group": group,
        "index": frame.index,
        "term": frame.term,
        "kind": frame.kind.name.lower(),
        "base_offset": frame.base_offset,
        "record_count": frame.record_count,
        "size_bytes": frame.size_bytes,
    }
    values: list[str] = []
    batch: Batch | None = None
    if frame.kind is EntryKind.DATA:
        try:
            batch = entry_batch(frame)
        except UnknownBatchFormat as error:
            fields["unreadable"] = str(error)
    if batch is not None:
        fields["compression"] = batch.compression.name.lower()
        if batch.producer_id:
            fields["producer"] = f"{batch.producer_id:016x}/{batch.producer_epoch}/{batch.base_sequence}"
        if arguments.records:
            values = [
                "null" if record.value is None else record.value.decode(errors="backslashreplace")
                for record in decode_records(attrs.evolve(batch, base_offset=frame.base_offset), UNPACKED_BYTES_MAX)
            ]
    if arguments.json:
        print_json(fields | ({"values": values} if arguments.records else {}))
        return
    print(" ".join(f"{name}={value}" for name, value in fields.items()))
    for offset, value in enumerate(values, frame.base_offset):
        print(f"  {offset}: {value}")


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Keeps a node from starting meanwhile. Raises DataDirectoryError when one runs, or when this is no data directory."""
    if not (home / GROUPS_DIRECTORY).is_dir():
        raise DataDirectoryError(f"{home}: this is no data directory (it has no {GROUPS_DIRECTORY}/); check the path")
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # A copy without the lock: no process can be using it.
        yield
        return
    except OSError as error:
        raise DataDirectoryError(f"{home}: {error.strerror}; run this as the user of the node") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirectoryError(f"{home}: a node is using it; stop the node first, or look at a copy") from None
        yield
    finally:
        os.close(descriptor)


def _groups(home: Path) -> list[Path]:
    """Directories of replicas: those that hold a log, and those where only the hard state is left to tell of one."""
    return sorted(
        path
        for path in (home / GROUPS_DIRECTORY).iterdir()
        if parse_group_name(path.name) is not None and ((path / LOG_DIRECTORY).is_dir() or (path / HARD_STATE_FILE).exists())
    )
