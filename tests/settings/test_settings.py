"""Where settings come from, and what is refused."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from trio_eventlog.errors import SettingsError
from trio_eventlog.setting_fields import Setting, settings_of
from trio_eventlog.settings import ClientSettings, NodeSettings, add_flags, load_settings, read_settings_file


def flags(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, NodeSettings)
    return vars(parser.parse_args(arguments))


def test_precedence() -> None:
    """Flag over variable over file over default."""
    file = {"segment_bytes": "1MiB", "disk_threads": 2, "tick_seconds": 1}
    environment = {"TRIO_EVENTLOG_SEGMENT_BYTES": "2MiB", "TRIO_EVENTLOG_DISK_THREADS": "3", "HOME": "/"}
    settings = load_settings(NodeSettings, flags=flags("--segment-bytes", "3MiB"), environment=environment, file=file)
    assert settings.segment_bytes == 3 << 20
    assert settings.disk_threads == 3
    assert settings.tick_seconds == 1.0
    assert settings.heartbeat_ticks == NodeSettings().heartbeat_ticks


@pytest.mark.parametrize("cls", [NodeSettings, ClientSettings])
def test_defaults_are_valid_and_documented(cls: type) -> None:
    """Every field is a setting with a sentence about it, and the defaults agree with each other."""
    cls()
    for name, described in settings_of(cls).items():
        assert described.help.endswith("."), name
        assert described.default_text, name
        numeric = isinstance(attrs.fields_dict(cls)[name].default, int | float) and described.kind.metavar != "BOOL"
        assert not numeric or described.minimum is not None, name


WRITTEN = {
    "HOST:PORT": ("10.0.0.1:1", "10.0.0.2:2"),
    "PATH": ("p", "q"),
    "TEXT": ("t", "u"),
    "N": ("7", "9"),
    "SIZE": ("2MiB", "3MiB"),
    "DURATION": ("3s", "4s"),
    "BOOL": ("true", "false"),
}
"""Two values of each kind, as people write them."""


def written(described: Setting) -> tuple[str, str]:
    return (described.choices[0], described.choices[-1]) if described.choices else WRITTEN[described.kind.metavar]


def as_flag(name: str, described: Setting, text: str) -> tuple[str, ...]:
    option = name.replace("_", "-")
    if described.kind.metavar == "BOOL":
        return (f"--{option}",) if text == "true" else (f"--no-{option}",)
    return (f"--{option}", text)


def as_variable(name: str, text: str) -> dict[str, str]:
    return {"TRIO_EVENTLOG_" + name.upper(): text}


def as_file(name: str, described: Setting, text: str) -> dict[str, object]:
    return {name: [text] if described.kind.repeatable else text}


NEEDED = {"tls_require_client_cert": {"tls_cert": "c", "tls_key": "k", "tls_ca": "a"}}
"""What else has to be set for a setting to be accepted."""


def loaded(
    name: str,
    arguments: tuple[str, ...] = (),
    *,
    environment: Mapping[str, str] | None = None,
    file: dict[str, object] | None = None,
) -> object:
    """The setting's value, or the words of its refusal: some kinds of values do not fit some settings.

    A command line is always parsed, as the daemon does: flags that are not given must not override anything.
    """
    complete = {**NEEDED.get(name, {}), **(file or {})}
    try:
        return getattr(load_settings(NodeSettings, flags=flags(*arguments), environment=environment, file=complete), name)
    except SettingsError as error:
        return str(error)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", settings_of(NodeSettings))
def test_every_setting_by_every_way(name: str, which: int) -> None:
    """Each field is reachable by flag, by variable and in TOML, with the same result, for more than one value."""
    described = settings_of(NodeSettings)[name]
    text = written(described)[which]
    by_flag = loaded(name, as_flag(name, described, text))
    assert by_flag == loaded(name, environment=as_variable(name, text)) == loaded(name, file=as_file(name, described, text))
    if described.kind.metavar == "BOOL":
        assert by_flag is (text == "true")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", settings_of(NodeSettings))
def test_every_setting_is_overridden_by_what_goes_before_it(name: str, which: int) -> None:
    """A flag over a variable and the file, a variable over the file, for each field and in both directions."""
    described = settings_of(NodeSettings)[name]
    stronger, weaker = written(described)[which], written(described)[1 - which]
    alone = loaded(name, as_flag(name, described, stronger))
    flag = as_flag(name, described, stronger)
    assert loaded(name, flag, environment=as_variable(name, weaker)) == alone
    assert loaded(name, flag, file=as_file(name, described, weaker)) == alone
    assert loaded(name, environment=as_variable(name, stronger), file=as_file(name, described, weaker)) == alone


@pytest.mark.parametrize(
    ("file", "environment", "text"),
    [
        ({"segment_byte": 1}, {}, "unknown setting 'segment_byte'; did you mean segment_bytes?"),
        ({}, {"TRIO_EVENTLOG_DATADIR": "x"}, "unknown variable TRIO_EVENTLOG_DATADIR; did you mean TRIO_EVENTLOG_DATA_DIR?"),
        ({}, {"TRIO_EVENTLOG_data_dir": "x"}, "did you mean TRIO_EVENTLOG_DATA_DIR?"),
        ({"zzzz": 1}, {}, "unknown setting 'zzzz'; see the settings reference"),
        ({"join": "a:1"}, {}, "setting join: 'a:1' is refused: write an array of texts"),
        ({"segment_bytes": 1.5}, {}, "setting segment_bytes: 1.5 is refused: write it as SIZE"),
        ({"disk_threads": True}, {}, "setting disk_threads: True is refused"),
        ({"tls": {"cert": "x"}}, {}, "unknown setting 'tls'; did you mean tls_ca?"),
        ({}, {"TRIO_EVENTLOG_TICK_SECONDS": "soon"}, "setting tick_seconds: 'soon' is refused: not a duration"),
    ],
)
def test_refused_when_read(file: dict[str, object], environment: dict[str, str], text: str) -> None:
    """Unknown names are refused with the nearest known one; malformed values with what to write."""
    with pytest.raises(SettingsError) as caught:
        load_settings(NodeSettings, file=file, environment=environment)
    assert text in str(caught.value)


def test_variables_of_others_are_left_alone() -> None:
    """The target, the file and the client's settings have variables of their own."""
    environment = {"TRIO_EVENTLOG_TARGET": "x", "TRIO_EVENTLOG_CONFIG": "y", "TRIO_EVENTLOG_CLIENT_ATTEMPTS_MAX": "3"}
    assert load_settings(NodeSettings, environment=environment) == NodeSettings()
    assert load_settings(ClientSettings, environment=environment).attempts_max == 3
    with pytest.raises(SettingsError, match="did you mean TRIO_EVENTLOG_CLIENT_ATTEMPTS_MAX"):
        load_settings(ClientSettings, environment={"TRIO_EVENTLOG_CLIENT_ATTEMPT_MAX": "3"})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"data_dir": ""}, "data_dir"),
        ({"listen": "8400"}, "listen"),
        ({"join": ("10.0.0.1",)}, "join"),
        ({"join": "10.0.0.1:1"}, "join"),
        ({"join": ("dns+srv://peers:8400",)}, "join"),
        ({"join_retry_seconds_min": 6.0}, "join_retry_seconds_min"),
        ({"join_addresses_max": 0}, "join_addresses_max"),
        ({"dns_servers": ("dns.example:53",)}, "dns_servers"),
        ({"dns_servers": ("10.0.0.53",)}, "dns_servers"),
        ({"bootstrap_expect": 0}, "bootstrap_expect"),
        ({"log_format": "xml"}, "log_format"),
        ({"tick_seconds": 0}, "tick_seconds"),
        ({"tick_seconds": float("nan")}, "tick_seconds"),
        ({"disk_threads": "4"}, "disk_threads"),
        ({"node_name": "x" * 256}, "node_name"),
        ({"node_name": "ä" * 128}, "node_name"),
        ({"node_name": "a\nb"}, "node_name"),
        ({"node_name": "\udcff"}, "node_name"),
        ({"node_name": "my node", "listen": "0.0.0.0:8400"}, "node_name"),
        ({"cluster_name": "x" * 256}, "cluster_name"),
        ({"cluster_name": "a\tb"}, "cluster_name"),
        ({"advertise": f"{'x' * 64}:1"}, "advertise"),
        ({"disk_threads": True}, "disk_threads"),
        ({"tls_cert": "c"}, "tls_key"),
        ({"tls_key": "c"}, "tls_cert"),
        ({"tls_require_client_cert": True}, "tls_require_client_cert"),
        ({"tls_peer_name": "peers"}, "tls_peer_name"),
        ({"tls_cert": "c", "tls_key": "k", "join": ("a:1",)}, "tls_ca"),
        ({"tls_cert": "c", "tls_key": "k", "bootstrap_expect": 3}, "tls_ca"),
        ({"acl_model": "m"}, "acl_model"),
        ({"heartbeat_ticks": 6}, "heartbeat_ticks"),
        ({"batch_bytes_max": 4 << 20}, "batch_bytes_max"),
        ({"reconnect_backoff_seconds_min": 3.0}, "reconnect_backoff_seconds_min"),
    ],
)
def test_refused_values(values: dict[str, object], name: str) -> None:
    """The error names the setting and shows the value."""
    with pytest.raises(SettingsError, match=rf"^setting {name}: "):
        NodeSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"batch_bytes_max": 4 << 20}, "batch_bytes_max"),
        ({"producer_batch_bytes": 2 << 20}, "producer_batch_bytes"),
        ({"retry_backoff_seconds_min": 2.0}, "retry_backoff_seconds_max"),
        ({"compression": "lz4"}, "compression"),
    ],
)
def test_refused_client_values(values: dict[str, object], name: str) -> None:
    """The same for the client's settings."""
    with pytest.raises(SettingsError, match=rf"^setting {name}: "):
        ClientSettings(**values)  # type: ignore[arg-type]


def test_bootstrap_and_topics_follow_from_the_rest() -> None:
    """One node alone bootstraps and makes topics; one that joins does neither; who says so decides."""
    assert NodeSettings().bootstraps == 1
    assert NodeSettings().creates_topics
    assert NodeSettings(join=("a:1",)).bootstraps == 0
    assert not NodeSettings(join=("a:1",)).creates_topics
    assert NodeSettings(join=("a:1",), bootstrap_expect=3).bootstraps == 3
    assert not NodeSettings(bootstrap_expect=3).creates_topics
    assert NodeSettings(bootstrap_expect=3, auto_create_topics=True).creates_topics


def test_advertised() -> None:
    """What is given, else where it listens, else the name when it listens everywhere."""
    assert NodeSettings(listen="10.0.0.1:0").advertised(7) == "10.0.0.1:7"
    assert NodeSettings(listen="[::1]:0").advertised(7) == "[::1]:7"
    assert NodeSettings(listen="0.0.0.0:0", node_name="n1").advertised(7) == "n1:7"
    assert NodeSettings(advertise="example.org:1").advertised(7) == "example.org:1"


def test_file(tmp_path: Path) -> None:
    """A TOML file is read; one that is missing or malformed is refused by name."""
    path = tmp_path / "node.toml"
    path.write_text('data_dir = "d"\njoin = ["a:1", "b:2"]\nauto_create_topics = false\ntick_seconds = 0.05\n')
    settings = load_settings(NodeSettings, file=read_settings_file(str(path)))
    assert (settings.data_dir, settings.join, settings.auto_create_topics) == ("d", ("a:1", "b:2"), False)
    assert settings.tick_seconds == 0.05
    path.write_text("data_dir = ")
    with pytest.raises(SettingsError, match="not TOML"):
        read_settings_file(str(path))
    with pytest.raises(SettingsError, match="No such file"):
        read_settings_file(str(tmp_path / "none"))


def test_lists_are_taken_where_several_are_meant() -> None:
    """And kept as tuples: what a program does to its list afterwards changes no settings."""
    nodes = ["127.0.0.1:8401", "127.0.0.1:8402"]
    settings = NodeSettings(join=nodes, dns_servers=["127.0.0.1:53"])
    assert (settings.join, settings.dns_servers) == (tuple(nodes), ("127.0.0.1:53",))
    assert hash(settings) == hash(NodeSettings(join=tuple(nodes), dns_servers=("127.0.0.1:53",)))
    with pytest.raises(SettingsError, match=r"setting join: .* a list or a tuple of texts"):
        NodeSettings(join="127.0.0.1:8401")
