"""What the first bytes of a connection say it is: the table that splits one TCP port.

| first bytes | kind |
| --- | --- |
| `PRI * HTTP/2.0` | GRPC (the HTTP/2 preface of RFC 9113, section 3.4) |
| `A`-`Z` otherwise | HTTP (an HTTP/1.1 method) |
| `0x16` | TLS (a handshake record, RFC 8446, section 5.1) |
| `0xE1` + `b"vlg"` | PEER; the fifth byte is the version, which the peer handler judges, so that it can answer |
| `00 00` | KAFKA: a request of Kafka's protocol begins with its length, which is below 16 MiB |
| `00 80` to `00 8f`, `06 08 09 0a f4` (any one of them) | GOSSIP (memberlist's stream message types; a ping, 0, and a map) |
| `<`, or up to six digits, a blank and `<` | SYSLOG (RFC 6587: a message ended by a newline, or after its number of octets) |
| anything else | UNKNOWN |

0xE1 is no ASCII, no TLS record type and no memberlist message type, and 0xE1 0x76 is no valid UTF-8 either, so text sent to
the port by mistake never looks like a peer.
"""

import enum

HTTP2_PREFACE = b"PRI * HTTP/2.0"
PEER_MAGIC = b"\xe1vlg"
PEER_VERSION = 1
PEER_PREFACE = PEER_MAGIC + bytes([PEER_VERSION])
"""The first five bytes of every peer link, under TLS too."""

TLS_HANDSHAKE = 0x16
GOSSIP_FIRST_BYTES = frozenset((0x06, 0x08, 0x09, 0x0A, 0xF4))
GOSSIP_PING = 0x00
SYSLOG_BEGIN = ord("<")
SYSLOG_DIGITS_MAX = 6
SMALL_MAPS = range(0x80, 0x90)
"""First bytes of a MessagePack map with up to 15 fields."""
FIRST_BYTES_MAX = len(HTTP2_PREFACE)
"""Number of bytes that is always enough to decide."""

TLS_RECORD_HEAD_BYTES = 5
TLS_RECORD_BYTES_MAX = 1 << 14


class FirstBytes(enum.Enum):
    """The protocols of the port."""

    GRPC = "grpc"
    HTTP = "http"
    TLS = "tls"
    PEER = "peer"
    GOSSIP = "gossip"
    KAFKA = "kafka"
    SYSLOG = "syslog"
    UNKNOWN = "unknown"
    NEED_MORE = "need more"


def classify_first_bytes(received: bytes | bytearray | memoryview) -> FirstBytes:
    """The protocol that begins with `received`, the bytes so far. Total: never raises.

    NEED_MORE only while `received` is a proper prefix of the HTTP/2 preface, of the peer magic, of a gossip ping, or of a number of
    octets and what follows it; more bytes never change any other answer.
    """
    head = bytes(received[:FIRST_BYTES_MAX])
    if not head:
        return FirstBytes.NEED_MORE
    first = head[0]
    if first == TLS_HANDSHAKE:
        return FirstBytes.TLS
    if 0x41 <= first <= 0x5A:
        if head == HTTP2_PREFACE:
            return FirstBytes.GRPC
        if HTTP2_PREFACE.startswith(head):
            return FirstBytes.NEED_MORE
        return FirstBytes.HTTP
    if first == PEER_MAGIC[0]:
        magic = head[: len(PEER_MAGIC)]
        if magic == PEER_MAGIC:
            return FirstBytes.PEER
        return FirstBytes.NEED_MORE if PEER_MAGIC.startswith(magic) else FirstBytes.UNKNOWN
    if first in GOSSIP_FIRST_BYTES:
        return FirstBytes.GOSSIP
    if first == GOSSIP_PING:
        if len(head) == 1:
            return FirstBytes.NEED_MORE
        if head[1] in SMALL_MAPS:
            return FirstBytes.GOSSIP
        return FirstBytes.UNKNOWN if head[1] else FirstBytes.KAFKA
    if first == SYSLOG_BEGIN:
        return FirstBytes.SYSLOG
    return _after_octets(head) if head[:1].isdigit() else FirstBytes.UNKNOWN


def _after_octets(head: bytes) -> FirstBytes:
    """What begins with a digit: a message of syslog after its number of octets, or nothing that is known."""
    rest = head.lstrip(b"0123456789")
    if head[:1] == b"0" or len(head) - len(rest) > SYSLOG_DIGITS_MAX or not b" <".startswith(rest[:2]):
        return FirstBytes.UNKNOWN
    return FirstBytes.SYSLOG if len(rest) > 1 else FirstBytes.NEED_MORE


def offers_protocol(received: bytes | bytearray | memoryview, protocol: str) -> bool | None:
    """Whether the TLS hello that `received` begins with offers `protocol` by ALPN. None: more bytes are needed.

    Looks for the name as ALPN writes it (RFC 7301, section 3.1) anywhere in the first record, which holds the hello of anybody
    who means us well. So this may choose what is asked for in the handshake, and must not decide what is granted.
    """
    if len(received) < TLS_RECORD_HEAD_BYTES:
        return None
    length_bytes = int.from_bytes(received[3:TLS_RECORD_HEAD_BYTES])
    if length_bytes > TLS_RECORD_BYTES_MAX:
        return False
    record = bytes(received[TLS_RECORD_HEAD_BYTES : TLS_RECORD_HEAD_BYTES + length_bytes])
    if len(record) < length_bytes:
        return None
    return bytes([len(protocol)]) + protocol.encode() in record
