"""`members`, `status`, `leader`, `node`: the cluster."""

import argparse
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_eventlog.cli.arguments import (
    add_client_flags,
    add_look_flags,
    duration,
    natural,
    run_with_client,
)
from trio_eventlog.cli.output import RED, YELLOW, duration_text, painted, print_json, print_table
from trio_eventlog.cli.parser import Commands, add_command
from trio_eventlog.cli.watch import confirm, watched
from trio_eventlog.client import Client, GroupInfo, MemberInfo, NodeStatus, Placement, ServerInfo
from trio_eventlog.errors import EventLogError, InvalidArgument, NoQuorum, OutcomeUnknown, Unavailable

LOOK_SECONDS = 0.5
"""How often a node on its way out is looked at."""
MEMBERS_SECONDS_MAX = 5.0
"""How long the catalog's leader may take to say how all nodes are."""
WAIT_SECONDS = 600.0
NOT_OPEN = frozenset({"opening", "degraded"})
"""Roles of replicas that take no part."""
FAILED = 1


def add_parser(commands: Commands) -> None:
    listing = add_command(commands, "members")
    listing.add_argument("--all", action="store_true", help="those that were removed too")
    add_look_flags(listing)
    add_client_flags(listing)
    listing.set_defaults(run=lambda arguments: run_with_client(arguments, watched(members)))

    state = add_command(commands, "status")
    state.add_argument(
        "--check",
        action="store_true",
        help="for scripts: one line for each thing that is wrong, and exit code 1 if there is any. Wrong are a node without an"
        " answer, a warning of a node, a group without a leader and a replica that is not open",
    )
    add_look_flags(state)
    add_client_flags(state)
    state.set_defaults(run=lambda arguments: run_with_client(arguments, watched(status)))

    leader = add_command(commands, "leader")
    actions = leader.add_subparsers(metavar="ACTION", required=True)
    transfer = add_command(actions, "transfer", "hand leadership over to another node")
    transfer.add_argument("--topic", default="", help="of a partition of this topic. Default: of the catalog")
    transfer.add_argument("--partition", type=natural, default=0, metavar="N", help="default: 0")
    transfer.add_argument("--to", default="", metavar="NODE", help="name or id. Default: the follower that is closest behind")
    add_client_flags(transfer)
    transfer.set_defaults(run=lambda arguments: run_with_client(arguments, transfer_leadership))

    node = add_command(commands, "node")
    actions = node.add_subparsers(metavar="ACTION", required=True)
    _add_departure(
        actions,
        "drain",
        "move everything off a node, then remove it and let it stop; asks first",
        lambda arguments: run_with_client(arguments, drain),
    )
    _add_departure(
        actions,
        "remove",
        "remove a node that does not come back, for ever; asks first. Refused when the others could not go on",
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
    parser.add_argument("--yes", action="store_true", help="do not ask. Without it, and without a terminal, nothing is done")
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
        arguments.look,
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
    question = "Move everything off node {}, then remove it, for ever?"
    return await _take_out(client, arguments, question, client.drain_node, "is drained and removed", "is being drained")


async def remove(client: Client, arguments: argparse.Namespace) -> int:
    question = "Remove node {}, for ever?"
    return await _take_out(client, arguments, question, client.remove_node, "is removed for ever", "is being removed")


async def _take_out(
    client: Client,
    arguments: argparse.Namespace,
    question: str,
    act: Callable[[str], Awaitable[None]],
    done: str,
    under_way: str,
) -> int:
    member = _find(await client.members(), arguments.node)
    if not arguments.yes:
        known = f"{member.name} ({member.id}), which is {member.status} and carries {len(member.groups)} replicas"
        await confirm(question.format(known))
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


Answers = dict[str, NodeStatus | EventLogError]
"""By the node's id."""


async def ask_all(client: Client, servers: Sequence[ServerInfo]) -> Answers:
    """How each node sees itself, or why it does not say."""
    answers: Answers = {}

    async def ask(server: ServerInfo) -> None:
        try:
            answers[server.id] = await client.status(server.address)
        except EventLogError as error:
            answers[server.id] = error

    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(ask, server)
    return answers


async def status(client: Client, arguments: argparse.Namespace) -> int:
    servers = await client.servers()
    answers = await ask_all(client, servers)
    if arguments.check:
        return _tell_problems(problems_of(servers, answers, await client.placements()), servers, arguments)
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
    nodes = [answer for server in servers if isinstance(answer := answers[server.id], NodeStatus)]
    rows = [(_group_name(group), node.name, *_group_columns(group, names)) for node in nodes for group in node.groups]
    rows.sort(key=lambda row: (row[0] != "catalog", row[0], row[1]))
    print_table(
        ("GROUP", "NODE", "ROLE", "LEADER", "TERM", "LAST", "COMMIT", "APPLIED", "HIGH WATERMARK", "VOTERS", "LEARNERS"),
        rows,
        arguments.look,
    )
    print()
    print_table(
        ("NODE", "BUDGET", "LIMIT", "USED", "REFUSED"),
        [(node.name, budget.name, budget.limit, budget.used, budget.refused) for node in nodes for budget in node.budgets],
        arguments.look,
    )
    for server in servers:
        answer = answers[server.id]
        if isinstance(answer, EventLogError):
            print(painted(f"no answer: {server.name} ({server.id}) at {server.address}: {answer}", RED, arguments.look))
    for node in nodes:
        for warning in node.warnings:
            print(painted(f"warning of {node.name}: {warning}", YELLOW, arguments.look))
    return 0


def problems_of(servers: Sequence[ServerInfo], answers: Answers, placements: Sequence[Placement]) -> list[str]:
    """What an operator has to look at, a line each."""
    problems: list[str] = []
    is_led = False
    for server in servers:
        answer = answers[server.id]
        if isinstance(answer, EventLogError):
            problems.append(f"node {server.name} ({server.id}) at {server.address} does not answer: {answer}")
            continue
        problems += [f"node {answer.name} warns: {warning}" for warning in answer.warnings]
        for group in answer.groups:
            if group.role in NOT_OPEN:
                problems.append(f"{_group_name(group)} on {answer.name} is {group.role}: {group.problem or 'no reason given'}")
            is_led = is_led or (not group.topic and bool(group.leader_id))
    if not is_led:
        problems.append("the catalog has no leader")
    return problems + [f"{place.topic}/{place.partition} has no leader" for place in placements if not place.leader_id]


def _tell_problems(problems: Sequence[str], servers: Sequence[ServerInfo], arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json({"is_healthy": not problems, "nodes": len(servers), "problems": problems})
    elif problems:
        for problem in problems:
            print(painted(problem, RED, arguments.look))
    else:
        print(f"all is well with {len(servers)} nodes")
    return FAILED if problems else 0


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
