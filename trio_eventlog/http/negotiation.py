"""Media types: what a request says that it is, and what it wants to have."""

from trio_eventlog.http.problems import HttpProblem

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
SSE_TYPE = "text/event-stream"
TEXT_TYPE = "text/plain"
HTML_TYPE = "text/html"

RANGES_MAX = 64
"""Media ranges of an `Accept` that are looked at."""


def media_type(value: str) -> str:
    """Of a `Content-Type`, without parameters, in lower case."""
    return value.partition(";")[0].strip().lower()


def chosen_type(accept: str, *offered: str) -> str | None:
    """The first of `offered` that has the highest quality in `accept`; None: none is wanted. Without an `Accept`: the first."""
    if not accept.strip():
        return offered[0]
    ranges = [_media_range(part) for part in accept.split(",")[:RANGES_MAX]]
    qualities = [(max((quality for quality, _ in _matching(ranges, offer)), default=0.0), offer) for offer in offered]
    best = max(qualities, key=lambda item: item[0])
    return best[1] if best[0] > 0 else None


def check_accepted(accept: str, *offered: str) -> str:
    """As `chosen_type`. Raises HttpProblem: 406."""
    if (chosen := chosen_type(accept, *offered)) is None:
        raise HttpProblem(406, f"this answer is {' or '.join(offered)}, and accept has none of them")
    return chosen


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = text.split(";")
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                quality = min(max(float(value), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return name.strip().lower(), quality


def _matching(ranges: list[tuple[str, float]], offer: str) -> list[tuple[float, str]]:
    """The most exact ranges that have `offer`, with their qualities."""
    for wanted in (offer, offer.partition("/")[0] + "/*", "*/*"):
        if found := [(quality, name) for name, quality in ranges if name == wanted]:
            return found
    return []
