"""Searches for log lines over gRPC: messages to values and back, for nodes, clients and nodes that forward calls."""

from trio_eventlog.search.values import Counts, FoundLine, LogCounting, LogQuery
from trio_eventlog.service.log_requests import (
    LOGS_TOPIC,
    LogPage,
    PartitionLines,
    PartitionSearchRequest,
    SearchRequest,
)
from trio_eventlog.v1 import event_log_pb2 as messages

NO_LIMIT = (1 << 32) - 1


# Messages to values


def requested_search(message: messages.SearchLogsRequest) -> SearchRequest:
    return SearchRequest(
        query=_query(message.query),
        topic=message.topic or LOGS_TOPIC,
        after=message.after,
        limit=message.limit or NO_LIMIT,
        is_backwards=not message.oldest_first,
        counting=_counting(message),
    )


def requested_partition_search(message: messages.SearchLogsRequest) -> PartitionSearchRequest:
    return PartitionSearchRequest(
        query=_query(message.query),
        topic=message.topic,
        partition=message.partition,
        group_id=message.group_id,
        place=message.place,
        limit=message.limit or NO_LIMIT,
        is_backwards=not message.oldest_first,
        counting=_counting(message),
    )


def _query(message: messages.LogQuery) -> LogQuery:
    return LogQuery(
        service=message.service,
        level=message.level,
        since_ns=message.since_ns,
        until_ns=message.until_ns,
        contains=message.contains,
        regex=message.regex,
        labels=tuple(message.labels.items()),
        trace_id=message.trace_id,
    )


def _counting(message: messages.SearchLogsRequest) -> LogCounting | None:
    if not message.HasField("counting"):
        return None
    return LogCounting(step_ns=max(0, message.counting.step_ns), with_labels=message.counting.labels)


def log_page(message: messages.SearchLogsResponse) -> LogPage:
    return LogPage(
        lines=_lines(message),
        next=message.next,
        is_end=message.end,
        scanned_bytes=message.scanned_bytes,
        unreadable_batches=message.unreadable_batches,
        tail=message.tail,
        counts=_counts(message),
    )


def partition_lines(message: messages.SearchLogsResponse) -> PartitionLines:
    return PartitionLines(
        lines=_lines(message),
        first_place=message.first_place,
        next_place=message.next_place,
        is_end=message.end,
        time_ns=message.time_ns,
        scanned_bytes=message.scanned_bytes,
        unreadable_batches=message.unreadable_batches,
        counts=_counts(message),
    )


def _lines(message: messages.SearchLogsResponse) -> list[FoundLine]:
    return [
        FoundLine(value=line.value, timestamp_ns=line.timestamp_ns, partition=line.partition, offset=line.offset)
        for line in message.lines
    ]


def _counts(message: messages.SearchLogsResponse) -> Counts:
    counts = Counts()
    for count in message.counts:
        counts.add(count.bucket_ns, count.service, count.level, count.lines)
    for label in message.labels:
        counts.add_label(label.name, label.value)
    counts.is_truncated |= message.truncated
    return counts


# Values to messages


def search_message(request: SearchRequest) -> messages.SearchLogsRequest:
    message = messages.SearchLogsRequest(
        topic=request.topic,
        query=_query_message(request.query),
        after=request.after,
        limit=min(request.limit, NO_LIMIT),
        oldest_first=not request.is_backwards,
    )
    _add_counting(message, request.counting)
    return message


def partition_search_message(request: PartitionSearchRequest) -> messages.SearchLogsRequest:
    message = messages.SearchLogsRequest(
        topic=request.topic,
        query=_query_message(request.query),
        limit=min(request.limit, NO_LIMIT),
        oldest_first=not request.is_backwards,
        group_id=request.group_id,
        partition=request.partition,
        place=request.place,
    )
    _add_counting(message, request.counting)
    return message


def _query_message(query: LogQuery) -> messages.LogQuery:
    return messages.LogQuery(
        service=query.service,
        level=query.level,
        since_ns=query.since_ns,
        until_ns=query.until_ns,
        contains=query.contains,
        regex=query.regex,
        labels=dict(query.labels),
        trace_id=query.trace_id,
    )


def _add_counting(message: messages.SearchLogsRequest, counting: LogCounting | None) -> None:
    if counting is not None:
        message.counting.CopyFrom(messages.LogCounting(step_ns=counting.step_ns, labels=counting.with_labels))


def page_message(page: LogPage) -> messages.SearchLogsResponse:
    message = messages.SearchLogsResponse(
        next=page.next,
        end=page.is_end,
        scanned_bytes=page.scanned_bytes,
        unreadable_batches=page.unreadable_batches,
        tail=page.tail,
    )
    _add_found(message, page)
    return message


def partition_lines_message(found: PartitionLines) -> messages.SearchLogsResponse:
    message = messages.SearchLogsResponse(
        end=found.is_end,
        scanned_bytes=found.scanned_bytes,
        unreadable_batches=found.unreadable_batches,
        first_place=found.first_place,
        next_place=found.next_place,
        time_ns=found.time_ns,
    )
    _add_found(message, found)
    return message


def _add_found(message: messages.SearchLogsResponse, found: LogPage | PartitionLines) -> None:
    for line in found.lines:
        message.lines.add(value=line.value, timestamp_ns=line.timestamp_ns, partition=line.partition, offset=line.offset)
    for (bucket_ns, service, level), lines in found.counts.lines.items():
        message.counts.add(bucket_ns=bucket_ns, service=service, level=level, lines=lines)
    for name, values in found.counts.labels.items():
        for value in sorted(values):
            message.labels.add(name=name, value=value)
    message.truncated = found.counts.is_truncated
