"""The listener's side of a greeting: it reads the hello, judges it, answers, and asks for the proof."""

import logging
import random
from collections.abc import Awaitable, Callable

import attrs
import trio

from trio_eventlog.codec.first_bytes import PEER_MAGIC, PEER_PREFACE, PEER_VERSION
from trio_eventlog.codec.peer_frame import (
    FRAME_HEADER_BYTES,
    Challenge,
    FrameDecoder,
    FrameKind,
    Hello,
    Refused,
    RefusedCode,
    decode_hello,
    encode_frame_head,
    encode_hello,
    encode_refused,
)
from trio_eventlog.codec.peer_secret import PROOF_BYTES, PeerSecrets, Side
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import NOBODY, format_id
from trio_eventlog.net.inbound_links import InboundLinks
from trio_eventlog.net.links import HELLO_BODY_BYTES_MAX, LinkSettings, judge_certificate, judge_hello, judge_secret, new_challenge
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.tls import TlsSource

logger = logging.getLogger(__name__)

Admit = Callable[[Hello, ConnectionInfo], Refused | None]
"""A last word on an inbound hello that is right in itself: None takes it. For what only the node knows, such as who was removed."""

RecognizeProcess = Callable[[Hello, bool], Awaitable[Refused | None]]
"""Whether the process behind a hello is the node that it says; None: it is. True: and no other is from now on, durably."""


class LinkRefusedHere(Exception):
    """We do not take the link; `hello` is None when there was none; `is_told`: the dialler knows already."""

    def __init__(self, refused: Refused, hello: Hello | None, *, is_told: bool = False) -> None:
        super().__init__(refused.text)
        self.refused = refused
        self.hello = hello
        self.is_told = is_told


class ListenerGreeting:
    """Greets processes that have dialled us; decides also about those that we have dialled.

    Arguments: see `Transport`.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        identity: Callable[[], Hello],
        inbound: InboundLinks,
        tls: TlsSource | None,
        rng: random.Random,
        admit: Admit | None,
        secrets: Callable[[], PeerSecrets],
        recognize: RecognizeProcess | None,
        serves_side: bool,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._inbound = inbound
        self._tls = tls
        self._rng = rng
        self._admit = admit
        self._secrets = secrets
        self._recognize = recognize
        self._serves_side = serves_side

    async def greet(self, stream: trio.abc.Stream, info: ConnectionInfo) -> tuple[Hello, bool] | None:
        """The hello of the dialler, answered, and whether it is proved. None: it ended the connection, or said nothing in time.

        Raises:
            LinkRefusedHere: the dialler is not taken.
        """
        with trio.move_on_after(self._settings.hello_seconds_max):
            body = await _receive_hello(stream)
            if body is None:
                return None
            try:
                said = decode_hello(body)
            except CodecError as error:
                raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, str(error)), None) from error
            (hello, challenge, secrets) = (attrs.evolve(said, challenge=None), said.challenge, self._secrets())
            refused = self._judge(hello, challenge, secrets, info)
            if refused is not None:
                raise LinkRefusedHere(refused, hello)
            refused = self._admit(hello, info) if self._admit is not None else None
            if refused is None:
                refused = await self.recognize_process(hello, False)
            if refused is not None and challenge is None:
                raise LinkRefusedHere(refused, hello)
            is_side = hello.is_side and self._serves_side
            reply = attrs.evolve(self._identity(), is_probe=hello.is_probe, is_side=is_side, expected_id=NOBODY)
            if challenge is not None:
                reply = attrs.evolve(reply, challenge=new_challenge(secrets, self._rng, refuses=refused is not None))
            reply_body = encode_hello(reply)
            answer = encode_frame_head(FrameKind.HELLO_REPLY, 0, reply_body)
            if secrets:
                answer += encode_frame_head(FrameKind.PROOF, 0, secrets.prove(Side.LISTENER, body, reply_body))
            if refused is not None:
                # Behind our own hello and proof, so that the dialler knows which node refuses it.
                await stream.send_all(answer + encode_refusal(refused))
                raise LinkRefusedHere(refused, hello, is_told=True)
            await stream.send_all(answer)
            if secrets:
                proof = await _receive_proof(stream)
                if proof is None:
                    return None
                if not secrets.accepts(proof, Side.DIALLER, body, reply_body):
                    raise LinkRefusedHere(Refused(RefusedCode.SECRET, "you have another peer secret than this node"), hello)
            is_proved = bool(secrets) or (self._tls is not None and bool(self._tls.peer_name))
            if not hello.is_probe and self._inbound.is_trusted(hello, is_proved):
                # Only now has it proved what there is to be proved. Another process may have arrived meanwhile.
                refused = await self.recognize_process(hello, True)
                if refused is not None:
                    raise LinkRefusedHere(refused, hello)
            return hello, is_proved
        logger.debug("peer link of %s: no hello in time", info.remote_address)
        return None

    def _judge(self, hello: Hello, challenge: Challenge | None, secrets: PeerSecrets, info: ConnectionInfo) -> Refused | None:
        """Why a dialler with this hello is refused, before `recognize` is called; None when it is not."""
        own = self._identity()
        refused = judge_hello(own, hello)
        if refused is None and hello.expected_id not in (NOBODY, own.node_id):
            refused = Refused(
                RefusedCode.WRONG_NODE,
                f"this is node {format_id(own.node_id)}, you look for {format_id(hello.expected_id)}",
            )
        if refused is None and not hello.is_probe and self._inbound.is_full_for(hello.node_id):
            refused = Refused(RefusedCode.BUSY, f"{len(self._inbound.links)} peer links are the limit here")
        if refused is None and self._tls is not None:
            refused = judge_certificate(hello, info.peer_certificate, self._tls.peer_name)
        if refused is None:
            refused = judge_secret(secrets, challenge)
        if refused is None and not hello.is_probe:
            refused = self._inbound.judge_address(hello)
        return refused

    async def recognize_process(self, hello: Hello, remembers: bool) -> Refused | None:
        """The last word on who is at the other end. `remembers`: from now on no other process is this node, durably."""
        if self._recognize is None:
            return None
        refused = await self._inbound.judge_life(hello)
        return refused if refused is not None else await self._recognize(hello, remembers)


async def _receive_proof(stream: trio.abc.Stream) -> bytes | None:
    """The dialler's proof; None when the stream ends. Not a byte more is read: frames follow it."""
    wanted = FRAME_HEADER_BYTES + PROOF_BYTES
    data = b""
    while len(data) < wanted:
        chunk = await stream.receive_some(wanted - len(data))
        if not chunk:
            return None
        data += chunk
    try:
        (frame,) = FrameDecoder(PROOF_BYTES).feed(data)
    except (CodecError, ValueError) as error:
        raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, f"no proof after the hello: {error}"), None) from error
    return bytes(frame.body) if frame.kind == FrameKind.PROOF else b""


async def _receive_hello(stream: trio.abc.Stream) -> bytes | None:
    """The body of a hello; None when the stream ends first. Raises LinkRefusedHere for anything else."""
    decoder = FrameDecoder(HELLO_BODY_BYTES_MAX)
    preface = b""
    while True:
        chunk = await stream.receive_some(HELLO_BODY_BYTES_MAX)
        if not chunk:
            return None
        if len(preface) < len(PEER_PREFACE):
            missing = len(PEER_PREFACE) - len(preface)
            preface += bytes(chunk[:missing])
            chunk = chunk[missing:]
            if len(preface) < len(PEER_PREFACE):
                continue
            if preface != PEER_PREFACE:
                raise LinkRefusedHere(_judge_preface(preface), None)
        try:
            frames = decoder.feed(chunk)
            if not frames:
                continue
            if frames[0].kind != FrameKind.HELLO or len(frames) > 1 or decoder.buffered_bytes:
                raise CodecError(f"a frame of kind {frames[0].kind}, or more than one, instead of a hello")
            return bytes(frames[0].body)
        except CodecError as error:
            raise LinkRefusedHere(Refused(RefusedCode.MALFORMED, str(error)), None) from error


def encode_refusal(refused: Refused) -> bytes:
    """The frame that carries it."""
    return encode_frame_head(FrameKind.REFUSED, 0, encode_refused(refused))


def _judge_preface(preface: bytes) -> Refused:
    if preface[: len(PEER_MAGIC)] != PEER_MAGIC:
        return Refused(RefusedCode.MALFORMED, f"{preface.hex(' ')} does not begin a peer link")
    return Refused(RefusedCode.PROTOCOL_VERSION, f"peer links of version {preface[-1]} are not spoken here, of {PEER_VERSION} are")
