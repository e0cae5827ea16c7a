"""Live tails: what an `EventLog` gives for ever, as server-sent events (`text/event-stream`) or as lines of JSON."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from trio_eventlog.errors import EventLogError, Overloaded
from trio_eventlog.http.negotiation import SSE_TYPE
from trio_eventlog.http.operations import Call
from trio_eventlog.http.problems import problem_of
from trio_eventlog.http.streaming import Outlet, Source, StreamAnswer, StreamForm
from trio_eventlog.records import Record
from trio_eventlog.service.receivers import RecordReceiver

RECORDS_PER_PART = 64
"""Records that are written in one piece, at most: making them is one turn of the loop."""

Show = Callable[[Record], tuple[int | str, object] | None]
"""The id of the record's event and its value as JSON; None: it is none of the stream."""


def tail_answer(
    call: Call, media_type: str, open_log: Callable[[], AbstractAsyncContextManager[RecordReceiver]], show: Show
) -> StreamAnswer:
    """A live tail of the records that `open_log` gives.

    Raises:
        Overloaded: this node has as many tails as it may have.
    """
    is_sse = media_type == SSE_TYPE
    settings = call.settings
    encode = msgspec.json.Encoder().encode

    def written(record: Record) -> bytes:
        shown = show(record)
        if shown is None:
            return b""
        if is_sse:
            return b"id: %b\ndata: %b\n\n" % (str(shown[0]).encode(), encode(shown[1]))
        return encode(shown[1]) + b"\n"

    async def source(outlet: Outlet) -> None:
        try:
            async with open_log() as receiver:
                while True:
                    records = await receiver.receive_batch()
                    begin = 0
                    while begin < len(records):
                        part = b""
                        end = min(begin + RECORDS_PER_PART, len(records))
                        while begin < end and len(part) < settings.tail_write_bytes:
                            part += written(records[begin])
                            begin += 1
                        await outlet.put(part)
        except EventLogError as error:
            await outlet.put(event_bytes("problem", problem_of(error).body(), is_sse))

    return stream_answer(call, media_type, source)


def stream_answer(call: Call, media_type: str, source: Source) -> StreamAnswer:
    """An answer that is written as `source` comes to know it. It takes the place of a live tail.

    Raises:
        Overloaded: this node has as many tails as it may have.
    """
    if not call.tails.take_nowait(1):
        raise Overloaded(f"this node has {call.tails.limit} live tails and may have no more: ask another node", 5.0)
    is_sse = media_type == SSE_TYPE
    settings = call.settings
    form = StreamForm(
        media_type=media_type,
        first=b"retry: %d\n\n" % round(settings.tail_retry_seconds * 1000) if is_sse else b"",
        heartbeat=b":\n\n" if is_sse else b"\n",
        heartbeat_seconds=settings.tail_heartbeat_seconds,
        farewell=lambda: event_bytes("moved", json.dumps({"addresses": call.node.other_addresses()}).encode(), is_sse),
        write_bytes=settings.tail_write_bytes,
    )
    return StreamAnswer(source, form, call.node.stopping, lambda: call.tails.give_back(1))


def event_bytes(name: str, data: bytes, is_sse: bool) -> bytes:
    """Something about the stream itself."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if is_sse else b'{"%b":%b}\n' % (name.encode(), data)
