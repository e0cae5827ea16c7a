"""Our gossip with a real `serf agent`, in one cluster on loopback, in real time; skipped where `serf` is not installed.

Debian and its kin: `apt-get install serf`.
"""

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from serf_agents import SERF, WAIT_SECONDS_MAX, opened, until

from trio_eventlog.codec.gossip_crypto import encode_key
from trio_eventlog.gossip.events import (
    GossipStatus,
    MemberFailed,
    MemberLeft,
    MemberSuspected,
    QueryReceived,
    SuspicionRefuted,
    UserEventReceived,
)
from trio_eventlog.gossip.messages import KeyOperation, NameFilter, TagFilter
from trio_eventlog.gossip.settings import LAN, LOCAL
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default

pytestmark = [
    pytest.mark.interop,
    pytest.mark.agent,
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]

STEADY_SECONDS = 10.0
(KEY, OTHER_KEY) = (bytes(range(32)), bytes(reversed(range(32))))


def tags_of(members: Mapping[str, Mapping[str, object]], name: str) -> object:
    return members[name]["tags"]


async def test_we_join_an_agent(tmp_path: Path) -> None:
    """Alive on both sides with the right tags within two seconds, and steadily so: never another state, no suspicion."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        assert await agent.wait_status("ours", "alive") < 2.0
        await node.wait_status("s1", GossipStatus.ALIVE)
        assert node.driver.members["s1"].tags == {"role": "looker-on"}
        assert tags_of(await agent.members(), "ours") == {
            "role": "eventlog", "id": f"{7:016x}", "port": node.address.split(":")[1], "cluster": "interop", "v": "1",
            "addr": node.address,
        }  # fmt: skip
        detailed = await agent.command("members", "-detailed")
        assert "alive" in detailed
        ended = trio.current_time() + STEADY_SECONDS
        while trio.current_time() < ended:
            assert (await agent.members())["ours"]["status"] == "alive"
            assert node.status("s1") is GossipStatus.ALIVE
            await trio.sleep(0.5)
        log = agent.log_text().lower()
        assert "suspect" not in log, log
        assert "[err]" not in log, log
        assert not node.of(MemberSuspected)
        assert not node.of(SuspicionRefuted)
        assert node.driver.statistics().get("packets dropped", 0) == 0
        assert node.driver.statistics().get("messages dropped", 0) == 0


async def test_an_agent_joins_us_and_the_views_are_equal(tmp_path: Path) -> None:
    """Through our node two agents and two of ours come together; tag changes travel both ways."""
    async with opened(tmp_path) as place:
        node = await place.node("n1")
        other = await place.node("n2", node.address)
        agent = await place.agent("s1", f"-join={node.address}")
        second = await place.agent("s2", f"-join={other.address}")
        names = {"n1", "n2", "s1", "s2"}
        for name in sorted(names):
            await agent.wait_status(name, "alive")
            await second.wait_status(name, "alive")
            await node.wait_status(name, GossipStatus.ALIVE)
            await other.wait_status(name, GossipStatus.ALIVE)
        assert set(await agent.members()) == names
        await agent.command("tags", "-set", "color=blue")
        await until(lambda: node.driver.members["s1"].tags.get("color") == "blue")
        await node.driver.set_tags({"role": "eventlog", "v": "2"})
        with trio.fail_after(WAIT_SECONDS_MAX):
            while tags_of(await second.members(), "n1") != {"role": "eventlog", "v": "2"}:  # noqa: ASYNC110
                await trio.sleep(0.05)


async def test_user_events_both_ways(tmp_path: Path) -> None:
    """Ours runs the agent's handler, theirs comes to us, once each."""
    async with opened(tmp_path) as place:
        heard = tmp_path / "heard"
        agent = await place.agent("s1", f"-event-handler=user:deploy=cat >> {heard}")
        node = await place.node("ours", agent.address)
        await agent.wait_status("ours", "alive")
        await node.driver.send_event("deploy", b"build 7\n")
        await until(lambda: heard.exists() and heard.read_text())
        assert heard.read_text() == "build 7\n"
        await agent.command("event", "-coalesce=false", "restock", "socks")
        await until(lambda: [one for one in node.of(UserEventReceived) if one.event.name == "restock"])  # type: ignore[union-attr]
        [event] = [one.event for one in node.of(UserEventReceived) if one.event.name == "restock"]  # type: ignore[union-attr]
        assert (event.payload, event.coalesce) == (b"socks", False)


async def test_queries_both_ways(tmp_path: Path) -> None:
    """With acks, filters and relays; reachability and round trips too."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", "-event-handler=query:uptime=echo three days")
        second = await place.agent("s2", f"-join={agent.address}")
        node = await place.node("ours", agent.address)
        for name in ("ours", "s2"):
            await agent.wait_status(name, "alive")
        await second.wait_status("ours", "alive")
        result = await node.driver.query("uptime", filters=[NameFilter(("s1", "s2"))], wants_ack=True)
        assert set(result.acks) == {"s1", "s2"}
        assert {name: payload.strip() for name, payload in result.answers.items()} == {"s1": b"three days"}
        chosen = await node.driver.query("uptime", filters=[TagFilter("role", "^look")], wants_ack=True, relay_factor=1)
        assert set(chosen.acks) == {"s1", "s2"}

        async def answer() -> None:
            await until(lambda: node.of(QueryReceived))
            received = next(one for one in node.of(QueryReceived) if one.query.name == "load")  # type: ignore[union-attr]
            await node.driver.respond(received.query, b"0.5")  # type: ignore[union-attr]

        async with trio.open_nursery() as nursery:
            node.events.clear()
            nursery.start_soon(answer)
            asked = await agent.command(
                "query", "-format=json", "-timeout=3s", "-relay-factor=1", "-tag=role=event.*", "load", "now"
            )
        found = json.loads(asked)
        assert set(found["Acks"]) == {"ours"}
        assert found["Responses"] == {"ours": "0.5"}
        reached = await agent.command("reachability")
        assert "Successfully contacted all live nodes" in reached, reached
        assert set(await node.driver.reachable()) == {"ours", "s1", "s2"}
        assert "rtt" in await agent.command("rtt", "ours", "s1")


def bound_seconds(members: int) -> float:
    """Local profile: until the next probe, the probe, the suspicion (no confirmations with so few), the spreading, and slack."""
    assert members <= 3
    return 2 * LOCAL.probe_interval_seconds + LOCAL.suspicion_multiplier * LOCAL.probe_interval_seconds + 5.0


async def test_a_killed_agent_is_failed(tmp_path: Path) -> None:
    """Within the bound of the profile; a new agent of the same name and port is alive again at once."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        await node.wait_status("s1", GossipStatus.ALIVE)
        await agent.wait_status("ours", "alive")
        agent.process.send_signal(signal.SIGKILL)
        took = await node.wait_status("s1", GossipStatus.FAILED, bound_seconds(2))
        assert took > LOCAL.suspicion_multiplier * LOCAL.probe_interval_seconds
        await agent.process.wait()
        again = await place.agent("s1", f"-join={node.address}", f"-bind={agent.address}")
        assert await node.wait_status("s1", GossipStatus.ALIVE) < 5.0
        await again.wait_status("ours", "alive")


async def test_our_crash_is_failed_and_we_come_back(tmp_path: Path) -> None:
    """The agent sees it within the bound; a new process of ours, at incarnation 1, refutes its old record."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        await agent.wait_status("ours", "alive")
        node.crash()
        took = await agent.wait_status("ours", "failed", bound_seconds(2))
        assert took > 2.0
        again = await place.node("ours", agent.address, port=int(node.address.split(":")[1]))
        assert await agent.wait_status("ours", "alive") < 5.0
        assert again.driver.members["ours"].incarnation > 1


async def test_a_stopped_agent_comes_back(tmp_path: Path) -> None:
    """SIGSTOP: failed in time; SIGCONT: alive soon; and nobody accuses us."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        await node.wait_status("s1", GossipStatus.ALIVE)
        await agent.wait_status("ours", "alive")
        agent.process.send_signal(signal.SIGSTOP)
        await node.wait_status("s1", GossipStatus.FAILED, bound_seconds(2))
        agent.process.send_signal(signal.SIGCONT)
        await node.wait_status("s1", GossipStatus.ALIVE)
        assert (await agent.members())["ours"]["status"] == "alive"


async def test_leaving_both_ways(tmp_path: Path) -> None:
    """A graceful leave is seen as left by the other side, in a few seconds, never as failed."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        second = await place.agent("s2", f"-join={agent.address}")
        node = await place.node("ours", agent.address)
        stayer = await place.node("stayer", agent.address)
        for one in (node, stayer):
            await one.wait_status("s2", GossipStatus.ALIVE)
            await second.wait_status(one.name, "alive")
        await second.command("leave")
        await node.wait_status("s2", GossipStatus.LEFT)
        began = trio.current_time()
        assert await node.driver.leave()
        assert trio.current_time() - began < 5.0
        await agent.wait_status("ours", "left")
        await stayer.wait_status("ours", GossipStatus.LEFT)
        assert not stayer.of(MemberFailed)
        assert len(stayer.of(MemberLeft)) == 2


async def test_force_leave_of_a_failed_agent(tmp_path: Path) -> None:
    """From our side, seen by the other agent."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        second = await place.agent("s2", f"-join={agent.address}")
        node = await place.node("ours", agent.address)
        await node.wait_status("s2", GossipStatus.ALIVE)
        await second.wait_status("ours", "alive")
        second.process.send_signal(signal.SIGKILL)
        await node.wait_status("s2", GossipStatus.FAILED)
        await agent.wait_status("s2", "failed")
        assert await node.driver.force_leave("s2")
        await agent.wait_status("s2", "left")
        assert node.status("s2") is GossipStatus.LEFT


async def test_an_encrypted_cluster_and_key_rotation(tmp_path: Path) -> None:
    """Joined, steady, rotated by the agent's command and by ours; another key and no key stay outside."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", f"-encrypt={encode_key(KEY)}")
        node = await place.node("ours", agent.address, keys=(KEY,))
        await agent.wait_status("ours", "alive")
        await node.wait_status("s1", GossipStatus.ALIVE)
        wrong = await place.node("wrong", agent.address, keys=(OTHER_KEY[::-1][:16],))
        plain = await place.node("plain", agent.address)
        await agent.command("keys", f"-install={encode_key(OTHER_KEY)}")
        await agent.command("keys", f"-use={encode_key(OTHER_KEY)}")
        await agent.command("keys", f"-remove={encode_key(KEY)}")
        assert node.keyring is not None
        assert node.keyring.keys == (OTHER_KEY,)
        listed = await agent.command("keys", "-list")
        assert encode_key(OTHER_KEY) in listed
        assert "2/2" in listed.replace("[", "").replace("]", ""), listed
        answers = await node.driver.operate_on_keys(KeyOperation.INSTALL, KEY)
        assert {name: one.succeeded for name, one in answers.items()} == {"ours": True, "s1": True}
        answers = await node.driver.operate_on_keys(KeyOperation.LIST)
        assert {frozenset(one.keys) for one in answers.values()} == {frozenset((encode_key(KEY), encode_key(OTHER_KEY)))}
        ended = trio.current_time() + 3.0
        while trio.current_time() < ended:
            assert set(await agent.members()) == {"s1", "ours"}
            await trio.sleep(0.3)
        assert set(wrong.driver.members) == {"wrong"}
        assert set(plain.driver.members) == {"plain"}
        assert node.status("s1") is GossipStatus.ALIVE


async def test_udp_cut_off(tmp_path: Path) -> None:
    """Our packets go nowhere and theirs are not read: TCP alone keeps both alive."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        await agent.wait_status("ours", "alive")
        await node.wait_status("s1", GossipStatus.ALIVE)
        node.datagrams.loss_chance = 1.0
        ended = trio.current_time() + STEADY_SECONDS
        while trio.current_time() < ended:
            assert (await agent.members())["ours"]["status"] == "alive"
            assert node.status("s1") is GossipStatus.ALIVE
            await trio.sleep(0.5)
        assert node.driver.statistics()["probes saved by streams"] >= 3


async def test_lan_profile(tmp_path: Path) -> None:
    """The default profile of both: together in no time, and a kill is noticed within its bound."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", profile="lan")
        node = await place.node("ours", agent.address, settings=default(GossipSettings, swim=LAN))
        assert await agent.wait_status("ours", "alive") < 2.0
        agent.process.send_signal(signal.SIGKILL)
        took = await node.wait_status("s1", GossipStatus.FAILED, 12.0)
        assert took > 4.0
