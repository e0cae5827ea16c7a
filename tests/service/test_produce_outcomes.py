"""The answer to a produce call against a model of the log, whatever becomes of each attempt that the node makes for it.

Sequences (of producer ids that a node lends to plain batches) live through all calls of a run: one that is given back with a wrong
sequence makes the log take a new batch for an old one, and an acknowledged record is lost.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from trio_eventlog.codec.batch import decode_records, encode_records, stamp
from trio_eventlog.errors import (
    CallUnsent,
    EventLogError,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    ShuttingDown,
    Unavailable,
)
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.node.proposals import Appended
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.node.replica import Replica
from trio_eventlog.records import Acks, Batch, Record
from trio_eventlog.service.forwarding import Forwarder, ForwardingSettings
from trio_eventlog.service.own_sequences import OwnSequences
from trio_eventlog.service.produce import ProduceService
from trio_eventlog.service.requests import ProduceRequest
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.service.values import Caller
from trio_eventlog.testing.defaults import default

VIRTUAL_TIME = True

ME, OTHER = NodeId(1), NodeId(2)
GROUP = GroupId(7)
IN, OUT = True, False
"""Whether the batch of an attempt without an answer has got into the log."""


class Log:
    """What a partition's log does with batches of producers, reduced to one remembered batch each."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self._last: dict[int, tuple[int, int, int]] = {}

    def append(self, batch: Batch) -> Appended:
        values = [record.value for record in decode_records(batch, 1 << 20)]
        last = self._last.get(batch.producer_id)
        if last is not None:
            base_sequence, count, base_offset = last
            if batch.base_sequence == base_sequence:
                return Appended(base_offset, count, duplicate=True)
            if batch.base_sequence != base_sequence + count:
                raise OutOfOrderSequence("x", base_sequence + count)
        self._last[batch.producer_id] = (batch.base_sequence, batch.record_count, len(self.values))
        self.values += values
        return Appended(len(self.values) - batch.record_count, batch.record_count)

    def lose(self, count: int) -> None:
        """The newest records were acknowledged by the leader alone, and are gone with it."""
        del self.values[len(self.values) - count :]
        self._last = {
            producer: (sequence, kept, offset)
            for producer, (sequence, kept, offset) in self._last.items()
            if offset + kept <= len(self.values)
        }


class Leader:
    """Decides what becomes of each attempt, as the run has drawn it."""

    def __init__(self, log: Log, rng: random.Random) -> None:
        self.log = log
        self.rng = rng
        self.is_here = True

    async def attempt(self, batch: Batch, *, is_here: bool) -> Appended:
        await trio.lowlevel.checkpoint()
        if self.rng.random() < 0.3:
            self.is_here = not self.is_here
        what = self.rng.choice(["answered", "answered", "refused", "stopping", "unsent", "full", "unknown", "lost", "silent"])
        gets_in = self.rng.choice([IN, OUT])
        match what:
            case "answered":
                return self.log.append(batch)
            case "refused":
                raise NotLeader("x")
            case "stopping":
                raise ShuttingDown("x")
            case "unsent":
                raise CallUnsent("x")
            case "full":
                raise Overloaded("x")
        if gets_in:
            self.log.append(batch)
        if is_here or what == "unknown":
            raise OutcomeUnknown("x")
        if what == "lost":
            raise Unavailable("x")
        await trio.sleep_forever()
        raise AssertionError


class HereReplica(Replica):
    """As far as the service and the forwarder look."""

    def __init__(self, leader: Leader) -> None:
        self.group_id = GROUP
        self._leader = leader

    name = "t/0"

    @property
    def leader_id(self) -> NodeId:
        return ME if self._leader.is_here else OTHER

    @property
    def is_leader(self) -> bool:
        return self._leader.is_here

    async def propose_batch(self, batch: Batch, acks: Acks) -> Any:
        await trio.lowlevel.checkpoint()
        if not self._leader.is_here:
            raise NotLeader("x")
        # Its driver decides every proposal of this node sooner or later: no connection is lost on the way, nobody is silent.
        return SimpleNamespace(has_failed=False, outcome=lambda: self._leader.attempt(batch, is_here=True))

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        await trio.sleep_forever()
        raise AssertionError

    @contextmanager
    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> Iterator[None]:
        """Sometimes another node comes to lead before there is an answer."""
        if self._leader.rng.random() < 0.2:
            scope.deadline = trio.current_time() + 0.01
        yield


class There:
    """The other node, and the way to it."""

    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    async def get(self, node_id: NodeId) -> Any:
        await trio.lowlevel.checkpoint()
        if self._leader.rng.random() < 0.1:
            raise CallUnsent("x")
        return self

    async def produce(self, topic: str, partition: int, group_id: GroupId, batch: Batch, acks: Acks, caller: Caller) -> Appended:
        return await self._leader.attempt(batch, is_here=False)


def service_of(leader: Leader, place: Replica | RemoteGroup, sequences: OwnSequences) -> ProduceService:
    topic = SimpleNamespace(name="t", holds_events=False, partitions=[SimpleNamespace(group_id=GROUP)])
    forwarder = Forwarder(
        ME, lambda group_id: place, There(leader), default(ForwardingSettings, forward_timeout_seconds=2.0), leader.rng
    )
    return ProduceService(
        SimpleNamespace(group=lambda group_id: place, leads=lambda group_id: True),  # type: ignore[arg-type]
        SimpleNamespace(known=lambda name, partition, group_id: topic),  # type: ignore[arg-type]
        forwarder,
        sequences,
        default(ServiceSettings),
    )


@pytest.mark.parametrize("lives_here", [True, False])
async def test_the_answer_agrees_with_the_log(lives_here: bool) -> None:
    """Acknowledged: in the log, once, where the answer says. Refused: not in the log. Otherwise: not known."""
    seen: set[str] = set()
    for seed in range(300):
        rng = random.Random(seed)
        leader = Leader(Log(), rng)
        if not lives_here:
            leader.is_here = False
        place = HereReplica(leader) if lives_here else RemoteGroup(GROUP, "t/0", lambda: [OTHER])
        service = service_of(leader, place, OwnSequences(random.Random(seed), 1024))
        own_sequence = 0
        for number in range(8):
            value = b"%d" % number
            batch = encode_records([Record(value=value)], now_ns=1)
            is_idempotent = rng.random() < 0.3
            if is_idempotent:
                batch = stamp(batch, producer_id=99, producer_epoch=0, base_sequence=own_sequence)
            request = ProduceRequest(topic="t", batch=batch, partition=0)
            refusal: EventLogError | None = None
            try:
                response = await service.produce(request, Caller())
            except EventLogError as error:
                refusal = error
            seen.add(refusal.code if refusal is not None else "")
            if refusal is not None:
                if isinstance(refusal, OutcomeUnknown):
                    assert "may have" in str(refusal), "says what is not known"
                else:
                    assert value not in leader.log.values, f"seed {seed}: {refusal.code} was told of a record that is in the log"
                if isinstance(refusal, NoQuorum):
                    assert "nothing was changed" in str(refusal)
                if is_idempotent and value in leader.log.values:
                    own_sequence += 1
            else:
                assert leader.log.values.count(value) == 1, f"seed {seed}: {value!r} was acknowledged"
                assert leader.log.values[response.base_offset] == value, f"seed {seed}"
                assert not response.duplicate, "its client has sent it once"
                if is_idempotent:
                    own_sequence += 1
                elif rng.random() < 0.1 and response.base_offset == len(leader.log.values) - 1:
                    leader.log.lose(1)
        assert len(set(leader.log.values)) == len(leader.log.values), f"seed {seed}: a record is there twice"
    assert {"", "OVERLOADED", "OUTCOME_UNKNOWN"} <= seen
