"""A directory, or a link to nowhere, where a file of the node should be."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trio_eventlog.agent import Surroundings, open_node
from trio_eventlog.errors import DamagedData, DataDirectoryError, EventLogError
from trio_eventlog.settings import NodeSettings

FILES = (
    "node.toml",
    "LOCK",
    "groups/0000000000000000/hard_state",
    "groups/0000000000000000/first_voters",
    "groups/0000000000000000/log/00000000000000000001.log",
)


def put_directory(path: Path) -> None:
    path.mkdir()


def put_link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere/at/all")


@pytest.mark.parametrize("put", [put_directory, put_link_to_nowhere])
@pytest.mark.parametrize("name", FILES)
async def test_it_is_named_and_nothing_begins_anew(name: str, put: Callable[[Path], None], tmp_path: Path) -> None:
    settings = NodeSettings(data_dir=str(tmp_path / "data"), node_name="n1", listen="127.0.0.1:0")
    async with open_node(settings, Surroundings()) as node:
        await node.wait_ready()
    path = tmp_path / "data" / name
    path.unlink()
    put(path)
    found: list[EventLogError] = []
    try:
        async with open_node(settings, Surroundings()) as node:
            await node.wait_ready()
    except* (DamagedData, DataDirectoryError) as group:
        found = [error for error in leaves(group) if isinstance(error, EventLogError)]
    assert found, "the node starts as if nothing were the matter"
    assert any(path.name in str(error) for error in found)
    assert path.is_symlink() or path.is_dir()


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for one in group.exceptions for leaf in (leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]
