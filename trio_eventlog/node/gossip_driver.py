"""Gossip on a real or simulated network: one task owns the core, drains the socket, carries out what the core wants.

The order of one round is the point of this file: wait; report that this process is awake (`wake`, which notices when it stood
still); hand in every packet and request that has arrived; only then let time act (`tick`), so that no suspicion expires while its
refutation lies unread in the socket; then send. When handling all packets at once would starve other tasks, the round takes
several turns, and time acts in the last one.

The rest is in parts that own their state: `GossipPackets`, `GossipStreams`, `GossipCalls`, `GossipSeeds`, `GossipLog`.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs
import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.codec.gossip_wire import GossipWire
from trio_eventlog.codec.memberlist import packet_overhead_bytes
from trio_eventlog.codec.serf import ORIGIN_PAYLOAD, decode_key_answer
from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import Event, LeaveFinished, Member
from trio_eventlog.gossip.messages import Address, KeyAnswer, KeyOperation, Query, QueryFilter
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.net.datagrams import DatagramNetwork, Datagrams
from trio_eventlog.net.network import Network, split_address
from trio_eventlog.node.gossip_calls import GossipCalls, QueryResult
from trio_eventlog.node.gossip_log import GossipLog
from trio_eventlog.node.gossip_packets import GossipPackets
from trio_eventlog.node.gossip_seeds import GossipSeeds
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.node.gossip_streams import GossipStreams


class GossipDriver:
    """Gossip of one node: `run` it, give `streams.handle` to the mux, `leave` before stopping.

    Arguments:
        name: unique in the cluster.
        address: where others reach this node, by both TCP and UDP.
        tags: published to all members; at most 512 bytes.
        datagrams: bound already; closed when `run` ends.
        rng: also makes the core's choices.
        seeds: "host:port" of nodes to join through, for as long as the driver runs.
        keyring: encrypts everything; changed by key queries, which the event `KeysChanged` reports.
        accepts: whether a member of this name and these tags belongs to our cluster.
        on_event: takes each event, in order, from the driver's task; synchronous.

    Attributes:
        log: writes bounded warnings, for others too.
        streams: `handle` is the mux's handler for gossip.
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
        self._leave_seconds_max = settings.leave_seconds_max
        self._datagram_network = datagram_network
        self._on_event = on_event
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
        self._waiting = trio.CancelScope()
        self._left = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self._counts: Counter[str] = Counter()
        self._calls = GossipCalls(settings.requests_max, wake=lambda: self._waiting.cancel())
        self.log = GossipLog(
            own_name=name,
            shown_address=self.shown,
            interval_seconds=settings.log_interval_seconds,
            lines_max=settings.log_lines_max,
        )
        self._packets = GossipPackets(settings, datagrams, keyring, self._counts, warn=self.log.warn, shown=self.shown)
        self.streams = GossipStreams(
            settings,
            self._calls,
            keyring,
            self._counts,
            name=name,
            address=address,
            network=network,
            datagram_network=datagram_network,
            warn=self.log.warn,
        )
        self._seeds = GossipSeeds(
            seeds,
            settings,
            self._calls,
            self.streams,
            address=address,
            members=lambda: self.members,
            datagram_network=datagram_network,
            rng=rng,
        )

    # For other tasks.

    @property
    def members(self) -> Mapping[str, Member]:
        """All members by name as of now, ourselves included, also those that failed or left."""
        return self._serf.members

    def statistics(self) -> Mapping[str, int]:
        """Counters of the core and of this driver, by name."""
        return MappingProxyType({**self._serf.statistics(), **self._counts})

    async def wait_members(self, is_wanted: Callable[[Mapping[str, Member]], bool]) -> None:
        """Return once `is_wanted` accepts the members. It is called after every round of the driver."""
        while not is_wanted(self.members):
            await self._changed.park()

    def shown(self, address: Address) -> str:
        """The "host:port" that a gossip address can be dialled by."""
        return self._datagram_network.dialable(address)

    def shown_host(self, address: Address) -> str:
        """The host of a gossip address, as text."""
        return split_address(self.shown(address))[0]

    def try_to_join(self, address: str) -> None:
        """Join through "host:port", which another node has named, unless a live member is known there. Tried a few times."""
        self._seeds.try_to_join(address)

    async def join(self, address: str) -> None:
        """Exchange tables with the node at "host:port".

        Raises:
            OSError, trio.TooSlowError, trio.BrokenResourceError: no node answers there.
            CodecError, GossipRefused, InvalidArgument: it has another cluster, keyring, label or version.
            Overloaded, ShuttingDown: this node cannot.
        """
        await self._seeds.join(address)

    async def set_tags(self, tags: Mapping[str, str]) -> None:
        """Publish other tags. Raises CodecError over 512 bytes."""
        await self._calls.ask(lambda serf, now: serf.set_tags(tags, now))

    async def send_event(self, name: str, payload: bytes, *, coalesce: bool = False) -> None:
        """Send a user event to every member. Raises InvalidArgument over 512 bytes."""
        await self._calls.ask(lambda serf, now: serf.send_event(name, payload, now, coalesce=coalesce))

    async def force_leave(self, name: str, *, prune: bool = False) -> bool:
        """Mark a failed member as left; False when there is none of this name."""
        return await self._calls.ask(lambda serf, now: serf.force_leave(name, now, prune=prune))

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
        return await self._calls.collect(
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
        await self._calls.ask(lambda serf, now: serf.respond(query, payload, now))

    async def reachable(self) -> tuple[str, ...]:
        """Names of the members that ack within the default time of a query, ourselves included."""
        return (await self._calls.collect(lambda serf, now: serf.ask_reachable(now))).acks

    async def operate_on_keys(self, operation: KeyOperation, key: bytes = b"") -> Mapping[str, KeyAnswer]:
        """Install, use, remove a key, or list keys, on every member; their answers by name."""
        result = await self._calls.collect(lambda serf, now: serf.ask_keys(operation, key, now))
        answers = {}
        for name, payload in result.answers.items():
            try:
                answers[name] = decode_key_answer(payload)
            except CodecError as error:
                answers[name] = KeyAnswer(succeeded=False, text=str(error))
        return answers

    async def leave(self) -> bool:
        """Announce that this node leaves and wait until that has spread (LAN: two seconds); `run` then ends by itself.

        False when it took longer than `leave_seconds_max`: others will then report a failure instead.
        """
        with trio.move_on_after(self._leave_seconds_max):
            await self._calls.ask(lambda serf, now: serf.leave(now))
            await self._left.wait()
            return True
        return False

    # The task that owns the core.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled, or until a graceful leave is over."""
        try:
            async with trio.open_nursery() as nursery:
                self._seeds.start(nursery)
                task_status.started()
                await self._drive(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._seeds.close()
            self._packets.close()
            self._calls.close()

    async def _drive(self, nursery: trio.Nursery) -> None:
        (serf, calls, packets) = (self._serf, self._calls, self._packets)
        while not serf.has_left:
            with trio.CancelScope(deadline=serf.next_deadline()) as self._waiting:
                if calls.has_waiting or packets.has_unfinished_round:
                    await trio.lowlevel.checkpoint()
                else:
                    await packets.wait_receivable()
            now = trio.current_time()
            serf.wake(now)
            is_drained = packets.receive(serf, now)
            calls.serve(serf, now)
            if is_drained:
                serf.tick(now)
            self._carry_out(serf.actions.take(), nursery)
            self._changed.unpark_all()

    def _carry_out(self, actions: Actions, nursery: trio.Nursery) -> None:
        self._packets.send(actions.datagrams)
        for exchange in actions.exchanges:
            self.streams.start(nursery, exchange)
        for ping in actions.stream_pings:
            self.streams.start(nursery, ping)
        for event in actions.events:
            self._calls.report(event)
            self.log.report(event)
            if isinstance(event, LeaveFinished):
                self._left.set()
            self._on_event(event)
