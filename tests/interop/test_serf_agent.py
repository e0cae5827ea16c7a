"""Our gossip with a real `serf agent`, in one cluster on loopback, in real time; skipped where `serf` is not installed.

Debian and its kin: `apt-get install serf`.
"""

import json
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from trio_eventlog.codec.gossip_crypto import Keyring, encode_key
from trio_eventlog.gossip.events import (
    Event,
    MemberFailed,
    MemberLeft,
    MemberStatus,
    MemberSuspected,
    QueryReceived,
    SuspicionRefuted,
    UserEventReceived,
)
from trio_eventlog.gossip.messages import Address, KeyOperation, NameFilter, TagFilter
from trio_eventlog.gossip.settings import LAN, LOCAL
from trio_eventlog.ids import NodeId
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.node.gossip_driver import GossipDriver, GossipSettings

SERF = shutil.which("serf")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.agent,
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]

WAIT_SECONDS_MAX = 20.0
STEADY_SECONDS = 10.0
(KEY, OTHER_KEY) = (bytes(range(32)), bytes(reversed(range(32))))


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    raise AssertionError("no agent speaks this")


async def until(is_true: Callable[[], object], seconds: float = WAIT_SECONDS_MAX) -> float:
    """Look at a condition of ours until it holds; how long that took."""
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not is_true():  # noqa: ASYNC110
            await trio.sleep(0.02)
    return trio.current_time() - began


@attrs.define(slots=True)
class Agent:
    """A foreign process."""

    name: str
    address: str
    rpc_address: str
    process: trio.Process
    log: Path

    async def command(self, *words: str, check: bool = True) -> str:
        """What `serf WORDS` prints against this agent."""
        assert SERF is not None
        verb, *rest = words
        command = [SERF, verb, f"-rpc-addr={self.rpc_address}", *rest]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        output = done.stdout.decode() + done.stderr.decode()
        if check:
            assert done.returncode == 0, output
        return output

    async def members(self) -> dict[str, dict[str, object]]:
        """By name: status, addr, tags, ..."""
        return {member["name"]: member for member in json.loads(await self.command("members", "-format=json"))["members"]}

    async def wait_status(self, name: str, status: str, seconds: float = WAIT_SECONDS_MAX) -> float:
        """Until the agent sees `name` so; how long that took."""
        began = trio.current_time()
        with trio.fail_after(seconds):
            while (await self.members()).get(name, {}).get("status") != status:  # noqa: ASYNC110
                await trio.sleep(0.05)
        return trio.current_time() - began

    def log_text(self) -> str:
        return self.log.read_text()


def free_ports(count: int) -> list[int]:
    """Numbers that are free for both TCP and UDP just now."""
    found: list[int] = []
    held: list[socket.socket] = []
    while len(found) < count:
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        held += [tcp, udp]
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(("127.0.0.1", tcp.getsockname()[1]))
        except OSError:
            continue
        found.append(tcp.getsockname()[1])
    for one in held:
        one.close()
    return found


class Place:
    """Where agents and nodes of one test live."""

    def __init__(self, nursery: trio.Nursery, path: Path) -> None:
        self.nursery = nursery
        self.path = path
        self.processes: list[trio.Process] = []

    async def agent(self, name: str, *options: str, profile: str = "local") -> Agent:
        """A started agent."""
        assert SERF is not None
        (port, rpc_port) = free_ports(2)
        log = self.path / f"{name}.log"
        command = [
            SERF, "agent", f"-node={name}", f"-bind=127.0.0.1:{port}", f"-rpc-addr=127.0.0.1:{rpc_port}", f"-profile={profile}",
            "-log-level=debug", "-tag=role=looker-on", *options,
        ]  # fmt: skip
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self.processes.append(process)
        agent = Agent(name, f"127.0.0.1:{port}", f"127.0.0.1:{rpc_port}", process, log)
        with trio.fail_after(WAIT_SECONDS_MAX):
            while "refused" in await agent.command("info", check=False):
                assert process.poll() is None, agent.log_text()
                await trio.sleep(0.05)
        return agent

    async def node(
        self,
        name: str,
        *seeds: str,
        keys: tuple[bytes, ...] = (),
        settings: GossipSettings | None = None,
        port: int = 0,
    ) -> "OurNode":
        """A started node of ours: driver, mux, real sockets."""
        (number,) = free_ports(1) if port == 0 else (port,)
        address = f"127.0.0.1:{number}"
        (network, packets) = (RealNetwork(), RealDatagramNetwork())
        bound = await network.listen(address)
        node = OurNode(name, address, Keyring(keys, random.SystemRandom()) if keys else None)
        node.driver = GossipDriver(
            name=name,
            address=Address(socket.inet_aton("127.0.0.1"), number),
            tags=node_tags(NodeId(7), address=address, cluster_name="interop", version="1"),
            settings=settings or GossipSettings(swim=LOCAL),
            datagrams=await packets.bind(address),
            datagram_network=packets,
            network=network,
            rng=random.SystemRandom(),
            on_event=node.events.append,
            seeds=seeds,
            keyring=node.keyring,
        )
        mux = Mux(MuxSettings(), grpc=no_handler, http=no_handler, peer=no_handler, gossip=node.driver.handle_stream)

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            with node.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(mux.serve, bound.listener)
                    await nursery.start(node.driver.run)
                    task_status.started()

        await self.nursery.start(live)
        return node


class OurNode:
    """A node of ours and what it has told."""

    def __init__(self, name: str, address: str, keyring: Keyring | None) -> None:
        self.name = name
        self.address = address
        self.keyring = keyring
        self.events: list[Event] = []
        self.scope = trio.CancelScope()
        self.driver: GossipDriver

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def status(self, name: str) -> MemberStatus | None:
        member = self.driver.members.get(name)
        return None if member is None else member.status

    async def wait_status(self, name: str, status: MemberStatus, seconds: float = WAIT_SECONDS_MAX) -> float:
        return await until(lambda: self.status(name) is status, seconds)

    def crash(self) -> None:
        """Without a word."""
        self.scope.cancel()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        found = Place(nursery, path)
        try:
            yield found
        finally:
            for process in found.processes:
                process.kill()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for process in found.processes:
                    await process.wait()


def tags_of(members: Mapping[str, Mapping[str, object]], name: str) -> object:
    return members[name]["tags"]


async def test_we_join_an_agent(tmp_path: Path) -> None:
    """Alive on both sides with the right tags within two seconds, and steadily so: never another state, no suspicion."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        assert await agent.wait_status("ours", "alive") < 2.0
        await node.wait_status("s1", MemberStatus.ALIVE)
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
            assert node.status("s1") is MemberStatus.ALIVE
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
            await node.wait_status(name, MemberStatus.ALIVE)
            await other.wait_status(name, MemberStatus.ALIVE)
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
        await node.wait_status("s1", MemberStatus.ALIVE)
        await agent.wait_status("ours", "alive")
        agent.process.send_signal(signal.SIGKILL)
        took = await node.wait_status("s1", MemberStatus.FAILED, bound_seconds(2))
        assert took > LOCAL.suspicion_multiplier * LOCAL.probe_interval_seconds
        await agent.process.wait()
        again = await place.agent("s1", f"-join={node.address}", f"-bind={agent.address}")
        assert await node.wait_status("s1", MemberStatus.ALIVE) < 5.0
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
        await node.wait_status("s1", MemberStatus.ALIVE)
        await agent.wait_status("ours", "alive")
        agent.process.send_signal(signal.SIGSTOP)
        await node.wait_status("s1", MemberStatus.FAILED, bound_seconds(2))
        agent.process.send_signal(signal.SIGCONT)
        await node.wait_status("s1", MemberStatus.ALIVE)
        assert (await agent.members())["ours"]["status"] == "alive"


async def test_leaving_both_ways(tmp_path: Path) -> None:
    """A graceful leave is seen as left by the other side, in a few seconds, never as failed."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        second = await place.agent("s2", f"-join={agent.address}")
        node = await place.node("ours", agent.address)
        stayer = await place.node("stayer", agent.address)
        for one in (node, stayer):
            await one.wait_status("s2", MemberStatus.ALIVE)
            await second.wait_status(one.name, "alive")
        await second.command("leave")
        await node.wait_status("s2", MemberStatus.LEFT)
        began = trio.current_time()
        assert await node.driver.leave()
        assert trio.current_time() - began < 5.0
        await agent.wait_status("ours", "left")
        await stayer.wait_status("ours", MemberStatus.LEFT)
        assert not stayer.of(MemberFailed)
        assert len(stayer.of(MemberLeft)) == 2


async def test_force_leave_of_a_failed_agent(tmp_path: Path) -> None:
    """From our side, seen by the other agent."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        second = await place.agent("s2", f"-join={agent.address}")
        node = await place.node("ours", agent.address)
        await node.wait_status("s2", MemberStatus.ALIVE)
        await second.wait_status("ours", "alive")
        second.process.send_signal(signal.SIGKILL)
        await node.wait_status("s2", MemberStatus.FAILED)
        await agent.wait_status("s2", "failed")
        assert await node.driver.force_leave("s2")
        await agent.wait_status("s2", "left")
        assert node.status("s2") is MemberStatus.LEFT


async def test_an_encrypted_cluster_and_key_rotation(tmp_path: Path) -> None:
    """Joined, steady, rotated by the agent's command and by ours; another key and no key stay outside."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", f"-encrypt={encode_key(KEY)}")
        node = await place.node("ours", agent.address, keys=(KEY,))
        await agent.wait_status("ours", "alive")
        await node.wait_status("s1", MemberStatus.ALIVE)
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
        assert node.status("s1") is MemberStatus.ALIVE


async def test_udp_cut_off(tmp_path: Path) -> None:
    """Our packets go nowhere and theirs are not read: TCP alone keeps both alive."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1")
        node = await place.node("ours", agent.address)
        await agent.wait_status("ours", "alive")
        await node.wait_status("s1", MemberStatus.ALIVE)
        datagrams = node.driver._datagrams
        datagrams.send_nowait = lambda data, destination: None  # type: ignore[method-assign]
        original = datagrams.receive_nowait

        def deaf() -> None:
            while original() is not None:
                pass

        datagrams.receive_nowait = deaf  # type: ignore[method-assign]
        ended = trio.current_time() + STEADY_SECONDS
        while trio.current_time() < ended:
            assert (await agent.members())["ours"]["status"] == "alive"
            assert node.status("s1") is MemberStatus.ALIVE
            await trio.sleep(0.5)
        assert node.driver.statistics()["probes saved by streams"] >= 3


async def test_lan_profile(tmp_path: Path) -> None:
    """The default profile of both: together in no time, and a kill is noticed within its bound."""
    async with opened(tmp_path) as place:
        agent = await place.agent("s1", profile="lan")
        node = await place.node("ours", agent.address, settings=GossipSettings(swim=LAN))
        assert await agent.wait_status("ours", "alive") < 2.0
        agent.process.send_signal(signal.SIGKILL)
        took = await node.wait_status("s1", MemberStatus.FAILED, 12.0)
        assert took > 4.0
