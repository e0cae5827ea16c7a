"""Plain-text scripts: the published ones of etcd-io/raft where they stand beside the checkout, and our own."""

import os
from pathlib import Path

import pytest
from script_adapter import run_script, scripts_in

OWN = Path(__file__).parent / "scripts"
PUBLISHED_VARIABLE = "TRIO_EVENTLOG_RAFT_SCRIPTS"
REWRITE = bool(os.environ.get("TRIO_EVENTLOG_REWRITE_SCRIPTS"))
"""Set it to write down what came out instead of comparing; then review the diff. Only our own scripts are ever rewritten."""


def published_folder() -> Path | None:
    """`shared/raft-scripts` beside this checkout or beside a folder above it, or what the variable names."""
    named = os.environ.get(PUBLISHED_VARIABLE)
    if named:
        return Path(named)
    for folder in Path(__file__).resolve().parents:
        candidate = folder / "shared" / "raft-scripts"
        if candidate.is_dir():
            return candidate
    return None


PUBLISHED = published_folder()
PUBLISHED_SCRIPTS = list(scripts_in(PUBLISHED)) if PUBLISHED else []


@pytest.mark.skipif(
    not PUBLISHED_SCRIPTS,
    reason=f"etcd-io/raft's published scripts are not in shared/raft-scripts above the checkout, nor in {PUBLISHED_VARIABLE}",
)
@pytest.mark.parametrize("path", PUBLISHED_SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_script(path: Path) -> None:
    """Every block gives the published output, etcd's log lines apart."""
    run_script(path)


@pytest.mark.parametrize("path", sorted(OWN.glob("*.txt")), ids=lambda path: path.stem)
def test_own_script(path: Path) -> None:
    """Every block gives the output written down in the script."""
    run_script(path, REWRITE)
