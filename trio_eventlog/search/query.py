"""What a search of log lines looks for, and how the bytes of a batch show that nothing of it is there.

A line is stored as canonical JSON: fields in a fixed order, no spaces, the text as msgspec writes it. So a text that a line has to
hold is looked for in its encoded form: escapes are those of msgspec, and characters beyond ASCII stand there as UTF-8. The encoding
of a text is the encodings of its characters, one after the other: what is part of a text is part of its encoding.
"""

import re
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from trio_eventlog.codec.log_lines import decode_line
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.search.values import LogQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

QUERY_TEXT_CHARACTERS_MAX = 1_000
"""Most characters of one text of a query."""
QUERY_LABELS_MAX = 16
LINE_START = b'{"service":'
"""How every canonical line begins."""
IGNORING_CASE = "(?i)"
_UNFOLDED = re.compile(r"[^ !#-JL-RT-\[\]-jl-rt-~]")
"""What has escapes in JSON, or letters beyond ASCII as another case."""
REGEX_MEMORY_BYTES = 8 << 20
"""Most that a compiled regular expression may take."""


class _Pattern(Protocol):
    def search(self, text: str) -> object: ...


class _BytesPattern(Protocol):
    def search(self, data: bytes) -> object: ...


class CompiledQuery:
    """A query, ready to be asked of many batches. May be used by several threads.

    Attributes:
        query: what it was made of.
        literals: bytes that stand in every line that fits, the rarest first as far as that can be guessed.

    Raises:
        InvalidArgument: the query cannot be: a text is too long, the regular expression is none, or the package for regular
            expressions is not installed.
    """

    def __init__(self, query: LogQuery) -> None:
        _check(query)
        self.query = query
        self._pattern = _compile_regex(query.regex) if query.regex else None
        self._folded = _folded_pattern(query.regex)
        self.literals = _literals(query)

    def may_fit(self, data: bytes) -> bool:
        """False: no line in `data` fits, which are lines with anything between them."""
        if not all(literal in data for literal in self.literals):
            return False
        return self._folded is None or self._folded.search(data) is not None

    def fits(self, value: bytes, timestamp_ns: int) -> bool:
        """Whether a line, stamped then, is wanted. What is no canonical line fits no query."""
        query = self.query
        if timestamp_ns < query.since_ns or (query.until_ns and timestamp_ns >= query.until_ns):
            return False
        if not value.startswith(LINE_START) or not self.may_fit(value):
            return False
        try:
            line = decode_line(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if query.service not in ("", line.service) or query.level not in ("", line.level):
            return False
        if query.trace_id not in ("", line.trace_id) or query.contains not in line.message:
            return False
        if any(line.labels.get(name) != text for name, text in query.labels):
            return False
        return self._pattern is None or self._pattern.search(line.message) is not None


def _check(query: LogQuery) -> None:
    texts = {
        "service": query.service,
        "level": query.level,
        "contains": query.contains,
        "regex": query.regex,
        "trace_id": query.trace_id,
        **{f"label.{name[:100]}": name + text for name, text in query.labels},
    }
    for name, text in texts.items():
        if len(text) > QUERY_TEXT_CHARACTERS_MAX:
            raise InvalidArgument(f"{name} has {len(text)} characters, {QUERY_TEXT_CHARACTERS_MAX} are the most")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{name} is no text: {error}") from error
    if len(query.labels) > QUERY_LABELS_MAX:
        raise InvalidArgument(f"{len(query.labels)} labels are asked for, {QUERY_LABELS_MAX} are the most")
    if min(query.since_ns, query.until_ns) < 0:
        raise InvalidArgument("times before 1970 cannot be asked for")


def _compile_regex(text: str) -> _Pattern:
    """By RE2, whose time grows with the length of the text alone: a backtracking engine could be kept busy for years."""
    try:
        import re2
    except ImportError as error:
        raise InvalidArgument(
            "regex: there is no engine for regular expressions here: install trio-eventlog with the extra [search], or ask for a"
            " part of the message (contains)"
        ) from error
    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_MEMORY_BYTES
    try:
        return cast("_Pattern", re2.compile(text, options))
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise InvalidArgument(f"regex: {text[:100]!r} is no regular expression of RE2: {why}") from error


def _folded_pattern(regex: str) -> "_BytesPattern | None":
    """Of an expression without regard to case: what finds, in bytes, a text that it requires. None: there is no such text.

    Only of characters that are encoded as themselves, and that no character beyond ASCII is another case of, as of k and s.
    """
    if not regex.startswith(IGNORING_CASE):
        return None
    text = max(_UNFOLDED.split(required_text(regex.removeprefix(IGNORING_CASE))), key=len)
    if not text:
        return None
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return cast("_BytesPattern", re2.compile(IGNORING_CASE.encode() + re2.escape(text).encode(), options))


def _literals(query: LogQuery) -> "Sequence[bytes]":
    literals: list[bytes] = []
    if query.trace_id:
        literals.append(b'"trace_id":' + encoded_text(query.trace_id))
    if query.contains:
        literals.append(_inside(query.contains))
    if part := required_text(query.regex):
        literals.append(_inside(part))
    literals += [encoded_text(name) + b":" + encoded_text(text) for name, text in query.labels]
    level = b'"level":' + encoded_text(query.level) + b"," if query.level else b""
    if query.service:
        # Both stand at the front of a line, one behind the other.
        literals.append(LINE_START + encoded_text(query.service) + b"," + level)
    elif level:
        literals.append(b"," + level)
    return tuple(literals)


def encoded_text(text: str) -> bytes:
    """The text as it stands in a canonical line, with its quotes."""
    return msgspec.json.encode(text)


def _inside(text: str) -> bytes:
    return encoded_text(text)[1:-1]


_SPECIAL = frozenset(".^$*+?()[]{}|\\")


def required_text(regex: str) -> str:
    """The longest text that stands in everything a regular expression fits, as far as that is easily seen; "": none is.

    Only what stands outside of groups and classes is looked at, and nothing at all where there are alternatives or flags.
    """
    if "(?" in regex or "|" in regex or "\\Q" in regex:
        return ""
    best = run = ""
    at = 0
    while at < len(regex):
        character = regex[at]
        at += 1
        if character == "\\":
            escaped = regex[at : at + 1]
            at += 1
            literal = escaped if escaped and not escaped.isalnum() and escaped.isascii() and escaped != "_" else ""
            if not literal:
                at = _behind_escape(regex, at, escaped)
        elif character in "([":
            at = _behind_group(regex, at) if character == "(" else _behind_class(regex, at)
            literal = ""
        elif character in _SPECIAL:
            if character == "{":
                at = max(regex.find("}", at), at - 1) + 1
            literal = ""
        else:
            literal = character
        following = regex[at : at + 1]
        is_required = bool(literal) and following not in ("*", "?", "{")
        run += literal if is_required else ""
        if not is_required or following == "+":
            best, run = max(best, run, key=len), ""
    return max(best, run, key=len)


def _behind_escape(regex: str, at: int, escaped: str) -> int:
    """Behind the rest of an escape: `\\x{10FFFF}`, `\\x7F`, `\\pN`, `\\p{Greek}`, `\\123`."""
    if escaped in ("x", "p", "P"):
        if regex[at : at + 1] == "{":
            return max(regex.find("}", at), at) + 1
        return at + (2 if escaped == "x" else 1)
    if escaped.isdigit():
        while at < len(regex) and regex[at].isdigit():
            at += 1
    return at


def _behind_class(regex: str, at: int) -> int:
    """Behind a class whose `[` has been read. A `]` that comes first is one of its characters."""
    at += regex.startswith("^", at)
    at += regex.startswith("]", at)
    while at < len(regex) and regex[at] != "]":
        if regex[at] == "\\":
            at += 1
        elif regex.startswith("[:", at):
            at = max(regex.find(":]", at + 2), at) + 1
        at += 1
    return at + 1


def _behind_group(regex: str, at: int) -> int:
    """Behind a group whose `(` has been read, and behind those in it."""
    depth = 1
    while at < len(regex) and depth:
        character = regex[at]
        at += 1
        if character == "\\":
            at += 1
        elif character == "[":
            at = _behind_class(regex, at)
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
    return at
