"""Log lines over HTTP, on nodes of a simulated cluster: where they go, what is answered, and what is not taken."""

import gzip
import json
from typing import Any

import pytest
import trio
from test_topics_over_http import JSON, NDJSON, connected, lines, opened

from trio_eventlog.codec.log_lines import StoredLine, decode_line
from trio_eventlog.codec.partitioner import partition_of
from trio_eventlog.records import Record
from trio_eventlog.service.values import BEGINNING
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.v1 import loki_push_pb2

VIRTUAL_TIME = True
PROTOBUF = (("content-type", "application/x-protobuf"),)


async def stored(cluster: Cluster, count: int, name: str = "n1") -> list[Record]:
    found: list[Record] = []
    async with cluster.node(name).client().consume("logs", start=BEGINNING) as records:
        with trio.fail_after(10):
            while len(found) < count:
                found += await records.receive_batch()
    assert len(found) == count
    return found


def decoded(records: list[Record]) -> list[StoredLine]:
    return [decode_line(record.value or b"") for record in records]


async def test_lines_are_taken_enriched_and_placed_by_service() -> None:
    """The topic is made by the first of them, in a cluster that makes none otherwise; from a node that does not lead, too."""
    services = ["focus_allocator", "event_creator", "auth_service", "notification_service"]
    async with opened(3) as (cluster, _):
        for name in cluster.names:
            async with connected(cluster, name) as client:
                sent = [
                    {"service": service, "level": "INFO", "message": f"{name} {number}"}
                    for service in services
                    for number in (1, 2)
                ]
                assert await client.ask_json("POST", "/v1/logs", sent) == (201, {"accepted": 8, "rejected": 0, "errors": []})
        records = await stored(cluster, 24)
        for record in records:
            assert record.partition == partition_of(record.key or b"", 4)
        for service in services:
            mine = [line for line in decoded(records) if line.service == service]
            assert [line.message for line in mine] == [f"{name} {number}" for name in cluster.names for number in (1, 2)]
            assert {line.ingested_node_id for line in mine} == {f"{cluster.node_id(name):016x}" for name in cluster.names}
            assert all(line.client_ip and ":" not in line.client_ip for line in mine)
            assert {line.tenant for line in mine} == {"anonymous"}
            assert all(line.received_at == line.timestamp for line in mine)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'[{"message":"a"},{"message":"b"}]', JSON),
        (b'{"logs":[{"message":"a"},{"message":"b"}]}', JSON),
        (b'{"message":"a"}\n\n{"message":"b"}\n', NDJSON),
        (gzip.compress(b'[{"message":"a"},{"message":"b"}]', mtime=0), (*JSON, ("content-encoding", "gzip"))),
    ],
)
async def test_all_shapes(body: bytes, headers: Any) -> None:
    async with opened() as (cluster, client):
        status, said = await client.ask("POST", "/v1/logs", body, headers)
        assert (status, json.loads(said)["accepted"]) == (201, 2)
        assert [line.message for line in decoded(await stored(cluster, 2))] == ["a", "b"]


async def test_one_bad_line_is_named_and_none_is_taken() -> None:
    async with opened() as (cluster, client):
        for bad, field in (
            ({"massage": "x"}, "massage"),
            ({"message": 1}, "message"),
            ({"message": "x", "timestamp": "now"}, "timestamp"),
            ({"message": "x", "labels": {str(number): "" for number in range(65)}}, "labels"),
        ):
            for body, headers in (
                (json.dumps([{"message": "good"}, bad]).encode(), JSON),
                (lines({"message": "good"}, bad), NDJSON),
            ):
                status, said = await client.ask("POST", "/v1/logs", body, headers)
                problem = json.loads(said)
                assert status == 400
                assert problem["detail"].startswith("#/1: ")
                assert field in problem["detail"]
        assert await client.ask_json("GET", "/topics") == (200, {"topics": [], "count": 0})
        some = [{"message": "good"}, {"massage": "x"}, {"message": "m" * 300_000}]
        status, taken = await client.ask_json("POST", "/v1/logs?partial=true", some)
        assert status == 201
        assert (taken["accepted"], taken["rejected"], [error["line"] for error in taken["errors"]]) == (1, 2, [1, 2])
        assert [line.message for line in decoded(await stored(cluster, 1))] == ["good"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[", JSON, 400),
        (b"3", JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b'{"message":"a"}', (("content-type", "text/plain"),), 415),
        (b'{"message":"a"}', (), 415),
        (b"no protobuf", PROTOBUF, 400),
        (b'{"resourceLogs":[{"scopeLogs":3}]}', JSON, 400),
        (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"x"}]}]}]}', JSON, 400),
        (gzip.compress(b" " * 5_000_000, mtime=0), (*JSON, ("content-encoding", "gzip")), 413),
    ],
)
async def test_what_is_no_body(body: bytes, headers: Any, status: int) -> None:
    async with opened() as (_, client):
        answered, said = await client.ask("POST", "/v1/logs", body, headers)
        assert answered == status, said
        assert json.loads(said)["status"] == status


async def test_bytes_that_are_no_text_are_replaced_and_marked() -> None:
    async with opened() as (cluster, client):
        status, _ = await client.ask("POST", "/v1/logs", b'[{"message":"a\xff"},{"message":"b"}]', JSON)
        assert status == 201
        first, second = decoded(await stored(cluster, 2))
        assert (first.message, first.labels, second.labels) == ("a\ufffd", {"replaced_bytes": "true"}, {})


async def test_acks_and_tenants() -> None:
    async with opened() as (cluster, client):
        status, said = await client.ask_json("POST", "/v1/logs?acks=none", [{"message": "a"}], (("x-scope-orgid", "team-7"),))
        assert (status, said["accepted"]) == (202, 1)
        (line,) = decoded(await stored(cluster, 1))
        assert line.tenant == "team-7"
        status, _ = await client.ask_json("POST", "/v1/logs?acks=most", [{"message": "a"}])
        assert status == 400


async def test_exports_of_open_telemetry() -> None:
    service = {"attributes": [{"key": "service.name", "value": {"stringValue": "auth"}}]}
    records = [{"body": {"stringValue": "good"}, "severityNumber": 17}, {"body": {"stringValue": "m" * 300_000}}]
    export = {"resourceLogs": [{"resource": service, "scopeLogs": [{"logRecords": records}]}]}
    async with opened() as (cluster, client):
        status, said = await client.ask_json("POST", "/v1/logs", export)
        assert (status, said["partialSuccess"]["rejectedLogRecords"]) == (200, "1")
        records.pop()
        assert await client.ask_json("POST", "/v1/logs", export) == (200, {})
        assert [(line.service, line.level, line.message) for line in decoded(await stored(cluster, 2))] == [
            ("auth", "ERROR", "good")
        ] * 2


async def test_few_bytes_that_stand_for_many() -> None:
    """Each record has the long label of its resource: the request is refused before they fill the memory."""
    long = {"attributes": [{"key": "x", "value": {"stringValue": "v" * 100_000}}]}
    export = {"resourceLogs": [{"resource": long, "scopeLogs": [{"logRecords": [{}] * 10_000}]}]}
    push = {"streams": [{"stream": {"x": "v" * 100_000}, "values": [["1", ""]] * 10_000}]}
    async with opened() as (_, client):
        for path, body in (("/v1/logs", export), ("/loki/api/v1/push", push)):
            status, problem = await client.ask_json("POST", path, body)
            assert (status, problem["code"]) == (413, "BATCH_TOO_LARGE")
        assert await client.ask_json("GET", "/topics") == (200, {"topics": [], "count": 0})
        assert await client.ask_json("POST", "/v1/logs", [{"message": "a"}]) == (201, {"accepted": 1, "rejected": 0, "errors": []})


async def test_what_requests_hold_counts_their_lines() -> None:
    """One that finds no room is told to come again; however one ends, it gives back what it has held."""
    body = json.dumps([{"message": "m" * 1000}] * 300).encode()
    async with opened(http_bodies_bytes_max=1_000_000, http_body_bytes_max=1_000_000) as (_, client):
        for _ in range(5):
            assert (await client.ask("POST", "/v1/logs", body, JSON))[0] == 201
            assert (await client.ask("POST", "/v1/logs", body + b" " * (900_000 - len(body)), JSON))[0] == 503
            assert (await client.ask("POST", "/v1/logs", body[:-1] + b"," + body[1:], JSON))[0] == 413


async def test_the_first_hundred_bad_lines_are_shown() -> None:
    async with opened() as (_, client):
        status, taken = await client.ask_json("POST", "/v1/logs?partial=true", [{}] * 150)
        assert (status, taken["accepted"], taken["rejected"]) == (201, 0, 150)
        assert [error["line"] for error in taken["errors"]] == list(range(100))


async def test_exports_as_protobuf() -> None:
    messages = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    export = messages.ExportLogsServiceRequest()
    record = export.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value, record.time_unix_nano = "good", 1_800_000_000_000_000_001
    async with opened() as (cluster, client):
        packed = gzip.compress(export.SerializeToString())
        status, said = await client.ask("POST", "/v1/logs", packed, (*PROTOBUF, ("content-encoding", "gzip")))
        assert (status, said, client.headers[b"content-type"]) == (200, b"", b"application/x-protobuf")
        (record,) = await stored(cluster, 1)
        assert (decode_line(record.value or b"").service, record.timestamp_ns) == ("unknown", 1_800_000_000_000_000_001)


async def test_pushes_of_loki() -> None:
    push = {"streams": [{"stream": {"app": "auth", "level": "warn"}, "values": [["1800000000000000001", "slow"]]}]}
    async with opened() as (cluster, client):
        status, said = await client.ask("POST", "/loki/api/v1/push", json.dumps(push).encode(), JSON)
        assert (status, said) == (204, b"")
        (line,) = decoded(await stored(cluster, 1))
        assert (line.service, line.level, line.message, line.labels) == ("auth", "WARN", "slow", {"app": "auth", "level": "warn"})
        packed = loki_push_pb2.LokiPushRequest()
        entry = packed.streams.add(labels='{job="cron"}').entries.add(line="tick")
        entry.timestamp.seconds = 1_800_000_000
        body = bytes(pytest.importorskip("cramjam").snappy.compress_raw(packed.SerializeToString()))
        status, said = await client.ask("POST", "/loki/api/v1/push", body, PROTOBUF)
        assert (status, said) == (204, b"")
        assert {(line.service, line.message) for line in decoded(await stored(cluster, 2))} == {("auth", "slow"), ("cron", "tick")}
        for wrong, expected in ((b"\xff\xff\xff\xff\x0f", 413), (b"no snappy", 400), (body[:-3], 400)):
            status, _ = await client.ask("POST", "/loki/api/v1/push", wrong, PROTOBUF)
            assert status == expected
        for bad in (b'{"streams":3}', b'{"streams":[{"stream":{},"values":[["x","y"]]}]}'):
            status, _ = await client.ask("POST", "/loki/api/v1/push", bad, JSON)
            assert status == 400


async def test_without_a_leader_nothing_is_said_to_be_taken() -> None:
    async with opened(3, http_answer_seconds_max=3.0) as (cluster, client):
        assert (await client.ask_json("POST", "/v1/logs", [{"message": "a"}]))[0] == 201
        for name in ("n2", "n3"):
            cluster.crash(name)
        status, problem = await client.ask_json("POST", "/v1/logs", [{"message": "b"}])
        assert status in (503, 504)
        assert problem["code"] in ("NO_QUORUM", "OUTCOME_UNKNOWN", "UNAVAILABLE")
