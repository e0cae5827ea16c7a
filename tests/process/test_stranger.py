"""Real daemons, and somebody who lies to them in every protocol; by the hour as `trio_eventlog.testing.stranger` says."""

from pathlib import Path

import pytest
import trio
from authority import Authority
from daemons import DaemonCluster, watched

from trio_eventlog.net.tls import TlsSettings
from trio_eventlog.testing.stranger import Bounds, Files, lie

pytestmark = pytest.mark.process

SECONDS = 10.0
BUSY_MACHINE = Bounds(p99_seconds=5.0)
"""The machines of CI are shared; the bound of the product is the default, for runs by command."""


def files_of(settings: TlsSettings) -> Files:
    return Files(authority=settings.authority, certificate=settings.certificate, key=settings.key)


@pytest.mark.parametrize("protection", ["secret", pytest.param("hosts' certificates", marks=pytest.mark.slow)])
def test_a_stranger_lies_to_a_cluster(protection: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In plaintext with a secret, and under TLS as it is by default. Terms stay, and so do the records."""
    files = Files()
    if protection == "secret":
        (tmp_path / "secret").write_bytes(b"what only the nodes know")
        (tmp_path / "secret").chmod(0o600)
        flags = ["--peer-secret-file", str(tmp_path / "secret")]
    else:
        authority = Authority(tmp_path / "ca")
        node = authority.issue("127.0.0.1")
        files = files_of(authority.issue("client.example"))
        flags = ["--tls-cert", node.certificate, "--tls-key", node.key, "--tls-ca", node.authority, "--tls-require-client-cert"]
    cluster = DaemonCluster(tmp_path, *flags)
    with watched(request.node, cluster.nodes):
        cluster.start()
        pids = [node.pid for node in cluster.nodes]

        async def run() -> None:
            report = await lie(
                cluster.addresses, SECONDS, seed=1, pids=pids, stranger_files=files, witness_files=files, bounds=BUSY_MACHINE
            )
            assert not report.faults, str(report)
            assert report.produces > 10
            assert len(report.lies) == 11

        trio.run(run)
        assert cluster.alive() == [0, 1, 2]
        for daemon in cluster.nodes:
            assert "Traceback" not in daemon.log()
