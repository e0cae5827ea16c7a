"""Real serf agents and nodes of ours together for minutes, in real time: `tox -e interop-long`."""

import signal
from pathlib import Path

import pytest
import trio
from serf_agents import SERF, Agent, OurNode, opened, until

from trio_eventlog.gossip.events import GossipStatus, MemberFailed, MemberLeft, MemberSuspected, OnlyStreamsWork
from trio_eventlog.gossip.settings import LAN
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default

pytestmark = [
    pytest.mark.agent_long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]

LAN_GOSSIP = default(GossipSettings, swim=LAN)
STEADY_SECONDS = 70.0
STOPPED_SECONDS = 12.0
LEAVES = 40


async def all_alive(agents: list[Agent], nodes: list[OurNode]) -> None:
    """Everybody sees everybody."""
    names = {one.name for one in (*agents, *nodes)}
    for name in sorted(names):
        for agent in agents:
            await agent.wait_status(name, "alive")
        for node in nodes:
            await node.wait_status(name, GossipStatus.ALIVE)


async def stay_alive(agents: list[Agent], nodes: list[OurNode], seconds: float) -> None:
    """Nobody looks otherwise at anybody, ever."""
    names = {one.name for one in (*agents, *nodes)}
    ended = trio.current_time() + seconds
    while trio.current_time() < ended:
        for agent in agents:
            found = await agent.members()
            assert {name: one["status"] for name, one in found.items()} == dict.fromkeys(names, "alive")
        for node in nodes:
            assert {name: node.status(name) for name in node.driver.members} == dict.fromkeys(names, GossipStatus.ALIVE)
        await trio.sleep(1.0)
    for node in nodes:
        assert not node.of(MemberFailed)
    for agent in agents:
        assert "EventMemberFailed" not in agent.log_text()


async def test_steady_for_a_minute(tmp_path: Path) -> None:
    """Joined both ways: alive with all tags in `members -detailed` at every look, and nobody suspects anybody."""
    async with opened(tmp_path) as place:
        agents = [await place.agent("s1", profile="lan")]
        nodes = [await place.node("n1", agents[0].address, settings=LAN_GOSSIP)]
        agents.append(await place.agent("s2", f"-join={nodes[0].address}", profile="lan"))
        nodes.append(await place.node("n2", agents[1].address, settings=LAN_GOSSIP))
        await all_alive(agents, nodes)

        async def look() -> None:
            while True:
                for agent in agents:
                    lines = (await agent.command("members", "-detailed")).splitlines()
                    for node in nodes:
                        [line] = [one for one in lines if one.startswith(f"{node.name} ")]
                        assert " alive " in line
                        assert "role=eventlog" in line
                        assert f"addr={node.address}" in line
                        assert "cluster=interop" in line
                await trio.sleep(2.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await stay_alive(agents, nodes, STEADY_SECONDS)
            nursery.cancel_scope.cancel()
        for node in nodes:
            assert not node.of(MemberSuspected)
            counts = node.driver.statistics()
            assert counts.get("packets dropped", 0) == counts.get("messages dropped", 0) == counts.get("streams refused", 0) == 0
            assert counts["exchanges"] >= 2
        for agent in agents:
            assert "Suspect" not in agent.log_text()
            assert "[ERR]" not in agent.log_text()


async def test_a_third_of_the_packets_lost(tmp_path: Path) -> None:
    """30 % of all packets from and to nodes of ours for a minute: nobody fails, in nobody's view."""
    async with opened(tmp_path) as place:
        agents = [await place.agent("s1", profile="lan")]
        nodes = [await place.node("n1", agents[0].address, settings=LAN_GOSSIP)]
        nodes.append(await place.node("n2", agents[0].address, settings=LAN_GOSSIP))
        agents.append(await place.agent("s2", f"-join={nodes[0].address}", profile="lan"))
        await all_alive(agents, nodes)
        for node in nodes:
            node.datagrams.loss_chance = 0.3
        await stay_alive(agents, nodes, 60.0)
        assert sum(node.driver.statistics().get("indirect pings", 0) for node in nodes) > 10, "the loss is felt"


async def test_udp_cut_off_for_a_minute(tmp_path: Path) -> None:
    """Not a packet from and to a node of ours: streams alone keep it alive, and it says so."""
    async with opened(tmp_path) as place:
        agents = [await place.agent("s1", profile="lan"), await place.agent("s2", profile="lan")]
        await agents[1].command("join", agents[0].address)
        nodes = [await place.node("n1", agents[0].address, settings=LAN_GOSSIP)]
        await all_alive(agents, nodes)
        nodes[0].datagrams.loss_chance = 1.0
        await stay_alive(agents, nodes, 60.0)
        assert nodes[0].driver.statistics()["probes saved by streams"] > 20
        assert nodes[0].of(OnlyStreamsWork)


async def test_forty_leaves(tmp_path: Path) -> None:
    """Half of ours, half of theirs, in turn: each is seen as left by both kinds, none as failed."""
    async with opened(tmp_path) as place:
        agent = await place.agent("stayer-s")
        node = await place.node("stayer-n", agent.address)
        for number in range(LEAVES):
            name = f"leaver-{number}"
            if number % 2:
                leaver = await place.agent(name, f"-join={node.address}")
                await node.wait_status(name, GossipStatus.ALIVE)
                await agent.wait_status(name, "alive")
                await leaver.command("leave")
                await leaver.process.wait()
            else:
                ours = await place.node(name, node.address)
                await ours.wait_status("stayer-s", GossipStatus.ALIVE)
                await agent.wait_status(name, "alive")
                assert await ours.driver.leave()
            await node.wait_status(name, GossipStatus.LEFT)
            await agent.wait_status(name, "left")
        # Whoever was called left by mistake would be failed, or back, by now.
        await trio.sleep(10.0)
        found = await agent.members()
        for number in range(LEAVES):
            assert node.status(f"leaver-{number}") is GossipStatus.LEFT
            # The agent reaps what has left, sooner than we do.
            assert found.get(f"leaver-{number}", {"status": "left"})["status"] == "left"
        assert len(node.of(MemberLeft)) == LEAVES
        assert not node.of(MemberFailed)
        assert "EventMemberFailed" not in agent.log_text()


async def test_our_process_stopped(tmp_path: Path) -> None:
    """Twelve seconds of SIGSTOP: failed for the others; when it goes on it accuses nobody, and is alive for all at once."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", profile="lan")
        node = await place.node("n1", agent.address, settings=LAN_GOSSIP)
        ours = await place.process("n2", agent.address, profile="lan")
        await agent.wait_status("n2", "alive")
        await node.wait_status("n2", GossipStatus.ALIVE)
        await until(lambda: ("MemberJoined", "n1") in ours.events() and ("MemberJoined", "s1") in ours.events())
        ours.process.send_signal(signal.SIGSTOP)
        stopped_at = trio.current_time()
        await node.wait_status("n2", GossipStatus.FAILED, STOPPED_SECONDS)
        await agent.wait_status("n2", "failed", STOPPED_SECONDS)
        await trio.sleep_until(stopped_at + STOPPED_SECONDS)
        ours.process.send_signal(signal.SIGCONT)
        assert await node.wait_status("n2", GossipStatus.ALIVE) < 5.0
        assert await agent.wait_status("n2", "alive") < 5.0
        await trio.sleep(20.0)
        kinds = [kind for kind, _ in ours.events()]
        assert "LoopStalled" in kinds
        assert "MemberFailed" not in kinds
        assert {event.member.name for event in node.of(MemberFailed)} == {"n2"}  # type: ignore[attr-defined]


async def test_an_agent_stopped(tmp_path: Path) -> None:
    """The other way round; what it accuses us of when it goes on is refuted."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", profile="lan")
        nodes = [await place.node(name, agent.address, settings=LAN_GOSSIP) for name in ("n1", "n2")]
        await all_alive([agent], nodes)
        agent.process.send_signal(signal.SIGSTOP)
        stopped_at = trio.current_time()
        for node in nodes:
            await node.wait_status("s1", GossipStatus.FAILED, STOPPED_SECONDS)
        await trio.sleep_until(stopped_at + STOPPED_SECONDS)
        agent.process.send_signal(signal.SIGCONT)
        await all_alive([agent], nodes)
        await trio.sleep(10.0)
        await all_alive([agent], nodes)
        for node in nodes:
            assert {event.member.name for event in node.of(MemberFailed)} == {"s1"}  # type: ignore[attr-defined]


async def test_a_killed_process_of_ours(tmp_path: Path) -> None:
    """SIGKILL: failed in everybody's view within the bound of the profile, and not before a suspicion can be over."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", profile="lan")
        node = await place.node("n1", agent.address, settings=LAN_GOSSIP)
        ours = await place.process("n2", agent.address, profile="lan")
        await agent.wait_status("n2", "alive")
        await node.wait_status("n2", GossipStatus.ALIVE)
        ours.process.send_signal(signal.SIGKILL)
        killed_at = trio.current_time()
        # Until its turn in the walk (2 s), the probe (1 s), the suspicion (4 s), the spreading, and slack.
        await node.wait_status("n2", GossipStatus.FAILED, 12.0)
        assert trio.current_time() - killed_at > 4.0
        await agent.wait_status("n2", "failed", 5.0)


async def test_a_name_is_reclaimed(tmp_path: Path) -> None:
    """A new agent with the name of a dead one, at another address: a thief at first, its heir after half a minute."""
    async with opened(tmp_path) as place:
        node = await place.node("n1", settings=LAN_GOSSIP)
        agent = await place.agent("s1", f"-join={node.address}", profile="lan")
        await node.wait_status("s1", GossipStatus.ALIVE)
        agent.process.send_signal(signal.SIGKILL)
        await agent.process.wait()
        await node.wait_status("s1", GossipStatus.FAILED)
        failed_at = trio.current_time()
        heir = await place.agent("s1", f"-join={node.address}", profile="lan")
        assert heir.address != agent.address
        took = await node.wait_status("s1", GossipStatus.ALIVE, 120.0)
        assert trio.current_time() - failed_at > LAN.reclaim_seconds
        assert node.driver.shown_host(node.driver.members["s1"].address) == "127.0.0.1"
        assert node.driver.members["s1"].address.port == int(heir.address.split(":")[1])
        assert took < 90.0
        await heir.wait_status("n1", "alive")
