"""What decoding costs in memory at its worst moment: as many bytes as its budget says, times a small number, whatever comes in."""

import gc
import tracemalloc
from collections.abc import Callable

import pytest
from test_lzw import deflate

from trio_eventlog import part_settings
from trio_eventlog.codec.batch import pack, unpack
from trio_eventlog.codec.lzw import inflate
from trio_eventlog.codec.memberlist import (
    COMPOUND,
    COMPRESSED,
    StreamDecoder,
    decode_packet,
    encode_gossip_message,
    encode_stream_message,
)
from trio_eventlog.codec.msgpack import pack as pack_map
from trio_eventlog.codec.peer_frame import FrameDecoder, FrameKind, FrameReader, encode_frame_head
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.messages import OWN_VERSIONS, Address, MemberRecord, PushPull, RowStatus, Suspect
from trio_eventlog.records import Compression
from trio_eventlog.rpc._purerpc import HPACKError
from trio_eventlog.rpc.headers import HeaderDecoder, HeaderListTooLarge
from trio_eventlog.settings import NodeSettings

KIB = 1 << 10
MIB = 1 << 20
OWN_BYTES = 64 * KIB
"""Of the decoder and its errors, whatever is decoded."""
LIMITS = part_settings.gossip_limits()
CHUNK_BYTES = part_settings.links(NodeSettings()).receive_chunk_bytes
LIST_BYTES_MAX = 32 * KIB


def peak_bytes(decode: Callable[[], object]) -> tuple[int, bool]:
    """The most memory that `decode` had at a time, its result included, and whether it took the input."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = decode()
        is_taken = True
        del kept
    except (CodecError, HPACKError, HeaderListTooLarge):
        is_taken = False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak, is_taken


def compressed(data: bytes) -> bytes:
    """As memberlist wraps what it compresses."""
    return bytes((COMPRESSED,)) + pack_map({"Algo": 0, "Buf": deflate(data)})


def compound(*parts: bytes) -> bytes:
    return bytes((COMPOUND, len(parts))) + b"".join(len(part).to_bytes(2, "big") for part in parts) + b"".join(parts)


@pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.GZIP])
@pytest.mark.parametrize(("size", "is_taken"), [(MIB, True), (MIB + 1, False), (64 * MIB, False)])
def test_a_compressed_batch(compression: Compression, size: int, is_taken: bool) -> None:
    """Up to its limit and far beyond: no more than twice the limit, of which the result is one."""
    payload = pack(bytes(size), compression)
    peak, taken = peak_bytes(lambda: unpack(payload, compression, MIB))
    assert taken is is_taken
    assert peak <= 2 * MIB + len(payload) + OWN_BYTES


@pytest.mark.parametrize(("size", "is_taken"), [(100 * KIB, True), (100 * KIB + 1, False), (400 * KIB, False)])
def test_a_compressed_message_of_gossip(size: int, is_taken: bool) -> None:
    """The table, the parts and the result: each up to the limit."""
    data = deflate(bytes(size))
    peak, taken = peak_bytes(lambda: inflate(data, 100 * KIB))
    assert taken is is_taken
    assert peak <= 4 * 100 * KIB + OWN_BYTES


def test_packets_of_gossip() -> None:
    """Bombs within compounds, and as many messages as one packet can name."""
    budget = LIMITS.packet_inflated_bytes_max
    bombs = compound(*[compressed(bytes(budget // 2))] * 8)
    suspect = encode_gossip_message(Suspect(name="a", incarnation=1, accuser="b"))
    many = compound(*[compressed(compound(*[suspect] * 255))] * 8)
    for packet in (bombs, many):
        peak, _ = peak_bytes(lambda packet=packet: decode_packet(packet, limits=LIMITS))  # type: ignore[misc]
        assert peak <= 4 * budget + OWN_BYTES


def test_a_stream_of_gossip() -> None:
    """A table of the smallest rows, as long as a stream may be, in pieces as they come."""
    row = MemberRecord(
        name="a", address=Address(bytes(4), 1), incarnation=1, status=RowStatus.ALIVE, meta=b"", versions=OWN_VERSIONS
    )
    data = encode_stream_message(PushPull(members=(row,) * LIMITS.members_max, is_join=True, state=None))

    def decode() -> object:
        decoder = StreamDecoder(is_accepting=True, limits=LIMITS)
        return [decoder.feed(data[start : start + 4096]) for start in range(0, len(data), 4096)]

    peak, taken = peak_bytes(decode)
    assert taken
    assert peak <= 8 * LIMITS.stream_bytes_max


@pytest.mark.parametrize("value_bytes", [0, 100, 4000])
def test_headers(value_bytes: int) -> None:
    """A header that is named once and then again and again, by one byte each."""
    value = bytes(value_bytes)
    length = bytes((value_bytes,)) if value_bytes < 127 else b"\x7f" + encoded_rest(value_bytes - 127)
    block = b"\x40\x01x" + length + value + b"\xbe" * (256 * KIB)
    decoder = HeaderDecoder(list_bytes_max=LIST_BYTES_MAX)
    peak, taken = peak_bytes(lambda: decoder.decode(block))
    assert not taken
    assert peak <= 8 * LIST_BYTES_MAX + OWN_BYTES


def encoded_rest(number: int) -> bytes:
    """Of an integer of HPACK, after its prefix."""
    rest = b""
    while number >= 128:
        rest += bytes((number % 128 + 128,))
        number //= 128
    return rest + bytes((number,))


@pytest.mark.parametrize("body_bytes", [0, 100, 60_000, 16 * MIB])
def test_frames_of_peers(body_bytes: int) -> None:
    """As many as one read takes in; of a large one that is not wanted, nothing."""
    frame = encode_frame_head(FrameKind.RAFT, 1, bytes(body_bytes))
    data = (frame * (CHUNK_BYTES // len(frame) + 1))[:CHUNK_BYTES]

    def decode() -> object:
        return FrameDecoder(16 * MIB, 64 * KIB).feed(data)

    def read() -> object:
        reader = FrameReader(16 * MIB, kept_body_bytes_max=64 * KIB)
        kept = []
        for start in range(0, CHUNK_BYTES, 4096):
            piece = data[start : start + 4096]
            while piece:
                (buffer, *_) = reader.buffers()
                count = min(len(buffer), len(piece))
                buffer[:count] = piece[:count]
                piece = piece[count:]
                kept.append(reader.received(count))
        return kept

    for take in (decode, read):
        peak, taken = peak_bytes(take)
        assert taken
        assert peak <= (40 if body_bytes < 100 else 8 if body_bytes < 1000 else 2) * CHUNK_BYTES + OWN_BYTES
