"""Ids as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.ids import format_id, parse_id


@given(st.integers(0, (1 << 64) - 1))
def test_there_and_back(value: int) -> None:
    assert parse_id(format_id(value)) == value
    assert parse_id(f"{value:X}") == value


@pytest.mark.parametrize("text", ["", "0x1", "+1", "-1", "1_0", " 1", "1\n", "g", "0" * 17, "\N{ARABIC-INDIC DIGIT FOUR}"])
def test_what_is_no_id_is_refused(text: str) -> None:
    """`int` would take most of these."""
    with pytest.raises(ValueError, match="1 to 16 hexadecimal digits"):
        parse_id(text)
