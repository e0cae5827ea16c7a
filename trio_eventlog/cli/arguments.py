"""What commands share: flags of every client command, and a client made from them."""

import argparse
import os
import re
import ssl
from collections.abc import Awaitable, Callable

import trio

from trio_eventlog.cli.profiles import use_profile
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
WATCH_SECONDS = 2.0
WATCH_SECONDS_MIN = 0.1
KNOCK_INTERVAL_SECONDS = 0.2
"""Between two tries to connect to one address."""

NO_LIMIT = "none"
MILLISECONDS_MAX = 86_400_000


def add_client_flags(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """Where the cluster is, and how to talk to it."""
    group = parser.add_argument_group("Cluster")
    group.add_argument(
        "--profile",
        metavar="NAME",
        help="the profile of this name, with a target and what belongs to it; also TRIO_EVENTLOG_PROFILE. They stand in"
        " ~/.config/trio-eventlog/profiles.toml, or in TRIO_EVENTLOG_PROFILES",
    )
    group.add_argument(
        "--target",
        metavar="eventlog://HOST:PORT[,HOST:PORT...]",
        help="any nodes of the cluster; eventlog+srv://NAME takes them from SRV records."
        f" Default: TRIO_EVENTLOG_TARGET, else of the default profile, else {DEFAULT_TARGET}",
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


def add_look_flags(parser: argparse.ArgumentParser, *, watch: bool = True) -> None:
    """How tables look, and whether they are shown again and again."""
    group = parser.add_argument_group("Output")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: on a terminal, unless NO_COLOR is set or TERM is dumb (default)",
    )
    if watch:
        group.add_argument(
            "--watch",
            metavar="SECONDS",
            nargs="?",
            type=duration,
            const=WATCH_SECONDS,
            help="show it again and again, every two seconds or as said, until Ctrl-C",
        )


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


def limited_size(text: str) -> int:
    """argparse type: bytes; 0 for "none"."""
    return 0 if text == NO_LIMIT else size(text)


def limited_duration(text: str) -> float:
    """argparse type: seconds; 0 for "none"."""
    return 0.0 if text == NO_LIMIT else duration(text)


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
    use_profile(arguments, os.environ)
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
