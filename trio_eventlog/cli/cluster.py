"""`members`, `status`, `leader`: the cluster."""

import argparse

import attrs
import trio

from trio_eventlog.cli.arguments import Commands, add_client_flags, add_command, natural, run_with_client
from trio_eventlog.cli.output import print_json, print_table
from trio_eventlog.client import Client, GroupInfo, NodeStatus, ServerInfo
from trio_eventlog.errors import EventLogError, InvalidArgument


def add_parser(commands: Commands) -> None:
    listing = add_command(commands, "members", "the nodes of the cluster")
    add_client_flags(listing)
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, members))

    state = add_command(commands, "status", "the cluster as Raft sees it, asked of every node")
    add_client_flags(state)
    state.set_defaults(run=lambda arguments: run_with_client(arguments, status))

    leader = add_command(commands, "leader", "who leads")
    actions = leader.add_subparsers(metavar="ACTION", required=True)
    transfer = add_command(actions, "transfer", "hand leadership over to another node")
    transfer.add_argument("--topic", default="", help="of a partition of this topic. Default: of the catalog")
    transfer.add_argument("--partition", type=natural, default=0, metavar="N", help="default: 0")
    transfer.add_argument("--to", default="", metavar="NODE", help="name or id. Default: the follower that is closest behind")
    add_client_flags(transfer)
    transfer.set_defaults(run=lambda arguments: run_with_client(arguments, transfer_leadership))


async def members(client: Client, arguments: argparse.Namespace) -> int:
    servers = await client.servers()
    if arguments.json:
        print_json([attrs.asdict(server) | {"tags": dict(server.tags)} for server in servers])
        return 0
    print_table(
        ("NAME", "ID", "ADDRESS", "STATUS", "CATALOG"),
        [
            (server.name, server.id, server.address, dict(server.tags).get("status", ""), "leader" if server.is_leader else "")
            for server in servers
        ],
    )
    return 0


async def status(client: Client, arguments: argparse.Namespace) -> int:
    servers = await client.servers()
    answers: dict[str, NodeStatus | EventLogError] = {}

    async def ask(server: ServerInfo) -> None:
        try:
            answers[server.id] = await client.status(server.address)
        except EventLogError as error:
            answers[server.id] = error

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server)
    if arguments.json:
        print_json(
            [
                answer if isinstance(answer, NodeStatus) else {"id": server.id, "name": server.name, "error": str(answer)}
                for server in servers
                for answer in (answers[server.id],)
            ]
        )
        return 0
    names = {server.id: server.name for server in servers}
    rows: list[tuple[object, ...]] = []
    silent: list[str] = []
    for server in servers:
        answer = answers[server.id]
        if isinstance(answer, EventLogError):
            silent.append(f"{server.name} ({server.id}) at {server.address}: {answer}")
            continue
        rows += [(_group_name(group), answer.name, *_group_columns(group, names)) for group in answer.groups]
    rows.sort(key=lambda row: (row[0] != "catalog", row[0], row[1]))
    print_table(("GROUP", "NODE", "ROLE", "LEADER", "TERM", "LAST", "COMMIT", "APPLIED", "HIGH WATERMARK"), rows)
    for line in silent:
        print(f"no answer: {line}")
    return 0


async def transfer_leadership(client: Client, arguments: argparse.Namespace) -> int:
    servers = await client.servers()
    to = ""
    if arguments.to:
        found = [server.id for server in servers if arguments.to in (server.id, server.name)]
        if len(found) != 1:
            known = ", ".join(f"{server.name} ({server.id})" for server in servers)
            raise InvalidArgument(
                f"--to {arguments.to}: {'no node' if not found else 'more than one node'} of this name; there are {known}"
            )
        to = found[0]
    leader_id = await client.transfer_leadership(arguments.topic, arguments.partition, to=to)
    name = {server.id: server.name for server in servers}.get(leader_id, leader_id)
    if arguments.json:
        print_json({"leader_id": leader_id, "leader_name": name})
    else:
        what = f"{arguments.topic}/{arguments.partition}" if arguments.topic else "the catalog"
        print(f"{name} leads {what}")
    return 0


def _group_name(group: GroupInfo) -> str:
    return f"{group.topic}/{group.partition}" if group.topic else "catalog"


def _group_columns(group: GroupInfo, names: dict[str, str]) -> tuple[object, ...]:
    return (
        group.role,
        names.get(group.leader_id, group.leader_id) or None,
        group.term,
        group.last_index,
        group.commit_index,
        group.applied_index,
        group.high_watermark,
    )
