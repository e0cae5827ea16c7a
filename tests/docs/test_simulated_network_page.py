"""The example of docs/simulated-network.md is run as a reader would run it, and the page names everything there is."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from trio_eventlog.testing import SimNetwork, SimNetworkSettings, Weather

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "simulated-network.md").read_text()
GUARD = "if request_id not in answers:"


def files() -> dict[str, str]:
    """Blocks of Python by the name in their first line."""
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.count("```python"), "every block is a file"
    return dict(blocks)


def run_example(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "trio_mode=true", "-W", "error", *arguments, "."],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_example_passes(tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).write_text(text)
    code, output = run_example(tmp_path)
    assert code == 0, output
    assert "30 passed" in output


def test_the_example_notices_the_mistake_that_the_page_names(tmp_path: Path) -> None:
    assert f"`{GUARD}`" in PAGE
    for name, text in files().items():
        (tmp_path / name).write_text(text.replace(GUARD, "if True:"))
    code, output = run_example(tmp_path, "-k", "answer_is_lost")
    assert code == 1, output
    assert "10 failed" in output


@pytest.mark.parametrize(
    "names",
    [
        [name for name, _ in inspect.getmembers(SimNetwork) if not name.startswith("_")],
        [field.name for field in attrs.fields(SimNetworkSettings)],
        [field.name for field in attrs.fields(Weather)],
    ],
    ids=["network", "settings", "weather"],
)
def test_everything_is_on_the_page(names: list[str]) -> None:
    assert names
    missing = [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", PAGE)]
    assert not missing
