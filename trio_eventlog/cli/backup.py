"""`backup` and `restore`: a copy of the whole cluster, taken while it works; and a new cluster made of it."""

import argparse
import datetime
import random
import socket
import sys
import time
from pathlib import Path

import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.identity import default_name
from trio_eventlog.backup import (
    STANDARD_OUTPUT,
    BackupManifest,
    Progress,
    Restored,
    check_backup,
    open_backup,
    open_target,
    restore,
    take_backup,
)
from trio_eventlog.cli.arguments import add_client_flags, run_with_client, size
from trio_eventlog.cli.output import print_json, size_text
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import progress
from trio_eventlog.client import Client
from trio_eventlog.errors import InvalidArgument
from trio_eventlog.ids import format_id, new_node_id
from trio_eventlog.release import VERSION
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.real_disk import RealDisk

FAILED = 1
VERIFY = "verify"
PIECE_BYTES = 256 * 1024


def add_parser(commands: Commands) -> None:
    taking = add_command(
        commands,
        "backup",
        usage="trio-eventlog backup [flags] PATH\n       trio-eventlog backup verify [--json] PATH",
    )
    taking.add_argument(
        "path",
        nargs="+",
        metavar="[verify] PATH",
        help="a directory: what an earlier backup has left there is kept, and what has changed since is added. A name that ends in"
        " .tar: an archive; -: an archive to standard output. `verify PATH` checks a backup, every byte of it, without a cluster",
    )
    taking.add_argument("--max-rate", type=size, default=0, metavar="SIZE", help="bytes per second; default: no limit")
    add_client_flags(taking)
    taking.set_defaults(run=run_backup, writes_output=False)

    restoring = add_command(commands, "restore")
    restoring.add_argument("path", help="of the backup: a directory or a tar archive")
    restoring.add_argument("--data-dir", required=True, metavar="DIR", help="where the new node is made; empty, or missing")
    restoring.add_argument("--cluster-name", default="", metavar="NAME", help="of the new cluster. Default: as in the backup")
    restoring.add_argument("--node-name", default="", metavar="NAME", help="of the new node. Default: as `serve` would call it")
    restoring.add_argument("--json", action="store_true", help="answer in JSON")
    restoring.set_defaults(run=run_restore)


def run_backup(arguments: argparse.Namespace) -> int:
    paths: list[str] = arguments.path
    if paths[0] == VERIFY and len(paths) == 2:
        return trio.run(_verify, Path(paths[1]), arguments.json)
    if len(paths) > 1:
        raise InvalidArgument(f"one PATH, and not {len(paths)}")
    arguments.path = paths[0]
    return run_with_client(arguments, back_up)


async def back_up(client: Client, arguments: argparse.Namespace) -> int:
    status = await client.status()
    done = Progress()

    def text() -> str:
        groups = f"{done.groups_done} of {done.groups} groups" if done.groups else "the catalog"
        kept = f", {size_text(done.kept_bytes)} kept" if done.kept_bytes else ""
        return f"{groups}, {size_text(done.written_bytes)} written{kept}"

    async with progress(text), open_target(arguments.path, sys.stdout.buffer) as target:
        manifest = await take_backup(
            client.backups,
            target,
            cluster_id=status.cluster_id,
            cluster_name=status.cluster_name,
            release=VERSION,
            now=lambda: datetime.datetime.now(datetime.UTC),
            piece_bytes=PIECE_BYTES,
            bytes_per_second=arguments.max_rate,
            progress=done,
        )
    _tell(arguments, manifest, done)
    return 0


def _tell(arguments: argparse.Namespace, manifest: BackupManifest, done: Progress) -> None:
    records = sum(group.end_offset - group.log_start_offset for group in manifest.groups)
    # Standard output may be the archive.
    out = sys.stderr if arguments.path == STANDARD_OUTPUT else sys.stdout
    if arguments.json:
        print_json(
            {
                "path": arguments.path,
                "cluster_id": manifest.cluster_id,
                "groups": len(manifest.groups),
                "records": records,
                "size_bytes": manifest.size_bytes,
                "written_bytes": done.written_bytes,
                "kept_bytes": done.kept_bytes,
                "left_out": done.left_out,
            },
            out,
        )
        return
    print(
        f"backup of cluster {manifest.cluster_name} ({manifest.cluster_id}): {len(manifest.groups)} groups, {records:,} records,"
        f" {size_text(manifest.size_bytes)}; {size_text(done.written_bytes)} written, {size_text(done.kept_bytes)} kept",
        file=out,
    )
    for partition in done.left_out:
        print(f"{partition} was deleted meanwhile and is not in the backup", file=out)


async def _verify(path: Path, as_json: bool) -> int:
    backup = await open_backup(path)
    checked_bytes = 0

    def count(size_bytes: int) -> None:
        nonlocal checked_bytes
        checked_bytes += size_bytes

    total = size_text(backup.manifest.size_bytes)
    async with progress(lambda: f"{size_text(checked_bytes)} of {total} checked"):
        problems = await check_backup(backup, count)
    if as_json:
        print_json({"path": str(path), "cluster_id": backup.manifest.cluster_id, "problems": problems})
    else:
        for problem in problems:
            print(problem)
        state = f"{len(problems)} problems: take another backup, or restore an older one" if problems else "whole"
        print(f"{path}: {len(backup.manifest.groups)} groups, {total}, of {backup.manifest.ended}: {state}")
    return FAILED if problems else 0


def run_restore(arguments: argparse.Namespace) -> int:
    restored = trio.run(_restore, arguments)
    if arguments.json:
        print_json(
            {
                "data_dir": arguments.data_dir,
                "node_id": format_id(restored.node_id),
                "cluster_id": format_id(restored.cluster_id),
                "cluster_name": restored.cluster_name,
                "groups": restored.groups,
                "records": restored.records,
            }
        )
        return 0
    print(
        f"restored {restored.groups} groups, {restored.records:,} records, as the first node of a new cluster"
        f" {restored.cluster_name} ({format_id(restored.cluster_id)})\n"
        f"start it: trio-eventlog serve --data-dir {arguments.data_dir} --cluster-name {restored.cluster_name}\n"
        "then start further nodes with empty data directories and --join; they get their replicas from it"
    )
    return 0


async def _restore(arguments: argparse.Namespace) -> Restored:
    backup = await open_backup(Path(arguments.path))
    done_bytes = 0

    def count(size_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += size_bytes

    node_id = new_node_id(random.SystemRandom())
    total = size_text(backup.manifest.size_bytes)
    async with progress(lambda: f"{size_text(done_bytes)} of {total}"):
        return await restore(
            RealDisk(),
            backup,
            arguments.data_dir,
            new_node_id=lambda: node_id,
            node_name=arguments.node_name or default_name(socket.gethostname(), node_id),
            cluster_name=arguments.cluster_name,
            now_seconds=time.time(),
            log_settings=part_settings.log(NodeSettings()),
            on_bytes=count,
        )
