"""The proof that a node knows the secret of its cluster."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.peer_secret import PROOF_BYTES, PeerSecrets, Side, parse_secrets
from trio_eventlog.errors import SettingsError

ONE, TWO = b"one secret of many bytes", b"two secrets of many bytes"


def test_the_bytes_of_a_proof() -> None:
    """Fixed: nodes of two releases prove themselves to each other."""
    proof = PeerSecrets((ONE,)).prove(Side.LISTENER, b"dialler", b"listener")
    assert proof.hex() == "51004971a3e33b309a069173b8a6b3e79ce11e232e8e9907505d4fab0e578e32"


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(Side), st.binary(min_size=32, max_size=32))
def test_what_is_accepted(dialler: bytes, listener: bytes, side: Side, other: bytes) -> None:
    """The proof of this side over these hellos, and no other: neither reflected, nor of other hellos, nor of another secret."""
    secrets = PeerSecrets((ONE,))
    proof = secrets.prove(side, dialler, listener)
    assert len(proof) == PROOF_BYTES
    assert secrets.accepts(proof, side, dialler, listener)
    other_side = Side.DIALLER if side is Side.LISTENER else Side.LISTENER
    assert not secrets.accepts(proof, other_side, dialler, listener)
    assert not secrets.accepts(proof, side, dialler + b"x", listener)
    assert not secrets.accepts(proof, side, dialler, listener + b"x")
    assert secrets.accepts(proof, side, listener, dialler) == (dialler == listener)
    assert not PeerSecrets((TWO,)).accepts(proof, side, dialler, listener)
    assert not PeerSecrets().accepts(proof, side, dialler, listener)
    for wrong in (b"", proof[:-1], proof + b"x", other):
        assert not secrets.accepts(wrong, side, dialler, listener)


@given(st.binary(max_size=10), st.binary(max_size=10), st.integers(0, 10))
def test_bytes_do_not_move_from_one_hello_to_the_other(dialler: bytes, listener: bytes, at: int) -> None:
    secrets = PeerSecrets((ONE,))
    both = dialler + listener
    proof = secrets.prove(Side.DIALLER, dialler, listener)
    assert secrets.accepts(proof, Side.DIALLER, both[:at], both[at:]) == ((both[:at], both[at:]) == (dialler, listener))


def test_rotation() -> None:
    """Added as the second everywhere, then the first, then the old one goes: at each step all accept all."""
    steps = [(ONE,), (ONE, TWO), (TWO, ONE), (TWO,)]
    for before, after in itertools.pairwise(steps):
        for one, other in ((before, after), (after, before), (after, after)):
            proof = PeerSecrets(one).prove(Side.DIALLER, b"d", b"l")
            assert PeerSecrets(other).accepts(proof, Side.DIALLER, b"d", b"l")
    assert not PeerSecrets((TWO,)).accepts(PeerSecrets((ONE,)).prove(Side.DIALLER, b"d", b"l"), Side.DIALLER, b"d", b"l")


def test_a_file() -> None:
    assert parse_secrets(b"# ours\n" + ONE + b"\r\n\n  " + TWO + b"  \n" + ONE) == PeerSecrets((ONE, TWO))
    assert parse_secrets(b"# not yet\nnone\n") == PeerSecrets()
    assert ONE.decode() not in repr(PeerSecrets((ONE,)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no secret"),
        (b"# only words\n", "no secret"),
        (b"short", "secret 1 has fewer"),
        (ONE + b"\nnone", "secret 2 has fewer"),
    ],
)
def test_a_file_that_is_of_no_use(data: bytes, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        parse_secrets(data)
    assert "short" not in str(caught.value)
    with pytest.raises(SettingsError, match="17 secrets"):
        parse_secrets(b"\n".join(b"%016d" % number for number in range(17)))
