"""Streams of gossip: table exchanges and pings with other members, dialled by us and accepted from them."""

import logging
from collections import Counter
from collections.abc import Callable

import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.memberlist import StreamDecoder, WrongLabel, encode_label, encode_stream_message
from trio_eventlog.errors import CodecError, InvalidArgument, Overloaded, ShuttingDown
from trio_eventlog.gossip.actions import Exchange, StreamPing
from trio_eventlog.gossip.messages import Ack, Address, ErrorText, Ping, PushPull, StreamMessage
from trio_eventlog.net.datagrams import DatagramNetwork
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import Network
from trio_eventlog.node.gossip_calls import GossipCalls
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.texts import shown

logger = logging.getLogger(__name__)

RECEIVE_BYTES = 64 * 1024


class GossipRefused(Exception):
    """The other side of a stream refused, or closed it; the text is its own."""


STREAM_ERRORS = (
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    CodecError,
    GossipRefused,
    InvalidArgument,
    Overloaded,
    ShuttingDown,
)
"""What `GossipStreams.exchange` may raise: the other side is not there, or does not want to, or we have no room."""


def error_text(error: BaseException) -> str:
    """The text of an error that may have none."""
    return str(error) or type(error).__name__


class GossipStreams:
    """Dials and accepts. Each stream is in a task of its own; the core is reached through `GossipCalls`.

    Arguments:
        name, address: of this node.
        keyring: None when streams are not encrypted.
        counts: the driver's counters.
        warn: see `GossipLog.warn`.
    """

    def __init__(
        self,
        settings: GossipSettings,
        calls: GossipCalls,
        keyring: Keyring | None,
        counts: Counter[str],
        *,
        name: str,
        address: Address,
        network: Network,
        datagram_network: DatagramNetwork,
        warn: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._keyring = keyring
        self._counts = counts
        self._name = name
        self._address = address
        self._network = network
        self._dialable = datagram_network.dialable
        self._warn = warn
        self._has_joined = False
        self._dialled = 0
        self._accepted = 0
        self._accepted_bytes = 0

    # Streams that we dial.

    def start(self, nursery: trio.Nursery, wish: Exchange | StreamPing) -> None:
        """Carry out what the core wants done on a stream, unless `streams_max` are dialled already: then it is dropped."""
        if self._dialled >= self._settings.streams_max:
            self._counts["streams not dialled"] += 1
        elif isinstance(wish, Exchange):
            nursery.start_soon(self._exchange_tables, wish)
        else:
            nursery.start_soon(self._ping, wish)

    async def _exchange_tables(self, wish: Exchange) -> None:
        try:
            await self.exchange(wish.address, is_join=wish.is_join)
        except STREAM_ERRORS as error:
            self._counts["exchanges failed"] += 1
            address = self._dialable(wish.address)
            logger.info("no exchange with %s at %s: %s", shown(wish.name), address, error_text(error))

    async def _ping(self, wish: StreamPing) -> None:
        question = Ping(sequence=wish.sequence, target=wish.name, source=self._address, source_name=self._name)
        try:
            answer = await self._talk(wish.address, question)
            if isinstance(answer, Ack) and answer.sequence == wish.sequence:
                await self._calls.ask(lambda serf, now: serf.stream_ack(wish.sequence, now))
        except STREAM_ERRORS as error:
            logger.debug("no answer by stream from %s: %s", shown(wish.name), error_text(error))

    async def exchange(self, address: Address, *, is_join: bool) -> None:
        """Send our table of members, and merge the answer. Raises `STREAM_ERRORS`."""
        request = await self._calls.ask(lambda serf, now: serf.push_pull(is_join=is_join))
        answer = await self._talk(address, request)
        if not isinstance(answer, PushPull):
            raise CodecError(f"gossip stream: {type(answer).__name__} in answer to a push/pull")
        is_first_join = is_join and not self._has_joined
        await self._calls.ask(lambda serf, now: serf.merge(answer, now, is_first_join=is_first_join))
        self._has_joined = self._has_joined or is_join

    async def _talk(self, address: Address, message: StreamMessage) -> StreamMessage:
        """Send one message on a new stream and return the answer to it."""
        settings = self._settings
        self._dialled += 1
        try:
            with trio.fail_after(settings.swim.stream_timeout_seconds):
                stream = await self._network.open_stream(self._dialable(address))
                try:
                    data = encode_stream_message(message, label=settings.label, keyring=self._keyring)
                    self._counts["streams dialled"] += 1
                    self._counts["stream bytes sent"] += len(data)
                    await stream.send_all(encode_label(settings.label) + data)
                    answer = await self._read_message(stream, is_accepting=False)
                finally:
                    await trio.aclose_forcefully(stream)
        finally:
            self._dialled -= 1
        if answer is None:
            raise GossipRefused("closed without an answer")
        if isinstance(answer, ErrorText):
            raise GossipRefused(f"the other side says: {answer.text!r}")
        return answer

    # Streams that we accept.

    async def handle(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """Serve one accepted stream: the mux's handler for gossip."""
        if self._accepted >= self._settings.streams_max or self._calls.is_closed:
            self._counts["streams refused"] += 1
            return
        self._accepted += 1
        try:
            with trio.move_on_after(self._settings.swim.stream_timeout_seconds):
                await self._serve(stream, info)
        finally:
            self._accepted -= 1

    async def _serve(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        answer: StreamMessage | None
        try:
            message = await self._read_message(stream, is_accepting=True)
            if message is None:
                return
            self._counts["streams accepted"] += 1
            answer = await self._calls.ask(lambda serf, now: serf.receive_stream(message, now))
        except WrongLabel as error:
            self._counts["streams refused"] += 1
            self._warn("label", "a gossip stream of %s was closed: %s", info.remote_address, error)
            return
        except (CodecError, InvalidArgument) as error:
            self._counts["streams refused"] += 1
            self._warn("stream", "a gossip stream of %s was refused: %s", info.remote_address, error)
            answer = ErrorText(str(error))
        except (Overloaded, ShuttingDown):
            self._counts["streams refused"] += 1
            return
        if answer is not None:
            data = encode_stream_message(answer, label=self._settings.label, keyring=self._keyring)
            self._counts["stream bytes sent"] += len(data)
            await stream.send_all(data)

    # Both.

    async def _read_message(self, stream: trio.abc.Stream, *, is_accepting: bool) -> StreamMessage | None:
        """The first message of the stream; None when it ends before.

        Raises:
            CodecError, trio.BrokenResourceError: the stream is no good.
            Overloaded: accepted streams hold more than `streams_bytes_max` bytes.
        """
        settings = self._settings
        decoder = StreamDecoder(is_accepting=is_accepting, label=settings.label, keyring=self._keyring, limits=settings.limits)
        read_bytes = 0
        try:
            while chunk := await stream.receive_some(RECEIVE_BYTES):
                self._counts["stream bytes received"] += len(chunk)
                if is_accepting:
                    read_bytes += len(chunk)
                    self._accepted_bytes += len(chunk)
                    if self._accepted_bytes > settings.streams_bytes_max:
                        raise Overloaded(f"accepted gossip streams hold {self._accepted_bytes} bytes")
                if (message := decoder.feed(chunk)) is not None:
                    return message
            return None
        finally:
            self._accepted_bytes -= read_bytes
