"""The layers are as docs/design/architecture says: imports go downward only, and the cores do no I/O."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "trio_eventlog"

LAYERS = {
    "ids": 0, "file_keys": 0, "records": 0, "errors": 0, "events": 0,
    "bounds": 0, "budgets": 0, "own_run": 0, "measures": 0, "release": 0,
    "setting_fields": 0, "setting_aliases": 0, "texts": 0, "log_records": 0, "backoff": 0, "background": 0, "v1": 0,
    "raft": 1, "gossip": 1, "machine": 1, "codec": 1,
    "search": 2,
    "storage": 2, "net": 2, "rpc": 2,
    "node": 3,
    "service": 4,
    "grpc": 5, "http": 5, "client": 5, "backup": 5, "ingest": 5, "logging": 5,
    "settings": 6, "part_settings": 6, "agent": 6,
    "logs": 7, "daemon": 7, "cli": 7,
}  # fmt: skip

CORES = ("raft", "gossip", "machine", "codec", "search")
NOT_IN_CORES = {"trio", "os", "time", "logging", "asyncio", "threading", "socket", "secrets", "uuid", "datetime", "pathlib"}


def modules() -> list[Path]:
    found = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "v1"]
    assert len(found) > 20
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            names |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module:
            assert item.level == 0, f"{path}: relative imports hide the layer"
            names.add(item.module)
            names |= {f"{item.module}.{alias.name}" for alias in item.names}
    return names


def rooms_used(path: Path) -> set[str]:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("trio_eventlog.")}
    return {name for name in own if name in LAYERS or (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    """A module uses its own room and rooms of lower layers; `testing` uses anything and nothing uses it."""
    here = room(path)
    if here in {"testing", "__init__", "__main__"}:
        return
    assert here in LAYERS, f"{here} has no layer yet: give it one"
    for used in rooms_used(path) - {here}:
        assert used != "testing", f"{path}: the package does not use its test kit"
        assert used in LAYERS, f"{path} uses {used}, which has no layer"
        both_low = LAYERS[used] == LAYERS[here] and (LAYERS[here] == 0 or (here, used) in SIDEWAYS)
        assert LAYERS[used] < LAYERS[here] or both_low, f"{path}: {here} (layer {LAYERS[here]}) uses {used}"


SIDEWAYS = {
    ("codec", "raft"),  # the codec knows the cores' messages, the cores do not know it
    ("codec", "machine"),
    ("codec", "gossip"),
    ("part_settings", "settings"),
    ("agent", "settings"),
    ("agent", "part_settings"),
    ("http", "ingest"),
    ("grpc", "ingest"),
    ("client", "grpc"),  # the same conversions, from the other side
    ("daemon", "logs"),
    ("cli", "logs"),
    ("cli", "daemon"),
}


@pytest.mark.parametrize("core", CORES)
def test_cores_do_no_input_or_output(core: str) -> None:
    """Values in, values out: a core imports nothing that waits, measures time, or touches the machine."""
    files = sorted((PACKAGE / core).rglob("*.py"))
    assert files
    for path in files:
        top = {name.split(".")[0] for name in imports(path)}
        assert not top & NOT_IN_CORES, f"{path} imports {top & NOT_IN_CORES}"
        assert "random" not in top or "random.Random" in path.read_text(), f"{path}: randomness is handed in"


def test_nobody_reaches_past_a_replica() -> None:
    """`Replica` is what a node holds of a group. Only `OpenGroups` speaks to the driver behind it, and the test kit."""
    past = re.compile(r"\b(replica|catalog|here|group)\.driver\b")
    found = {str(path.relative_to(PACKAGE)) for path in modules() if room(path) != "testing" and past.search(path.read_text())}
    assert found == {"node/open_groups.py"}


def test_the_parts_of_a_driver_know_each_other_in_one_direction() -> None:
    """docs/design/node.md: none of them imports the driver, and there is no circle among them."""
    parts = (
        "leadership",
        "reads",
        "proposing",
        "applying",
        "entry_frames",
        "disk_writer",
        "followers",
        "returning",
        "sleeping",
        "core_requests",
    )
    before: set[str] = {"driver_settings"}
    for part in parts:
        used = {name.removeprefix("trio_eventlog.node.") for name in imports(PACKAGE / "node" / f"{part}.py")}
        assert used & {*parts, "raft_driver", "replica", "replicas"} <= before, part
        before.add(part)


def _module_name(path: Path) -> str:
    return ".".join(("trio_eventlog", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported_modules() -> dict[str, set[str]]:
    """For each module of the package, those it imports, also where only the type checker looks."""
    names = {path: _module_name(path) for path in modules()}
    return {name: (imports(path) & set(names.values())) - {name} for path, name in names.items()}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Some circle of the graph, or nothing."""
    done: set[str] = set()
    way: list[str] = []

    def visit(name: str) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name not in done:
            way.append(name)
            for other in sorted(graph[name]):
                if circle := visit(other):
                    return circle
            way.pop()
            done.add(name)
        return []

    for name in sorted(graph):
        if circle := visit(name):
            return circle
    return []


def test_no_modules_import_each_other() -> None:
    """Not even under TYPE_CHECKING. In the test kit, the parts of a simulation refer to the run that holds them."""
    graph = {name: used for name, used in imported_modules().items() if not name.startswith("trio_eventlog.testing")}
    assert len(graph) > 200
    # A package imports what it publishes, and its modules import each other by their own names.
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    edges = {name: used - packages for name, used in graph.items() if name not in packages}
    assert find_circle(edges) == []


def test_a_circle_is_found() -> None:
    """Of any length, from wherever the search begins."""
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
