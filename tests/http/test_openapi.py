"""The description of the interface is valid, and describes everything that there is."""

import msgspec
import openapi_spec_validator

from trio_eventlog.http.app import OPERATIONS
from trio_eventlog.http.openapi import openapi_document


def test_the_description_is_valid() -> None:
    openapi_spec_validator.validate(openapi_document(OPERATIONS))


def test_every_operation_is_described() -> None:
    """Once, and with words."""
    document = openapi_document(OPERATIONS)
    described = [(method, path) for path, methods in document["paths"].items() for method in methods]
    assert len(described) == len(OPERATIONS)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    assert all(operation["summary"].endswith(".") for methods in document["paths"].values() for operation in methods.values())


def test_it_is_json() -> None:
    """And nothing of it is a default that only Python knows."""
    assert msgspec.json.decode(msgspec.json.encode(openapi_document(OPERATIONS)))["openapi"] == "3.1.0"
