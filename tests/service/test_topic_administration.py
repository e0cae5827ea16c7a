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
    Unavailable,
)
from trio_eventlog.service.forwarding import Doubt
from trio_eventlog.service.topics import DURATION_SECONDS_MAX, TopicAdministration
from trio_eventlog.v1 import admin_pb2

VIRTUAL_TIME = True


class Broker:
    """A broker whose attempts end as they are told to."""

    catalog = None

    def __init__(self, *ends: EventLogError) -> None:
        self._ends = list(ends)
        self.created: list[dict[str, Any]] = []

    async def create_topic(self, name: str, partitions: int, **fields: Any) -> None:
        self.created.append(fields)
        raise self._ends.pop(0)

    async def delete_topic(self, name: str) -> None:
        raise self._ends.pop(0)

    async def wait_topic(self, name: str, *, present: bool) -> None:
        pass

    async def wait_settled(self, name: str) -> None:
        pass

    def topic(self, name: str) -> str:
        return name


class Forwarder:
    """Tries again, here, until an attempt is answered."""

    async def at_leader(self, catalog: object, local: Callable[[], Awaitable[Any]], remote: object, doubt: Doubt) -> Any:
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
        await administration(first, TopicExists("it is there")).create(admin_pb2.CreateTopicRequest(name="t"))
    with pytest.raises(TopicNotFound):
        await administration(first, TopicNotFound("none")).delete(admin_pb2.DeleteTopicRequest(name="t"))


@pytest.mark.parametrize("first", DOUBTFUL, ids=repr)
async def test_an_attempt_that_may_have_been_taken_does(first: EventLogError) -> None:
    """Also when an attempt that certainly was not comes in between."""
    request = admin_pb2.CreateTopicRequest(name="t")
    assert await administration(first, *NOT_DONE, TopicExists("it is there")).create(request) == "t"  # type: ignore[comparison-overlap]
    await administration(first, *NOT_DONE, TopicNotFound("none")).delete(admin_pb2.DeleteTopicRequest(name="t"))


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (-1, 0),
        (0, -1),
        (0, 1),
        (0, 500_000_000),
        (1, 1),
        (-1, 999_999_999),
        (DURATION_SECONDS_MAX + 1, 0),
        (-(2**63), 0),
        (2**63 - 1, 0),
    ],
)
async def test_a_retention_time_that_cannot_be_is_refused(seconds: int, nanos: int) -> None:
    """Nothing is rounded: half a second is neither no limit nor none at all."""
    request = admin_pb2.CreateTopicRequest(name="t")
    request.retention.time.seconds, request.retention.time.nanos = seconds, nanos
    with pytest.raises(InvalidArgument, match="give whole seconds"):
        await administration().create(request)


@pytest.mark.parametrize("seconds", [0, 1, DURATION_SECONDS_MAX])
async def test_a_retention_time_at_its_bounds(seconds: int) -> None:
    """0 is written by clients that always set the field."""
    request = admin_pb2.CreateTopicRequest(name="t")
    request.retention.time.seconds = seconds
    topics = administration(TopicExists("it is there"))
    with pytest.raises(TopicExists):
        await topics.create(request)
    broker = cast("Broker", topics._broker)
    assert broker.created[0]["retention_seconds"] == seconds
