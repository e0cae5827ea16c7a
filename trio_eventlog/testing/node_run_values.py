"""Names and limits of a node simulation, and the values that its parts share."""

from typing import Any

import attrs

from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.rpc import methods_of
from trio_eventlog.testing.nemesis_ledger import FaultParameters
from trio_eventlog.v1 import admin_pb2, event_log_pb2

TOPIC = "t"
KEYED = "k"
"""A topic whose records have keys: each is in its key's partition, and who consumes all partitions sees all of them."""
KEYED_RECORDS_MAX = 200
LAST = "the last"
"""The client that appends when all has healed."""
CHAOS_SECONDS = 60.0
BATCHES_MAX = 300
"""Of all producers together."""
RUN_SECONDS_MAX = CHAOS_SECONDS + 180.0
"""A run that is not over by then has a call that nobody answers."""
NEW_FRAME_KIND = 200
NEW_FRAMES_SECONDS = 1.0
LIVENESS_SECONDS_MAX = 30.0
"""After everything has healed: until a leader is there, every client's last call is answered and all replicas are equal."""
LOOKUPS = 20
"""Of single offsets, on each node at the end."""
ADMIN = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])
EVENT_LOG = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])


CLIENT = ClientSettings(
    attempt_timeout_seconds=1.0,
    request_timeout_seconds=20.0,
    keepalive_seconds=1.0,
    keepalive_timeout_seconds=1.0,
    # Shorter than the patience of this run: a stream may hang between two nodes, of which its client cannot know.
    consumer_idle_seconds=5.0,
)


@attrs.frozen(slots=True, kw_only=True)
class RunParameters:
    """The shape of one run.

    Attributes:
        nodes: that begin the cluster.
        spares: that join it later. With any, nodes are drained and removed too, and come back with empty disks as new ones.
        drift: by how much a node's ticks are longer or shorter than another's, at most.
        partitions, replicas: of the topic; 0 replicas: every voter.
        keyed_partitions: of a topic of keyed records, whose clients name one node each; 0: there is none.
        producers: clients that append, each one batch after the other.
        plain_producers: the same without our client: one node after the other is asked until one answers.
        simple_producers: the same without a producer id: each batch is sent once, with any acks.
        consumers, readers: clients that follow the log, and that read its end linearizably, and any part of it.
        removals: how likely it is, each few seconds, that the beginning of the topic is removed; 0: it begins at 0 for ever.
        falls_behind: nodes stay away until they have to fetch files, and crash while they do.
        reads_own: how likely a producer, told that its batch is in the log, at once reads the end.
        batch_records_max, value_bytes_max: of each batch.
        pause_seconds_max: of a producer between two batches.
        settings: of the nodes: small limits make rare paths common.
        faults: of the nemesis.
    """

    nodes: int
    spares: int
    drift: float
    partitions: int
    replicas: int
    keyed_partitions: int
    producers: int
    plain_producers: int
    simple_producers: int
    removals: float
    falls_behind: bool
    reads_own: float
    consumers: int
    readers: int
    batch_records_max: int
    value_bytes_max: int
    pause_seconds_max: float
    settings: dict[str, Any]
    faults: FaultParameters
