"""`logs` against simulated clusters."""

import argparse
import json

import pytest
import trio
import trio.testing

from trio_eventlog.cli import make_parser
from trio_eventlog.cli.logs import show_logs, text_of
from trio_eventlog.cli.output import Look
from trio_eventlog.client import Client
from trio_eventlog.codec.log_lines import LogLine, StoredLine, record_of, timestamp_text
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.testing import Cluster

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(("logs", *arguments))


async def log_line(client: Client, number: int) -> None:
    line = LogLine(
        service="auth" if number % 2 else "web",
        level="ERROR" if number % 3 == 0 else "INFO",
        message=f"line {number} \x1b[31m\n",
        timestamp=timestamp_text(T0 + number * SECOND),
        labels={"host": "h1"},
        received_at="",
        client_ip="",
        ingested_node_id="",
        tenant="",
    )
    await client.produce("logs", record_of(line, T0 + number * SECOND))


def numbers(text: str) -> list[int]:
    return [int(line.split("line ")[1].split(" ")[0]) for line in text.splitlines()]


async def test_the_newest_lines_in_the_order_of_time(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(1, seed=2) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("logs", partitions=2)
        for number in range(12):
            await log_line(client, number)

        async def shown(*arguments: str) -> str:
            assert await show_logs(client, parsed(*arguments)) == 0
            return capfd.readouterr().out

        assert numbers(await shown()) == list(range(12))
        assert numbers(await shown("-n", "3")) == [9, 10, 11]
        assert numbers(await shown("--service", "web", "--level", "err")) == [0, 6]
        assert numbers(await shown("--since", str(1_800_000_003), "--until", timestamp_text(T0 + 5 * SECOND))) == [3, 4]
        assert numbers(await shown("--contains", "line 1", "--label", "host=h1")) == [1, 10, 11]
        assert await shown("--label", "host=h2") == ""
        first = (await shown("-n", "1")).splitlines()
        assert first == ["2027-01-15T08:00:11.000Z INFO  auth line 11 \\x1b[31m\\n host=h1"]
        (line,) = (await shown("-n", "1", "--json")).splitlines()
        assert (json.loads(line)["service"], json.loads(line)["message"]) == ("auth", "line 11 \x1b[31m\n")
        coloured = await shown("-n", "1", "--color", "always", "--service", "auth", "--level", "ERROR")
        assert "\x1b[31mERROR\x1b[0m" in coloured
        with pytest.raises(InvalidArgument, match="--since"):
            await shown("--since", "yesterday")


async def test_following_begins_where_the_lines_end(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Cluster(1, seed=2) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("logs", partitions=2)
        for number in range(3):
            await log_line(client, number)
        text = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(show_logs, client, parsed("--follow", "--contains", "line"))
            with trio.fail_after(60):
                while len(text.splitlines()) < 3:
                    await trio.sleep(0.1)
                    text += capfd.readouterr().out
                for number in range(3, 6):
                    await log_line(client, number)
                while len(text.splitlines()) < 6:
                    await trio.sleep(0.1)
                    text += capfd.readouterr().out
            nursery.cancel_scope.cancel()
        assert numbers(text)[:3] == [0, 1, 2]
        assert sorted(numbers(text)) == list(range(6))


def test_a_line_cannot_do_anything_to_a_terminal() -> None:
    hostile = "".join(map(chr, range(0xA1)))
    line = StoredLine(service=hostile, level="INFO", message=hostile, labels={"a": hostile})
    shown = text_of(line, T0, Look())
    assert not any((ord(character) < 0x20 and character != "\t") or 0x7F <= ord(character) < 0xA0 for character in shown)


@pytest.mark.parametrize("text", ["host", "=x", ""])
def test_labels_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--label", text)
    assert "write NAME=VALUE" in capsys.readouterr().err
