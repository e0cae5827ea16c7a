"""The programs of docs/programs.md are run, one after the other, against one node: each prints what is shown below it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from daemons import ROOT, Daemon, clean_environment

from trio_eventlog import errors

pytestmark = pytest.mark.process

PAGE = (ROOT / "docs" / "programs.md").read_text()
ADDRESS = "127.0.0.1:8400"
PROGRAMS: dict[str, tuple[str, str]] = {
    match[1]: (match[2], match[3])
    for match in re.finditer(r"^```python\n# (\w+\.py)\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a node for all programs, as in the terminal beside."""
    home = tmp_path_factory.mktemp("programs")
    with closing(Daemon(home, "--listen", "127.0.0.1:0")) as daemon:
        yield daemon.start().address


def test_every_program_shows_what_it_prints() -> None:
    """None is only read."""
    assert len(PROGRAMS) == PAGE.count("```python") > 6


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_print_what_is_shown(name: str, address: str, tmp_path: Path) -> None:
    """In order, in an empty directory each."""
    program, shown = PROGRAMS[name]
    (tmp_path / name).write_text(program.replace(ADDRESS, address))
    done = subprocess.run(
        [sys.executable, "-W", "error", name], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_a_projection_goes_on_where_it_was(address: str, tmp_path: Path) -> None:
    """A second run counts each payment once: those of the first run are not added again."""
    program, _ = PROGRAMS["totals.py"]
    topic = program.replace(ADDRESS, address).replace('"payments"', '"payments twice"')
    (tmp_path / "totals.py").write_text(topic.replace("payments twice", "payments-twice"))
    command = [sys.executable, "totals.py"]
    outputs = [
        subprocess.run(
            command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["[('ann', 250), ('bob', 100)]\n", "[('ann', 500), ('bob', 200)]\n"]


def test_every_error_has_its_advice() -> None:
    """Each class that a program can meet stands in the table of what to do."""
    table = PAGE[PAGE.index("## Errors") : PAGE.index("# careful.py")]
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.EventLogError)}
    inside = {"EventLogError", "CallUnsent", "CodecError", "NewerRelease", "DataDirectoryError"}
    assert {name for name in classes - inside if f"`{name}`" not in table} == set()


@pytest.mark.slow
def test_programs_are_typed(tmp_path: Path) -> None:
    """mypy --strict finds nothing to say about them."""
    pytest.importorskip("mypy")
    for name, (program, _) in PROGRAMS.items():
        (tmp_path / name).write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", *PROGRAMS]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
