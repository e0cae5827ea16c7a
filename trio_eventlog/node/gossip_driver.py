"""Gossip on a real or simulated network: one task owns the core, drains the socket, carries out what the core wants.

The order of one round is the point of this file: wait; say that we are awake (`wake`, which notices when we stood still); hand in
every packet and request that has arrived; only then let time act (`tick`), so that no suspicion expires while its refutation lies
unread in the socket; then send. When so many packets have arrived that others would starve, the round takes several turns, and
time acts in the last one.
"""

import logging
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.gossip_wire import GossipWire
from trio_eventlog.codec.memberlist import (
    StreamDecoder,
    WireLimits,
    WrongLabel,
    decode_packet,
    encode_label,
    encode_packet,
    encode_stream_message,
    packet_overhead_bytes,
)
from trio_eventlog.codec.serf import ORIGIN_PAYLOAD, decode_key_answer
from trio_eventlog.errors import CodecError, EventLogError, InvalidArgument, Overloaded, ShuttingDown
from trio_eventlog.gossip.actions import Actions, Exchange, StreamPing
from trio_eventlog.gossip.events import (
    Event,
    GossipStatus,
    LeaveFinished,
    LoopStalled,
    Member,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberSuspected,
    MergeRefused,
    NameConflict,
    OnlyStreamsWork,
    QueryAcked,
    QueryAnswered,
    QueryFinished,
    QueryKey,
    SuspicionRefuted,
)
from trio_eventlog.gossip.messages import (
    Ack,
    Address,
    ErrorText,
    KeyAnswer,
    KeyOperation,
    Ping,
    PushPull,
    Query,
    QueryFilter,
    StreamMessage,
)
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.gossip.settings import SerfSettings, SwimSettings
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.mux import ConnectionInfo
from trio_eventlog.net.network import Network, split_address
from trio_eventlog.texts import shown

logger = logging.getLogger(__name__)

T = TypeVar("T")
RECEIVE_BYTES = 64 * 1024


@attrs.frozen(slots=True, kw_only=True)
class GossipSettings:
    """How a node gossips.

    Attributes:
        label: only nodes of the same label understand each other; Debian's agent knows none.
        streams_max: accepted streams served at once, and as many dialled; more are dropped.
        streams_bytes_max: what has been read from accepted streams that are not done, all together; who brings more is dropped.
        requests_max: calls of other tasks that wait for the core.
        packets_per_round_max: read before time acts; above what a full socket buffer holds, so that whatever has arrived by a
            deadline is read before it, and a flood does not put time off for ever.
        turn_seconds_max: after reading packets for so long, other tasks get their turn.
        seed_retry_seconds_min, seed_retry_seconds_max: between two attempts to reach a seed nobody is known at; each is drawn
            from the upper half. The maximum is also how often a seed is looked after later.
        hint_attempts_max: so often is an address tried that was only heard of (`try_to_join`).
        leave_seconds_max: a graceful leave is given up after this.
        log_interval_seconds: repeated warnings of one kind are at least so far apart.
        log_lines_max: about members that come and go, in one such interval; the rest is left out.
    """

    swim: SwimSettings
    serf: SerfSettings
    limits: WireLimits
    label: bytes
    streams_max: int
    streams_bytes_max: int
    requests_max: int
    packets_per_round_max: int
    turn_seconds_max: float
    seed_retry_seconds_min: float
    seed_retry_seconds_max: float
    hint_attempts_max: int
    leave_seconds_max: float
    log_interval_seconds: float
    log_lines_max: int


@attrs.frozen(slots=True, kw_only=True)
class QueryResult:
    """What came back of a query: names that acked, and payloads by name."""

    acks: tuple[str, ...]
    answers: Mapping[str, bytes]


class GossipRefused(Exception):
    """The other side of a stream does not want to; the text is its own."""


@attrs.define(slots=True)
class _Request(Generic[T]):
    """A call of the core by another task."""

    call: Callable[[Serf, float], T]
    done: trio.Event = attrs.field(factory=trio.Event)
    value: T | None = None
    error: EventLogError | None = None


@attrs.define(slots=True)
class _Collector:
    """A query of ours that is under way."""

    acks: list[str] = attrs.field(factory=list)
    answers: dict[str, bytes] = attrs.field(factory=dict)
    finished: trio.Event = attrs.field(factory=trio.Event)


class GossipDriver:
    """Gossip of one node: `run` it, give `handle_stream` to the mux, `leave` before stopping.

    Arguments:
        name: unique in the cluster.
        address: where others reach this node, by both TCP and UDP.
        tags: what others are told of this node, at most 512 bytes.
        datagrams: bound already; closed when `run` ends.
        rng: also makes the core's choices.
        seeds: "host:port" of nodes to join through; looked after for as long as the driver runs.
        keyring: encrypts everything; changed by key queries (`KeysChanged` tells).
        accepts: is a member of this name and these tags of our cluster?
        on_event: takes each event, in order, from the driver's task; synchronous.
    """

    def __init__(
        self,
        *,
        name: str,
        address: Address,
        tags: Mapping[str, str],
        settings: GossipSettings,
        datagrams: Datagrams,
        datagram_network: DatagramNetwork,
        network: Network,
        rng: random.Random,
        on_event: Callable[[Event], None],
        seeds: Sequence[str] = (),
        keyring: Keyring | None = None,
        accepts: Callable[[str, Mapping[str, str]], bool] = lambda name, tags: True,
    ) -> None:
        self.name = name
        self.address = address
        self._settings = settings
        self._datagrams = datagrams
        self._datagram_network = datagram_network
        self._network = network
        self._rng = rng
        self._on_event = on_event
        self._seeds = tuple(dict.fromkeys(seeds))
        self._hints: set[str] = set()
        self._keyring = keyring
        overhead = packet_overhead_bytes(settings.label, is_encrypted=keyring is not None)
        self._serf = Serf(
            name=name,
            address=address,
            tags=tags,
            swim_settings=attrs.evolve(settings.swim, packet_overhead_bytes=overhead),
            serf_settings=settings.serf,
            wire=GossipWire(),
            rng=rng,
            now=trio.current_time(),
            accepts=accepts,
            keys=keyring,
            ack_payload=ORIGIN_PAYLOAD,
        )
        self._requests: deque[_Request[Any]] = deque()
        self._waiting = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._is_over = False
        self._has_joined = False
        self._collectors: dict[QueryKey, _Collector] = {}
        self._left = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._round_packets = 0
        self._accepted_streams = 0
        self._accepted_bytes = 0
        self._dialled_streams = 0
        self._counts: Counter[str] = Counter()
        self._last_logged: dict[str, float] = {}
        self._lines_since = -math.inf
        self._lines_left = 0

    # --- For other tasks. ---

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name as of now, ourselves included, also those that failed or left."""
        return self._serf.members

    def statistics(self) -> Mapping[str, int]:
        """Counters of the core and of this driver, by name."""
        return MappingProxyType({**self._serf.statistics(), **self._counts})

    async def wait_members(self, is_wanted: Callable[[Mapping[str, Member]], bool]) -> None:
        """Until the members are as wanted; looked at whenever gossip has done something."""
        while not is_wanted(self.members):
            await self._changed.park()

    def shown_host(self, address: Address) -> str:
        """The host of a gossip address, as text."""
        return split_address(self.shown(address))[0]

    def try_to_join(self, address: str) -> None:
        """A node was heard of at "host:port": join through it, unless gossip knows it already. Given up after a few attempts."""
        if self._nursery is not None and address not in self._seeds and address not in self._hints:
            self._hints.add(address)
            self._nursery.start_soon(self._follow_hint, address)

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tell others of other tags. Raises CodecError over 512 bytes."""
        await self._ask(lambda serf, now: serf.set_tags(tags, now))

    async def send_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Tell every member something. Raises InvalidArgument over 512 bytes."""
        await self._ask(lambda serf, now: serf.send_event(name, payload, now, coalesce=coalesce))

    async def force_leave(self, name: str, *, prune: bool = False) -> bool:
        """Call a failed member left; False when there is none of this name."""
        return await self._ask(lambda serf, now: serf.force_leave(name, now, prune=prune))

    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        filters: Sequence[QueryFilter] = (),
        wants_ack: bool = False,
        relay_factor: int = 0,
        timeout_seconds: float | None = None,
    ) -> QueryResult:
        """Ask all members and wait until the time of the query is over.

        Raises:
            InvalidArgument: the query is too long.
            Overloaded: too many queries are open.
        """
        return await self._collect(
            lambda serf, now: serf.query(
                name,
                payload,
                now,
                filters=filters,
                wants_ack=wants_ack,
                relay_factor=relay_factor,
                timeout_seconds=timeout_seconds,
            )
        )

    async def respond(self, query: Query, payload: bytes) -> None:
        """Answer a `QueryReceived`. Raises InvalidArgument when the answer is too long."""
        await self._ask(lambda serf, now: serf.respond(query, payload, now))

    async def reachable(self) -> tuple[str, ...]:
        """Names of the members that ack within the default time of a query, ourselves included."""
        return (await self._collect(lambda serf, now: serf.ask_reachable(now))).acks

    async def operate_on_keys(self, operation: KeyOperation, key: bytes = b"") -> Mapping[str, KeyAnswer]:
        """Install, use, remove a key, or list keys, on every member; their answers by name."""
        result = await self._collect(lambda serf, now: serf.ask_keys(operation, key, now))
        answers = {}
        for name, payload in result.answers.items():
            try:
                answers[name] = decode_key_answer(payload)
            except CodecError as error:
                answers[name] = KeyAnswer(succeeded=False, text=str(error))
        return answers

    async def join(self, address: str) -> None:
        """Exchange tables with the node at "host:port".

        Raises:
            OSError: nobody answers there; trio.TooSlowError, trio.BrokenResourceError likewise.
            CodecError, GossipRefused, InvalidArgument: it is not of our cluster, keyring, label or version.
        """
        found = await self._datagram_network.resolve(address)
        for number, candidate in enumerate(found):
            try:
                await self._exchange(candidate, is_join=True)
            except (OSError, trio.TooSlowError, trio.BrokenResourceError):
                if number == len(found) - 1:
                    raise
            else:
                await self._ask(lambda serf, now: serf.joined(now))
                return

    async def leave(self) -> bool:
        """Say goodbye to all and wait until that has spread (LAN: two seconds); `run` then ends by itself.

        False when it took longer than `leave_seconds_max`: the others will report a failure instead.
        """
        with trio.move_on_after(self._settings.leave_seconds_max):
            await self._ask(lambda serf, now: serf.leave(now))
            await self._left.wait()
            return True
        return False

    async def _collect(self, call: Callable[[Serf, float], QueryKey]) -> QueryResult:
        collector = _Collector()

        def begin(serf: Serf, now: float) -> QueryKey:
            key = call(serf, now)
            self._collectors[key] = collector
            return key

        key = await self._ask(begin)
        try:
            await collector.finished.wait()
        finally:
            self._collectors.pop(key, None)
        return QueryResult(acks=tuple(collector.acks), answers=collector.answers)

    async def _ask(self, call: Callable[[Serf, float], T]) -> T:
        """Have the driver's task call the core. Raises what the core raises, Overloaded, ShuttingDown."""
        if self._is_over:
            raise ShuttingDown("gossip has ended on this node")
        if len(self._requests) >= self._settings.requests_max:
            raise Overloaded(f"{len(self._requests)} requests wait for gossip already")
        request = _Request(call)
        self._requests.append(request)
        self._waiting.cancel()
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value  # type: ignore[return-value]

    # --- The task that owns the core. ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled, or until a graceful leave is over."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for seed in self._seeds:
                    nursery.start_soon(self._look_after_seed, seed)
                task_status.started()
                await self._drive(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._is_over = True
            self._datagrams.close()
            while self._requests:
                self._finish(self._requests.popleft(), ShuttingDown("gossip has ended on this node"))

    async def _drive(self, nursery: trio.Nursery) -> None:
        serf = self._serf
        while not serf.has_left:
            with trio.CancelScope(deadline=serf.next_deadline()) as self._waiting:
                if self._requests or self._round_packets:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._datagrams.wait_receivable()
            now = trio.current_time()
            serf.wake(now)
            is_drained = self._receive_packets(now)
            self._serve_requests(now)
            if is_drained:
                serf.tick(now)
            self._carry_out(serf.actions.take(), nursery)
            self._changed.unpark_all()

    def _receive_packets(self, now: float) -> bool:
        """Hand in what has arrived; False: there is more, and it is somebody else's turn."""
        settings = self._settings
        turn_ends_at = now + settings.turn_seconds_max
        while self._round_packets < settings.packets_per_round_max:
            if trio.current_time() > turn_ends_at:
                return False
            self._round_packets += 1
            try:
                received = self._datagrams.receive_nowait()
            except OSError as error:
                self._counts["receive errors"] += 1
                self.warn("receive", "a packet could not be received: %s", error)
                continue
            if received is None:
                break
            (data, sender) = received
            self._counts["packets received"] += 1
            self._counts["packet bytes received"] += len(data)
            try:
                packet = decode_packet(data, label=settings.label, keyring=self._keyring, limits=settings.limits)
            except CodecError as error:
                self._counts["packets dropped"] += 1
                self.warn("packet", "a packet from %s was dropped: %s", self.shown(sender), error)
                continue
            self._counts["messages dropped"] += packet.dropped
            self._serf.receive(packet.messages, sender, now)
        self._round_packets = 0
        return True

    def _serve_requests(self, now: float) -> None:
        for _ in range(len(self._requests)):
            request = self._requests.popleft()
            try:
                request.value = request.call(self._serf, now)
            except EventLogError as error:
                self._finish(request, error)
            else:
                request.done.set()

    @staticmethod
    def _finish(request: _Request[Any], error: EventLogError) -> None:
        request.error = error
        request.done.set()

    def _carry_out(self, actions: Actions, nursery: trio.Nursery) -> None:
        for datagram in actions.datagrams:
            data = encode_packet(
                datagram.messages,
                with_checksum=datagram.with_checksum,
                label=self._settings.label,
                keyring=self._keyring,
            )
            self._counts["packets sent"] += 1
            self._counts["packet bytes sent"] += len(data)
            try:
                self._datagrams.send_nowait(data, datagram.address)
            except OSError as error:
                # A lost packet: the probe goes on with the help of others, and then accuses.
                self._counts["send errors"] += 1
                self.warn("send", "a packet to %s could not be sent: %s", self.shown(datagram.address), error)
        for exchange in actions.exchanges:
            self._start_stream(nursery, self._exchange_tables, exchange)
        for ping in actions.stream_pings:
            self._start_stream(nursery, self._ping_by_stream, ping)
        for event in actions.events:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case QueryAcked(key=key, sender=sender):
                if (collector := self._collectors.get(key)) is not None:
                    collector.acks.append(sender)
            case QueryAnswered(key=key, sender=sender, payload=payload):
                if (collector := self._collectors.get(key)) is not None:
                    collector.answers[sender] = payload
            case QueryFinished(key=key):
                if (collector := self._collectors.get(key)) is not None:
                    collector.finished.set()
            case LeaveFinished():
                self._left.set()
            case _:
                self._log(event)
        self._on_event(event)

    # --- Streams. ---

    def _start_stream(self, nursery: trio.Nursery, serve: Callable[[Any], Any], wish: Exchange | StreamPing) -> None:
        if self._dialled_streams >= self._settings.streams_max:
            self._counts["streams not dialled"] += 1
            return
        nursery.start_soon(serve, wish)

    async def _exchange_tables(self, exchange: Exchange) -> None:
        try:
            await self._exchange(exchange.address, is_join=exchange.is_join)
        except _STREAM_ERRORS as error:
            self._counts["exchanges failed"] += 1
            logger.info("no exchange with %s at %s: %s", shown(exchange.name), self.shown(exchange.address), _text(error))

    async def _ping_by_stream(self, ping: StreamPing) -> None:
        question = Ping(sequence=ping.sequence, target=ping.name, source=self.address, source_name=self.name)
        try:
            answer = await self._talk(ping.address, question)
            if isinstance(answer, Ack) and answer.sequence == ping.sequence:
                await self._ask(lambda serf, now: serf.stream_ack(ping.sequence, now))
        except _STREAM_ERRORS as error:
            logger.debug("no answer by stream from %s: %s", shown(ping.name), _text(error))

    async def _exchange(self, address: Address, *, is_join: bool) -> None:
        request = await self._ask(lambda serf, now: serf.push_pull(is_join=is_join))
        answer = await self._talk(address, request)
        if not isinstance(answer, PushPull):
            raise CodecError(f"gossip stream: {type(answer).__name__} in answer to a push/pull")
        is_first_join = is_join and not self._has_joined
        await self._ask(lambda serf, now: serf.merge(answer, now, is_first_join=is_first_join))
        self._has_joined = self._has_joined or is_join

    async def _talk(self, address: Address, message: StreamMessage) -> StreamMessage:
        """One question and one answer on a stream of their own."""
        settings = self._settings
        self._dialled_streams += 1
        try:
            with trio.fail_after(settings.swim.stream_timeout_seconds):
                stream = await self._network.open_stream(self._datagram_network.dialable(address))
                try:
                    data = encode_stream_message(message, label=settings.label, keyring=self._keyring)
                    self._counts["streams dialled"] += 1
                    self._counts["stream bytes sent"] += len(data)
                    await stream.send_all(encode_label(settings.label) + data)
                    answer = await self._read_message(stream, is_accepting=False)
                finally:
                    await trio.aclose_forcefully(stream)
        finally:
            self._dialled_streams -= 1
        if answer is None:
            raise GossipRefused("closed without an answer")
        if isinstance(answer, ErrorText):
            raise GossipRefused(f"the other side says: {answer.text!r}")
        return answer

    async def _read_message(self, stream: trio.abc.Stream, *, is_accepting: bool) -> StreamMessage | None:
        """None when the stream ends before there is one. Raises CodecError, trio.BrokenResourceError."""
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
                        raise Overloaded(f"gossip streams have brought {self._accepted_bytes} bytes that are under way")
                if (message := decoder.feed(chunk)) is not None:
                    return message
            return None
        finally:
            self._accepted_bytes -= read_bytes

    async def handle_stream(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        """Serve one accepted stream: the mux's handler for gossip."""
        if self._accepted_streams >= self._settings.streams_max or self._is_over:
            self._counts["streams refused"] += 1
            return
        self._accepted_streams += 1
        try:
            with trio.move_on_after(self._settings.swim.stream_timeout_seconds):
                await self._serve_stream(stream, info)
        finally:
            self._accepted_streams -= 1

    async def _serve_stream(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        answer: StreamMessage | None
        try:
            message = await self._read_message(stream, is_accepting=True)
            if message is None:
                return
            self._counts["streams accepted"] += 1
            answer = await self._ask(lambda serf, now: serf.receive_stream(message, now))
        except WrongLabel as error:
            self._counts["streams refused"] += 1
            self.warn("label", "a gossip stream of %s was closed: %s", info.remote_address, error)
            return
        except (CodecError, InvalidArgument) as error:
            self._counts["streams refused"] += 1
            self.warn("stream", "a gossip stream of %s was refused: %s", info.remote_address, error)
            answer = ErrorText(str(error))
        except (Overloaded, ShuttingDown):
            self._counts["streams refused"] += 1
            return
        if answer is not None:
            data = encode_stream_message(answer, label=self._settings.label, keyring=self._keyring)
            self._counts["stream bytes sent"] += len(data)
            await stream.send_all(data)

    # --- Joining. ---

    async def _look_after_seed(self, seed: str) -> None:
        """Join through a seed, and again whenever nobody alive is known at its address: a partition heals by that too."""
        settings = self._settings
        seconds_max = settings.seed_retry_seconds_min
        last_text = ""
        while True:
            try:
                if not await self._join_unless_known(seed):
                    return
                seconds_max = settings.seed_retry_seconds_max
                last_text = ""
            except _STREAM_ERRORS as error:
                if (text := _text(error)) != last_text:
                    logger.info("cannot join through %s yet: %s", seed, text)
                    last_text = text
                seconds_max = min(2 * seconds_max, settings.seed_retry_seconds_max)
            await trio.sleep(self._rng.uniform(seconds_max / 2, seconds_max))

    async def _follow_hint(self, address: str) -> None:
        seconds_max = self._settings.seed_retry_seconds_min
        try:
            for _ in range(self._settings.hint_attempts_max):
                try:
                    await self._join_unless_known(address)
                    return
                except _STREAM_ERRORS as error:
                    logger.debug("cannot join through %s: %s", address, _text(error))
                await trio.sleep(self._rng.uniform(seconds_max / 2, seconds_max))
                seconds_max *= 2
        finally:
            self._hints.discard(address)

    async def _join_unless_known(self, address: str) -> bool:
        """False: the address is our own. Raises as `join`."""
        found = await self._datagram_network.resolve(address)
        if self.address in found:
            logger.info("%s is this node itself", address)
            return False
        if not self._is_alive_at(found):
            await self.join(address)
            logger.info("joined through %s", address)
        return True

    def _is_alive_at(self, addresses: Sequence[Address]) -> bool:
        return any(
            member.address in addresses and member.status is GossipStatus.ALIVE and member.name != self.name
            for member in self.members.values()
        )

    # --- Telling people. ---

    def _log(self, event: Event) -> None:
        match event:
            case MemberJoined(member=member, has_flapped=has_flapped):
                if member.name != self.name:
                    again = " again" if has_flapped else ""
                    self._say(logging.INFO, "%s at %s is alive%s", shown(member.name), self.shown(member.address), again)
            case MemberFailed(member=member):
                self._say(logging.WARNING, "%s at %s has failed", shown(member.name), self.shown(member.address))
            case MemberLeft(member=member):
                self._say(logging.INFO, "%s has left", shown(member.name))
            case MemberReaped(member=member):
                self._say(logging.INFO, "%s is forgotten", shown(member.name))
            case MemberSuspected(name=name, accuser=accuser):
                self._say(logging.INFO, "%s is suspected by %s", shown(name), shown(accuser))
            case NameConflict(name=name):
                self.warn(f"conflict {name}", "%s", self.conflict_text(event))
            case SuspicionRefuted():
                self.warn("refuted", "others had no answer from this node in time: it is slow, or packets are lost")
            case OnlyStreamsWork(name=name):
                self.warn(f"udp {name}", "%s answers on TCP but not on UDP: is UDP blocked?", shown(name))
            case LoopStalled(seconds=seconds):
                self.warn("stalled", "this process stood still for %.1f s; nobody is accused for it", seconds)
            case MergeRefused(reason=reason):
                self.warn("merge", "gossip with another node was refused: %s", shown(reason))
            case _:
                pass

    def conflict_text(self, conflict: NameConflict) -> str:
        whose = "our own name" if conflict.is_own else "the name"
        return (
            f"{whose} {conflict.name!r} is used at {self.shown(conflict.known_address)}, and also at"
            f" {self.shown(conflict.other_address)}: give every node its own. A node that has moved is taken for two for a minute"
        )

    def _say(self, level: int, text: str, *arguments: object) -> None:
        """A line about a member. Strangers can make members come and go, and so there are only so many per interval."""
        now = trio.current_time()
        settings = self._settings
        if now - self._lines_since >= settings.log_interval_seconds:
            (self._lines_since, self._lines_left) = (now, settings.log_lines_max)
        if self._lines_left > 0:
            logger.log(level, text, *arguments)
        elif self._lines_left == 0:
            logger.warning(
                "members come and go too fast to tell; the next lines follow after %.0f seconds", settings.log_interval_seconds
            )
        self._lines_left -= 1

    def warn(self, kind: str, text: str, *arguments: object) -> None:
        """A warning that packets of strangers can cause: at most one per kind and interval, and of no more kinds than that."""
        now = trio.current_time()
        interval = self._settings.log_interval_seconds
        if now - self._last_logged.get(kind, -math.inf) < interval:
            return
        if len(self._last_logged) >= _KINDS_MAX:
            self._last_logged = {one: at for one, at in self._last_logged.items() if now - at < interval}
        if len(self._last_logged) < _KINDS_MAX:
            self._last_logged[kind] = now
            logger.warning(text, *arguments)

    def shown(self, address: Address) -> str:
        """The "host:port" that a gossip address can be dialled by."""
        return self._datagram_network.dialable(address)


_KINDS_MAX = 64
_STREAM_ERRORS = (
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    CodecError,
    GossipRefused,
    InvalidArgument,
    Overloaded,
    ShuttingDown,
)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
