"""Catalog commands as the payload of CONTROL entries: one JSON object, so that `log dump` shows them as they are.

A command is declared once, in `machine/catalog.py`: its fields are the fields of the object, and its constructor is what checks
them, here as everywhere. This file adds only what the commands and some of their fields are called in the log.

A field that is None by default is left out while it is None. So a later release may add such a field to a command: it reads what is
in the log already, and older releases stop at a command that has the field (`NewerRelease`).
"""

import json
from typing import Any

import attrs

from trio_eventlog.errors import CodecError, InvalidArgument, NewerRelease
from trio_eventlog.machine.catalog import (
    AlterTopic,
    Command,
    CreateTopic,
    DeleteTopic,
    DrainNode,
    RaiseFeatureLevel,
    RegisterNode,
    RemoveNode,
    SetReplicas,
)

COMMANDS: dict[str, type[Command]] = {
    "create_topic": CreateTopic,
    "alter_topic": AlterTopic,
    "delete_topic": DeleteTopic,
    "set_replicas": SetReplicas,
    "register_node": RegisterNode,
    "drain_node": DrainNode,
    "remove_node": RemoveNode,
    "raise_feature_level": RaiseFeatureLevel,
}
LEVELS: dict[type[Command], int] = dict.fromkeys(COMMANDS.values(), 1) | {AlterTopic: 2}
"""The feature level from which on each may be proposed."""
EVENTS_LEVEL = 2
"""The feature level from which on topics of events may be created."""
_KEYS = {"partition_count": "partitions", "group_id": "group", "node_id": "node"}
"""Fields that are called differently in the log."""


def level_of(command: Command) -> int:
    """The feature level from which on the command may be proposed."""
    level = LEVELS[type(command)]
    return max(level, EVENTS_LEVEL) if isinstance(command, CreateTopic) and command.kind is not None else level


def encode_command(command: Command) -> bytes:
    """The payload, decoded again and compared: what is proposed can be applied.

    Raises:
        InvalidArgument: the bytes would not be decoded to the same command, on any replica.
    """
    fields: dict[str, Any] = {"command": _NAMES[type(command)]}
    for attribute, key in _FIELDS[type(command)].items():
        if (value := getattr(command, attribute)) is not None:
            fields[key] = value
    try:
        payload = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
        is_same = decode_command(payload) == command
    except (TypeError, ValueError, CodecError) as error:
        raise InvalidArgument(f"{command} cannot be written to the log: {error}") from error
    if not is_same:
        raise InvalidArgument(f"{command} would be another command when it is read back from the log")
    return payload


def decode_command(payload: bytes | memoryview) -> Command:
    """The inverse.

    Raises:
        NewerRelease: an object with a command, or with a field, that this release does not know.
        CodecError: anything else that `encode_command` does not make. No release, newer ones included, makes a command of it.
    """
    try:
        fields = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"catalog command: {error}") from error
    if not isinstance(fields, dict) or not isinstance(name := fields.pop("command", None), str):
        raise CodecError("catalog command: no object that names a command")
    command_type = COMMANDS.get(name)
    if command_type is None:
        raise NewerRelease(f"catalog command: {name[:100]!r} is none that this release knows")
    values: dict[str, Any] = {}
    for attribute, key in _FIELDS[command_type].items():
        if key not in fields:
            if attribute in _OPTIONAL[command_type]:
                continue
            raise CodecError(f"catalog command: {name} without {key!r}")
        value = fields.pop(key)
        values[attribute] = tuple(value) if isinstance(value, list) else value
    if fields:
        raise NewerRelease(f"catalog command: {name} with fields that this release does not know: {', '.join(fields)[:100]}")
    try:
        return command_type(**values)
    except InvalidArgument as error:
        raise CodecError(f"catalog command: {name}: {error}") from error


_NAMES = {command_type: name for name, command_type in COMMANDS.items()}
_FIELDS = {
    command_type: {field.name: _KEYS.get(field.name, field.name) for field in attrs.fields(command_type)}
    for command_type in COMMANDS.values()
}
_OPTIONAL = {
    command_type: {field.name for field in attrs.fields(command_type) if field.default is None}
    for command_type in COMMANDS.values()
}
