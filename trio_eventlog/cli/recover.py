"""`recover`: what the data directories that are left hold, and a new cluster made of it. For when a majority is lost for good."""

import argparse
import random
import socket
import sys
import time

import trio

from trio_eventlog.agent.identity import default_name
from trio_eventlog.backup import RecoveredGroup, RecoverySettings, Survivors, find_survivors, held, plan, recover
from trio_eventlog.cli.output import print_json, print_table, size_text
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.progress import progress
from trio_eventlog.cli.watch import NotConfirmed
from trio_eventlog.ids import ClusterId, NodeId, format_id, new_node_id
from trio_eventlog.part_settings import log as log_settings
from trio_eventlog.settings import NodeSettings, load_settings, read_settings_file
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.storage.verify import SegmentReport

CONSENT = "lose data"


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "recover")
    parser.add_argument(
        "directory", nargs="+", help="the data directories that are left; no node may run there. Nothing in them is changed"
    )
    parser.add_argument("--data-dir", default="", metavar="DIR", help="where the new node is made. Without it only look")
    parser.add_argument("--cluster-name", default="", metavar="NAME", help="of the new cluster. Default: as before")
    parser.add_argument("--node-name", default="", metavar="NAME", help="of the new node. Default: as `serve` would call it")
    parser.add_argument("--config", metavar="FILE", help="the settings of the nodes that were lost (TOML)")
    parser.add_argument("--yes-lose-data", action="store_true", help="for scripts: do not ask")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return trio.run(_run, arguments)


async def _run(arguments: argparse.Namespace) -> int:
    file = read_settings_file(arguments.config) if arguments.config else None
    settings = load_settings(NodeSettings, file=file, file_name=arguments.config or "")
    disk = RealDisk()
    async with held(disk, arguments.directory):
        checked_bytes = 0

        def count(report: SegmentReport) -> None:
            nonlocal checked_bytes
            checked_bytes += report.file_bytes

        async with progress(lambda: f"{size_text(checked_bytes)} looked at"):
            survivors = await find_survivors(disk, arguments.directory, count)
            groups = await plan(disk, survivors)
        if not arguments.json:
            _show(survivors, groups)
        if not arguments.data_dir:
            if arguments.json:
                print_json(_as_json(survivors, groups))
            return 0
        await _ask(arguments)
        node_id = new_node_id(random.SystemRandom())
        cluster_name = arguments.cluster_name or survivors.cluster_name
        cluster_id = await _recover(disk, survivors, groups, arguments, settings, node_id, cluster_name)
    if arguments.json:
        made = {"data_dir": arguments.data_dir, "node_id": format_id(node_id), "new_cluster_id": format_id(cluster_id)}
        print_json(_as_json(survivors, groups) | made)
        return 0
    print(
        f"recovered as the first node of a new cluster {cluster_name} ({format_id(cluster_id)})\n"
        f"start it: trio-eventlog serve --data-dir {arguments.data_dir} --cluster-name {cluster_name}\n"
        "then start further nodes with empty data directories and --join; keep the old directories until you are sure"
    )
    return 0


async def _recover(
    disk: RealDisk,
    survivors: Survivors,
    groups: list[RecoveredGroup],
    arguments: argparse.Namespace,
    settings: NodeSettings,
    node_id: NodeId,
    cluster_name: str,
) -> ClusterId:
    written_bytes = 0

    def count(size_bytes: int) -> None:
        nonlocal written_bytes
        written_bytes += size_bytes

    async with progress(lambda: f"{size_text(written_bytes)} written"):
        return await recover(
            disk,
            survivors,
            groups,
            arguments.data_dir,
            node_id=node_id,
            node_name=arguments.node_name or default_name(socket.gethostname(), node_id),
            cluster_name=cluster_name,
            now_seconds=time.time(),
            settings=RecoverySettings(
                logs=log_settings(settings),
                producer_window_batches=settings.producer_window_batches,
                producers_max=settings.producers_max,
            ),
            on_bytes=count,
        )


async def _ask(arguments: argparse.Namespace) -> None:
    """Raises NotConfirmed without consent."""
    if arguments.yes_lose_data:
        return
    question = "What only the lost nodes had is lost for good, and their return will not bring it back."
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotConfirmed(f"{question} There is no terminal to ask on: say --yes-lose-data")
    sys.stderr.write(f"{question}\nType '{CONSENT}' to go on: ")
    sys.stderr.flush()
    answer = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    if answer.strip() != CONSENT:
        raise NotConfirmed("nothing was done")


def _show(survivors: Survivors, groups: list[RecoveredGroup]) -> None:
    print(f"cluster {survivors.cluster_name} ({format_id(survivors.cluster_id)})")
    rows = []
    for group in groups:
        for replica in survivors.replicas.get(group.group_id, ()):
            rows.append(
                [
                    group.what,
                    replica.home,
                    replica.usable_term,
                    replica.usable_index,
                    replica.commit_index,
                    replica.report.base.offset,
                    replica.end_offset,
                    "taken" if replica is group.replica else "",
                ]
            )
    print_table(["GROUP", "DIRECTORY", "LAST TERM", "LAST", "COMMIT", "LOG START", "END OFFSET", ""], rows)
    for group in groups:
        for loss in group.losses:
            print(f"{group.what}: {loss}")


def _as_json(survivors: Survivors, groups: list[RecoveredGroup]) -> dict[str, object]:
    return {
        "cluster_id": format_id(survivors.cluster_id),
        "cluster_name": survivors.cluster_name,
        "groups": [
            {
                "group_id": group.group_id,
                "topic": group.topic,
                "partition": group.partition,
                "taken_from": group.replica.home if group.replica is not None else None,
                "losses": group.losses,
                "replicas": [
                    {
                        "directory": replica.home,
                        "last_term": replica.usable_term,
                        "last_index": replica.usable_index,
                        "commit_index": replica.commit_index,
                        "log_start_offset": replica.report.base.offset,
                        "end_offset": replica.end_offset,
                    }
                    for replica in survivors.replicas.get(group.group_id, ())
                ],
            }
            for group in groups
        ],
    }
