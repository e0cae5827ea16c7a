"""One outbound link: two bounded queues, and the task that dials, greets, writes and watches.

The life of a link is drawn in docs/design/wire.md. A link never delays the caller of `send`: what does not fit is refused, and
Raft sends it again when it matters.
"""

import enum
import errno
import logging
import random
import ssl
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.codec.first_bytes import PEER_PREFACE
from trio_eventlog.codec.peer_frame import (
    NONCE_BYTES,
    Buffer,
    Challenge,
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    Refused,
    RefusedCode,
    decode_hello,
    decode_refused,
    encode_frame_head,
    encode_hello,
)
from trio_eventlog.codec.peer_secret import PeerSecrets, Side
from trio_eventlog.errors import CodecError, SettingsError
from trio_eventlog.ids import NOBODY, NodeId, format_id
from trio_eventlog.net.network import AddressError, Network, split_address
from trio_eventlog.net.socket_io import SocketIo, drop_front, socket_io
from trio_eventlog.net.tls import TlsSource, certificate_is_for, names_of_certificate, names_peer

logger = logging.getLogger(__name__)

HELLO_BODY_BYTES_MAX = 64 * 1024
"""Bytes that a process may make us hold before it has been greeted."""

JOIN_BYTES_MAX = 32 * 1024
"""Below this, one buffer is cheaper for the socket than several are for the kernel."""
JOIN_BUFFERS_MIN = 64
"""Number of buffers above which they are joined: they hold small frames, and copying costs less than a long vectored write."""
UNSENT_BYTES_MAX = 256 * 1024
"""In the kernel, beyond what is on its way. Trio's 16 KiB would wake us for every 16 KiB that a network slower than loopback takes;
more than this would let an urgent frame wait behind it (2 ms at 1 Gbit/s)."""

PING_BODY = struct.Struct("<Q")


class Priority(enum.IntEnum):
    """Whatever is queued as URGENT leaves before whatever is queued as BULK; between frames, never inside one."""

    URGENT = 0
    BULK = 1


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class LinkSettings:
    """Limits of peer links.

    Attributes:
        link_queue_bytes_max: bytes in each of the two queues of a link; what comes beyond is dropped, unless the queue is empty.
            Raft repeats what is dropped, so too small costs throughput on slow links, and too large costs memory.
        link_queue_messages_max: the same limit in messages, that is calls of `send`.
        direct_bytes_max: a message up to this size is written by its sender when nothing is queued, which spares a task switch.
        write_bytes_max: bytes given to the stream in one write; one message always goes. Larger writes delay urgent messages.
        peer_frame_bytes_max: size of the largest frame that is received; a larger one ends the link. It has to be above what
            the peers send: their `append_bytes_max` and their largest batch.
        receive_chunk_bytes: bytes asked for in one read.
        connect_timeout_seconds: seconds for connecting, TLS included.
        hello_seconds_max: seconds for the exchange of hellos on a new connection.
        reconnect_backoff_seconds_min, reconnect_backoff_seconds_max: seconds before the next attempt to connect; doubles from the
            first to the second, each wait is drawn from its upper half.
        ping_interval_seconds: interval between two PINGs on an outbound link.
        silent_intervals_max: number of ping intervals without a byte after which a link is closed. Small values close links
            that are only slow; large ones keep a lost peer on the list of those that are connected.
        inbound_links_max: number of inbound links served at a time; others are refused.
    """

    link_queue_bytes_max: int
    link_queue_messages_max: int
    direct_bytes_max: int
    write_bytes_max: int
    peer_frame_bytes_max: int
    receive_chunk_bytes: int
    connect_timeout_seconds: float
    hello_seconds_max: float
    reconnect_backoff_seconds_min: float
    reconnect_backoff_seconds_max: float
    ping_interval_seconds: float
    silent_intervals_max: int
    inbound_links_max: int

    def __attrs_post_init__(self) -> None:
        for name in ("connect_timeout_seconds", "hello_seconds_max", "reconnect_backoff_seconds_min", "ping_interval_seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"link setting {name} must be above 0, not {getattr(self, name)}")
        for name in (
            "link_queue_bytes_max",
            "link_queue_messages_max",
            "write_bytes_max",
            "peer_frame_bytes_max",
            "receive_chunk_bytes",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"link setting {name} must be at least 1, not {getattr(self, name)}")
        if self.silent_intervals_max < 2:
            raise SettingsError("link setting silent_intervals_max must be at least 2: a PONG may arrive just after the check")
        if self.reconnect_backoff_seconds_max < self.reconnect_backoff_seconds_min:
            raise SettingsError("link setting reconnect_backoff_seconds_max is below reconnect_backoff_seconds_min")


@attrs.frozen(slots=True, kw_only=True)
class LinkStatistics:
    """Counters of one peer since it was set.

    Attributes:
        sends, dropped_sends: calls of `send` that were taken, and not.
        sent_bytes, writes: given to the stream, and in how many calls.
        received_frames, received_bytes: on the peer's inbound link, hellos and pings included in the bytes only.
        dials: connections tried.
    """

    is_connected: bool
    queued_bytes: int
    sends: int
    dropped_sends: int
    sent_bytes: int
    writes: int
    received_frames: int
    received_bytes: int
    dials: int


class LinkRefused(Exception):
    """The other side, or we, refused the link: `refused` says why.

    Attributes:
        by: the node that refused it, if it had sent its hello (and proof, where there is a secret); None: this node, or an unknown
            process.
        is_ours: this node refused it.
    """

    def __init__(self, refused: Refused, address: str, *, by: Hello | None = None, is_ours: bool = False) -> None:
        super().__init__(f"{address}: {refused.text}")
        self.refused = refused
        self.address = address
        self.by = by
        self.is_ours = is_ours


Recognize = Callable[[Hello], Awaitable[Refused | None]]
"""Whether the process behind a hello that is right in itself is the node that it says; None: it is, and that is remembered."""


def _versions(versions: range) -> str:
    newest = versions.stop - 1
    return f"version {newest}" if versions.start >= newest else f"versions {versions.start} to {newest}"


def judge_hello(own: Hello, other: Hello) -> Refused | None:
    """Why a node with `own` hello cannot talk to one with `other`; None when it can. Both values are in the text."""
    (theirs, ours) = (other.protocol_versions, own.protocol_versions)
    if max(theirs.start, ours.start) >= min(theirs.stop, ours.stop):
        return Refused(RefusedCode.PROTOCOL_VERSION, f"peer protocol {_versions(theirs)} is not spoken here, {_versions(ours)} is")
    if other.cluster_name != own.cluster_name:
        return Refused(
            RefusedCode.CLUSTER_NAME, f"you are of the cluster named {other.cluster_name!r}, this is {own.cluster_name!r}"
        )
    if other.node_id == own.node_id:
        return Refused(
            RefusedCode.SAME_NODE_ID,
            f"node id {format_id(own.node_id)} is mine ({own.node_name!r} at {own.address}): "
            "this is my own address, or a data directory was copied",
        )
    if own.cluster_id and other.cluster_id and own.cluster_id != other.cluster_id:
        return Refused(
            RefusedCode.CLUSTER_ID,
            f"you belong to cluster {format_id(other.cluster_id)}, this is cluster {format_id(own.cluster_id)}",
        )
    return None


def new_challenge(secrets: PeerSecrets, rng: random.Random, *, refuses: bool = False) -> Challenge:
    """Of one exchange. Without a secret nothing is made of the nonce."""
    return Challenge(nonce=rng.randbytes(NONCE_BYTES), proves=True, refuses=refuses) if secrets else Challenge(refuses=refuses)


def judge_secret(secrets: PeerSecrets, challenge: Challenge | None) -> Refused | None:
    """Why we do not even look at the proof of a node whose hello has this challenge; None when we do, or when there is none."""
    proves = challenge is not None and challenge.proves
    if secrets and not proves:
        return Refused(RefusedCode.SECRET, "nodes here prove that they know the peer secret (peer_secret_file), and you have none")
    if proves and not secrets:
        return Refused(RefusedCode.SECRET, "you have a peer secret (peer_secret_file), and this node has none: all nodes or none")
    return None


def judge_certificate(other: Hello, certificate: Mapping[str, Any] | None, peer_name: str) -> Refused | None:
    """Why a node that shows `certificate` is not who it says in its hello; None when it is.

    The handshake has checked who signed it and until when it is good. That it is a node's and no client's follows from its
    name: `peer_name` if there is one, which only nodes' certificates carry, else the host where the node says that it is.
    """
    host = peer_name or _host_of(other.address)
    if certificate is None:
        text = "nodes know each other by certificates: you showed none, or there is no authority (tls_ca) here to check it by"
    elif not (names_peer(certificate, host) if peer_name else certificate_is_for(certificate, host)):
        why = "tls_peer_name here" if peer_name else "where you say that you are; advertise what it names, or use tls_peer_name"
        text = f"your certificate is for {names_of_certificate(certificate)} and not for {host or 'any host'}, {why}"
    else:
        return None
    return Refused(RefusedCode.CERTIFICATE, text)


def _host_of(address: str) -> str:
    try:
        return split_address(address)[0]
    except AddressError:
        return ""


class CertificateRefused(OSError):
    """The certificate shown there is not accepted here. Repeating does not help by itself, so it is logged as a warning."""


def _why_broken(error: trio.BrokenResourceError, address: str) -> OSError:
    match error.__cause__:
        case ssl.SSLCertVerificationError(verify_message=text):
            return CertificateRefused(errno.EACCES, f"{address}: certificate verify failed: {text}")
        case cause:
            return OSError(errno.ECONNRESET, f"{address}: {cause or error}")


async def dial(
    address: str,
    own: Hello,
    *,
    network: Network,
    settings: LinkSettings,
    tls: TlsSource | None,
    secrets: PeerSecrets,
    recognize: Recognize,
    host: str = "",
) -> "Greeted":
    """Connect, shake hands, exchange hellos and, where there is a secret, proofs.

    Arguments:
        own: with a challenge whose nonce is fresh.
        recognize: decides about the process that answers.
        host: whom the certificate there is to be for, unless `tls` has a name for all peers; "" takes the host in `address`.

    Raises:
        OSError: no answer in time (TimeoutError), or an answer that is not a peer's.
        LinkRefused: a node answers, but not to us, or we do not want it.
    """
    stream: trio.abc.Stream | None = None
    try:
        with trio.fail_after(settings.connect_timeout_seconds):
            stream = await network.open_stream(address)
            if tls is not None:
                server_name = tls.peer_name or host or split_address(address)[0]
                stream = trio.SSLStream(stream, tls.peer_context(), server_hostname=server_name, https_compatible=True)
                await stream.do_handshake()
                if tls.peer_name and not names_peer(stream.getpeercert() or {}, tls.peer_name):
                    text = f"the certificate there carries {tls.peer_name} by a wildcard only"
                    raise CertificateRefused(errno.EACCES, f"{address}: {text}")
        with trio.fail_after(settings.hello_seconds_max):
            greeted = await _greet(stream, own, address, secrets, recognize)
    except BaseException as error:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        if isinstance(error, trio.TooSlowError):
            raise TimeoutError(errno.ETIMEDOUT, f"{address}: no answer in time") from error
        if isinstance(error, trio.BrokenResourceError):
            raise _why_broken(error, address) from error
        if isinstance(error, CodecError):
            raise OSError(errno.EPROTO, f"{address} does not answer as a peer: {error}") from error
        if isinstance(error, AddressError | ValueError):
            # Addresses come from other nodes too: a malformed one (or one that IDNA refuses) is only unreachable.
            raise OSError(errno.EADDRNOTAVAIL, f"{address!r} cannot be dialled: {error}") from error
        raise
    return greeted


@attrs.frozen(slots=True)
class Greeted:
    """A stream on which both sides know each other; `decoder` may hold the begin of a frame."""

    stream: trio.abc.Stream
    hello: Hello
    decoder: FrameDecoder


async def _greet(stream: trio.abc.Stream, own: Hello, address: str, secrets: PeerSecrets, recognize: Recognize) -> Greeted:
    own_body = encode_hello(own)
    await stream.send_all(PEER_PREFACE + encode_frame_head(FrameKind.HELLO, 0, own_body))
    decoder = FrameDecoder(HELLO_BODY_BYTES_MAX)
    frames: deque[Frame] = deque()

    async def next_frame() -> Frame:
        while not frames:
            chunk = await stream.receive_some(HELLO_BODY_BYTES_MAX)
            if not chunk:
                # Trio sends no alert when a handshake fails, so that the dialler, who has ended its own, learns nothing more.
                hint = "; if it does not accept our certificate, its log says so" if isinstance(stream, trio.SSLStream) else ""
                raise trio.BrokenResourceError(f"closed before an answer to our hello{hint}")
            frames.extend(decoder.feed(chunk))
        return frames.popleft()

    answer = await next_frame()
    if answer.kind == FrameKind.REFUSED:
        raise LinkRefused(decode_refused(answer.body), address)
    if answer.kind != FrameKind.HELLO_REPLY:
        raise CodecError(f"a frame of kind {answer.kind} in answer to a hello")
    body = bytes(answer.body)
    reply = decode_hello(body)
    (other, challenge) = (attrs.evolve(reply, challenge=None), reply.challenge)
    refused = judge_hello(own, other)
    if refused is None and own.expected_id not in (NOBODY, other.node_id):
        refused = Refused(
            RefusedCode.WRONG_NODE, f"node {format_id(other.node_id)} is there, {format_id(own.expected_id)} was expected"
        )
    if refused is None:
        refused = judge_secret(secrets, challenge)
    if refused is None and secrets:
        proof = await next_frame()
        if proof.kind != FrameKind.PROOF or not secrets.accepts(bytes(proof.body), Side.LISTENER, own_body, body):
            refused = Refused(RefusedCode.SECRET, "the node there has another peer secret than this one")
        elif (own.is_side or not own.is_probe) and other.address not in ("", address):
            # A process between the two nodes can forward both proofs, but cannot change the address that the node has announced.
            refused = Refused(RefusedCode.WRONG_NODE, f"node {format_id(other.node_id)} says that it is at {other.address}")
    if refused is not None:
        raise LinkRefused(refused, address, is_ours=True)
    if challenge is not None and challenge.refuses:
        refusal = await next_frame()
        if refusal.kind != FrameKind.REFUSED:
            raise CodecError(f"a frame of kind {refusal.kind} instead of a refusal")
        raise LinkRefused(decode_refused(refusal.body), address, by=other)
    if frames:
        raise CodecError(f"{len(frames)} frames more than belong to the answer to a hello")
    refused = await recognize(other)
    if refused is not None:
        raise LinkRefused(refused, address, is_ours=True)
    if secrets:
        await stream.send_all(encode_frame_head(FrameKind.PROOF, 0, secrets.prove(Side.DIALLER, own_body, body)))
    return Greeted(stream, other, decoder)


@attrs.frozen(slots=True, kw_only=True)
class LinkOwner:
    """What a link reports to the transport."""

    on_up: Callable[["OutboundLink", Hello], None]
    on_lost: Callable[["OutboundLink", str], None]
    on_refused: Callable[["OutboundLink", LinkRefused], None]


class OutboundLink:
    """The link to one peer at one address: `run` keeps it up, `send` queues.

    Attributes:
        epoch: of the peer when the link was last known to live; see `Epochs`.
        has_met: the peer was there, at this address, at some time.
        hello: what it said of itself when the link last came up.
    """

    def __init__(
        self,
        node_id: NodeId,
        address: str,
        *,
        identity: Callable[[], Hello],
        network: Network,
        settings: LinkSettings,
        tls: TlsSource | None,
        rng: random.Random,
        owner: LinkOwner,
        secrets: Callable[[], PeerSecrets],
        recognize: Recognize,
    ) -> None:
        self.node_id = node_id
        self.address = address
        self.epoch = 0
        self.is_up = False
        self.has_met = False
        self.hello: Hello | None = None
        self.queued_bytes = 0
        self.sends = 0
        self.dropped_sends = 0
        self.sent_bytes = 0
        self.writes = 0
        self.dials = 0
        self._identity = identity
        self._network = network
        self._settings = settings
        self._tls = tls
        self._rng = rng
        self._owner = owner
        self._secrets = secrets
        self._recognize = recognize
        self._queues: tuple[_Queue, _Queue] = (_Queue(), _Queue())
        self._not_empty = trio.lowlevel.ParkingLot()
        self._is_idle = False
        """The writer sleeps and was not woken yet."""
        self._unfinished: Sequence[Buffer] = ()
        """The rest of a frame that was written in part: it is sent before anything else."""
        self._io: SocketIo | None = None
        self._poked = trio.Event()
        self._session: trio.CancelScope | None = None
        self._is_leaving = False
        self._chunks_received = 0
        self._chunks_seen = 0
        self._silent_intervals = 0

    def send(self, buffers: Buffer | Sequence[Buffer], priority: Priority, more: bool = False) -> bool:
        """Queue whole frames; False when the link is down or its queue is full.

        When nothing is queued, a small send goes to the socket at once: waking the writer costs several times as much as the
        write. With `more`, the caller sends again before it waits, so that one write of the writer is cheaper.
        """
        queue = self._queues[priority]
        if isinstance(buffers, bytes | bytearray | memoryview):
            buffers = (buffers,)
        size_bytes = sum(map(len, buffers))
        settings = self._settings
        if (
            not self.is_up
            or len(queue.sends) >= settings.link_queue_messages_max
            or (queue.size_bytes + size_bytes > settings.link_queue_bytes_max and queue.sends)
        ):
            self.dropped_sends += 1
            return False
        if self._is_idle and not more and self._io is not None and size_bytes <= settings.direct_bytes_max:
            self._write_at_once(self._io, buffers, size_bytes)
        else:
            self._put(queue, buffers, size_bytes)
        return True

    def _write_at_once(self, io: SocketIo, buffers: Sequence[Buffer], size_bytes: int) -> None:
        """Nothing is queued and the writer sleeps: give the socket what it takes now, and the writer what is left."""
        try:
            written_bytes = io.write_nowait(buffers)
        except trio.BrokenResourceError:
            written_bytes = 0  # The writer meets the same error, and reports it outside of a caller's `send`.
        self.sends += 1
        self.sent_bytes += written_bytes
        self.writes += 1
        if written_bytes < size_bytes:
            self._unfinished = drop_front(buffers, written_bytes)
            self.queued_bytes += size_bytes - written_bytes
            self._wake_writer()

    def leave(self) -> bool:
        """End for good, with a goodbye when the link is up. False when it is not: then `run` is to be cancelled."""
        is_up = self.is_up
        self.is_up = False
        self._is_leaving = True
        self._wake_writer()
        return is_up

    def end_session(self, reason: str) -> None:
        """Lose the connection, if there is one, and dial again."""
        self._lose(reason)

    def poke(self) -> None:
        """The peer lives: if we wait to dial again, do so now."""
        self._poked.set()

    def on_interval(self, current_epoch: int) -> None:
        """A ping interval is over: ask for a sign of life, and end a link that has given none for too long."""
        if not self.is_up:
            return
        if self._chunks_received != self._chunks_seen:
            self._chunks_seen = self._chunks_received
            self._silent_intervals = 0
        else:
            self._silent_intervals += 1
            if self._silent_intervals >= self._settings.silent_intervals_max:
                self._lose(f"silent for {self._silent_intervals} ping intervals")
                return
        self._put(self._queues[Priority.URGENT], (encode_frame_head(FrameKind.PING, 0, PING_BODY.pack(current_epoch)),), 32)

    async def run(self) -> None:
        """Dial, greet, serve, and again, until cancelled or left."""
        backoff = Backoff(self._rng, self._settings.reconnect_backoff_seconds_min, self._settings.reconnect_backoff_seconds_max)
        last_refused: Refused | None = None
        last_text = ""
        while True:
            self.dials += 1
            self._poked = trio.Event()
            try:
                secrets = self._secrets()
                own = attrs.evolve(
                    self._identity(), expected_id=self.node_id, is_probe=False, challenge=new_challenge(secrets, self._rng)
                )
                greeted = await dial(
                    self.address,
                    own,
                    network=self._network,
                    settings=self._settings,
                    tls=self._tls,
                    secrets=secrets,
                    recognize=self._recognize,
                )
            except OSError as error:
                is_news = isinstance(error, CertificateRefused) and error.strerror != last_text
                last_text = error.strerror or ""
                level = logging.WARNING if is_news else logging.DEBUG
                logger.log(level, "link to %s at %s: %s", format_id(self.node_id), self.address, error.strerror or error)
            except LinkRefused as error:
                if error.refused != last_refused:
                    # Said once, not at every attempt.
                    last_refused = error.refused
                    logger.warning("link to %s at %s refused: %s", format_id(self.node_id), self.address, error.refused.text)
                    self._owner.on_refused(self, error)
            else:
                last_refused, last_text = None, ""
                began = trio.current_time()
                await self._serve(greeted)
                if self._is_leaving:
                    return
                # A link that breaks as soon as it is up does not reset the backoff, or both sides would spin.
                if trio.current_time() - began >= self._settings.reconnect_backoff_seconds_max:
                    backoff.reset()
            if not self._poked.is_set():
                with trio.move_on_after(backoff.next_seconds()):
                    await self._poked.wait()
            if self._poked.is_set():
                backoff.reset()

    async def _serve(self, greeted: Greeted) -> None:
        """One session, from up to lost. Closes the stream."""
        self._queues = (_Queue(), _Queue())
        self.queued_bytes = 0
        self._unfinished = ()
        self._io = socket_io(greeted.stream)
        if self._io is not None:
            self._io.set_unsent_bytes_max(UNSENT_BYTES_MAX)
        self._chunks_received = self._chunks_seen = self._silent_intervals = 0
        try:
            async with trio.open_nursery() as nursery:
                self._session = nursery.cancel_scope
                self.is_up = self.has_met = True
                self.hello = greeted.hello
                self._owner.on_up(self, greeted.hello)
                nursery.start_soon(self._until_lost, self._read, greeted)
                nursery.start_soon(self._until_lost, self._write, greeted)
        finally:
            self.is_up = self._is_idle = False
            self._session = self._io = None
            await trio.aclose_forcefully(greeted.stream)

    async def _until_lost(self, work: Callable[[Greeted], Awaitable[str]], greeted: Greeted) -> None:
        try:
            reason = await work(greeted)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            reason = str(error.__cause__ or error) or type(error).__name__
        except CodecError as error:
            reason = str(error)
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        """The session is over. It is reported before anything is cleaned up: elections wait for it."""
        if self.is_up:
            self.is_up = False
            self._owner.on_lost(self, reason)
        if self._session is not None:
            self._session.cancel()

    async def _read(self, greeted: Greeted) -> str:
        """What the peer sends back on our link: answers to pings. Returns why it ended."""
        decoder = greeted.decoder
        while True:
            chunk = await greeted.stream.receive_some(HELLO_BODY_BYTES_MAX)
            if not chunk:
                return "closed by the peer"
            self._chunks_received += 1
            for frame in decoder.feed(chunk):
                if frame.kind == FrameKind.PONG and len(frame.body) == PING_BODY.size:
                    (self.epoch,) = PING_BODY.unpack(frame.body)
                elif frame.kind == FrameKind.REFUSED:
                    return f"ended by the peer: {decode_refused(frame.body).text}"

    async def _write(self, greeted: Greeted) -> str:
        """Everything queued, in as few writes as its bound allows, until we leave. Returns why it ended."""
        (urgent, bulk) = self._queues
        stream = greeted.stream
        bytes_max = self._settings.write_bytes_max
        while True:
            if not (urgent.sends or bulk.sends or self._unfinished or self._is_leaving):
                self._is_idle = True
                await self._not_empty.park()
            buffers: list[Buffer] = []
            if self._unfinished:
                buffers.extend(self._unfinished)
                self._unfinished = ()
                taken_bytes = sum(map(len, buffers))
            elif self._is_leaving:
                await stream.send_all(encode_frame_head(FrameKind.GOODBYE, 0))
                return "left"
            else:
                taken_bytes = urgent.take(buffers, bytes_max, 0)
                taken_bytes = bulk.take(buffers, bytes_max, taken_bytes)
            self.queued_bytes -= taken_bytes
            if len(buffers) > 1 and (self._io is None or taken_bytes < JOIN_BYTES_MAX or len(buffers) > JOIN_BUFFERS_MIN):
                buffers = [b"".join(buffers)]
            if self._io is not None:
                await self._io.write_all(buffers)
                await trio.lowlevel.checkpoint()
            else:
                await stream.send_all(buffers[0])
            self.sent_bytes += taken_bytes
            self.writes += 1

    def _put(self, queue: "_Queue", buffers: Sequence[Buffer], size_bytes: int) -> None:
        queue.sends.append((size_bytes, buffers))
        queue.size_bytes += size_bytes
        self.queued_bytes += size_bytes
        self.sends += 1
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._is_idle:
            self._is_idle = False
            self._not_empty.unpark()


class _Queue:
    """The messages of one priority."""

    __slots__ = ("sends", "size_bytes")

    def __init__(self) -> None:
        self.sends: deque[tuple[int, Sequence[Buffer]]] = deque()
        self.size_bytes = 0

    def take(self, buffers: list[Buffer], bytes_max: int, taken_bytes: int) -> int:
        """Move sends to `buffers` while these hold less than `bytes_max`; return what they hold then."""
        while self.sends:
            (size_bytes, send) = self.sends[0]
            if taken_bytes and taken_bytes + size_bytes > bytes_max:
                break
            self.sends.popleft()
            self.size_bytes -= size_bytes
            taken_bytes += size_bytes
            buffers.extend(send)
        return taken_bytes
