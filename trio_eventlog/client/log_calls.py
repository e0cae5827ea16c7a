"""Searches for log lines, from any node."""

from trio_eventlog.client.calls import Calls
from trio_eventlog.grpc.logs import log_page, search_message
from trio_eventlog.grpc.methods import SEARCH_LOGS
from trio_eventlog.service.log_requests import LogPage, SearchRequest
from trio_eventlog.service.log_source import LogSource
from trio_eventlog.service.values import Caller


def log_source(calls: Calls) -> LogSource:
    """That of a client."""

    async def page(request: SearchRequest, caller: Caller) -> LogPage:
        return log_page(await calls.call(SEARCH_LOGS, search_message(request), calls.routing.addresses, caller=caller))

    return LogSource(page)
