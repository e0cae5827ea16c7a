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
    """

    transfers_served_max: int
    transfers_received_max: int
    transfer_bytes_per_second: int
    piece_bytes_max: int
    transfer_silence_seconds: float

    def __attrs_post_init__(self) -> None:
        for name in ("transfers_served_max", "transfers_received_max", "piece_bytes_max"):
            if getattr(self, name) < 1:
                raise SettingsError(f"transfer setting {name} must be at least 1, not {getattr(self, name)}")
        if self.piece_bytes_max > PIECE_DATA_BYTES_MAX:
            raise SettingsError(f"transfer setting piece_bytes_max must be at most {PIECE_DATA_BYTES_MAX}")
        if self.transfer_bytes_per_second < 0:
            raise SettingsError("transfer setting transfer_bytes_per_second must not be below 0")
        if not self.transfer_silence_seconds > 0:
            raise SettingsError("transfer setting transfer_silence_seconds must be above 0")

    @property
    def piece_bytes(self) -> int:
        """Bytes of each piece: with a slow pace small ones, so that all transfers together stay well below the silence allowed."""
        rate = self.transfer_bytes_per_second
        if not rate:
            return self.piece_bytes_max
        return max(1, min(self.piece_bytes_max, int(rate * self.transfer_silence_seconds / (4 * self.transfers_served_max))))
