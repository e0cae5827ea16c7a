"""What a client is pointed at: `eventlog://host:port[,host:port...]`, or `eventlog+srv://name`."""

import trio

from trio_eventlog.errors import InvalidArgument, Unavailable
from trio_eventlog.net.names import Names
from trio_eventlog.setting_fields import DEFAULT_PORT, SRV_SCHEME, format_address, has_port, parse_address, parse_join

SCHEME = "eventlog://"
SERVICE_SCHEME = "eventlog+srv://"


async def find_seeds(target: str, names: Names, seconds_max: float) -> tuple[str, ...]:
    """The "host:port" of the nodes that `target` names; those of `eventlog+srv://NAME` are asked of DNS.

    They are names still, and looked up whenever one is connected to.

    Raises:
        InvalidArgument: says which part is malformed.
        Unavailable: what DNS said.
    """
    text = target.strip().removesuffix("/")
    if not text.startswith(SERVICE_SCHEME):
        return parse_target(target)
    try:
        name = parse_join(SRV_SCHEME + text.removeprefix(SERVICE_SCHEME)).host
    except ValueError:
        raise InvalidArgument(
            f"target {target!r}: write {SERVICE_SCHEME}_eventlog._tcp.NAME, or short {SERVICE_SCHEME}NAME"
        ) from None
    with trio.move_on_after(seconds_max):
        try:
            services = await names.services(name)
        except OSError as error:
            raise Unavailable(f"target {target!r}: {name}: {error.strerror or error}") from error
        return tuple(format_address(service.host, service.port) for service in services)
    raise Unavailable(f"target {target!r}: DNS has not answered within {seconds_max:g} s")


def parse_target(target: str) -> tuple[str, ...]:
    """The addresses of a target, "host:port" each, in order, without repetitions.

    The scheme may be left out, and so may a port (8400 then).

    Raises:
        InvalidArgument: says which part is malformed.
    """
    rest = target.strip()
    if "://" in rest:
        if not rest.startswith(SCHEME):
            raise InvalidArgument(f"target {target!r}: write {SCHEME}HOST:PORT[,HOST:PORT...]")
        rest = rest.removeprefix(SCHEME).removesuffix("/")
    addresses: list[str] = []
    for part in rest.split(","):
        text = part.strip()
        try:
            address = format_address(*parse_address(text if has_port(text) else f"{text}:{DEFAULT_PORT}"))
        except ValueError as error:
            raise InvalidArgument(f"target {target!r}: {part.strip()!r} is {error}") from None
        if address not in addresses:
            addresses.append(address)
    return tuple(addresses)
