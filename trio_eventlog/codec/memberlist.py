"""memberlist on the wire: messages, packets and streams. Facts and byte vectors: docs/design/gossip.md.

A message is a type byte and a MessagePack map. A packet is, from outside to inside, `[label] [encryption] [checksum]
[compressed] message or compound`; a stream carries `[label] [encryption] [compressed] message`, one in each direction.

Decoders are total: any bytes give a value or CodecError, within the bounds of `WireLimits`. Encoders write plain, never
compressed: that is always allowed.
"""

import struct
import zlib
from collections.abc import Sequence

import attrs

from trio_eventlog.codec.gossip_crypto import SEALED_OVERHEAD_BYTES, Keyring
from trio_eventlog.codec.lzw import inflate
from trio_eventlog.codec.msgpack import Fields, Incomplete, Reader, pack
from trio_eventlog.codec.serf import decode_serf, decode_serf_state, encode_serf, encode_serf_state
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.messages import (
    NO_VERSIONS,
    Ack,
    Address,
    Alive,
    Dead,
    ErrorText,
    IndirectPing,
    MemberRecord,
    Message,
    Nack,
    Ping,
    PushPull,
    RowStatus,
    StreamMessage,
    Suspect,
    UserBytes,
    UserMessage,
    Versions,
)

PING = 0
INDIRECT_PING = 1
ACK = 2
SUSPECT = 3
ALIVE = 4
DEAD = 5
PUSH_PULL = 6
COMPOUND = 7
USER = 8
COMPRESSED = 9
ENCRYPTED = 10
NACK = 11
CHECKSUM = 12
ERROR = 13
LABEL = 244

NAME_BYTES_MAX = 512
"""Longest member name that is understood."""
META_BYTES_MAX = 512
COMPOUND_MESSAGES_MAX = 255
CHECKSUM_BYTES = 5
COMPOUND_BYTES = 2
"""Head of a compound; each message costs as much again."""
PAYLOAD_BYTES_MAX = 65_536
LABEL_BYTES_MAX = 255
ERROR_TEXT_BYTES_MAX = 1024

_LZW = 0
_LAYERS_MAX = 4
"""Compound and compressed within each other; two are ever written."""


@attrs.frozen(slots=True, kw_only=True)
class WireLimits:
    """Bounds of what is decoded.

    Attributes:
        packet_inflated_bytes_max: bytes that one packet may be decompressed to: its layers and the parts of its compounds added
            up. It has to hold what a packet of 64 KiB contains when it is compressed; larger values let one packet of a
            stranger keep this process busy for longer.
        packet_messages_max: number of messages in one packet, those of compounds within compounds included. Agents write one
            compound, of at most 255.
        stream_bytes_max: bytes read from one stream, and bytes of an encrypted or compressed message on it.
        stream_inflated_bytes_max: bytes that a stream message may be decompressed to. LZW in Python takes 0.1 to 0.2 s per MiB,
            during which no other task runs. Agents compress their tables: 1 MiB holds about 6000 rows of theirs.
        members_max: number of rows of a push/pull. Too small, and a larger cluster cannot be joined.
        member_bytes_max: bytes of one row.
    """

    packet_inflated_bytes_max: int
    packet_messages_max: int
    stream_bytes_max: int
    stream_inflated_bytes_max: int
    members_max: int
    member_bytes_max: int


class WrongLabel(CodecError):
    """The other side is of another cluster, or not configured like us; it gets no answer."""


# --- Messages. ---


def encode_gossip_message(message: Message) -> bytes:
    """One message as it stands in a packet. Raises CodecError when a field is over its limit."""
    match message:
        case Alive():
            return _encode_alive(message)
        case Ping():
            return bytes((PING,)) + pack(_ping_fields(message))
        case Ack():
            return bytes((ACK,)) + pack({"Payload": message.payload or None, "SeqNo": message.sequence})
        case IndirectPing():
            fields = {
                "Nack": message.wants_nack,
                "Node": message.target,
                "Port": message.address.port,
                "SeqNo": message.sequence,
                **_source_fields(message),
                "Target": message.address.host,
            }
            return bytes((INDIRECT_PING,)) + pack(fields)
        case Nack():
            return bytes((NACK,)) + pack({"SeqNo": message.sequence})
        case Suspect() | Dead():
            code = SUSPECT if type(message) is Suspect else DEAD
            return bytes((code,)) + pack({"From": message.accuser, "Incarnation": message.incarnation, "Node": message.name})
        case UserMessage():
            return bytes((USER,)) + encode_serf(message.message)
        case UserBytes():
            return bytes((USER,)) + message.body


def _encode_alive(alive: Alive) -> bytes:
    if len(alive.meta) > META_BYTES_MAX:
        raise CodecError(f"alive: {len(alive.meta)} bytes of meta, the limit is {META_BYTES_MAX}")
    fields = {
        "Addr": alive.address.host,
        "Incarnation": alive.incarnation,
        "Meta": alive.meta,
        "Node": alive.name,
        "Port": alive.address.port,
        "Vsn": bytes(alive.versions),
    }
    return bytes((ALIVE,)) + pack(fields)


def _ping_fields(ping: Ping) -> dict[str, object]:
    return {"Node": ping.target, "SeqNo": ping.sequence, **_source_fields(ping)}


def _source_fields(message: Ping | IndirectPing) -> dict[str, object]:
    if message.source is None:
        return {}
    return {"SourceAddr": message.source.host, "SourceNode": message.source_name, "SourcePort": message.source.port}


def decode_gossip_message(data: bytes) -> Message:
    """One message of a packet; bytes after its map are ignored. Raises CodecError, also for types that are not messages.

    A user message that is not understood comes as `UserBytes`.
    """
    if not data:
        raise CodecError("gossip: an empty message")
    code = data[0]
    if code == USER:
        return _decode_user(data[1:])
    if code not in _NAMES:
        raise CodecError(f"gossip: a message of type {code} in a packet")
    return _decode_fields(code, Fields(_NAMES[code], Reader(data, 1).read()))


def _decode_user(body: bytes) -> UserMessage | UserBytes:
    try:
        return UserMessage(decode_serf(body))
    except CodecError:
        return UserBytes(body)


def _decode_fields(code: int, fields: Fields) -> Message:
    if code == ALIVE:
        return Alive(
            name=fields.text(b"Node", NAME_BYTES_MAX),
            incarnation=fields.unsigned(b"Incarnation", 32),
            address=_address(fields, b"Addr", b"Port"),
            meta=fields.raw(b"Meta", META_BYTES_MAX),
            versions=_versions(fields),
        )
    if code == ACK:
        return Ack(fields.unsigned(b"SeqNo", 32), fields.raw(b"Payload", PAYLOAD_BYTES_MAX))
    if code == PING:
        return Ping(
            sequence=fields.unsigned(b"SeqNo", 32),
            target=fields.text(b"Node", NAME_BYTES_MAX),
            source=_source(fields),
            source_name=fields.text(b"SourceNode", NAME_BYTES_MAX),
        )
    if code in (SUSPECT, DEAD):
        return (Suspect if code == SUSPECT else Dead)(
            name=fields.text(b"Node", NAME_BYTES_MAX),
            incarnation=fields.unsigned(b"Incarnation", 32),
            accuser=fields.text(b"From", NAME_BYTES_MAX),
        )
    if code == NACK:
        return Nack(fields.unsigned(b"SeqNo", 32))
    return IndirectPing(
        sequence=fields.unsigned(b"SeqNo", 32),
        target=fields.text(b"Node", NAME_BYTES_MAX),
        address=_address(fields, b"Target", b"Port"),
        wants_nack=fields.flag(b"Nack"),
        source=_source(fields),
        source_name=fields.text(b"SourceNode", NAME_BYTES_MAX),
    )


def _address(fields: Fields, host_key: bytes, port_key: bytes) -> Address:
    host = fields.raw(host_key, 16)
    if len(host) not in (4, 16):
        raise CodecError(f"gossip: an address of {len(host)} bytes")
    return Address(host, fields.unsigned(port_key, 16))


def _source(fields: Fields) -> Address | None:
    """Where to answer; None when the message does not say."""
    host = fields.raw(b"SourceAddr", 16)
    port = fields.unsigned(b"SourcePort", 16)
    return Address(host, port) if len(host) in (4, 16) and port else None


def _versions(fields: Fields) -> Versions:
    raw = fields.raw(b"Vsn", 64)
    if not raw:
        return NO_VERSIONS
    if len(raw) < len(NO_VERSIONS):
        raise CodecError(f"gossip: {len(raw)} bytes of versions")
    return Versions(*raw[: len(NO_VERSIONS)])


# --- Packets. ---


@attrs.frozen(slots=True)
class Packet:
    """The messages of a packet, and how many of its parts were not understood."""

    messages: tuple[Message, ...]
    dropped: int = 0


def packet_overhead_bytes(label: bytes = b"", *, is_encrypted: bool = False) -> int:
    """Bytes of a packet that are not messages, compound and their lengths: the checksum is always counted."""
    return CHECKSUM_BYTES + (2 + len(label) if label else 0) + (SEALED_OVERHEAD_BYTES if is_encrypted else 0)


def encode_packet(
    messages: Sequence[bytes], *, with_checksum: bool = False, label: bytes = b"", keyring: Keyring | None = None
) -> bytes:
    """A packet of encoded messages, at least one and at most 255. The checksum only for receivers that know it."""
    if len(messages) == 1:
        body = messages[0]
    else:
        if not 1 < len(messages) <= COMPOUND_MESSAGES_MAX:
            raise CodecError(f"gossip: {len(messages)} messages in a packet")
        lengths = struct.pack(f">BB{len(messages)}H", COMPOUND, len(messages), *map(len, messages))
        body = b"".join((lengths, *messages))
    if with_checksum:
        body = _CHECKSUM.pack(CHECKSUM, zlib.crc32(body)) + body
    if keyring is not None:
        body = keyring.seal(body, label)
    return encode_label(label) + body


def decode_packet(data: bytes, *, label: bytes = b"", keyring: Keyring | None = None, limits: WireLimits) -> Packet:
    """The messages of a packet.

    Raises:
        CodecError: the packet as a whole is unusable: another label, not decrypted, a wrong checksum, unknown bytes.
    """
    body = _strip_label(data, label)
    if keyring is not None:
        body = keyring.open(body, label)
    if body[:1] == bytes((CHECKSUM,)):
        if len(body) < CHECKSUM_BYTES:
            raise CodecError("gossip: a packet that ends within its checksum")
        (_, checksum) = _CHECKSUM.unpack_from(body)
        body = body[CHECKSUM_BYTES:]
        if zlib.crc32(body) != checksum:
            raise CodecError("gossip: checksum mismatch")
    parts = _Unfolding(limits).unfold(body, _LAYERS_MAX)
    if len(parts) == 1:
        return Packet((decode_gossip_message(parts[0]),))
    messages = []
    dropped = 0
    for part in parts:
        try:
            messages.append(decode_gossip_message(part))
        except CodecError:
            dropped += 1
    return Packet(tuple(messages), dropped)


class _Unfolding:
    """Takes the layers off one packet; what its parts may still claim together. A compound of bombs is no more than one bomb."""

    def __init__(self, limits: WireLimits) -> None:
        self._bytes_left = limits.packet_inflated_bytes_max
        self._messages_left = limits.packet_messages_max

    def unfold(self, body: bytes, layers: int) -> list[bytes]:
        """The plain messages in `body`, unread."""
        code = body[0] if body else -1
        if code not in (COMPOUND, COMPRESSED):
            self._messages_left -= 1
            if self._messages_left < 0:
                raise CodecError("gossip: too many messages in a packet")
            return [body]
        if layers == 0:
            raise CodecError(f"gossip: more than {_LAYERS_MAX} layers in a packet")
        if code == COMPRESSED:
            inflated = _decompress(body, self._bytes_left)
            self._bytes_left -= len(inflated)
            return self.unfold(inflated, layers - 1)
        return [message for part in _split_compound(body) for message in self.unfold(part, layers - 1)]


def _split_compound(body: bytes) -> list[bytes]:
    """The whole messages of a compound; a truncated tail is left out."""
    if len(body) < COMPOUND_BYTES:
        raise CodecError("gossip: a compound without a count")
    count = body[1]
    position = COMPOUND_BYTES + 2 * count
    if position > len(body):
        raise CodecError(f"gossip: a compound of {count} messages in {len(body)} bytes")
    parts = []
    for length in struct.unpack_from(f">{count}H", body, COMPOUND_BYTES):
        if position + length > len(body):
            break
        parts.append(body[position : position + length])
        position += length
    return parts


def _decompress(body: bytes, inflated_bytes_max: int) -> bytes:
    reader = Reader(body, 1)
    fields = Fields("compressed", reader.read())
    if fields.unsigned(b"Algo", 8) != _LZW:
        raise CodecError("gossip: compressed in an unknown way")
    return inflate(fields.raw(b"Buf", len(body)), inflated_bytes_max)


def encode_label(label: bytes) -> bytes:
    """The header of a labelled packet or stream; empty for the empty label."""
    if not label:
        return b""
    if len(label) > LABEL_BYTES_MAX:
        raise CodecError(f"gossip: a label of {len(label)} bytes")
    return bytes((LABEL, len(label))) + label


def _strip_label(data: bytes, label: bytes) -> bytes:
    header = encode_label(label)
    if not data.startswith(header):
        raise WrongLabel("gossip: without our label")
    if not label and data[:1] == bytes((LABEL,)):
        raise WrongLabel("gossip: with a label, and this node has none")
    return data[len(header) :]


_CHECKSUM = struct.Struct(">BI")
_NAMES = {
    PING: "ping",
    INDIRECT_PING: "indirect ping",
    ACK: "ack",
    SUSPECT: "suspect",
    ALIVE: "alive",
    DEAD: "dead",
    NACK: "nack",
}


# --- Streams. ---


def encode_stream_message(message: StreamMessage, *, label: bytes = b"", keyring: Keyring | None = None) -> bytes:
    """One message as it stands on a stream, without the label header.

    The label is only authenticated: a dialler sends `encode_label` first, an acceptor does not.
    """
    body = _encode_stream_body(message)
    if keyring is None:
        return body
    header = _SEALED.pack(ENCRYPTED, len(body) + SEALED_OVERHEAD_BYTES)
    return header + keyring.seal(body, header + label)


def _encode_stream_body(message: StreamMessage) -> bytes:
    match message:
        case PushPull():
            return _encode_push_pull(message)
        case ErrorText():
            text = message.text.encode("utf-8", "surrogateescape")[:ERROR_TEXT_BYTES_MAX]
            return bytes((ERROR,)) + pack({"Error": text})
        case UserMessage() | UserBytes():
            body = message.body if isinstance(message, UserBytes) else encode_serf(message.message)
            return bytes((USER,)) + pack({"UserMsgLen": len(body)}) + body
        case Ping() | Ack():
            return encode_gossip_message(message)


def _encode_push_pull(exchange: PushPull) -> bytes:
    state = b"" if exchange.state is None else encode_serf_state(exchange.state)
    parts = [
        bytes((PUSH_PULL,)),
        pack({"Join": exchange.is_join, "Nodes": len(exchange.members), "UserStateLen": len(state)}),
    ]
    for member in exchange.members:
        parts.append(
            pack(
                {
                    "Addr": member.address.host,
                    "Incarnation": member.incarnation,
                    "Meta": member.meta,
                    "Name": member.name,
                    "Port": member.address.port,
                    "State": int(member.status),
                    "Vsn": bytes(member.versions),
                }
            )
        )
    parts.append(state)
    return b"".join(parts)


class StreamDecoder:
    """The one message of one direction of a stream; bytes in any pieces.

    Arguments:
        label: expected at the start when `is_accepting`; authenticated in both directions.
        is_accepting: this side has accepted the stream.
    """

    def __init__(
        self,
        *,
        is_accepting: bool,
        label: bytes = b"",
        keyring: Keyring | None = None,
        limits: WireLimits,
    ) -> None:
        self._label = label
        self._keyring = keyring
        self._limits = limits
        self._buffer = bytearray()
        self._received_bytes = 0
        self._expects_label = is_accepting
        self._push_pull: _PushPullDecoder | None = None
        self._wanted_bytes = 1

    def feed(self, data: bytes | bytearray | memoryview) -> StreamMessage | None:
        """The message, once it is whole; None: more is needed. Bytes after it are ignored.

        Raises:
            CodecError: what has come is no message; the stream is of no further use.
        """
        self._buffer += data
        self._received_bytes += len(data)
        if self._received_bytes > self._limits.stream_bytes_max:
            raise CodecError(f"gossip stream: more than {self._limits.stream_bytes_max} bytes")
        if len(self._buffer) < self._wanted_bytes:
            return None
        if self._expects_label and not self._take_label():
            return None
        if self._push_pull is not None:
            return self._push_pull.advance(self._buffer)
        if not self._buffer:
            return None
        code = self._buffer[0]
        if self._keyring is not None:
            if code != ENCRYPTED:
                raise CodecError("gossip stream: not encrypted, and this node has a keyring")
            return self._feed_encrypted(self._keyring)
        if code == ENCRYPTED:
            raise CodecError("gossip stream: encrypted, and this node has no keyring")
        return self._feed_plain()

    def _take_label(self) -> bool:
        """False: more is needed."""
        if not self._buffer:
            return False
        if self._buffer[0] == LABEL:
            if len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
                return False
            found = bytes(self._buffer[2 : 2 + self._buffer[1]])
            del self._buffer[: 2 + len(found)]
        else:
            found = b""
        if found != self._label:
            raise WrongLabel("gossip stream: another label than ours")
        self._expects_label = False
        return True

    def _feed_encrypted(self, keyring: Keyring) -> StreamMessage | None:
        if len(self._buffer) < _SEALED.size:
            return None
        (_, length) = _SEALED.unpack_from(self._buffer)
        if length > self._limits.stream_bytes_max:
            raise CodecError(f"gossip stream: an encrypted message of {length} bytes")
        end = _SEALED.size + length
        if len(self._buffer) < end:
            self._wanted_bytes = end
            return None
        header = bytes(self._buffer[: _SEALED.size])
        return _decode_stream_body(keyring.open(bytes(self._buffer[_SEALED.size : end]), header + self._label), self._limits)

    def _feed_plain(self) -> StreamMessage | None:
        code = self._buffer[0]
        if code == PUSH_PULL:
            del self._buffer[0]
            self._push_pull = _PushPullDecoder(self._limits)
            return self._push_pull.advance(self._buffer)
        # The others are one map: trying again from the start costs little, since a raw that is not whole says at its head how
        # much it needs.
        if code != COMPRESSED and len(self._buffer) > _SMALL_BYTES_MAX:
            raise CodecError(f"gossip stream: a message of type {code} and more than {_SMALL_BYTES_MAX} bytes")
        try:
            return _decode_stream_body(bytes(self._buffer), self._limits)
        except Incomplete as incomplete:
            if incomplete.needed_bytes > self._limits.stream_bytes_max:
                raise CodecError(f"gossip stream: a message of {incomplete.needed_bytes} bytes") from incomplete
            self._wanted_bytes = max(incomplete.needed_bytes, len(self._buffer) + 1)
            return None


def _decode_stream_body(body: bytes, limits: WireLimits) -> StreamMessage:
    """A decrypted message. Raises Incomplete when it is not whole."""
    if not body:
        raise CodecError("gossip stream: an empty message")
    code = body[0]
    if code == COMPRESSED:
        body = _decompress(body, limits.stream_inflated_bytes_max)
        code = body[0] if body else COMPRESSED
        try:
            return _decode_plain_stream_body(code, body, limits)
        except Incomplete as error:
            raise CodecError(f"gossip stream: a compressed message that is not whole: {error}") from error
    return _decode_plain_stream_body(code, body, limits)


def _decode_plain_stream_body(code: int, body: bytes, limits: WireLimits) -> StreamMessage:
    if code == PUSH_PULL:
        message = _PushPullDecoder(limits).advance(bytearray(body[1:]))
        if message is None:
            raise Incomplete("gossip stream: a push/pull that is not whole")
        return message
    if code not in (PING, ACK, USER, ERROR):
        raise CodecError(f"gossip stream: a message of type {code}")
    reader = Reader(body, 1)
    fields = Fields(_STREAM_NAMES[code], reader.read())
    if code == ERROR:
        return ErrorText(fields.text(b"Error", _SMALL_BYTES_MAX))
    if code == USER:
        length = fields.unsigned(b"UserMsgLen", 32)
        if length > PAYLOAD_BYTES_MAX:
            raise CodecError(f"gossip stream: a user message of {length} bytes")
        end = reader.position + length
        if len(body) < end:
            raise Incomplete("gossip stream: a user message that is not whole", end)
        return _decode_user(body[reader.position : end])
    message_ = _decode_fields(code, fields)
    assert isinstance(message_, Ping | Ack)
    return message_


class _PushPullDecoder:
    """A push/pull from behind its type byte, row by row, so that no row is read twice once it is whole."""

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._members_left = -1
        self._is_join = False
        self._state_bytes = 0
        self._members: list[MemberRecord] = []

    def advance(self, buffer: bytearray) -> PushPull | None:
        """Consumes from `buffer` what is whole."""
        if self._members_left and not self._read_rows(buffer):
            return None
        if len(buffer) < self._state_bytes:
            return None
        state = bytes(buffer[: self._state_bytes])
        return PushPull(members=tuple(self._members), is_join=self._is_join, state=decode_serf_state(state) if state else None)

    def _read_rows(self, buffer: bytearray) -> bool:
        """False: more is needed."""
        reader = Reader(bytes(buffer), items_max=_MAP_ITEMS_MAX)
        try:
            if self._members_left < 0:
                self._read_header(Fields("push/pull", reader.read()))
            while self._members_left:
                reader = Reader(reader.data, reader.position, items_max=_MAP_ITEMS_MAX)
                self._members.append(_decode_member(Fields("push/pull member", reader.read())))
                self._members_left -= 1
        except Incomplete:
            if len(reader.data) - reader.position > self._limits.member_bytes_max:
                raise CodecError(f"push/pull: a row of more than {self._limits.member_bytes_max} bytes") from None
            del buffer[: reader.position]
            return False
        del buffer[: reader.position]
        return True

    def _read_header(self, fields: Fields) -> None:
        self._members_left = fields.unsigned(b"Nodes", 32)
        self._state_bytes = fields.unsigned(b"UserStateLen", 32)
        self._is_join = fields.flag(b"Join")
        if self._members_left > self._limits.members_max:
            raise CodecError(f"push/pull: {self._members_left} rows, the limit is {self._limits.members_max}")
        if self._state_bytes > self._limits.stream_bytes_max:
            raise CodecError(f"push/pull: a state of {self._state_bytes} bytes")


def _decode_member(fields: Fields) -> MemberRecord:
    status = fields.unsigned(b"State", 8)
    if status > RowStatus.LEFT:
        raise CodecError(f"push/pull member: state {status}")
    return MemberRecord(
        name=fields.text(b"Name", NAME_BYTES_MAX),
        address=_address(fields, b"Addr", b"Port"),
        incarnation=fields.unsigned(b"Incarnation", 32),
        status=RowStatus(status),
        meta=fields.raw(b"Meta", META_BYTES_MAX),
        versions=_versions(fields),
    )


_SEALED = struct.Struct(">BI")
_STREAM_NAMES = {**_NAMES, USER: "user", ERROR: "error"}
_SMALL_BYTES_MAX = PAYLOAD_BYTES_MAX + 1024
_MAP_ITEMS_MAX = 256
