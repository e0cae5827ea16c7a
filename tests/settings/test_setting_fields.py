"""How values are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.setting_fields import format_address, parse_address, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("65536", 65536), ("64KiB", 65536), ("64 kib", 65536), ("3MB", 3_000_000), ("2GiB", 2 << 30), ("7B", 7)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    """A number with or without a unit, in any case."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5MiB", "64Kib/s", "0x10", "\N{ARABIC-INDIC DIGIT FOUR}KiB"])
def test_no_sizes(text: str) -> None:
    """What is no whole number of a known unit is refused."""
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("500ms", 0.5), ("2s", 2.0), ("5m", 300.0), ("1h", 3600.0), ("7d", 604800.0)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number with or without a unit; seconds when without."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "nan", "inf", "1 week", "\N{ARABIC-INDIC DIGIT FOUR}s"])
def test_no_durations(text: str) -> None:
    """What is no number of a known unit is refused."""
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        ":8400",
        "host:",
        "host:x",
        "host:65536",
        "::1:8400",
        "host:-1",
        "host:\N{ARABIC-INDIC DIGIT FOUR}",
        "a b:1",
        "a..b:1",
        "a/b:1",
        "x\ny:1",
    ],
)
def test_no_addresses(text: str) -> None:
    """Host and port are both needed."""
    with pytest.raises(ValueError):
        parse_address(text)


@given(st.sampled_from(["localhost", "10.0.0.1", "::1", "fe80::1"]), st.integers(0, 65535))
def test_addresses_come_back(host: str, port: int) -> None:
    """`parse_address` undoes `format_address`."""
    assert parse_address(format_address(host, port)) == (host, port)
