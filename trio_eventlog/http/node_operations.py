"""The node about itself over HTTP: status, members, probes."""

from typing import Annotated

import msgspec
import trio
from msgspec import Meta, Struct
from starlette.responses import Response

from trio_eventlog.http.operations import Call, Operation
from trio_eventlog.http.probes import answer_probe
from trio_eventlog.service.values import GroupInfo, MemberInfo, NodeStatus


class HealthOut(Struct):
    """Liveness: the event loop turns. The rest is for people, and decides nothing."""

    status: str
    node_id: str
    is_leader: bool
    leader_id: str | None
    timestamp: str


class ReadyOut(Struct, omit_defaults=True):
    """Readiness: whether the node should be given work, and why not."""

    status: str
    reason: str | None = None


class BudgetOut(Struct):
    """What a node may use of one thing at most, what it uses now, and how often it refused more since it started."""

    name: str
    limit: int
    used: int
    refused: int


class GroupOut(Struct):
    """A partition, or the catalog (`topic` is null), as the node sees it."""

    topic: str | None
    partition: int
    role: str
    leader_id: str | None
    term: int
    commit_index: int
    applied_index: int
    high_watermark: int
    voter_ids: list[str]
    learner_ids: list[str]
    problem: str | None

    @classmethod
    def of(cls, group: GroupInfo) -> "GroupOut":
        return cls(
            group.topic or None,
            group.partition,
            group.role,
            group.leader_id or None,
            group.term,
            group.commit_index,
            group.applied_index,
            group.high_watermark,
            list(group.voter_ids),
            list(group.learner_ids),
            group.problem or None,
        )


class StatusOut(Struct):
    """The node as it sees itself. `is_leader`, `leader_id`, `term`, `commit_index` and `last_applied` are those of the catalog, the
    group that all of the cluster shares."""

    id: str
    name: str
    address: str
    is_leader: bool
    leader_id: str | None
    term: int
    commit_index: int
    last_applied: int
    cluster_id: str
    cluster_name: str
    version: str
    ready: bool
    unready_because: str | None
    partitions: int
    partitions_led: int
    partitions_max: int
    warnings: list[str]
    budgets: list[BudgetOut]
    groups: list[GroupOut]


class StatusQuery(Struct, forbid_unknown_fields=True):
    """How much of the status."""

    groups: Annotated[bool, Meta(description="Whether each partition is listed.")] = True


class MemberOut(Struct):
    """A node as the catalog's leader sees it."""

    id: str | None
    name: str
    address: str
    status: str
    role: str | None
    tags: dict[str, str]
    last_contact_seconds: float | None
    lag_entries: int | None

    @classmethod
    def of(cls, member: MemberInfo) -> "MemberOut":
        return cls(
            member.id or None,
            member.name,
            member.address,
            member.status,
            member.role or None,
            dict(member.tags),
            member.last_contact_seconds,
            member.lag_entries,
        )


class MembersOut(Struct):
    """Every node that is known to the cluster."""

    members: list[MemberOut]
    count: int


def status_out(status: NodeStatus, unready_because: str, with_groups: bool) -> StatusOut:
    """A status as it is answered."""
    catalog = next((group for group in status.groups if not group.topic), None)
    partitions = [group for group in status.groups if group.topic]
    return StatusOut(
        id=status.id,
        name=status.name,
        address=status.address,
        is_leader=catalog is not None and catalog.leader_id == status.id,
        leader_id=(catalog.leader_id if catalog is not None else "") or None,
        term=catalog.term if catalog is not None else 0,
        commit_index=catalog.commit_index if catalog is not None else 0,
        last_applied=catalog.applied_index if catalog is not None else 0,
        cluster_id=status.cluster_id,
        cluster_name=status.cluster_name,
        version=status.version,
        ready=not unready_because,
        unready_because=unready_because or None,
        partitions=len(partitions),
        partitions_led=sum(group.leader_id == status.id for group in partitions),
        partitions_max=status.partitions_max,
        warnings=list(status.warnings),
        budgets=[BudgetOut(one.name, one.limit, one.used, one.refused) for one in status.budgets],
        groups=[GroupOut.of(group) for group in status.groups] if with_groups else [],
    )


async def get_status(call: Call) -> Response:
    query = call.query(StatusQuery)
    return call.answer(status_out(call.node.status(), call.node.unready_because(), query.groups))


async def list_members(call: Call) -> Response:
    members = sorted(await call.event_log.members(caller=call.caller), key=lambda member: (member.name, member.id))
    return call.answer(MembersOut([MemberOut.of(member) for member in members], len(members)))


async def get_metrics(call: Call) -> Response:
    from trio_eventlog.http.metrics import written  # It takes 20 ms to load, and not every node is asked.

    readings = []
    for reading in call.node.metrics():
        readings.append(reading)
        await trio.lowlevel.checkpoint()  # Reading and writing a thousand partitions should not be one turn of the loop.
    body, content_type = written(readings, call.request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})


async def probe(call: Call) -> Response:
    """Only for a form of the path that is none of a probe's: those are answered before the application is loaded."""
    answer = answer_probe(call.request.url.path, call.node)
    assert answer is not None
    return Response(msgspec.json.encode(answer[1]), answer[0], media_type="application/json")


OPERATIONS = (
    Operation(
        method="GET",
        path="/health",
        handle=probe,
        summary="Liveness.",
        description="200 while the event loop turns. It looks at no other node, no quorum and no disk.",
        tag="Node",
        answer=HealthOut,
    ),
    Operation(
        method="GET",
        path="/ready",
        handle=probe,
        summary="Readiness.",
        description="200 when the node knows a leader and is close behind it.",
        tag="Node",
        answer=ReadyOut,
        statuses={503: "The node should be given no work: `reason` says why."},
    ),
    Operation(
        method="GET",
        path="/status",
        handle=get_status,
        summary="The node as it sees itself.",
        tag="Node",
        query=StatusQuery,
        answer=StatusOut,
    ),
    Operation(
        method="GET",
        path="/metrics",
        handle=get_metrics,
        summary="What the node measures.",
        description="In the text format of Prometheus, or as OpenMetrics by `Accept`.",
        tag="Node",
        answer_types={"text/plain": "The text format of Prometheus.", "application/openmetrics-text": "OpenMetrics."},
    ),
    Operation(
        method="GET",
        path="/members",
        handle=list_members,
        summary="The nodes of the cluster.",
        description="As the leader of the catalog sees them.",
        tag="Node",
        answer=MembersOut,
    ),
)
