"""What `import trio_eventlog` offers, and what it loads."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import trio_eventlog
from trio_eventlog import errors
from trio_eventlog.release import VERSION

SOURCE = Path(trio_eventlog.__file__).read_text()


def modules_after(code: str) -> set[str]:
    """Every module that is loaded once a new process has run `code`."""
    report = "import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def loaded_after(code: str) -> set[str]:
    """The rooms of the package that are loaded once a new process has run `code`."""
    return {name.split(".")[1] for name in modules_after(code) if name.startswith("trio_eventlog.")}


def test_every_name_is_there() -> None:
    """Those that are loaded when they are named are the same objects as those inside, and type checkers see the same names."""
    for name in trio_eventlog.__all__:
        assert getattr(trio_eventlog, name) is not None, name
    assert set(trio_eventlog.__all__) <= set(dir(trio_eventlog))
    (typed,) = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen_by_checkers = {
        (statement.module, alias.name)
        for statement in typed.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    loaded = {(module, name) for name, module in trio_eventlog._MODULE_OF.items()}
    assert seen_by_checkers == loaded
    assert {name for _, name in loaded} < set(trio_eventlog.__all__)


def names_in(hint: object) -> set[str]:
    """The classes of this package that a type is made of."""
    found = {name for part in typing.get_args(hint) for name in names_in(part)}
    if isinstance(hint, type) and hint.__module__.partition(".")[0] == "trio_eventlog":
        found.add(hint.__name__)
    return found


@pytest.mark.parametrize(
    "name", ["Client", "Producer", "Delivery", "RecordReceiver", "BatchReceiver", "NodeStatus", "TopicDescription"]
)
def test_what_public_calls_return_is_public(name: str) -> None:
    """A program that keeps it in a variable has a name for its type."""
    public = getattr(trio_eventlog, name)
    members = [member for key, member in inspect.getmembers(public, inspect.isfunction) if not key.startswith("_")]
    members += [member.fget for _, member in inspect.getmembers(public, lambda member: isinstance(member, property))]
    hints = [typing.get_type_hints(inspect.unwrap(member)).get("return") for member in members]
    hints += [*typing.get_type_hints(public).values()]
    assert len(hints) >= 2
    assert {found for hint in hints for found in names_in(hint)} - set(trio_eventlog.__all__) == set()


def test_what_public_calls_raise_is_public() -> None:
    """Every class of error that there is."""
    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.EventLogError)}
    assert len(raised) > 20
    assert raised - set(trio_eventlog.__all__) == set()


def test_the_release_is_the_one_that_was_installed() -> None:
    """It is written once, in the package; whoever changes it has to install again, as for any change of metadata."""
    assert importlib.metadata.version("trio-eventlog") == VERSION


def test_unknown_names() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="has no attribute 'opne_client'"):
        trio_eventlog.opne_client  # noqa: B018


def test_importing_loads_neither_node_nor_client() -> None:
    """Every pytest session of an environment with the plugin, and each start of a program, would wait for them."""
    assert loaded_after("import trio_eventlog") <= {"errors", "events", "file_keys", "ids", "records"}


def test_a_client_loads_no_node() -> None:
    """No driver, no storage, no gossip."""
    loaded = loaded_after("from trio_eventlog import Record, open_client")
    assert "client" in loaded
    assert not loaded & {"agent", "node", "storage", "http", "gossip", "daemon", "cli", "testing", "settings"}
    assert not loaded & {"raft", "machine"}


def test_a_client_loads_only_what_it_needs_from_the_first_call_on() -> None:
    """Nothing of how entries are stored, and no DNS before a name is looked up: together they would take as long as the rest."""
    modules = modules_after("import trio_eventlog as el; el.open_client, el.ClientSettings, el.Producer, el.ConsumedBatch")
    ours = {name for name in modules if name.startswith("trio_eventlog.codec.")}
    assert ours == {f"trio_eventlog.codec.{name}" for name in ("batch", "checksum", "events", "partitioner")}
    foreign = {name.partition(".")[0] for name in modules}
    assert not foreign & {"dns", "asyncio", "cryptography", "h11", "multiprocessing", "unittest"}
