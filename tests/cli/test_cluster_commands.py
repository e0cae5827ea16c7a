"""`status`, `members` and `topics` against simulated clusters, in virtual time."""

import argparse
import json
import os
import signal

import pytest
import trio
import trio.testing

from trio_eventlog.cli import make_parser
from trio_eventlog.cli.cluster import drain, members, problems_of, remove, status
from trio_eventlog.cli.topics import TopicDescriber, alter_topic, delete_topic, list_topics, show_sizes, trim_topic
from trio_eventlog.cli.watch import NotConfirmed, watched
from trio_eventlog.client import ClientSettings, GroupInfo, NodeStatus, Placement, ServerInfo
from trio_eventlog.errors import InvalidArgument, TopicNotFound, Unavailable
from trio_eventlog.records import Record
from trio_eventlog.testing import Cluster

QUICK = ClientSettings(attempt_timeout_seconds=1.0, request_timeout_seconds=5.0)


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser().parse_args(arguments)


async def test_check(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 while all is well, and 1 with a line for a node that has died."""
    async with Cluster(3, seed=2) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        await client.create_topic("t", partitions=2)
        with trio.fail_after(60):
            # A topic that has just been made is led a moment later.
            while await watched(status)(client, parsed("status", "--check")):
                assert "has no leader" in capfd.readouterr().out
                await trio.sleep(0.1)
        assert capfd.readouterr().out == "all is well with 3 nodes\n"
        name = next(name for name in cluster.running if name != cluster.leader())
        cluster.crash(name)
        assert await watched(status)(client, parsed("status", "--check")) == 1
        assert f"node {name} (" in capfd.readouterr().out
        assert await watched(status)(client, parsed("status", "--check", "--json")) == 1
        told = json.loads(capfd.readouterr().out)
        assert told["is_healthy"] is False
        assert len(told["problems"]) == 1


def test_what_is_wrong() -> None:
    """Silence, warnings, replicas that are not open, groups without a leader: a line each."""

    def group(topic: str, role: str, leader: str, problem: str = "") -> GroupInfo:
        return GroupInfo(
            group_id=1,
            topic=topic,
            partition=0,
            role=role,
            leader_id=leader,
            term=1,
            first_index=1,
            last_index=1,
            commit_index=1,
            applied_index=1,
            high_watermark=1,
            voter_ids=(),
            learner_ids=(),
            problem=problem,
        )

    def node(name: str, *groups: GroupInfo, warnings: tuple[str, ...] = ()) -> NodeStatus:
        return NodeStatus(
            id=name, name=name, address="", cluster_id="", cluster_name="", version="", groups=groups, warnings=warnings
        )

    def server(name: str) -> ServerInfo:
        return ServerInfo(id=name, name=name, address=f"{name}:1", is_leader=False)

    def place(leader: str) -> Placement:
        return Placement(topic="t", partition=0, leader_id=leader, replica_ids=())

    servers = [server("a"), server("b")]
    well = {"a": node("a", group("", "leader", "a")), "b": node("b", group("", "follower", "a"), group("t", "leader", "b"))}
    assert problems_of(servers, well, [place("b")]) == []
    assert problems_of(servers, well, [place("")]) == ["t/0 has no leader"]
    bad = {
        "a": Unavailable("gone"),
        "b": node("b", group("", "follower", ""), group("t", "degraded", "", "no descriptors"), warnings=("look",)),
    }
    assert problems_of(servers, bad, []) == [
        "node a (a) at a:1 does not answer: gone",
        "node b warns: look",
        "t/0 on b is degraded: no descriptors",
        "the catalog has no leader",
    ]


@pytest.mark.parametrize("flags", [(), ("--json",)])
async def test_watch(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    """Again and again, through an error, until Ctrl-C; in JSON a line for each round."""
    async with Cluster(1, seed=3) as cluster, cluster.client(settings=QUICK) as client, trio.open_nursery() as nursery:
        await cluster.wait_ready()
        await client.create_topic("t")

        @nursery.start_soon
        async def act() -> None:
            await trio.sleep(4)
            await client.produce("t", *[b"x"] * 500)
            await trio.sleep(5)
            await client.delete_topic("t")
            await trio.sleep(10)
            os.kill(os.getpid(), signal.SIGINT)

        arguments = parsed("topics", "describe", "t", "--watch", "5", *flags)
        assert await watched(TopicDescriber())(client, arguments) == 130
    out, err = capfd.readouterr()
    assert err.count("TOPIC_NOT_FOUND") == 2
    if flags:
        assert len([json.loads(line) for line in out.splitlines() if line]) == 2
    else:
        assert out.count("PARTITION  LEADER") == 2
        first, second = out.split("PARTITION")[2::2]
        assert "RECORDS/S" not in first
        heading, row = (line.split() for line in second.splitlines()[:2])
        assert heading[-3:] == ["RECORDS", "SIZE", "RECORDS/S"]
        assert row[-6:-3] == ["0", "500", "500"]
        assert row[-1] == "100"


async def test_tables(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is shown, with colours where they are wanted."""
    async with Cluster(1, seed=4) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("t")
        for act, words in ((members, ("members",)), (status, ("status",)), (list_topics, ("topics", "list"))):
            assert await watched(act)(client, parsed(*words, "--color", "always")) == 0
            assert "\x1b[1m" in capfd.readouterr().out
            assert await watched(act)(client, parsed(*words)) == 0
            assert "\x1b" not in capfd.readouterr().out


async def test_sizes_of_partitions_wherever_they_live(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """The node that is asked carries some of them; the leaders of the others say theirs."""
    async with Cluster(3, seed=7, auto_create_topics=False) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("t", partitions=6, replicas=1)
        await cluster.wait_topic("t")
        for number in range(6):
            await client.produce("t", b"x" * 2000, *[b"y"] * number, partition=number)
        asked = await client.describe_topic("t")
        assert 0 < sum(item.size_bytes is None for item in asked.partitions) < 6
        await watched(TopicDescriber())(client, parsed("topics", "describe", "t", "--json"))
        partitions = json.loads(capfd.readouterr().out)["partitions"]
        assert [(item["log_start_offset"], item["high_watermark"]) for item in partitions] == [(0, end) for end in range(1, 7)]
        for number, item in enumerate(partitions):
            replica = cluster.replica(cluster.leader("t", number) or "", "t", number)
            assert replica is not None
            assert item["size_bytes"] == replica.log.size_bytes > 2000
        await watched(TopicDescriber())(client, parsed("topics", "describe", "t"))
        assert capfd.readouterr().out.count(" KiB") == 6
        with pytest.raises(NotConfirmed, match="about 21 records"):
            await delete_topic(client, parsed("topics", "delete", "t"))


async def test_sizes_of_topics_on_the_disks_of_nodes(
    autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    """A row for each topic and node with a replica, the largest first. A node that does not answer is named; exit code 1."""
    async with Cluster(3, seed=9) as cluster, cluster.client(settings=QUICK) as client:
        await cluster.wait_ready()
        await client.create_topic("small")
        await client.create_topic("large", partitions=2)
        await cluster.wait_topic("large")
        await client.produce("large", b"x" * 50_000, partition=0)
        arguments = parsed("topics", "sizes", "--json")
        assert await watched(show_sizes)(client, arguments) == 0
        rows = json.loads(capfd.readouterr().out)
        assert [(row["topic"], row["partitions"]) for row in rows] == [("large", 2)] * 3 + [("small", 1)] * 3
        assert all(row["size_bytes"] > 50_000 for row in rows[:3])
        cluster.crash("n3")
        assert await watched(show_sizes)(client, parsed("topics", "sizes")) == 1
        printed = capfd.readouterr()
        assert printed.out.splitlines()[0].split() == ["TOPIC", "NODE", "PARTITIONS", "SIZE"]
        assert printed.err.startswith("without node n3: ")


async def test_no_node_is_taken_out_unasked(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """The question says which node it is; with --yes it is done, and refused for what it is."""
    async with Cluster(3, seed=8) as cluster, cluster.client() as client:
        await cluster.wait_registered()
        await client.create_topic("t")
        await cluster.wait_topic("t")
        for act, question in ((drain, r"Move everything off node n2 \("), (remove, r"Remove node n2 \(")):
            name = act.__name__
            with pytest.raises(NotConfirmed, match=question + r".*which is alive and carries 1 replicas\b.*say --yes"):
                await act(client, parsed("node", name, "n2"))
            assert {member.status for member in await client.members()} == {"alive"}
        assert await drain(client, parsed("node", "drain", "n2", "--yes")) == 0
        assert {member.status for member in await client.members() if member.name == "n2"} == {"removed"}
        assert "is drained and removed" in capfd.readouterr().out


async def test_a_topic_is_altered(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """As the flags say, and what they do not say stays; `none` and 0 are no limit."""
    async with Cluster(1, seed=6) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("t", retention_bytes=1 << 30)
        for flags, words in (
            (("--retention-time", "7d"), "altered t: retention bytes 1 GiB, retention time 7 d\n"),
            (("--retention-bytes", "none"), "altered t: retention bytes none, retention time 7 d\n"),
            (("--retention-time", "0", "--retention-bytes", "2MB"), "altered t: retention bytes 1.907 MiB, retention time none\n"),
        ):
            assert await alter_topic(client, parsed("topics", "alter", "t", *flags)) == 0
            assert capfd.readouterr().out == words
        assert await alter_topic(client, parsed("topics", "alter", "t", "--retention-time", "none", "--json")) == 0
        assert json.loads(capfd.readouterr().out)["retention_seconds"] == 0
        with pytest.raises(InvalidArgument, match="no change of topic"):
            await alter_topic(client, parsed("topics", "alter", "t"))
    with pytest.raises(SystemExit):
        parsed("topics", "alter", "t", "--partitions", "4")
    assert "argument --partitions: the number of a topic's partitions cannot change" in capfd.readouterr().err


async def test_a_topic_is_trimmed(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """Asked first; the table says where each partition begins."""
    async with Cluster(1, seed=6) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("t")
        await client.produce("t", [Record(value=b"x")] * 3)
        assert await trim_topic(client, parsed("topics", "trim", "t", "--before", "2", "--yes")) == 0
        assert capfd.readouterr().out.split()[-2:] == ["0", "2"]
        assert await trim_topic(client, parsed("topics", "trim", "t", "--before", "2200-01-01T00:00:00Z", "--yes", "--json")) == 0
        assert json.loads(capfd.readouterr().out) == {"topic": "t", "log_start_offsets": {"0": 3}}
    for wrong in ("beginning", "-3", "soon", "0:1"):
        with pytest.raises(SystemExit):
            parsed("topics", "trim", "t", f"--before={wrong}")


async def test_nothing_is_deleted_unasked(autojump_clock: trio.testing.MockClock, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal to ask on it is refused with words, and --yes is an answer."""
    async with Cluster(1, seed=5, auto_create_topics=False) as cluster, cluster.client() as client:
        await cluster.wait_ready()
        await client.create_topic("t", partitions=2)
        await client.produce("t", b"a", b"b")
        with pytest.raises(NotConfirmed, match=r"its 2 partitions and about 2 records, for ever\?.*say --yes"):
            await delete_topic(client, parsed("topics", "delete", "t"))
        assert await delete_topic(client, parsed("topics", "delete", "t", "--yes")) == 0
        with pytest.raises(TopicNotFound):
            await delete_topic(client, parsed("topics", "delete", "t"))
