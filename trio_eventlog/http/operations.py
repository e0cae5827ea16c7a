"""What the HTTP interface offers, one `Operation` each: the route, and what `/openapi.json` says of it, from one declaration.

To add routes, write `async def name(call: Call) -> Response` for each, and a tuple of `Operation`s; add the tuple to `OPERATIONS`
in `http/app.py`. Bodies, parameters and answers are msgspec types: they validate, and they are the schema.
"""

import functools
import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import attrs
import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from trio_eventlog.budgets import Allowance
from trio_eventlog.http.bodies import Body
from trio_eventlog.http.negotiation import JSON_TYPE, check_accepted, media_type
from trio_eventlog.http.node_face import NodeFace
from trio_eventlog.http.problems import HttpProblem, invalid_field
from trio_eventlog.http.settings import HttpSettings
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.values import ANONYMOUS, Caller
from trio_eventlog.texts import check_name

T = TypeVar("T")

TENANT_HEADER = "x-scope-orgid"

_AT = re.compile(r" - at `(key in )?\$?([^`]*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_UNKNOWN = re.compile(r"contains unknown field `([^`]*)`")


@attrs.frozen(slots=True)
class Shared:
    """What all requests of a node share.

    Attributes:
        bodies: bytes of bodies that they hold together.
        tails: places for live tails.
    """

    bodies: Allowance
    tails: Allowance


class Call:
    """One request, for the function that answers it.

    Attributes:
        request: Starlette's.
        node: what answers.
        event_log: the log, as everybody uses it.
        caller: for whom: pass it to every call of `event_log`. Its deadline is that of the request.
        settings: limits of the interface.
        tails: places for live tails.
        body: of the request; `json` reads and checks it.
    """

    def __init__(self, request: Request, node: NodeFace, settings: HttpSettings, shared: Shared) -> None:
        self.request = request
        self.node = node
        self.event_log: EventLog = node.event_log
        self.settings = settings
        self.tails = shared.tails
        self.body = Body(request, settings, shared.bodies)
        info = request.scope["state"]["connection"]
        self.caller = Caller(
            tenant=_tenant(request),
            address=info.remote_address,
            deadline=trio.current_time() + settings.http_answer_seconds_max,
        )

    @property
    def lasting_caller(self) -> Caller:
        """The caller without a deadline: for streams."""
        return attrs.evolve(self.caller, deadline=math.inf)

    def path(self, name: str) -> Any:
        """A parameter of the path: a text, or an int where the path says so."""
        return self.request.path_params[name]

    def query(self, cls: type[T], but_for: str = "") -> T:
        """The parameters behind the question mark, as a Struct. Raises HttpProblem: 400 with the parameter's name.

        Args:
            but_for: how those begin that are left out: see `query_beginning_with`. "": none.
        """
        pairs = self.request.query_params.multi_items()
        if but_for:
            pairs = [(name, value) for name, value in pairs if not name.startswith(but_for)]
        values = dict(pairs)
        if len(values) != len(pairs):
            raise HttpProblem(400, "a parameter of the query stands there twice")
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise _invalid(error, "?") from error

    def query_beginning_with(self, front: str) -> tuple[tuple[str, str], ...]:
        """The parameters whose names begin so, without that beginning. Raises HttpProblem: 400."""
        pairs = self.request.query_params.multi_items()
        found = [(name.removeprefix(front), value) for name, value in pairs if name.startswith(front)]
        if len(dict(found)) != len(found):
            raise HttpProblem(400, "a parameter of the query stands there twice")
        return tuple(found)

    async def json(self, cls: type[T]) -> T:
        """The body, decoded and checked. Raises HttpProblem: 400 with a pointer to the field, 411, 413, 415."""
        self.check_content_type(JSON_TYPE)
        data = await self.body.read_all()
        try:
            value: T = _decoder(cls).decode(data)  # type: ignore[arg-type]  # Types can be hashed.
            return value
        except msgspec.ValidationError as error:
            raise _invalid(error, "#/") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpProblem(400, f"the body is no JSON: {error}") from error

    def check_content_type(self, *offered: str) -> str:
        """The media type of the body. Raises HttpProblem: 415."""
        given = media_type(self.request.headers.get("content-type", ""))
        if given in offered or (JSON_TYPE in offered and given.startswith("application/") and given.endswith("+json")):
            return given
        what = f"content-type {given[:100]!r}" if given else "no content-type"
        raise HttpProblem(415, f"{what}: send {' or '.join(offered)}", headers=[("accept", ", ".join(offered))])

    def answer(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """`value` as JSON. A GET gets an ETag, and 304 when the client has that already."""
        check_accepted(self.request.headers.get("accept", ""), JSON_TYPE)
        return self.tagged(msgspec.json.encode(value), JSON_TYPE, status, headers)

    def tagged(self, body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """`body` as it is, with an ETag of its content when it answers a GET."""
        answered = dict(headers or {})
        if self.request.method in ("GET", "HEAD") and status == 200:
            answered["etag"] = tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
            answered.setdefault("cache-control", "no-cache")
            known = self.request.headers.get("if-none-match", "")
            if known.strip() == "*" or tag in (one.strip() for one in known.split(",")):
                return Response(status_code=304, headers=answered)
        return Response(body, status, answered, content_type)


Handler = Callable[[Call], Awaitable[Response]]


@attrs.frozen(slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        path: as Starlette has it: "/topics/{topic}/partitions/{partition:int}/records".
        handle: answers.
        summary: one line.
        description: what the summary leaves open.
        tag: heading in the documentation.
        query: a Struct of the parameters; their docs are its fields' `Meta`.
        body: type of a JSON body.
        body_types: other media types that the body may have, with a description each.
        answer: type of the JSON answer.
        answer_types: other media types that the answer may have, with a description each.
        status: of success.
        statuses: further statuses without an error, with a description each.
        problems: statuses of the errors that it may answer beside those that every operation may.
        headers: headers of requests, with a description each.
        brings_records: it is counted in `ingest_requests_total`.
    """

    method: str
    path: str
    handle: Handler
    summary: str
    description: str = ""
    tag: str
    query: type[msgspec.Struct] | None = None
    body: Any = None
    body_types: Mapping[str, str] = {}
    answer: Any = None
    answer_types: Mapping[str, str] = {}
    status: int = 200
    statuses: Mapping[int, str] = {}
    problems: tuple[int, ...] = ()
    headers: Mapping[str, str] = {}
    brings_records: bool = False


@functools.lru_cache(maxsize=256)
def _decoder(cls: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(cls)


def _invalid(error: msgspec.ValidationError, front: str) -> HttpProblem:
    """The problem of a value that does not fit, with a pointer to the field."""
    text = str(error)
    found = _AT.search(text)
    path = found[2] if found else ""
    detail = text[: found.start()] if found else text
    parts = [part for part in re.split(r"[.\[\]]+", path) if part]
    for pattern in (_MISSING, _UNKNOWN):
        if field := pattern.search(detail):
            parts.append(field[1])
    return invalid_field(detail, front + "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts))


def _tenant(request: Request) -> str:
    tenant = request.headers.get(TENANT_HEADER, ANONYMOUS)
    try:
        check_name(tenant)
    except ValueError as error:
        raise HttpProblem(400, f"{TENANT_HEADER}: {error}") from error
    if not tenant:
        raise HttpProblem(400, f"{TENANT_HEADER}: it names no tenant; leave it out for {ANONYMOUS}")
    return tenant
