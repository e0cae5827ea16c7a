"""Regenerate the committed message modules in trio_eventlog/v1 from proto/, or check that they are current.

    python proto/generate.py           # write
    python proto/generate.py --check   # exit 1 and name the files that differ

Run it with the grpcio-tools release that tox.ini pins: another protoc writes other bytes. Only messages are generated; the
services are read from the descriptors at run time.
"""

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "proto").rglob("*.proto"))


def generate(target: Path) -> None:
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}", f"--python_out={target}", f"--pyi_out={target}"]
    if protoc.main([*arguments, *map(str, SOURCES)]):
        raise SystemExit("protoc failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as home:
        generate(Path(home))
        made = [path.relative_to(home) for path in sorted(Path(home).rglob("*_pb2.py*"))]
        _, differ, missing = filecmp.cmpfiles(home, ROOT, [str(path) for path in made], shallow=False)
    for name in differ + missing:
        print(f"{name} is not what proto/ says; run: tox -e proto", file=sys.stderr)
    return 1 if differ or missing else 0


if __name__ == "__main__":
    sys.exit(main())
