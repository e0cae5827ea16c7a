"""The members with their tags, statuses and intents. Unlike the failure detector, this list remembers members that are gone."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

import attrs

from trio_eventlog.errors import CodecError
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import GossipStatus, Member, MemberFailed, MemberJoined, MemberLeft, MemberReaped, MemberUpdated
from trio_eventlog.gossip.lamport import LamportClock
from trio_eventlog.gossip.messages import Address, JoinIntent, LeaveIntent, RowStatus, Versions
from trio_eventlog.gossip.rows import Row, RowGone, RowJoined
from trio_eventlog.gossip.settings import SerfSettings
from trio_eventlog.gossip.swim import Swim
from trio_eventlog.gossip.wire import Wire


@attrs.define(slots=True, kw_only=True)
class Record:
    """A member on our list.

    Attributes:
        status_time: Lamport time of the last intent that counted.
        last_was_join: that intent was a join.
        leaving_since: when it last became LEAVING, by the loop's clock.
        gone_at: when it failed or left, by the loop's clock.
        prune_at: forget it then; infinite mostly.
    """

    name: str
    address: Address
    incarnation: int
    meta: bytes
    tags: Mapping[str, str]
    versions: Versions
    status: GossipStatus
    status_time: int = 0
    last_was_join: bool = False
    leaving_since: float = math.inf
    gone_at: float = -math.inf
    prune_at: float = math.inf


@attrs.frozen(slots=True)
class Intent:
    """About a member that is not known yet."""

    is_leave: bool
    time: int
    arrived_at: float


def record_of(row: Row, tags: Mapping[str, str]) -> Record:
    """A record of a member that is alive."""
    return Record(
        name=row.name,
        address=row.address,
        incarnation=row.incarnation,
        meta=row.meta,
        tags=dict(tags),
        versions=row.versions,
        status=GossipStatus.ALIVE,
    )


class MemberList:
    """What this node knows of all members, itself included.

    Arguments:
        refute: called when another member claims that this node leaves, and it does not.

    Attributes:
        records: by name.
        intents: about members that are not known yet.
        is_leaving: a graceful leave has begun.
    """

    def __init__(
        self,
        settings: SerfSettings,
        *,
        swim: Swim,
        own: Record,
        clock: LamportClock,
        wire: Wire,
        actions: Actions,
        counts: Counter[str],
        refute: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._swim = swim
        self._clock = clock
        self._wire = wire
        self._actions = actions
        self._counts = counts
        self._refute = refute
        self.own = own
        self.records = {own.name: own}
        self.intents: dict[str, Intent] = {}
        self.is_leaving = False

    def snapshot(self, record: Record) -> Member:
        """The member as others see it."""
        row = self._swim.table.get(record.name)
        return Member(
            name=record.name,
            address=record.address,
            tags=record.tags,
            status=record.status,
            incarnation=record.incarnation if row is None else row.incarnation,
            status_time=record.status_time,
            is_suspect=row is not None and row.status is RowStatus.SUSPECT,
            versions=record.versions,
        )

    def decode_tags(self, meta: bytes) -> dict[str, str]:
        try:
            return self._wire.decode_tags(meta)
        except CodecError:
            self._counts["meta not understood"] += 1
            return {}

    def take_changes(self, now: float) -> None:
        """Apply what has changed in the table of the failure detector."""
        changes = self._swim.changes
        self._swim.changes = []
        for change in changes:
            if isinstance(change, RowJoined):
                self._row_joined(change.row, now)
            elif isinstance(change, RowGone):
                self._row_gone(change.row, now)
            else:
                record = self.records.get(change.row.name)
                if record is not None:
                    self._copy(change.row, record)
                    self._actions.events.append(MemberUpdated(self.snapshot(record)))

    def _copy(self, row: Row, record: Record) -> None:
        record.address = row.address
        record.incarnation = row.incarnation
        record.versions = row.versions
        if record.meta != row.meta:
            record.meta = row.meta
            record.tags = self.decode_tags(row.meta)

    def _row_joined(self, row: Row, now: float) -> None:
        record = self.records.get(row.name)
        has_flapped = False
        if record is None:
            self._make_room()
            record = record_of(row, self.decode_tags(row.meta))
            self.records[row.name] = record
            intent = self.intents.pop(row.name, None)
            if intent is not None:
                record.status_time = intent.time
                record.last_was_join = not intent.is_leave
                if intent.is_leave:
                    record.status = GossipStatus.LEAVING
                    record.leaving_since = now
        else:
            has_flapped = now - record.gone_at < self._settings.flap_seconds
            self._counts["flaps"] += has_flapped
            self._copy(row, record)
            record.status = GossipStatus.ALIVE
            record.gone_at = -math.inf
            record.prune_at = math.inf
        self._actions.events.append(MemberJoined(self.snapshot(record), has_flapped))

    def _make_room(self) -> None:
        """Make room: unlike the failure detector's table, this list keeps members that are gone. Evict the one gone longest."""
        if len(self.records) >= self._swim.settings.members_max:
            gone = [one for one in self.records.values() if one.status in (GossipStatus.FAILED, GossipStatus.LEFT)]
            if gone:
                self._counts["members forgotten for others"] += 1
                self._erase(min(gone, key=lambda one: one.gone_at))

    def _row_gone(self, row: Row, now: float) -> None:
        record = self.records.get(row.name)
        if record is None:
            return
        self._copy(row, record)
        record.gone_at = now
        if record.status is GossipStatus.LEAVING or row.status is RowStatus.LEFT:
            self._counts["leaves that overtook their intent"] += record.status is GossipStatus.ALIVE
            record.status = GossipStatus.LEFT
            self._actions.events.append(MemberLeft(self.snapshot(record)))
        elif record.status is GossipStatus.ALIVE:
            record.status = GossipStatus.FAILED
            self._actions.events.append(MemberFailed(self.snapshot(record)))

    def join_intent(self, intent: JoinIntent, now: float) -> bool:
        """True when it is news."""
        self._clock.witness(intent.time)
        record = self.records.get(intent.name)
        if record is None:
            return self._remember_intent(intent.name, is_leave=False, time=intent.time, now=now)
        if intent.time <= record.status_time:
            return False
        # Stored even when nothing else changes: otherwise two messages can rebroadcast each other for ever.
        record.status_time = intent.time
        record.last_was_join = True
        if record.status is GossipStatus.LEAVING and record is not self.own:
            record.status = GossipStatus.ALIVE
            record.prune_at = math.inf
        return True

    def leave_intent(self, intent: LeaveIntent, now: float) -> bool:
        """True when it is news."""
        self._clock.witness(intent.time)
        record = self.records.get(intent.name)
        if record is None:
            return self._remember_intent(intent.name, is_leave=True, time=intent.time, now=now)
        if intent.time <= record.status_time:
            return False
        if record is self.own and not self.is_leaving:
            self._counts["leave intents refuted"] += 1
            self._refute()
            return False
        record.status_time = intent.time
        record.last_was_join = False
        if record.status is GossipStatus.ALIVE:
            record.status = GossipStatus.LEAVING
            record.leaving_since = now
            if intent.prune and record is not self.own:
                record.prune_at = now + self._settings.broadcast_timeout_seconds + self._settings.leave_delay_seconds
        elif record.status is GossipStatus.FAILED:
            record.status = GossipStatus.LEFT
            self._actions.events.append(MemberLeft(self.snapshot(record)))
        if intent.prune and record.status is GossipStatus.LEFT and record is not self.own:
            self._erase(record)
            # An older intent is still being spread. Without a memory of this one it would be news here, and its rumor would replace
            # this one's. It is remembered as a join intent: a node of this name that joins later is not leaving.
            self._remember_intent(intent.name, is_leave=False, time=intent.time, now=now)
        return True

    def _remember_intent(self, name: str, *, is_leave: bool, time: int, now: float) -> bool:
        known = self.intents.get(name)
        if known is not None and known.time >= time:
            return False
        if known is None and len(self.intents) >= self._settings.intents_max:
            self._counts["intents over the limit"] += 1
            return False
        self.intents[name] = Intent(is_leave, time, now)
        return True

    def reap(self, now: float) -> None:
        """Forget members that have been gone for long, and intents whose members never appeared."""
        settings = self._settings
        for record in list(self.records.values()):
            if record is self.own:
                continue
            if record.status is GossipStatus.LEAVING and now - record.leaving_since > settings.leaving_seconds_max:
                # The failure detector would have noticed long ago: it has changed its mind, and we missed that.
                record.status = GossipStatus.ALIVE
                self._counts["leaves that never came"] += 1
            failed_long = record.status is GossipStatus.FAILED and now - record.gone_at > settings.failed_kept_seconds
            left_long = record.status is GossipStatus.LEFT and now - record.gone_at > settings.left_kept_seconds
            if failed_long or left_long or (record.prune_at <= now and record.status is not GossipStatus.ALIVE):
                self._erase(record)
        for name, intent in list(self.intents.items()):
            if now - intent.arrived_at > settings.intents_kept_seconds:
                del self.intents[name]

    def _erase(self, record: Record) -> None:
        del self.records[record.name]
        self._swim.table.forget(record.name)
        self._actions.events.append(MemberReaped(self.snapshot(record)))
