"""Stories run in virtual time, scheduled by a fixed seed: each of them happens in the same way every time."""

import inspect
from pathlib import Path

import pytest

from trio_eventlog.testing.determinism import run_virtually

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=run_virtually))
