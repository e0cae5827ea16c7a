"""What a follower reports of a snapshot that it fetches: golden bytes, round trips, any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.catch_up import CatchUpReport, CatchUpState, decode_catch_up_report, encode_catch_up_report
from trio_eventlog.errors import CodecError

REPORT = CatchUpReport(index=0x1234, term=7, state=CatchUpState.UNDER_WAY, received_bytes=5 << 20, total_bytes=1 << 31)
numbers = st.integers(0, (1 << 64) - 1)


def test_golden_bytes() -> None:
    assert encode_catch_up_report(REPORT).hex(" ", 8) == (
        "3412000000000000 0700000000000000 0000500000000000 0000008000000000 0100000000000000"
    )


@given(numbers, numbers, numbers, numbers, st.sampled_from(CatchUpState))
def test_a_report_and_back(index: int, term: int, one: int, other: int, state: CatchUpState) -> None:
    (received, total) = sorted((one, other))
    report = CatchUpReport(index=index, term=term, state=state, received_bytes=received, total_bytes=total)
    assert decode_catch_up_report(encode_catch_up_report(report)) == report


@pytest.mark.parametrize(("position", "value"), [(32, 0), (32, 3), (33, 1), (34, 1), (36, 1), (23, 1)])
def test_what_cannot_be_meant_is_refused(position: int, value: int) -> None:
    body = bytearray(encode_catch_up_report(REPORT))
    body[position] = value
    with pytest.raises(CodecError):
        decode_catch_up_report(body)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_are_refused(data: bytes) -> None:
    try:
        report = decode_catch_up_report(data)
    except CodecError:
        return
    assert encode_catch_up_report(report) == data
