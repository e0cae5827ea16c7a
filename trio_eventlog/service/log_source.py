"""Log lines as they are searched, whoever asks: `EventLog.logs`."""

from collections.abc import Awaitable, Callable

from trio_eventlog.search.values import ALL_TIME, EVERY_LINE, LogCounting, LogQuery
from trio_eventlog.service.log_requests import LOGS_TOPIC, PAGE_LINES, LogPage, SearchRequest, count_request, search_request
from trio_eventlog.service.values import NOBODY_IN_PARTICULAR, Caller


class LogSource:
    """Searches topics of log lines.

    Args:
        page: gives the page that a request asks for: on a node, or from one.
    """

    def __init__(self, page: Callable[[SearchRequest, Caller], Awaitable[LogPage]]) -> None:
        self._page = page

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
        """One page of the lines that fit, the newest first.

        A page ends when it is full, or when it has looked through some tens of megabytes: it may be empty and not the last. What
        the nodes have that are asked is searched: a line that was acknowledged just now may be missing.

        Args:
            after: `next` of an earlier page of the same search.
            limit: most lines; the nodes' limits apply too.

        Raises:
            InvalidArgument: the query cannot be, or the node has no engine for regular expressions.
            TopicNotFound: there is no such topic.
            Overloaded: too many searches run.
        """
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
        """As `search`, a page with the number of lines that fit and no lines, the newest counted first. Numbers of several pages
        add up."""
        return await self._page(count_request(query, counting, after, topic), caller)
