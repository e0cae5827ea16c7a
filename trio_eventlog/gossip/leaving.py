"""A graceful leave: first the intent spreads, then the failure detector's message, then this node lingers."""

import enum
import math
from collections.abc import Callable

from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import LeaveFinished
from trio_eventlog.gossip.lamport import LamportClock
from trio_eventlog.gossip.member_list import MemberList
from trio_eventlog.gossip.messages import LeaveIntent, UserMessage
from trio_eventlog.gossip.rumors import RumorQueue
from trio_eventlog.gossip.settings import SerfSettings
from trio_eventlog.gossip.swim import Swim


class _Stage(enum.Enum):
    """How far a graceful leave has come."""

    NO = enum.auto()
    INTENT = enum.auto()
    """The leave intent is being spread."""
    DEAD = enum.auto()
    """So is the failure detector's message."""
    LINGER = enum.auto()
    """The announcement has spread; we still answer, so that a member that has not received it yet reports no failure."""
    DONE = enum.auto()


class Leaving:
    """How far this node has come with it.

    Arguments:
        intent_rumors: says whether the intent is still being spread.
        spread: spreads an intent.
    """

    def __init__(
        self,
        settings: SerfSettings,
        *,
        name: str,
        swim: Swim,
        members: MemberList,
        clock: LamportClock,
        intent_rumors: RumorQueue,
        actions: Actions,
        spread: Callable[[LeaveIntent], None],
    ) -> None:
        self._settings = settings
        self._name = name
        self._swim = swim
        self._members = members
        self._clock = clock
        self._intent_rumors = intent_rumors
        self._actions = actions
        self._spread = spread
        self._stage = _Stage.NO
        self._until = math.inf

    @property
    def has_begun(self) -> bool:
        return self._stage is not _Stage.NO

    @property
    def is_over(self) -> bool:
        return self._stage is _Stage.DONE

    def next_deadline(self) -> float:
        """When to call `tick` again at the latest."""
        return self._until

    def begin(self, now: float) -> None:
        """Begin a graceful leave; `LeaveFinished` comes when the sockets may be closed (LAN: about two seconds)."""
        if self.has_begun:
            return
        self._stage = _Stage.INTENT
        self._members.is_leaving = True
        self._until = now + self._settings.broadcast_timeout_seconds
        intent = LeaveIntent(time=self._clock.increment(), name=self._name)
        self._members.leave_intent(intent, now)
        self._spread(intent)
        for row in self._swim.table.pick_alive(self._settings.leave_told_max, but=self._name):
            self._swim.packets.send_alone(row.address, UserMessage(intent))
        # From here on: no push/pull begun by us, and alive messages about us are not answered.
        self._swim.is_leaving = True
        self.tick(now)

    def tick(self, now: float) -> None:
        """Go on to the next stage when its time has come."""
        if self._stage is _Stage.NO:
            return
        is_alone = self._swim.table.others_alive() == 0
        if self._stage is _Stage.INTENT:
            if not is_alone and self._name in self._intent_rumors and now < self._until:
                return
            self._stage = _Stage.DEAD
            self._until = now + self._settings.broadcast_timeout_seconds
            self._swim.leave(now)
            self._members.take_changes(now)
        if self._stage is _Stage.DEAD:
            if not is_alone and self._name in self._swim.rumors and now < self._until:
                return
            self._stage = _Stage.LINGER
            self._until = now if is_alone else now + self._settings.leave_delay_seconds
        if self._stage is _Stage.LINGER and now >= self._until:
            self._stage = _Stage.DONE
            self._until = math.inf
            self._actions.events.append(LeaveFinished())
