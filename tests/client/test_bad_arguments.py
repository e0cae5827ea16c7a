"""Slips of a caller: refused with words before anything is sent, and never by an error of Python's or protobuf's own."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trio_eventlog.cli import main
from trio_eventlog.client.client import Client
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.records import Header, Record
from trio_eventlog.testing.cluster import Cluster

VIRTUAL_TIME = True

NO_TOPIC = (5, None, b"orders", "\ud800")
NO_PARTITION = (-1, 1 << 32, 1.5, "0", True)
NO_SECONDS = (-1, -0.001, float("nan"), float("inf"), "1")


async def entered(context: Any) -> None:
    async with context:
        pass


def calls(client: Client) -> dict[str, tuple[Callable[[Any], Awaitable[object]], tuple[Any, ...]]]:
    def batch(topic: Any, partition: Any) -> Awaitable[object]:
        return client.produce_batch(topic, partition, None)  # type: ignore[arg-type]

    return {
        "produce, topic": (lambda value: client.produce(value, b"x"), NO_TOPIC),
        "produce, partition": (lambda value: client.produce("t", b"x", partition=value), NO_PARTITION),
        "produce, value": (lambda value: client.produce("t", value), ("text", 5)),
        "produce, key": (lambda value: client.produce("t", Record(value=b"x", key=value)), ("text", 5)),
        "produce, header": (
            lambda value: client.produce("t", Record(value=b"x", headers=(Header(key=value, value=b""),))),
            (b"\xff", 5, "\ud800"),
        ),
        "produce, timestamp": (lambda value: client.produce("t", Record(value=b"x", timestamp_ns=value)), (1 << 200, "1")),
        "produce_batch, topic": (lambda value: batch(value, 0), NO_TOPIC),
        "produce_batch, partition": (lambda value: batch("t", value), NO_PARTITION),
        "submit_batch, partition": (lambda value: client.submit_batch("t", value, None), NO_PARTITION),  # type: ignore[arg-type]
        "producer, topic": (lambda value: entered(client.producer(value)), NO_TOPIC),
        "producer, linger": (lambda value: entered(client.producer("t", linger=value)), NO_SECONDS),
        "producer, batch_bytes": (lambda value: entered(client.producer("t", batch_bytes=value)), (0, -1, 1.5)),
        "producer, batch_records": (lambda value: entered(client.producer("t", batch_records=value)), (0, -1, 1.5)),
        "consume, topic": (lambda value: entered(client.consume(value)), NO_TOPIC),
        "consume, partition": (lambda value: entered(client.consume("t", partition=value)), NO_PARTITION),
        "consume, fetch_bytes": (lambda value: entered(client.consume("t", fetch_bytes=value)), (-1, 1 << 32)),
        "consume, buffer_batches": (lambda value: entered(client.consume("t", buffer_batches=value)), (-1, 1.5)),
        "offsets, topic": (lambda value: client.offsets(value), NO_TOPIC),
        "offsets, partition": (lambda value: client.offsets("t", value), NO_PARTITION),
        "partitions, topic": (lambda value: client.partitions(value), NO_TOPIC),
        "create_topic, name": (lambda value: client.create_topic(value), (*NO_TOPIC, "a/b", "", "x" * 201)),
        "create_topic, partitions": (lambda value: client.create_topic("n", partitions=value), (*NO_PARTITION, 0, 1025)),
        "create_topic, replicas": (lambda value: client.create_topic("n", replicas=value), (*NO_PARTITION, 2)),
        "create_topic, retention_bytes": (lambda value: client.create_topic("n", retention_bytes=value), (-1, 1 << 64, 1.5)),
        "create_topic, retention_seconds": (
            lambda value: client.create_topic("n", retention_seconds=value),
            (*NO_SECONDS, 0.5, 1e-10, 1.5, 1e300, 1 << 63, 1 << 62),
        ),
        "alter_topic, name": (lambda value: client.alter_topic(value, retention_bytes=1), NO_TOPIC),
        "alter_topic, retention_bytes": (
            lambda value: client.alter_topic("t", retention_bytes=value),
            (-1, 1 << 64, 1.5, None, "", False),
        ),
        "alter_topic, retention_seconds": (
            lambda value: client.alter_topic("t", retention_seconds=value),
            (*NO_SECONDS, 0.5, 1e300, 1 << 63, 1 << 62, None),
        ),
        "alter_topic, group_id": (lambda value: client.alter_topic("t", retention_bytes=1, group_id=value), (-1, 1 << 64, 1.5)),
        "delete_topic, name": (lambda value: client.delete_topic(value), (*NO_TOPIC, "a/b")),
        "describe_topic, name": (lambda value: client.describe_topic(value), NO_TOPIC),
    }


async def test_every_argument_of_the_client() -> None:
    """Each wrong value of each argument, at a cluster that would make the topic."""
    wrong: list[str] = []
    async with Cluster(1, seed=91) as cluster, cluster.client() as client:
        await client.create_topic("t")
        for name, (call, values) in calls(client).items():
            for value in values:
                try:
                    await call(value)
                except InvalidArgument as error:
                    if not str(error):
                        wrong.append(f"{name} = {value!r}: no words")
                except Exception as error:
                    wrong.append(f"{name} = {value!r}: {error!r}")
                else:
                    wrong.append(f"{name} = {value!r}: taken")
        assert [topic.name for topic in await client.list_topics()] == ["t"]
    assert wrong == []


@pytest.mark.parametrize(
    ("topic", "partition", "record"),
    [(5, None, b"x"), ("t", -1, b"x"), ("t", 1 << 32, b"x"), ("t", None, "text"), ("t", None, 5)],
)
async def test_every_argument_of_an_embedded_node(topic: Any, partition: Any, record: Any) -> None:
    """As a remote client would be told."""
    async with Cluster(1, seed=92) as cluster:
        with pytest.raises(InvalidArgument):
            await cluster.node("n1").produce(topic, [Record(value=record)], partition=partition)


async def test_timestamps_of_an_embedded_node() -> None:
    """Before 1970, after 2262, and beyond every field."""
    async with Cluster(1, seed=93) as cluster:
        for timestamp_ns in (-1, 1 << 63, 1 << 200):
            with pytest.raises(InvalidArgument):
                await cluster.node("n1").produce("t", [Record(value=b"x", timestamp_ns=timestamp_ns)])


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", "1e12"])
def test_linger_of_the_command_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error, before anything is read."""
    with pytest.raises(SystemExit) as caught:
        main(["produce", "t", f"--linger-ms={value}"])
    assert caught.value.code == 2
    assert "--linger-ms" in capsys.readouterr().err
