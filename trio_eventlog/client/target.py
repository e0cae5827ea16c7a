"""What a client is pointed at: `eventlog://host:port[,host:port...]`."""

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.setting_fields import DEFAULT_PORT, format_address, has_port, parse_address

SCHEME = "eventlog://"


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
