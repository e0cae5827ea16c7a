"""Requests that cannot be, and those at their bounds."""

import pytest

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.grpc.requests import (
    DURATION_SECONDS_MAX,
    consume_request,
    create_topic_request,
    forwarded_consume_request,
    requested_consume,
    requested_topic,
)
from trio_eventlog.service.requests import ConsumeRequest, Timestamp
from trio_eventlog.service.values import BEGINNING, END, NewTopic, Start
from trio_eventlog.v1 import admin_pb2


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
def test_a_retention_time_that_cannot_be_is_refused(seconds: int, nanos: int) -> None:
    """Nothing is rounded: half a second is neither no limit nor none at all."""
    request = admin_pb2.CreateTopicRequest(name="t")
    request.retention.time.seconds, request.retention.time.nanos = seconds, nanos
    with pytest.raises(InvalidArgument, match="give whole seconds"):
        requested_topic(request)


@pytest.mark.parametrize("seconds", [0, 1, DURATION_SECONDS_MAX])
def test_a_retention_time_at_its_bounds(seconds: int) -> None:
    """0 is written by clients that always set the field."""
    request = admin_pb2.CreateTopicRequest(name="t")
    request.retention.time.seconds = seconds
    assert requested_topic(request).retention_seconds == seconds


def test_a_topic_is_asked_for_as_it_was_given() -> None:
    """From a client, or from a node that forwards."""
    topic = NewTopic(name="t", partitions=3, replicas=2, retention_bytes=5, retention_seconds=7)
    assert requested_topic(create_topic_request(topic)) == topic


@pytest.mark.parametrize("start", [0, 7, BEGINNING, END, Timestamp(1_500_000_000)])
@pytest.mark.parametrize("is_linearizable", [False, True])
def test_a_forwarded_request_asks_for_the_same(start: Start | Timestamp, is_linearizable: bool) -> None:
    """But for whole batches: this node takes them apart when its own caller wants records."""
    asked = ConsumeRequest(
        topic="t",
        partition=2,
        start=start,  # type: ignore[arg-type]
        max_bytes=10,
        max_records=3,
        max_wait_seconds=1.5,
        is_linearizable=is_linearizable,
        group_id=9,
    )
    assert requested_consume(forwarded_consume_request(asked), is_stream=False) == asked


def test_a_client_asks_for_batches() -> None:
    request = requested_consume(consume_request("t", 1, END, 100, 5), is_stream=True)
    assert request == ConsumeRequest(topic="t", partition=1, start=END, max_bytes=100, group_id=5)
