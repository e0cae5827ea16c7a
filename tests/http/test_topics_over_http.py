"""Topics over HTTP, on nodes of a simulated cluster: the answers, the limits, and what does not come from the leader."""

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
import zstandard
from http_kit import Client

from trio_eventlog.ids import format_id
from trio_eventlog.records import Record
from trio_eventlog.testing.cluster import Cluster

VIRTUAL_TIME = True

NDJSON = (("content-type", "application/x-ndjson"),)
JSON = (("content-type", "application/json"),)


@asynccontextmanager
async def opened(nodes: int = 1, **settings: Any) -> AsyncIterator[tuple[Cluster, Client]]:
    """A cluster, and a connection to its first node."""
    async with Cluster(nodes, seed=7, **settings) as cluster:
        await cluster.wait_until(lambda: all(cluster.node(name).unready_because() == "" for name in cluster.names), "ready")
        async with connected(cluster, "n1") as client:
            yield cluster, client


@asynccontextmanager
async def connected(cluster: Cluster, name: str) -> AsyncIterator[Client]:
    stream = await cluster.network.host("browser").open_stream(cluster.address(name))
    async with stream:
        yield Client(stream)


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


async def values_of(client: Client, topic: str, partition: int = 0) -> list[str]:
    _, page = await client.ask_json("GET", f"/topics/{topic}/partitions/{partition}/records?limit=10000")
    return [record["value"] for record in page["records"]]


# Making and deleting


async def test_a_topic_from_its_making_to_its_end() -> None:
    async with opened() as (_, client):
        assert await client.ask_json("GET", "/topics") == (200, {"topics": [], "count": 0})
        status, made = await client.ask_json("POST", "/topics", {"name": "orders", "partitions": 2, "retention_bytes": 1 << 20})
        assert (status, made["partitions"], made["retention_bytes"]) == (201, 2, 1 << 20)
        assert client.headers[b"location"] == b"/topics/orders"
        status, problem = await client.ask_json("POST", "/topics", {"name": "orders"})
        assert (status, problem["code"]) == (409, "TOPIC_EXISTS")
        _, topics = await client.ask_json("GET", "/topics")
        assert [topic["name"] for topic in topics["topics"]] == ["orders"]
        status, described = await client.ask_json("GET", "/topics/orders")
        assert [one["partition"] for one in described["partitions"]] == [0, 1]
        assert (described["partitions"][0]["high_watermark"], described["partitions"][0]["size_bytes"] > 0) == (0, True)
        status, altered = await client.ask_json("PATCH", "/topics/orders", {"retention_seconds": 60})
        assert (status, altered["retention_bytes"], altered["retention_seconds"]) == (200, 1 << 20, 60)
        assert (await client.ask_json("PATCH", "/topics/orders", {}))[0] == 400
        assert (await client.ask_json("PATCH", "/topics/none", {"retention_seconds": 60}))[0] == 404
        assert await client.ask("DELETE", "/topics/orders") == (204, b"")
        status, problem = await client.ask_json("GET", "/topics/orders")
        assert (status, problem["code"]) == (404, "TOPIC_NOT_FOUND")


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({}, "#/name"),
        ({"name": ""}, "#/name"),
        ({"name": "a", "partitions": 0}, "#/partitions"),
        ({"name": "a", "partitions": "two"}, "#/partitions"),
        ({"name": "a", "colour": "red"}, "#/colour"),
        ([], "#/"),
    ],
)
async def test_a_wrong_field_is_pointed_at(value: Any, pointer: str) -> None:
    async with opened() as (_, client):
        status, problem = await client.ask_json("POST", "/topics", value)
        assert (status, problem["code"]) == (400, "INVALID_ARGUMENT")
        assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("body", [b"{", b'{"name": "a"', b'"\xff"', b"[" * 100_000, b"nonsense"])
async def test_what_is_no_json_is_400(body: bytes) -> None:
    """Also what ends early, and what is nested deeper than anybody means."""
    async with opened() as (_, client):
        status, said = await client.ask("POST", "/topics", body, JSON)
        assert (status, json.loads(said)["code"]) == (400, "INVALID_ARGUMENT")


async def test_what_the_head_says_is_looked_at_first() -> None:
    async with opened(http_body_bytes_max=2000) as (_, client):
        assert (await client.ask("POST", "/topics", b"{}"))[0] == 415
        assert (await client.ask("POST", "/topics", b"{}", (("content-type", "text/plain"),)))[0] == 415
        assert (await client.ask("POST", "/topics", b"{}", (*JSON, ("content-encoding", "br"))))[0] == 415
        assert (await client.ask("GET", "/topics", headers=(("accept", "text/html"),)))[0] == 406
        assert (await client.ask("PATCH", "/topics"))[0] == 405
        assert client.headers[b"allow"] == b"GET, HEAD, POST, OPTIONS"
        assert (await client.ask("OPTIONS", "/topics"))[0] == 204
        assert client.headers[b"allow"] == b"GET, HEAD, POST, OPTIONS"
        assert (await client.ask("GET", "/nothing"))[0] == 404
        assert (await client.ask("GET", "/topics", headers=(("x-scope-orgid", ""),)))[0] == 400
        await client.stream.send_all(b"POST /topics HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\r\n")
        assert (await Client(client.stream).answer())[0] == 411


async def test_the_limit_of_a_body() -> None:
    """At the limit it is taken, however it is packed; over it, it is 413 before any of it was sent."""
    async with opened(http_body_bytes_max=2000) as (cluster, client):
        body = b'{"name": "a"}'.ljust(2000)
        assert (await client.ask("POST", "/topics", body, JSON))[0] == 201
        too_large = b'{"name": "b"}'.ljust(2001)
        for packed, encoding in ((gzip.compress(too_large), "gzip"), (zstandard.compress(too_large), "zstd")):
            async with connected(cluster, "n1") as other:
                status, said = await other.ask("POST", "/topics", packed, (*JSON, ("content-encoding", encoding)))
                assert (status, json.loads(said)["limit_bytes"]) == (413, 2000)
        head = b"POST /topics HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2001\r\n\r\n"
        await client.stream.send_all(head)
        assert (await Client(client.stream).answer())[0] == 413


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_body_that_inflates_without_end_is_413(encoding: str) -> None:
    """And what it inflates to is never there as a whole."""
    async with opened() as (_, client):
        bomb = bytes(200_000_000)
        packed = gzip.compress(bomb, 9) if encoding == "gzip" else zstandard.compress(bomb, 19)
        assert len(packed) < 250_000
        assert (await client.ask("POST", "/topics", packed, (*JSON, ("content-encoding", encoding))))[0] == 413


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_packed_bodies(encoding: str) -> None:
    """One packed piece behind the other is one body; one that ends early is none."""
    async with opened() as (_, client):
        pack = gzip.compress if encoding == "gzip" else zstandard.compress
        headers = (*JSON, ("content-encoding", encoding))
        assert (await client.ask("POST", "/topics", pack(b'{"name":') + pack(b'"a"}'), headers))[0] == 201
        assert (await client.ask("POST", "/topics", pack(b'{"name":"b"}')[:-3], headers))[0] == 400
        assert (await client.ask("POST", "/topics", b"no such thing", headers))[0] == 400


async def test_bodies_of_all_requests_share_a_budget() -> None:
    """What one holds is given back when it is answered."""
    async with opened(http_bodies_bytes_max=64 * 1024, http_body_bytes_max=64 * 1024) as (cluster, client):
        body = b'{"name": "a"}'.ljust(60_000)
        async with connected(cluster, "n1") as other:
            head = b"POST /topics HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n"
            await other.stream.send_all(head + body[:-1])
            await trio.sleep(1)
            status, _said = await client.ask("POST", "/topics", body, JSON)
            assert (status, client.headers[b"retry-after"]) == (503, b"1")
            await other.stream.send_all(body[-1:])
            assert (await other.answer())[0] == 201
        async with connected(cluster, "n1") as other:
            assert (await other.ask("POST", "/topics", body.replace(b'"a"', b'"b"'), JSON))[0] == 201
        use = {one.name: one.used for one in cluster.node("n1").budgets()}
        assert use["bytes of HTTP bodies"] == 0


# Producing and reading


async def test_values_in_all_their_forms() -> None:
    """Text, JSON and bytes; null is not empty; what is no text comes back as base64."""
    async with opened() as (_, client):
        given = [
            {"value": "text", "key": "k", "headers": [{"key": "h", "value": "v"}, {"key": "b", "base64": "/w=="}]},
            {"json": {"a": [1, None]}},
            {"base64": "/wA="},
            {"value": ""},
            {"value": None},
            {},
            {"key_base64": "/w==", "timestamp": "2026-01-02T03:04:05.123456Z"},
        ]
        status, produced = await client.ask_json("POST", "/topics/t/records", {"records": given, "partition": 0})
        assert (status, produced["count"]) == (201, 7)
        assert produced["results"] == [{"topic": "t", "partition": 0, "base_offset": 0, "record_count": 7, "duplicate": False}]
        _, page = await client.ask_json("GET", "/topics/t/partitions/0/records")
        shown = page["records"]
        assert shown[0]["headers"] == [{"key": "h", "value": "v"}, {"key": "b", "base64": "/w=="}]
        assert [record.get("value") for record in shown] == ["text", '{"a": [1, null]}', None, "", None, None, None]
        assert (shown[2]["base64"], shown[6]["key_base64"]) == ("/wA=", "/w==")
        assert "value" in shown[3]
        assert "value" not in shown[4]
        assert shown[6]["timestamp"] == "2026-01-02T03:04:05.123456000Z"
        _, page = await client.ask_json("GET", "/topics/t/partitions/0/records?values=json")
        assert page["records"][1]["json"] == {"a": [1, None]}
        assert page["records"][0]["value"] == "text", "which is no JSON"
        _, page = await client.ask_json("GET", "/topics/t/partitions/0/records?values=base64&limit=1")
        assert page["records"][0]["base64"] == "dGV4dA=="


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        ({"value": "a", "base64": "YQ=="}, "#/records/1"),
        ({"key": "a", "key_base64": "YQ=="}, "#/records/1"),
        ({"base64": "?"}, "#/records/1/base64"),
        ({"value": 1}, "#/records/1/value"),
        ({"headers": [{"key": "a"}]}, "#/records/1/headers/0"),
        ({"timestamp": "2026-01-02T03:04:05"}, "#/records/1/timestamp"),
        ({"valu": "a"}, "#/records/1/valu"),
    ],
)
async def test_a_wrong_record_is_pointed_at_and_nothing_is_produced(record: Any, pointer: str) -> None:
    async with opened() as (_, client):
        status, problem = await client.ask_json("POST", "/topics/t/records", {"records": [{"value": "a"}, record]})
        assert (status, problem["errors"][0]["pointer"]) == (400, pointer)
        assert await client.ask_json("GET", "/topics") == (200, {"topics": [], "count": 0})


async def test_records_of_one_request_go_where_their_keys_say() -> None:
    """The same partition as with any other client; each partition's records are one batch."""
    async with opened() as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t", "partitions": 4})
        records = [{"value": str(number), "key": f"k{number % 5}"} for number in range(20)]
        status, produced = await client.ask_json("POST", "/topics/t/records", {"records": records})
        assert status == 201
        assert sum(result["record_count"] for result in produced["results"]) == 20
        found = {value: partition for partition in range(4) for value in await values_of(client, "t", partition)}
        async with cluster.client() as other:
            for number in range(5):
                result = await other.produce("t", Record(key=f"k{number}".encode(), value=b"x"))
                assert result.partition == found[str(number)]


async def test_pages_of_records() -> None:
    async with opened() as (_, client):
        records = [{"value": f"{number:03}"} for number in range(100)]
        for begin in range(0, 100, 10):
            await client.ask_json("POST", "/topics/t/records?partition=0", {"records": records[begin : begin + 10]})
        status, page = await client.ask_json("GET", "/topics/t/partitions/0/records?offset=25&limit=30")
        assert [record["offset"] for record in page["records"]] == list(range(25, 55))
        assert (page["count"], page["next_offset"], page["log_start_offset"], page["high_watermark"]) == (30, 55, 0, 100)
        tag = client.headers[b"etag"].decode()
        assert await client.ask("GET", "/topics/t/partitions/0/records?offset=25&limit=30", headers=(("if-none-match", tag),)) == (
            304,
            b"",
        )
        status, page = await client.ask_json("GET", "/topics/t/partitions/0/records", headers=(("range", "offsets=90-94"),))
        assert (status, [record["offset"] for record in page["records"]]) == (206, [90, 91, 92, 93, 94])
        assert client.headers[b"content-range"] == b"offsets 90-94/100"
        status, page = await client.ask_json("GET", "/topics/t/partitions/0/records?offset=100")
        assert (status, page["count"], page["next_offset"]) == (200, 0, 100)
        for target in ("offset=101", "offset=9223372036854775807"):
            status, problem = await client.ask_json("GET", f"/topics/t/partitions/0/records?{target}")
            assert (status, problem["code"], problem["high_watermark"]) == (416, "OFFSET_OUT_OF_RANGE", 100)
        for target in ("offset=-1", "offset=x", "limit=0", "values=xml", "colour=red", "offset=1&offset=2", "wait_seconds=61"):
            assert (await client.ask("GET", f"/topics/t/partitions/0/records?{target}"))[0] == 400, target
        for target in ("/topics/t/partitions/1/records", "/topics/u/partitions/0/records"):
            assert (await client.ask("GET", target))[0] == 404
        status, said = await client.ask(
            "GET", "/topics/t/partitions/0/records?offset=98", headers=(("accept", "application/x-ndjson"),)
        )
        assert [json.loads(line)["value"] for line in said.splitlines()] == ["098", "099"]
        assert client.headers[b"x-next-offset"] == b"100"


async def test_records_from_a_time_on() -> None:
    async with opened() as (_, client):
        for day in (1, 2, 3):
            record = {"value": str(day), "timestamp": f"2026-01-0{day}T00:00:00Z"}
            await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [record]})
        _, page = await client.ask_json("GET", "/topics/t/partitions/0/records?timestamp=2026-01-01T12:00:00Z")
        assert [record["value"] for record in page["records"]] == ["2", "3"]
        assert (await client.ask("GET", "/topics/t/partitions/0/records?timestamp=2026-01-01T12:00:00Z&offset=1"))[0] == 400


async def test_a_page_waits_for_its_first_record() -> None:
    """As long as it was asked to, and no longer."""
    async with opened() as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        began = trio.current_time()
        _, page = await client.ask_json("GET", "/topics/t/partitions/0/records?wait_seconds=5")
        assert (page["count"], trio.current_time() - began) == (0, pytest.approx(5, abs=0.5))

        async def produce_later() -> None:
            await trio.sleep(2)
            async with cluster.client() as other:
                await other.produce("t", b"late", partition=0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_later)
            _, page = await client.ask_json("GET", "/topics/t/partitions/0/records?wait_seconds=50")
            assert [record["value"] for record in page["records"]] == ["late"]


# Uploads


async def test_an_upload_of_lines() -> None:
    async with opened() as (_, client):
        body = lines({"value": "a"}, {"json": [1]}, {"value": "c", "key": "k"}) + b"\n\r\n" + b'{"value":"last"}'
        status, said = await client.ask("POST", "/topics/t/records?partition=0", body, NDJSON)
        assert (status, client.headers[b"content-type"]) == (200, b"application/x-ndjson")
        assert json.loads(said) == {
            "done": True,
            "records": 4,
            "bytes": len(body),
            "ranges": [{"partition": 0, "records": 4, "first_offset": 0, "last_offset": 3}],
        }
        assert await values_of(client, "t") == ["a", "[1]", "c", "last"]
        status, said = await client.ask("POST", "/topics/t/records?partition=0&lines=values", b"x y\n\n{}\r\nz", NDJSON)
        assert json.loads(said)["records"] == 3
        assert (await values_of(client, "t"))[4:] == ["x y", "{}", "z"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_packed_upload(encoding: str) -> None:
    async with opened() as (_, client):
        body = lines(*({"value": f"{number}"} for number in range(5000)))
        packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
        status, said = await client.ask("POST", "/topics/t/records", packed, (*NDJSON, ("content-encoding", encoding)))
        assert (status, json.loads(said)["records"]) == (200, 5000)
        assert await values_of(client, "t") == [str(number) for number in range(5000)]


async def test_a_wrong_line_of_an_upload_is_named() -> None:
    """What came before it may be in the log: the answer says what is."""
    async with opened() as (_, client):
        body = lines({"value": "a"}, {"value": "b"}) + b'{"value": 1}\n' + lines({"value": "c"})
        status, said = await client.ask("POST", "/topics/t/records", body, NDJSON)
        problem = json.loads(said)
        assert (status, problem["errors"][0]["pointer"]) == (400, "line 3")
        assert problem["acknowledged"] == []


async def test_the_limit_of_a_line() -> None:
    async with opened(http_body_bytes_max=2000) as (cluster, client):
        fits = b'{"value":"' + b"x" * (2000 - 12) + b'"}'
        assert (await client.ask("POST", "/topics/t/records", fits + b"\n" + fits, NDJSON))[0] == 200
        for end in (b"", b"\n"):
            async with connected(cluster, "n1") as other:
                status, said = await other.ask("POST", "/topics/t/records", fits + b" " + end + fits, NDJSON)
                assert (status, json.loads(said)["code"]) == (413, "LINE_TOO_LARGE")


async def test_a_long_upload_tells_its_progress_and_holds_little() -> None:
    """It is read only as fast as it goes into the log, and what fails after the first line of progress is in the last one."""
    async with opened(3) as (_cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t", "partitions": 2})
        headers = b"host: x\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked"
        await client.stream.send_all(b"POST /topics/t/records HTTP/1.1\r\n" + headers + b"\r\n\r\n")
        for number in range(40):
            chunk = lines(*({"value": f"{number * 100 + place}"} for place in range(100)))
            await client.stream.send_all(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await trio.sleep(0.5)
        bad = b"no record\n"
        await client.stream.send_all(b"%x\r\n%b\r\n0\r\n\r\n" % (len(bad), bad))
        client.connection.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
        status, said = await client.answer()
        told = [json.loads(line) for line in said.splitlines()]
        assert status == 200
        assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
        assert 3 <= len(told) <= 6, "ever more rarely"
        assert told[-1]["problem"]["errors"][0]["pointer"] == "line 4001"
        acknowledged = sum(one["records"] for one in told[-1]["ranges"])
        assert acknowledged >= told[-2]["records"] > 1000


async def test_an_upload_whose_client_leaves_ends() -> None:
    async with opened() as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        await client.stream.send_all(
            b"POST /topics/t/records HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1000\r\n\r\n"
            + lines({"value": "a"})
        )
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(1)
        async with connected(cluster, "n1") as other:
            assert (await values_of(other, "t")) in (["a"], [])
        assert cluster.node("n1").parts.http.open_requests == 0


# Live tails


class Tail:
    """A live tail, read event by event."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._rest = ""

    async def event(self) -> dict[str, str]:
        """The next one that is no sign of life; {} at the end."""
        while True:
            while "\n\n" not in self._rest:
                event = self.client.connection.next_event()
                kind = type(event).__name__
                if kind == "Data":
                    self._rest += bytes(event.data).decode()
                elif kind == "EndOfMessage":
                    return {}
                elif kind == "Response":
                    assert event.status_code == 200, event
                    self.client.headers = dict(event.headers)
                else:
                    self.client.connection.receive_data(bytes(await self.client.stream.receive_some()))
            text, _, self._rest = self._rest.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in text.split("\n") if ": " in line)
            if "data" in fields:
                return fields


async def begin_tail(client: Client, target: str, *headers: tuple[str, str]) -> Tail:
    request = h11.Request(method="GET", target=target, headers=[("host", "x"), *headers])
    await client.stream.send_all((client.connection.send(request) or b"") + (client.connection.send(h11.EndOfMessage()) or b""))
    return Tail(client)


async def test_a_tail_gives_records_as_they_come_and_goes_on_where_it_was_left() -> None:
    async with opened(3) as (cluster, client):
        await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [{"value": "0"}, {"value": "1"}]})
        tail = await begin_tail(client, "/topics/t/partitions/0/tail?start=beginning")
        first = await tail.event()
        assert client.headers[b"content-type"].startswith(b"text/event-stream")
        assert (first["id"], json.loads(first["data"])["value"]) == ("0", "0")
        assert (await tail.event())["id"] == "1"
        async with cluster.client() as other:
            await other.produce("t", b"2", partition=0)
            assert json.loads((await tail.event())["data"])["value"] == "2"
        async with connected(cluster, "n2") as again:
            resumed = await begin_tail(again, "/topics/t/partitions/0/tail", ("last-event-id", "0"))
            assert [(await resumed.event())["id"] for _ in range(2)] == ["1", "2"]
        async with connected(cluster, "n1") as new:
            at_end = await begin_tail(new, "/topics/t/partitions/0/tail")
            async with cluster.client() as other:
                await trio.sleep(1)
                await other.produce("t", b"3", partition=0)
            assert (await at_end.event())["id"] == "3"


@pytest.mark.parametrize("target", ["?offset=3", "?offset=1000000"])
async def test_a_tail_from_where_nothing_is_says_so(target: str) -> None:
    async with opened() as (_, client):
        await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [{"value": "0"}, {"value": "1"}]})
        assert (await client.ask("GET", f"/topics/t/partitions/0/tail{target}"))[0] == 416
        assert (await client.ask("GET", "/topics/u/partitions/0/tail"))[0] == 404
        assert (await client.ask("GET", "/topics/t/partitions/0/tail", headers=(("last-event-id", "x"),)))[0] == 400


async def test_a_silent_tail_gives_signs_of_life_and_a_client_that_left_is_noticed() -> None:
    async with opened() as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        await client.stream.send_all(b"GET /topics/t/partitions/0/tail HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        with trio.move_on_after(50):
            while True:
                said += bytes(await client.stream.receive_some())
        assert b"retry: 1000\n\n" in said
        assert said.count(b":\n\n") == 3
        assert cluster.node("n1").parts.http_tails.used == 1
        await client.stream.aclose()
        await trio.sleep(1)
        assert cluster.node("n1").parts.http_tails.used == 0


async def test_the_number_of_tails_is_bounded() -> None:
    async with opened(http_tails_max=1) as (cluster, client):
        await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [{"value": "0"}]})
        tail = await begin_tail(client, "/topics/t/partitions/0/tail?offset=0")
        await tail.event()
        async with connected(cluster, "n1") as other:
            status, problem = await other.ask_json("GET", "/topics/t/partitions/0/tail")
            assert (status, problem["code"], other.headers[b"retry-after"]) == (429, "OVERLOADED", b"5")
            assert (await other.ask("HEAD", "/topics/t/partitions/0/records"))[0] == 200


async def test_a_tail_as_lines() -> None:
    async with opened() as (_, client):
        await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [{"value": "0"}, {"value": "1"}]})
        await client.stream.send_all(
            b"GET /topics/t/partitions/0/tail?offset=0 HTTP/1.1\r\nhost: x\r\naccept: application/x-ndjson\r\n\r\n"
        )
        said = b""
        while said.count(b'"value"') < 2:
            said += bytes(await client.stream.receive_some())
        assert b"retry" not in said
        assert b'"offset":1' in said


async def test_a_node_that_stops_sends_its_tails_elsewhere() -> None:
    """Each ends as an answer ends, and says where else to ask."""
    async with opened(3) as (cluster, client):
        await client.ask_json("POST", "/topics/t/records?partition=0", {"records": [{"value": "0"}]})
        tail = await begin_tail(client, "/topics/t/partitions/0/tail?offset=0")
        await tail.event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.stop, "n1")
            moved = await tail.event()
            assert moved["event"] == "moved"
            assert json.loads(moved["data"])["addresses"] == [cluster.address("n2"), cluster.address("n3")]
            assert await tail.event() == {}


async def test_a_slow_reader_costs_its_window_only() -> None:
    """The node fetches no more for it than fits, and others are served meanwhile."""
    async with opened() as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        async with connected(cluster, "n1") as slow:
            await slow.stream.send_all(b"GET /topics/t/partitions/0/tail?offset=0 HTTP/1.1\r\nhost: x\r\n\r\n")
            await trio.sleep(1)
            async with cluster.client() as other:
                for _ in range(40):
                    await other.produce("t", [bytes(1000) for _ in range(100)], partition=0)
                _, end = await other.offsets("t")
            assert end == 4000
            assert (await client.ask_json("GET", "/topics/t/partitions/0/records?offset=3999"))[1]["count"] == 1


# Other nodes


async def test_each_node_answers_for_every_partition() -> None:
    """Wherever it lives, and whoever leads it."""
    async with opened(3) as (cluster, client):
        for number in range(6):
            await client.ask_json("POST", "/topics", {"name": f"t{number}", "replicas": 1})
        homes = set()
        for name in cluster.names:
            async with connected(cluster, name) as other:
                for number in range(6):
                    target = f"/topics/t{number}/records?partition=0"
                    assert (await other.ask_json("POST", target, {"records": [{"value": name}]}))[0] == 201
                _, described = await other.ask_json("GET", "/topics/t0")
                homes.add(described["partitions"][0]["leader_id"])
        assert homes <= {format_id(cluster.node(name).node_id) for name in cluster.names}
        async with connected(cluster, "n2") as other:
            for number in range(6):
                assert await values_of(other, f"t{number}") == ["n1", "n2", "n3"]
                tail = await begin_tail(other, f"/topics/t{number}/partitions/0/tail?offset=2")
                assert (await tail.event())["id"] == "2"
                break


async def test_without_a_quorum_a_produce_is_refused_in_time() -> None:
    """With an error that says whether it may have happened."""
    async with opened(3, http_answer_seconds_max=20.0) as (cluster, client):
        await client.ask_json("POST", "/topics", {"name": "t"})
        cluster.crash("n2")
        cluster.crash("n3")
        began = trio.current_time()
        status, problem = await client.ask_json("POST", "/topics/t/records", {"records": [{"value": "a"}]})
        assert status in (503, 504)
        assert problem["code"] in ("NO_QUORUM", "OUTCOME_UNKNOWN", "UNAVAILABLE")
        assert client.headers[b"retry-after"] == b"1"
        assert trio.current_time() - began < 35


async def test_status_and_probes() -> None:
    async with opened(3) as (cluster, client):
        _, status = await client.ask_json("GET", "/status")
        node = cluster.node("n1")
        assert (status["id"], status["name"]) == (format_id(node.node_id), node.name)
        assert status["leader_id"] in {format_id(cluster.node(name).node_id) for name in cluster.names}
        assert status["is_leader"] == (status["leader_id"] == status["id"])
        assert status["term"] >= 1
        assert status["commit_index"] >= status["last_applied"] > 0
        assert await client.ask_json("GET", "/ready") == (200, {"status": "ready"})
        _, health = await client.ask_json("GET", "/health")
        assert health == {
            "status": "healthy",
            "node_id": status["id"],
            "is_leader": status["is_leader"],
            "leader_id": status["leader_id"],
            "timestamp": health["timestamp"],
        }
        _, members = await client.ask_json("GET", "/members")
        assert [member["name"] for member in members["members"]] == list(cluster.names)


async def test_cross_origin_use_is_off_unless_an_origin_is_named() -> None:
    origin = ("origin", "https://example.org")
    asks = ("access-control-request-method", "POST")
    async with opened() as (_, client):
        await client.ask("GET", "/topics", headers=(origin,))
        assert b"access-control-allow-origin" not in client.headers
    async with opened(http_cors_origins=("https://example.org",)) as (_, client):
        for target in ("/topics", "/nothing"):
            await client.ask("GET", target, headers=(origin,))
            assert client.headers[b"access-control-allow-origin"] == b"https://example.org"
        assert (await client.ask("OPTIONS", "/topics", headers=(origin, asks)))[0] == 204
        assert b"POST" in client.headers[b"access-control-allow-methods"]
        await client.ask("GET", "/topics", headers=(("origin", "https://evil.example"),))
        assert b"access-control-allow-origin" not in client.headers
