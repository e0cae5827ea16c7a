"""`events` against simulated clusters."""

import argparse
import io
import json

import pytest
import trio.testing

from trio_eventlog.cli import make_parser
from trio_eventlog.cli.events import append_event, show_aggregate, tail_events
from trio_eventlog.errors import InvalidArgument, WrongExpectedVersion
from trio_eventlog.testing import Cluster


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(("events", *arguments))


async def test_append_show_and_tail(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(1, seed=2) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await append_event(client, parsed("append", "a", "Made", '{"n":1}', "--expected-version", "none", "--event-id", "e1"))
        assert capfd.readouterr().out == "appended: version 1 of a, offset 0, event e1\n"
        await append_event(client, parsed("append", "a", "Made", "null", "--event-id", "e1", "--expected-version", "9"))
        assert "is in the log already: version 1" in capfd.readouterr().out
        with pytest.raises(WrongExpectedVersion):
            await append_event(client, parsed("append", "a", "Made", "null", "--expected-version", "0"))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[1]")))
        await append_event(client, parsed("append", "a", "Read", "--metadata", '{"by":"me"}', "--close", "--json"))
        assert json.loads(capfd.readouterr().out)["version"] == 2
        assert await show_aggregate(client, parsed("show", "a")) == 0
        shown = capfd.readouterr().out
        assert "a: version 2, closed" in shown
        assert '{"n":1}' in shown
        assert await show_aggregate(client, parsed("show", "a", "--backwards", "-n", "1", "--json")) == 0
        (line,) = capfd.readouterr().out.splitlines()
        assert (json.loads(line)["version"], json.loads(line)["metadata"], json.loads(line)["closes"]) == (2, {"by": "me"}, True)
        assert await show_aggregate(client, parsed("show", "nobody")) == 0
        assert capfd.readouterr().out == "nobody has no events\n"
        assert await tail_events(client, parsed("tail", "--from", "beginning", "-n", "2", "--json")) == 0
        followed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [event["type"] for event in followed] == ["Made", "Read"]
        await tail_events(client, parsed("tail", "--from", followed[0]["token"], "-n", "1"))
        assert "a 2  Read  [1]" in capfd.readouterr().out


async def test_an_append_without_a_payload(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(1, seed=2) as cluster, cluster.client() as client:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(InvalidArgument, match="no payload"):
            await append_event(client, parsed("append", "a", "Made"))


def test_expected_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("append", "a", "Made", "null", "--expected-version", "-1")
    assert "is no expected version" in capsys.readouterr().err
