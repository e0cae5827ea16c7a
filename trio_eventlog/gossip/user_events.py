"""User events: a name and a payload for every member, delivered once."""

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import UserEventReceived
from trio_eventlog.gossip.lamport import LamportClock, Recent
from trio_eventlog.gossip.messages import EventsAt, UserEvent
from trio_eventlog.gossip.settings import SerfSettings


class UserEvents:
    """The events of this node and of others.

    Attributes:
        clock: the Lamport clock of events.
    """

    def __init__(self, settings: SerfSettings, actions: Actions) -> None:
        self._settings = settings
        self._actions = actions
        self.clock = LamportClock()
        self._recent = Recent(settings.recent_times_max, settings.recent_per_time_max, settings.recent_bytes_max)

    def new(self, name: str, payload: bytes, *, coalesce: bool) -> UserEvent:
        """An event of ours, delivered here. Raises InvalidArgument when it is too long."""
        size = len(name.encode("utf-8", "surrogateescape")) + len(payload)
        if size > self._settings.event_bytes_max:
            raise InvalidArgument(f"an event of {size} bytes, the limit is {self._settings.event_bytes_max}")
        event = UserEvent(time=self.clock.increment(), name=name, payload=payload, coalesce=coalesce)
        self.receive(event)
        return event

    def receive(self, event: UserEvent) -> bool:
        """Deliver an event, ours or another member's. True when it is news."""
        self.clock.witness(event.time)
        size_bytes = len(event.name) + len(event.payload)
        if not self._recent.is_new(self.clock, event.time, (event.name, event.payload), size_bytes):
            return False
        self._actions.events.append(UserEventReceived(event))
        return True

    def for_others(self) -> tuple[EventsAt, ...]:
        """The newest events for a push/pull, as many as fit, oldest first."""
        found = []
        room = self._settings.state_events_bytes_max
        for time, seen in self._recent.newest_first():
            events = [one for one in seen if isinstance(one, tuple)]
            room -= sum(len(name) + len(payload) + 32 for name, payload in events)
            if room < 0:
                break
            found.append(EventsAt(time, tuple(events)))
        return tuple(reversed(found))

    def ignore_before(self, time: int) -> None:
        """Events of earlier times are not for us."""
        self._recent.time_min = max(self._recent.time_min, time)
