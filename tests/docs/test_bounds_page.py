"""The page of bounds names every bound, with its value."""

from pathlib import Path

from trio_eventlog import bounds

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "bounds.md"


def test_every_bound_is_on_the_page() -> None:
    """As a power of two, with one taken off where it is inclusive of all ones; or in full when it is none."""
    text = PAGE.read_text()
    for name, value in vars(bounds).items():
        if isinstance(value, int):
            if value & (value + 1) == 0:
                shown = f"2^{value.bit_length()} - 1"
            else:
                shown = f"2^{value.bit_length() - 1}" if value & (value - 1) == 0 else f"{value:,}"
            assert f"`{name}`" in text, name
            assert shown in text[text.index(f"`{name}`") :].split("|")[0], (name, shown)
