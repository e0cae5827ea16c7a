"""What the HTTP interface asks of whatever it stands in front of: a node, a gateway, or a test."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import trio

from trio_eventlog.http.probes import Probed
from trio_eventlog.http.readings import Reading
from trio_eventlog.service.event_log import EventLog
from trio_eventlog.service.values import NodeStatus

if TYPE_CHECKING:
    from trio_eventlog.ingest.sink import LogSink


class NodeFace(Probed, Protocol):
    """One node.

    Attributes:
        event_log: everything that clients may do.
        log_sink: where log lines go.
        stopping: set when the node begins to stop: streams without an end of their own end then.
        now_ns: the wall clock.
    """

    @property
    def event_log(self) -> EventLog: ...

    @property
    def log_sink(self) -> "LogSink": ...

    @property
    def stopping(self) -> trio.Event: ...

    @property
    def now_ns(self) -> Callable[[], int]: ...

    def metrics(self) -> Iterable[Reading]:
        """What the node measures, as it is now."""

    def status(self) -> NodeStatus:
        """The node as it sees itself."""

    def other_addresses(self) -> list[str]:
        """Where clients go that are sent elsewhere: "host:port" of the other nodes that answer."""
