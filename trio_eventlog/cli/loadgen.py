"""`loadgen`: log lines as four services might write them, posted to a node or a gateway."""

import argparse
import random
import sys
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
import msgspec
import trio

from trio_eventlog.cli.arguments import count, duration, milliseconds
from trio_eventlog.cli.interruption import Interruption, interruptible
from trio_eventlog.cli.output import print_json
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import progress
from trio_eventlog.errors import InvalidArgument, Unavailable
from trio_eventlog.ingest.sample_lines import SampleLines

URL = "http://localhost:8080/v1/logs"
ANSWER_BYTES_MAX = 1 << 20
RETRY_SECONDS_MAX = 60.0


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "loadgen")
    parser.add_argument("--url", default=URL, help=f"where lines are taken. Default: {URL}")
    parser.add_argument("--batch", type=count, default=10, metavar="N", help="lines in a request. Default: 10")
    parser.add_argument("--total", type=count, default=100, metavar="N", help="lines to send. Default: 100")
    parser.add_argument(
        "--delay", type=milliseconds, default=100.0, metavar="MS", help="of each worker between two requests. Default: 100"
    )
    parser.add_argument("--workers", type=count, default=1, metavar="N", help="requests at the same time. Default: 1")
    parser.add_argument("--rate", type=count, metavar="N", help="lines a second, of all workers together, at most")
    parser.add_argument("--duration", type=duration, metavar="DURATION", help="end after this, whatever --total says")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same lines for the same number. Default: 0")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=run)


@attrs.define(slots=True, eq=False)
class Sent:
    """What came of the lines.

    Attributes:
        sent: lines in requests that were answered or lost.
        seconds: how long each request took that was answered.
    """

    sent: int = 0
    accepted: int = 0
    refused: int = 0
    lost: int = 0
    statuses: dict[int, int] = attrs.field(factory=dict)
    seconds: list[float] = attrs.field(factory=list)


def run(arguments: argparse.Namespace) -> int:
    return trio.run(_run, arguments)


async def _run(arguments: argparse.Namespace) -> int:
    url = urlsplit(arguments.url)
    if url.scheme != "http" or not url.hostname:
        raise InvalidArgument(f"--url {arguments.url!r}: it is http://HOST:PORT/PATH")
    load = _Load(arguments, url)
    begun = time.monotonic()
    async with interruptible() as interruption:
        await load.run(interruption)
    _show(load.result, time.monotonic() - begun, arguments.json)
    if interruption.exit_code:
        return interruption.exit_code
    return 0 if load.result.accepted == load.result.sent else 1


class _Load:
    """Workers that share what is left to send."""

    def __init__(self, arguments: argparse.Namespace, url: SplitResult) -> None:
        self.result = Sent()
        self._arguments = arguments
        self._url = url
        self._left: int = arguments.total
        self._lines = SampleLines(random.Random(arguments.seed))
        self._next_at = 0.0

    async def run(self, interruption: Interruption) -> None:
        seconds = self._arguments.duration
        with interruption.scope, trio.move_on_after(seconds if seconds is not None else float("inf")):
            async with progress(lambda: f"{self.result.sent} of {self._arguments.total} lines", is_wanted=not self._arguments.json):
                async with trio.open_nursery() as nursery:
                    for _ in range(self._arguments.workers):
                        nursery.start_soon(self._work)

    async def _work(self) -> None:
        connection: _Connection | None = None
        try:
            while (size := min(self._arguments.batch, self._left)) > 0:
                self._left -= size
                await self._keep_to_rate(size)
                body = msgspec.json.encode(self._lines.batch(size))
                if connection is None:
                    connection = await _Connection.open(self._url)
                begun = time.monotonic()
                try:
                    status, headers, answer = await connection.post(body)
                except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
                    print(f"a request was lost: {error}", file=sys.stderr)
                    self.result.sent += size
                    self.result.lost += size
                    await connection.close()
                    connection = None
                else:
                    self.result.seconds.append(time.monotonic() - begun)
                    self._count(size, status, answer)
                    if not connection.is_open:
                        await connection.close()
                        connection = None
                    if status in (429, 503):
                        await trio.sleep(_retry_after(headers))
                if self._left > 0:
                    await trio.sleep(self._arguments.delay / 1000)
        finally:
            if connection is not None:
                await connection.close()

    async def _keep_to_rate(self, size: int) -> None:
        if self._arguments.rate:
            now = trio.current_time()
            at = max(now, self._next_at)
            self._next_at = at + size / self._arguments.rate
            await trio.sleep(at - now)

    def _count(self, size: int, status: int, answer: bytes) -> None:
        accepted = size if 200 <= status < 300 else 0
        if accepted and answer:
            accepted = int(msgspec.json.decode(answer)["accepted"])
        self.result.sent += size
        self.result.accepted += accepted
        self.result.refused += size - accepted
        self.result.statuses[status] = self.result.statuses.get(status, 0) + 1


def _retry_after(headers: Mapping[bytes, bytes]) -> float:
    text = headers.get(b"retry-after", b"1")
    return min(float(text), RETRY_SECONDS_MAX) if text.isdigit() else 1.0


class _Connection:
    """One connection to a server, for one request after the other."""

    def __init__(self, stream: trio.SocketStream, url: SplitResult) -> None:
        self._stream = stream
        self._url = url
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, url: SplitResult) -> "_Connection":
        """Raises Unavailable."""
        assert url.hostname is not None
        try:
            return cls(await trio.open_tcp_stream(url.hostname, url.port or 80), url)
        except OSError as error:
            raise Unavailable(f"nothing answers at {url.netloc}: {error}") from error

    @property
    def is_open(self) -> bool:
        return self._http.our_state is h11.IDLE

    async def post(self, body: bytes) -> tuple[int, Mapping[bytes, bytes], bytes]:
        """Status, headers and body of the answer. Raises OSError, trio.BrokenResourceError, h11.ProtocolError."""
        target = self._url.path or "/"
        if self._url.query:
            target += f"?{self._url.query}"
        headers = [("host", self._url.netloc), ("content-type", "application/json"), ("content-length", str(len(body)))]
        data = self._http.send(h11.Request(method="POST", target=target, headers=headers)) or b""
        data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)
        status, answered, answer = 0, {}, b""
        while True:
            match self._http.next_event():
                case h11.NEED_DATA:
                    self._http.receive_data(bytes(await self._stream.receive_some()))
                case h11.Response() as response:
                    status, answered = response.status_code, dict(response.headers)
                case h11.Data() as piece:
                    answer += bytes(piece.data)
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise h11.RemoteProtocolError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
                case h11.EndOfMessage():
                    break
                case h11.ConnectionClosed():
                    raise h11.RemoteProtocolError("the server has closed the connection")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return status, answered, answer

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def _show(result: Sent, seconds: float, as_json: bool) -> None:
    times = sorted(result.seconds)

    def at(part: float) -> float:
        return times[min(int(len(times) * part), len(times) - 1)] * 1000 if times else 0.0

    rate = result.accepted / seconds if seconds else 0.0
    if as_json:
        print_json(
            {
                "sent": result.sent,
                "accepted": result.accepted,
                "refused": result.refused,
                "lost": result.lost,
                "statuses": {str(status): number for status, number in sorted(result.statuses.items())},
                "seconds": round(seconds, 3),
                "lines_per_second": round(rate, 1),
                "latency_ms": {"p50": round(at(0.5), 2), "p99": round(at(0.99), 2), "max": round(at(1.0), 2)},
            }
        )
        return
    print(f"{result.sent} lines sent, {result.accepted} accepted, {result.refused} refused, {result.lost} lost")
    print(f"{rate:,.0f} lines a second; a request took {at(0.5):.1f} ms (p50), {at(0.99):.1f} ms (p99), {at(1.0):.1f} ms (max)")
    for status, number in sorted(result.statuses.items()):
        if not 200 <= status < 300:
            print(f"{number} {'request was' if number == 1 else 'requests were'} answered with {status}")
