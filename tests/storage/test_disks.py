"""The conformance suite of the disk on the real one and on the simulated one."""

import random
from pathlib import Path

import pytest

from trio_eventlog.storage import real_disk
from trio_eventlog.storage.real_disk import RealDisk
from trio_eventlog.testing.check_disk import check_disk
from trio_eventlog.testing.disk import SimDisk


async def test_real_disk_conforms(tmp_path: Path) -> None:
    """The disk of the machine."""
    await check_disk(RealDisk(), str(tmp_path / "conformance"))


async def test_real_disk_conforms_with_zeros(tmp_path: Path) -> None:
    """Preallocation that writes zeros makes no difference to what is read."""
    await check_disk(RealDisk(fills_with_zeros=True), str(tmp_path / "conformance"))


async def test_real_disk_conforms_without_nowait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without RWF_NOWAIT reads by threads."""
    monkeypatch.setattr(real_disk, "_RWF_NOWAIT", 0)
    await check_disk(RealDisk(), str(tmp_path / "conformance"))


async def test_sim_disk_conforms() -> None:
    """The simulated disk."""
    await check_disk(SimDisk(random.Random(1)), "/data/conformance")


async def test_sim_disk_conforms_to_relative_paths() -> None:
    """The simulated disk with a path that does not begin at the root."""
    await check_disk(SimDisk(random.Random(1)), "data")
