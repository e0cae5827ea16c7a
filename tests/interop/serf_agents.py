"""Real `serf agent`s and nodes of ours on loopback, for the tests that bring them together."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_eventlog.cli.loopback_ports import reserve_ports
from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.gossip.events import Event, GossipStatus
from trio_eventlog.gossip.messages import Address
from trio_eventlog.gossip.settings import LOCAL
from trio_eventlog.ids import NodeId
from trio_eventlog.net.datagrams import Datagrams
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.node.gossip_driver import GossipDriver
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default

SERF = shutil.which("serf")
ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS_MAX = 20.0


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


@attrs.define(slots=True)
class Lossy:
    """Datagrams of a node whose packets, both those it sends and those it is sent, may be lost.

    In place of `tc netem`, which not every machine lets one have.
    """

    inner: Datagrams
    rng: random.Random
    loss_chance: float = 0.0

    @property
    def address(self) -> str:
        return self.inner.address

    def send_nowait(self, data: bytes, destination: Address) -> None:
        if self.rng.random() >= self.loss_chance:
            self.inner.send_nowait(data, destination)

    def receive_nowait(self) -> tuple[bytes, Address] | None:
        while (received := self.inner.receive_nowait()) is not None:
            if self.rng.random() >= self.loss_chance:
                return received
        return None

    async def wait_receivable(self) -> None:
        await self.inner.wait_receivable()

    def close(self) -> None:
        self.inner.close()


class Place:
    """Where agents and nodes of one test live."""

    def __init__(self, nursery: trio.Nursery, path: Path) -> None:
        self.nursery = nursery
        self.path = path
        self.processes: list[trio.Process] = []

    async def agent(self, name: str, *options: str, profile: str = "local") -> Agent:
        """A started agent."""
        assert SERF is not None
        (port, rpc_port) = reserve_ports(2)
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
        (number,) = reserve_ports(1) if port == 0 else (port,)
        address = f"127.0.0.1:{number}"
        (network, packets) = (RealNetwork(), RealDatagramNetwork())
        bound = await network.listen(address)
        node = OurNode(name, address, Keyring(keys, random.SystemRandom()) if keys else None)
        node.datagrams = Lossy(await packets.bind(address), random.Random(number))
        node.driver = GossipDriver(
            name=name,
            address=Address(socket.inet_aton("127.0.0.1"), number),
            tags=node_tags(NodeId(7), address=address, cluster_name="interop", version="1"),
            settings=settings or default(GossipSettings, swim=LOCAL),
            datagrams=node.datagrams,
            datagram_network=packets,
            network=network,
            rng=random.SystemRandom(),
            on_event=node.events.append,
            seeds=seeds,
            keyring=node.keyring,
        )
        mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=no_handler, gossip=node.driver.streams.handle)

        async def live(*, task_status: trio.TaskStatus[None]) -> None:
            with node.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(mux.serve, bound.listener)
                    await nursery.start(node.driver.run)
                    task_status.started()

        await self.nursery.start(live)
        return node

    async def process(self, name: str, *seeds: str, profile: str = "local") -> "OurProcess":
        """A started node of ours, for signals."""
        (port,) = reserve_ports(1)
        address = f"127.0.0.1:{port}"
        script = Path(__file__).with_name("gossip_node.py")
        command = [sys.executable, str(script), name, address, f"--profile={profile}", *(f"--join={seed}" for seed in seeds)]
        log = self.path / f"{name}.log"
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        self.processes.append(process)
        return OurProcess(name, address, process, log)


@attrs.define(slots=True)
class OurProcess:
    """A node of ours in a process of its own, and what it has printed."""

    name: str
    address: str
    process: trio.Process
    log: Path

    def events(self) -> list[tuple[str, str]]:
        """What has happened, and to whom."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [(line["event"], line["name"]) for line in lines]


class OurNode:
    """A node of ours and what it has told."""

    def __init__(self, name: str, address: str, keyring: Keyring | None) -> None:
        self.name = name
        self.address = address
        self.keyring = keyring
        self.events: list[Event] = []
        self.scope = trio.CancelScope()
        self.driver: GossipDriver
        self.datagrams: Lossy

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def status(self, name: str) -> GossipStatus | None:
        member = self.driver.members.get(name)
        return None if member is None else member.status

    async def wait_status(self, name: str, status: GossipStatus, seconds: float = WAIT_SECONDS_MAX) -> float:
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
