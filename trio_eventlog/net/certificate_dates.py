"""Until when a certificate is valid, read from its DER form: Python's ssl does not say that of one's own certificate."""

import datetime
import ssl

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_FIELDS_BEFORE_VALIDITY = 3
"""Of a certificate's body, behind its version: serial number, signature algorithm, issuer (RFC 5280, 4.1)."""
_END = "-----END CERTIFICATE-----"


def expiry_of_pem(text: str) -> float:
    """Seconds since 1970 UTC up to which the first certificate in `text` is valid. Raises ValueError."""
    first, end, _ = text.partition(_END)
    begin = first.find("-----BEGIN CERTIFICATE-----")
    if begin < 0 or not end:
        raise ValueError("no certificate in PEM form")
    return expiry_of_der(ssl.PEM_cert_to_DER_cert(first[begin:] + end))


def expiry_of_der(data: bytes) -> float:
    """The same of one certificate in DER form. Raises ValueError."""
    tag, begin, end = _element(data, 0)
    tag, begin, end = _element(data, begin)
    if tag != _SEQUENCE:
        raise ValueError("no certificate")
    tag, _, behind = _element(data, begin)
    position = behind if tag == _VERSION else begin
    for _ in range(_FIELDS_BEFORE_VALIDITY):
        _, _, position = _element(data, position)
    _, begin, _ = _element(data, position)
    _, _, begin = _element(data, begin)  # from when on
    tag, begin, end = _element(data, begin)
    text = data[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year: from 1950 to 2049.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time where the end of the validity should be")
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()


def _element(data: bytes, position: int) -> tuple[int, int, int]:
    """Tag of the element at `position`, where its content begins, and where it ends. Raises ValueError."""
    try:
        tag, length = data[position], data[position + 1]
    except IndexError:
        raise ValueError("the certificate ends early") from None
    begin = position + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[begin : begin + size])
        begin += size
    if begin + length > len(data):
        raise ValueError("the certificate ends early")
    return tag, begin, begin + length
