"""`open_node`: a node from the first file that it opens to the last that it closes; `Node`: what one does with it meanwhile."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager

import trio

from trio_eventlog import part_settings
from trio_eventlog.agent.assembly import Assembled, assemble
from trio_eventlog.agent.identity import gossip_address
from trio_eventlog.agent.parts import GossipSocket, Opened
from trio_eventlog.agent.status import NO_GOSSIP
from trio_eventlog.agent.surroundings import Surroundings
from trio_eventlog.budgets import BudgetUse
from trio_eventlog.errors import DataDirectoryError
from trio_eventlog.ids import NO_CLUSTER, new_node_id
from trio_eventlog.net.port import open_port
from trio_eventlog.node.disk_space import DiskSpace
from trio_eventlog.node.gossip_keys import KeyFile
from trio_eventlog.own_run import OwnRun, belongs_to_run, check_is_in_trio
from trio_eventlog.records import Acks, Record
from trio_eventlog.service.membership_changes import MembershipReceiver
from trio_eventlog.service.node_event_log import NodeEventLog
from trio_eventlog.service.values import ClusterView, NodeStatus, ProduceResult
from trio_eventlog.settings import NodeSettings
from trio_eventlog.storage.data_directory import DataDirectory
from trio_eventlog.storage.lives import begin_life
from trio_eventlog.storage.patient_disk import PatientDisk
from trio_eventlog.storage.real_disk import RealDisk

logger = logging.getLogger(__name__)

CANCELLED_STOP_SECONDS_MAX = 1.0
"""How long a stop may take when the embedding block was left by an exception."""


@belongs_to_run
class Node:
    """A running node, as an embedding application and the daemon see it. Made by `open_node`.

    Attributes:
        node_id: made at first start, kept for ever.
        name: for people.
        listening_on: the bound "host:port", with the real port when 0 was asked for.
        address: the "host:port" that others dial.
        broker: topics and partitions of this very node.
        descriptors: how the descriptors of the process are divided.
        parts: for tests and tools; without any promise.
    """

    def __init__(self, assembled: Assembled) -> None:
        self._run = OwnRun()
        self.parts = assembled.parts
        self._readiness = assembled.readiness
        self._answers = assembled.answers
        self.node_id = self.parts.identity.node_id
        self.name = self.parts.identity.name
        self.listening_on = self.parts.identity.listening_on
        self.address = self.parts.identity.address
        self.broker = self.parts.broker
        self.descriptors = self.parts.descriptors
        self._application = part_settings.application(self.parts.settings)
        self._event_log = self.parts.event_log

    async def wait_ready(self) -> None:
        """Until the node belongs to a cluster and knows who leads its catalog."""
        await self.parts.milestones.ready.wait()

    async def wait_removed(self) -> None:
        """Until the cluster has removed this node, for ever: the program that runs the node should end it then."""
        await self.parts.milestones.removed.wait()

    def unready_because(self) -> str:
        """Why this node should be given no work just now; "" when it should."""
        return self._readiness.unready_because()

    async def produce(
        self, topic: str, records: Sequence[Record], *, partition: int | None = None, acks: Acks = Acks.QUORUM
    ) -> ProduceResult:
        """Append `records` as one batch to one partition and wait for the acknowledgement, wherever the partition's leader is.

        Raises:
            EventLogError: as a remote client would see it.
        """
        return await self._event_log.produce(topic, records, partition=partition, acks=acks)

    def client(self) -> NodeEventLog:
        """The event log, with everything that a `Client` offers, and no network between it and this node.

        It ends with the node: calls that are open then fail, or go on at another node as far as that is possible.
        """
        return self._event_log

    def membership_changes(self, changes_max: int | None = None) -> AbstractContextManager[MembershipReceiver]:
        """What happens to other members from the beginning of the block on: `with node.membership_changes() as changes`.

        Args:
            changes_max: how many wait for a slow reader before further ones are dropped, which the reader is told
                (`MembershipReceiver`).
        """
        kept = self._application.membership_changes_max if changes_max is None else changes_max
        return self.parts.membership_changes.reading(kept)

    def reload_certificates(self) -> None:
        """Read certificate, key and authority again, and the peer secret; connections that are open stay as they are.

        Raises:
            SettingsError: the files cannot be used; those read before stay in use.
        """
        self.parts.credentials.reload()

    def status(self, catalog_only: bool = False) -> NodeStatus:
        """This node as `trio-eventlog status` shows it."""
        return self._answers.status(catalog_only)

    def budgets(self) -> list[BudgetUse]:
        """What this node may use at most, and what it uses now."""
        return self._answers.budgets()

    def servers(self) -> ClusterView:
        """The cluster as clients should see it."""
        return self._answers.servers()

    def relieve(self) -> None:
        """Give up connections that are worth least: something more important needs their descriptors."""
        self.parts.mux.relieve()


@asynccontextmanager
async def open_node(settings: NodeSettings, surroundings: Surroundings | None = None) -> AsyncIterator[Node]:
    """A node for the length of the block: listening when the block begins, stopped gracefully when it ends.

    No signal handlers, no logging set-up, no global state: several nodes live in one process.

    Raises:
        WrongRun: this is no task of Trio.
        EventLogError: settings, data directory, port or certificates cannot be used; the text says which and what to do.
        A failure of the node while it runs cancels the block and is raised from it.
    """
    check_is_in_trio()
    surroundings = surroundings or Surroundings()
    bare_disk = surroundings.disk if surroundings.disk is not None else RealDisk(trio.CapacityLimiter(settings.disk_threads))
    disk = PatientDisk(bare_disk, part_settings.patience(settings))
    async with DataDirectory.open(
        disk,
        settings.data_dir,
        new_node_id=lambda: new_node_id(surroundings.rng),
        now_seconds=lambda: surroundings.now_ns() / 1e9,
    ) as directory:
        _check_cluster_name(directory, settings)
        disk_space = DiskSpace(disk, settings.data_dir, part_settings.disk_space(settings))
        await disk_space.begin()
        keys = await KeyFile.open(disk, settings.gossip_key_file, surroundings.rng) if settings.gossip_key_file else None
        gossips = keys is not None or not settings.has_tls
        if not gossips:
            logger.warning(NO_GOSSIP)
        async with open_port(settings.listen, surroundings.network, surroundings.datagrams if gossips else None) as port:
            gossip = None
            if port.datagrams is not None:
                address = await gossip_address(settings, port, surroundings)
                gossip = GossipSocket(datagrams=port.datagrams, address=address, keys=keys)
            lives = await begin_life(directory, surroundings.rng.getrandbits(64))
            assembled = assemble(
                Opened(
                    settings=settings,
                    surroundings=surroundings,
                    directory=directory,
                    port=port,
                    gossip=gossip,
                    lives=lives,
                    disk_space=disk_space,
                )
            )
            node, life = Node(assembled), assembled.life
            disk.relieve = node.relieve
            async with trio.open_nursery() as nursery:
                await nursery.start(life.run)
                is_orderly = False
                try:
                    yield node
                    is_orderly = True
                finally:
                    with trio.CancelScope(shield=True):
                        await life.stop(settings.shutdown_timeout_seconds if is_orderly else CANCELLED_STOP_SECONDS_MAX)
            await life.write_orderly_end()


async def run_node(settings: NodeSettings, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
    """`open_node` as a task: runs until cancelled, then stops gracefully."""
    async with open_node(settings) as node:
        task_status.started(node)
        await trio.sleep_forever()


def _check_cluster_name(directory: DataDirectory, settings: NodeSettings) -> None:
    if directory.cluster_id != NO_CLUSTER and directory.cluster_name != settings.cluster_name:
        raise DataDirectoryError(
            f"{settings.data_dir}: holds data of the cluster named {directory.cluster_name!r}, and cluster_name is"
            f" {settings.cluster_name!r}. Use the directory of that cluster, or set the name that belongs to this one."
        )
