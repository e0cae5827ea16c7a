"""What a follower that fetches a snapshot reports to its leader, as the body of a frame on its link.

```
 0  u64  index of the snapshot
 8  u64  term of the snapshot
16  u64  bytes of frames that the manifest names and that are here
24  u64  bytes of frames that the manifest names
32  u8   1: under way; 2: failed, another snapshot is wanted
33  u8 0, u16 0, u32 0
```

Little-endian; the group id is in the frame's header.
"""

import enum
import struct

import attrs

from trio_eventlog.codec.peer_frame import Buffer
from trio_eventlog.errors import CodecError

_REPORT = struct.Struct("<QQQQBBHI")


class CatchUpState(enum.IntEnum):
    """The numbers are those of the wire."""

    UNDER_WAY = 1
    FAILED = 2


@attrs.frozen(slots=True, kw_only=True)
class CatchUpReport:
    """How far a follower is with a snapshot.

    Attributes:
        index, term: of the snapshot.
        received_bytes, total_bytes: of the frames that its manifest names; 0 of 0 while that is not known.
    """

    index: int
    term: int
    state: CatchUpState
    received_bytes: int = 0
    total_bytes: int = 0


def encode_catch_up_report(report: CatchUpReport) -> bytes:
    return _REPORT.pack(report.index, report.term, report.received_bytes, report.total_bytes, report.state, 0, 0, 0)


def decode_catch_up_report(body: Buffer) -> CatchUpReport:
    """The inverse. Raises CodecError."""
    if len(body) != _REPORT.size:
        raise CodecError(f"report of a catch-up: {len(body)} bytes, not {_REPORT.size}")
    (index, term, received_bytes, total_bytes, state, *zeros) = _REPORT.unpack(body)
    if state not in tuple(CatchUpState) or any(zeros) or received_bytes > total_bytes:
        raise CodecError(f"report of a catch-up: state {state}, {received_bytes} of {total_bytes} bytes")
    return CatchUpReport(index=index, term=term, state=CatchUpState(state), received_bytes=received_bytes, total_bytes=total_bytes)
