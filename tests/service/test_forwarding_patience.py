"""The patience to find a leader: which answers are tried again, until when, and how often."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_eventlog.errors import (
    EventLogError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    OutOfOrderSequence,
    ShuttingDown,
    TopicNotFound,
    Unavailable,
)
from trio_eventlog.grpc.remote_nodes import GrpcNodes
from trio_eventlog.ids import NOBODY, GroupId, NodeId
from trio_eventlog.node.remote_group import RemoteGroup
from trio_eventlog.rpc import RpcSettings
from trio_eventlog.service.forwarding import Forwarder, ForwardingSettings
from trio_eventlog.testing.defaults import default

VIRTUAL_TIME = True

ME, OTHER, THIRD = NodeId(1), NodeId(2), NodeId(3)


class Replica:
    """As far as a forwarder looks."""

    name = "t/0"
    group_id = GroupId(7)

    def __init__(self, leader_id: NodeId) -> None:
        self.leader_id = leader_id
        self._changed = trio.Event()
        self._scopes: dict[trio.CancelScope, NodeId] = {}
        self.closed_by: EventLogError | None = None

    def change(self, leader_id: NodeId) -> None:
        self.leader_id = leader_id
        for scope, of in self._scopes.items():
            if leader_id not in (of, NOBODY):
                scope.cancel()
        self._changed.set()
        self._changed = trio.Event()

    async def wait_leader_other_than(self, node_id: NodeId) -> NodeId:
        while self.leader_id == node_id:
            if self.closed_by is not None:
                raise self.closed_by
            await self._changed.wait()
        return self.leader_id

    @contextmanager
    def while_led_by(self, node_id: NodeId, scope: trio.CancelScope) -> Any:
        self._scopes[scope] = node_id
        try:
            yield
        finally:
            del self._scopes[scope]


class Dialled:
    """Where the forwarder has dialled; nothing comes of it unless a test says so."""

    def __init__(self) -> None:
        self.nodes: list[NodeId] = []
        self.error: OSError | None = None

    async def __call__(self, node_id: NodeId) -> trio.abc.Stream:
        self.nodes.append(node_id)
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        ours, _ = trio.testing.memory_stream_pair()
        return ours


@asynccontextmanager
async def forwarder(
    dialled: Dialled, forward_timeout_seconds: float = 10.0, place: Callable[[GroupId], Any] = lambda group_id: None
) -> AsyncIterator[Forwarder]:
    settings = default(
        ForwardingSettings,
        forward_timeout_seconds=forward_timeout_seconds,
        forward_backoff_seconds_min=0.01,
        forward_backoff_seconds_max=0.5,
    )
    nodes = GrpcNodes(dialled, default(RpcSettings), settings.forward_attempt_timeout_seconds)
    made = Forwarder(ME, place, nodes, settings, random.Random(1))
    async with nodes.running(), made.running():
        yield made


def nodes_of(forwarder: Forwarder) -> GrpcNodes:
    assert isinstance(forwarder._nodes, GrpcNodes)
    return forwarder._nodes


def failing(*errors: EventLogError, result: str = "done") -> Callable[..., Any]:
    """Fails with each of `errors` in turn, then answers."""
    left = list(errors)

    async def call(node: object = None) -> str:
        await trio.lowlevel.checkpoint()
        if left:
            raise left.pop(0)
        return result

    return call


async def never(node: object = None) -> str:
    raise AssertionError("not to be called")


@pytest.mark.parametrize("error", [NotLeader, NoQuorum, OutcomeUnknown, ShuttingDown, Unavailable])
async def test_not_here_not_now_and_dont_know_are_tried_again(error: type[EventLogError]) -> None:
    """Here and there."""
    async with forwarder(Dialled()) as made:
        assert await made.at_leader(Replica(ME), failing(error("x"), error("x")), never) == "done"  # type: ignore[arg-type]
        assert await made.at_leader(Replica(OTHER), never, failing(error("x"), error("x"))) == "done"  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [InvalidArgument, OutOfOrderSequence, TopicNotFound])
async def test_refusals_are_final(error: type[EventLogError]) -> None:
    async with forwarder(Dialled()) as made:
        with pytest.raises(error):
            await made.at_leader(Replica(ME), failing(error("x")), never)  # type: ignore[arg-type]
        with pytest.raises(error):
            await made.at_leader(Replica(OTHER), never, failing(error("x")))  # type: ignore[arg-type]


async def test_nobody_leads_until_the_time_is_over() -> None:
    """Then NO_QUORUM, which says for how long it was tried."""
    async with forwarder(Dialled(), 7.0) as made:
        before = trio.current_time()
        with pytest.raises(NoQuorum, match="within 7 s"):
            await made.at_leader(Replica(NOBODY), never, never)  # type: ignore[arg-type]
        assert trio.current_time() - before == pytest.approx(7.0)


async def test_a_new_leader_ends_the_wait_at_once() -> None:
    """The backoff, half a second by then, is not waited for."""
    replica = Replica(NOBODY)
    async with forwarder(Dialled()) as made, trio.open_nursery() as nursery:

        async def elect() -> None:
            await trio.sleep(5.0)
            replica.change(ME)

        nursery.start_soon(elect)
        assert await made.at_leader(replica, failing(), never) == "done"  # type: ignore[arg-type]
        assert trio.current_time() == pytest.approx(5.0)


async def test_attempts_become_rarer() -> None:
    """A leader that answers nothing good for ten seconds is not asked a thousand times."""
    calls = 0

    async def local() -> str:
        nonlocal calls
        calls += 1
        await trio.lowlevel.checkpoint()
        raise OutcomeUnknown("x")

    async with forwarder(Dialled(), 10.0) as made:
        with pytest.raises(NoQuorum):
            await made.at_leader(Replica(ME), local, never)  # type: ignore[arg-type]
    assert 20 <= calls <= 50


async def test_a_call_is_taken_away_from_a_leader_that_was_replaced() -> None:
    """It would answer only when its connection breaks, which may take minutes."""
    replica = Replica(OTHER)
    async with forwarder(Dialled()) as made, trio.open_nursery() as nursery:

        async def remote(node: object) -> str:
            if replica.leader_id == OTHER:
                await trio.sleep_forever()
            return "by the third"

        async def replace() -> None:
            await trio.sleep(1.0)
            replica.change(NOBODY)
            await trio.sleep(1.0)
            replica.change(THIRD)

        nursery.start_soon(replace)
        assert await made.at_leader(replica, never, remote) == "by the third"  # type: ignore[arg-type]
        assert trio.current_time() == pytest.approx(2.0, abs=0.1)


async def test_a_closed_replica_ends_the_search() -> None:
    """Its topic was deleted, say: the caller hears that, and not after thirty seconds."""
    replica = Replica(NOBODY)
    replica.closed_by = TopicNotFound("it was deleted")
    async with forwarder(Dialled()) as made:
        with pytest.raises(TopicNotFound):
            await made.at_leader(replica, never, never)  # type: ignore[arg-type]


async def test_a_group_that_moves_while_the_call_waits_is_followed() -> None:
    """Its replica here is closed; the call goes to a node that has one, which was not known before."""
    here, there = Replica(NOBODY), Replica(OTHER)
    asked: list[GroupId] = []

    def place(group_id: GroupId) -> Replica:
        asked.append(group_id)
        return there

    async with forwarder(Dialled(), place=place) as made:
        here.closed_by = NotLeader("it has moved")
        assert await made.at_leader(here, never, failing()) == "done"  # type: ignore[arg-type]
    assert asked == [GroupId(7)]


async def test_nodes_none_of_which_can_be_reached_are_asked_in_turn_and_with_pauses() -> None:
    """A guess that was wrong leads to another guess, not to a loop without a pause, which would stop the whole node."""

    class Unreachable(Dialled):
        async def __call__(self, node_id: NodeId) -> trio.abc.Stream:
            self.nodes.append(node_id)
            assert len(self.nodes) < 500, "asked without a pause"
            raise OSError("its address is not known")

    dialled = Unreachable()
    group = RemoteGroup(GroupId(7), "t/0", lambda: [OTHER, THIRD])
    async with forwarder(dialled, place=lambda group_id: group) as made:
        with pytest.raises(NoQuorum):
            await made.at_leader(group, never, never)
    assert dialled.nodes[:4] == [OTHER, THIRD, OTHER, THIRD]


async def test_calls_to_a_remote_group_go_to_whichever_node_is_found_to_lead() -> None:
    """A call that waits for an answer of another node is taken from it, one that waits for a leader goes on at once."""
    group = RemoteGroup(GroupId(7), "t/0", lambda: [OTHER, THIRD])
    group.worked(OTHER)
    async with forwarder(Dialled(), place=lambda group_id: group) as made, trio.open_nursery() as nursery:

        async def remote(node: object) -> str:
            if group.leader_id == OTHER:
                await trio.sleep_forever()
            return "by the third"

        async def find() -> None:
            await trio.sleep(1.0)
            group.found(THIRD)

        nursery.start_soon(find)
        assert await made.at_leader(group, never, remote) == "by the third"
        assert trio.current_time() == pytest.approx(1.0, abs=0.1)


async def test_a_late_failure_does_not_undo_what_others_have_learned() -> None:
    """Two calls were given to a node that is lost. When the second one fails, the first has found the new leader already."""
    group = RemoteGroup(GroupId(7), "t/0", lambda: [OTHER, THIRD])
    group.worked(OTHER)
    group.correct(Unavailable("lost"), OTHER)
    group.found(THIRD)
    group.correct(Unavailable("lost"), OTHER)
    assert group.known_leader_id == THIRD
    group.correct(Unavailable("lost"), THIRD)
    group.correct(NotLeader("go there", THIRD), OTHER)
    assert group.known_leader_id == NOBODY, "the hint is older than the loss"


async def test_callers_share_the_outcome_of_a_dial() -> None:
    """Ten calls to a node that does not answer fail together, after one time limit, and not one after another."""

    class Silent(Dialled):
        async def __call__(self, node_id: NodeId) -> trio.abc.Stream:
            self.nodes.append(node_id)
            await trio.sleep_forever()
            raise AssertionError

    dialled = Silent()
    async with forwarder(dialled) as made, trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(Unavailable):
                await nodes_of(made).channel(OTHER)
            assert trio.current_time() == pytest.approx(1.0)

        for _ in range(10):
            nursery.start_soon(call)
    assert dialled.nodes == [OTHER]


async def test_a_link_that_is_lost_takes_the_connection_with_it_and_a_new_one_ends_old_dials() -> None:
    """After a cut, TCP tries what was sent or dialled before it again only after about as long as the cut has lasted."""
    dialled = Dialled()
    async with forwarder(dialled) as made:
        first = await nodes_of(made).channel(OTHER)
        nodes_of(made).on_link_renewed(OTHER)
        assert await nodes_of(made).channel(OTHER) is first, "a connection that stands is kept"
        nodes_of(made).on_link_lost(OTHER)
        assert await nodes_of(made).channel(OTHER) is not first
        await trio.testing.wait_all_tasks_blocked()
        assert not first.is_usable
        nodes_of(made).on_link_lost(THIRD)  # of a node that was never connected to: nothing happens


async def test_one_connection_to_each_node_for_all_calls() -> None:
    """Opened when first needed; a node that cannot be reached is tried again."""
    dialled = Dialled()
    async with forwarder(dialled) as made, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(made.at_leader, Replica(OTHER), never, failing())  # type: ignore[arg-type]
        await trio.testing.wait_all_tasks_blocked()
        assert dialled.nodes == [OTHER]
        dialled.error = ConnectionRefusedError("nobody there")
        with trio.move_on_after(1.0):
            await made.at_leader(Replica(THIRD), never, never)  # type: ignore[arg-type]
        assert dialled.nodes.count(THIRD) > 2
        dialled.error = None
        assert await made.at_leader(Replica(THIRD), never, failing()) == "done"  # type: ignore[arg-type]


async def test_a_replica_that_is_being_closed_leaves_time_to_others(autojump_clock: trio.testing.MockClock) -> None:
    """It refuses at once, and so does the wait for another leader, until the task that closes it has replaced it."""
    replicas = [Replica(ME), Replica(ME)]
    replicas[0].closed_by = NotLeader("it is being closed")
    attempts = 0

    async def here() -> str:
        nonlocal attempts
        attempts += 1
        assert attempts < 100, "no other task has run meanwhile"
        if len(replicas) == 2:
            raise NotLeader("it is being closed")
        return "done"

    async def replace() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        del replicas[0]

    async with forwarder(Dialled(), place=lambda group_id: replicas[0]) as made, trio.open_nursery() as nursery:
        nursery.start_soon(replace)
        assert await made.at_leader(replicas[0], here, there_never) == "done"  # type: ignore[arg-type]
    assert trio.current_time() < 1.0


async def test_leaders_that_change_at_every_look_leave_time_to_others(autojump_clock: trio.testing.MockClock) -> None:
    """No wait is long then, and none of them may have let other tasks run."""
    replica = Replica(ME)
    replica.wait_leader_other_than = return_at_once  # type: ignore[method-assign]
    attempts = 0
    is_over = False

    async def here() -> str:
        nonlocal attempts
        attempts += 1
        assert attempts < 100, "no other task has run meanwhile"
        if not is_over:
            raise NotLeader("not now")
        return "done"

    async def end() -> None:
        nonlocal is_over
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        is_over = True

    async with forwarder(Dialled()) as made, trio.open_nursery() as nursery:
        nursery.start_soon(end)
        assert await made.at_leader(replica, here, there_never) == "done"  # type: ignore[arg-type]


async def return_at_once(node_id: NodeId) -> NodeId:
    return OTHER


async def there_never(node: Any) -> str:
    raise AssertionError("nothing is forwarded")
