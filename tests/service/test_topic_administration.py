"""Creating and deleting topics: what a repeated call may take for its own doing, and what it is told otherwise."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from trio_eventlog.errors import (
    EventLogError,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    ShuttingDown,
    TopicExists,
    TopicNotFound,
    TopicRecreated,
    Unavailable,
)
from trio_eventlog.ids import GroupId, NodeId
from trio_eventlog.machine.catalog import Partition, Topic
from trio_eventlog.service.forwarding import Doubt
from trio_eventlog.service.topics import TopicAdministration
from trio_eventlog.service.values import Caller, NewTopic, TopicChange

VIRTUAL_TIME = True


class Broker:
    """A broker whose attempts end as they are told to."""

    catalog = None

    def __init__(self, *ends: EventLogError) -> None:
        self._ends = list(ends)
        self.created: list[dict[str, Any]] = []
        self.altered: list[tuple[int, dict[str, Any]]] = []

    async def create_topic(self, name: str, partitions: int, **fields: Any) -> None:
        self.created.append(fields)
        raise self._ends.pop(0)

    async def alter_topic(self, name: str, group_id: int, **fields: Any) -> None:
        self.altered.append((group_id, fields))
        if self._ends:
            raise self._ends.pop(0)

    async def delete_topic(self, name: str) -> None:
        raise self._ends.pop(0)

    async def wait_topic(self, name: str, *, present: bool) -> None:
        pass

    async def wait_current(self) -> None:
        pass

    def find_topic(self, name: str) -> Topic:
        return self.topic(name)

    async def wait_settled(self, name: str) -> None:
        pass

    def topic(self, name: str) -> Topic:
        nodes = (NodeId(1),)
        partition = Partition(group_id=GroupId(1), first_voters=nodes, replicas=nodes, wanted=nodes)
        return Topic(name=name, replica_count=1, retention_bytes=0, retention_seconds=0, partitions=(partition,))

    def unopened(self, topic: Topic) -> dict[int, str]:
        return {}

    applied_command_index = catalog_index = 1


class Forwarder:
    """Tries again, here, until an attempt is answered."""

    async def at_leader(
        self, catalog: object, local: Callable[[], Awaitable[Any]], remote: object, doubt: Doubt, *, caller: Caller
    ) -> Any:
        while True:
            try:
                return await local()
            except (NotLeader, NoQuorum, OutcomeUnknown, ShuttingDown, Unavailable) as error:
                doubt.add(error)
            except EventLogError as error:
                raise doubt.final(error) from error


def administration(*ends: EventLogError) -> TopicAdministration:
    return TopicAdministration(cast("Any", Broker(*ends)), cast("Any", Forwarder()), visible_seconds_max=1.0)


NOT_DONE = (NotLeader("go there"),)
DOUBTFUL = (OutcomeUnknown("lost"), Unavailable("broke"), NoQuorum("not heard of"), ShuttingDown("stopping"))


@pytest.mark.parametrize("first", NOT_DONE, ids=repr)
async def test_an_attempt_that_was_not_taken_explains_nothing(first: EventLogError) -> None:
    """A topic that was there before is refused, however many nodes had to be asked; so is the deletion of none."""
    with pytest.raises(TopicExists):
        await administration(first, TopicExists("it is there")).create(NewTopic(name="t"), Caller())
    with pytest.raises(TopicNotFound):
        await administration(first, TopicNotFound("none")).delete("t", Caller())


@pytest.mark.parametrize("first", DOUBTFUL, ids=repr)
async def test_an_attempt_that_may_have_been_taken_does(first: EventLogError) -> None:
    """Also when an attempt that certainly was not comes in between."""
    created = await administration(first, *NOT_DONE, TopicExists("it is there")).create(NewTopic(name="t"), Caller())
    assert created.value.name == "t"
    await administration(first, *NOT_DONE, TopicNotFound("none")).delete("t", Caller())


@pytest.mark.parametrize("first", NOT_DONE + DOUBTFUL, ids=repr)
async def test_every_attempt_to_alter_means_the_same_topic(first: EventLogError) -> None:
    """The one that was there when the call came, whatever is made under its name meanwhile."""
    broker = Broker(first)
    topics = TopicAdministration(cast("Any", broker), cast("Any", Forwarder()), visible_seconds_max=1.0)
    await topics.alter(TopicChange(name="t", retention_bytes=5), Caller())
    assert broker.altered == [(1, {"retention_bytes": 5, "retention_seconds": None})] * 2
    with pytest.raises(TopicRecreated):
        await administration(first, TopicRecreated("another one")).alter(TopicChange(name="t", retention_bytes=5), Caller())


async def test_an_alteration_of_nothing_is_refused() -> None:
    """Somebody has forgotten what to say."""
    with pytest.raises(InvalidArgument, match="no change of topic"):
        await administration().alter(TopicChange(name="t"), Caller())
    with pytest.raises(TopicRecreated):
        await administration().alter(TopicChange(name="t", group_id=2, retention_bytes=5), Caller())
