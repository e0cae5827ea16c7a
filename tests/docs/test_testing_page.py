"""The code of docs/testing-your-application.md is run, as the test suite of an application that has only installed the package."""

import difflib
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing-your-application.md").read_text()
EXAMPLE = ROOT / "docs" / "example"
SEEDS_TO_FIND_IT = 12
SEEDS_TO_PASS = 50


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The blocks that begin with the name of a file."""
    named = [re.match(r"# (\S+\.py)\n", block) for block in blocks("python")]
    assert all(named), "a block of Python that is not run"
    return {match[1]: match.string[match.end() :] for match in named if match is not None}


def without_docstring(text: str) -> str:
    return re.sub(r'\A""".*?"""\n\n', "", text, flags=re.DOTALL)


def run(directory: Path, bank: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest in a directory that has the page's tests and one of the banks."""
    for name, text in files().items():
        (directory / name).write_text(text)
    (directory / "bank.py").write_text((EXAMPLE / bank / "bank.py").read_text())
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    is_installed = any(point.value == "pytest_trio_eventlog" for point in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "pytest_trio_eventlog"]
    command = [sys.executable, "-m", "pytest", *plugin, "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_the_page_shows_the_example() -> None:
    """The bank and its test are the files of docs/example, and the difference is the one between the two banks."""
    shown = files()
    careless, mended = ((EXAMPLE / which / "bank.py").read_text() for which in ("careless", "mended"))
    assert shown["bank.py"] == without_docstring(careless)
    assert shown["test_bank.py"] == (EXAMPLE / "test_bank.py").read_text()
    changes = list(difflib.unified_diff(careless.splitlines(), mended.splitlines(), n=0, lineterm=""))[2:]
    assert [line for line in changes if not line.startswith("@@")] == blocks("diff")[0].splitlines()
    lines = [line for line in shown["test_bank.py"].splitlines() if line]
    assert len(lines) == 10


def test_the_bug_is_found_and_its_command_finds_it_again(tmp_path: Path) -> None:
    """Some of a dozen seeds book twice; the report says which, what was done, and how to see it again: in the same trace."""
    found = run(tmp_path, "careless", "test_bank.py", "--eventlog-seeds", str(SEEDS_TO_FIND_IT), "-vv")
    assert found.returncode == 1, found.stdout
    assert re.search(r"assert {'ann': -10[2-9], 'bob': 10[2-9]} == {'ann': -101, 'bob': 101}", found.stdout), found.stdout
    assert re.search(r"^\d+\.\d+ isolate n\d$", found.stdout, re.MULTILINE)
    again = re.search(r"^    pytest (.*)$", found.stdout, re.MULTILINE)
    digest = re.search(r"the trace, which is (\w+)", found.stdout)
    assert again is not None
    assert digest is not None
    repeated = run(tmp_path, "careless", *shlex.split(again[1]), "-vv")
    assert "1 failed" in repeated.stdout
    assert digest[1] in repeated.stdout


def test_the_mended_bank_passes(tmp_path: Path) -> None:
    """With many seeds."""
    assert f"{SEEDS_TO_PASS} passed" in run(tmp_path, "mended", "test_bank.py", "--eventlog-seeds", str(SEEDS_TO_PASS)).stdout


def test_everything_else_on_the_page_runs(tmp_path: Path) -> None:
    """With the mended bank: every other test; and the program, by itself."""
    others = sorted(name for name in files() if name.startswith("test_") and name != "test_bank.py")
    assert len(others) == 4
    ran = run(tmp_path, "mended", *others)
    assert ran.returncode == 0, ran.stdout
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", PAGE))
def test_links_lead_somewhere(link: str) -> None:
    """To a file or directory of the documents."""
    assert (ROOT / "docs" / link).exists()
