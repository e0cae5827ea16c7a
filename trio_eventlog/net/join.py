"""Finding nodes by names that have several addresses, or SRV records: `--join eventlog.example:8400`, `--join dns+srv://NAME`.

Each name is looked up anew at every try, since a name is what stays while addresses change; everything found is asked who it is.
Hellos of nodes that answer are given to `Discovery.introduce`, which keeps probing them.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.backoff import Backoff
from trio_eventlog.codec.peer_frame import Hello, RefusedCode
from trio_eventlog.errors import SettingsError
from trio_eventlog.net.links import LinkRefused
from trio_eventlog.net.names import Names, ServiceHost
from trio_eventlog.net.network import join_address
from trio_eventlog.setting_fields import JoinTarget

logger = logging.getLogger(__name__)


@attrs.frozen(slots=True, order=True)
class Place:
    """Where a node may be.

    Attributes:
        address: "ip:port", to be dialled.
        host: the name it was found by; a certificate shown there is to be good for it.
    """

    address: str
    host: str


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class JoinSettings:
    """How names are tried.

    Attributes:
        join_retry_seconds_min, join_retry_seconds_max: seconds between two attempts to look up a name and to reach its addresses,
            while the node knows no leader. The wait doubles from the first to the second; each is drawn from its upper half. Too
            small, and nodes that start together load the DNS server; too large, and a name that appears late delays the start.
        join_refresh_seconds: seconds between two attempts while the node knows a leader. New addresses of a name are found that
            late.
        dns_timeout_seconds: seconds after which one look-up has failed. Shorter than a slow DNS server takes, and the name is
            never found.
        join_addresses_max: number of addresses of one name that are asked; more are ignored, with a warning.
        log_repeat_seconds: interval between two log lines about a name that still does not lead to a node.
    """

    join_retry_seconds_min: float
    join_retry_seconds_max: float
    join_refresh_seconds: float
    dns_timeout_seconds: float
    join_addresses_max: int
    log_repeat_seconds: float

    def __attrs_post_init__(self) -> None:
        if not 0 < self.join_retry_seconds_min <= self.join_retry_seconds_max:
            raise SettingsError("join setting join_retry_seconds_min must be above 0 and not above join_retry_seconds_max")


class Joiner:
    """Tries every name until cancelled.

    Arguments:
        names: looks them up.
        probe: asks who is at a place; raises OSError or LinkRefused.
        on_hello: takes what another node said of itself.
        is_waiting: whether this node misses others: then names are tried often, and what came of it is said in the log.
    """

    def __init__(
        self,
        targets: Sequence[JoinTarget],
        *,
        names: Names,
        probe: Callable[[Place], Awaitable[Hello]],
        on_hello: Callable[[Hello], None],
        is_waiting: Callable[[], bool],
        settings: JoinSettings,
        rng: random.Random,
    ) -> None:
        self._targets = tuple(dict.fromkeys(targets))
        self._names = names
        self._probe = probe
        self._on_hello = on_hello
        self._is_waiting = is_waiting
        self._settings = settings
        self._rng = rng
        self._said: dict[JoinTarget, str] = {}
        """What came of the last try of each."""
        self._logged = ""
        self._logged_at = float("-inf")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for target in self._targets:
                nursery.start_soon(self._try_for_ever, target)

    async def _try_for_ever(self, target: JoinTarget) -> None:
        backoff = Backoff(self._rng, self._settings.join_retry_seconds_min, self._settings.join_retry_seconds_max)
        tried_at = float("-inf")
        while True:
            if self._is_waiting() or trio.current_time() - tried_at >= self._settings.join_refresh_seconds:
                tried_at = trio.current_time()
                self._said[target] = await self._try(target)
                self._tell()
            await trio.sleep(backoff.next_seconds())

    async def _try(self, target: JoinTarget) -> str:
        """Ask every address of the name which node it is; returns the answers as text."""
        said: dict[Place, str] = {}
        unknown: dict[str, str] = {}
        services: Sequence[ServiceHost] = (ServiceHost(target.host, target.port),)
        if target.is_service:
            try:
                with trio.fail_after(self._settings.dns_timeout_seconds):
                    services = await self._names.services(target.host)
            except (OSError, trio.TooSlowError) as error:
                return _reason(error)
        join_addresses_max = self._settings.join_addresses_max

        async def try_service(service: ServiceHost) -> None:
            try:
                with trio.fail_after(self._settings.dns_timeout_seconds):
                    addresses = await self._names.addresses(service.host)
            except (OSError, trio.TooSlowError) as error:
                unknown[service.host] = _reason(error)
                return
            for address in addresses:
                place = Place(join_address(address, service.port), service.host)
                if place not in said and len(said) < join_addresses_max:
                    said[place] = "nothing yet"
                    nursery.start_soon(try_place, place)

        async def try_place(place: Place) -> None:
            said[place] = await self._ask(place)

        async with trio.open_nursery() as nursery:
            for service in services[:join_addresses_max]:
                nursery.start_soon(try_service, service)
        return ", ".join(
            [f"{host}: {text}" for host, text in sorted(unknown.items())]
            + [f"{place.address}: {text}" for place, text in sorted(said.items())]
        )

    async def _ask(self, place: Place) -> str:
        try:
            hello = await self._probe(place)
        except OSError as error:
            return _reason(error).removeprefix(f"{place.address}: ")
        except LinkRefused as error:
            return "this node" if error.refused.code == RefusedCode.SAME_NODE_ID else f"refused: {error.refused.text}"
        self._on_hello(hello)
        return hello.node_name or hello.address

    def _tell(self) -> None:
        """One line for all names: when it is another one, and once in a while."""
        text = "; ".join(f"{target.text} ({self._said[target]})" for target in self._targets if target in self._said)
        now = trio.current_time()
        is_repeated = text == self._logged
        if is_repeated and (now - self._logged_at < self._settings.log_repeat_seconds or not self._is_waiting()):
            return
        (self._logged, self._logged_at) = (text, now)
        if self._is_waiting():
            logger.info("waiting for other nodes, looked for at %s", text)
        else:
            logger.debug("looked for other nodes at %s", text)


def _reason(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer to the look-up in time"
    return getattr(error, "strerror", None) or str(error)
