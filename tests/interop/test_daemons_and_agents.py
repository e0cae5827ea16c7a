"""`trio-eventlog serve` and real `serf agent`s in one cluster, in real time; skipped where `serf` is not installed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, DaemonCluster
from serf_agents import SERF, opened, until

from trio_eventlog.codec.gossip_crypto import encode_key

pytestmark = [
    pytest.mark.interop,
    pytest.mark.agent,
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]

(KEY, OTHER_KEY) = (bytes(range(32)), bytes(reversed(range(32))))
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


async def test_keys_rotated_by_an_agent(tmp_path: Path) -> None:
    """`serf keys` changes the daemon's keyring and its file, so that it is back after a restart; old keys and none stay outside."""
    key_file = tmp_path / "keys"
    key_file.write_text(encode_key(KEY) + "\n")
    (old_file := tmp_path / "old-keys").write_text(encode_key(KEY) + "\n")
    flags = ("--listen", "127.0.0.1:0", "--gossip-profile", "local", "--gossip-key-file")
    node = Daemon(tmp_path / "n0", "--node-name", "n0", "--data-dir", "data", *flags, str(key_file))
    late = Daemon(tmp_path / "n1", "--node-name", "n1", "--data-dir", "data", *flags, str(old_file))
    try:
        node.start()
        async with opened(tmp_path) as place:
            agent = await place.agent("s1", f"-encrypt={encode_key(KEY)}", f"-join={node.address}")
            await agent.wait_status("n0", "alive")
            for change in ("-install", "-use"):
                await agent.command("keys", f"{change}={encode_key(OTHER_KEY)}")
            await agent.command("keys", f"-remove={encode_key(KEY)}")
            await until(lambda: key_file.read_text().split() == [encode_key(OTHER_KEY)])
            assert node.stop() == 0
            await agent.wait_status("n0", "left")
            node.start()
            said = await agent.command("join", node.address)
            assert "contacting 1 nodes" in said
            await agent.wait_status("n0", "alive")
            late.start()
            plain = await place.agent("s2")
            for outsider in (late.address, plain.address):
                await agent.command("join", outsider, check=False)
            await plain.command("join", node.address, check=False)
            await logged(node, "not encrypted")
            assert {name for name, one in (await agent.members()).items() if one["status"] == "alive"} == {"n0", "s1"}
            assert set(await plain.members()) == {"s2"}
    finally:
        node.close()
        late.close()
