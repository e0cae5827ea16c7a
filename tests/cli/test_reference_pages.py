"""The reference pages say what the code says."""

import importlib.util
from pathlib import Path

GENERATOR = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "generate.py"


def test_pages_are_current() -> None:
    """Written by a script, so that nobody has to remember."""
    spec = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (GENERATOR.parent / name).read_text() == text, f"run: python {GENERATOR}"
