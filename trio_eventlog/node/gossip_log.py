"""Log lines about gossip. Strangers can cause them by sending packets, so their number is bounded."""

import logging
import math
from collections.abc import Callable

import trio

from trio_eventlog.gossip.events import (
    Event,
    LoopStalled,
    MemberFailed,
    MemberJoined,
    MemberLeft,
    MemberReaped,
    MemberSuspected,
    MergeRefused,
    NameConflict,
    OnlyStreamsWork,
    SuspicionRefuted,
)
from trio_eventlog.gossip.messages import Address
from trio_eventlog.texts import shown

logger = logging.getLogger(__name__)

KINDS_MAX = 64
"""Number of different kinds of warnings in one interval; warnings of further kinds are left out."""


class GossipLog:
    """Writes events of gossip, and warnings. Any task of the driver may call it.

    Arguments:
        own_name: of this node; that it is alive is not reported.
        shown_address: the "host:port" that a gossip address can be dialled by.
        interval_seconds: see `GossipSettings.log_interval_seconds`.
        lines_max: see `GossipSettings.log_lines_max`.
    """

    def __init__(self, *, own_name: str, shown_address: Callable[[Address], str], interval_seconds: float, lines_max: int) -> None:
        self._own_name = own_name
        self._shown_address = shown_address
        self._interval_seconds = interval_seconds
        self._lines_max = lines_max
        self._last_warned: dict[str, float] = {}
        self._lines_since = -math.inf
        self._lines_left = 0

    def report(self, event: Event) -> None:
        """Log an event, if people should know about it."""
        match event:
            case MemberJoined(member=member, has_flapped=has_flapped):
                if member.name != self._own_name:
                    again = " again" if has_flapped else ""
                    address = self._shown_address(member.address)
                    self._log_member(logging.INFO, "%s at %s is alive%s", shown(member.name), address, again)
            case MemberFailed(member=member):
                address = self._shown_address(member.address)
                self._log_member(logging.WARNING, "%s at %s has failed", shown(member.name), address)
            case MemberLeft(member=member):
                self._log_member(logging.INFO, "%s has left", shown(member.name))
            case MemberReaped(member=member):
                self._log_member(logging.INFO, "%s is removed from the table of members", shown(member.name))
            case MemberSuspected(name=name, accuser=accuser):
                self._log_member(logging.INFO, "%s is suspected by %s", shown(name), shown(accuser))
            case NameConflict(name=name):
                self.warn(f"conflict {name}", "%s", self.conflict_text(event))
            case SuspicionRefuted():
                self.warn("refuted", "other members suspected this node: it answers slowly, or packets are lost")
            case OnlyStreamsWork(name=name):
                self.warn(f"udp {name}", "%s answers on TCP but not on UDP: is UDP blocked?", shown(name))
            case LoopStalled(seconds=seconds):
                self.warn("stalled", "this process stood still for %.1f s; no member is suspected because of that", seconds)
            case MergeRefused(reason=reason):
                self.warn("merge", "gossip with another node was refused: %s", shown(reason))
            case _:
                pass

    def conflict_text(self, conflict: NameConflict) -> str:
        """What an operator has to do about two members of one name."""
        whose = "our own name" if conflict.is_own else "the name"
        return (
            f"{whose} {conflict.name!r} is used at {self._shown_address(conflict.known_address)}, and also at"
            f" {self._shown_address(conflict.other_address)}: every node needs a name of its own."
            " (After a node has moved to another address, this is reported for up to a minute.)"
        )

    def warn(self, kind: str, text: str, *arguments: object) -> None:
        """Write a warning, unless one of the same kind was written in this interval, or `KINDS_MAX` kinds were."""
        now = trio.current_time()
        if now - self._last_warned.get(kind, -math.inf) < self._interval_seconds:
            return
        if len(self._last_warned) >= KINDS_MAX:
            self._last_warned = {one: at for one, at in self._last_warned.items() if now - at < self._interval_seconds}
        if len(self._last_warned) < KINDS_MAX:
            self._last_warned[kind] = now
            logger.warning(text, *arguments)

    def _log_member(self, level: int, text: str, *arguments: object) -> None:
        now = trio.current_time()
        if now - self._lines_since >= self._interval_seconds:
            (self._lines_since, self._lines_left) = (now, self._lines_max)
        if self._lines_left > 0:
            logger.log(level, text, *arguments)
        elif self._lines_left == 0:
            logger.warning("too many members come and go: no further lines about them for %.0f seconds", self._interval_seconds)
        self._lines_left -= 1
