"""Does a query choose this node? Tag filters are regular expressions that come from the network, so only tame ones are run."""

import re
from collections.abc import Iterable, Mapping

from trio_eventlog.gossip.messages import NameFilter, QueryFilter

EXPRESSION_LENGTH_MAX = 128
VALUE_LENGTH_MAX = 100
REPEATS_MAX = 2
"""Repeats in one expression: the work of a match is the value's length to the power of this, times its length again."""
ALTERNATIVES_MAX = 4
"""`|` in one expression: each can double that work."""


def is_chosen(filters: Iterable[QueryFilter], name: str, tags: Mapping[str, str]) -> bool:
    """All filters let a node of this name and these tags pass. A missing tag is empty, as in Serf."""
    for one in filters:
        if isinstance(one, NameFilter):
            if name not in one.names:
                return False
        elif not matches(one.expression, tags.get(one.tag, "")):
            return False
    return True


def matches(expression: str, value: str) -> bool:
    """The expression is found in the value. An expression or value that is not tame, or not valid, is not."""
    if len(value) > VALUE_LENGTH_MAX or not is_tame(expression):
        return False
    try:
        return re.search(expression, value) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def is_tame(expression: str) -> bool:
    """Few repeats and alternatives, and no repeat of a group: so that no value makes the search take long.

    Serf's own expressions (RE2) need no such care; Python's search goes back and tries again.
    """
    if len(expression) > EXPRESSION_LENGTH_MAX:
        return False
    repeats = alternatives = position = 0
    in_class = False
    previous = ""
    """The last character, if it has a meaning of its own outside a class."""
    while position < len(expression):
        character = expression[position]
        position += 1
        if character == "\\":
            if expression[position : position + 1].isdigit():
                return False
            position += 1
            previous = ""
        elif in_class:
            # What may one day be an operation on sets has another meaning there already.
            if character == "[" or (character in "-&|~" and expression[position : position + 1] == character):
                return False
            in_class = character != "]"
            previous = ""
        elif character == "[":
            in_class = True
            # "]" as the first of a class is itself.
            if expression[position : position + 1] == "^":
                position += 1
            if expression[position : position + 1] == "]":
                position += 1
        elif character == "?" and previous == "(":
            # Of all special groups only the plain (?:...).
            if expression[position : position + 1] != ":":
                return False
            previous = ""
        elif character in "*+?{":
            repeats += 1
            if previous == ")" or repeats > REPEATS_MAX:
                return False
            previous = ""
        else:
            alternatives += character == "|"
            if alternatives > ALTERNATIVES_MAX:
                return False
            previous = character
    return True
