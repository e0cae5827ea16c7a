"""The limits of one log."""

import attrs

from trio_eventlog.errors import SettingsError


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class LogSettings:
    """Limits of one log.

    Attributes:
        segment_bytes: roll when the next frames would make the segment longer. A larger frame gets a segment of its own.
        preallocate_bytes: the active segment is made longer by its own size, at most by this. 0: not at all; each append
            changes the size of the file then, and a full disk is a failed write.
        index_interval_bytes: the sparse index lists one entry for at least this many bytes of frames.
        index_entries_max: roll when the sparse index of the segment is full.
        tail_cache_bytes: the newest frames kept in memory; frames not yet durable are kept whatever they take.
    """

    segment_bytes: int
    preallocate_bytes: int
    index_interval_bytes: int
    index_entries_max: int
    tail_cache_bytes: int

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            least = 0 if field.name in {"preallocate_bytes", "tail_cache_bytes"} else 1
            if getattr(self, field.name) < least:
                raise SettingsError(f"{field.name} is {getattr(self, field.name)}; it must be at least {least}")
