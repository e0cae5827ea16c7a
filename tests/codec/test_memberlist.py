"""memberlist and Serf on the wire: bytes captured from other implementations, round trips, splits, damage, bounds."""

import random
import struct
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_eventlog.codec import memberlist
from trio_eventlog.codec.gossip_crypto import KEYS_MAX, Keyring, decode_key, encode_key, format_key_file, parse_key_file
from trio_eventlog.codec.memberlist import (
    COMPOUND,
    LABEL_BYTES_MAX,
    Packet,
    WireLimits,
    decode_gossip_message,
    encode_gossip_message,
    encode_label,
    encode_packet,
    encode_stream_message,
    packet_overhead_bytes,
)
from trio_eventlog.codec.msgpack import pack
from trio_eventlog.codec.serf import (
    ORIGIN_PAYLOAD,
    Coordinate,
    decode_conflict_answer,
    decode_coordinate,
    decode_key_answer,
    decode_key_request,
    decode_serf,
    decode_serf_state,
    decode_tags,
    encode_conflict_answer,
    encode_coordinate,
    encode_key_answer,
    encode_key_request,
    encode_serf,
    encode_serf_state,
    encode_tags,
)
from trio_eventlog.errors import CodecError, SettingsError
from trio_eventlog.gossip.messages import (
    OWN_VERSIONS,
    Ack,
    Address,
    Alive,
    ConflictAnswer,
    Dead,
    ErrorText,
    EventsAt,
    IndirectPing,
    JoinIntent,
    KeyAnswer,
    LeaveIntent,
    MemberRecord,
    Message,
    Nack,
    NameFilter,
    Ping,
    PushPull,
    Query,
    QueryResponse,
    Relay,
    RowStatus,
    SerfState,
    StreamMessage,
    Suspect,
    TagFilter,
    UserBytes,
    UserEvent,
    UserMessage,
    Versions,
)
from trio_eventlog.testing.defaults import default

LIMITS = default(WireLimits)
decode_packet = partial(memberlist.decode_packet, limits=LIMITS)
StreamDecoder = partial(memberlist.StreamDecoder, limits=LIMITS)

LOOPBACK = bytes((127, 0, 0, 1))
NACK_BYTES = bytes.fromhex("0b81a55365714e6fcdab0c")
KEY = bytes(range(16))


class ZeroNonce(random.Random):
    """Nonces of zeros, for vectors."""

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


GOLDEN: list[tuple[str, str, Message]] = [
    (
        "ping",
        "0085a44e6f6465a3707931a55365714e6f01aa536f7572636541646472a47f000001aa536f757263654e6f6465a27332aa536f75726365506f7274cd4624",
        Ping(sequence=1, target="py1", source=Address(LOOPBACK, 17956), source_name="s2"),
    ),
    (
        "indirect ping",
        (
            "0188a44e61636bc3a44e6f6465a27332a4506f7274cd4624a55365714e6f06aa536f7572636541646472a47f000001aa536f757263654e6f6465a27331"
            "aa536f75726365506f7274cd461aa6546172676574a47f000001"
        ),
        IndirectPing(
            sequence=6,
            target="s2",
            address=Address(LOOPBACK, 17956),
            wants_nack=True,
            source=Address(LOOPBACK, 17946),
            source_name="s1",
        ),
    ),
    ("nack", NACK_BYTES.hex(), Nack(0xAB0C)),
    (
        "alive",
        (
            "0486a441646472a47f000001ab496e6361726e6174696f6e01a44d657461a9ff81a4726f6c65a178a44e6f6465a27331a4506f7274cd461a"
            "a356736ea6010502020505"
        ),
        Alive(
            name="s1",
            incarnation=1,
            address=Address(LOOPBACK, 17946),
            meta=bytes.fromhex("ff81a4726f6c65a178"),
            versions=OWN_VERSIONS,
        ),
    ),
    (
        "suspect",
        "0383a446726f6da27331ab496e6361726e6174696f6e01a44e6f6465a27332",
        Suspect(name="s2", incarnation=1, accuser="s1"),
    ),
    ("left", "0583a446726f6da27332ab496e6361726e6174696f6e02a44e6f6465a27332", Dead(name="s2", incarnation=2, accuser="s2")),
    ("join intent", "080182a54c54696d6501a44e6f6465a3707931", UserMessage(JoinIntent(time=1, name="py1"))),
    (
        "leave intent",
        "080083a54c54696d6503a44e6f6465a27332a55072756e65c2",
        UserMessage(LeaveIntent(time=3, name="s2")),
    ),
    (
        "event",
        "080384a24343c3a54c54696d6501a44e616d65a26576a75061796c6f6164a3706179",
        UserMessage(UserEvent(time=1, name="ev", payload=b"pay", coalesce=True)),
    ),
    (
        "query",
        (
            "08048ba441646472a47f000001a746696c74657273c0a5466c61677301a24944ce490a242ba54c54696d6501a44e616d65a171a75061796c6f6164a170"
            "a4506f7274cd461aab52656c6179466163746f7200aa536f757263654e6f6465a27331a754696d656f7574ce3b9aca00"
        ),
        UserMessage(
            Query(
                time=1,
                query_id=0x490A242B,
                source=Address(LOOPBACK, 17946),
                source_name="s1",
                name="q",
                payload=b"p",
                flags=1,
                timeout_seconds=1.0,
            )
        ),
    ),
    (
        "relay",
        (
            "080982a8446573744164647283a24950a47f000001a4506f7274cd461aa45a6f6e65a0a8446573744e616d65a27330"
            "0585a5466c61677301a446726f6da27331a24944ce6426cc93a54c54696d6503a75061796c6f6164c0"
        ),
        UserMessage(
            Relay(
                address=Address(LOOPBACK, 17946),
                name="s0",
                body=bytes.fromhex("0585a5466c61677301a446726f6da27331a24944ce6426cc93a54c54696d6503a75061796c6f6164c0"),
            )
        ),
    ),
]


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in GOLDEN], ids=[row[0] for row in GOLDEN])
def test_golden_messages(data: str, message: Message) -> None:
    """Captured from running agents: read and written byte for byte."""
    assert decode_gossip_message(bytes.fromhex(data)) == message
    assert encode_gossip_message(message).hex() == data


def test_golden_ack_with_coordinate() -> None:
    """The origin, as the agent sends it."""
    expected = (
        "0282a75061796c6f6164da008201"
        "84aa41646a7573746d656e74cb0000000000000000a54572726f72cb3ff8000000000000a6486569676874cb3ee4f8b588e368f1"
        "a356656398" + "cb0000000000000000" * 8 + "a55365714e6fcdab06"
    )
    ack = Ack(0xAB06, ORIGIN_PAYLOAD)
    assert encode_gossip_message(ack).hex() == expected
    assert decode_gossip_message(bytes.fromhex(expected)) == ack
    assert decode_coordinate(ORIGIN_PAYLOAD) == Coordinate()


def test_golden_relayed_response() -> None:
    """What the relay vector carries is a query's ack."""
    relay = GOLDEN[-1][2]
    assert isinstance(relay, UserMessage)
    assert isinstance(relay.message, Relay)
    assert decode_serf(relay.message.body) == QueryResponse(time=3, query_id=0x6426CC93, sender="s1", flags=1)


def test_golden_checksum() -> None:
    """A packet with a checksum is read and written; a wrong one is refused."""
    ping = bytes.fromhex(GOLDEN[0][1])
    packet = encode_packet([ping], with_checksum=True)
    assert packet.hex() == "0cc2eca63e" + ping.hex()
    assert decode_packet(packet) == Packet((GOLDEN[0][2],))
    assert decode_packet(ping) == Packet((GOLDEN[0][2],))
    for position in range(1, len(packet)):
        damaged = bytearray(packet)
        damaged[position] ^= 1
        with pytest.raises(CodecError, match="checksum"):
            decode_packet(bytes(damaged))


def test_golden_compound() -> None:
    """A nack and a join intent in one packet."""
    join = bytes.fromhex("080182a54c54696d6501a44e6f6465a3707931")
    packet = encode_packet([NACK_BYTES, join])
    assert packet.hex() == "0702000b0013" + NACK_BYTES.hex() + join.hex()
    expected = (Nack(0xAB0C), UserMessage(JoinIntent(time=1, name="py1")))
    assert decode_packet(packet) == Packet(expected)
    assert decode_packet(packet[:-1]) == Packet(expected[:1]), "of a truncated compound, what is whole counts"
    with pytest.raises(CodecError):
        decode_packet(packet[:4])


def test_golden_encryption() -> None:
    """Zero nonce, known key: datagram, stream, stream with a label."""
    keyring = Keyring([KEY], ZeroNonce())
    nonce = "00" * 12
    packet = encode_packet([NACK_BYTES], keyring=keyring)
    assert packet.hex() == "01" + nonce + "42572200fceae8e32e2276" + "a0d7fe274520b53ac8439e03714814b3"
    assert decode_packet(packet, keyring=keyring) == Packet((Nack(0xAB0C),))
    # The vectors of streams carry a nack, which no stream really does: check the sealing itself.
    header = bytes.fromhex("0a00000028")
    assert keyring.seal(NACK_BYTES, header).hex() == "01" + nonce + "42572200fceae8e32e2276" + "01ed80b8eb8b98c582eabaacd452090b"
    labelled = keyring.seal(NACK_BYTES, header + b"blue")
    assert labelled.hex() == "01" + nonce + "42572200fceae8e32e2276" + "84501e3a4c9c430f2b1d3f6b0f017a4d"
    assert encode_label(b"blue").hex() == "f404626c7565"


JOIN_REQUEST = bytes.fromhex(
    "0683a54e6f64657301ac5573657253746174654c656e49a44a6f696ec3"
    "87a44e616d65a3707931a441646472a47f000001a4506f7274cd461fa44d657461a6ff81a16ba176ab496e6361726e6174696f6e01"
    "a5537461746500a356736ea6010502020505"
    "0286a54c54696d6501ac5374617475734c54696d657381a370793100ab4c6566744d656d6265727390aa4576656e744c54696d6501"
    "a64576656e747390aa51756572794c54696d6501"
)
JOIN_VALUE = PushPull(
    is_join=True,
    members=(
        MemberRecord(
            name="py1",
            address=Address(LOOPBACK, 17951),
            incarnation=1,
            status=RowStatus.ALIVE,
            meta=encode_tags({"k": "v"}),
            versions=OWN_VERSIONS,
        ),
    ),
    state=SerfState(time=1, status_times={"py1": 0}, event_time=1, query_time=1),
)


def decode_stream(data: bytes, **arguments: object) -> StreamMessage | None:
    """All of `data` at once, as an acceptor."""
    return StreamDecoder(is_accepting=True, **arguments).feed(data)  # type: ignore[arg-type]


def test_golden_join_request() -> None:
    """A join request that an agent accepted, and the same again in our order of keys."""
    assert decode_stream(JOIN_REQUEST) == JOIN_VALUE
    assert decode_stream(encode_stream_message(JOIN_VALUE)) == JOIN_VALUE
    assert len(encode_stream_message(JOIN_VALUE)) == len(JOIN_REQUEST)


# --- Round trips. ---

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
u16 = st.integers(0, (1 << 16) - 1)
u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
addresses = st.builds(Address, st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16), u16)
sources = st.none() | st.builds(Address, st.binary(min_size=4, max_size=4), st.integers(1, (1 << 16) - 1))
versions = st.builds(Versions, *[st.integers(0, 255)] * 6)
payloads = st.binary(max_size=100)
filters = st.builds(NameFilter, st.lists(names, max_size=3).map(tuple)) | st.builds(TagFilter, names, names)
serf_messages = st.one_of(
    st.builds(LeaveIntent, time=u64, name=names, prune=st.booleans()),
    st.builds(JoinIntent, time=u64, name=names),
    st.builds(UserEvent, time=u64, name=names, payload=payloads, coalesce=st.booleans()),
    st.builds(
        Query,
        time=u64,
        query_id=u32,
        source=addresses,
        source_name=names,
        name=names,
        payload=payloads,
        filters=st.lists(filters, max_size=3).map(tuple),
        flags=st.integers(0, 3),
        relay_factor=st.integers(0, 255),
        timeout_seconds=st.integers(0, 10_000).map(lambda ms: ms / 1000),
    ),
    st.builds(QueryResponse, time=u64, query_id=u32, sender=names, flags=st.integers(0, 1), payload=payloads),
    st.builds(Relay, address=addresses, name=names, body=payloads),
)
messages = st.one_of(
    st.builds(Ping, sequence=u32, target=names),
    st.builds(Ping, sequence=u32, target=names, source=sources.filter(bool), source_name=names),
    st.builds(
        IndirectPing,
        sequence=u32,
        target=names,
        address=addresses,
        wants_nack=st.booleans(),
        source=sources.filter(bool),
        source_name=names,
    ),
    st.builds(Ack, u32, payloads),
    st.builds(Nack, u32),
    st.builds(Suspect, name=names, incarnation=u32, accuser=names),
    st.builds(Dead, name=names, incarnation=u32, accuser=names),
    st.builds(Alive, name=names, incarnation=u32, address=addresses, meta=st.binary(max_size=512), versions=versions),
    st.builds(UserMessage, serf_messages),
)
states = st.builds(
    SerfState,
    time=u64,
    status_times=st.dictionaries(names, u64, max_size=5),
    left_members=st.lists(names, max_size=3).map(tuple),
    event_time=u64,
    events=st.lists(st.builds(EventsAt, u64, st.lists(st.tuples(names, payloads), max_size=3).map(tuple)), max_size=3).map(tuple),
    query_time=u64,
)
push_pulls = st.builds(
    PushPull,
    members=st.lists(
        st.builds(
            MemberRecord,
            name=names,
            address=addresses,
            incarnation=u32,
            status=st.sampled_from(RowStatus),
            meta=payloads,
            versions=versions,
        ),
        max_size=5,
    ).map(tuple),
    is_join=st.booleans(),
    state=st.none() | states,
)
stream_messages = st.one_of(
    push_pulls,
    st.builds(Ping, sequence=u32, target=names),
    st.builds(Ack, u32, payloads),
    st.builds(UserMessage, serf_messages),
    st.builds(ErrorText, names),
)
labels = st.binary(max_size=20)


@given(messages)
def test_message_round_trip(message: Message) -> None:
    """Every kind of message comes back."""
    assert decode_gossip_message(encode_gossip_message(message)) == message


@given(st.lists(messages, min_size=1, max_size=20), st.booleans(), labels, st.booleans())
def test_packet_round_trip(content: list[Message], with_checksum: bool, label: bytes, is_encrypted: bool) -> None:
    """Compound, checksum, encryption and label, in every combination; the overhead is what it says."""
    keyring = Keyring([KEY], random.Random(1)) if is_encrypted else None
    encoded = [encode_gossip_message(one) for one in content]
    packet = encode_packet(encoded, with_checksum=with_checksum, label=label, keyring=keyring)
    assert decode_packet(packet, label=label, keyring=keyring) == Packet(tuple(content))
    overhead = packet_overhead_bytes(label, is_encrypted=is_encrypted)
    assert len(packet) <= overhead + 2 + sum(2 + len(one) for one in encoded)


@settings(max_examples=60)
@given(stream_messages, labels, st.booleans(), st.data())
def test_stream_round_trip(message: StreamMessage, label: bytes, is_encrypted: bool, data: st.DataObject) -> None:
    """Any split of the bytes gives the same message, and not before the last byte."""
    keyring = Keyring([KEY], random.Random(1)) if is_encrypted else None
    body = encode_stream_message(message, label=label, keyring=keyring)
    for is_accepting in (True, False):
        sent = encode_label(label) + body if is_accepting else body
        decoder = StreamDecoder(is_accepting=is_accepting, label=label, keyring=keyring)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
        pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        results = [decoder.feed(piece) for piece in pieces]
        found = [result for result in results if result is not None]
        assert found
        assert found[0] == message
        whole_at = results.index(found[0])
        assert sum(map(len, pieces[: whole_at + 1])) == len(sent)


def test_stream_one_byte_at_a_time() -> None:
    """The join request, byte by byte."""
    decoder = StreamDecoder(is_accepting=True)
    for byte in JOIN_REQUEST[:-1]:
        assert decoder.feed(bytes((byte,))) is None
    assert decoder.feed(JOIN_REQUEST[-1:]) == JOIN_VALUE


@given(states)
def test_state_round_trip(state: SerfState) -> None:
    """The upper layer's part of a push/pull."""
    assert decode_serf_state(encode_serf_state(state)) == state


# --- Any bytes. ---


@given(st.binary(max_size=300))
def test_any_bytes_in_a_packet(data: bytes) -> None:
    """Messages or CodecError."""
    try:
        decode_packet(data)
    except CodecError:
        pass


@settings(max_examples=300)
@given(st.integers(0, 13), st.dictionaries(st.sampled_from([
    "SeqNo", "Node", "From", "Addr", "Port", "Meta", "Vsn", "Incarnation", "Payload", "Target", "Nack", "Algo", "Buf",
    "SourceAddr", "SourcePort", "LTime", "Nodes", "UserStateLen", "Join", "Name", "State", "UserMsgLen", "Error",
]), st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=20) | st.lists(st.integers(0, 9))),
    st.binary(max_size=30))  # fmt: skip
def test_any_fields(code: int, fields: dict[str, object], tail: bytes) -> None:
    """Well-formed maps with ill-formed fields, as packet, stream and layer message."""
    data = bytes((code,)) + pack(fields) + tail
    for decode in (decode_packet, decode_stream, decode_serf):
        try:
            decode(data)
        except CodecError:
            pass


@given(messages, st.data())
def test_damaged_messages(message: Message, data: st.DataObject) -> None:
    """A flipped byte gives another message or CodecError."""
    encoded = bytearray(encode_gossip_message(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_packet(bytes(encoded))
    except CodecError:
        pass


@given(push_pulls, st.data())
def test_damaged_push_pulls(message: PushPull, data: st.DataObject) -> None:
    """The same on a stream."""
    encoded = bytearray(encode_stream_message(message))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_stream(bytes(encoded))
    except CodecError:
        pass


@given(st.binary(max_size=100))
def test_any_bytes_elsewhere(data: bytes) -> None:
    """Tags, states, coordinates, payloads of internal queries."""
    for decode in (
        decode_tags,
        decode_serf_state,
        decode_coordinate,
        decode_key_request,
        decode_key_answer,
        decode_conflict_answer,
    ):
        for prefix in (b"", b"\x01", b"\x02", b"\x06", b"\x07", b"\x08", b"\xff"):
            try:
                decode(prefix + data)
            except CodecError:
                pass


# --- Layers and bounds. ---


def compressed(plain: bytes, algorithm: int = 0) -> bytes:
    """A compressed message whose LZW has literals only."""
    bits = [256, *plain, 257]
    # 9 bits each hold for the first 254 literals.
    assert len(plain) < 250
    number = 0
    for position, code in enumerate(bits):
        number |= code << (9 * position)
    return b"\x09" + pack({"Algo": algorithm, "Buf": number.to_bytes((9 * len(bits) + 7) // 8, "little")})


def test_compressed() -> None:
    """Packets and streams are inflated; other algorithms and too much depth are refused."""
    packet = compressed(NACK_BYTES)
    assert decode_packet(packet) == Packet((Nack(0xAB0C),))
    assert decode_packet(compressed(encode_packet([NACK_BYTES, NACK_BYTES]))) == Packet((Nack(0xAB0C), Nack(0xAB0C)))
    ping = encode_gossip_message(Ping(sequence=1, target="a"))
    decoder = StreamDecoder(is_accepting=True)
    body = compressed(ping)
    assert decoder.feed(body[:-1]) is None
    assert decoder.feed(body[-1:]) == Ping(sequence=1, target="a")
    with pytest.raises(CodecError, match="unknown way"):
        decode_packet(compressed(NACK_BYTES, algorithm=1))
    for _ in range(3):
        packet = encode_packet([packet, NACK_BYTES])
    assert decode_packet(packet).dropped == 0
    with pytest.raises(CodecError, match="layers"):
        decode_packet(encode_packet([packet, NACK_BYTES]))
    with pytest.raises(CodecError, match="not whole"):
        decode_stream(compressed(ping[:-1]))


def test_inflation_is_bounded() -> None:
    """A bomb stops at the limit, in packets and on streams."""
    plain = encode_gossip_message(Ack(1, bytes(100)))
    limits = default(WireLimits, packet_inflated_bytes_max=len(plain), stream_inflated_bytes_max=len(plain))
    less = default(WireLimits, packet_inflated_bytes_max=len(plain) - 1, stream_inflated_bytes_max=len(plain) - 1)
    assert decode_packet(compressed(plain), limits=limits).messages == (Ack(1, bytes(100)),)
    assert decode_stream(compressed(plain), limits=limits) == Ack(1, bytes(100))
    with pytest.raises(CodecError, match="come out"):
        decode_packet(compressed(plain), limits=less)
    with pytest.raises(CodecError, match="come out"):
        decode_stream(compressed(plain), limits=less)


def test_a_compound_of_bombs_is_no_more_than_one() -> None:
    """Parts and layers inflate to no more together than the packet may."""
    plain = encode_gossip_message(Ack(1, bytes(100)))
    limits = default(WireLimits, packet_inflated_bytes_max=2 * len(plain))
    bomb = compressed(plain)
    assert len(decode_packet(encode_packet([bomb, bomb]), limits=limits).messages) == 2
    for bombs in (encode_packet([bomb] * 3), encode_packet([bomb, encode_packet([bomb, bomb])])):
        with pytest.raises(CodecError, match="come out"):
            decode_packet(bombs, limits=limits)
    outer = compressed(compressed(NACK_BYTES))
    inner_bytes = len(compressed(NACK_BYTES)) + len(NACK_BYTES)
    assert decode_packet(outer, limits=default(WireLimits, packet_inflated_bytes_max=inner_bytes)).messages
    with pytest.raises(CodecError, match="come out"):
        decode_packet(outer, limits=default(WireLimits, packet_inflated_bytes_max=inner_bytes - 1))


def test_seals_and_labels_are_taken_off_once() -> None:
    """A seal within a seal, a label within a label, are no messages."""
    keyring = Keyring([KEY], random.Random(1))
    sealed = encode_packet([NACK_BYTES], keyring=keyring)
    with pytest.raises(CodecError):
        decode_packet(keyring.seal(sealed, b""), keyring=keyring)
    labelled = encode_packet([NACK_BYTES], label=b"blue")
    with pytest.raises(CodecError):
        decode_packet(encode_label(b"blue") + labelled, label=b"blue")
    with pytest.raises(CodecError):
        decode_packet(encode_packet([encode_packet([NACK_BYTES], with_checksum=True)], with_checksum=True))


def test_packet_bounds() -> None:
    """So many messages and no more, also in compounds of compounds."""
    limits = default(WireLimits, packet_messages_max=255)
    assert len(decode_packet(encode_packet([NACK_BYTES] * 255), limits=limits).messages) == 255
    with pytest.raises(CodecError, match="256 messages"):
        encode_packet([NACK_BYTES] * 256)
    nested = encode_packet([encode_packet([NACK_BYTES] * 128), encode_packet([NACK_BYTES] * 128)])
    with pytest.raises(CodecError, match="too many"):
        decode_packet(nested, limits=limits)
    with pytest.raises(CodecError):
        encode_packet([])


def test_stream_bounds() -> None:
    """Bytes, rows, bytes of a row, bytes of the state, an encrypted length."""
    exact = default(WireLimits, stream_bytes_max=len(JOIN_REQUEST), members_max=1)
    assert decode_stream(JOIN_REQUEST, limits=exact) == JOIN_VALUE
    for limits in (default(WireLimits, stream_bytes_max=len(JOIN_REQUEST) - 1), default(WireLimits, members_max=0)):
        with pytest.raises(CodecError):
            decode_stream(JOIN_REQUEST, limits=limits)
    header = {"Nodes": 1, "UserStateLen": 0, "Join": True}
    with pytest.raises(CodecError, match="a row of more"):
        decode_stream(b"\x06" + pack(header) + b"\x81\xa1x\xdb\x00\x00\x20\x00" + bytes(8190))
    with pytest.raises(CodecError, match="a state of"):
        decode_stream(b"\x06" + pack({**header, "UserStateLen": 1 << 30}))
    with pytest.raises(CodecError, match="rows"):
        decode_stream(b"\x06" + pack({**header, "Nodes": 1 << 30}))
    with pytest.raises(CodecError):
        decode_stream(b"\x06" + pack({**header, "Nodes": -1}))
    keyring = Keyring([KEY], random.Random(1))
    with pytest.raises(CodecError, match="encrypted message of"):
        decode_stream(b"\x0a\xff\xff\xff\xff", keyring=keyring)
    with pytest.raises(CodecError, match="a message of"):
        decode_stream(b"\x09\x81\xa3Buf\xdb\xff\xff\xff\xff")
    with pytest.raises(CodecError, match="user message of"):
        decode_stream(b"\x08" + pack({"UserMsgLen": 1 << 20}))


@pytest.mark.parametrize("code", [1, 3, 4, 5, 7, 11, 12, 14, 100])
def test_packet_types_do_not_travel_on_streams(code: int) -> None:
    """What only packets carry, and unknown types."""
    with pytest.raises(CodecError, match="of type"):
        decode_stream(bytes((code,)) + pack({}))


@pytest.mark.parametrize("code", [6, 10, 13, 14, 244])
def test_stream_types_do_not_travel_in_packets(code: int) -> None:
    """The other way round; one bad part of a compound costs only itself."""
    bad = bytes((code,)) + pack({})
    with pytest.raises(CodecError):
        decode_packet(bad)
    assert decode_packet(encode_packet([NACK_BYTES, bad, NACK_BYTES])) == Packet((Nack(0xAB0C), Nack(0xAB0C)), 1)


def test_labels() -> None:
    """Only packets and streams with exactly our label are read."""
    ping = Ping(sequence=1, target="a")
    body = encode_stream_message(ping)
    for ours, theirs in ((b"", b"blue"), (b"blue", b""), (b"blue", b"blu"), (b"blu", b"blue"), (b"red!", b"blue")):
        with pytest.raises(CodecError, match="label"):
            decode_packet(encode_packet([NACK_BYTES], label=theirs), label=ours)
        with pytest.raises(CodecError, match="label"):
            decode_stream(encode_label(theirs) + body, label=ours)
    assert len(encode_label(bytes(LABEL_BYTES_MAX))) == 257
    with pytest.raises(CodecError):
        encode_label(bytes(LABEL_BYTES_MAX + 1))
    assert StreamDecoder(is_accepting=False, label=b"blue").feed(body) == ping, "an answer carries no label"


def test_keyring() -> None:
    """Rotation: install, use, remove; plaintext and wrong keys are refused."""
    (one, two, three) = (bytes([number]) * 32 for number in (1, 2, 3))
    rng = random.Random(5)
    ring = Keyring([one], rng)
    other = Keyring([two, one], rng)
    packet = encode_packet([NACK_BYTES], keyring=ring)
    assert decode_packet(packet, keyring=other) == Packet((Nack(0xAB0C),))
    with pytest.raises(CodecError, match="no installed key"):
        decode_packet(encode_packet([NACK_BYTES], keyring=other), keyring=ring)
    with pytest.raises(CodecError, match="not encrypted"):
        decode_packet(NACK_BYTES, keyring=ring)
    with pytest.raises(CodecError):
        decode_packet(packet)
    ring.install(two)
    ring.install(two)
    assert ring.keys == (one, two)
    ring.use(two)
    assert ring.primary == two
    assert decode_packet(encode_packet([NACK_BYTES], keyring=ring), keyring=other) == Packet((Nack(0xAB0C),))
    with pytest.raises(SettingsError, match="primary"):
        ring.remove(two)
    with pytest.raises(SettingsError, match="not in the keyring"):
        ring.use(three)
    ring.remove(one)
    ring.remove(three)
    assert ring.keys == (two,)
    with pytest.raises(CodecError):
        decode_packet(packet, keyring=ring)
    with pytest.raises(SettingsError, match="16, 24 or 32"):
        ring.install(b"short")
    with pytest.raises(SettingsError, match="at least one"):
        Keyring([], rng)
    for number in range(KEYS_MAX - 1):
        ring.install(number.to_bytes(16, "big"))
    with pytest.raises(SettingsError, match="installed already"):
        ring.install(three)


def test_padded_version_is_read() -> None:
    """The first protocol version padded its plaintext."""
    ring = Keyring([KEY], ZeroNonce())
    padded = NACK_BYTES + bytes([5]) * 5
    blob = b"\x00" + ring.seal(padded, b"")[1:]
    assert ring.open(blob, b"") == NACK_BYTES
    for wrong in (b"", NACK_BYTES[:-1] + b"\x00", bytes(3) + b"\x11"):
        with pytest.raises(CodecError, match="padding"):
            ring.open(b"\x00" + ring.seal(wrong, b"")[1:], b"")


@given(st.binary(max_size=80))
def test_any_bytes_to_a_keyring(data: bytes) -> None:
    """Refused, never crashed on."""
    ring = Keyring([KEY], random.Random(1))
    for prefix in (b"", b"\x01", b"\x00"):
        with pytest.raises(CodecError):
            ring.open(prefix + data, b"")
        with pytest.raises(CodecError):
            decode_packet(prefix + data, keyring=ring)
    decoder = StreamDecoder(is_accepting=True, keyring=ring)
    with pytest.raises(CodecError):
        decoder.feed(struct.pack(">BI", 10, len(data)) + data)


def test_streams_must_be_encrypted_on_both_sides() -> None:
    """With a keyring plaintext is refused, without one ciphertext is."""
    ring = Keyring([KEY], random.Random(1))
    ping = Ping(sequence=1, target="a")
    with pytest.raises(CodecError, match="has a keyring"):
        decode_stream(encode_stream_message(ping), keyring=ring)
    with pytest.raises(CodecError, match="has no keyring"):
        decode_stream(encode_stream_message(ping, keyring=ring))
    with pytest.raises(CodecError, match="no installed key"):
        decode_stream(encode_label(b"x") + encode_stream_message(ping, label=b"y", keyring=ring), label=b"x", keyring=ring)


def test_key_files() -> None:
    """Lines, comments, and the JSON list of `serf`."""
    (one, two) = (encode_key(KEY), encode_key(bytes(32)))
    assert parse_key_file(f"# primary\n{one}\n\n{two}\n") == [KEY, bytes(32)]
    assert parse_key_file(f'["{one}",\n "{two}"]') == [KEY, bytes(32)]
    assert parse_key_file(format_key_file([KEY, bytes(32)])) == [KEY, bytes(32)]
    for wrong in ("no base64!", encode_key(b"short")):
        with pytest.raises(SettingsError):
            decode_key(wrong)


# --- Fields and their limits. ---


@pytest.mark.parametrize(
    "fields",
    [
        {"Addr": b"abc", "Node": "n"},
        {"Addr": LOOPBACK, "Node": "n", "Vsn": b"\x01"},
        {"Addr": LOOPBACK, "Node": "n", "Meta": bytes(513)},
        {"Addr": LOOPBACK, "Node": "n" * 513},
        {"Addr": LOOPBACK, "Node": "n", "Port": 65536},
        {"Addr": LOOPBACK, "Node": "n", "Incarnation": 1 << 32},
        {"Addr": LOOPBACK, "Node": 5},
        {"Node": "n"},
    ],
)
def test_alive_is_checked(fields: dict[str, object]) -> None:
    """A short address or version list once made others crash."""
    with pytest.raises(CodecError):
        decode_gossip_message(b"\x04" + pack(fields))


def test_alive_at_its_limits() -> None:
    """As large as allowed; more versions than we know are cut, none at all are zeros."""
    fields = {"Addr": bytes(16), "Node": "n" * 512, "Meta": bytes(512), "Port": 65535, "Vsn": bytes(range(1, 9))}
    alive = decode_gossip_message(b"\x04" + pack(fields))
    assert isinstance(alive, Alive)
    assert alive.versions == (1, 2, 3, 4, 5, 6)
    assert len(alive.meta) == 512
    bare = decode_gossip_message(b"\x04" + pack({"Addr": LOOPBACK, "Meta": None, "Vsn": None}))
    assert bare == Alive(name="", incarnation=0, address=Address(LOOPBACK, 0))
    with pytest.raises(CodecError, match="513 bytes of meta"):
        encode_gossip_message(Alive(name="n", incarnation=1, address=Address(LOOPBACK, 1), meta=bytes(513)))


def test_user_messages_that_are_not_understood() -> None:
    """Kept as bytes: another version's message is no reason to drop a packet."""
    assert decode_gossip_message(b"\x08\x63rest") == UserBytes(b"\x63rest")
    assert decode_gossip_message(b"\x08") == UserBytes(b"")
    assert encode_gossip_message(UserBytes(b"\x63rest")) == b"\x08\x63rest"
    body = encode_stream_message(UserBytes(b"\x63rest"))
    assert decode_stream(body) == UserBytes(b"\x63rest")


def test_tags() -> None:
    """512 bytes in all, sorted; old meta is a role."""
    tags = {"role": "eventlog", "id": "0" * 16, "port": "8400", "cluster": "prod", "v": "0.1.0"}
    assert decode_tags(encode_tags(tags)) == tags
    assert encode_tags({"role": "x"}).hex() == "ff81a4726f6c65a178"
    assert decode_tags(b"web") == {"role": "web"}
    assert decode_tags(b"") == {"role": ""}
    room = 512 - len(encode_tags({"k": "v" * 300})) + 300
    assert len(encode_tags({"k": "v" * room})) == 512
    with pytest.raises(CodecError, match="513 bytes"):
        encode_tags({"k": "v" * (room + 1)})
    with pytest.raises(CodecError):
        decode_tags(b"\xff\x90")


def test_payload_limits() -> None:
    """9 KiB, either way."""
    for size in (9 * 1024, 9 * 1024 + 1):
        event = UserEvent(time=1, name="e", payload=bytes(size))
        if size <= 9 * 1024:
            assert decode_serf(encode_serf(event)) == event
        else:
            with pytest.raises(CodecError):
                encode_serf(event)
            with pytest.raises(CodecError):
                decode_serf(b"\x03" + pack({"Payload": bytes(size)}))


def test_query_filters_are_checked() -> None:
    """Count, kinds and sizes."""

    def query(raw: object) -> bytes:
        return b"\x04" + pack({"Addr": LOOPBACK, "Port": 1, "Filters": raw})

    assert decode_serf(query([b"\x00" + pack(["a"])]))
    for wrong in (
        [b""], [5], [b"\x02\x90"], [b"\x00\x80"], [b"\x01\x90"], [b"\x00\x91\x05"], [b"\x00" + pack(["n" * 513])],
        [b"\x00\x90"] * 65, [b"\x01" + pack({"Tag": "t", "Expr": "e" * 513})], [b"\x00" + pack(["a"] * 1025)],
    ):  # fmt: skip
        with pytest.raises(CodecError):
            decode_serf(query(wrong))


def test_internal_query_payloads() -> None:
    """Keys, their answers, conflict answers, coordinates."""
    assert decode_key_request(encode_key_request(KEY)) == KEY
    assert decode_key_request(b"") == b""
    answer = KeyAnswer(succeeded=True, text="well", keys=("a", "b"), primary_key="a")
    assert decode_key_answer(encode_key_answer(answer)) == answer
    conflict = ConflictAnswer(name="n", address=Address(LOOPBACK, 5), tags={"a": "b"}, status=1, versions=OWN_VERSIONS)
    assert decode_conflict_answer(encode_conflict_answer(conflict)) == conflict
    assert encode_conflict_answer(None) == b"\x06\xc0"
    assert decode_conflict_answer(b"\x06\xc0") is None
    assert decode_coordinate(b"") is None
    for wrong in (
        b"\x02\x80",
        b"\x01\x80",
        encode_coordinate(Coordinate(error=float("nan"))),
        encode_coordinate(Coordinate(vector=(0.0,) * 7)),
        encode_coordinate(Coordinate(vector=(float("inf"),) * 8)),
    ):
        with pytest.raises(CodecError):
            decode_coordinate(wrong)


def test_state_is_checked() -> None:
    """Empty slots are normal, other things are not."""
    state = decode_serf_state(b"\x02" + pack({"Events": [None, None, {"LTime": 3, "Events": [{"Name": "e", "Payload": None}]}]}))
    assert state.events == (EventsAt(3, (("e", b""),)),)
    assert decode_serf_state(b"\x02\x80") == SerfState(time=0, status_times={})
    for wrong in (
        {"StatusLTimes": {"a": -1}}, {"StatusLTimes": {"a": b""}}, {"LeftMembers": [5]}, {"Events": [5]},
        {"Events": [{"Events": [5]}]}, {"LTime": 1.5},
    ):  # fmt: skip
        with pytest.raises(CodecError):
            decode_serf_state(b"\x02" + pack(wrong))


def test_compound_tails() -> None:
    """Counts and lengths that go beyond the packet."""
    with pytest.raises(CodecError):
        decode_packet(bytes((COMPOUND,)))
    assert decode_packet(bytes((COMPOUND, 0))) == Packet(())
    assert decode_packet(bytes((COMPOUND, 1)) + b"\x00\x05\x0b\x80") == Packet(())
    with pytest.raises(CodecError):
        decode_packet(b"")
    with pytest.raises(CodecError):
        decode_packet(b"\x0c\x00")
