"""A node that was away when it was removed: it has to learn it, from few that it knows, and not from one."""

from pathlib import Path

import trio
from authority import Authority

from trio_eventlog.ids import format_id
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.disk import CrashMode


async def test_it_finds_those_who_can_say_it(tmp_path: Path) -> None:
    """Under TLS, without gossip, with one address to join: the others' it has from that one."""
    authority = Authority(tmp_path / "ca")
    async with Cluster(3, seed=13, starts=False) as cluster:
        for name in cluster.names:
            files = authority.issue(name)
            cluster.settings_of[name] |= {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": files.authority}
            await cluster.start(name)
        await cluster.wait_registered()
        leader = await cluster.wait_leader()
        (name, other) = (name for name in cluster.names if name != leader)
        cluster.crash(name, CrashMode.KEEP)
        await cluster.node(leader).parts.reconciler.requests.remove(cluster.node_id(name))
        await cluster.wait_gone(cluster.node_id(name))
        await cluster.start(name, may_fail=True, join=(cluster.address(other),))
        assert "was removed" in await cluster.wait_failure(name)


async def test_one_of_two_is_not_enough_and_is_a_warning() -> None:
    """The other one may not know it, or may not be able to say it; the node waits, and people can see why."""
    async with Cluster(3, seed=14) as cluster:
        await cluster.wait_registered()
        leader = await cluster.wait_leader()
        (name, other) = (name for name in cluster.names if name != leader)
        cluster.crash(name, CrashMode.KEEP)
        await cluster.node(leader).parts.reconciler.requests.remove(cluster.node_id(name))
        await cluster.wait_gone(cluster.node_id(name))
        cluster.network.cut(name, other)
        await cluster.start(name, may_fail=True)
        await cluster.wait_until(lambda: bool(cluster.node(name).status().warnings), "the warning")
        (warning,) = cluster.node(name).status().warnings
        assert f"{format_id(cluster.node_id(leader))} said that this node was removed" in warning
        assert "1 of 2 other voters, and 2 have to say it" in warning
        await trio.sleep(60)
        assert cluster.is_running(name)
        cluster.network.heal(name, other)
        assert "was removed" in await cluster.wait_failure(name)
