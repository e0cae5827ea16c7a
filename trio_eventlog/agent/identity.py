"""Who a node is: its id, its name, the addresses where others reach it, the release that it runs."""

import ipaddress
import logging

import attrs
import trio

from trio_eventlog.agent.surroundings import Surroundings
from trio_eventlog.errors import SettingsError
from trio_eventlog.gossip.messages import Address
from trio_eventlog.ids import NodeId, format_id
from trio_eventlog.net.network import join_address, split_address
from trio_eventlog.net.port import Port
from trio_eventlog.settings import NodeSettings, is_wildcard

logger = logging.getLogger(__name__)

ID_DIGITS_IN_NAME = 6


@attrs.frozen(slots=True, kw_only=True)
class Identity:
    """Who a node is.

    Attributes:
        node_id: made at first start, kept for ever.
        name: for people; unique in a cluster.
        listening_on: the bound "host:port", with the real port when 0 was asked for.
        address: the "host:port" that others dial.
    """

    node_id: NodeId
    name: str
    listening_on: str
    address: str


def identify(settings: NodeSettings, node_id: NodeId, port: Port, host_name: str) -> Identity:
    return Identity(
        node_id=node_id,
        name=settings.node_name or default_name(host_name, node_id),
        listening_on=port.address,
        address=_advertised(settings, port, host_name),
    )


def default_name(host_name: str, node_id: NodeId) -> str:
    """The name of a node without the setting node_name. It has to be unique, and several nodes may be on one host."""
    return f"{host_name}-{format_id(node_id)[:ID_DIGITS_IN_NAME]}" if host_name else format_id(node_id)


def _advertised(settings: NodeSettings, port: Port, host_name: str) -> str:
    return settings.advertised(split_address(port.address)[1], host_name)


async def gossip_address(settings: NodeSettings, port: Port, surroundings: Surroundings) -> Address:
    """The address that others send packets to: the advertised one, looked up, since gossip carries IP addresses. A name may not be
    known yet when a node starts; then, until the next start, the address is that of the node's name, or the one listened on.

    Raises:
        SettingsError: none of these is of use to others.
    """
    (host, number) = split_address(port.address)
    datagrams = surroundings.datagrams
    advertised = _advertised(settings, port, surroundings.host_name)
    own_name = settings.node_name or surroundings.host_name
    substitute = port.address if not is_wildcard(host) else join_address(own_name, number) if own_name else ""
    for candidate in (advertised, substitute):
        try:
            with trio.fail_after(settings.dns_timeout_seconds):
                found = (await datagrams.resolve(candidate))[0]
        except (OSError, trio.TooSlowError) as error:
            logger.warning("where packets of gossip go: %s cannot be looked up: %s", candidate, error or "no answer in time")
            continue
        if is_wildcard(host) and ipaddress.ip_address(found.host).is_loopback:
            logger.warning(
                "%s is a loopback address: nodes on other machines cannot gossip with this one. Give an address with --advertise",
                datagrams.dialable(found),
            )
        return found
    raise SettingsError(
        f"advertise: {advertised} cannot be looked up, and gossip carries IP addresses. Give an address that other nodes can reach"
    )
