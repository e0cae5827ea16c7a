"""An attacker who reaches the port of real nodes and lies in every protocol on it, and a witness who checks the effects.

    python -m trio_eventlog.testing.stranger HOST:PORT [HOST:PORT ...] --seconds 3600 --seed 1 [--pid PID ...] [TLS files]

The stranger knows neither the peer secret nor a node's certificate: run it against nodes that have one of them (or TLS with
certificates for hosts and `--client-cert` of a client). The witness is an honest client of the same nodes, with a topic of its own.
It fails when a node ends, a term moves, a record appears that it has not written or one is missing that it has, when memory grows
over its bound (`--pid`, of processes on this machine), or when an honest call in a hundred takes longer than the bound.

Bounded are: the number of lies in progress, and of connections held open. An unbounded flood tests the machine, not the node.
"""

import argparse
import random
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import trio

from trio_eventlog.client.client import Client, open_client
from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.codec.entry import encode_entry
from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.memberlist import encode_gossip_message, encode_packet, encode_stream_message
from trio_eventlog.codec.peer_frame import (
    NONCE_BYTES,
    Challenge,
    FrameDecoder,
    FrameKind,
    Hello,
    Refused,
    RefusedCode,
    encode_frame_head,
    encode_hello,
    encode_refused,
)
from trio_eventlog.codec.raft_message import encode_raft_message
from trio_eventlog.codec.serf import encode_tags
from trio_eventlog.errors import CodecError, EventLogError, TopicExists
from trio_eventlog.gossip.messages import (
    OWN_VERSIONS,
    Address,
    Alive,
    Dead,
    MemberRecord,
    Message,
    PushPull,
    RowStatus,
    SerfState,
    Suspect,
)
from trio_eventlog.ids import CATALOG_GROUP, ClusterId, GroupId, NodeId, parse_id
from trio_eventlog.net.network import Network, join_address, split_address
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import ALPN_HTTP1, ALPN_HTTP2, ALPN_PEER, build_client_context
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.raft import EntryKind, MessageType
from trio_eventlog.raft import Message as RaftMessage
from trio_eventlog.service.values import BEGINNING, NodeStatus

TOPIC = "stranger-witness"
LIES_AT_ONCE_MAX = 32
HELD_CONNECTIONS_MAX = 40
LIE_SECONDS_MAX = 5.0
FRAME_BYTES_MAX = 1 << 20
MIB = 1 << 20
SAID = (
    MessageType.APPEND_RESPONSE,
    MessageType.VOTE,
    MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE,
    MessageType.PRE_VOTE_RESPONSE,
    MessageType.HEARTBEAT,
    MessageType.HEARTBEAT_RESPONSE,
    MessageType.TIMEOUT_NOW,
    MessageType.READ_INDEX,
)
"""In messages without entries."""


@attrs.frozen(slots=True, kw_only=True)
class Files:
    """PEM files of a client; "" where there are none."""

    authority: str = ""
    certificate: str = ""
    key: str = ""

    def context(self, alpn: str = ALPN_HTTP2) -> ssl.SSLContext | None:
        """For dialling with them; None: without TLS."""
        if not self.authority:
            return None
        return build_client_context(self.authority, certificate=self.certificate, key=self.key, alpn=(alpn,))


@attrs.frozen(slots=True, kw_only=True)
class Bounds:
    """What the witness demands.

    Attributes:
        p99_seconds: of an honest produce, while the stranger lies.
        memory_bytes: more than at rest, in each process.
        settle_seconds: until each node knows a leader of each of its groups, to begin with.
    """

    settle_seconds: float = 30.0
    p99_seconds: float = 0.5
    memory_bytes: int = 64 * MIB


@attrs.define(slots=True, kw_only=True)
class Report:
    """What came of it.

    Attributes:
        lies: told, by kind.
        produces: honest ones.
        faults: what must not be; empty when all is well.
    """

    lies: Counter[str] = attrs.field(factory=Counter)
    produces: int = 0
    p99_seconds: float = 0.0
    grown_bytes: int = 0
    faults: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(self.lies.items()))
        found = "".join(f"FAULT: {fault}\n" for fault in self.faults) or "no node ended, no term moved, no record appeared\n"
        return (
            f"lies: {told}\n{self.produces} honest produces, p99 {self.p99_seconds * 1000:.0f} ms; memory grew by at most"
            f" {self.grown_bytes / MIB:.1f} MiB\n{found}"
        )


class Stranger:
    """Tells lies to the nodes at `addresses` until cancelled.

    Args:
        nodes: what the nodes say of themselves: ids, names and addresses are no secret.
        files: of a client; a certificate is shown wherever one is asked for.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        nodes: Sequence[NodeStatus],
        files: Files,
        rng: random.Random,
        network: Network,
        report: Report,
    ) -> None:
        self._addresses = addresses
        self._nodes = nodes
        self._rng = rng
        self._network = network
        self._report = report
        self._files = files
        self._own_address = "127.0.0.1:1"
        self._heard: list[bytes] = []
        """Bodies of hellos and proofs of others, to be said again."""
        self._held = 0
        self._limit = trio.Semaphore(LIES_AT_ONCE_MAX)
        self._kinds: dict[str, Callable[[str], Awaitable[None]]] = {
            "hello": self._say_hello,
            "raft": self._say_raft,
            "replay": self._say_again,
            "peer bytes": self._send_peer_bytes,
            "gossip packet": self._send_packets,
            "gossip stream": self._send_gossip_stream,
            "http": self._send_http,
            "grpc": self._send_grpc,
            "tls": self._send_tls,
            "call": self._call,
            "silence": self._hold,
        }

    async def run(self) -> None:
        """Lie after lie, a few at a time."""
        async with trio.open_nursery() as nursery:
            bound = await self._network.listen("127.0.0.1:0")
            self._own_address = bound.address
            nursery.start_soon(self._listen, bound.listener, nursery)
            while True:
                await self._limit.acquire()
                nursery.start_soon(self._tell, self._rng.choice(list(self._kinds)), self._rng.choice(self._addresses))
                await trio.sleep(self._rng.uniform(0, 0.02))

    async def _listen(self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                nursery.start_soon(self._answer, await listener.accept())

    async def _tell(self, kind: str, address: str) -> None:
        self._report.lies[kind] += 1
        try:
            with trio.move_on_after(LIE_SECONDS_MAX):
                await self._kinds[kind](address)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, EventLogError):
            pass  # He is hung up on, which is as it should be.
        finally:
            self._limit.release()

    # The peer protocol

    def _hello(self, **fields: object) -> Hello:
        rng = self._rng
        one = rng.choice(self._nodes)
        values: dict[str, object] = {
            "node_id": NodeId(rng.choice((rng.randrange(1, 1 << 64), parse_id(one.id), (1 << 64) - 1, 1))),
            "cluster_name": rng.choice((one.cluster_name, one.cluster_name, "other")),
            "node_name": rng.choice((one.name, "stranger", "x" * 255)),
            "address": rng.choice((self._own_address, one.address, "nobody.invalid:1", "x", "", "a..b:1", "127.0.0.1:1")),
            "cluster_id": ClusterId(rng.choice((0, parse_id(one.cluster_id), rng.randrange(1 << 64)))),
            "bootstrap_expect": rng.choice((0, 1, 3, 99, (1 << 32) - 1)),
            "has_data": rng.random() < 0.5,
            "is_probe": rng.random() < 0.3,
            "known_ids": tuple(NodeId(rng.randrange(1, 1 << 64)) for _ in range(rng.choice((0, 1, 3, 256)))),
            "challenge": rng.choice((None, Challenge(nonce=rng.randbytes(NONCE_BYTES), proves=rng.random() < 0.8))),
        }
        return Hello(**(values | fields))  # type: ignore[arg-type]

    async def _open(self, address: str, alpn: str) -> trio.abc.Stream:
        stream = await self._network.open_stream(address)
        if not self._files.authority:
            return stream
        context = self._files.context(alpn)
        assert context is not None
        secure = trio.SSLStream(stream, context, server_hostname=split_address(address)[0], https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secure)
            raise
        return secure

    async def _talk(self, address: str, alpn: str, *parts: bytes) -> bytes:
        """Send each part after an answer to the one before; what was answered."""
        stream = await self._open(address, alpn)
        answered = b""
        try:
            for part in parts:
                await stream.send_all(part)
                with trio.move_on_after(0.5):
                    answered += await stream.receive_some(65536)
        finally:
            await trio.aclose_forcefully(stream)
        return answered

    async def _greet(self, address: str, hello: Hello, *frames: bytes) -> None:
        answered = await self._talk(
            address, ALPN_PEER, PEER_PREFACE + encode_frame_head(FrameKind.HELLO, 0, encode_hello(hello)), *frames
        )
        try:
            self._heard += [bytes(frame.body) for frame in FrameDecoder(FRAME_BYTES_MAX).feed(answered)]
        except CodecError:
            pass
        del self._heard[:-100]

    async def _say_hello(self, address: str) -> None:
        await self._greet(address, self._hello())

    async def _say_raft(self, address: str) -> None:
        """As a node of the cluster or as an invented one, to the node that is there: heartbeats, votes, entries, far ahead."""
        rng = self._rng
        to = NodeId(parse_id(next((node.id for node in self._nodes if node.address == address), self._nodes[0].id)))
        hello = self._hello(
            cluster_name=self._nodes[0].cluster_name, cluster_id=ClusterId(parse_id(self._nodes[0].cluster_id)), is_probe=False
        )
        frames = [self._proof()]
        for _ in range(rng.randrange(1, 6)):
            message = RaftMessage(
                type=rng.choice(SAID),
                sender=hello.node_id,
                to=to,
                term=rng.choice((1, 2, 1000, 1 << 40, (1 << 63) - 1)),
                index=rng.choice((0, 1, 10, 1 << 40)),
                log_term=rng.choice((0, 1, 1000)),
                commit=rng.choice((0, 1, 1 << 40)),
            )
            group_id = GroupId(rng.choice((CATALOG_GROUP, 1, 2, 99)))
            frames.append(encode_frame_head(FrameKind.RAFT, group_id, encode_raft_message(message)))
        append = RaftMessage(type=MessageType.APPEND, sender=hello.node_id, to=to, term=1000)
        entry = encode_entry(EntryKind.DATA, term=1000, index=1, base_offset=0, record_count=1, payload=b"forged").raw
        head = encode_raft_message(append)
        frames.append(encode_frame_head(FrameKind.APPEND, GroupId(1), head, len(entry)) + entry)
        await self._greet(address, hello, *frames)

    def _proof(self) -> bytes:
        """Made up, or copied from another node."""
        proofs = [body for body in self._heard if len(body) == 32]
        return encode_frame_head(FrameKind.PROOF, 0, self._rng.choice([*proofs, self._rng.randbytes(32)]))

    async def _say_again(self, address: str) -> None:
        """What a node has said, to another one or to itself."""
        hellos = [body for body in self._heard if len(body) > 64]
        if hellos:
            body = self._rng.choice(hellos)
            await self._talk(
                address, ALPN_PEER, PEER_PREFACE + encode_frame_head(FrameKind.HELLO, 0, body), self._proof() + self._frame()
            )

    def _frame(self) -> bytes:
        rng = self._rng
        return encode_frame_head(rng.choice((*FrameKind, 99)), rng.randrange(4), rng.randbytes(rng.randrange(200)))

    async def _send_peer_bytes(self, address: str) -> None:
        hello = PEER_PREFACE + encode_frame_head(FrameKind.HELLO, 0, encode_hello(self._hello()))
        await self._talk(address, ALPN_PEER, self._spoilt(hello), self._spoilt(self._frame()))

    async def _answer(self, stream: trio.abc.Stream) -> None:
        """A node that dials the stranger is told that it was removed, that this is another node, or nonsense."""
        rng = self._rng
        try:
            with trio.move_on_after(LIE_SECONDS_MAX):
                self._heard.append(bytes(await stream.receive_some(65536))[-32:])
                code = rng.choice((RefusedCode.REMOVED, RefusedCode.REMOVED, *RefusedCode))
                removed = encode_frame_head(FrameKind.REFUSED, 0, encode_refused(Refused(code, "you were removed\n\x1b[2J")))
                challenge = Challenge(nonce=rng.randbytes(NONCE_BYTES), proves=rng.random() < 0.5, refuses=rng.random() < 0.7)
                hello = self._hello(challenge=rng.choice((None, challenge)))
                reply = encode_frame_head(FrameKind.HELLO_REPLY, 0, encode_hello(hello))
                await stream.send_all(rng.choice((removed, reply + self._proof() + removed, reply + removed, rng.randbytes(50))))
                await stream.receive_some(1)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    # Gossip

    def _messages(self) -> list[Message]:
        rng = self._rng
        one = rng.choice(self._nodes)
        host, port = split_address(self._own_address)
        where = Address(bytes(map(int, host.split("."))), rng.choice((port, 1)))
        node_id = NodeId(rng.choice((parse_id(one.id), rng.randrange(1, 1 << 64))))
        tags = node_tags(node_id, address=rng.choice((self._own_address, one.address)), cluster_name=one.cluster_name, version="9")
        tags |= rng.choice(({}, {"addr": "x"}, {"id": "0x1"}, {"port": "99999999"}, {"role": "web"}))
        name = rng.choice((one.name, f"stranger-{rng.randrange(50)}", "a\nb"))
        incarnation = rng.choice((0, 1, 1000, (1 << 32) - 1))
        return [
            Alive(name=name, incarnation=incarnation, address=where, meta=encode_tags(tags), versions=OWN_VERSIONS),
            Suspect(name=one.name, incarnation=incarnation, accuser="stranger"),
            Dead(name=one.name, incarnation=incarnation, accuser=rng.choice(("stranger", one.name))),
        ]

    async def _send_packets(self, address: str) -> None:
        network = RealDatagramNetwork()
        bound = await network.bind("127.0.0.1:0")
        try:
            (target,) = (await network.resolve(address))[:1]
            for message in self._messages():
                packet = encode_packet([encode_gossip_message(message)], with_checksum=self._rng.random() < 0.5)
                bound.send_nowait(packet if self._rng.random() < 0.7 else self._spoilt(packet), target)
        finally:
            bound.close()

    async def _send_gossip_stream(self, address: str) -> None:
        rows = [
            MemberRecord(
                name=one.name,
                address=one.address,
                incarnation=one.incarnation,
                status=self._rng.choice(list(RowStatus)),
                meta=one.meta,
                versions=one.versions,
            )
            for one in self._messages()
            if isinstance(one, Alive)
        ]
        names = tuple(one.name for one in self._nodes)
        serf = SerfState(
            time=self._rng.choice((1, 1000, (1 << 64) - 1)),
            status_times=dict.fromkeys(names, self._rng.choice((1, 1000))),
            left_members=self._rng.choice(((), names)),
        )
        rows *= self._rng.choice((1, 100))
        data = encode_stream_message(PushPull(members=tuple(rows), is_join=True, state=self._rng.choice((None, serf))))
        stream = await self._network.open_stream(address)
        try:
            await stream.send_all(data if self._rng.random() < 0.6 else self._spoilt(data))
            with trio.move_on_after(0.5):
                await stream.receive_some(65536)
        finally:
            await trio.aclose_forcefully(stream)

    # Clients' protocols

    async def _send_http(self, address: str) -> None:
        rng = self._rng
        request = rng.choice(
            (
                b"GET /" + rng.randbytes(20).hex().encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
                b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + rng.randbytes(1000),
                b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
                b"GET /health HTTP/1.1\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
                b"GET /health HTTP/9.9\r\n\r\n",
                b"GET /health HTTP/1.1\r\nHost: x\r\n",
            )
        )
        await self._talk(address, ALPN_HTTP1, request if rng.random() < 0.7 else self._spoilt(request))

    async def _send_grpc(self, address: str) -> None:
        """HTTP/2: settings, then frames of any kind, streams opened and reset."""
        rng = self._rng
        frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
        for number in range(rng.randrange(1, 40)):
            payload = rng.randbytes(rng.choice((0, 4, 8, 30)))
            kind = rng.choice((0, 1, 3, 3, 4, 6, 8, 9, rng.randrange(256)))
            stream_id = rng.choice((0, 1, 2 * number + 1, (1 << 31) - 1))
            frames += len(payload).to_bytes(3, "big") + bytes((kind, rng.randrange(256))) + stream_id.to_bytes(4, "big") + payload
        await self._talk(address, ALPN_HTTP2, frames)

    async def _send_tls(self, address: str) -> None:
        """A TLS record that is none, or a handshake that ends in the middle."""
        rng = self._rng
        stream = await self._network.open_stream(address)
        try:
            length = rng.choice((0, 10, 500, 65535))
            await stream.send_all(b"\x16\x03\x01" + length.to_bytes(2, "big") + rng.randbytes(min(length, 500)))
            with trio.move_on_after(0.5):
                await stream.receive_some(1000)
        finally:
            await trio.aclose_forcefully(stream)

    async def _call(self, address: str) -> None:
        """Calls that a client may make, about what there is not."""
        rng = self._rng
        quick = ClientSettings(attempts_max=1)
        async with open_client(address, tls=self._files.context(), network=self._network, settings=quick) as client:
            match rng.randrange(4):
                case 0:
                    await client.remove_node(rng.randbytes(8).hex())
                case 1:
                    await client.drain_node(rng.choice(("0x1", "", "x" * 1000, rng.randbytes(8).hex())))
                case 2:
                    await client.describe_topic(rng.choice(("", "\n", "../x", "x" * 10_000)))
                case 3:
                    await client.transfer_leadership("no-such-topic", 1 << 20)

    async def _hold(self, address: str) -> None:
        """A connection that says nothing, or half of something."""
        if self._held >= HELD_CONNECTIONS_MAX:
            return
        self._held += 1
        try:
            stream = await self._network.open_stream(address)
            try:
                await stream.send_all(self._rng.choice((b"", PEER_PREFACE, b"GET ", b"PRI * HT", b"\x16\x03")))
                await trio.sleep(LIE_SECONDS_MAX)
            finally:
                await trio.aclose_forcefully(stream)
        finally:
            self._held -= 1

    def _spoilt(self, data: bytes) -> bytes:
        rng = self._rng
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(changed) + 1)
            changed[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        return bytes(changed)


@attrs.define(slots=True, kw_only=True)
class Witness:
    """An honest client: what it has written is all that may be there.

    Attributes:
        written: values, in the order of their acknowledgements.
        seconds: how long each produce took.
    """

    client: Client
    report: Report
    seconds: list[float] = attrs.field(factory=list)
    written: list[bytes] = attrs.field(factory=list)

    async def begin(self) -> None:
        try:
            await self.client.create_topic(TOPIC)
        except TopicExists:
            pass
        self.written = await self.values()

    async def values(self) -> list[bytes]:
        """All that is in the topic."""
        (first, end) = await self.client.offsets(TOPIC)
        found: list[bytes] = []
        if first < end:
            async with self.client.consume(TOPIC, start=BEGINNING, partition=0) as records:
                while len(found) < end - first:
                    found.append((await records.receive()).value or b"")
        return found

    async def run(self) -> None:
        """A produce ten times a second."""
        while True:
            value = b"honest %d" % len(self.written)
            began = trio.current_time()
            await self.client.produce(TOPIC, value, partition=0)
            self.seconds.append(trio.current_time() - began)
            self.written.append(value)
            await trio.sleep(0.1)

    async def look_at_log(self) -> None:
        found = await self.values()
        # The last one may have been cut off amid its answer.
        if found[: len(self.written)] != self.written or len(found) > len(self.written) + 1:
            self.report.faults.append(f"the log of the witness holds {len(found)} records, {len(self.written)} were written")


async def lie(
    addresses: Sequence[str],
    seconds: float,
    *,
    seed: int = 0,
    pids: Sequence[int] = (),
    stranger_files: Files | None = None,
    witness_files: Files | None = None,
    bounds: Bounds | None = None,
) -> Report:
    """Lie to the nodes at `addresses` for `seconds`, in real time, and say what came of it.

    Args:
        pids: of the nodes, when they are on this machine.
        stranger_files, witness_files: of clients, when the nodes speak TLS.

    Raises:
        EventLogError: the nodes cannot be used by an honest client to begin with.
    """
    bounds = bounds or Bounds()
    network = RealNetwork()
    report = Report()
    tls = (witness_files or Files()).context()
    async with open_client("eventlog://" + ",".join(addresses), tls=tls, network=network) as client:
        witness = Witness(client=client, report=report)
        await witness.begin()
        before = [await settled_status(client, address, bounds.settle_seconds) for address in addresses]
        at_rest = [resident_bytes(pid) for pid in pids]
        stranger = Stranger(addresses, before, stranger_files or Files(), random.Random(seed), network, report)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stranger.run)
                nursery.start_soon(witness.run)
        await witness.look_at_log()
        for address, former in zip(addresses, before, strict=True):
            try:
                now = await client.status(address)
            except EventLogError as error:
                report.faults.append(f"the node at {address} does not answer any more: {error}")
                continue
            report.faults += moved_terms(address, former, now)
    for pid, rest_bytes in zip(pids, at_rest, strict=True):
        now_bytes = resident_bytes(pid)
        report.grown_bytes = max(report.grown_bytes, now_bytes - rest_bytes)
        if not now_bytes:
            report.faults.append(f"process {pid} has ended")
        elif now_bytes - rest_bytes > bounds.memory_bytes:
            report.faults.append(f"process {pid} has grown by {(now_bytes - rest_bytes) / MIB:.1f} MiB")
    report.produces = len(witness.seconds)
    ordered = sorted(witness.seconds) or [0.0]
    report.p99_seconds = ordered[int(0.99 * (len(ordered) - 1))]
    if report.p99_seconds > bounds.p99_seconds:
        report.faults.append(f"p99 of honest produces is {report.p99_seconds:.2f} s, {bounds.p99_seconds:g} s is the bound")
    return report


async def settled_status(client: Client, address: str, seconds_max: float) -> NodeStatus:
    """What a node says once it knows a leader of each of its groups: a term that it first hears of is not one that has moved.

    Raises: EventLogError, and trio.TooSlowError.
    """
    with trio.fail_after(seconds_max):
        while True:
            status = await client.status(address)
            if status.groups and all(group.leader_id for group in status.groups):
                return status
            await trio.sleep(0.05)


def moved_terms(address: str, former: NodeStatus, now: NodeStatus) -> list[str]:
    terms = {group.group_id: group.term for group in former.groups}
    return [
        f"{address}: the term of group {group.group_id} was {terms[group.group_id]} and is {group.term}"
        for group in now.groups
        if group.group_id in terms and group.term != terms[group.group_id]
    ]


def resident_bytes(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Lie in every protocol on the port of real nodes, and look at what comes of it.")
    parser.add_argument("addresses", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is said (%(default)s)")
    parser.add_argument("--pid", type=int, action="append", default=[], help="of a node on this machine: its memory is looked at")
    parser.add_argument("--tls-ca", default="", help="authority of the nodes: speak TLS")
    parser.add_argument("--client-cert", default="", help="certificate of a client, which stranger and witness show")
    parser.add_argument("--client-key", default="", help="its key")
    options = parser.parse_args(arguments)
    files = Files(authority=options.tls_ca, certificate=options.client_cert, key=options.client_key)
    addresses = [join_address(*split_address(address)) for address in options.addresses]

    async def run() -> Report:
        return await lie(addresses, options.seconds, seed=options.seed, pids=options.pid, stranger_files=files, witness_files=files)

    report = trio.run(run)
    sys.stdout.write(str(report))
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
