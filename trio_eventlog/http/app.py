"""The application: routes of all operations, and errors as problems. Loaded by the first request that is no probe."""

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router

from trio_eventlog.errors import EventLogError, Unavailable
from trio_eventlog.http import console_files, event_operations, ingest_operations, log_operations, node_operations, topic_operations
from trio_eventlog.http.cross_origin import CrossOrigin
from trio_eventlog.http.exchange import Application, Message, Receive, Send
from trio_eventlog.http.heads import Scope
from trio_eventlog.http.node_face import NodeFace
from trio_eventlog.http.openapi import openapi_operation
from trio_eventlog.http.operations import Call, Operation, Shared
from trio_eventlog.http.problems import HttpProblem, problem_of
from trio_eventlog.http.settings import HttpSettings

OPERATIONS: tuple[Operation, ...] = (
    *node_operations.OPERATIONS,
    *topic_operations.OPERATIONS,
    *event_operations.OPERATIONS,
    *ingest_operations.OPERATIONS,
    *log_operations.OPERATIONS,
    *console_files.OPERATIONS,
)
"""Everything that is offered; `/openapi.json` describes it."""


GRACE_SECONDS = 0.5
"""Between the deadline of a call and the end of its request."""


def make_application(node: NodeFace, settings: HttpSettings, shared: Shared) -> Application:
    """The ASGI application of one node."""
    operations = (*OPERATIONS, openapi_operation(OPERATIONS))
    methods: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        methods.setdefault(operation.path, {})[operation.method] = operation
    routes = [
        Route(path, _Endpoint(by_method, node, settings, shared), methods=[*by_method]) for path, by_method in methods.items()
    ]
    return CrossOrigin(_Application(routes), settings.http_cors_origins)


class _Endpoint:
    """One path: its operations by method."""

    def __init__(self, operations: dict[str, Operation], node: NodeFace, settings: HttpSettings, shared: Shared) -> None:
        self._operations = operations
        self._node = node
        self._settings = settings
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get(scope["method"]) or self._operations["GET"]  # HEAD
        if operation.brings_records:
            scope["state"]["is_upload"] = True
        call = Call(Request(scope, receive, send), self._node, self._settings, self._shared)
        response: Response | None = None
        try:
            # The log itself ends a call at its deadline, and knows what that means; this is for what has no deadline.
            with trio.CancelScope(deadline=call.caller.deadline + GRACE_SECONDS):
                response = await operation.handle(call)
            if response is None:
                raise problem_of(Unavailable(f"no answer in {self._settings.http_answer_seconds_max:g} s: try again"))
            await response(scope, receive, send)
        finally:
            call.body.forget()


class _Application:
    """Finds the route of a request; what has none, or another method, is a problem."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes
        self._router = Router(routes, redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # With it, Starlette raises what it would otherwise answer in plain text.
        if scope["method"] == "OPTIONS":
            await self._answer_options(scope, receive, send)
            return
        try:
            await self._router(scope, receive, send)
        except EventLogError as error:
            raise problem_of(error) from error
        except HTTPException as error:
            if error.status_code != 405:
                raise HttpProblem(error.status_code, error.detail) from error
            allow = self._allowed(scope)
            raise HttpProblem(405, f"{scope['method']} is not allowed here: {allow}", headers=[("allow", allow)]) from error

    async def _answer_options(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (allow := self._allowed(scope)):
            await _not_found(scope, receive, send)
        await trio.lowlevel.checkpoint()
        headers = [(b"allow", allow.encode())]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        message: Message = {"type": "http.response.body", "body": b""}
        await send(message)

    def _allowed(self, scope: Scope) -> str:
        """The methods of the path; "" when there is no such path."""
        if scope["path"] == "*":
            return "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
        found: list[str] = []
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                found += sorted(route.methods or ())
        return ", ".join([*dict.fromkeys(found), "OPTIONS"]) if found else ""


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise HttpProblem(404, f"nothing at {scope['path'][:200]}: GET /openapi.json says what there is")
