"""Chains of lives: what they reach back to, and their bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.lives import NONCES_MAX, Life, Lives, decode_lives, encode_lives


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=3 * NONCES_MAX))
def test_a_chain_knows_its_last_lives(nonces: list[int]) -> None:
    chain = Lives(1, (nonces[0],))
    for nonce in nonces[1:]:
        chain = chain.next(nonce)
    assert chain.present == Life(len(nonces), nonces[-1])
    known = {number: chain.nonce_of(number) for number in range(len(nonces) + 2)}
    assert known == {
        number: nonces[number - 1] if max(0, len(nonces) - NONCES_MAX) < number <= len(nonces) else None for number in known
    }
    assert decode_lives(encode_lives(chain)) == chain


@pytest.mark.parametrize(("number", "count"), [(0, 0), (0, 1), (1, 0), (1, 2), (1000, NONCES_MAX + 1), (1 << 64, 1)])
def test_chains_that_cannot_be(number: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"life {number} cannot have {count} nonces"):
        Lives(number, tuple(range(count)))
