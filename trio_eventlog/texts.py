"""Names and hosts as other nodes, clients and operators write them: what is accepted, and how what is not accepted is shown.

One rule for both directions: what `check_name` and `check_host` refuse in a node's settings they refuse in what another node says
of itself. So no node starts under a name that the others would not take.
"""

import ipaddress

NAME_BYTES_MAX = 255
"""Longest cluster name, node name and address, in UTF-8 bytes."""
SHOWN_LENGTH_MAX = 256
"""Of a stranger's text in a line of a log."""


def check_name(text: str) -> None:
    """Raises ValueError, saying why, for a name that has no room in a hello or would spoil a line of a log or a terminal."""
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it is not valid UTF-8") from None
    if size_bytes > NAME_BYTES_MAX:
        raise ValueError(f"it has {size_bytes} bytes, the limit is {NAME_BYTES_MAX}")
    if not text.isprintable():
        raise ValueError("it contains a line break, a tab or another character that cannot be printed")


def check_host(host: str) -> None:
    """Raises ValueError, saying why, for what is neither an IP address nor a name that can be looked up."""
    try:
        ipaddress.ip_address(host)
        return
    except ValueError:
        pass
    check_name(host)
    if not host or not set(host).isdisjoint(" []/@?#,\\"):
        raise ValueError("a host name contains neither blanks nor punctuation of URLs")
    try:
        # What the resolver does with it: labels are 1 to 63 bytes long.
        host.removesuffix(".").encode("idna")
    except UnicodeError as error:
        raise ValueError(f"not a host name: {error}") from None


def shown(text: str, length_max: int = SHOWN_LENGTH_MAX) -> str:
    """A text of a stranger, fit for one line of a log: cut, and without what would begin a line or move the cursor."""
    text = text if len(text) <= length_max else text[:length_max] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]
