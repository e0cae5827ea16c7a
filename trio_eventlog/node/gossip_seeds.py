"""Joining: through seeds, for as long as the node runs, and through addresses that other nodes have named."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence

import trio

from trio_eventlog.backoff import Backoff, jittered
from trio_eventlog.gossip.events import GossipStatus, Member
from trio_eventlog.gossip.messages import Address
from trio_eventlog.net.datagrams import DatagramNetwork
from trio_eventlog.node.gossip_calls import GossipCalls
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.node.gossip_streams import STREAM_ERRORS, GossipStreams, error_text

logger = logging.getLogger(__name__)


class GossipSeeds:
    """Has one task for each seed, and one for each address that is tried.

    Arguments:
        seeds: "host:port" of each.
        address: of this node; a seed that turns out to be this node itself is left alone.
        members: all members by name, as of now.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        settings: GossipSettings,
        calls: GossipCalls,
        streams: GossipStreams,
        *,
        address: Address,
        members: Callable[[], Mapping[str, Member]],
        datagram_network: DatagramNetwork,
        rng: random.Random,
    ) -> None:
        self._seeds = tuple(dict.fromkeys(seeds))
        self._settings = settings
        self._calls = calls
        self._streams = streams
        self._address = address
        self._members = members
        self._datagram_network = datagram_network
        self._rng = rng
        self._nursery: trio.Nursery | None = None
        self._hints: set[str] = set()
        """Addresses that are being tried."""

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to join. The tasks end with the nursery."""
        self._nursery = nursery
        for seed in self._seeds:
            nursery.start_soon(self._keep_joined, seed)

    def close(self) -> None:
        """From now on `try_to_join` does nothing."""
        self._nursery = None

    def try_to_join(self, address: str) -> None:
        """Join through "host:port" unless a live member is known there; at most `hint_attempts_max` attempts."""
        if self._nursery is not None and address not in self._seeds and address not in self._hints:
            self._hints.add(address)
            self._nursery.start_soon(self._follow_hint, address)

    async def join(self, address: str) -> None:
        """Exchange tables with the node at "host:port". Raises `STREAM_ERRORS`, of the last address that the name has."""
        found = await self._datagram_network.resolve(address)
        for number, candidate in enumerate(found):
            try:
                await self._streams.exchange(candidate, is_join=True)
            except (OSError, trio.TooSlowError, trio.BrokenResourceError):
                if number == len(found) - 1:
                    raise
            else:
                await self._calls.ask(lambda serf, now: serf.joined(now))
                return

    async def _keep_joined(self, seed: str) -> None:
        """Join through a seed, and again whenever no live member is known at its address. A partition heals by that, too."""
        settings = self._settings
        seconds_max = settings.seed_retry_seconds_min
        last_text = ""
        while True:
            try:
                if not await self._join_unless_known(seed):
                    return
                seconds_max = settings.seed_retry_seconds_max
                last_text = ""
            except STREAM_ERRORS as error:
                if (text := error_text(error)) != last_text:
                    logger.info("cannot join through %s yet: %s", seed, text)
                    last_text = text
                seconds_max = min(2 * seconds_max, settings.seed_retry_seconds_max)
            await trio.sleep(jittered(self._rng, seconds_max))

    async def _follow_hint(self, address: str) -> None:
        backoff = Backoff(self._rng, self._settings.seed_retry_seconds_min, self._settings.seed_retry_seconds_max)
        try:
            for _ in range(self._settings.hint_attempts_max):
                try:
                    await self._join_unless_known(address)
                    return
                except STREAM_ERRORS as error:
                    logger.debug("cannot join through %s: %s", address, error_text(error))
                await trio.sleep(backoff.next_seconds())
        finally:
            self._hints.discard(address)

    async def _join_unless_known(self, address: str) -> bool:
        """False: the address is our own. Raises as `join`."""
        found = await self._datagram_network.resolve(address)
        if self._address in found:
            logger.info("%s is this node itself", address)
            return False
        if not self._is_alive_at(found):
            await self.join(address)
            logger.info("joined through %s", address)
        return True

    def _is_alive_at(self, addresses: Sequence[Address]) -> bool:
        # The address of this node is none of them: `_join_unless_known` has looked.
        return any(member.address in addresses and member.status is GossipStatus.ALIVE for member in self._members().values())
