"""Settings, all of them: one school of names, one name for one thing, no defaults in parts, nothing that nobody reads."""

import ast
import importlib
import pkgutil
from collections import defaultdict
from functools import cache
from pathlib import Path

import attrs
import pytest

import trio_eventlog
from trio_eventlog import part_settings
from trio_eventlog.settings import ClientSettings, NodeSettings

PACKAGE = Path(trio_eventlog.__file__).parent
OF_PEOPLE = (NodeSettings, ClientSettings)
"""What people set. Only these have defaults."""

PASSED_ON_UNDER_ANOTHER_NAME = {
    ("proposals_in_flight_max", "proposals_max"): "one limit for what waits, and the same for what the core works at",
    ("forward_attempt_timeout_seconds", "forward_attempt_seconds"): "the value that None stands for",
    ("in_flight_batches", "produce_stream_requests_max"): "an application in the process has the limit of a stream, without one",
    ("tls_required", "has_tls"): "it follows from the files that are given",
    ("certificate", "tls_cert"): "the words of the ssl module, within the one class that is about nothing else",
    ("key", "tls_key"): "as above",
    ("authority", "tls_ca"): "as above",
    ("require_client_certificate", "tls_require_client_cert"): "as above",
    ("peer_name", "tls_peer_name"): "as above",
}
SAME_MEANING = {
    "batch_bytes": "what an application's producers gather, given to each of them",
    "batch_bytes_max": "the largest batch, wherever one passes",
    "batch_records": "as above",
    "compression": "as above, and what a client's producers do",
    "connect_timeout_seconds": "until a connection is there, TLS included",
    "keepalive_seconds": "a client's settings reach its connections under their own name",
    "keepalive_timeout_seconds": "as above",
    "linger_seconds": "what an application's producers wait, given to each of them",
    "log_interval_seconds": "between two warnings of one kind",
    "message_bytes_max": "the largest gRPC message",
    "made_at_once_max": "the groups of a node have it, and the opener that makes them",
    "making_max": "as above",
    "partitions_max": "one number, of which the opener is told too",
    "opening_max": "as above",
    "opening_leader_seconds_max": "as above",
    "unpacked_bytes_max": "the largest batch, unpacked",
}
"""Names of several classes, none of which gets it from NodeSettings."""

QUALIFIERS = {"max", "min"}


@cache
def classes() -> tuple[type, ...]:
    """All classes of settings of the package."""
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(trio_eventlog.__path__, "trio_eventlog."):
        if module.name.startswith("trio_eventlog.testing") or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.endswith("Settings") and isinstance(value, type) and attrs.has(value):
                found[name] = value
    assert len(found) > 20
    return tuple(found.values())


def attributes() -> list[tuple[type, "attrs.Attribute[object]"]]:
    return [(cls, attribute) for cls in classes() for attribute in attrs.fields(cls)]


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_parts_have_no_defaults(cls: type) -> None:
    """What a part runs with is in `part_settings`, once, and not also in the part, where it would differ some day."""
    if cls not in OF_PEOPLE:
        assert [attribute.name for attribute in attrs.fields(cls) if attribute.default is not attrs.NOTHING] == []


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_names_have_the_unit_first_and_the_qualifier_last(cls: type) -> None:
    """`batch_bytes_max`, not `batch_bytes_max`; a time says that it is in seconds."""
    for attribute in attrs.fields(cls):
        words = attribute.name.split("_")
        assert not QUALIFIERS & set(words[:-1]), f"{cls.__name__}.{attribute.name}: the qualifier comes last"
        assert attribute.type is not float or "seconds" in words, f"{cls.__name__}.{attribute.name}: which unit?"


def test_one_name_means_one_thing() -> None:
    """A name that several classes have is the same setting on its way down, or has a reason."""
    users: defaultdict[str, list[str]] = defaultdict(list)
    for cls, attribute in attributes():
        users[attribute.name].append(cls.__name__)
    passed_on = {name for name, _ in passed_on_names()}
    unexplained = {
        name: where for name, where in users.items() if len(where) > 1 and name not in passed_on and name not in SAME_MEANING
    }
    assert unexplained == {}
    assert {name for name in SAME_MEANING if len(users[name]) < 2} == set(), "no reason is needed any more"
    # One that is passed on to parts has no namesake among what a client is set to, unless it means the same.
    client = {attribute.name for attribute in attrs.fields(ClientSettings)}
    assert {name for name in client & passed_on if name not in SAME_MEANING} == set()


def passed_on_names() -> list[tuple[str, str]]:
    """(attribute of a part, attribute of NodeSettings that it is set from), as `part_settings` says."""
    tree = ast.parse(Path(part_settings.__file__).read_text())
    return [
        (item.arg, item.value.attr)
        for item in ast.walk(tree)
        if isinstance(item, ast.keyword)
        and item.arg is not None
        and isinstance(item.value, ast.Attribute)
        and isinstance(item.value.value, ast.Name)
        and item.value.value.id == "settings"
    ]


def test_a_setting_keeps_its_name_on_the_way_down() -> None:
    """What an operator reads in the reference is found in the code by searching for it."""
    found = {(name, source) for name, source in passed_on_names() if name != source}
    assert found == PASSED_ON_UNDER_ANOTHER_NAME.keys()


def test_every_setting_is_read_by_something() -> None:
    """One that nothing looks at promises what is not there."""
    read = {
        item.attr
        for path in PACKAGE.rglob("*.py")
        if "testing" not in path.parts
        for item in ast.walk(ast.parse(path.read_text()))
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Load)
    }
    refused = {"acl_model", "acl_policy"}  # Read by their names, to be refused.
    assert {f"{cls.__name__}.{one.name}" for cls, one in attributes() if one.name not in read | refused} == set()
