"""Fixtures of tests with real processes. Whatever was started is killed by its pid; logs are shown when a test fails."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
from daemons import ROOT, STARTED, Daemon, DaemonCluster, watched
from foreign import ForeignClient, Protocol

LOG_LINES_SHOWN = 60


def pytest_report_header(config: pytest.Config) -> str:
    made_by = "protoc, from proto/" if foreign.has_protoc() else "our generated modules (grpcio-tools is not installed)"
    return f"foreign gRPC client: grpcio with {made_by}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        for node in item.listchain():
            for daemon in node.stash.get(STARTED, []):
                report.sections.append((f"log of {daemon.home.name}", daemon.log_tail(LOG_LINES_SHOWN)))
    return report


@pytest.fixture(scope="session")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """What a stranger makes of proto/."""
    return Protocol(foreign.compile_protocol(ROOT, tmp_path_factory.mktemp("protocol")))


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[list[Daemon]]:
    """Daemons to end after the test."""
    with watched(request.node, ()) as daemons:
        yield daemons


@pytest.fixture(scope="module")
def shared_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonCluster]:
    """Three daemons for all tests of a module, with the flags in its SHARED_FLAGS."""
    cluster = DaemonCluster(tmp_path_factory.mktemp("shared"), *getattr(request.module, "SHARED_FLAGS", ()))
    with watched(request.node, cluster.nodes):
        yield cluster.start()


@pytest.fixture
def make_daemon(tmp_path: Path, started: list[Daemon]) -> Callable[..., Daemon]:
    """A daemon in a directory of its own, not started yet: `make_daemon("n0", "--flag", ...)`."""

    def make(name: str, *flags: str, **options: Any) -> Daemon:
        daemon = Daemon(tmp_path / name, *flags, **options)
        started.append(daemon)
        return daemon

    return make


@pytest.fixture
def make_cluster(tmp_path: Path, started: list[Daemon]) -> Callable[..., DaemonCluster]:
    """A cluster of three, not started yet: `make_cluster("--flag", ...)`."""

    def make(*flags: str, **options: Any) -> DaemonCluster:
        cluster = DaemonCluster(tmp_path, *flags, **options)
        started.extend(cluster.nodes)
        return cluster

    return make


@pytest.fixture
def make_client(protocol: Protocol) -> Iterator[Callable[..., ForeignClient]]:
    """A foreign client of some addresses: `make_client(cluster.addresses)`."""
    clients: list[ForeignClient] = []

    def make(addresses: list[str], **options: Any) -> ForeignClient:
        clients.append(ForeignClient(protocol, addresses, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
