"""Chains of lives: what continues what, and the layouts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.lives import (
    LIVES_MAX,
    Claim,
    Extent,
    Life,
    Lives,
    LivesFile,
    Relation,
    decode_claim,
    decode_lives,
    decode_lives_file,
    encode_claim,
    encode_lives,
    encode_lives_file,
    first_life,
    relate,
)
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId

GOLDEN = Path(__file__).parent / "golden"
MIRRORED = {Relation.CONTINUES: Relation.BEHIND, Relation.BEHIND: Relation.CONTINUES}

steps = st.lists(st.booleans(), max_size=12)
"""What happens to a directory: True is a start, False a moment of a life."""


def grown(lives: Lives, steps: list[bool], nonce: int) -> Lives:
    """Each branch of a tree of copies draws other nonces."""
    for number, is_start in enumerate(steps):
        lives = lives.next_life(1000 * nonce + number) if is_start else lives.next_moment()
    return lives


@given(steps, steps, steps)
def test_a_copy_that_is_started_continues_its_original_only_while_that_has_not_gone_on(
    before: list[bool], original: list[bool], copy: list[bool]
) -> None:
    common = grown(first_life(1), before, 1)
    known, shown = grown(common, original, 2), grown(common, [True, *copy], 3)
    expected = Relation.APART if original else Relation.CONTINUES
    assert relate(known, shown) is expected
    assert relate(shown, known) is MIRRORED.get(expected, expected)


@given(steps, steps)
def test_who_goes_on_continues_itself(before: list[bool], after: list[bool]) -> None:
    known = grown(first_life(1), before, 1)
    shown = grown(known, after, 2)
    expected = Relation.CONTINUES if after else Relation.SAME
    assert relate(known, shown) is expected
    assert relate(shown, known) is MIRRORED.get(expected, expected)


def test_a_copy_continues_only_what_has_not_gone_on() -> None:
    original = first_life(1).next_moment()
    copy = original.next_life(2)
    assert relate(original, copy) is Relation.CONTINUES
    assert relate(original.next_moment(), copy) is Relation.APART
    assert relate(copy, original.next_moment()) is Relation.APART
    assert relate(copy, original.next_life(3)) is Relation.APART


@pytest.mark.parametrize("starts", [LIVES_MAX - 1, LIVES_MAX])
def test_a_chain_reaches_back_so_many_lives(starts: int) -> None:
    known = first_life(1)
    shown = grown(known, [True] * starts, 2)
    expected = Relation.CONTINUES if starts < LIVES_MAX else Relation.OUT_OF_REACH
    assert relate(known, shown) is expected
    assert relate(shown, known) is MIRRORED.get(expected, expected)
    assert len(shown.chain) == min(starts + 1, LIVES_MAX)
    assert shown.at(starts + 2) is None
    assert shown.present == Life(starts + 1, 1000 * 2 + starts - 1)


@pytest.mark.parametrize(("number", "count"), [(0, 0), (0, 1), (1, 0), (1, 2), (1000, LIVES_MAX + 1), (1 << 64, 1)])
def test_chains_that_cannot_be(number: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"life {number} cannot have a chain of {count}"):
        Lives(number, ((1, 0),) * count)


FILE = LivesFile(
    lives=Lives(2, ((0x1122, 3), (0x3344, 5))),
    extents={
        GroupId(0): Extent(term=7, last_term=6, last_index=100, commit_index=99),
        GroupId(3): Extent(term=1, last_term=0, last_index=0, commit_index=0),
    },
    is_orderly=True,
)


def test_the_file_and_back() -> None:
    data = encode_lives_file(FILE)
    assert decode_lives_file(data) == FILE
    assert data == bytes.fromhex((GOLDEN / "lives_file.v1.hex").read_text())


def test_every_flipped_bit_of_the_file_is_noticed() -> None:
    data = encode_lives_file(FILE)
    for position in range(len(data)):
        for bit in range(8):
            with pytest.raises(CodecError):
                decode_lives_file(data[:position] + bytes((data[position] ^ 1 << bit,)) + data[position + 1 :])
    for length in range(len(data)):
        with pytest.raises(CodecError):
            decode_lives_file(data[:length])


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: encode_lives_file(FILE)[:40] + tail))
def test_decoding_is_total(data: bytes) -> None:
    for decode, encode in ((decode_lives, encode_lives), (decode_claim, encode_claim), (decode_lives_file, encode_lives_file)):
        try:
            value = decode(data)  # type: ignore[operator]
        except CodecError:
            continue
        if not isinstance(value, Claim):  # flags of later releases are dropped
            assert encode(value) == data  # type: ignore[operator]


@pytest.mark.parametrize("is_forked", [False, True])
def test_a_claim_and_back(is_forked: bool) -> None:
    claim = Claim(node_id=5, lives=first_life(9), is_forked=is_forked)
    assert decode_claim(encode_claim(claim)) == claim
    with pytest.raises(CodecError, match="too few"):
        decode_claim(encode_claim(claim)[:8])
