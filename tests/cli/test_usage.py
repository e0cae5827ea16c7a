"""Usage: what is refused before anything is tried, and how values are written."""

import argparse
import datetime
import gc
import io
import itertools
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from trio_eventlog.cli import main, make_parser
from trio_eventlog.cli.arguments import check_reachable, client_settings_of
from trio_eventlog.cli.bench import make_batch
from trio_eventlog.cli.consume import Ago, Last, partition_list, start
from trio_eventlog.cli.formats import output_format, write_json, write_text, write_values
from trio_eventlog.cli.lines import LineSplitter
from trio_eventlog.cli.loading import loading
from trio_eventlog.cli.output import duration_text, print_table, size_text
from trio_eventlog.client import BEGINNING, END
from trio_eventlog.codec.batch import decode_records
from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.errors import SettingsError, Unavailable
from trio_eventlog.logs import set_up_logging
from trio_eventlog.records import Batch, Header, Record
from trio_eventlog.service.produce import check_batch
from trio_eventlog.testing.network import SimNetwork
from trio_eventlog.v1 import records_pb2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["serve", "--no-such-flag"],
        ["serve", "--data", "x"],
        ["serve", "--log-format", "xml"],
        ["produce"],
        ["consume", "t", "--from", "yesterday"],
        ["consume", "t", "--max-records", "0"],
        ["topics"],
        ["topics", "create", "t", "--retention-time", "soon"],
        ["bench", "produce", "--record-bytes", "large"],
    ],
)
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and usage on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: trio-eventlog" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["serve", "--segment-bytes", "big"], {}, "setting segment_bytes: 'big' is refused"),
        (["serve", "--tls-cert", "c.pem"], {}, "setting tls_key"),
        (["serve"], {"TRIO_EVENTLOG_SEGMENT_BYTE": "1"}, "did you mean TRIO_EVENTLOG_SEGMENT_BYTES?"),
        (["serve", "--config", "/nowhere.toml"], {}, "/nowhere.toml"),
        (["status", "--set", "attempt_max=3"], {}, "did you mean attempts_max?"),
        (["status", "--set", "attempts_max"], {}, "write NAME=VALUE"),
        (["status"], {"TRIO_EVENTLOG_CLIENT_COMPRESSION": "lz4"}, "setting compression: 'lz4'"),
        (["status", "--tls-ca", "/nowhere.pem"], {}, "/nowhere.pem"),
    ],
)
def test_settings_errors(
    arguments: list[str],
    environment: dict[str, str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, and one line that names the setting."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["topics", "list", "--tagret", "x"], ["usage: trio-eventlog topics list", "--tagret x; did you mean --target?"]),
        (["topics", "list", "--tagret=x"], ["did you mean --target?"]),
        (["topics", "list", "more"], ["usage: trio-eventlog topics list", "unknown argument more\n"]),
        (["topcs", "list"], ["there is no 'topcs'; did you mean topics?", "There are serve, demo"]),
        (["topics", "lst"], ["usage: trio-eventlog topics", "there is no 'lst'; did you mean list?"]),
        (["serve", "--nod-name", "x"], ["usage: trio-eventlog serve", "did you mean --node-name?"]),
        (["--verbose", "status"], ["usage: trio-eventlog ", "unknown argument --verbose"]),
    ],
)
def test_what_was_perhaps_meant(arguments: list[str], texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The usage is that of the command that was typed, in few lines, and the nearest flag or command is named."""
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    for text in texts:
        assert text in error
    assert error.count("\n") < 15


def test_arguments_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Python hands such bytes on as surrogates, which no message can carry."""
    assert main(["topics", "describe", os.fsdecode(b"a\xff")]) == 2
    assert "argument b'a\\xff' is no text in utf-8" in capsys.readouterr().err


CLOSED = {
    "output": ("status", ">&-", 1, "standard output is closed"),
    "input": ("topics list --timeout 100ms", "<&-", 1, "no node can be connected to"),
    "error": ("topics list --timeout 100ms", "2>&-", 1, ""),
    "all": ("topics list --timeout 100ms", "<&- >&- 2>&-", 1, ""),
    "full": ("log verify HERE", ">/dev/full", 1, "standard output: No space left on device; what was written"),
    "full, in JSON": ("log verify HERE --json", ">/dev/full", 1, "standard output: No space left on device"),
}


@pytest.mark.parametrize("is_buffered", [True, False])
@pytest.mark.parametrize("case", CLOSED)
def test_streams_that_are_closed_or_full(case: str, is_buffered: bool, tmp_path: Path) -> None:
    """One line where there is a standard error to take it, an exit code, and no traceback."""
    command, streams, code, text = CLOSED[case]
    (tmp_path / "groups" / "0000000000000000" / "log").mkdir(parents=True)
    line = f"{sys.executable} -m trio_eventlog {command.replace('HERE', str(tmp_path))} {streams}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env=os.environ | {"TRIO_EVENTLOG_TARGET": "127.0.0.1:1", "PYTHONUNBUFFERED": "" if is_buffered else "1"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stderr.count("\n") == (1 if text else 0), done.stderr


def test_letters_that_the_locale_does_not_have(tmp_path: Path) -> None:
    """They are refused as arguments, and written as escapes."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "trio_eventlog", "log", "verify", str(tmp_path / "größe")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "is no text in ascii" in done.stderr
    code = "from trio_eventlog.cli.output import *; open_closed_streams(); print_table(('gr\\u00f6\\u00dfe',), [('\\u2192',)])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "gr\\xf6\\xdfe\n\\u2192\n"


async def test_somebody_comes_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """A node that is just starting is waited for; one address of several is enough; and what is wrong is told of each."""
    network = SimNetwork(random.Random(1))
    with pytest.raises(Unavailable, match=r"a:1: nobody listens there; b:2: nobody listens there\), tried for 5 s"):
        await check_reachable("a:1,b:2", network.host("c"), 5.0)
    assert trio.current_time() == pytest.approx(5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_reachable, "a:1,b:2", network.host("c"), 5.0)
        await trio.sleep(3)
        bound = await network.host("b").listen("b:2")
    assert trio.current_time() < 9
    await bound.listener.aclose()


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and one line that says who was asked and why it failed."""
    assert main(["topics", "list", "--target", "127.0.0.1:1", "--timeout", "200ms"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("trio-eventlog: UNAVAILABLE: ")
    assert "(127.0.0.1:1: Connection refused), tried for 0.2 s" in error
    assert error.count("\n") == 1
    assert main(["topics", "list", "--target", "http://x"]) == 1
    assert "eventlog://HOST:PORT" in capsys.readouterr().err


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Each one has help, also with values that hold a percent sign."""

    def walk(parser: argparse.ArgumentParser) -> int:
        assert parser.format_help()
        assert not parser.allow_abbrev
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        return 1 + sum(walk(child) for action in nested for child in action.choices.values())

    assert walk(make_parser()) > 20
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("trio-eventlog ")


def test_client_settings() -> None:
    """Flags over variables over the file."""
    parser = make_parser()
    parsed = parser.parse_args(["status", "--timeout", "3s", "--set", "attempts_max=7", "--set", "producer-batch-bytes=64KiB"])
    settings = client_settings_of(parsed)
    assert (settings.request_timeout_seconds, settings.attempts_max, settings.producer_batch_bytes) == (3.0, 7, 65536)
    with pytest.raises(SettingsError, match="unknown setting 'nothing'"):
        client_settings_of(parser.parse_args(["status", "--set", "nothing=1"]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("beginning", BEGINNING),
        ("END", END),
        ("17", 17),
        ("-10", Last(10)),
        ("-10m", Ago(600.0)),
        ("0:12", {0: 12}),
        ("0:12,2:7", {0: 12, 2: 7}),
        ("2026-11-02T12:00:00Z", datetime.datetime(2026, 11, 2, 12, tzinfo=datetime.UTC)),
        ("2026-11-02T12:00:00+02:00", datetime.datetime(2026, 11, 2, 10, tzinfo=datetime.UTC)),
    ],
)
def test_start(text: str, value: object) -> None:
    """Words, offsets and times."""
    assert start(text) == value


@pytest.mark.parametrize("text", ["0:12,0:7", "0:12,", ":12", "0:-1", "0:x", "12,7"])
def test_no_start(text: str) -> None:
    """Offsets of partitions are read as they stand, or refused."""
    with pytest.raises(argparse.ArgumentTypeError):
        start(text)


def test_start_without_a_zone_is_local() -> None:
    """As people write it."""
    found = start("2026-11-02T12:00:00")
    assert isinstance(found, datetime.datetime)
    assert found.tzinfo is not None


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"\n")), st.lists(st.integers(0, 60)))
def test_lines_however_the_bytes_come(data: bytes, cuts: list[int]) -> None:
    """Any split gives the same lines as the whole; a last line without its end is one too."""
    splitter = LineSplitter()
    found: list[bytes] = []
    positions = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for begin, end in itertools.pairwise(positions):
        if begin < end:
            found += splitter.feed(data[begin:end])
    found += splitter.end()
    expected = data.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_formats() -> None:
    """value: bytes as they are; json: text or base64; text: everything on a line."""
    records = [
        Record(value=b"a", key=b"k", timestamp_ns=1_700_000_000_000_000_001, offset=4, headers=(Header(key="h", value=b"\xff"),)),
        Record(value=b"\xfe", offset=5),
    ]
    assert write_values([record.value for record in records]) == b"a\n\xfe\n"
    assert write_text(records, "t", 2) == b"2:4\t2023-11-14T22:13:20.000000001Z\tk\ta\n2:5\t\t\t\xfe\n"
    first, second = map(json.loads, write_json(records, "t", 2).decode().splitlines())
    assert first == {
        "topic": "t",
        "partition": 2,
        "offset": 4,
        "timestamp": "2023-11-14T22:13:20.000000001Z",
        "key": "k",
        "value": "a",
        "headers": [{"key": "h", "value_base64": "/w=="}],
    }
    assert second["value_base64"] == "/g=="


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers to the right, nothing as a dash, no blanks at the end."""
    print_table(("NAME", "COUNT"), [("a", 5), (None, 12)])
    assert capsys.readouterr().out == "NAME  COUNT\na         5\n-        12\n"
    assert [size_text(value) for value in (0, 512, 65536, 3 << 30)] == ["none", "512 B", "64 KiB", "3 GiB"]
    assert [duration_text(value) for value in (0, 1.5, 60, 604800)] == ["none", "1.5 s", "1 min", "7 d"]


def test_bench_batches_have_the_size_asked_for() -> None:
    """Close below it, and at least one record."""
    batch = make_batch(100, 65536)
    assert 60_000 < len(batch.payload) <= 65536
    assert make_batch(1000, 10).record_count == 1


def test_logs() -> None:
    """Text for people, JSON for machines, exceptions in both; the level is obeyed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        for log_format in ("text", "json"):
            stream = io.StringIO()
            set_up_logging(log_format, "info", stream)
            logger = logging.getLogger("trio_eventlog.test")
            logger.debug("not this")
            logger.info("%d nodes", 3, extra={"group": "catalog"})
            try:
                raise ZeroDivisionError("why")
            except ZeroDivisionError:
                logger.exception("failed")
            text = stream.getvalue()
            assert "not this" not in text
            assert "ZeroDivisionError: why" in text
            first = text.splitlines()[0]
            if log_format == "json":
                fields = json.loads(first)
                assert (fields["message"], fields["level"], fields["group"]) == ("3 nodes", "info", "catalog")
                assert len(text.splitlines()) == 2
            else:
                assert first.endswith("INFO test: 3 nodes group=catalog")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.binary(max_size=8),
    st.binary(max_size=8),
    st.text(max_size=8).filter(lambda text: text.isprintable()),
)
@example(253_402_300_800, 0, b"", b"", "")
@example(-62_135_596_801, 999_999_999, b"", b"", "")
def test_whatever_a_foreign_producer_puts_into_a_batch_can_be_shown(
    seconds: int, nanos: int, key: bytes, value: bytes, header: str
) -> None:
    """The node takes a batch whose records have times that no calendar has, since it looks at the batch only. They are consumed,
    and written in each format."""
    message = records_pb2.RecordBatch()
    item = message.records.add(key=key, value=value)
    item.timestamp.seconds, item.timestamp.nanos = seconds, nanos
    item.headers.add(key=header, value=value)
    payload = message.SerializeToString()
    batch = Batch(record_count=1, payload=payload, crc32c=crc32c(payload))
    check_batch(batch, 1 << 20, records_max=10, record_bytes_max=1 << 20)
    (record,) = decode_records(batch, 1 << 20)
    assert record.timestamp_ns == seconds * 10**9 + nanos
    shown = json.loads(write_json([record], "t", 0))
    assert shown["timestamp"] or shown.get("timestamp_ns", 0) == record.timestamp_ns
    text = write_text([record], "t", 0).split(b"\t")[1]
    assert text == shown["timestamp"].encode() or (text.startswith(b"@") and "timestamp_ns" in shown)
    assert write_values([record.value]) == value + b"\n"


def test_times_at_the_ends_of_the_calendar() -> None:
    """The years are written with four digits; beyond them, seconds since 1970."""

    def shown(timestamp_ns: int) -> str:
        return write_text([Record(value=b"", timestamp_ns=timestamp_ns)], "t", 0).split(b"\t")[1].decode()

    assert shown(1) == "1970-01-01T00:00:00.000000001Z"
    assert shown(-62_135_596_800 * 10**9) == "0001-01-01T00:00:00.000000000Z"
    assert shown(-62_135_596_800 * 10**9 - 1) == "@-62135596800.000000001"
    assert shown(253_402_300_799 * 10**9) == "9999-12-31T23:59:59.000000000Z"
    assert shown(253_402_300_800 * 10**9) == "@253402300800.000000000"
    assert shown(0) == ""


@pytest.mark.parametrize(("text", "numbers"), [("0", (0,)), ("0,2-4", (0, 2, 3, 4)), ("3, 1-2,2", (1, 2, 3)), ("7-7", (7,))])
def test_partition_lists(text: str, numbers: tuple[int, ...]) -> None:
    """In order and once."""
    assert partition_list(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "4-2", "0-99999999", "1,,2"])
def test_what_is_no_partition_list(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        partition_list(text)


@pytest.mark.parametrize(("text", "part"), [("values", "neither value, json, text nor"), ("%q", "there is no %q"), ("%", "no %")])
def test_what_is_no_format(text: str, part: str) -> None:
    """The text says what there is."""
    with pytest.raises(argparse.ArgumentTypeError, match=part):
        output_format(text)


def test_help_brings_in_nothing_else() -> None:
    """The list of commands is the same whichever of them are looked at closely, and help without any starts no client."""
    assert make_parser("").format_help() == make_parser("topics").format_help() == make_parser().format_help()
    code = (
        "import sys; from trio_eventlog.cli import make_parser; make_parser('').format_help();"
        " sys.exit(str(sorted({'trio', 'google.protobuf', 'ssl'} & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr in ("", "\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["produce", "t", "a", "--key", "k", "b", "c"], ["a", "b", "c"]),
        (["produce", "--key", "k", "t", "a"], ["a"]),
        (["produce", "t", "--key", "k", "--", "-a", "b"], ["-a", "b"]),
        (["produce", "t"], []),
    ],
)
def test_values_before_and_behind_flags(arguments: list[str], values: list[str]) -> None:
    """argparse itself gives a list what stands before the first flag only."""
    assert make_parser("produce").parse_args(arguments).values == values
    assert make_parser("consume").parse_args(["consume", "a", "--from", "-10", "b"]).topics == ["a", "b"]


def test_slips_beside_values_are_slips(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that does not exist is no value."""
    with pytest.raises(SystemExit):
        make_parser("produce").parse_args(["produce", "t", "--kye", "k", "a"])
    assert "did you mean --key?" in capsys.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
def test_the_collector_rests_while_modules_are_loaded(fails: bool) -> None:
    """It works again afterwards, whatever went wrong, and does not look at what was there when all went well."""
    gc.unfreeze()
    try:
        with loading():
            assert not gc.isenabled()
            if fails:
                raise ImportError
    except ImportError:
        assert fails
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 1000) is not fails
    gc.unfreeze()
