"""Disks of a simulated cluster that are moved, copied, put back, wiped or slow."""

from trio_eventlog.testing.determinism import derive
from trio_eventlog.testing.disk import Operation, SimDisk
from trio_eventlog.testing.machines import Machines
from trio_eventlog.testing.story import Story


class DiskSwaps:
    """What an operator, or bad luck, does to disks.

    Attributes:
        copies: names of the nodes that were started from copies of others' disks.
    """

    def __init__(self, machines: Machines, story: Story) -> None:
        self._machines = machines
        self._story = story
        self.copies: list[str] = []

    def slow_disk(self, name: str, seconds: float) -> None:
        """From now on every fsync of the node takes `seconds`, in this life and the next ones."""
        self._story.note(f"slow disk {name} {seconds:g}")
        self._machines.disks[name].latency_seconds[Operation.SYNC] = seconds

    async def start_copy(self, name: str, image: SimDisk) -> str:
        """Start a process from a copy of a node's disk, on a machine of its own; it is none of `names`. Returns its name."""
        copy = f"{name}-copy-{len(self.copies) + 1}"
        self.copies.append(copy)
        self._machines.starts_of[copy] = 0
        self._machines.disks[copy] = image.image()
        await self._machines.start(copy, is_outcast=True)
        return copy

    def move_disk(self, source: str, target: str) -> None:
        """Both down: `target` has the disk of `source` from now on, as when a machine gets another address."""
        assert not self._machines.is_running(source), f"{source} is up"
        assert not self._machines.is_running(target), f"{target} is up"
        self._story.note(f"move disk {source} {target}")
        self._machines.disks[target] = self._machines.disks[source]
        self._machines.ids.pop(source, None)

    def image(self, name: str) -> SimDisk:
        """A copy of the node's disk as it is now, whether the node runs or not: for `put_disk`."""
        self._story.note(f"image {name}")
        return self._machines.disks[name].image()

    def put_disk(self, name: str, image: SimDisk) -> None:
        """A node that is down has this disk from now on: a copy of another's, or of its own as it was before."""
        assert not self._machines.is_running(name), f"{name} is up"
        self._story.note(f"put disk {name}")
        self._machines.disks[name] = image.image()

    def wipe(self, name: str) -> None:
        """A new disk for a node that is down: what starts with it is a new node."""
        assert not self._machines.is_running(name), f"{name} is up"
        self._story.note(f"wipe {name}")
        latency = self._machines.disks[name].latency_seconds
        self._machines.disks[name] = SimDisk(derive(self._machines.seed, f"disk:{name}:{self._machines.starts_of[name]}"))
        self._machines.disks[name].latency_seconds.update(latency)
