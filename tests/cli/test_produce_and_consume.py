"""`produce` and `consume` against a simulated cluster, in virtual time."""

import argparse
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_eventlog.cli import make_parser
from trio_eventlog.cli.consume import consume
from trio_eventlog.cli.lines import InputFailed
from trio_eventlog.cli.produce import produce
from trio_eventlog.client import Client, ClientSettings
from trio_eventlog.errors import EventLogError, InvalidArgument, OffsetOutOfRange, TopicNotFound
from trio_eventlog.records import Header, Record
from trio_eventlog.testing import Cluster

pytestmark = pytest.mark.usefixtures("inline_threads")


@pytest.fixture
def inline_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual clock jumps while a thread works."""

    async def run_sync(function: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


@asynccontextmanager
async def opened(settings: ClientSettings | None = None, **of_nodes: Any) -> AsyncIterator[Client]:
    async with Cluster(1, seed=1, **of_nodes) as cluster:
        await cluster.wait_ready()
        async with cluster.client(settings=settings) as client:
            yield client


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


async def run(client: Client, capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What the command writes to standard output; nothing is on standard error."""
    act: Callable[[Client, argparse.Namespace], Awaitable[int]] = produce if arguments[0] == "produce" else consume
    capfd.readouterr()
    assert await act(client, parsed(*arguments)) == code
    out, err = capfd.readouterr()
    assert not err
    return out


async def records_of(client: Client, topic: str, number: int, partition: int | None = None) -> list[Record]:
    async with client.consume(topic, partition=partition) as records:
        return [await records.receive() for _ in range(number)]


async def test_values_keys_and_headers(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """Values stand on the command line, also behind flags and, after --, also with a dash."""
    async with opened() as client:
        told = await run(client, capfd, "produce", "t", "--key", "k", "--header", "a=1", "--header", "b=x=y", "one", "two")
        assert told == "produced 2 records, offsets 0..1\n"
        told = await run(client, capfd, "produce", "t", "--json", "--", "-3", "--four")
        assert json.loads(told) == {
            "topic": "t",
            "partitions": [{"partition": 0, "records": 2, "first_offset": 2, "last_offset": 3}],
            "records_taken": 2,
            "is_complete": True,
        }
        found = await records_of(client, "t", 4)
    assert [record.value for record in found] == [b"one", b"two", b"-3", b"--four"]
    assert {record.key for record in found[:2]} == {b"k"}
    assert found[0].headers == (Header(key="a", value=b"1"), Header(key="b", value=b"x=y"))
    assert not found[2].key
    assert not found[2].headers


@pytest.mark.parametrize(
    ("flags", "data", "values"),
    [
        ((), b"a\nb\n\nlast", [b"a", b"b", b"", b"last"]),
        (("--delimiter", r"\0"), b"a\nb\0c\0", [b"a\nb", b"c"]),
        (("--delimiter", r"\r\n"), b"a\nb\r\nc\r\n", [b"a\nb", b"c"]),
        (("--whole",), b"a\nb\n", [b"a\nb\n"]),
        (("--compression", "zstd", "--batch-records", "1"), b"a\nb\n", [b"a", b"b"]),
    ],
)
async def test_files(
    autojump_clock: trio.testing.MockClock,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    flags: tuple[str, ...],
    data: bytes,
    values: list[bytes],
) -> None:
    """Lines of a file, lines with other ends, or all of it at once."""
    (tmp_path / "file").write_bytes(data)
    async with opened() as client:
        told = await run(client, capfd, "produce", "t", "--file", str(tmp_path / "file"), *flags)
        assert told == f"produced {len(values)} records, offsets 0..{len(values) - 1}\n"
        assert [record.value for record in await records_of(client, "t", len(values))] == values


async def test_keys_in_lines(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before the separator; a line without one has none, one that begins with it an empty one. --partition comes before the key."""
    (tmp_path / "file").write_bytes(b"k\tv\nplain\n\tempty\n")
    async with opened() as client:
        await client.create_topic("t", partitions=3)
        flags = ("--key-separator", r"\t", "--partition", "2", "--file", str(tmp_path / "file"))
        await run(client, capfd, "produce", "t", *flags)
        found = await records_of(client, "t", 3, 2)
    assert [(record.key, record.value) for record in found] == [(b"k", b"v"), (None, b"plain"), (b"", b"empty")]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("--key-separator", ""), InvalidArgument, "is empty"),
        (("--key-separator", ":", "--key", "x"), InvalidArgument, "give one of the two"),
        (("--header", "x"), InvalidArgument, "write NAME=VALUE"),
        (("--whole", "value"), InvalidArgument, "give one of the two"),
        (("--file", "/nowhere/file"), InputFailed, "/nowhere/file: No such file"),
        (("--file", "/"), InputFailed, "/: Is a directory"),
        (("--partition", "7", "x"), InvalidArgument, "partitions 0 to 0"),
    ],
)
async def test_what_cannot_be(
    autojump_clock: trio.testing.MockClock, arguments: tuple[str, ...], error: type[EventLogError], text: str
) -> None:
    """One line each, and no traceback."""
    async with opened() as client:
        with pytest.raises(error, match=text):
            await produce(client, parsed("produce", "t", *arguments))


@pytest.mark.parametrize("data", [b"a\nb\n" + b"x" * 70_000 + b"\nc\n", b"a\nb\n" + b"x" * 3_000_000])
async def test_a_line_that_is_too_long(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], tmp_path: Path, data: bytes
) -> None:
    """What was before it is sent and told, the line is named, and nothing behind it is read."""
    (tmp_path / "file").write_bytes(data)
    async with opened(ClientSettings(batch_bytes_max=65536, producer_batch_bytes=65536)) as client:
        with pytest.raises(InputFailed, match=r"line 3 is longer than the 654\d\d bytes"):
            await produce(client, parsed("produce", "t", "--file", str(tmp_path / "file")))
        out, err = capfd.readouterr()
        assert out == "produced 2 records, offsets 0..1\n"
        assert err == "trio-eventlog: cut short: 2 of the 2 records taken are acknowledged\n"
        longest = b"x" * 65_400
        (tmp_path / "file").write_bytes(longest)
        assert "offsets 2..2" in await run(client, capfd, "produce", "t", "--file", str(tmp_path / "file"))


async def test_interrupted_while_input_is_waited_for(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is sent and told, and the exit code is that of the signal."""
    parts = [b"a\nb\nbegun"]

    async def read(self: object) -> bytes:
        if parts:
            return parts.pop()
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr("trio_eventlog.cli.lines.Input.read", read)
    async with opened() as client:
        assert await produce(client, parsed("produce", "t", "--file", "/dev/null", "--json")) == 130
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert (told["partitions"][0]["records"], told["records_taken"], told["is_complete"]) == (2, 2, False)
    assert "cut short: 2 of the 2 records taken are acknowledged" in err


async def test_refused_while_input_is_waited_for(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends then, and not with the next line."""
    async with opened(auto_create_topics=False) as client:
        await client.create_topic("t")
        parts = [b"b\n", b"a\n"]

        async def read(self: object) -> bytes:
            if not parts:
                await trio.sleep_forever()
            if len(parts) == 1:
                await trio.sleep(1)
                await client.delete_topic("t")
            return parts.pop()

        monkeypatch.setattr("trio_eventlog.cli.lines.Input.read", read)
        with trio.fail_after(100), pytest.raises(TopicNotFound):
            await produce(client, parsed("produce", "t", "--file", "/dev/null"))


async def filled(client: Client) -> None:
    """Topics a (two partitions) and b (one), a second between two records of each."""
    await client.create_topic("a", partitions=2)
    for number in range(10):
        await client.produce("a", b"a%d" % number, partition=number % 2)
    await client.produce("b", Record(key=b"k", value=b"b0", headers=(Header(key="h", value=b"1"), Header(key="i", value=b"2"))))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("b",), ["b0"]),
        (("a",), [f"a{number}" for number in range(10)]),
        (("a", "b"), [*(f"a{number}" for number in range(10)), "b0"]),
        (("a", "--partitions", "1"), ["a1", "a3", "a5", "a7", "a9"]),
        (("a", "--partition", "0-1,1", "--from", "4"), ["a8", "a9"]),
        (("a", "--from", "-2"), ["a6", "a7", "a8", "a9"]),
        (("a", "--from", "-99", "--partitions", "0"), ["a0", "a2", "a4", "a6", "a8"]),
        (("a", "--from", "-2", "b"), ["a6", "a7", "a8", "a9", "b0"]),
        (("a", "--from", "end", "--until-end"), []),
        (("a", "--from", "-0"), []),
        (("b", "--from", "-10000d"), ["b0"]),
        (("b", "--from", "2999-01-01T00:00:00Z"), []),
        (("b", "--follow", "-n", "1"), ["b0"]),
        (("a", "--partition", "1", "--count", "2"), ["a1", "a3"]),
        (("b", "--format", r"%t %p %o %k %K %h %s %V%%\x21\n"), ["b 0 0 k 1 h=1,i=2 b0 2%!"]),
    ],
)
async def test_what_is_consumed(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...], expected: list[str]
) -> None:
    """From where, of which partitions and topics, and how many."""
    async with opened() as client:
        await filled(client)
        assert sorted((await run(client, capfd, "consume", *flags)).splitlines()) == sorted(expected)


async def test_json(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """An object a line; values as they are, or in base64."""
    async with opened() as client:
        await filled(client)
        plain = json.loads(await run(client, capfd, "consume", "b", "--json"))
        assert (plain["topic"], plain["key"], plain["value"]) == ("b", "k", "b0")
        encoded = json.loads(await run(client, capfd, "consume", "b", "--json", "--json-values", "base64"))
        assert (encoded["key_base64"], encoded["value_base64"]) == ("aw==", "YjA=")
        await client.produce("b", b"\xff")
        assert json.loads(await run(client, capfd, "consume", "b", "--from", "-1", "--json", "--json-values", "text"))["value"] == (
            "\\xff"
        )


async def test_what_cannot_be_consumed(autojump_clock: trio.testing.MockClock) -> None:
    """An offset beyond the end, a partition and a topic that are not there."""
    async with opened() as client:
        await filled(client)
        for flags, error in (
            (("b", "--from", "2"), OffsetOutOfRange),
            (("b", "--partitions", "1"), TopicNotFound),
            (("c",), TopicNotFound),
            (("a", "--from", "2:0"), InvalidArgument),
            (("a", "--from", "0:0", "--partitions", "1"), InvalidArgument),
            (("a", "--from", "1:6"), OffsetOutOfRange),
        ):
            with pytest.raises((error, ExceptionGroup)) as caught:
                await consume(client, parsed("consume", *flags))
            assert isinstance(caught.value, error) or caught.value.subgroup(error) is not None


async def test_interrupted_consumer_says_where_it_was(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """So that the next one can go on there."""
    async with opened() as client, trio.open_nursery() as nursery:
        await filled(client)

        @nursery.start_soon
        async def interrupt() -> None:
            await trio.sleep(5)
            os.kill(os.getpid(), signal.SIGTERM)

        assert await consume(client, parsed("consume", "a", "--follow")) == 143
    words = "trio-eventlog: interrupted after 10 records; next offsets: a/0: 5, a/1: 5; go on with --from 0:5,1:5\n"
    assert capfd.readouterr().err == words


async def test_offsets_of_partitions(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """As an interrupted consumer has said them: up to the end, and on and on; also how many before the end."""
    async with opened() as client:
        await filled(client)
        assert sorted((await run(client, capfd, "consume", "a", "--from", "0:3,1:5")).split()) == ["a6", "a8"]
        assert sorted((await run(client, capfd, "consume", "a", "--from", "1:4")).split()) == ["a0", "a2", "a4", "a6", "a8", "a9"]
        text = await run(client, capfd, "consume", "a", "--follow", "-n", "3", "--from", "0:3,1:4")
        assert sorted(text.split()) == ["a6", "a8", "a9"]
        text = await run(client, capfd, "consume", "a", "--follow", "-n", "4", "--from", "-2")
        assert sorted(text.split()) == ["a6", "a7", "a8", "a9"]
        text = await run(client, capfd, "consume", "a", "b", "--follow", "-n", "3", "--from", "-1")
        assert sorted(text.split()) == ["a8", "a9", "b0"]
