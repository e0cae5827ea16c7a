"""The daemons and the foreign client of tests/process, for tests with other programs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "process"))

import foreign
from daemons import ROOT, Daemon
from foreign import ForeignClient, Protocol


@pytest.fixture(scope="session")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """What a stranger makes of proto/."""
    return Protocol(foreign.compile_protocol(ROOT, tmp_path_factory.mktemp("protocol")))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One node that makes topics on first use."""
    daemon = Daemon(tmp_path_factory.mktemp("node"), "--listen", "127.0.0.1:0")
    try:
        yield daemon.start()
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log()
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def client(daemon: Daemon, protocol: Protocol) -> Iterator[ForeignClient]:
    client = ForeignClient(protocol, [daemon.address])
    yield client
    client.close()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)[:200]
