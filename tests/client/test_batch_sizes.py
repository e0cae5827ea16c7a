"""What a producer counts for a record against what the record takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_eventlog.codec.batch import encode_records
from trio_eventlog.records import Header, Record
from trio_eventlog.service.producer import encoded_bytes_max

NOW_NS = 2**63 - 1
SIZES = st.integers(0, 200) | st.sampled_from([127, 128, 129, 16_383, 16_384, 16_385, 2**21 - 1, 2**21])
HEADERS = st.lists(st.builds(lambda key, size: Header(key=key, value=b"v" * size), st.text(max_size=40), SIZES), max_size=5)


@settings(max_examples=500)
@given(SIZES, SIZES, HEADERS)
def test_the_count_is_never_below_the_size_and_little_above(value_bytes: int, key_bytes: int, headers: list[Header]) -> None:
    """Below, a batch would be refused by the node; far above, what fits would be refused here."""
    record = Record(value=b"v" * value_bytes, key=b"k" * key_bytes, headers=tuple(headers))
    size_bytes = len(encode_records([record], now_ns=NOW_NS).payload)
    assert size_bytes <= encoded_bytes_max(record) <= size_bytes + 30 + 16 * len(headers)


@pytest.mark.parametrize("key", ["k" * 100, "\u00e4" * 100, "\U0001f600" * 100])
def test_a_name_of_a_header_counts_as_it_is_encoded(key: str) -> None:
    record = Record(value=b"", headers=(Header(key=key, value=b""),))
    assert encoded_bytes_max(record) <= len(key.encode()) + 60
