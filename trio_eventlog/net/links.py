"""One outbound link: a bounded queue of two lanes, and the task that dials, greets, writes and watches."""

import enum

import attrs

from trio_eventlog.codec.peer_frame import Refused


class Lane(enum.IntEnum):
    """Whatever is queued as URGENT leaves before whatever is queued as BULK; between frames, never inside one."""

    URGENT = 0
    BULK = 1


@attrs.frozen(slots=True, kw_only=True)
class LinkSettings:
    """Limits of peer links.

    Attributes:
        queue_bytes_max: queued and not yet given to the stream, each lane apart.
        queue_sends_max: the same, counted in calls of `send`.
        write_bytes_max: one write takes no more than this, but always at least one send.
        body_bytes_max: larger frames end the link.
        receive_chunk_bytes: asked for in one read.
        connect_seconds_max: dialling, TLS included.
        hello_seconds_max: from connected to greeted.
        redial_seconds_min, redial_seconds_max: backoff doubles from one to the other; each wait is drawn from its upper half.
        ping_interval_seconds: a PING leaves each outbound link this often.
        silent_intervals_max: a link on which nothing arrives for so many ping intervals is dead.
        inbound_links_max: peers' links served at once.
    """

    queue_bytes_max: int = 16 * 1024 * 1024
    queue_sends_max: int = 4096
    write_bytes_max: int = 1024 * 1024
    body_bytes_max: int = 64 * 1024 * 1024
    receive_chunk_bytes: int = 256 * 1024
    connect_seconds_max: float = 2.0
    hello_seconds_max: float = 2.0
    redial_seconds_min: float = 0.05
    redial_seconds_max: float = 2.0
    ping_interval_seconds: float = 0.5
    silent_intervals_max: int = 6
    inbound_links_max: int = 256


@attrs.frozen(slots=True, kw_only=True)
class LinkStatistics:
    """Counters of one peer since it was set."""

    is_connected: bool
    queued_bytes: int
    sends: int
    dropped_sends: int
    sent_bytes: int
    writes: int
    received_frames: int
    received_bytes: int
    dials: int


class LinkRefused(Exception):
    """The other side, or we, refused the link: `refused` says why."""

    def __init__(self, refused: Refused, address: str) -> None:
        super().__init__(f"{address}: {refused.text}")
        self.refused = refused
        self.address = address
