"""What the tests of the gossip cores share: a node with a clock of its own, and a wire that shows what was sent."""

import random
from collections.abc import Mapping
from typing import TypeVar

import attrs

from trio_eventlog.codec.gossip_wire import GossipWire
from trio_eventlog.codec.memberlist import decode_gossip_message
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.messages import OWN_VERSIONS, Address, Alive, Message, Versions
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.gossip.settings import LAN, SerfSettings, SwimSettings
from trio_eventlog.gossip.swim import Swim
from trio_eventlog.testing.defaults import default

WIRE = GossipWire()
T = TypeVar("T")


def address(number: int, port: int = 7946) -> Address:
    """Of the member called m{number}."""
    return Address(bytes((10, 0, number >> 8, number & 255)), port)


def alive(
    number: int, incarnation: int = 1, *, meta: bytes = b"", at: Address | None = None, versions: Versions = OWN_VERSIONS
) -> Alive:
    """An alive message of m{number}."""
    return Alive(name=f"m{number}", incarnation=incarnation, address=at or address(number), meta=meta, versions=versions)


def new_swim(members: int = 0, settings: SwimSettings = LAN, seed: int = 1, **arguments: object) -> Swim:
    """m0 at time 0, who knows m1 to m{members}; what has happened so far is forgotten."""
    swim = Swim(
        settings=settings,
        name="m0",
        address=address(0),
        meta=b"",
        rng=random.Random(seed),
        now=0.0,
        encode=WIRE.encode,
        actions=Actions(),
        **arguments,  # type: ignore[arg-type]
    )
    for number in range(1, members + 1):
        swim.receive(alive(number), address(number), 0.0)
    forget(swim)
    return swim


def forget(swim: Swim) -> None:
    """Drop rumors, actions, changes."""
    while len(swim.rumors):
        swim.rumors.take(1 << 20, 255, 1)
    swim.actions.take()
    swim.changes.clear()


def rumors(swim: Swim) -> list[Message]:
    """All rumors about members that are queued, the next to be sent first; they stay queued."""
    (taken, _) = swim.rumors.take(1 << 20, 1 << 20, 1 << 20)
    return [decode_gossip_message(body) for body in taken]


def run_until(core: "Swim | Serf", now: float, until: float) -> float:
    """Tick at every deadline up to `until`; returns `until`."""
    while (deadline := core.next_deadline()) <= until:
        now = max(now, deadline)
        core.wake(now)
        core.tick(now)
    core.next_deadline()
    core.wake(until)
    core.tick(until)
    return until


def sent(actions: Actions) -> list[tuple[Address, Message]]:
    """Every message in the datagrams."""
    return [(one.address, decode_gossip_message(body)) for one in actions.datagrams for body in one.messages]


def of_type(items: list[tuple[Address, Message]], kind: type[T]) -> list[tuple[Address, T]]:
    """Those messages that are of this kind."""
    return [(where, message) for where, message in items if isinstance(message, kind)]


def events(core: "Swim | Serf", kind: type[T]) -> list[T]:
    """Events of one kind, which stay there."""
    return [event for event in core.actions.events if isinstance(event, kind)]


def new_serf(
    number: int = 0,
    members: int = 0,
    *,
    tags: Mapping[str, str] | None = None,
    swim_settings: SwimSettings = LAN,
    serf_settings: SerfSettings | None = None,
    **arguments: object,
) -> Serf:
    """m{number} at time 0, who knows m1 to m{members}."""
    serf = Serf(
        name=f"m{number}",
        address=address(number),
        tags=tags or {"role": "eventlog"},
        swim_settings=swim_settings,
        serf_settings=serf_settings or default(SerfSettings),
        wire=WIRE,
        rng=random.Random(number + 1),
        now=0.0,
        **arguments,  # type: ignore[arg-type]
    )
    meta = WIRE.encode_tags({"role": "eventlog"})
    for other in range(1, members + 1):
        serf.receive([attrs.evolve(alive(other), meta=meta)], address(other), 0.0)
    forget(serf.swim)
    return serf
