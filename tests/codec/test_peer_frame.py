"""Frames and hellos of peer links: golden bytes, any split, any damage."""

from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_eventlog.codec.lives import LIVES_MAX, Lives
from trio_eventlog.codec.peer_frame import (
    FIELD_BYTES_MAX,
    FRAME_HEADER_BYTES,
    KNOWN_IDS_MAX,
    NAME_BYTES_MAX,
    REFUSED_TEXT_BYTES_MAX,
    Frame,
    FrameDecoder,
    FrameKind,
    FrameReader,
    Hello,
    Refused,
    RefusedCode,
    decode_hello,
    decode_refused,
    encode_frame,
    encode_frame_head,
    encode_hello,
    encode_refused,
)
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import ClusterId, NodeId

GOLDEN = Path(__file__).parent / "golden"
LIMIT = 100_000

HELLO = Hello(
    node_id=NodeId(0x1122334455667788),
    cluster_name="prod",
    node_name="n1",
    address="10.0.0.1:8400",
    cluster_id=ClusterId(0xAABB),
    bootstrap_expect=3,
    has_data=True,
    is_probe=True,
    known_ids=(NodeId(1), NodeId(2), NodeId(0x1122334455667788)),
    expected_id=NodeId(2),
    lives=Lives(3, ((0x0A0B0C0D0E0F1011, 7), (2, 5), (1, 0))),
)
BEFORE_TAGS = attrs.evolve(HELLO, lives=None)

uint64s = st.integers(0, (1 << 64) - 1)
lives = st.lists(st.tuples(uint64s, uint64s), min_size=1, max_size=LIVES_MAX).flatmap(
    lambda chain: st.builds(Lives, st.integers(len(chain), (1 << 64) - 1), st.just(tuple(chain)))
)
ids = st.integers(1, (1 << 64) - 1).map(NodeId)
names = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=60)
addresses = st.just("") | st.builds(
    "{}:{}".format,
    st.from_regex("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?([.][a-z]{1,9})?", fullmatch=True) | st.just("[fd00::1]"),
    st.integers(0, 65535),
)
hellos = st.builds(
    Hello,
    node_id=ids,
    cluster_name=names,
    node_name=names,
    address=addresses,
    cluster_id=st.integers(0, (1 << 64) - 1).map(ClusterId),
    bootstrap_expect=st.integers(0, (1 << 32) - 1),
    has_data=st.booleans(),
    is_probe=st.booleans(),
    is_side=st.booleans(),
    known_ids=st.lists(ids, max_size=8).map(tuple),
    expected_id=st.integers(0, (1 << 64) - 1).map(NodeId),
    protocol_version=st.integers(0, 0xFFFF),
    oldest_protocol_version=st.integers(0, 0xFFFF),
    lives=st.none() | lives,
)
frames = st.tuples(st.integers(0, 255), st.integers(0, (1 << 64) - 1), st.binary(max_size=200), st.binary(max_size=400))


def encoded(kind: int, group_id: int, head: bytes, tail: bytes) -> bytes:
    return b"".join(encode_frame(kind, group_id, head, [tail[:7], tail[7:]]))


def plain(decoded: list[Frame]) -> list[tuple[int, int, bytes]]:
    return [(kind, group_id, bytes(body)) for kind, group_id, body in decoded]


def golden(name: str, data: bytes) -> None:
    assert data == bytes.fromhex((GOLDEN / name).read_text())


def test_golden_frame() -> None:
    golden("peer_frame.v1.hex", encoded(FrameKind.APPEND, 7, b"checked head", b"entries that check themselves"))


def test_golden_hello() -> None:
    golden("peer_hello.v1.tagged.hex", encode_hello(HELLO))


@pytest.mark.parametrize("oldest", [0, 7])
def test_hellos_of_releases_before_the_tagged_fields(oldest: int) -> None:
    """They end after the known ids, or after the oldest protocol version if there is one."""
    body = bytes.fromhex((GOLDEN / "peer_hello.v1.hex").read_text()) + (bytes((oldest, 0)) if oldest else b"")
    assert decode_hello(body) == attrs.evolve(BEFORE_TAGS, oldest_protocol_version=oldest)


def test_golden_refused() -> None:
    golden("peer_refused.v1.hex", encode_refused(Refused(RefusedCode.CLUSTER_NAME, "no")))


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 4000), max_size=12))
def test_any_split_decodes_alike(sent: list[tuple[int, int, bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(encoded(*frame) for frame in sent)
    decoder = FrameDecoder(LIMIT)
    got: list[tuple[int, int, bytes]] = []
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    start = 0
    for end in ends:
        got += plain(decoder.feed(data[start:end]))
        start = end
    assert got == [(kind, group_id, head + tail) for kind, group_id, head, tail in sent]
    assert decoder.buffered_bytes == 0


@given(st.lists(frames, min_size=1, max_size=3))
def test_byte_by_byte(sent: list[tuple[int, int, bytes, bytes]]) -> None:
    data = b"".join(encoded(*frame) for frame in sent)
    decoder = FrameDecoder(LIMIT)
    got = [frame for position in range(len(data)) for frame in plain(decoder.feed(data[position : position + 1]))]
    assert got == [(kind, group_id, head + tail) for kind, group_id, head, tail in sent]


@given(frames, st.data())
def test_every_flipped_bit_of_the_checked_part_is_noticed(frame: tuple[int, int, bytes, bytes], data: st.DataObject) -> None:
    """Either a CodecError, or the frame never ends (its length grew): it is never delivered."""
    good = bytearray(encoded(*frame))
    position = data.draw(st.integers(0, FRAME_HEADER_BYTES + len(frame[2]) - 1))
    good[position] ^= 1 << data.draw(st.integers(0, 7))
    decoder = FrameDecoder(LIMIT)
    try:
        assert decoder.feed(bytes(good)) == []
        assert decoder.buffered_bytes == len(good)
    except CodecError:
        pass


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for(data: bytes) -> None:
    decoder = FrameDecoder(LIMIT)
    try:
        assert decoder.feed(data) == []
    except CodecError:
        with pytest.raises(CodecError):
            decoder.feed(b"")


def read_by(reader: FrameReader, data: bytes, sizes: list[int]) -> list[tuple[int, int, bytes]]:
    """As a socket would fill the buffers, with reads of the given sizes (then as much as fits)."""
    got: list[Frame] = []
    turn = 0
    while data:
        buffers = reader.buffers()
        count = min(sizes[turn] if turn < len(sizes) else len(data), sum(map(len, buffers)), len(data))
        turn += 1
        rest = data[:count]
        for buffer in buffers:
            buffer[: len(rest)] = rest[: len(buffer)] if len(rest) > len(buffer) else rest
            rest = rest[len(buffer) :]
            if not rest:
                break
        data = data[count:]
        got += reader.received(count)
    return plain(got)


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 700), max_size=40), st.integers(FRAME_HEADER_BYTES, 300))
def test_a_reader_of_buffers_gives_the_same_frames(
    sent: list[tuple[int, int, bytes, bytes]], sizes: list[int], small_bytes: int
) -> None:
    data = b"".join(encoded(*frame) for frame in sent)
    got = read_by(FrameReader(LIMIT, small_bytes), data, sizes)
    assert got == [(kind, group_id, head + tail) for kind, group_id, head, tail in sent]


@given(st.binary(max_size=300), st.integers(FRAME_HEADER_BYTES, 300))
def test_a_reader_of_buffers_refuses_garbage_too(data: bytes, small_bytes: int) -> None:
    try:
        assert read_by(FrameReader(LIMIT, small_bytes), data, []) == []
    except CodecError:
        pass


def test_frames_of_a_reader_do_not_change_afterwards() -> None:
    """The small buffer is used again; the frames that went through it are copies."""
    reader = FrameReader(LIMIT)
    kept: list[Frame] = []
    for number in range(3):
        frame = encode_frame_head(FrameKind.RAFT, number, b"%d" % number * 100)
        reader.buffers()[0][: len(frame)] = frame
        kept += reader.received(len(frame))
    assert plain(kept) == [(FrameKind.RAFT, number, b"%d" % number * 100) for number in range(3)]


def test_the_limit_of_a_body_in_a_reader() -> None:
    assert len(read_by(FrameReader(1000), encode_frame_head(FrameKind.RAFT, 1, b"x" * 1000), [])) == 1
    with pytest.raises(CodecError, match="1001 bytes, the limit is 1000"):
        read_by(FrameReader(1000), encode_frame_head(FrameKind.RAFT, 1, b"x" * 1001)[:FRAME_HEADER_BYTES], [])


def test_a_frame_that_is_kept_keeps_no_chunk_alive() -> None:
    frame_bytes = encode_frame_head(FrameKind.RAFT, 1, b"x" * 1000)
    for frame in FrameDecoder(LIMIT).feed(frame_bytes * 2):
        assert len(frame.body.obj) == len(frame_bytes)


@given(st.lists(st.integers(0, 600), max_size=8), st.lists(st.integers(1, 700), max_size=20))
def test_long_frames_are_passed_over_while_they_are_not_wanted(sent: list[int], sizes: list[int]) -> None:
    """Whatever the pieces: frames up to the limit are all given, in order, longer ones only when they come whole, and no memory is
    taken for those that do not. From the moment on at which long ones are wanted, they are given too."""
    kept_max = 100
    data = b"".join(encode_frame_head(FrameKind.RAFT, number, bytes(size)) for number, size in enumerate(sent))
    for split in ([], sizes):
        decoder, reader = FrameDecoder(LIMIT, kept_max), FrameReader(LIMIT, 64, kept_max)
        got: list[Frame] = []
        position = 0
        for size in [*split, len(data)]:
            got += decoder.feed(data[position : position + size])
            assert decoder.buffered_bytes <= kept_max + FRAME_HEADER_BYTES
            position += size
        wanted = {number for number, size in enumerate(sent) if size <= kept_max}
        assert wanted <= {frame.group_id for frame in got}
        assert [frame.group_id for frame in got] == sorted(frame.group_id for frame in got)
        assert {group_id for _, group_id, _ in read_by(reader, data, list(split))} >= wanted
        decoder.kept_body_bytes_max = LIMIT
        long_frame = encode_frame_head(FrameKind.RAFT, 9, bytes(500))
        assert decoder.feed(long_frame[:50]) == []
        assert [frame.group_id for frame in decoder.feed(long_frame[50:])] == [9]
        reader.kept_body_bytes_max = LIMIT
        assert [group_id for _, group_id, _ in read_by(reader, long_frame, [30, 100])] == [9]


def test_the_limit_of_a_body() -> None:
    at_limit = encode_frame_head(FrameKind.RAFT, 1, b"x" * 1000)
    assert len(FrameDecoder(1000).feed(at_limit)) == 1
    with pytest.raises(CodecError, match="1001 bytes, the limit is 1000"):
        FrameDecoder(1000).feed(encode_frame_head(FrameKind.RAFT, 1, b"x" * 1001)[:FRAME_HEADER_BYTES])


def test_a_kind_of_a_later_release_is_a_frame_like_any_other() -> None:
    assert plain(FrameDecoder(LIMIT).feed(encode_frame_head(250, 3, b"?"))) == [(250, 3, b"?")]


def test_the_tail_is_not_under_the_checksum() -> None:
    damaged = bytearray(encoded(FrameKind.APPEND, 7, b"head", b"tail"))
    damaged[-1] ^= 1
    assert plain(FrameDecoder(LIMIT).feed(bytes(damaged))) == [(FrameKind.APPEND, 7, b"headtaim")]


@given(hellos)
def test_hello_and_back(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


@given(hellos, st.sets(st.integers(4, 255), max_size=4), st.binary(max_size=40))
def test_fields_of_a_later_release_are_ignored(hello: Hello, tags: set[int], value: bytes) -> None:
    more = b"".join(bytes((tag, len(value), 0)) + value for tag in sorted(tags))
    assert decode_hello(encode_hello(hello) + more) == hello


@given(hellos, st.data())
def test_tagged_fields_cut_short_are_refused(hello: Hello, data: st.DataObject) -> None:
    body = encode_hello(hello) + b"\xff\x05\x00later"
    before = len(body) - 8
    with pytest.raises(CodecError):
        decode_hello(body[: data.draw(st.integers(before + 1, len(body) - 1))])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (b"\x00\x00\x00", "tag 0 after one with tag 0"),
        (b"\x09\x00\x00\x08\x00\x00", "tag 8 after one with tag 9"),
        (b"\x09\x00\x00\x09\x00\x00", "tag 9 after one with tag 9"),
        (b"\x09\x01\x00", "tag 9 of 1 bytes"),
        (b"\x09" + (FIELD_BYTES_MAX + 1).to_bytes(2, "little") + bytes(FIELD_BYTES_MAX + 1), "tag 9 of 4097 bytes"),
        (b"\x01\x00\x00", "chain of lives: 0 bytes"),
        (b"\x01\x08\x00" + bytes(8), "chain of lives: 8 bytes"),
        (b"\x01\x19\x00" + bytes(25), "chain of lives: 25 bytes"),
        (b"\x01\x18\x00" + bytes(24), "life 0 with a chain of 1"),
        (b"\x01\x28\x00\x01" + bytes(39), "life 1 with a chain of 2"),
        (b"\x01\x18\x04" + bytes(8 + 16 * (LIVES_MAX + 1)), "chain of lives: 1048 bytes"),
    ],
)
def test_malformed_fields_are_refused(fields: bytes, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        decode_hello(encode_hello(BEFORE_TAGS) + fields)


@given(st.binary(max_size=60).map(lambda tail: encode_hello(BEFORE_TAGS) + tail))
def test_decoding_any_fields_is_total(body: bytes) -> None:
    try:
        hello = decode_hello(body)
    except CodecError:
        return
    assert decode_hello(encode_hello(hello)) == hello


def test_the_longest_field() -> None:
    field = b"\x09" + FIELD_BYTES_MAX.to_bytes(2, "little") + bytes(FIELD_BYTES_MAX)
    assert decode_hello(encode_hello(HELLO) + field) == HELLO


@given(hellos, st.data())
def test_a_hello_cut_short_is_refused(hello: Hello, data: st.DataObject) -> None:
    body = encode_hello(attrs.evolve(hello, lives=None, is_side=False))
    whole = len(body) - 2  # without the oldest protocol version it is one of a release that had none
    with pytest.raises(CodecError):
        decode_hello(body[: data.draw(st.integers(0, len(body) - 1).filter(lambda length: length != whole))])


@given(st.binary(max_size=200) | hellos.map(encode_hello).flatmap(lambda b: st.binary(max_size=40).map(lambda t: b[:30] + t)))
def test_decoding_a_hello_is_total(body: bytes) -> None:
    try:
        hello = decode_hello(body)
    except CodecError:
        return
    assert decode_hello(encode_hello(hello)) == hello


def test_the_limits_of_a_hello() -> None:
    at_limit = attrs.evolve(
        HELLO,
        cluster_name="ä" * (NAME_BYTES_MAX // 2),
        known_ids=tuple(NodeId(n + 1) for n in range(KNOWN_IDS_MAX)),
        lives=Lives((1 << 64) - 1, ((1, 2),) * LIVES_MAX),
    )
    assert decode_hello(encode_hello(at_limit)) == at_limit
    with pytest.raises(CodecError, match="256 bytes, the limit is 255"):
        encode_hello(attrs.evolve(HELLO, node_name="x" * (NAME_BYTES_MAX + 1)))
    with pytest.raises(CodecError, match="257 known ids, the limit is 256"):
        encode_hello(attrs.evolve(HELLO, known_ids=(NodeId(1),) * (KNOWN_IDS_MAX + 1)))


def test_a_hello_of_nobody_is_refused() -> None:
    with pytest.raises(CodecError, match="node id 0"):
        decode_hello(encode_hello(attrs.evolve(HELLO, node_id=NodeId(0))))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("address", "x", "not an address"),
        ("address", "x:", "not an address"),
        ("address", "x:99999", "not an address"),
        ("address", "x:\N{ARABIC-INDIC DIGIT FOUR}", "not an address"),
        ("address", "a b:1", "not an address"),
        ("address", "a..b:1", "not an address"),
        ("address", f"{'x' * 64}:1", "not an address"),
        ("address", "a/b:1", "not an address"),
        ("address", "a\nb:1", "cannot be printed"),
        ("node_name", "n1\nERROR the disk is full", "cannot be printed"),
        ("node_name", "n1\x1b[2J", "cannot be printed"),
        ("node_name", "n1\u202e", "cannot be printed"),
        ("cluster_name", "a\x00b", "cannot be printed"),
        ("known_ids", (NodeId(0),), "node id 0 among the known ids"),
    ],
)
def test_what_a_hello_says_is_checked(name: str, value: object, why: str) -> None:
    """Nobody behind the decoder meets an address that cannot be taken apart, or a name that begins a line of a log."""
    with pytest.raises(CodecError, match=why):
        decode_hello(encode_hello(attrs.evolve(HELLO, **{name: value})))  # type: ignore[arg-type]


def test_a_refusal_begins_no_line_of_a_log() -> None:
    assert decode_refused(encode_refused(Refused(RefusedCode.BUSY, "no\n\x1b[2J"))).text == "no\\n\\x1b[2J"


def test_refused_and_back() -> None:
    refused = Refused(RefusedCode.CLUSTER_ID, "you belong to another: ü")
    assert decode_refused(encode_refused(refused)) == refused


def test_a_long_refusal_is_cut_between_characters() -> None:
    text = decode_refused(encode_refused(Refused(RefusedCode.BUSY, "x" + "ü" * REFUSED_TEXT_BYTES_MAX))).text
    assert text == "x" + "ü" * ((REFUSED_TEXT_BYTES_MAX - 1) // 2)


@given(st.binary(max_size=50))
def test_decoding_a_refusal_is_total(body: bytes) -> None:
    try:
        decode_refused(body)
    except CodecError:
        assert len(body) < 2
