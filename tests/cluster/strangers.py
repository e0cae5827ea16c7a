"""Somebody on the network who is no node: speaks the peer protocol and gossip as well as one, and says what he likes."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.memberlist import encode_gossip_message, encode_packet
from trio_eventlog.codec.peer_frame import (
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    Refused,
    decode_hello,
    encode_frame_head,
    encode_hello,
    encode_refused,
)
from trio_eventlog.codec.serf import encode_tags
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.messages import OWN_VERSIONS, Alive
from trio_eventlog.ids import NodeId
from trio_eventlog.net.tls import FileTls, TlsSettings
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.testing.cluster import Cluster

FRAME_BYTES_MAX = 1 << 20
ANSWER_SECONDS_MAX = 5.0


@attrs.define
class Stranger:
    """At the host `name` of a cluster's network.

    Attributes:
        met: hellos of those who have dialled.
        tls: his certificate, when he speaks TLS.
    """

    cluster: Cluster
    name: str = "evil"
    met: list[Hello] = attrs.field(factory=list)
    tls: TlsSettings | None = None

    @property
    def address(self) -> str:
        return f"{self.name}:1"

    def hello(self, node_id: int, **fields: object) -> Hello:
        own = {"cluster_name": "default", "node_name": self.name, "address": self.address}
        return Hello(node_id=NodeId(node_id), **(own | fields))  # type: ignore[arg-type]

    async def say(self, to: str, hello: Hello | bytes, *frames: bytes) -> list[Frame]:
        """Dial a node, say a hello and whatever comes after it; what it answers until it closes, or for a while."""
        body = hello if isinstance(hello, bytes) else encode_hello(hello)
        return await self.send(to, PEER_PREFACE + encode_frame_head(FrameKind.HELLO, 0, body), b"".join(frames))

    async def send(self, to: str, data: bytes, after_answer: bytes = b"") -> list[Frame]:
        stream = await self.cluster.network.host(self.name).open_stream(self.cluster.address(to))
        if self.tls is not None:
            stream = trio.SSLStream(stream, FileTls(self.tls).peer_context(), server_hostname=to, https_compatible=True)
        answers: list[Frame] = []
        decoder = FrameDecoder(FRAME_BYTES_MAX)
        with trio.move_on_after(ANSWER_SECONDS_MAX):
            try:
                await stream.send_all(data)
                while chunk := await stream.receive_some(65536):
                    answers += decoder.feed(chunk)
                    if after_answer:
                        await stream.send_all(after_answer)
                        after_answer = b""
            except (trio.BrokenResourceError, CodecError):
                pass  # It hung up, or answers in another protocol.
        await trio.aclose_forcefully(stream)
        return answers

    async def listen(
        self, answer: Callable[[Hello], Sequence[bytes]], *, address: str = "", task_status: trio.TaskStatus[None]
    ) -> None:
        """Answer everybody's hello with frames of this choice."""
        bound = await self.cluster.network.host(self.name).listen(address or self.address)

        async def serve(stream: trio.abc.Stream) -> None:
            decoder = FrameDecoder(FRAME_BYTES_MAX)
            preface_bytes = len(PEER_PREFACE)
            try:
                while chunk := await stream.receive_some(65536):
                    chunk, preface_bytes = chunk[preface_bytes:], max(0, preface_bytes - len(chunk))
                    for frame in decoder.feed(chunk):
                        if frame.kind == FrameKind.HELLO:
                            hello = decode_hello(frame.body)
                            self.met.append(hello)
                            await stream.send_all(b"".join(answer(hello)))
            except (trio.BrokenResourceError, trio.ClosedResourceError, CodecError):
                pass  # Gossip comes here as well.

        async with bound.listener:
            task_status.started()
            await trio.serve_listeners(serve, [bound.listener])

    async def gossip(self, to: str, address: str, *, node_id: int, name: str = "") -> None:
        """One packet: there is a node `node_id` alive at `address`."""
        tags = node_tags(NodeId(node_id), address=address, cluster_name="default", version="1")
        await self.gossip_tags(to, name or f"node-{node_id}", tags)

    async def gossip_tags(self, to: str, name: str, tags: Mapping[str, str]) -> None:
        """One packet: `name` is alive here, with these tags."""
        await self.packets(to, await self.alive(name, tags))

    async def alive(self, name: str, tags: Mapping[str, str]) -> bytes:
        (where,) = await self.cluster.network.host(self.name).datagrams.resolve(self.address)
        alive = Alive(name=name, incarnation=1, address=where, meta=encode_tags(tags), versions=OWN_VERSIONS)
        return encode_packet([encode_gossip_message(alive)])

    async def packets(self, to: str, *packets: bytes) -> None:
        datagrams = self.cluster.network.host(self.name).datagrams
        (target,) = await datagrams.resolve(self.cluster.address(to))
        bound = await datagrams.bind(f"{self.name}:0")
        for packet in packets:
            bound.send_nowait(packet, target)
        bound.close()


def reply(hello: Hello) -> bytes:
    return encode_frame_head(FrameKind.HELLO_REPLY, 0, encode_hello(hello))


def refusal(code: int, text: str = "no") -> bytes:
    return encode_frame_head(FrameKind.REFUSED, 0, encode_refused(Refused(code, text)))
