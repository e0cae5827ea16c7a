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
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NO_CLUSTER, ClusterId, GroupId, NodeId

PROTOCOL_VERSION = 1
"""Of the frames and the hello; raised when a node of the version before could not make sense of them."""

FRAME_HEADER = struct.Struct("<IIIBBHQ")
FRAME_HEADER_BYTES = FRAME_HEADER.size
NAME_BYTES_MAX = 255
"""Longest cluster name, node name and address in a hello, in UTF-8 bytes."""
KNOWN_IDS_MAX = 256
"""Most node ids in a hello."""
REFUSED_TEXT_BYTES_MAX = 1024

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
    RAFT = 16
    """One Raft message without entries."""
    APPEND = 17
    """The header of an AppendEntries message (checked), then raw entry frames."""
    HEARTBEATS = 18
    """Raft messages of several groups; the group id of the frame is 0."""


class RefusedCode(enum.IntEnum):
    """Why a listener does not take a link."""

    PROTOCOL_VERSION = 1
    CLUSTER_NAME = 2
    CLUSTER_ID = 3
    SAME_NODE_ID = 4
    MALFORMED = 5
    WRONG_NODE = 6
    BUSY = 7


class Frame(NamedTuple):
    """One decoded frame. `body` views the receive buffer and keeps it alive: copy what is kept for long and small."""

    kind: int
    group_id: GroupId
    body: memoryview


@attrs.frozen(slots=True, kw_only=True)
class Hello:
    """Who a node is, as it says so on a new link. Its values change while the node lives (cluster id, known ids).

    Attributes:
        protocol_version: of the sender.
        cluster_name: both sides must have the same.
        cluster_id: 0 while the sender belongs to no cluster yet.
        node_id: never 0.
        node_name: for people.
        address: "host:port" where others reach the sender.
        bootstrap_expect: voters the sender waits for before it bootstraps; 0: never bootstraps.
        has_data: the sender's log is not empty.
        is_probe: the link ends after this exchange and carries no Raft.
        known_ids: bootstrap candidates the sender has heard of, itself included, sorted.
    """

    node_id: NodeId
    cluster_name: str
    node_name: str = ""
    address: str = ""
    cluster_id: ClusterId = NO_CLUSTER
    bootstrap_expect: int = 0
    has_data: bool = False
    is_probe: bool = False
    known_ids: tuple[NodeId, ...] = ()
    protocol_version: int = PROTOCOL_VERSION


@attrs.frozen(slots=True)
class Refused:
    """Why, as a code for programs and a text for people."""

    code: int
    text: str


def encode_frame_head(kind: int, group_id: int, head: Buffer = b"", tail_bytes: int = 0) -> bytes:
    """The header and the checked part of one frame whose body is `head` and then `tail_bytes` bytes sent right after it."""
    raise NotImplementedError


def encode_frame(kind: int, group_id: int, head: Buffer = b"", tail: Sequence[Buffer] = ()) -> list[Buffer]:
    """The buffers of one whole frame, to be sent one after the other; the buffers of `tail` are not copied.

    `head` is covered by the frame's checksum; `tail` must carry checksums of its own.
    """
    raise NotImplementedError


class FrameDecoder:
    """Bytes in, frames out; partial input is normal and any split of the bytes gives the same frames."""

    def __init__(self, body_bytes_max: int) -> None:
        raise NotImplementedError

    def feed(self, chunk: Buffer) -> list[Frame]:
        """The frames that `chunk` completes.

        Raises:
            CodecError: a checksum, a length over `body_bytes_max`, or fields that contradict each other. The stream is lost.
        """
        raise NotImplementedError

    @property
    def buffered_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        raise NotImplementedError


def encode_hello(hello: Hello) -> bytes:
    """The body of HELLO and HELLO_REPLY. Raises CodecError when a name or the list is over its limit."""
    raise NotImplementedError


def decode_hello(body: Buffer) -> Hello:
    """The inverse. Raises CodecError."""
    raise NotImplementedError


def encode_refused(refused: Refused) -> bytes:
    """The body of REFUSED; a text over the limit is cut."""
    raise NotImplementedError


def decode_refused(body: Buffer) -> Refused:
    """The inverse. Raises CodecError."""
    raise NotImplementedError


_ = (CodecError, crc32c)
