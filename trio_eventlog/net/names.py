"""The seam between a node and the names of its surroundings: which addresses a host has, and on which hosts a service is.

`net/real_names.py` asks the system and DNS, `testing/names.py` a table.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs


@attrs.frozen(slots=True, order=True)
class ServiceHost:
    """Where one instance of a service is (RFC 2782)."""

    host: str
    port: int


class Names(Protocol):
    """Looks names up, anew at each call. It has no timeout: the caller sets one."""

    async def addresses(self, host: str) -> Sequence[str]:
        """The IP addresses of `host`, as text; at least one. An IP address is its own.

        Raises:
            OSError: there are none, or no name server answered; the text contains the answer.
        """
        ...

    async def services(self, name: str) -> Sequence[ServiceHost]:
        """What the SRV records of `name` say; at least one.

        Raises:
            OSError: there are none, or no name server answered; the text contains the answer.
        """
        ...
