"""What travels on a peer link after its first five bytes: frames, and the hello that opens it.

```
 0  u32  CRC-32C of bytes 4 up to the end of the checked part of the body
 4  u32  body length in bytes
 8  u32  checked: so many leading bytes of the body are under the checksum
12  u8   kind
13  u8   flags, 0
14  u16  0
16  u64  group id
24       body
```

All numbers little-endian. The checksum covers the header and the head of the body; what follows the head carries checksums of
its own (entry frames, segment chunks), so that large bodies are checked once, where they are used, and not twice.

A kind that a release does not know is skipped by its receiver: new kinds need no new version.
"""

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from trio_eventlog.codec.checksum import crc32c
from trio_eventlog.codec.lives import Lives, decode_lives, encode_lives
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NO_CLUSTER, NOBODY, ClusterId, GroupId, NodeId
from trio_eventlog.setting_fields import parse_address
from trio_eventlog.texts import NAME_BYTES_MAX, check_name, shown

PROTOCOL_VERSION = 1
"""Of the frames and the hello; raised when a node of the version before could not make sense of them."""
OLDEST_PROTOCOL_VERSION = 1
"""The oldest version that this release supports: one behind the newest, so that a cluster can be upgraded node by node."""

HEARTBEATS_BODY = struct.Struct("<Q")
"""A number that the sender has drawn when it was started."""
FRAME_HEADER = struct.Struct("<IIIBBHQ")
FRAME_HEADER_BYTES = FRAME_HEADER.size
SMALL_FRAME_BYTES = 16 * 1024
"""Frames up to this size are copied out of a buffer that is used again; larger ones are read into their own."""
KNOWN_IDS_MAX = 256
"""Most node ids in a hello."""
REFUSED_TEXT_BYTES_MAX = 1024
NONCE_BYTES = 16
FIELD_BYTES_MAX = 4096
"""Longest tagged field of a hello."""

Buffer = bytes | bytearray | memoryview


class FrameKind(enum.IntEnum):
    """What the body of a frame is."""

    HELLO = 1
    """`Hello`: first frame of the dialler."""
    HELLO_REPLY = 2
    """`Hello`: first frame of the listener, who accepts."""
    REFUSED = 3
    """`Refused`: first and last frame of the listener, who does not."""
    PING = 4
    PONG = 5
    """Returns the body of the PING."""
    GOODBYE = 6
    """Last frame of the dialler: the end of the link that follows is meant, no loss. Body empty."""
    PROOF = 7
    """The proof that its sender knows the secret of the cluster (`codec/peer_secret.py`): of the listener right after its
    HELLO_REPLY, of the dialler right after that. Only where both hellos have a `Challenge` that says so."""
    RAFT = 16
    """One Raft message without entries."""
    APPEND = 17
    """The header of an AppendEntries message (checked), then raw entry frames."""
    HEARTBEATS = 18
    """The node is there, with all groups that it leads and that sleep: `HEARTBEATS_BODY`, the group id of the frame is 0."""
    LIVES = 19
    """What the sender knows of the life of a node, itself or another (`codec/lives.py: Claim`); the group id is 0."""
    SLEEP = 20
    """A HEARTBEAT of a leader, encoded as in RAFT, that is the last one for a while: who holds what it names may sleep."""
    FETCH = 21
    """On a side connection, dialler: send a range of a file (`codec/transfer.py`, as the next two)."""
    PIECE = 22
    """On a side connection, listener: a part of that range; pieces follow each other without a gap."""
    FETCH_REFUSED = 23
    """On a side connection, listener: why nothing more of that range comes."""
    SHORT_OF_SPACE = 24
    """The node takes no new records, for lack of room on its disk. Repeated with each HEARTBEATS while that is so. Body empty, the
    group id is 0."""
    CATCH_UP = 25
    """How far the sender is with a snapshot of the group that the receiver leads (`codec/catch_up.py`)."""


class HelloTag(enum.IntEnum):
    """The tagged fields of a hello. A receiver ignores tags that it does not know."""

    LIVES = 1
    """The chain of the sender's starts (codec/lives.py)."""
    CHALLENGE = 2
    """`Challenge`."""
    SIDE = 3
    """Empty. The connection is a side connection, on which files are fetched; in a reply: the listener serves them on it. The hello
    is that of a probe as well, so that releases before this one answer and end the connection, and take it for no link."""


class RefusedCode(enum.IntEnum):
    """Why a listener does not take a link."""

    PROTOCOL_VERSION = 1
    CLUSTER_NAME = 2
    CLUSTER_ID = 3
    SAME_NODE_ID = 4
    MALFORMED = 5
    WRONG_NODE = 6
    BUSY = 7
    REMOVED = 8
    """The dialler was removed from the cluster, for ever."""
    CERTIFICATE = 9
    """The dialler's certificate does not show that it is a node of the cluster."""
    NOT_THIS_LIFE = 10
    """Another process has the dialler's node id, or had it at a later moment than the dialler's data directory stands at."""

    SECRET = 11
    """One side has a secret, and the other has none, or another one."""


class Frame(NamedTuple):
    """One decoded frame. `body` views the receive buffer and keeps it alive: copy what is kept for long and small."""

    kind: int
    group_id: GroupId
    body: memoryview


@attrs.frozen(slots=True, kw_only=True)
class Challenge:
    """What a hello says of the rest of the exchange; releases before it say nothing.

    Attributes:
        nonce: never used twice by one that has a secret; the proofs are made over it.
        proves: the sender has a secret: it proves that, and demands the same.
        refuses: in a reply: REFUSED follows. So who is refused knows by whom.
    """

    nonce: bytes = bytes(NONCE_BYTES)
    proves: bool = False
    refuses: bool = False


@attrs.frozen(slots=True, kw_only=True)
class Hello:
    """Who a node is, as it says so on a new link. Its values change while the node lives (cluster id, known ids).

    Attributes:
        protocol_version: the newest that the sender supports.
        oldest_protocol_version: the oldest that it supports; 0: only the newest.
        cluster_name: both sides must have the same.
        cluster_id: 0 while the sender belongs to no cluster yet.
        node_id: never 0.
        node_name: for people.
        address: "host:port" where others reach the sender.
        bootstrap_expect: voters the sender waits for before it bootstraps; 0: never bootstraps.
        has_data: the sender's log is not empty.
        is_probe: the link ends after this exchange and carries no Raft.
        is_side: see `HelloTag.SIDE`; `is_probe` is set, too.
        known_ids: bootstrap candidates the sender has heard of, itself included, sorted.
        expected_id: the node that the dialler wants to reach; 0: any node. In a reply: 0.
        lives: the chain of the sender's starts; None: the sender is of a release that has none.
        challenge: of this exchange; None in what is kept of a hello afterwards.
    """

    node_id: NodeId
    cluster_name: str
    node_name: str = ""
    address: str = ""
    cluster_id: ClusterId = NO_CLUSTER
    bootstrap_expect: int = 0
    has_data: bool = False
    is_probe: bool = False
    is_side: bool = False
    known_ids: tuple[NodeId, ...] = ()
    expected_id: NodeId = NOBODY
    protocol_version: int = PROTOCOL_VERSION
    oldest_protocol_version: int = 0
    lives: Lives | None = None
    challenge: Challenge | None = None

    @property
    def protocol_versions(self) -> range:
        """All versions that the sender supports."""
        return range(self.oldest_protocol_version or self.protocol_version, self.protocol_version + 1)


@attrs.frozen(slots=True)
class Refused:
    """Why, as a code for programs and a text for people."""

    code: int
    text: str


def encode_frame_head(kind: int, group_id: int, head: Buffer = b"", tail_bytes: int = 0) -> bytes:
    """The header and the checked part of one frame whose body is `head` and then `tail_bytes` bytes sent right after it."""
    checked = len(head)
    header = _AFTER_CHECKSUM.pack(checked + tail_bytes, checked, kind, 0, 0, group_id)
    return b"".join((_CHECKSUM.pack(crc32c(head, crc32c(header))), header, head))


def encode_frame(kind: int, group_id: int, head: Buffer = b"", tail: Sequence[Buffer] = ()) -> list[Buffer]:
    """The buffers of one whole frame, to be sent one after the other; the buffers of `tail` are not copied.

    `head` is covered by the frame's checksum; `tail` must carry checksums of its own.
    """
    if not tail:
        return [encode_frame_head(kind, group_id, head)]
    return [encode_frame_head(kind, group_id, head, sum(map(len, tail))), *tail]


class FrameDecoder:
    """Bytes in, frames out; partial input is normal and any split of the bytes gives the same frames.

    A frame is copied once, to a buffer of its own size: who keeps it keeps no chunk alive. Chunks, short ones too, were read into
    large blocks of memory, which would stay in pieces for as long as one frame of each is kept.

    Attributes:
        kept_body_bytes_max: a frame that does not come in one piece and whose body is longer is passed over as it comes, unseen.
            May be changed at any time, for frames that begin later.
    """

    def __init__(self, peer_frame_bytes_max: int, kept_body_bytes_max: int | None = None) -> None:
        self.kept_body_bytes_max = peer_frame_bytes_max if kept_body_bytes_max is None else kept_body_bytes_max
        self._body_bytes_max = peer_frame_bytes_max
        self._skipped_bytes = 0
        """Of a frame that is passed over, those that have not come yet."""
        self._head = b""
        """Less than one header, kept from the last chunk."""
        self._gathered: bytearray | None = None
        """A frame whose header is known and whose body is not whole."""
        self._gathered_bytes = 0
        self._failure: CodecError | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._head) + self._gathered_bytes

    def feed(self, chunk: Buffer) -> list[Frame]:
        """The frames that `chunk` completes, in order.

        Raises:
            CodecError: a checksum, a length over `peer_frame_bytes_max`, or fields that contradict each other. The stream is lost:
                frames before the damage in the same chunk are not returned, and every further call raises the same.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._feed(chunk)
        except CodecError as failure:
            self._failure = failure
            raise

    def _feed(self, chunk: Buffer) -> list[Frame]:
        frames: list[Frame] = []
        view = memoryview(chunk)
        if self._skipped_bytes:
            view = self._skip(view)
        elif self._gathered is not None:
            view = self._gather(view, frames)
        elif self._head and len(view):
            # Complete the header first: then the frame's length is known, and the chunk needs no copy for the frames after it.
            missing = FRAME_HEADER_BYTES - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < FRAME_HEADER_BYTES:
                return frames
            head, self._head = self._head, b""
            self._begin(head, _body_bytes(head, 0, self._body_bytes_max))
            view = self._skip(view) if self._gathered is None else self._gather(view, frames)
        position = 0
        end = len(view)
        while end - position >= FRAME_HEADER_BYTES:
            frame_end = position + FRAME_HEADER_BYTES + _body_bytes(view, position, self._body_bytes_max)
            if frame_end > end:
                self._begin(view[position:], frame_end - position - FRAME_HEADER_BYTES)
                return frames
            frames.append(_decode_frame(memoryview(bytes(view[position:frame_end]))))
            position = frame_end
        self._head = bytes(view[position:])
        return frames

    def _begin(self, received: Buffer, body_bytes: int) -> None:
        if body_bytes > self.kept_body_bytes_max:
            self._skipped_bytes = FRAME_HEADER_BYTES + body_bytes - len(received)
            return
        self._gathered = bytearray(FRAME_HEADER_BYTES + body_bytes)
        self._gathered[: len(received)] = received
        self._gathered_bytes = len(received)

    def _skip(self, view: memoryview) -> memoryview:
        """Pass over what has come of the frame that is not kept; return the rest."""
        rest = view[self._skipped_bytes :]
        self._skipped_bytes -= len(view) - len(rest)
        return rest

    def _gather(self, view: memoryview, frames: list[Frame]) -> memoryview:
        """Take what the current frame lacks from `view`; return the rest."""
        gathered = self._gathered
        assert gathered is not None
        missing = view[: len(gathered) - self._gathered_bytes]
        gathered[self._gathered_bytes : self._gathered_bytes + len(missing)] = missing
        self._gathered_bytes += len(missing)
        if self._gathered_bytes == len(gathered):
            self._gathered = None
            self._gathered_bytes = 0
            frames.append(_decode_frame(memoryview(gathered)))
        return view[len(missing) :]


class FrameReader:
    """As `FrameDecoder`, for who can read into buffers given to it (readv): large frames are not copied at all then.

    The loop: read into `buffers()`, then call `received` with the number of bytes.

    Small frames pass through one small buffer that is used again and again, and leave it as copies of their own size: a frame that
    somebody keeps does not keep a large read alive. The rest of a large frame is read to where it stays, and what follows it to
    the small buffer, in one call.

    Attributes:
        kept_body_bytes_max: as in `FrameDecoder`.
    """

    def __init__(
        self, peer_frame_bytes_max: int, small_bytes: int = SMALL_FRAME_BYTES, kept_body_bytes_max: int | None = None
    ) -> None:
        assert small_bytes >= FRAME_HEADER_BYTES
        self.kept_body_bytes_max = peer_frame_bytes_max if kept_body_bytes_max is None else kept_body_bytes_max
        self._skipped_bytes = 0
        """Of a frame that is passed over, those that have not come yet."""
        self._body_bytes_max = peer_frame_bytes_max
        self._small = memoryview(bytearray(small_bytes))
        self._small_bytes = 0
        """Held at the front of `_small`: the begin of a frame."""
        self._large: memoryview | None = None
        """A frame that does not fit into `_small`."""
        self._large_bytes = 0

    def buffers(self) -> list[memoryview]:
        """Where the next bytes belong, in this order; never empty. Valid until the next call of `received`."""
        if self._large is not None:
            return [self._large[self._large_bytes :], self._small]
        return [self._small[self._small_bytes :]]

    def received(self, count: int) -> list[Frame]:
        """The frames that `count` more bytes complete, in order.

        Raises:
            CodecError: as `FrameDecoder.feed`; the stream is lost and this object with it.
        """
        frames: list[Frame] = []
        if self._large is not None:
            missing = len(self._large) - self._large_bytes
            if count < missing:
                self._large_bytes += count
                return frames
            frames.append(_decode_frame(self._large))
            self._large = None
            end = count - missing
        else:
            end = self._small_bytes + count
        small = self._small
        position = min(self._skipped_bytes, end)
        self._skipped_bytes -= position
        while end - position >= FRAME_HEADER_BYTES:
            frame_end = position + FRAME_HEADER_BYTES + _body_bytes(small, position, self._body_bytes_max)
            if frame_end > end:
                if frame_end - position - FRAME_HEADER_BYTES > max(self.kept_body_bytes_max, len(small) - FRAME_HEADER_BYTES):
                    self._skipped_bytes = frame_end - end
                    position = end
                elif frame_end - position > len(small):
                    self._large = memoryview(bytearray(frame_end - position))
                    self._large_bytes = end - position
                    self._large[: self._large_bytes] = small[position:end]
                    position = end
                break
            frames.append(_decode_frame(memoryview(bytes(small[position:frame_end]))))
            position = frame_end
        self._small_bytes = end - position
        if position and self._small_bytes:
            small[: self._small_bytes] = small[position:end]
        return frames


def _body_bytes(buffer: Buffer, position: int, peer_frame_bytes_max: int) -> int:
    """The length of the body whose header begins at `position`, checked."""
    body_bytes: int
    checked: int
    (body_bytes, checked) = _LENGTHS.unpack_from(buffer, position + CHECKED_FROM)
    if body_bytes > peer_frame_bytes_max:
        raise CodecError(f"peer frame: a body of {body_bytes} bytes, the limit is {peer_frame_bytes_max}")
    if checked > body_bytes:
        raise CodecError(f"peer frame: {checked} bytes under the checksum in a body of {body_bytes}")
    return body_bytes


def _decode_frame(view: memoryview) -> Frame:
    """The frame that fills `view`; its lengths are known to fit."""
    (checksum, body_bytes, checked, kind, flags, zero, group_id) = FRAME_HEADER.unpack_from(view)
    if crc32c(view[CHECKED_FROM : FRAME_HEADER_BYTES + checked]) != checksum:
        raise CodecError(f"peer frame of kind {kind} and {body_bytes} bytes: checksum mismatch")
    if flags or zero:
        raise CodecError(f"peer frame of kind {kind}: flags {flags} and {zero}, this release knows none")
    return Frame(kind, group_id, view[FRAME_HEADER_BYTES:])


def encode_hello(hello: Hello) -> bytes:
    """The body of HELLO and HELLO_REPLY. Raises CodecError when a name or the list is over its limit.

    Layout: u16 protocol version, u16 flags (1: has data, 2: probe), u32 bootstrap expect, u64 cluster id, u64 node id,
    u64 expected id, then cluster name, node name and address (u16 length, UTF-8), then u16 count and so many u64 known ids.
    Then u16 oldest protocol version, and tagged fields in the order of their tags: u8 tag, u16 length, so many bytes. A receiver
    ignores tags that it does not know, so that fields can be added. Releases before the tagged fields wrote the oldest version
    only if it was not 0, and nothing after it; they ignore what they do not expect there.
    """
    if len(hello.known_ids) > KNOWN_IDS_MAX:
        raise CodecError(f"hello: {len(hello.known_ids)} known ids, the limit is {KNOWN_IDS_MAX}")
    parts = [
        _HELLO.pack(
            hello.protocol_version,
            (_HAS_DATA if hello.has_data else 0) | (_IS_PROBE if hello.is_probe else 0),
            hello.bootstrap_expect,
            hello.cluster_id,
            hello.node_id,
            hello.expected_id,
        )
    ]
    for text in (hello.cluster_name, hello.node_name, hello.address):
        encoded = text.encode()
        if len(encoded) > NAME_BYTES_MAX:
            raise CodecError(f"hello: a name of {len(encoded)} bytes, the limit is {NAME_BYTES_MAX}: {text[:32]!r}...")
        parts.append(_U16.pack(len(encoded)))
        parts.append(encoded)
    parts.append(_U16.pack(len(hello.known_ids)))
    parts.append(struct.pack(f"<{len(hello.known_ids)}Q", *hello.known_ids))
    parts.append(_U16.pack(hello.oldest_protocol_version))
    if hello.lives is not None:
        parts += _encode_field(HelloTag.LIVES, encode_lives(hello.lives))
    if hello.challenge is not None:
        parts += _encode_field(HelloTag.CHALLENGE, _encode_challenge(hello.challenge))
    if hello.is_side:
        parts += _encode_field(HelloTag.SIDE, b"")
    return b"".join(parts)


def decode_hello(body: Buffer) -> Hello:
    """The inverse, with every value checked: names that can be printed, an address that can be dialled or "", no id 0.

    What a hello says goes into logs, look-ups, certificates and tables; none of these has to ask again what it was given.

    Raises:
        CodecError: says which value is none.
    """
    view = memoryview(body)
    if len(view) < _HELLO.size:
        raise CodecError(f"hello: {len(view)} bytes are too few")
    (version, flags, bootstrap_expect, cluster_id, node_id, expected_id) = _HELLO.unpack_from(view)
    if node_id == NOBODY:
        raise CodecError("hello: node id 0")
    (cluster_name, position) = _decode_name(view, _HELLO.size)
    (node_name, position) = _decode_name(view, position)
    (address, position) = _decode_name(view, position)
    _check_address(address)
    (count, position) = _decode_u16(view, position)
    if count > KNOWN_IDS_MAX:
        raise CodecError(f"hello: {count} known ids, the limit is {KNOWN_IDS_MAX}")
    if len(view) - position < 8 * count:
        raise CodecError(f"hello: {len(view) - position} bytes cannot hold {count} known ids")
    known_ids = struct.unpack_from(f"<{count}Q", view, position)
    if NOBODY in known_ids:
        raise CodecError("hello: node id 0 among the known ids")
    after_ids = position + 8 * count
    oldest_version = 0
    fields: dict[int, memoryview] = {}
    if len(view) > after_ids:
        (oldest_version, after_version) = _decode_u16(view, after_ids)
        fields = _decode_fields(view, after_version)
    lives = fields.get(HelloTag.LIVES)
    challenge = fields.get(HelloTag.CHALLENGE)
    return Hello(
        protocol_version=version,
        cluster_name=cluster_name,
        cluster_id=cluster_id,
        node_id=node_id,
        node_name=node_name,
        address=address,
        bootstrap_expect=bootstrap_expect,
        has_data=bool(flags & _HAS_DATA),
        is_probe=bool(flags & _IS_PROBE),
        is_side=HelloTag.SIDE in fields,
        expected_id=expected_id,
        known_ids=known_ids,
        oldest_protocol_version=oldest_version,
        lives=decode_lives(lives) if lives is not None else None,
        challenge=_decode_challenge(challenge) if challenge is not None else None,
    )


def _encode_challenge(challenge: Challenge) -> bytes:
    """u8 flags (1: proves, 2: refuses), then the nonce. A receiver ignores other flags, and what follows the nonce."""
    return bytes(((_PROVES if challenge.proves else 0) | (_REFUSES if challenge.refuses else 0),)) + challenge.nonce


def _decode_challenge(field: memoryview) -> Challenge:
    if len(field) < 1 + NONCE_BYTES:
        raise CodecError(f"hello: a challenge of {len(field)} bytes")
    return Challenge(nonce=bytes(field[1 : 1 + NONCE_BYTES]), proves=bool(field[0] & _PROVES), refuses=bool(field[0] & _REFUSES))


def _encode_field(tag: HelloTag, value: bytes) -> tuple[bytes, bytes]:
    assert len(value) <= FIELD_BYTES_MAX
    return _FIELD.pack(tag, len(value)), value


def _decode_fields(view: memoryview, position: int) -> dict[int, memoryview]:
    """The tagged fields from `position` to the end, known tags and others. Raises CodecError."""
    fields: dict[int, memoryview] = {}
    last_tag = 0
    while position < len(view):
        if len(view) - position < _FIELD.size:
            raise CodecError(f"hello: a field cut off at {position}")
        (tag, length) = _FIELD.unpack_from(view, position)
        position += _FIELD.size
        if tag <= last_tag:
            raise CodecError(f"hello: a field with tag {tag} after one with tag {last_tag}")
        if length > FIELD_BYTES_MAX or len(view) - position < length:
            raise CodecError(f"hello: a field with tag {tag} of {length} bytes at {position}")
        fields[tag] = view[position : position + length]
        position += length
        last_tag = tag
    return fields


def encode_refused(refused: Refused) -> bytes:
    """The body of REFUSED: u16 code, then the text in UTF-8; a text over the limit is cut."""
    text = refused.text.encode()[:REFUSED_TEXT_BYTES_MAX]
    return _U16.pack(refused.code) + text.decode(errors="ignore").encode()


def decode_refused(body: Buffer) -> Refused:
    """The inverse. Raises CodecError."""
    view = memoryview(body)
    (code, position) = _decode_u16(view, 0)
    text = bytes(view[position : position + REFUSED_TEXT_BYTES_MAX])
    return Refused(code, shown(text.decode(errors="replace"), REFUSED_TEXT_BYTES_MAX))


def _decode_u16(view: memoryview, position: int) -> tuple[int, int]:
    if len(view) - position < 2:
        raise CodecError(f"peer frame body: cut off at {position}")
    (value,) = _U16.unpack_from(view, position)
    return value, position + 2


def _decode_name(view: memoryview, position: int) -> tuple[str, int]:
    (length, position) = _decode_u16(view, position)
    if length > NAME_BYTES_MAX or len(view) - position < length:
        raise CodecError(f"hello: a name of {length} bytes at {position}")
    try:
        text = str(view[position : position + length], "utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(f"hello: a name that is not UTF-8 at {position}") from error
    try:
        check_name(text)
    except ValueError as error:
        raise CodecError(f"hello: the name {text!a}: {error}") from error
    return text, position + length


def _check_address(address: str) -> None:
    if address:
        try:
            parse_address(address)
        except ValueError as error:
            raise CodecError(f"hello: the address {shown(address)!r}: {error}") from error


_CHECKSUM = struct.Struct("<I")
_AFTER_CHECKSUM = struct.Struct("<IIBBHQ")
_LENGTHS = struct.Struct("<II")
CHECKED_FROM = 4
"""Position of the first byte under the checksum."""

_U16 = struct.Struct("<H")
_HELLO = struct.Struct("<HHIQQQ")
_FIELD = struct.Struct("<BH")
_PROVES = 1
_REFUSES = 2
_HAS_DATA = 1
_IS_PROBE = 2
