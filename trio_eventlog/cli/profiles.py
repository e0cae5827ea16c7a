"""Profiles: named targets in a file, so that users need not type addresses and certificates."""

import argparse
import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs

from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_fields import parse_duration

PATHS = ("tls_ca", "tls_cert", "tls_key", "config")
"""Relative to the directory of the file."""
KEYS = ("target", "tls", *PATHS, "timeout", "set")
DEFAULT_KEY = "default"
CONNECTION_FLAGS = ("target", "tls", "tls_ca", "tls_cert", "tls_key")


@attrs.frozen
class Profile:
    """Attributes: those of the flags with these names; `set` are client settings."""

    name: str
    target: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    config: str | None = None
    timeout: float | None = None
    set: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen
class Profiles:
    """Attributes:
    path: of the file.
    default: the name of the profile that is used when none is named; "": none.
    """

    path: Path
    default: str
    by_name: Mapping[str, Profile]


def profiles_path(environment: Mapping[str, str]) -> Path:
    """TRIO_EVENTLOG_PROFILES, else trio-eventlog/profiles.toml where the user's settings are."""
    if given := environment.get("TRIO_EVENTLOG_PROFILES"):
        return Path(given)
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or "/", ".config")
    return Path(home) / "trio-eventlog" / "profiles.toml"


def read_profiles(path: Path) -> Profiles:
    """Those of the file; none when there is no file. Raises SettingsError, which names the file and the place."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        return Profiles(path, "", {})
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: this is no text in UTF-8: {error}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: this is no TOML: {error}") from None
    default = tables.pop(DEFAULT_KEY, "")
    found = {name: _profile(path, name, table) for name, table in tables.items()}
    if not isinstance(default, str) or (default and default not in found):
        raise SettingsError(f"{path}: {DEFAULT_KEY} is {default!r}: write the name of a profile{_known(found)}")
    return Profiles(path, default, found)


def _profile(path: Path, name: str, table: object) -> Profile:
    where = f"{path}: profile {name}"
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: {name} = {table!r} stands in no profile: write [NAME], and the settings below it")
    fields: dict[str, object] = {}
    for key, value in table.items():
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            guess = f"did you mean {close[0]}?" if close else f"there are {', '.join(KEYS)}"
            raise SettingsError(f"{where}: unknown key {key!r}; {guess}")
        if key == "timeout" and isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        wanted = bool if key == "tls" else dict if key == "set" else str
        if not isinstance(value, wanted):
            raise SettingsError(f"{where}: {key} is {value!r}: it has to be {_KINDS[wanted]}")
        fields[key] = value
    for key in PATHS:
        if key in fields:
            fields[key] = str(path.parent / os.path.expanduser(str(fields[key])))
    if "timeout" in fields:
        try:
            fields["timeout"] = parse_duration(str(fields["timeout"]))
        except ValueError as error:
            raise SettingsError(f"{where}: timeout is {fields['timeout']!r}: {error}") from None
    return Profile(name=name, **fields)  # type: ignore[arg-type]


_KINDS: dict[type, str] = {bool: "true or false", dict: "a table of client settings", str: "a text in quotes"}


def _known(profiles: Mapping[str, Profile]) -> str:
    return f"; there are {', '.join(sorted(profiles))}" if profiles else "; there is none"


def use_profile(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Put what a profile says where no flag says anything.

    A profile comes before TRIO_EVENTLOG_TARGET when --profile or TRIO_EVENTLOG_PROFILE names it; the file's own default comes
    behind. Raises SettingsError.
    """
    name = arguments.profile or environment.get("TRIO_EVENTLOG_PROFILE") or ""
    if not name and (arguments.target or environment.get("TRIO_EVENTLOG_TARGET")):
        return
    profiles = read_profiles(profiles_path(environment))
    name = name or profiles.default
    if not name:
        return
    if name not in profiles.by_name:
        raise SettingsError(f"there is no profile {name!r} in {profiles.path}{_known(profiles.by_name)}")
    profile = profiles.by_name[name]
    if arguments.target is None:
        # Else it is another cluster, to which the certificates of this one are not shown.
        for flag in CONNECTION_FLAGS:
            setattr(arguments, flag, getattr(arguments, flag) or getattr(profile, flag))
    if arguments.timeout is None:
        arguments.timeout = profile.timeout
    arguments.config = arguments.config or profile.config
    arguments.set_values = [*(f"{key}={value}" for key, value in profile.set.items()), *arguments.set_values]
