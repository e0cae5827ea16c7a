"""Tables, colours and questions: what a terminal is shown, and what a file gets."""

import pytest

from trio_eventlog.cli import main
from trio_eventlog.cli.output import Look, look_of, print_table

HEADINGS = ("NAME", "COUNT", "STATUS", "TAGS")
ROWS = [("n1", 5, "alive", "role=eventlog,port=8400,v=1"), ("n2", 12345, "failed", "role=eventlog,port=8401,v=1")]


def shown(capsys: pytest.CaptureFixture[str], look: Look) -> list[str]:
    print_table(HEADINGS, ROWS, look)
    return capsys.readouterr().out.splitlines()


def test_a_table_that_fits_is_as_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the width of the terminal."""
    lines = shown(capsys, Look())
    assert lines[1] == "n1        5  alive   role=eventlog,port=8400,v=1"
    assert shown(capsys, Look(width=48)) == lines


@pytest.mark.parametrize("width", range(32, 48))
def test_a_table_that_is_too_wide_is_folded(capsys: pytest.CaptureFixture[str], width: int) -> None:
    """Its widest column gives way, at commas; nothing is lost, and numbers stay whole."""
    lines = shown(capsys, Look(width=width))
    assert max(map(len, lines)) <= width
    assert len(lines) > 3
    assert lines[1].startswith("n1        5  alive   role=")
    assert "".join(line[21:].strip() for line in lines[1:]) == "role=eventlog,port=8400,v=1role=eventlog,port=8401,v=1"


def test_a_terminal_that_is_much_too_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each cell."""
    assert shown(capsys, Look(width=20))[:6] == [
        "NAME    n1",
        "COUNT   5",
        "STATUS  alive",
        "TAGS    role=eventlog,port=8400,v=1",
        "",
        "NAME    n2",
    ]


def test_colours(capsys: pytest.CaptureFixture[str]) -> None:
    """States by what they mean, in their column only; the rest of the line stands where it does without them."""
    print_table(("NAME", "STATUS"), [("alive", "alive"), ("b", "failed")], Look(has_colours=True))
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b[1mNAME" in lines[0]
    assert lines[1] == "alive  \x1b[32malive\x1b[0m"
    assert lines[2] == "b      \x1b[31mfailed\x1b[0m"


@pytest.mark.parametrize(
    ("colour", "is_terminal", "environment", "has_colours"),
    [
        ("auto", True, {"TERM": "xterm"}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        ("auto", False, {"TERM": "xterm"}, False),
        ("never", True, {"TERM": "xterm"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
    ],
)
def test_who_gets_colours(
    monkeypatch: pytest.MonkeyPatch, colour: str, is_terminal: bool, environment: dict[str, str], has_colours: bool
) -> None:
    """Terminals that have them, unless somebody has said otherwise."""
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    look = look_of(colour)
    assert look.has_colours is has_colours
    assert (look.width is not None) is is_terminal


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that knows commands, flags and which values are files."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("consume", "--until-end", "describe", "--key-separator"):
        assert word in script
    if shell == "bash":
        assert "_produce___file_COMPGEN=_shtab_compgen_files" in script
        assert "_log_verify_pos_0_COMPGEN=_shtab_compgen_dirs" in script
