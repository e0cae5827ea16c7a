"""What callers pass in, looked at before anything is sent: a slip is named where it was made."""

import math
from collections.abc import Callable
from typing import TypeVar

from trio_eventlog.errors import InvalidArgument

U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1

T = TypeVar("T")


def check_text(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a text that can be sent."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} is {value!r}: it has to be a text")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidArgument(f"{name} is {value!r}: it has characters that have no encoding")


def check_whole(name: str, value: object, highest: int = U32_MAX, *, lowest: int = 0) -> None:
    """Raises InvalidArgument unless `value` is a whole number within the bounds."""
    if type(value) is not int or not lowest <= value <= highest:
        raise InvalidArgument(f"{name} is {value!r}: it has to be a whole number from {lowest} to {highest}")


def check_seconds(name: str, value: object) -> None:
    """Raises InvalidArgument unless `value` is a length of time: finite and not below 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"{name} is {value!r}: it has to be a number of seconds, 0 or more")


def check_whole_seconds(name: str, value: float) -> None:
    """As `check_seconds`, without a part of a second."""
    check_seconds(name, value)
    if value != int(value):
        raise InvalidArgument(f"{name} is {value:g}: give whole seconds; 0 means no limit")


def made(what: str, make: Callable[[], T]) -> T:
    """The result of `make`. Raises InvalidArgument when values in it are of a wrong type, or beyond what their fields can hold."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidArgument(f"{what}: {error}") from error
