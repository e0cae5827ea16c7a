"""The load generator: its lines, and what it says of what came of them."""

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from trio_eventlog.cli import make_parser
from trio_eventlog.ingest.sample_lines import SERVICES, SampleLines


def test_lines_are_those_of_four_services() -> None:
    assert list(SERVICES) == ["focus_allocator", "event_creator", "auth_service", "notification_service"]
    assert len({message for messages in SERVICES.values() for message in messages}) >= 90
    lines = SampleLines(random.Random(1)).batch(5000)
    assert lines == SampleLines(random.Random(1)).batch(5000)
    levels = Counter(str(line["level"]) for line in lines)
    assert levels.most_common(1)[0][0] == "INFO"
    assert set(levels) == {"DEBUG", "INFO", "WARN", "ERROR"}
    known = {service: {re.sub(r"\d+", "{n}", text) for text in messages} for service, messages in SERVICES.items()}
    assert all(re.sub(r"\d+", "{n}", str(line["message"])) in known[str(line["service"])] for line in lines)
    assert any("labels" in line for line in lines)
    assert any("labels" not in line for line in lines)


class Server:
    """Answers with these statuses, one after the other, then 201; None closes the connection instead."""

    def __init__(self) -> None:
        self.statuses: list[int | None] = []
        self.batches: list[list[Any]] = []
        server = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                lines = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.batches.append(lines)
                status = server.statuses.pop(0) if server.statuses else 201
                if status is None:
                    self.close_connection = True
                    return
                body = json.dumps({"accepted": len(lines)}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.send_header("retry-after", "0")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1/logs"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def run(*arguments: str) -> int:
    parsed = make_parser().parse_args(["loadgen", *arguments])
    code: int = parsed.run(parsed)
    return code


def test_the_four_flags(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--url", server.url, "--batch", "10", "--total", "25", "--delay", "0") == 0
    assert [len(batch) for batch in server.batches] == [10, 10, 5]
    assert capsys.readouterr().out.startswith("25 lines sent, 25 accepted, 0 refused, 0 lost\n")


def test_their_defaults() -> None:
    parsed = make_parser().parse_args(["loadgen"])
    assert (parsed.url, parsed.batch, parsed.total, parsed.delay) == ("http://localhost:8080/v1/logs", 10, 100, 100)


def test_workers_share_the_total(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--url", server.url, "--batch", "7", "--total", "100", "--delay", "0", "--workers", "4", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["sent"], said["accepted"], said["statuses"]) == (100, 100, {"201": 15})
    assert sum(map(len, server.batches)) == 100
    assert 0 < said["latency_ms"]["p50"] <= said["latency_ms"]["p99"] <= said["latency_ms"]["max"]


def test_what_was_refused_and_what_was_lost_are_told_apart(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.statuses = [429, None, 400]
    assert run("--url", server.url, "--batch", "10", "--total", "50", "--delay", "0") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("50 lines sent, 20 accepted, 20 refused, 10 lost\n")
    assert "1 request was answered with 429" in printed.out
    assert "a request was lost" in printed.err


def test_it_ends_after_its_duration(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--url", server.url, "--total", "1000000", "--rate", "100", "--duration", "0.3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sent"] <= 50
