"""The event store over HTTP, on nodes of a simulated cluster."""

import json
from typing import Any

import pytest
import trio
from http_kit import Client
from test_topics_over_http import connected, opened

from trio_eventlog.testing.cluster import Cluster

VIRTUAL_TIME = True

CREATED = {
    "type": "UserCreated",
    "aggregate_id": "user-123",
    "payload": {"name": "John Doe", "email": "john@example.com"},
    "metadata": {"source": "api"},
}


async def append(client: Client, **fields: Any) -> tuple[int, Any]:
    return await client.ask_json("POST", "/events", {"type": "T", "aggregate_id": "a", "payload": None, **fields})


async def test_an_event_from_its_appending_to_its_reading() -> None:
    """As the first lines of a tutorial have it, at every node."""
    async with opened(3) as (cluster, first):
        assert await first.ask_json("GET", "/events/user-123") == (
            200,
            {"events": [], "count": 0, "aggregate_id": "user-123", "version": 0, "closed": False},
        )
        for number, name in enumerate(cluster.names, 1):
            async with connected(cluster, name) as client:
                status, made = await client.ask_json("POST", "/events", CREATED)
                assert status == 201, made
                assert (status, made["success"], made["index"], made["offset"], made["version"]) == (
                    201,
                    True,
                    number,
                    number - 1,
                    number,
                )
                assert client.headers[b"location"] == b"/events/user-123?from_version=%d" % number
                status, page = await client.ask_json("GET", f"/events/user-123?from_version={number}")
                assert (status, page["count"], page["version"]) == (200, 1, number)
                assert client.headers[b"etag"] == b'"%d"' % number
                (event,) = page["events"]
                assert (event["id"], event["type"], event["index"]) == (made["event_id"], "UserCreated", number)
                assert (event["payload"], event["metadata"]) == (CREATED["payload"], CREATED["metadata"])
                assert isinstance(event["timestamp"], int)
                status, body = await client.ask("HEAD", "/events/user-123")
                assert (status, body, client.headers[b"x-aggregate-version"]) == (200, b"", b"%d" % number)
                status, body = await client.ask("GET", "/events/user-123", headers=(("if-none-match", f'"{number}"'),))
                assert (status, body) == (304, b"")


@pytest.mark.parametrize(
    ("aggregate_id", "path"), [("eu/42", "eu%2F42"), ("eu/42", "eu/42"), ("a b?", "a%20b%3F"), ("ü/", "%C3%BC%2F")]
)
async def test_ids_of_aggregates_may_have_slashes(aggregate_id: str, path: str) -> None:
    async with opened() as (_, client):
        assert (await append(client, aggregate_id=aggregate_id))[0] == 201
        status, page = await client.ask_json("GET", f"/events/{path}")
        assert (status, page["aggregate_id"], page["count"]) == (200, aggregate_id, 1)


async def test_versions_and_repeated_events() -> None:
    async with opened() as (_, client):
        status, first = await append(client, event_id="e1", expected_version=0)
        assert (status, first["event_id"]) == (201, "e1")
        status, again = await append(client, event_id="e1", expected_version=0)
        assert (status, again["version"], again["index"], again["duplicate"]) == (200, 1, 1, True)
        status, problem = await append(client, expected_version=0)
        assert (status, problem["code"]) == (409, "WRONG_EXPECTED_VERSION")
        assert (problem["actual_version"], problem["expected_version"]) == (1, 0)
        assert (await append(client, aggregate_id="b", expected_version="exists"))[0] == 409
        assert (await append(client, expected_version="any"))[1]["version"] == 2
        status, many = await client.ask_json(
            "POST",
            "/events",
            {"aggregate_id": "a", "events": [{"type": "X", "payload": 1}, {"type": "Y", "payload": 2, "closes": True}]},
        )
        assert (status, many["version"], many["first_version"], len(many["event_ids"])) == (201, 4, 3, 2)
        status, problem = await append(client)
        assert (status, problem["code"], problem["actual_version"]) == (409, "AGGREGATE_CLOSED", 4)
        assert (await append(client, reopens=True))[0] == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"aggregate_id": "a"}, "#/type"),
        ({"type": "T", "payload": 1}, "#/aggregate_id"),
        ({"type": "", "aggregate_id": "a"}, "#/type"),
        ({"type": "T", "aggregate_id": "a", "expected_version": -1}, "#/expected_version"),
        ({"type": "T", "aggregate_id": "a", "colour": 1}, "#/colour"),
        ({"type": "T", "aggregate_id": "a", "events": [{"type": "X"}]}, "#/events"),
        ({"aggregate_id": "a", "events": [{"type": "X"}, {}]}, "#/events/1/type"),
        ({"type": "T", "aggregate_id": "a", "payload_base64": "AAA="}, "#/content_type"),
    ],
)
async def test_what_cannot_be_is_refused_with_a_pointer(body: dict[str, Any], pointer: str) -> None:
    async with opened() as (_, client):
        status, problem = await client.ask_json("POST", "/events", body)
        assert status == 400, problem
        assert problem["errors"][0]["pointer"] == pointer


async def test_payloads_are_kept() -> None:
    async with opened() as (_, client):
        raw = b'{"type": "T", "aggregate_id": "a", "payload": {"z":1.10,  "a": "\\u00e4"}}'
        assert (await client.ask("POST", "/events", raw, (("content-type", "application/json"),)))[0] == 201
        await client.ask_json(
            "POST", "/events", {"type": "T", "aggregate_id": "a", "payload_base64": "AP8=", "content_type": "image/png"}
        )
        _, body = await client.ask("GET", "/events/a")
        assert b'"payload":{"z":1.10,  "a": "\\u00e4"}' in body
        second = json.loads(body)["events"][1]
        assert (second["payload_base64"], second["content_type"]) == ("AP8=", "image/png")


async def test_all_events_by_type_and_page_by_page() -> None:
    async with opened(3) as (cluster, _), connected(cluster, "n2") as client:
        assert await client.ask_json("GET", "/events") == (200, {"events": [], "count": 0, "next": "", "end": True})
        for number in range(7):
            await append(client, aggregate_id=f"a/{number % 2}", type=f"T{number % 3}", payload=number)
        seen: list[int] = []
        after = ""
        while True:
            _, page = await client.ask_json("GET", f"/events?limit=3&from={after}")
            seen += [event["payload"] for event in page["events"]]
            after = page["next"]
            if page["end"]:
                break
        assert seen == list(range(7))
        _, page = await client.ask_json("GET", "/events?type=T1")
        assert [event["payload"] for event in page["events"]] == [1, 4]
        _, page = await client.ask_json("GET", "/events/a/1?direction=backwards&limit=2")
        assert [event["payload"] for event in page["events"]] == [5, 3]
        status, problem = await client.ask_json("GET", "/events?from=nonsense")
        assert (status, problem["code"]) == (400, "INVALID_ARGUMENT")


async def read_stream(cluster: Cluster, name: str, target: str, count: int, last_id: str = "") -> list[tuple[str, Any]]:
    """The first events of a stream, with their ids."""
    stream = await cluster.network.host("browser").open_stream(cluster.address(name))
    async with stream:
        resume = f"last-event-id: {last_id}\r\n" if last_id else ""
        await stream.send_all(f"GET {target} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{resume}\r\n".encode())
        data = b""
        with trio.fail_after(60):
            while data.count(b"\ndata: ") < count or not data.endswith(b"\r\n"):
                piece = await stream.receive_some()
                assert piece, "the stream has ended"
                data += piece
        text = data.partition(b"\r\n\r\n")[2].decode()
        found = text.split("id: ")[1:]
        return [(part.split("\n")[0], json.loads(part.split("data: ")[1].split("\n")[0])) for part in found]


async def test_a_stream_is_resumed_at_another_node_without_gap_or_repetition() -> None:
    async with opened(3) as (cluster, client):
        for number in range(6):
            await append(client, aggregate_id=f"a{number % 2}", payload=number)
        await trio.sleep(1)
        first = await read_stream(cluster, "n1", "/events/stream?start=beginning", 6)
        assert [event["payload"] for _, event in first] == list(range(6))
        leader = await cluster.wait_leader("events", 0)
        other = next(name for name in cluster.names if name != leader)
        if leader != "n1":
            cluster.crash(leader)
        for number in (6, 7):
            async with connected(cluster, other) as writer:
                assert (await append(writer, aggregate_id="a1", payload=number))[0] == 201
        rest = await read_stream(cluster, other, "/events/stream", 5, last_id=first[2][0])
        assert [event["payload"] for _, event in rest] == [3, 4, 5, 6, 7]
        only = await read_stream(cluster, other, "/events/stream?start=beginning&aggregate_id=a0", 3)
        assert [event["payload"] for _, event in only] == [0, 2, 4]


@pytest.mark.parametrize("wanted", ["aggregate_id=a", "type=Wanted"])
async def test_a_filtered_stream_goes_on_behind_events_that_are_not_in_it(wanted: str) -> None:
    """Also when nothing of what was read at once is in it."""
    async with opened() as (cluster, client):
        await append(client, aggregate_id="other", payload=0)

        async def follow() -> None:
            ((_, event),) = await read_stream(cluster, "n1", f"/events/stream?start=beginning&{wanted}", 1)
            assert event["payload"] == 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(1)
            await append(client, aggregate_id="other", payload=1)
            await trio.sleep(1)
            await append(client, aggregate_id="a", type="Wanted", payload=2)


async def test_cloud_events() -> None:
    async with opened() as (_, client):
        binary = (
            ("content-type", "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/shop"),
            ("ce-type", "Sold"),
            ("ce-subject", "order-1"),
            ("ce-colour", "red"),
            ("expected-version", "0"),
        )
        status, body = await client.ask("POST", "/events", b'{"n":  1}', binary)
        assert (status, json.loads(body)["event_id"]) == (201, "/shop#1")
        assert (await client.ask("POST", "/events", b'{"n":  1}', binary))[0] == 200
        one = {"specversion": "1.0", "id": "2", "source": "/shop", "type": "Sold", "subject": "order-1", "data": {"n": 2}}
        status, _ = await client.ask(
            "POST", "/events", json.dumps(one).encode(), (("content-type", "application/cloudevents+json"),)
        )
        assert status == 201
        more = [one | {"id": "3"}, one | {"id": "4", "data_base64": "AP8=", "datacontenttype": "x/y"}]
        batch = (("content-type", "application/cloudevents-batch+json"),)
        status, body = await client.ask("POST", "/events", json.dumps(more).encode(), batch)
        assert (status, json.loads(body)["version"]) == (201, 4)
        _, page = await client.ask_json("GET", "/events/order-1")
        assert [event.get("payload") for event in page["events"]] == [{"n": 1}, {"n": 2}, {"n": 2}, None]
        assert page["events"][0]["metadata"]["cloudevents"]["colour"] == "red"
        other = [one | {"id": "5"}, one | {"id": "6", "subject": "order-2"}]
        assert (await client.ask("POST", "/events", json.dumps(other).encode(), batch))[0] == 400
        for missing in ("id", "source", "type", "subject"):
            incomplete = {name: value for name, value in one.items() if name != missing}
            status, body = await client.ask(
                "POST", "/events", json.dumps(incomplete).encode(), (("content-type", "application/cloudevents+json"),)
            )
            assert (status, json.loads(body)["errors"][0]["pointer"]) == (400, f"#/{missing}")
