"""`log verify`, `log dump` and `log repair`, on real directories: whole ones are called whole, and no flipped bit is missed."""

import json
import shutil
from pathlib import Path

import attrs
import pytest
import trio

from trio_eventlog.bounds import TERM_BY_ELECTIONS_MAX, TERM_MAX, TERM_REPAIRED
from trio_eventlog.cli import main
from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry
from trio_eventlog.codec.stored_batch import batch_entry
from trio_eventlog.ids import NOBODY, NodeId
from trio_eventlog.raft import HardState
from trio_eventlog.records import Record
from trio_eventlog.storage.hard_state import HardStateFile
from trio_eventlog.storage.log_settings import LogSettings
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.segmented_log import open_segmented_log
from trio_eventlog.testing.defaults import default

ENTRIES = 16


def frames(first: int, end: int) -> list[EntryFrame]:
    made: list[EntryFrame] = []
    offset = 2 * max(first - 2, 0)
    for index in range(first, end):
        if index == 1:
            made.append(encode_entry(EntryKind.NO_OP, term=1, index=1, base_offset=0))
            continue
        batch = encode_records([Record(value=b"value %d" % index), Record(value=b"second")], now_ns=5)
        made.append(batch_entry(batch, term=1 + index // 7, index=index, base_offset=offset))
        offset += 2
    return made


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A data directory with one group: several sealed segments and an active one, whose last entry may not be committed."""
    group = tmp_path / "groups" / "0000000000000001"
    group.mkdir(parents=True)
    settings = default(LogSettings, segment_bytes=600, preallocate_bytes=4096)
    async with open_segmented_log(RealDisk(), str(group / "log"), settings) as log:
        for index in range(1, ENTRIES + 1):
            await log.append(frames(index, index + 1))
    async with await HardStateFile.open(RealDisk(), str(group / "hard_state")) as hard_state:
        await hard_state.save(HardState(term=3, vote=NodeId(1), commit=ENTRIES - 1))
    assert len(list((group / "log").glob("*.log"))) > 3
    return tmp_path


def segments(home: Path) -> list[Path]:
    return sorted((home / "groups" / "0000000000000001" / "log").glob("*.log"))


async def run(*arguments: str) -> int:
    # main() begins a Trio run for some commands; a thread has none yet.
    return await trio.to_thread.run_sync(main, arguments)


async def test_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts agree with what was written."""
    assert await run("log", "verify", str(home), "--json") == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["entries"], group["records"], group["first_index"], group["last_index"]) == (
        ENTRIES,
        2 * (ENTRIES - 1),
        1,
        ENTRIES,
    )
    assert group["damages"] == []
    assert await run("log", "verify", str(home)) == 0
    assert "whole" in capsys.readouterr().out


async def test_every_byte_of_a_sealed_segment_counts(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever byte is flipped, it is noticed, and the segment is named."""
    segment = segments(home)[1]
    whole = segment.read_bytes()
    for position in range(len(whole)):
        segment.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        assert await run("log", "verify", str(home), "--json") == 1, position
        (group,) = json.loads(capsys.readouterr().out)["groups"]
        assert {damage["path"] for damage in group["damages"]} <= {str(segment), str(segments(home)[2])}
        assert any(damage["path"] == str(segment) for damage in group["damages"])


async def test_every_damaged_place_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two bits in each of two segments: the search goes on behind a damaged place."""
    for segment in segments(home)[1:3]:
        whole = bytearray(segment.read_bytes())
        places = [at for at in range(len(whole)) if whole[at : at + 6] == b"second"]
        assert len(places) >= 3
        whole[places[0]] ^= 1
        whole[places[2]] ^= 1
        segment.write_bytes(whole)
    assert await run("log", "verify", str(home), "--json") == 1
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert len(group["damages"]) == 4
    assert await run("log", "dump", str(home)) == 1
    assert capsys.readouterr().err.count("damaged: ") == 4


async def test_a_batch_that_is_not_what_its_producer_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The frame is whole, and what it holds was wrong before it was written: only the producer's checksum tells."""
    group = home / "groups" / "0000000000000001"
    batch = attrs.evolve(encode_records([Record(value=b"x")], now_ns=5), crc32c=7)
    async with open_segmented_log(
        RealDisk(), str(group / "log"), default(LogSettings, segment_bytes=600, preallocate_bytes=4096)
    ) as log:
        await log.append([batch_entry(batch, term=3, index=ENTRIES + 1, base_offset=log.log_end_offset)])
    assert await run("log", "verify", str(home)) == 1
    assert "the checksum that its producer gave it" in capsys.readouterr().out


async def test_a_batch_of_a_newer_release_is_no_damage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verify passes over it, and dump says what it is and goes on."""
    group = home / "groups" / "0000000000000001"
    frame = batch_entry(encode_records([Record(value=b"x")], now_ns=5), term=3, index=ENTRIES + 1, base_offset=0)
    payload = bytearray(frame.payload)
    payload[1] = 1
    settings = default(LogSettings, segment_bytes=600, preallocate_bytes=4096)
    async with open_segmented_log(RealDisk(), str(group / "log"), settings) as log:
        for index in (ENTRIES + 1, ENTRIES + 2):
            await log.append(
                [
                    encode_entry(
                        EntryKind.DATA, term=3, index=index, base_offset=log.log_end_offset, record_count=1, payload=bytes(payload)
                    )
                ]
            )
    assert await run("log", "verify", str(home)) == 0
    capsys.readouterr()
    assert await run("log", "dump", str(home), "--records") == 0
    printed = capsys.readouterr().out
    assert printed.count("its batch has format 1, which a newer release has stored") == 2


async def test_what_is_no_group_is_passed_over(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "groups" / "lost+found" / "log").mkdir(parents=True)
    assert await run("log", "verify", str(home)) == 0
    assert "lost+found" not in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["first", "middle", "last", "all", "directory", "hard state"])
async def test_missing_files(home: Path, capsys: pytest.CaptureFixture[str], lost: str) -> None:
    """Whatever is gone, it is missed: by the entries before and behind it, or by what is known to be committed."""
    group = home / "groups" / "0000000000000001"
    paths = {
        "first": segments(home)[:1],
        "middle": segments(home)[1:2],
        "last": segments(home)[-1:],
        "hard state": [group / "hard_state"],
    }.get(lost, segments(home))
    for path in paths:
        path.unlink()
    if lost == "directory":
        shutil.rmtree(group / "log")
    assert await run("log", "verify", str(home)) == 1
    printed = capsys.readouterr().out
    expected = {
        "first": "entries 1..",
        "middle": " are missing",
        "hard state": "is missing beside entries up to",
    }.get(lost, f"entries up to {ENTRIES - 1} were committed, and the log ends at")
    assert expected in printed


async def test_a_replica_whose_group_has_moved_is_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its log was removed on purpose, and its hard state kept."""
    group = home / "groups" / "0000000000000001"
    shutil.rmtree(group / "log")
    (group / "departed").write_bytes(b"{}")
    assert await run("log", "verify", str(home)) == 0
    assert "group 0000000000000001: whole" in capsys.readouterr().out


async def test_torn_tail_is_no_damage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A write that was cut short was never acknowledged."""
    segment = segments(home)[-1]
    (last,) = frames(ENTRIES, ENTRIES + 1)
    position = segment.read_bytes().rindex(bytes(last.raw)[:40])
    with segment.open("r+b") as file:
        file.truncate(position + len(last.raw) - 10)
    assert await run("log", "verify", str(home)) == 0
    assert "torn tail" in capsys.readouterr().out


async def test_dump(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry a line, across segments; records when asked for."""
    assert await run("log", "dump", str(home), "--json", "--records") == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["index"] for entry in entries] == list(range(1, ENTRIES + 1))
    assert entries[1]["values"] == ["value 2", "second"]
    assert await run("log", "dump", str(home), "--first", str(ENTRIES)) == 0
    assert capsys.readouterr().out.startswith("group=0000000000000001 index=16 term=3 kind=data base_offset=28 record_count=2")


async def test_refusals(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No data directory, no such group, and a directory in use: one line each, and exit code 1."""
    assert await run("log", "verify", str(home / "none")) == 1
    assert capsys.readouterr().err.startswith("trio-eventlog: DATA_DIRECTORY: ")
    assert await run("log", "dump", str(home), "--group", "7") == 1
    assert "no group 7 here" in capsys.readouterr().err
    lock = await RealDisk().lock(str(home / "LOCK"))
    try:
        assert await run("log", "verify", str(home)) == 1
        assert "a node is using it" in capsys.readouterr().err
    finally:
        lock.release()


async def set_term(home: Path, term: int) -> Path:
    path = home / "groups" / "0000000000000001" / "hard_state"
    async with await HardStateFile.open(RealDisk(), str(path), is_repair=True) as hard_state:
        await hard_state.save(attrs.evolve(hard_state.state, term=term, vote=NodeId(3)))
    return path


@pytest.mark.parametrize("term", [(1 << 64) - 1, TERM_MAX, TERM_BY_ELECTIONS_MAX + 1])
async def test_a_term_that_no_elections_led_to_is_set_back(home: Path, capsys: pytest.CaptureFixture[str], term: int) -> None:
    """Once somebody has said that every node is stopped; before, it is only shown. A second run finds nothing to do."""
    path = await set_term(home, term)
    before = path.read_bytes()
    assert await run("log", "repair", str(home)) == 1
    printed = capsys.readouterr().out
    assert f"term {term} would be set back" in printed
    assert "--every-node-is-stopped" in printed
    assert await run("log", "repair", str(home), "--json") == 1
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["needs_repair"], group["repaired"], group["term"], group["refusal"]) == (True, False, term, "")
    assert path.read_bytes() == before
    assert await run("log", "repair", str(home), "--every-node-is-stopped") == 0
    assert f"term {term} was set back to {TERM_REPAIRED}" in capsys.readouterr().out
    async with await HardStateFile.open(RealDisk(), str(path)) as hard_state:
        assert (hard_state.state.term, hard_state.state.vote) == (TERM_REPAIRED, NOBODY)
    assert await run("log", "verify", str(home)) == 0
    assert await run("log", "repair", str(home)) == 0
    capsys.readouterr()
    await set_term(home, term)
    for repaired in (True, False):
        assert await run("log", "repair", str(home), "--every-node-is-stopped", "--json") == 0
        (group,) = json.loads(capsys.readouterr().out)["groups"]
        assert (group["needs_repair"], group["repaired"]) == (repaired, repaired)


async def test_a_term_that_elections_led_to_stays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So does its vote."""
    path = await set_term(home, TERM_BY_ELECTIONS_MAX)
    before = path.read_bytes()
    assert await run("log", "repair", str(home), "--every-node-is-stopped") == 0
    assert path.read_bytes()[:8192] == before[:8192]
    assert "elections lead to" in capsys.readouterr().out


async def test_a_term_is_not_set_back_below_an_entry(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That term would be given twice."""
    await set_term(home, TERM_MAX)
    log = home / "groups" / "0000000000000001" / "log"
    async with open_segmented_log(RealDisk(), str(log), default(LogSettings, segment_bytes=600, preallocate_bytes=4096)) as opened:
        await opened.append(
            [encode_entry(EntryKind.NO_OP, term=TERM_REPAIRED, index=ENTRIES + 1, base_offset=opened.log_end_offset)]
        )
    assert await run("log", "repair", str(home), "--every-node-is-stopped") == 1
    assert f"holds entries of term {TERM_REPAIRED}" in capsys.readouterr().out


async def test_a_term_is_set_back_where_the_log_has_moved_away(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the hard state is left there, and the replica may come back to it."""
    path = await set_term(home, TERM_MAX)
    shutil.rmtree(path.parent / "log")
    assert await run("log", "repair", str(home), "--every-node-is-stopped") == 0
    async with await HardStateFile.open(RealDisk(), str(path)) as hard_state:
        assert hard_state.state == HardState(term=TERM_REPAIRED)


async def test_terms_are_not_set_back_beside_damage(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which terms the log has had cannot be told then."""
    await set_term(home, TERM_MAX)
    segment = segments(home)[1]
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 1
    segment.write_bytes(damaged)
    assert await run("log", "repair", str(home), "--every-node-is-stopped") == 1
    assert "its log is damaged" in capsys.readouterr().out
    assert await run("log", "repair", str(home), "--every-node-is-stopped", "--json") == 1
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["repaired"], "its log is damaged" in group["refusal"]) == (False, True)
