"""Fields of settings: one declaration says what a setting means and how it is read from a flag, a variable and a TOML file.

A settings class is a frozen attrs class whose fields are made by `setting(...)`. Everything else (flags, environment, TOML,
the reference page) is derived from these fields; `trio_eventlog/settings.py` does that.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

import attrs

from trio_eventlog.errors import SettingsError
from trio_eventlog.texts import check_host, check_name, shown

_SIZE = re.compile(r"([0-9]+)\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)?\Z", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|m|min|h|d)?\Z", re.ASCII)
_DURATION_UNITS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
"""`int` takes underscores and the digits of other scripts as well, and numbers of any length."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
DEFAULT_PORT = 8400
DNS_SCHEME = "dns://"
SRV_SCHEME = "dns+srv://"
SRV_PREFIX = "_eventlog._tcp."
"""Of a name that does not begin with a service itself."""


def parse_size(text: str) -> int:
    """Bytes: `65536`, `64KiB`, `64MB`. Raises ValueError."""
    found = _SIZE.match(text.strip())
    if found is None:
        raise ValueError("not a size: write bytes, or a number with KiB, MiB, GiB (powers of 1024) or kB, MB, GB (of 1000)")
    return int(found[1]) * _SIZE_UNITS[(found[2] or "").lower()]


def parse_duration(text: str) -> float:
    """Seconds: `2`, `0.5`, `500ms`, `2s`, `5m`, `1h`, `7d`. Raises ValueError."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise ValueError("not a duration: write seconds, or a number with us, ms, s, m, h or d")
    return float(found[1]) * _DURATION_UNITS[found[2] or ""]


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT`; IPv6 hosts stand in brackets. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("not an address: write an IPv6 host in brackets, [::1]:8400")
    if not colon or not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError("not an address: write HOST:PORT, such as 127.0.0.1:8400")
    try:
        check_host(host)
        check_name(text)
    except ValueError as error:
        raise ValueError(f"not an address: {error}") from None
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """The inverse of `parse_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip_address(host: str) -> bool:
    """Whether `host` is an address already and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@attrs.frozen(slots=True)
class JoinTarget:
    """Where to look for nodes: every address of a host, at a port; or, when `is_service`, what the SRV records of `host` say."""

    text: str
    host: str
    port: int
    is_service: bool = False


def parse_join(text: str) -> JoinTarget:
    """What an operator writes: `HOST:PORT`, `dns://HOST` (port 8400), `dns+srv://_eventlog._tcp.NAME` or short `dns+srv://NAME`.

    Raises:
        ValueError: says what to write.
    """
    text = text.strip()
    if text.startswith(SRV_SCHEME):
        name = text.removeprefix(SRV_SCHEME)
        if not name or set(name) & set(":/@?#, ") or ".." in name or name.startswith("."):
            raise ValueError(f"not a DNS name: write {SRV_SCHEME}{SRV_PREFIX}NAME; the port comes from the SRV records")
        return JoinTarget(text, name if name.startswith("_") else SRV_PREFIX + name, 0, is_service=True)
    if text.startswith(DNS_SCHEME):
        rest = text.removeprefix(DNS_SCHEME)
        return JoinTarget(text, *parse_address(rest if has_port(rest) else f"{rest}:{DEFAULT_PORT}"))
    return JoinTarget(text, *parse_address(text))


def has_port(text: str) -> bool:
    """Whether a port stands behind the host, right or wrong."""
    return "]:" in text if text.startswith("[") else ":" in text


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise ValueError("not a yes or no: write true or false")
    return word in _TRUE


def _parse_int(text: str) -> int:
    if _WHOLE_NUMBER.fullmatch(text.strip()) is None:
        raise ValueError("not a whole number")
    return int(text)


def _parse_words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@attrs.frozen(slots=True, kw_only=True)
class Kind:
    """How values of a setting are written.

    Attributes:
        metavar: what stands for the value in `--help`.
        parse: text of a flag, variable or quoted TOML value -> value. Raises ValueError saying what to write.
        native: TOML types taken as they are.
        convert: native TOML value -> value.
        repeatable: a tuple; the flag may come several times, the variable is separated by commas, TOML has an array.
    """

    metavar: str
    parse: Callable[[str], object]
    native: tuple[type, ...] = (str,)
    convert: Callable[[Any], object] = lambda value: value
    repeatable: bool = False


TEXT = Kind(metavar="TEXT", parse=str)
NAME = Kind(metavar="TEXT", parse=str)
"""What other nodes and people are told: printable, and short enough for a hello."""
PATH = Kind(metavar="PATH", parse=str)
ADDRESS = Kind(metavar="HOST:PORT", parse=lambda text: text.strip())
ADDRESSES = Kind(metavar="HOST:PORT", parse=_parse_words, repeatable=True)
JOIN_TARGETS = Kind(metavar="HOST:PORT", parse=_parse_words, repeatable=True)
WORDS = Kind(metavar="TEXT", parse=_parse_words, repeatable=True)
COUNT = Kind(metavar="N", parse=_parse_int, native=(int,))
SIZE = Kind(metavar="SIZE", parse=parse_size, native=(int,))
DURATION = Kind(metavar="DURATION", parse=parse_duration, native=(int, float), convert=float)
SWITCH = Kind(metavar="BOOL", parse=_parse_bool, native=(bool,))


@attrs.frozen(slots=True, kw_only=True)
class Setting:
    """What the tables need to know of one field: its place in the metadata is `METADATA_KEY`."""

    kind: Kind
    help: str
    group: str
    default_text: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


METADATA_KEY = "setting"


def setting(
    kind: Kind,
    default: object,
    help: str,  # noqa: A002 - the word argparse uses
    *,
    group: str,
    default_text: str = "",
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """An attrs field that carries its own documentation and bounds.

    Args:
        kind: how it is written.
        default: its value when nobody sets it.
        help: meaning, unit, what to set it to.
        group: heading it stands under.
        default_text: the default in words, where the value alone does not say it.
        choices, minimum, maximum: what is accepted; bounds are inclusive.
    """
    described = Setting(
        kind=kind,
        help=help,
        group=group,
        default_text=default_text or show_value(kind, default),
        choices=choices,
        minimum=minimum,
        maximum=maximum,
    )
    converter = _frozen_list if kind.repeatable else None
    return attrs.field(default=default, validator=_validate, converter=converter, metadata={METADATA_KEY: described})


def _frozen_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def settings_of(cls: type) -> dict[str, Setting]:
    """Every setting of a settings class by name, in order."""
    fields: tuple[attrs.Attribute[object], ...] = attrs.fields(cls)
    return {field.name: field.metadata[METADATA_KEY] for field in fields}


def refuse(name: str, value: object, why: str) -> SettingsError:
    """The error for a setting: names it, shows the value, says what to do."""
    return SettingsError(f"setting {name}: {value!r} is refused: {why}")


def show_value(kind: Kind, value: object) -> str:
    """A default or a bound, for people."""
    if value is None or value == "" or value == ():
        return "none"
    if kind is SWITCH:
        return "on" if value else "off"
    if kind is SIZE and isinstance(value, int):
        for unit in ("GiB", "MiB", "KiB"):
            if value and value % _SIZE_UNITS[unit.lower()] == 0:
                return f"{value // _SIZE_UNITS[unit.lower()]}{unit}"
    if kind is DURATION and isinstance(value, int | float):
        return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _validate(_instance: object, attribute: "attrs.Attribute[object]", value: object) -> None:
    name: str = attribute.name
    described: Setting = attribute.metadata[METADATA_KEY]
    if value is None and attribute.default is None:
        return
    kind = described.kind
    if kind.repeatable:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise refuse(name, value, "it is a list or a tuple of texts")
    elif not isinstance(value, kind.native) or (isinstance(value, bool) and bool not in kind.native):
        raise refuse(name, value, f"it is of type {' or '.join(native.__name__ for native in kind.native)}")
    if kind in (ADDRESS, ADDRESSES, JOIN_TARGETS):
        parse = parse_join if kind is JOIN_TARGETS else parse_address
        for text in value if isinstance(value, tuple) else (value,) if value else ():
            try:
                parse(text)
            except ValueError as error:
                raise refuse(name, text, str(error)) from None
    if kind is NAME and isinstance(value, str):
        try:
            check_name(value)
        except ValueError as error:
            raise refuse(name, shown(value), str(error)) from None
    if described.choices and value not in described.choices:
        raise refuse(name, value, f"it is one of {', '.join(described.choices)}")
    if isinstance(value, int | float):
        # NaN is below no bound and above none.
        if described.minimum is not None and not value >= described.minimum:
            raise refuse(name, value, f"the smallest accepted value is {described.minimum:g}")
        if described.maximum is not None and not value <= described.maximum:
            raise refuse(name, value, f"the largest accepted value is {described.maximum:g}")
