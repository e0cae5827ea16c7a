"""Searches for log lines, from any node."""

from trio_eventlog.client.calls import Calls
from trio_eventlog.grpc.logs import log_page, search_message
from trio_eventlog.grpc.methods import SEARCH_LOGS
from trio_eventlog.search.values import ALL_TIME, EVERY_LINE, LogCounting, LogQuery
from trio_eventlog.service.log_requests import LOGS_TOPIC, PAGE_LINES, LogPage, SearchRequest, count_request, search_request
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller


class LogCalls:
    """A `LogSource`: that of a client."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def search(
        self,
        query: LogQuery = EVERY_LINE,
        *,
        after: str = "",
        limit: int = PAGE_LINES,
        oldest_first: bool = False,
        topic: str = LOGS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> LogPage:
        """See `LogSource.search`."""
        return await self._page(search_request(query, after, limit, oldest_first, topic), caller)

    async def count(
        self,
        query: LogQuery = EVERY_LINE,
        counting: LogCounting = ALL_TIME,
        *,
        after: str = "",
        topic: str = LOGS_TOPIC,
        caller: Caller = NOBODY_IN_PARTICULAR,
    ) -> LogPage:
        """See `LogSource.count`."""
        return await self._page(count_request(query, counting, after, topic), caller)

    async def _page(self, request: SearchRequest, caller: Caller) -> LogPage:
        return log_page(await self._calls.call(SEARCH_LOGS, search_message(request), self._calls.routing.addresses, caller=caller))
