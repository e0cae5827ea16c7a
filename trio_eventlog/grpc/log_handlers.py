"""Searches for log lines over gRPC: the handler of a node."""

from collections.abc import Mapping

import trio

from trio_eventlog.grpc.callers import caller_of
from trio_eventlog.grpc.logs import page_message, partition_lines_message, requested_partition_search, requested_search
from trio_eventlog.rpc import Context, Handler
from trio_eventlog.service.log_search import LogSearch
from trio_eventlog.v1 import event_log_pb2 as messages


class LogHandlers:
    """Handlers of searches.

    Args:
        ready: set when the node belongs to a cluster; calls wait until then, under their callers' deadlines.
    """

    def __init__(self, search: LogSearch, ready: trio.Event) -> None:
        self._search = search
        self._ready = ready

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the method."""
        return {"SearchLogs": self.search_logs}

    async def search_logs(self, message: messages.SearchLogsRequest, context: Context) -> messages.SearchLogsResponse:
        await self._ready.wait()
        caller = caller_of(context)
        if message.group_id:
            return partition_lines_message(await self._search.search_partition(requested_partition_search(message), caller))
        return page_message(await self._search.search(requested_search(message), caller))
