"""What tests of searches share."""

import attrs

from trio_eventlog.search.values import ScanRange


def where(**changes: object) -> ScanRange:
    """All of partition 3, but for `changes`."""
    everything = ScanRange(
        partition=3,
        first_offset=0,
        end_offset=1 << 60,
        is_backwards=False,
        lines_max=1000,
        lines_bytes_max=1 << 30,
        scanned_bytes_max=1 << 30,
        unpacked_bytes_max=1 << 26,
    )
    return attrs.evolve(everything, **changes)
