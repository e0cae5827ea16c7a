"""`log dump` and `log verify`: a data directory, offline, read and never written."""

import argparse
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from trio_eventlog.cli.arguments import Commands, add_command, natural
from trio_eventlog.cli.output import print_json
from trio_eventlog.codec.batch import decode_records, entry_batch
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.entry import HEADER_BYTES, LENGTH_BYTES, EntryFrame, EntryKind, decode_entry
from trio_eventlog.codec.segment import FOOTER_MAGIC_BYTES, decode_footer, footer_bytes
from trio_eventlog.errors import CodecError, DataDirectoryError
from trio_eventlog.storage.data_directory import GROUPS_DIRECTORY, LOCK_FILE
from trio_eventlog.storage.segment import judge_tail, parse_segment_name

UNPACKED_BYTES_MAX = 256 << 20
FAILED = 1


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "log", "look at a data directory; the node must not run")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    verify = add_command(actions, "verify", "check every byte of every log; tells what is damaged, changes nothing")
    verify.add_argument("directory")
    verify.add_argument("--json", action="store_true", help="answer in JSON")
    verify.set_defaults(run=run_verify)
    dump = add_command(actions, "dump", "write the entries of the logs, one a line")
    dump.add_argument("directory")
    dump.add_argument("--group", metavar="ID", help="only this group, as its directory is named")
    dump.add_argument("--first", type=natural, default=0, metavar="INDEX", help="from this index on")
    dump.add_argument("--records", action="store_true", help="write the records too")
    dump.add_argument("--json", action="store_true", help="an object a line")
    dump.set_defaults(run=run_dump)


@attrs.frozen(kw_only=True)
class Damage:
    """Where bytes are not what was written. `entries_lost_from` is the first index that cannot be read because of it."""

    path: str
    position: int
    entries_lost_from: int
    text: str


@attrs.define(kw_only=True)
class GroupReport:
    """What was found in one group's log."""

    group: str
    segments: int = 0
    entries: int = 0
    records: int = 0
    bytes: int = 0
    first_index: int = 0
    last_index: int = 0
    torn_bytes: int = 0
    damages: list[Damage] = attrs.field(factory=list)


def run_verify(arguments: argparse.Namespace) -> int:
    home = Path(arguments.directory)
    with _locked(home):
        reports = [verify_group(path) for path in _groups(home)]
    damages = [damage for report in reports for damage in report.damages]
    if arguments.json:
        print_json({"groups": [attrs.asdict(report) for report in reports], "damaged": bool(damages)})
    else:
        for report in reports:
            state = f"{len(report.damages)} damaged places" if report.damages else "whole"
            torn = f", a torn tail of {report.torn_bytes} bytes that was never acknowledged" if report.torn_bytes else ""
            print(
                f"group {report.group}: {state}; {report.segments} segments, {report.entries} entries"
                f" ({report.first_index} to {report.last_index}), {report.records} records, {report.bytes} bytes{torn}"
            )
        for damage in damages:
            print(f"damaged: {damage.path} at byte {damage.position}, entries from {damage.entries_lost_from} on: {damage.text}")
        if damages:
            print(
                "in a cluster: move the data directory away and let the node join again, its peers have the data;"
                " a single node: restore a backup"
            )
    return FAILED if damages else 0


def run_dump(arguments: argparse.Namespace) -> int:
    home = Path(arguments.directory)
    with _locked(home):
        groups = [path for path in _groups(home) if arguments.group in (None, path.name)]
        if not groups:
            raise DataDirectoryError(
                f"{home}: no group {arguments.group} here; there are {', '.join(p.name for p in _groups(home))}"
            )
        for group in groups:
            for segment in _segments(group):
                with _mapped(segment) as view:
                    for frame in _frames(view):
                        if frame.index >= arguments.first:
                            _print_entry(group.name, frame, arguments)
    return 0


def verify_group(group: Path) -> GroupReport:
    """Every frame's and every batch's checksum, that indexes, offsets and terms follow on, and the footers of sealed segments."""
    report = GroupReport(group=group.name)
    segments = _segments(group)
    previous: EntryFrame | None = None
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        with _mapped(segment) as view:
            previous = _verify_segment(report, segment, view, previous, is_last)
    return report


def _verify_segment(
    report: GroupReport, segment: Path, view: memoryview, previous: EntryFrame | None, is_last: bool
) -> EntryFrame | None:
    report.segments += 1
    report.bytes += len(view)
    position = 0
    frames_checksum = 0
    base_index = parse_segment_name(segment.name) or 0
    expected = base_index

    def damaged(text: str) -> None:
        report.damages.append(Damage(path=str(segment), position=position, entries_lost_from=expected, text=text))

    if previous is not None and base_index != previous.index + 1:
        damaged(f"it begins with entry {base_index}, the one before it ends with {previous.index}")
        previous = None
    while position < len(view):
        if view[position : position + 8] == FOOTER_MAGIC_BYTES or not _may_be_frame(view, position):
            break
        try:
            frame = decode_entry(view, position)
            _check_follows(frame, expected, previous)
            if frame.kind is EntryKind.DATA:
                batch = entry_batch(frame)
                if crc32c(batch.payload) != batch.crc32c:
                    damaged(f"entry {frame.index}: the batch does not have the checksum its producer gave it")
        except CodecError as error:
            if is_last:
                break
            damaged(str(error))
            # The lengths of frames behind it cannot be trusted: the rest of this segment is not looked at.
            return None
        frames_checksum = crc32c(view[position : position + 12], frames_checksum)
        position += len(frame.raw)
        expected = frame.index + 1
        previous = attrs.evolve(frame, raw=b"\0" * HEADER_BYTES)  # The map is closed before it is compared with the next.
        report.entries += 1
        report.records += frame.record_count
        report.first_index = report.first_index or frame.index
        report.last_index = frame.index
    try:
        length = footer_bytes(view)
        footer = decode_footer(view[len(view) - length :])
    except CodecError as error:
        if not is_last:
            damaged(f"a sealed segment without a footer: {error}")
            return previous
        verdict = judge_tail(bytes(view[position:]), position, expected, previous.term if previous is not None else 0)
        if verdict.damaged:
            damaged(f"not a whole entry, and {verdict.damaged}")
        report.torn_bytes += verdict.torn_bytes
        return previous
    if (footer.frames_bytes, footer.last_index + 1, footer.frames_checksum) != (position, expected, frames_checksum):
        damaged(f"the footer tells of entries up to {footer.last_index} in {footer.frames_bytes} bytes, which is not what is here")
    return previous


def _check_follows(frame: EntryFrame, expected: int, previous: EntryFrame | None) -> None:
    if frame.index != expected:
        raise CodecError(f"entry {frame.index} where {expected} belongs")
    if previous is not None and (frame.base_offset != previous.end_offset or frame.term < previous.term):
        raise CodecError(
            f"entry {frame.index}: offset {frame.base_offset} and term {frame.term} do not follow on"
            f" {previous.end_offset} and {previous.term}"
        )


def _may_be_frame(view: memoryview, position: int) -> bool:
    """Not zeros (preallocated room), and not an append mark, whose magic number is no possible length."""
    if len(view) - position < HEADER_BYTES:
        return False
    length = int.from_bytes(view[position : position + LENGTH_BYTES], "little")
    return 0 < length <= len(view)


def _frames(view: memoryview) -> Iterator[EntryFrame]:
    """The frames up to the first that is not whole."""
    position = 0
    while _may_be_frame(view, position):
        try:
            frame = decode_entry(view, position)
        except CodecError:
            return
        yield frame
        position += len(frame.raw)


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
    if frame.kind is EntryKind.DATA:
        batch = entry_batch(frame)
        fields["compression"] = batch.compression.name.lower()
        if batch.producer_id:
            fields["producer"] = f"{batch.producer_id:016x}/{batch.producer_epoch}/{batch.base_sequence}"
        if arguments.records:
            values = [
                record.value.decode(errors="backslashreplace")
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
        # A copy without the lock: nobody can be using it.
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
    return sorted(path for path in (home / GROUPS_DIRECTORY).iterdir() if (path / "log").is_dir())


def _segments(group: Path) -> list[Path]:
    return sorted(path for path in (group / "log").iterdir() if parse_segment_name(path.name) is not None)


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield memoryview(b"")
            return
        # Not closed here but when the last view of it is gone: frames are views.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
