"""The payload of a CONTROL entry of a partition: what is to be done with the partition, on every replica alike.

```
 0  u8   kind
 1  u8   layout version of that kind
 2  the rest, by kind
```

Kind 1, version 1, moves the log start:

```
 2  u16  0
 4  u32  0
 8  u64  index of the last entry before the new start
16  u64  the smallest offset that stays readable
```

All numbers little-endian. Each command has one encoding.
"""

import struct

from trio_eventlog.bounds import INDEX_MAX, OFFSET_MAX
from trio_eventlog.errors import CodecError, NewerRelease
from trio_eventlog.machine.partition import LogStart

FEATURE_LEVEL = 2
"""From which level of the cluster on such entries may be proposed."""

_KIND_TRIM = 1
_VERSION = 1
_HEAD = struct.Struct("<BB")
_TRIM = struct.Struct("<BBHIQQ")


def encode_trim(start: LogStart) -> bytes:
    """See the layout above."""
    assert start.index <= INDEX_MAX
    assert start.offset <= OFFSET_MAX
    return _TRIM.pack(_KIND_TRIM, _VERSION, 0, 0, start.index, start.offset)


def decode_trim(payload: bytes | memoryview) -> LogStart:
    """The inverse of `encode_trim`.

    Raises:
        NewerRelease: a kind, or a version of it, that only a newer release knows.
        CodecError: no such bytes. As every replica sees the same bytes, all refuse them alike.
    """
    if len(payload) < _HEAD.size:
        raise CodecError(f"control entry of a partition: {len(payload)} bytes are no head")
    kind, version = _HEAD.unpack_from(payload)
    if kind == 0 or version == 0:
        raise CodecError(f"control entry of a partition: kind {kind}, version {version}")
    if kind > _KIND_TRIM or version > _VERSION:
        raise NewerRelease(f"control entry of a partition: kind {kind}, version {version}: a newer release has written it")
    if len(payload) != _TRIM.size:
        raise CodecError(f"control entry of a partition: {len(payload)} bytes, not {_TRIM.size}")
    _, _, zeros, more_zeros, index, offset = _TRIM.unpack(payload)
    if zeros or more_zeros or index > INDEX_MAX or offset > OFFSET_MAX:
        raise CodecError(f"control entry of a partition: log start at offset {offset} after entry {index}: beyond every bound")
    return LogStart(index, offset)
