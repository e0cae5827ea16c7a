"""Real agents put their lines into a real node: OpenTelemetry's SDK, curl."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable

import pytest
from daemons import Daemon, wait_until

pytestmark = pytest.mark.process


def stored(address: str, partition: int) -> list[dict[str, object]]:
    with urllib.request.urlopen(f"http://{address}/topics/logs/partitions/{partition}/records?limit=1000", timeout=30) as answer:
        return [json.loads(record["value"]) for record in json.load(answer)["records"]]


def all_stored(address: str) -> list[dict[str, object]]:
    """None before the first has come, which makes the topic."""
    with urllib.request.urlopen(f"http://{address}/topics", timeout=30) as answer:
        if not json.load(answer)["count"]:
            return []
    return [line for partition in range(4) for line in stored(address, partition)]


@pytest.fixture
def address(make_daemon: Callable[..., Daemon]) -> str:
    return make_daemon("n1", "--listen", "127.0.0.1:0", "--data-dir", "data").start().address


@pytest.mark.parametrize("form", ["http", "grpc"])
def test_the_sdk_of_open_telemetry(address: str, form: str) -> None:
    """Its exporters, over HTTP packed by gzip: what a program logs is there."""
    exporter = pytest.importorskip(f"opentelemetry.exporter.otlp.proto.{form}._log_exporter")
    sdk = pytest.importorskip("opentelemetry.sdk._logs")
    export = pytest.importorskip("opentelemetry.sdk._logs.export")
    resources = pytest.importorskip("opentelemetry.sdk.resources")
    api = pytest.importorskip("opentelemetry._logs")
    compression = pytest.importorskip("opentelemetry.exporter.otlp.proto.http").Compression

    provider = sdk.LoggerProvider(resource=resources.Resource.create({"service.name": "checkout"}), shutdown_on_exit=False)
    if form == "http":
        target = exporter.OTLPLogExporter(endpoint=f"http://{address}/v1/logs", compression=compression.Gzip)
    else:
        target = exporter.OTLPLogExporter(endpoint=f"http://{address}", insecure=True)
    provider.add_log_record_processor(export.BatchLogRecordProcessor(target))
    logger = provider.get_logger("payments")
    for number in range(1000):
        logger.emit(
            api.LogRecord(
                body=f"payment {number}",
                severity_number=api.SeverityNumber.ERROR if number == 7 else api.SeverityNumber.INFO,
                attributes={"amount": number, "currency": "EUR"},
            )
        )
    assert provider.force_flush()
    provider.shutdown()
    lines = all_stored(address)
    assert [line["message"] for line in lines] == [f"payment {number}" for number in range(1000)]
    assert {line["service"] for line in lines} == {"checkout"}
    assert [line["message"] for line in lines if line["level"] == "ERROR"] == ["payment 7"]
    labels = lines[7]["labels"]
    assert isinstance(labels, dict)
    assert (labels["amount"], labels["currency"], labels["otel.scope.name"]) == ("7", "EUR", "payments")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(address: str) -> None:
    line = {"service": "auth_service", "level": "INFO", "message": "user logged in", "labels": {"region": "eu"}}
    done = subprocess.run(
        ("curl", "-sS", "-H", "content-type: application/json", "-d", json.dumps([line, line]), f"http://{address}/v1/logs"),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout) == {"accepted": 2, "rejected": 0, "errors": []}
    found = wait_until(lambda: all_stored(address) or None, "lines")
    assert [(one["service"], one["message"], one["client_ip"]) for one in found] == [
        ("auth_service", "user logged in", "127.0.0.1")
    ] * 2


@pytest.mark.skipif(shutil.which("logger") is None, reason="needs logger")
@pytest.mark.parametrize("form", ["--rfc5424", "--rfc3164"])
@pytest.mark.parametrize("framing", ["--octet-count", ""])
def test_logger(address: str, form: str, framing: str) -> None:
    """Over TCP, to the one port."""
    host, port = address.split(":")
    done = subprocess.run(
        (
            *(
                "logger",
                "--tcp",
                "--server",
                host,
                "--port",
                port,
                form,
                "--tag",
                "shop",
                "--priority",
                "local0.err",
                "--skip-empty",
            ),
            *([framing] if framing else []),
        ),
        input=b"first line\nsecond line\n",
        check=False,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    lines = wait_until(lambda: found if len(found := all_stored(address)) == 2 else None, "lines")
    assert [(line["service"], line["level"], line["message"]) for line in lines] == [
        ("shop", "ERROR", "first line"),
        ("shop", "ERROR", "second line"),
    ]
    labels = lines[0]["labels"]
    assert isinstance(labels, dict)
    assert labels["facility"] == "local0"
