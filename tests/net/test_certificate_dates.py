"""Until when a certificate is valid: the same as a library of others says."""

import datetime

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.net.certificate_dates import expiry_of_der, expiry_of_pem

DATES = [
    datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2999, 6, 7, 8, 9, 10, tzinfo=datetime.UTC),
]


@pytest.mark.parametrize("when", DATES)
def test_the_end_of_the_validity(when: datetime.datetime) -> None:
    """Also where the form of times changes, in 2050."""
    certificate = trustme.CA().issue_cert("node.example", not_after=when, not_before=when - datetime.timedelta(days=1))
    pem = certificate.cert_chain_pems[0].bytes().decode()
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == when
    assert expiry_of_pem("some words\n" + pem + pem) == when.timestamp()


@given(st.binary(max_size=200))
def test_anything_else_is_no_certificate(data: bytes) -> None:
    """Never another error."""
    try:
        expiry_of_der(data)
    except ValueError:
        pass


def test_a_text_without_a_certificate() -> None:
    with pytest.raises(ValueError, match="no certificate"):
        expiry_of_pem("-----BEGIN PRIVATE KEY-----")
