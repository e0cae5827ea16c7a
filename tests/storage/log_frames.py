"""Entries for tests of the log."""

import random

from trio_eventlog.codec.entry import EntryFrame, EntryKind, encode_entry


def make_frames(
    count: int, *, first: int = 1, term: int = 1, offset: int = 0, payload_bytes_max: int = 200, seed: int = 0
) -> list[EntryFrame]:
    """`count` frames, some of them without records. Same arguments, same frames."""
    rng = random.Random(f"{first} {term} {offset} {seed}")
    frames = []
    for index in range(first, first + count):
        records = rng.choice((0, 1, 1, 2, 5))
        frames.append(
            encode_entry(
                EntryKind.DATA if records else EntryKind.NO_OP,
                term=term,
                index=index,
                base_offset=offset,
                record_count=records,
                first_timestamp_ns=index * 10 if records else 0,
                last_timestamp_ns=index * 10 + 5 if records else 0,
                payload=rng.randbytes(rng.randint(1, payload_bytes_max)) if records else b"",
            )
        )
        offset += records
    return frames


def following(
    frames: list[EntryFrame], count: int, *, term: int = 0, payload_bytes_max: int = 200, seed: int = 0
) -> list[EntryFrame]:
    """`count` frames that follow on `frames`."""
    if not frames:
        return make_frames(count, term=term or 1, payload_bytes_max=payload_bytes_max, seed=seed)
    last = frames[-1]
    return make_frames(
        count,
        first=last.index + 1,
        term=term or last.term,
        offset=last.end_offset,
        payload_bytes_max=payload_bytes_max,
        seed=seed,
    )


def raw(frames: list[EntryFrame]) -> list[bytes]:
    """Their bytes, for comparing."""
    return [bytes(frame.raw) for frame in frames]
