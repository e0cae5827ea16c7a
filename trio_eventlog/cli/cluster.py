"""`members`, `status`, `leader`, `node`: the cluster."""

import argparse
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.cli.arguments import Commands, add_client_flags, add_command, duration, natural, run_with_client
from trio_eventlog.cli.output import duration_text, print_json, print_table
from trio_eventlog.client import Client, GroupInfo, MemberInfo, NodeStatus, ServerInfo
from trio_eventlog.errors import EventLogError, InvalidArgument, NoQuorum, OutcomeUnknown, Unavailable

LOOK_SECONDS = 0.5
"""How often a node on its way out is looked at."""
MEMBERS_SECONDS_MAX = 5.0
"""How long the catalog's leader may take to say how all nodes are."""
WAIT_SECONDS = 600.0


def add_parser(commands: Commands) -> None:
    listing = add_command(commands, "members", "the nodes of the cluster")
    listing.add_argument("--all", action="store_true", help="those that were removed too")
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

    node = add_command(commands, "node", "take nodes out of the cluster, one at a time")
    actions = node.add_subparsers(metavar="ACTION", required=True)
    _add_departure(
        actions,
        "drain",
        "move everything off a node, then remove it and let it stop",
        lambda arguments: run_with_client(arguments, drain),
    )
    _add_departure(
        actions,
        "remove",
        "remove a node that does not come back, for ever; refused when the others could not go on",
        lambda arguments: run_with_client(arguments, remove),
    )


def _add_departure(
    actions: Commands,
    name: str,
    help: str,  # noqa: A002
    run: Callable[[argparse.Namespace], int],
) -> None:
    parser = add_command(actions, name, help)
    parser.add_argument("node", metavar="NODE", help="name or id")
    parser.add_argument("--no-wait", action="store_true", help="return when it is decided, not when it is done")
    parser.add_argument("--wait", type=duration, default=WAIT_SECONDS, metavar="DURATION", help="for how long. Default: 10min")
    add_client_flags(parser)
    parser.set_defaults(run=run)


async def members(client: Client, arguments: argparse.Namespace) -> int:
    found = await _members_or_servers(client)
    shown = [member for member in found if arguments.all or member.status != "removed"]
    shown.sort(key=lambda member: (member.name, member.id))
    if arguments.json:
        print_json([attrs.asdict(member) | {"tags": dict(member.tags), "is_leader": member.role == "leader"} for member in shown])
        return 0
    print_table(
        ("NAME", "ID", "ADDRESS", "STATUS", "CATALOG", "LAG", "LAST CONTACT", "LEADS", "VOTES", "LEARNS", "TAGS"),
        [
            (
                member.name,
                member.id or "-",
                member.address,
                member.status,
                member.role or "-",
                member.lag_entries,
                "-" if member.last_contact_seconds is None else f"{member.last_contact_seconds:.1f} s ago",
                *(sum(group.role == role for group in member.groups) for role in ("leader", "voter", "learner")),
                ",".join(f"{key}={value}" for key, value in member.tags) or "-",
            )
            for member in shown
        ],
    )
    return 0


async def _members_or_servers(client: Client) -> list[MemberInfo]:
    """As the catalog's leader sees them; without one, as any node does."""
    with trio.move_on_after(MEMBERS_SECONDS_MAX):
        try:
            return await client.members()
        except (NoQuorum, Unavailable):
            pass
    return [
        MemberInfo(
            id=server.id,
            name=server.name,
            address=server.address,
            status=dict(server.tags).get("status", "unknown"),
            role="leader" if server.is_leader else "",
            tags=server.tags,
        )
        for server in await client.servers()
    ]


async def drain(client: Client, arguments: argparse.Namespace) -> int:
    return await _take_out(client, arguments, client.drain_node, "is drained and removed", "is being drained")


async def remove(client: Client, arguments: argparse.Namespace) -> int:
    return await _take_out(client, arguments, client.remove_node, "is removed for ever", "is being removed")


async def _take_out(
    client: Client, arguments: argparse.Namespace, act: Callable[[str], Awaitable[None]], done: str, under_way: str
) -> int:
    member = _find(await client.members(), arguments.node)
    await act(member.id)
    told = ""
    with trio.move_on_after(0 if arguments.no_wait else arguments.wait):
        while True:
            member = next((found for found in await client.members() if found.id == member.id), member)
            if member.is_gone:
                return _tell(arguments, member, done)
            text = f"{member.status}, {member.role or 'no part'} in the catalog, {len(member.groups)} replicas"
            if text != told and not arguments.json:
                print(f"{member.name}: {text}", flush=True)
                told = text
            await trio.sleep(LOOK_SECONDS)
    if arguments.no_wait:
        return _tell(arguments, member, under_way)
    raise OutcomeUnknown(
        f"{member.name} ({member.id}) {under_way}, which is not done after {duration_text(arguments.wait)}: it goes on;"
        " `trio-eventlog members` shows how far it is"
    )


def _tell(arguments: argparse.Namespace, member: MemberInfo, what: str) -> int:
    if arguments.json:
        print_json({"id": member.id, "name": member.name, "status": member.status})
    else:
        print(f"{member.name} ({member.id}) {what}")
    return 0


def _find(known: Sequence[MemberInfo], node: str) -> MemberInfo:
    nodes = [member for member in known if member.id and member.status != "removed"]
    found = [member for member in nodes if node in (member.id, member.name)]
    if len(found) != 1:
        names = ", ".join(f"{member.name or '?'} ({member.id})" for member in nodes)
        raise InvalidArgument(f"{node}: {'no node' if not found else 'more than one node'} of this name or id; there are {names}")
    return found[0]


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
    print_table(
        ("GROUP", "NODE", "ROLE", "LEADER", "TERM", "LAST", "COMMIT", "APPLIED", "HIGH WATERMARK", "VOTERS", "LEARNERS"), rows
    )
    print()
    print_table(
        ("NODE", "BUDGET", "LIMIT", "USED", "REFUSED"),
        [
            (answer.name, budget.name, budget.limit, budget.used, budget.refused)
            for server in servers
            if isinstance(answer := answers[server.id], NodeStatus)
            for budget in answer.budgets
        ],
    )
    for line in silent:
        print(f"no answer: {line}")
    for server in servers:
        answer = answers[server.id]
        if isinstance(answer, NodeStatus):
            for warning in answer.warnings:
                print(f"warning of {answer.name}: {warning}")
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
        ",".join(sorted(names.get(node_id, node_id) for node_id in group.voter_ids)),
        ",".join(sorted(names.get(node_id, node_id) for node_id in group.learner_ids)) or None,
    )
