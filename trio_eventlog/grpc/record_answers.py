"""Fetched batches as a message of records, for consumers that do not take opaque batches."""

import trio

from trio_eventlog.codec.batch import TooManyRecords, unpack_message
from trio_eventlog.errors import BatchTooLarge, CodecError, DamagedData
from trio_eventlog.service.produce import RECORD_OVERHEAD_BYTES
from trio_eventlog.service.requests import Fetched
from trio_eventlog.service.settings import ServiceSettings
from trio_eventlog.v1 import event_log_pb2 as messages

SLICE_BYTES = 256 * 1024
"""Unpacked for a consumer before others have their turn; one batch always is."""
SLICE_RECORDS = 1024
"""Looked at for a consumer before others have their turn."""


async def record_answer(
    request: messages.ConsumeRequest, offset: int, fetched: Fetched, settings: ServiceSettings
) -> tuple[messages.ConsumeResponse, int, int]:
    """The answer with records from `offset` on, the offset where the next one begins, and about how many bytes the answer has.

    Others run between two batches, and between some of the records of a large one: a small batch may unpack to very many.

    Raises:
        BatchTooLarge: a batch or a record that no answer can carry.
        DamagedData: a batch cannot be taken apart.
    """
    response = messages.ConsumeResponse(
        high_watermark=fetched.high_watermark, log_start_offset=fetched.log_start_offset, group_id=fetched.group_id
    )
    room_bytes = settings.response_bytes_max
    unpacked_bytes = 0
    for batch in fetched.batches:
        if batch.base_offset + batch.record_count <= offset:
            continue
        try:
            message, message_bytes = unpack_message(batch, settings.unpacked_bytes_max, settings.batch_records_max)
        except TooManyRecords as error:
            raise BatchTooLarge(
                f"the batch at offset {batch.base_offset} of {request.topic!r}: {error}. It can be read as a whole (batches), or"
                f" passed over: go on from offset {batch.base_offset + batch.record_count}",
                limit_bytes=settings.response_bytes_max,
            ) from error
        except CodecError as error:
            raise DamagedData(f"the batch at offset {batch.base_offset} of {request.topic!r}: {error}") from error
        unpacked_bytes += message_bytes
        if unpacked_bytes > SLICE_BYTES:
            unpacked_bytes = 0
            await trio.lowlevel.checkpoint()
        for at, record in enumerate(message.records, batch.base_offset):
            if at % SLICE_RECORDS == SLICE_RECORDS - 1:
                await trio.lowlevel.checkpoint()
            if at < offset or (request.filter.key and record.key != request.filter.key):
                continue
            if request.max_records and len(response.records) == request.max_records:
                return response, at, settings.response_bytes_max - room_bytes
            record.offset = at
            # Records may take a multiple of their packed batch: the rest comes with the next answer.
            record_bytes = record.ByteSize() + RECORD_OVERHEAD_BYTES
            room_bytes -= record_bytes
            if room_bytes < 0:
                if response.records:
                    return response, at, settings.response_bytes_max
                raise BatchTooLarge(
                    f"the record at offset {at} of {request.topic!r} has {record_bytes} bytes, and an answer with records"
                    f" {settings.response_bytes_max} at most. It can be read in its batch (batches), or passed over: go on from"
                    f" offset {at + 1}",
                    limit_bytes=settings.response_bytes_max,
                )
            response.records.append(record)
    return response, fetched.next_offset, settings.response_bytes_max - room_bytes
