"""`trio-eventlog serve` and real `serf agent`s in one cluster, in real time; skipped where `serf` is not installed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, DaemonCluster
from serf_agents import SERF, opened, until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.agent,
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]

BOUND_SECONDS = 15.0
"""Local profile: the walk, the probe, the suspicion, the spreading, and a machine that has other things to do."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[DaemonCluster]:
    """Three of ours."""
    cluster = DaemonCluster(tmp_path, "--gossip-profile", "local")
    try:
        yield cluster.start()
    finally:
        for node in cluster.nodes:
            node.close()


async def logged(node: Daemon, text: str) -> None:
    """Until `text` is in the log of a daemon."""
    await until(lambda: text in node.log(), BOUND_SECONDS)


async def test_an_agent_among_daemons(cluster: DaemonCluster, tmp_path: Path) -> None:
    """It joins through one and sees all with their tags; killed, restarted and stopped daemons are failed, alive, left to it; and
    all of that the other way round."""
    (n0, n1, n2) = cluster.nodes
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", f"-join={n0.address}")
        for node in cluster.nodes:
            name = node.home.name
            await agent.wait_status(name, "alive")
            await logged(node, "s1 at ")
            tags = (await agent.members())[name]["tags"]
            assert isinstance(tags, dict)
            assert (tags["role"], tags["cluster"], tags["addr"]) == ("eventlog", "default", node.address)

        n2.kill()
        await agent.wait_status("n2", "failed", BOUND_SECONDS)
        for node in (n0, n1):
            await logged(node, f"n2 at {n2.address} has failed")
        n2.start()
        await agent.wait_status("n2", "alive", BOUND_SECONDS)

        n2.signal(signal.SIGSTOP)
        await agent.wait_status("n2", "failed", BOUND_SECONDS)
        n2.signal(signal.SIGCONT)
        await agent.wait_status("n2", "alive", BOUND_SECONDS)
        await logged(n2, "stood still")

        assert n1.stop() == 0
        await agent.wait_status("n1", "left", BOUND_SECONDS)
        await logged(n0, "n1 has left")

        second = await place.agent("s2", f"-join={n2.address}")
        await logged(n0, "s2 at ")
        await second.command("leave")
        await logged(n0, "s2 has left")
        agent.process.send_signal(signal.SIGKILL)
        await logged(n0, f"s1 at {agent.address} has failed")
        assert "s2 at 127.0.0.1" not in "".join(line for line in n0.log().splitlines() if "has failed" in line)


async def test_an_agent_of_another_cluster(cluster: DaemonCluster, tmp_path: Path) -> None:
    """Refused when it says so, with a reason for both sides to read."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", "-tag=cluster=blue")
        said = await agent.command("join", cluster.nodes[0].address, check=False)
        await logged(cluster.nodes[0], "'cluster': 'blue'")
        assert "another cluster" in said + agent.log_text()
        assert set(await agent.members()) == {"s1"}
