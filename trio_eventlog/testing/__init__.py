"""A cluster inside a test: real nodes, simulated network and disks, virtual time, one seed. See docs/testing-your-application.md.

    async def story(cluster):
        async with cluster.client() as client:
            await client.produce("orders", b"...")
            cluster.crash(await cluster.wait_leader("orders"))
            await client.produce("orders", b"...")

    Cluster(3, seed=7).run(story)                        # or with pytest: the fixture `eventlog_cluster`

    async def main():                                    # or as a part of a Trio program of your own
        async with Cluster(3, seed=7) as cluster:
            await story(cluster)

    run(main, seed=7)

Nothing of the product imports this package.
"""

from trio_eventlog.testing.application import AppFault, AppFaultKind, app_faults
from trio_eventlog.testing.checkers import Interval, Model, check_log, linearizable, log_linearizable
from trio_eventlog.testing.cluster import Cluster
from trio_eventlog.testing.determinism import Trace, derive, run
from trio_eventlog.testing.disk import CrashMode, SimDisk
from trio_eventlog.testing.fault_script import (
    Crash,
    Fault,
    Isolate,
    OneWayCut,
    Partition,
    Pause,
    SlowDisk,
    fault_scripts,
    run_script,
)
from trio_eventlog.testing.history import History, Outcome
from trio_eventlog.testing.machines import NodeFailed
from trio_eventlog.testing.network import SimHost, SimNetwork, SimNetworkSettings
from trio_eventlog.testing.streams import Retransmission
from trio_eventlog.testing.weather import Weather

__all__ = [
    "AppFault",
    "AppFaultKind",
    "Cluster",
    "Crash",
    "CrashMode",
    "Fault",
    "History",
    "Interval",
    "Isolate",
    "Model",
    "NodeFailed",
    "OneWayCut",
    "Outcome",
    "Partition",
    "Pause",
    "Retransmission",
    "SimDisk",
    "SimHost",
    "SimNetwork",
    "SimNetworkSettings",
    "SlowDisk",
    "Trace",
    "Weather",
    "app_faults",
    "check_log",
    "derive",
    "fault_scripts",
    "linearizable",
    "log_linearizable",
    "run",
    "run_script",
]
