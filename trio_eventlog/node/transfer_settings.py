"""The limits of files that nodes fetch from each other."""

import attrs

from trio_eventlog.codec.transfer import PIECE_DATA_BYTES_MAX
from trio_eventlog.errors import SettingsError


@attrs.frozen(slots=True, kw_only=True, eq=False, repr=False)
class TransferSettings:
    """Limits of transfers of files between nodes.

    Attributes:
        transfers_served_max: number of other nodes that this one serves files to at a time; further ones get the answer "busy".
        transfers_received_max: number of groups for which this node fetches files at a time; others wait.
        transfer_bytes_per_second: bytes per second that this node serves to all others together. 0: no limit. Too small, and a new
            replica takes long to be of use; too large, and calls of clients wait while files are served.
        piece_bytes_max: most bytes in one piece. A call of a client may wait while one is read and sent.
        transfer_silence_seconds: a connection on which nothing has moved for this long is closed, by either side.
        fetch_retry_seconds_min, fetch_retry_seconds_max: the pause before all sources are asked again after a round without any
            file; doubles from one to the other, each drawn from its upper half. A follower that cannot use a snapshot waits for
            the longest before it tells the leader.
        report_seconds: the interval between two reports of a follower that fetches a snapshot to its leader.
    """

    transfers_served_max: int
    transfers_received_max: int
    transfer_bytes_per_second: int
    piece_bytes_max: int
    transfer_silence_seconds: float
    fetch_retry_seconds_min: float
    fetch_retry_seconds_max: float
    report_seconds: float

    def __attrs_post_init__(self) -> None:
        for name in ("transfers_served_max", "transfers_received_max", "piece_bytes_max"):
            if getattr(self, name) < 1:
                raise SettingsError(f"transfer setting {name} must be at least 1, not {getattr(self, name)}")
        if self.piece_bytes_max > PIECE_DATA_BYTES_MAX:
            raise SettingsError(f"transfer setting piece_bytes_max must be at most {PIECE_DATA_BYTES_MAX}")
        if self.transfer_bytes_per_second < 0:
            raise SettingsError("transfer setting transfer_bytes_per_second must not be below 0")
        for name in ("transfer_silence_seconds", "fetch_retry_seconds_min", "report_seconds"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"transfer setting {name} must be above 0, not {getattr(self, name)}")
        if self.fetch_retry_seconds_max < self.fetch_retry_seconds_min:
            raise SettingsError("transfer setting fetch_retry_seconds_max is below fetch_retry_seconds_min")

    @property
    def piece_bytes(self) -> int:
        """Bytes of each piece: with a slow pace small ones, so that all transfers together stay well below the silence allowed."""
        rate = self.transfer_bytes_per_second
        if not rate:
            return self.piece_bytes_max
        return max(1, min(self.piece_bytes_max, int(rate * self.transfer_silence_seconds / (4 * self.transfers_served_max))))
