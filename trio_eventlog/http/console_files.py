"""The console: files of the package, read once and served from memory, under a policy that lets in nothing else."""

from functools import cache
from pathlib import Path

from starlette.responses import Response

from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.problems import HttpProblem

HOME = Path(__file__).resolve().parent / "console"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@cache
def console_files() -> dict[str, bytes]:
    """The files that are served, by name."""
    return {path.name: path.read_bytes() for path in sorted(HOME.iterdir()) if path.suffix in TYPES}


async def console(call: Call) -> Response:
    return _file(call, "index.html")


async def console_file(call: Call) -> Response:
    return _file(call, call.path("name"))


def _file(call: Call, name: str) -> Response:
    data = console_files().get(name)
    if data is None:
        raise HttpProblem(404, f"the console has no file {name[:100]!r}")
    return call.tagged(data, TYPES[Path(name).suffix], headers=SECURITY)


OPERATIONS = (
    Operation(
        method="GET",
        path="/",
        handle=console,
        summary="The console, for people.",
        tag="Console",
        answer_types={"text/html": "A page."},
    ),
    Operation(
        method="GET",
        path="/console/{name}",
        handle=console_file,
        summary="A file of the console.",
        tag="Console",
        answer_types={"text/javascript": "A module.", "text/css": "Styles.", "text/html": "A page.", "image/svg+xml": "A picture."},
        problems=(404,),
    ),
)
