"""Search of log lines over HTTP, on nodes of a simulated cluster."""

import json
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
from http_kit import Client
from test_events_over_http import read_stream
from test_topics_over_http import opened

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.http.shapes import rfc3339
from trio_eventlog.records import Compression, Record
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.machines import virtual_now_ns

VIRTUAL_TIME = True

SECOND = 1_000_000_000
SERVICES = ("auth", "web")


def line(number: int, now_ns: int) -> Record:
    """Of `number` seconds ago."""
    service = SERVICES[number % 2]
    value = {
        "service": service,
        "level": "ERROR" if number % 5 == 0 else "INFO",
        "message": f'was "{number}" ago',
        "timestamp": rfc3339(now_ns - number * SECOND),
        "labels": {"host": f"h{number % 3}"},
    }
    return Record(key=service.encode(), value=msgspec.json.encode(value), timestamp_ns=now_ns - number * SECOND)


async def fill(cluster: Cluster, numbers: range) -> int:
    """One line for each, the newest of 0 seconds ago; returns the time of that."""
    log = cluster.node("n1").client()
    now_ns = virtual_now_ns()
    await log.create_topic("logs", partitions=2)
    batches: dict[int, list[Record]] = {}
    for number in reversed(numbers):
        record = line(number, now_ns)
        batches.setdefault(partition_of(record.key or b"", 2), []).append(record)
    for partition, records in batches.items():
        await log.produce_batch("logs", partition, encode_records(records, Compression.ZSTD))
    return now_ns


def ages(answer: Any) -> list[int]:
    return [int(found["message"].split('"')[1]) for found in answer["logs"]]


def seconds_text(time_ns: int) -> str:
    """Seconds since 1970, exactly: a float has no room for nanoseconds, and would name another time than the line's."""
    return f"{time_ns // SECOND}.{time_ns % SECOND:09d}"


async def search(client: Client, **query: Any) -> Any:
    text = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
    status, answer = await client.ask_json("GET", f"/v1/logs?{text}")
    assert status == 200, answer
    return answer


async def test_a_search_and_where_it_goes_on() -> None:
    async with opened() as (cluster, client):
        empty = await search(client)
        assert (empty["logs"], empty["count"], empty["end"]) == ([], 0, True)
        now_ns = await fill(cluster, range(20))
        answer = await search(client, limit=3)
        assert (ages(answer), answer["count"], answer["end"]) == ([0, 1, 2], 3, False)
        first = answer["logs"][0]
        assert first.pop("partition") in (0, 1)
        assert first.pop("offset") > 0
        assert first == json.loads(line(0, now_ns).value or b"")
        rest = await search(client, **{"limit": 100, "from": answer["next"]})
        assert (ages(rest), rest["end"]) == (list(range(3, 20)), True)
        assert ages(await search(client, direction="forward", limit=2)) == [19, 18]
        assert ages(await search(client, service="web", level="error")) == [5, 15]
        assert ages(await search(client, contains='"7"')) == ages(await search(client, q='"7"')) == [7]
        assert ages(await search(client, **{"label.host": "h1", "limit": 2})) == [1, 4]
        assert ages(await search(client, since=rfc3339(now_ns - 3 * SECOND), until=seconds_text(now_ns - SECOND))) == [2, 3]
        assert ages(await search(client, since="1d", limit=1)) == [0]
        assert len(answer["tail"]) > 2
        pytest.importorskip("re2")
        assert ages(await search(client, regex='"1[12]"')) == [11, 12]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("since=yesterday", "since"),
        ("since=2027-01-15T08:00:00", "zone"),
        ("until=1969-01-01T00:00:00Z", "1970"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("direction=up", "direction"),
        ("from=nonsense", "place"),
        ("contains=a&q=b", "same"),
        ("label.a=1&label.a=2", "twice"),
        ("labels=1", "labels"),
        ("contains=" + "a" * 1001, "1000"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_words(query: str, word: str) -> None:
    async with opened() as (cluster, client):
        await fill(cluster, range(1))
        status, problem = await client.ask_json("GET", f"/v1/logs?{query}")
        assert status == 400, problem
        assert word in json.dumps(problem)
        # As a stream, too: what is wrong is a status, and not the middle of an answer.
        status, _ = await client.ask("GET", f"/v1/logs?{query}", headers=(("accept", "text/event-stream"),))
        assert status == 400


async def test_a_search_is_streamed_as_lines_and_as_events() -> None:
    async with opened() as (cluster, client):
        for accept in ("application/x-ndjson", "text/event-stream"):
            status, body = await client.ask("GET", "/v1/logs", headers=(("accept", accept),))
            assert (status, b'"end":true' in body) == (200, True)
        await fill(cluster, range(200))
        status, body = await client.ask("GET", "/v1/logs?limit=150", headers=(("accept", "application/x-ndjson"),))
        *lines, state = [json.loads(one) for one in body.splitlines()]
        assert (status, ages({"logs": lines})) == (200, list(range(150)))
        assert (state["end"], state["scanned_bytes"] > 0) == (False, True)
        rest = await search(client, **{"from": state["next"], "limit": 1000})
        assert ages(rest) == list(range(150, 200))
        status, body = await client.ask("GET", "/v1/logs?limit=1000", headers=(("accept", "text/event-stream"),))
        events = [one for one in body.decode().split("\n\n") if one and not one.startswith((":", "retry"))]
        assert ages({"logs": [json.loads(one.removeprefix("data: ")) for one in events[:-1]]}) == list(range(200))
        name, data = events[-1].split("\n")
        assert (name, json.loads(data.removeprefix("data: "))["end"]) == ("event: end", True)


async def test_a_search_stops_when_it_has_looked_through_as_much_as_it_may() -> None:
    """And goes on from there: nothing is left out."""
    async with opened(search_bytes_max=1 << 20) as (cluster, client):
        log = cluster.node("n1").client()
        await log.create_topic("logs")
        now_ns = virtual_now_ns()
        large = {"service": "a", "level": "INFO", "message": "x" * 100_000}
        batch = encode_records([Record(value=msgspec.json.encode(large), timestamp_ns=now_ns)] * 100, Compression.ZSTD)
        await log.produce("logs", line(1, now_ns))
        for _ in range(8):
            await log.produce_batch("logs", 0, batch)  # 10 MB each
        answer = await search(client, contains="was")
        assert (answer["count"], answer["end"]) == (0, False)
        assert answer["scanned_bytes"] >= 1 << 20
        assert ages(await search(client, **{"contains": "was", "from": answer["next"]})) == [1]
        _, counted = await client.ask_json("GET", "/v1/logs/services")
        assert ([one["name"] for one in counted["services"]], counted["complete"]) == (["a"], False)
        # Lines as large as this: the answer is bounded by its bytes, too.
        answer = await search(client, contains="x", limit=1000)
        assert 10 <= answer["count"] <= 21
        assert not answer["end"]


async def test_what_lines_have() -> None:
    async with opened() as (cluster, client):
        for what, name in (("services", "services"), ("levels", "levels"), ("labels", "labels"), ("histogram", "buckets")):
            status, answer = await client.ask_json("GET", f"/v1/logs/{what}")
            assert (status, bool(answer[name]), answer["complete"]) == (200, False, True)
        now_ns = await fill(cluster, range(20))
        _, answer = await client.ask_json("GET", "/v1/logs/services")
        assert answer["services"] == [{"name": "auth", "lines": 10}, {"name": "web", "lines": 10}]
        _, answer = await client.ask_json("GET", "/v1/logs/services?since=3s")
        assert sum(one["lines"] for one in answer["services"]) <= 4
        _, answer = await client.ask_json("GET", "/v1/logs/levels?service=web")
        assert answer["levels"] == [{"name": "INFO", "lines": 8}, {"name": "ERROR", "lines": 2}]
        _, answer = await client.ask_json("GET", "/v1/logs/labels")
        assert (answer["labels"], answer["complete"]) == ({"host": ["h0", "h1", "h2"]}, True)
        since = rfc3339(now_ns - 20 * SECOND)
        _, answer = await client.ask_json("GET", f"/v1/logs/histogram?step=5s&since={since}")
        assert answer["step"] == 5
        assert sum(bucket["lines"] for bucket in answer["buckets"]) == 20
        assert all(bucket["lines"] == sum(bucket["levels"].values()) for bucket in answer["buckets"])
        assert 4 <= len(answer["buckets"]) <= 5
        status, _ = await client.ask_json("GET", f"/v1/logs/histogram?step=5s&since={since}&until=nonsense")
        assert status == 400
        for step in ("3.6s", "1h"):
            status, _ = await client.ask_json("GET", f"/v1/logs/histogram?step={step}&since=1h")
            assert status == 200
        for step in ("3.5s", "0s", "no"):
            status, problem = await client.ask_json("GET", f"/v1/logs/histogram?step={step}&since=1h")
            assert (status, problem["errors"][0]["pointer"]) == (400, "?step")


async def test_a_tail_begins_where_a_search_ends_and_is_resumed_at_another_node() -> None:
    async with opened(3) as (cluster, client):
        now_ns = await fill(cluster, range(10, 20))
        with trio.fail_after(60):
            answer = await search(client)
            while ages(answer) != list(range(10, 20)):  # n1 may be behind
                await trio.sleep(0.1)
                answer = await search(client)
        log = cluster.node("n1").client()
        for number in (9, 8, 7):
            await log.produce("logs", line(number, now_ns))
        target = f"/v1/logs/tail?from={answer['tail']}"
        with trio.fail_after(60):
            first = await read_stream(cluster, "n1", target, 2)
            rest = await read_stream(cluster, "n2", target, 1, last_id=first[1][0])
            found = [event for _, event in [*first[:2], *rest]]
            assert sorted(ages({"logs": found})) == [7, 8, 9]
            only = await read_stream(cluster, "n3", target + "&service=web&contains=%227%22", 1)
            assert ages({"logs": [event for _, event in only]}) == [7]
            everything = await read_stream(cluster, "n3", "/v1/logs/tail?start=beginning", 13)
        assert sorted(ages({"logs": [event for _, event in everything]})) == list(range(7, 20))


async def test_tails_that_cannot_be() -> None:
    async with opened() as (cluster, client):
        assert (await client.ask_json("GET", "/v1/logs/tail"))[0] == 404
        await fill(cluster, range(1))
        for query in ("from=nonsense", "level=" + "a" * 1001, "since=1h"):
            assert (await client.ask_json("GET", f"/v1/logs/tail?{query}"))[0] == 400
