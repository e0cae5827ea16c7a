"""Clients and nodes used where there is no Trio, or another run of it: refused with words, and nothing has happened."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

import trio_eventlog as el
from trio_eventlog.client.client import Client
from trio_eventlog.service.producer import Producer
from trio_eventlog.service.receivers import BatchReceiver
from trio_eventlog.testing import Cluster

VIRTUAL_TIME = True
NO_RUN = "there is no run of Trio here.*start_guest_run"
OTHER_RUN = "belongs to another run of Trio"


def outcome_elsewhere(call: Callable[[], Any], is_in_trio: bool) -> BaseException | None:
    """What the call raises in another thread, below another trio.run or below nothing."""
    caught: list[BaseException] = []

    async def attempt() -> None:
        try:
            outcome = call()
            if inspect.isawaitable(outcome):
                await outcome
        except el.WrongRun as error:
            caught.append(error)

    run = (lambda: trio.run(attempt)) if is_in_trio else (lambda: asyncio.run(attempt()))
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return caught[0] if caught else None


def arguments_of(method: Callable[..., Any]) -> list[object]:
    """Any value for each parameter that needs one."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return ["x" for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("is_in_trio", [True, False])
async def test_each_call_of_a_client_and_of_what_it_makes(is_in_trio: bool) -> None:
    """Every public method there is: in another thread it raises, and the client goes on working where it belongs."""
    async with (
        Cluster(1, seed=5) as cluster,
        cluster.client() as client,
        client.producer("t") as producer,
        client.consume_batches("t") as batches,
        client.consume("t") as records,
    ):
        calls: list[tuple[str, Callable[[], Any]]] = []
        for owner, cls in ((client, Client), (producer, Producer), (batches, BatchReceiver)):
            for name, method in inspect.getmembers(cls, inspect.isfunction):
                if not name.startswith("_"):
                    calls.append((name, lambda owner=owner, name=name, method=method: getattr(owner, name)(*arguments_of(method))))
        delivery = await producer.send(b"1")
        calls += [("Delivery.wait", delivery.wait), ("RecordReceiver.receive", records.receive)]
        assert len(calls) > 25
        wrong = OTHER_RUN if is_in_trio else NO_RUN
        for name, call in calls:
            error = outcome_elsewhere(call, is_in_trio)
            assert isinstance(error, el.WrongRun), name
            with pytest.raises(el.WrongRun, match=wrong):
                raise error
        assert (await delivery.wait()).base_offset == 0
        assert (await records.receive()).value == b"1"


def test_asyncio_cannot_open_a_client() -> None:
    """Before the target is looked at."""

    async def main() -> None:
        async with el.open_client("not even a target"):
            pass

    with pytest.raises(el.WrongRun, match=NO_RUN):
        asyncio.run(main())


def test_asyncio_cannot_open_a_node(tmp_path: Any) -> None:
    """Nothing is written, and no port is bound."""

    async def main() -> None:
        async with el.open_node(el.NodeSettings(data_dir=str(tmp_path / "data"))):
            pass

    with pytest.raises(el.WrongRun, match=NO_RUN):
        asyncio.run(main())
    assert list(tmp_path.iterdir()) == []
