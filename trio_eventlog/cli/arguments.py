"""What commands share: flags of every client command, and a client made from them."""

import argparse
import difflib
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NoReturn

import trio

from trio_eventlog.client import Client, ClientSettings, open_client
from trio_eventlog.client.target import SERVICE_SCHEME, parse_target
from trio_eventlog.client.tls import build_client_context
from trio_eventlog.errors import SettingsError, Unavailable
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.setting_fields import parse_duration, parse_size, settings_of
from trio_eventlog.settings import load_settings, read_settings_file

DEFAULT_TARGET = "eventlog://127.0.0.1:8400"

REACH_SECONDS_MAX = 5.0
"""How long a command without --timeout looks for a node that can be connected to."""
KNOCK_INTERVAL_SECONDS = 0.2
"""Between two tries to connect to one address."""

MILLISECONDS_MAX = 86_400_000

Commands = Any
"""What `add_subparsers` gives; argparse does not name its type."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of the command that was typed, and name what was perhaps meant.

    Flags cannot be abbreviated: an abbreviation that works today would break with the next flag.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)
        self._list_dest = ""
        # "-10m" and "-10" are values, and no flags of ours look like them. argparse knows plain numbers only.
        self._negative_number_matcher = re.compile(r"-[0-9]")

    def add_list(self, dest: str, *, nargs: str, **more: Any) -> None:
        """The last positional argument, which takes all others, also those that stand behind flags."""
        self._list_dest = dest
        self.add_argument(dest, nargs=nargs, **more)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """argparse collects what commands do not know, and has the outermost parser complain of it, with its own usage."""
        (parsed, unknown) = super().parse_known_args(args, namespace)
        if unknown and self._list_dest and (unknown[0] == "--" or not any(text.startswith("-") for text in unknown)):
            # argparse gives a list what stands before the first flag only.
            setattr(parsed, self._list_dest, [*getattr(parsed, self._list_dest), *unknown[unknown[0] == "--" :]])
            unknown = []
        if unknown:
            flags = [text for text in unknown if text.startswith("-")]
            guess = _nearest(flags[0].partition("=")[0], self._option_string_actions) if flags else ""
            self.error(f"unknown argument{'s' if len(unknown) > 1 else ''} {' '.join(unknown)}{guess}")
        assert parsed is not None
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # argparse has no other seam for this; from Python 3.14 on it makes suggestions by itself.
        if action.choices is not None and value not in action.choices and isinstance(action, argparse._SubParsersAction):
            known = list(action.choices)
            raise argparse.ArgumentError(action, f"there is no {value!r}{_nearest(value, known)} There are {', '.join(known)}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Usage, the error, and where help is; exit code 2."""
        super().error(f"{message}\n`{self.prog} --help` explains")


def _nearest(text: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean {found[0]}?" if found else "."


def add_command(commands: Commands, name: str, help: str, **more: Any) -> Parser:  # noqa: A002
    """A command of `commands`."""
    parser: Parser = commands.add_parser(name, help=help, description=help[:1].upper() + help[1:] + ".", **more)
    return parser


def add_client_flags(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """Where the cluster is, and how to talk to it."""
    group = parser.add_argument_group("Cluster")
    group.add_argument(
        "--target",
        metavar="eventlog://HOST:PORT[,HOST:PORT...]",
        help="any nodes of the cluster; eventlog+srv://NAME takes them from SRV records."
        f" Default: TRIO_EVENTLOG_TARGET, else {DEFAULT_TARGET}",
    )
    group.add_argument("--tls", action="store_true", help="use TLS and trust the system's authorities")
    group.add_argument("--tls-ca", metavar="PATH", help="use TLS and trust these certificates (PEM); also TRIO_EVENTLOG_TLS_CA")
    group.add_argument("--tls-cert", metavar="PATH", help="certificate to show (PEM); also TRIO_EVENTLOG_TLS_CERT")
    group.add_argument("--tls-key", metavar="PATH", help="its private key (PEM); also TRIO_EVENTLOG_TLS_KEY")
    group.add_argument("--timeout", metavar="DURATION", type=duration, help="how long a call may take. Default: 30s")
    group.add_argument("--config", metavar="FILE", help="TOML file of client settings")
    group.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="a client setting; may be repeated", dest="set_values"
    )
    if json:
        group.add_argument("--json", action="store_true", help="answer in JSON")


def duration(text: str) -> float:
    """argparse type: seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def milliseconds(text: str) -> float:
    """argparse type: 0 or more, with parts if need be."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of milliseconds") from None
    if not 0 <= value <= MILLISECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r}: it is 0 to {MILLISECONDS_MAX}")
    return value


def escaped(text: str) -> bytes:
    """argparse type: bytes, with \\n, \\r, \\t, \\0, \\\\ and \\xHH for what is hard to type."""
    try:
        return ESCAPE.sub(_unescaped, text.encode())
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no text") from None


def _unescaped(found: re.Match[bytes]) -> bytes:
    name = found[1]
    return bytes((int(name[1:], 16),)) if name.startswith(b"x") else _ESCAPED[name]


ESCAPE = re.compile(rb"\\(n|r|t|0|\\|x[0-9A-Fa-f]{2})")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def size(text: str) -> int:
    """argparse type: bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """argparse type: 1 or more."""
    value = natural(text)
    if not value:
        raise argparse.ArgumentTypeError("it is at least 1")
    return value


def natural(text: str) -> int:
    """argparse type: 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def target_of(arguments: argparse.Namespace) -> str:
    return arguments.target or os.environ.get("TRIO_EVENTLOG_TARGET") or DEFAULT_TARGET


def client_settings_of(arguments: argparse.Namespace) -> ClientSettings:
    """Flags, then TRIO_EVENTLOG_CLIENT_* variables, then the file. Raises SettingsError."""
    flags: dict[str, object] = {}
    if arguments.timeout is not None:
        flags["request_timeout_seconds"] = flags["delivery_timeout_seconds"] = arguments.timeout
    for pair in arguments.set_values:
        name, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write NAME=VALUE")
        flags[name.strip().replace("-", "_")] = value.strip()
    unknown = flags.keys() - settings_of(ClientSettings).keys()
    if unknown:
        # The file's check names the nearest known one.
        load_settings(ClientSettings, file={sorted(unknown)[0]: None}, file_name="--set")
    file = read_settings_file(arguments.config) if arguments.config else None
    return load_settings(ClientSettings, flags=flags, environment=os.environ, file=file, file_name=arguments.config or "")


def tls_of(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """None: no TLS. Raises SettingsError for files that cannot be used."""
    authority = arguments.tls_ca or os.environ.get("TRIO_EVENTLOG_TLS_CA", "")
    certificate = arguments.tls_cert or os.environ.get("TRIO_EVENTLOG_TLS_CERT", "")
    key = arguments.tls_key or os.environ.get("TRIO_EVENTLOG_TLS_KEY", "")
    if not (arguments.tls or authority or certificate or key):
        return None
    return build_client_context(authority, certificate=certificate, key=key)


def run_with_client(arguments: argparse.Namespace, act: Callable[[Client, argparse.Namespace], Awaitable[int]]) -> int:
    """Open a client as the flags say, and `act` with it. Returns the exit code."""
    settings = client_settings_of(arguments)
    tls = tls_of(arguments)
    target = target_of(arguments)

    async def run() -> int:
        await check_reachable(target, RealNetwork(), arguments.timeout or REACH_SECONDS_MAX)
        async with open_client(target, settings=settings, tls=tls) as client:
            return await act(client, arguments)

    return trio.run(run)


async def check_reachable(target: str, network: Network, seconds_max: float) -> None:
    """Until one of the target's addresses takes a connection. SRV records are left to the client, which looks them up.

    A client goes on trying for as long as a call may take, which is right for a program and half a minute of silence for a person.

    Raises:
        InvalidArgument: the target is malformed.
        Unavailable: none did within `seconds_max`; the text says of each why.
    """
    if target.startswith(SERVICE_SCHEME):
        return
    reasons = dict.fromkeys(parse_target(target), f"no answer within {seconds_max:g} s")
    with trio.move_on_after(seconds_max):
        async with trio.open_nursery() as nursery:

            async def knock(address: str) -> None:
                while True:
                    try:
                        stream = await network.open_stream(address)
                    except OSError as error:
                        reasons[address] = (error.strerror or str(error)).removeprefix(f"{address}: ")
                        await trio.sleep(KNOCK_INTERVAL_SECONDS)
                    else:
                        await trio.aclose_forcefully(stream)
                        nursery.cancel_scope.cancel()

            for address in reasons:
                nursery.start_soon(knock, address)
        return
    tried = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
    raise Unavailable(
        f"no node can be connected to ({tried}), tried for {seconds_max:g} s: is a node running there? --target or"
        " TRIO_EVENTLOG_TARGET names others, --timeout waits longer"
    )
