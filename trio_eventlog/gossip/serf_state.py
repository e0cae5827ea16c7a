"""What two members exchange in a push/pull beside the tables of the failure detector: times, members that left, events."""

from collections import Counter

from trio_eventlog.gossip.events import GossipStatus
from trio_eventlog.gossip.lamport import LAMPORT_TIME_MAX, LamportClock
from trio_eventlog.gossip.member_list import MemberList
from trio_eventlog.gossip.messages import JoinIntent, LeaveIntent, SerfState, UserEvent
from trio_eventlog.gossip.queries import Queries
from trio_eventlog.gossip.user_events import UserEvents


class StateExchange:
    """Makes and takes it."""

    def __init__(
        self, *, clock: LamportClock, members: MemberList, events: UserEvents, queries: Queries, counts: Counter[str]
    ) -> None:
        self._clock = clock
        self._members = members
        self._events = events
        self._queries = queries
        self._counts = counts

    def state(self) -> SerfState:
        """Our side."""
        records = self._members.records.values()
        return SerfState(
            time=self._clock.time,
            status_times={one.name: one.status_time for one in records if one.status is not GossipStatus.LEAVING},
            left_members=tuple(one.name for one in records if one.status is GossipStatus.LEFT and not one.last_was_join),
            event_time=self._events.clock.time,
            events=self._events.for_others(),
            query_time=self._queries.clock.time,
        )

    def merge(self, state: SerfState, now: float) -> None:
        """Take over what the other side knows."""
        times = (state.time, state.event_time, state.query_time, *state.status_times.values())
        if max(times) > LAMPORT_TIME_MAX:
            self._counts["impossible times"] += 1
            return
        for clock, time in (
            (self._clock, state.time),
            (self._events.clock, state.event_time),
            (self._queries.clock, state.query_time),
        ):
            if time > 0:
                clock.witness(time - 1)
        left = set(state.left_members)
        for name in state.left_members:
            # One later than the intent: so that it outweighs the status time alone, should that have come first.
            self._members.leave_intent(LeaveIntent(time=state.status_times.get(name, 0) + 1, name=name), now)
        for name, time in state.status_times.items():
            if name not in left:
                self._members.join_intent(JoinIntent(time=time, name=name), now)
        for at in state.events:
            for name, payload in at.events:
                if at.time <= LAMPORT_TIME_MAX:
                    self._events.receive(UserEvent(time=at.time, name=name, payload=payload))
