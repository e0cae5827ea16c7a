"""The error contract as it was published: a golden file, since a table compared with itself agrees with whatever it says.

A line that is there never changes: clients in other languages act on it. New classes add lines (`python -m
tests.rpc.test_error_contract` prints them).
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rpc.test_status import CLASSES, EXAMPLES
from trio_eventlog.errors import EventLogError
from trio_eventlog.rpc.status import status_of

GOLDEN = Path(__file__).parent / "golden" / "errors.json"
RETRIED_BY_FOREIGN_CLIENTS = "UNAVAILABLE"
"""gRPC clients repeat calls with this status by themselves, when they are set to, and the proxies between them."""


def contract_of(cls: type[EventLogError]) -> dict[str, Any]:
    status = status_of(cls("text", **EXAMPLES.get(cls, {})))
    return {
        "class": cls.__name__,
        "status": status.code.name,
        "retryable": cls.retryable,
        "trailers": dict(sorted(status.details.items())),
    }


def golden() -> dict[str, Any]:
    lines: dict[str, Any] = json.loads(GOLDEN.read_text())
    return lines


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_is_what_was_published(cls: type[EventLogError]) -> None:
    """Code, class, gRPC status, whether to try again, and the trailers with their form."""
    assert golden()[cls.code] == contract_of(cls)


def test_nothing_published_is_gone() -> None:
    assert set(golden()) == {cls.code for cls in CLASSES}


@pytest.mark.parametrize("code", ["OUTCOME_UNKNOWN", "NOT_LEADER", "DUPLICATE_OUT_OF_WINDOW", "OUT_OF_ORDER_SEQUENCE"])
def test_what_must_not_be_repeated_blindly_is_not_repeated_by_foreign_clients(code: str) -> None:
    """A batch whose outcome is unknown would be doubled."""
    assert golden()[code]["status"] != RETRIED_BY_FOREIGN_CLIENTS


if __name__ == "__main__":
    print(json.dumps({cls.code: contract_of(cls) for cls in sorted(CLASSES, key=lambda cls: cls.code)}, indent=1))
