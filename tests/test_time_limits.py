"""A test that waits for what never comes fails: each has a limit of real time, whatever it hangs in."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

HANGS = {
    "a task that waits for ever": "async def test_hangs():\n    await trio.sleep_forever()\n",
    "tasks that spin": "async def test_hangs():\n    while True:\n        await trio.lowlevel.checkpoint()\n",
    "virtual time without an end": (
        "async def test_hangs(autojump_clock):\n    while True:\n        await trio.sleep(1)\n        HOOK()\n"
    ),
    "no event loop at all": "def test_hangs():\n    while True:\n        pass\n",
}


def test_the_suite_has_a_limit() -> None:
    """The one that holds for each test without a mark of its own."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert 0 < options["timeout"] <= 600


@pytest.mark.parametrize("hang", HANGS)
def test_what_hangs_fails_and_shows_where(hang: str, tmp_path: Path) -> None:
    """With the method that the suite uses, in each way in which a test has hung or could."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    (tmp_path / "test_hang.py").write_text("import trio\n\n\ndef HOOK():\n    pass\n\n\n" + HANGS[hang])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "trio_mode=true"]
    command += ["--timeout", "1", "--timeout-method", options["timeout_method"], "test_hang.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "Timeout" in done.stdout
    assert "test_hang.py" in done.stdout
