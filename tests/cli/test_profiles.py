"""Profiles: what they stand for, what comes before them, and what is said of a file that is wrong."""

from pathlib import Path

import pytest

from trio_eventlog.cli import main, make_parser
from trio_eventlog.cli.arguments import client_settings_of, target_of
from trio_eventlog.cli.profiles import profiles_path, use_profile
from trio_eventlog.errors import SettingsError

TEXT = """
default = "home"

[home]
target = "eventlog://home:1"

[work]
target = "eventlog://work:2"
tls_ca = "ca.pem"
tls_key = "/keys/key.pem"
timeout = "3s"
set = { attempts_max = 7, compression = "zstd" }
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_text(TEXT)
    monkeypatch.delenv("TRIO_EVENTLOG_TARGET", raising=False)
    monkeypatch.setenv("TRIO_EVENTLOG_PROFILES", str(path))
    return path


@pytest.mark.parametrize(
    ("flags", "environment", "target"),
    [
        ((), {}, "eventlog://home:1"),
        (("--profile", "work"), {}, "eventlog://work:2"),
        (("--profile", "work"), {"TRIO_EVENTLOG_TARGET": "t:3"}, "eventlog://work:2"),
        ((), {"TRIO_EVENTLOG_PROFILE": "work"}, "eventlog://work:2"),
        ((), {"TRIO_EVENTLOG_TARGET": "t:3"}, "t:3"),
        (("--target", "f:4"), {}, "f:4"),
        (("--target", "f:4", "--profile", "work"), {}, "f:4"),
    ],
)
def test_which_target(
    file: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], environment: dict[str, str], target: str
) -> None:
    """A flag, a profile that is named, the variable, the default profile; certificates go with their target."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = make_parser().parse_args(["status", *flags])
    use_profile(arguments, {"TRIO_EVENTLOG_PROFILES": str(file)} | environment)
    assert target_of(arguments) == target
    assert arguments.tls_ca == (str(file.parent / "ca.pem") if target.endswith("work:2") else None)


def test_settings_of_a_profile(file: Path) -> None:
    """Below flags."""
    arguments = make_parser().parse_args(["status", "--profile", "work", "--set", "attempts_max=9"])
    use_profile(arguments, {"TRIO_EVENTLOG_PROFILES": str(file)})
    settings = client_settings_of(arguments)
    assert (settings.request_timeout_seconds, settings.attempts_max, settings.compression) == (3.0, 9, "zstd")
    assert arguments.tls_key == "/keys/key.pem"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[a", "this is no TOML"),
        ("a = 1", "stands in no profile"),
        ("[a]\ntagret = 'x'", "profile a: unknown key 'tagret'; did you mean target?"),
        ("[a]\ntls = 'yes'", "tls is 'yes': it has to be true or false"),
        ("[a]\ntarget = 1", "target is 1: it has to be a text"),
        ("[a]\ntimeout = 'soon'", "timeout is 'soon': not a duration"),
        ("[a]\nset = 1", "a table of client settings"),
        ("default = 'b'\n[a]\n", "default is 'b': write the name of a profile; there are a"),
        ("\u00e4".encode("latin-1").decode("latin-1"), ""),
    ],
)
def test_files_that_are_wrong(file: Path, capsys: pytest.CaptureFixture[str], text: str, part: str) -> None:
    """Exit code 2, and one line that names the file and the place."""
    file.write_bytes(text.encode("latin-1"))
    assert main(["status"]) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert part in error
    assert error.count("\n") == 1


def test_a_profile_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named, and what is in it."""
    assert main(["status", "--profile", "wrok"]) == 2
    assert "there is no profile 'wrok'" in (error := capsys.readouterr().err)
    assert "there are home, work" in error
    file.unlink()
    with pytest.raises(SettingsError, match="there is none"):
        use_profile(make_parser().parse_args(["status", "--profile", "x"]), {"TRIO_EVENTLOG_PROFILES": str(file)})


def test_a_directory_in_place_of_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.unlink()
    file.mkdir()
    assert main(["status"]) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_where_the_file_is() -> None:
    """As other programs have it."""
    assert profiles_path({"HOME": "/h"}) == Path("/h/.config/trio-eventlog/profiles.toml")
    assert profiles_path({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/trio-eventlog/profiles.toml")


def test_the_list(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "home     eventlog://home:1  no   yes",
        "work     eventlog://work:2  yes  -",
    ]
    file.unlink()
    assert main(["profiles"]) == 0
    assert f"there are no profiles: {file}" in capsys.readouterr().out
