"""What a client is set to."""

import attrs

from trio_eventlog.setting_fields import COUNT, DURATION, SIZE, TEXT, refuse, setting

KIB = 1 << 10
MIB = 1 << 20
DAY_SECONDS = 86400.0


@attrs.frozen(slots=True, kw_only=True)
class ClientSettings:
    """Settings of `open_client`. Frozen, complete, checked once: SettingsError names the setting and the value."""

    message_bytes_max: int = setting(
        SIZE,
        4 * MIB,
        "Bytes of the largest gRPC message taken or sent. Not below that of the nodes, or their answers cannot be read.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * MIB,
    )
    batch_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Bytes of the largest batch sent, after compression. Not above that of the nodes, or they refuse it.",
        group="Limits",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    unpacked_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Bytes of the largest batch after decompression when consuming; a larger one counts as corrupt. It bounds"
        " the memory that a batch can take.",
        group="Limits",
        minimum=1 * KIB,
        maximum=1024 * MIB,
    )
    request_timeout_seconds: float = setting(
        DURATION,
        30.0,
        "Seconds that a call may take, retries included, unless the caller's own deadline is earlier. Below an"
        " election (about 1 s by default), calls fail when a leader does.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    attempt_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "Seconds that one node may take to answer an attempt before another node is tried. It has to exceed the"
        " longest election, or attempts are given up that would have succeeded.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    stall_seconds: float = setting(
        DURATION,
        0.5,
        "Seconds without an answer to a batch after which the client asks other nodes for the leader. Small"
        " values cost requests while a cluster is only slow; large ones delay producing when a leader is cut off.",
        group="Timeouts and retries",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    connect_timeout_seconds: float = setting(
        DURATION,
        2.0,
        "Seconds that connecting to one node may take, TLS included.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    keepalive_seconds: float = setting(
        DURATION,
        5.0,
        "Seconds without a byte from the node after which a connection is probed by a PING.",
        group="Timeouts and retries",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    keepalive_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "Seconds without an answer to that probe after which the connection is closed, and its calls fail or are repeated.",
        group="Timeouts and retries",
        minimum=0.1,
        maximum=3600,
    )
    delivery_timeout_seconds: float = setting(
        DURATION,
        60.0,
        "Seconds for which a batch without an answer is sent again, before its producer gets OUTCOME_UNKNOWN."
        " Keep it above an outage that should be survived.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    retry_backoff_seconds_min: float = setting(
        DURATION,
        0.02,
        "Wait before the first repetition of a call. It doubles each time, with jitter.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    retry_backoff_seconds_max: float = setting(
        DURATION,
        1.0,
        "Upper bound of that wait. Large values delay calls after an outage; small ones load nodes that are short of something.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    attempts_max: int = setting(
        COUNT,
        100,
        "Number of attempts of one call, after which its last error is raised even if time is left. 1: nothing is repeated.",
        group="Timeouts and retries",
        minimum=1,
        maximum=1_000_000,
    )
    routing_refresh_seconds: float = setting(
        DURATION,
        5.0,
        "Age at which knowledge of leaders and nodes is refreshed by the next call. Errors refresh it at once, so"
        " a large value costs at most one failed attempt.",
        group="Routing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    channels_max: int = setting(
        COUNT,
        64,
        "Number of nodes to which a client keeps connections. For a further one the idle one that was used least"
        " recently is closed. Below the number of nodes, connections are opened again and again.",
        group="Routing",
        minimum=1,
        maximum=10_000,
    )
    connections_per_node_max: int = setting(
        COUNT,
        8,
        "Number of connections to one node. A further one is opened when streams have used up the calls that the"
        " node allows on one connection; then calls wait.",
        group="Routing",
        minimum=1,
        maximum=1000,
    )
    producer_linger_seconds: float = setting(
        DURATION,
        0.005,
        "Seconds for which a batching producer waits for more records before it sends a batch that is not full."
        " 0: it does not wait. Larger values make larger batches, and add to the latency of single records.",
        group="Producing",
        minimum=0,
        maximum=3600,
    )
    producer_batch_bytes: int = setting(
        SIZE,
        256 * KIB,
        "Bytes of records at which a batching producer sends a batch. 64 KiB to 256 KiB give the highest rate;"
        " large batches delay each other.",
        group="Producing",
        minimum=1,
        maximum=32 * MIB,
    )
    producer_batch_records: int = setting(
        COUNT,
        100_000,
        "Number of records at which a batching producer sends a batch.",
        group="Producing",
        minimum=1,
        maximum=1_000_000,
    )
    producer_buffer_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Bytes of batches of one partition that are queued or not acknowledged yet. Then `send` and `produce`"
        " wait for room. Too small limits the rate; it bounds memory for each partition.",
        group="Producing",
        minimum=1 * KIB,
        maximum=4096 * MIB,
    )
    producer_in_flight_batches: int = setting(
        COUNT,
        5,
        "Number of batches of one partition sent and not acknowledged yet. Not above the nodes'"
        " `producer_window_batches`, or repetitions cannot be recognised. 1 halves the rate over long round trips.",
        group="Producing",
        minimum=1,
        maximum=1000,
    )
    produce_stream_idle_seconds: float = setting(
        DURATION,
        30.0,
        "Seconds without work after which a partition's produce stream is closed. The next batch opens another,"
        " which costs a round trip.",
        group="Producing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    sender_idle_seconds: float = setting(
        DURATION,
        60.0,
        "Seconds without a batch after which the task of a partition ends, and its memory is freed, until the next batch.",
        group="Producing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    compression: str = setting(
        TEXT,
        "none",
        "How batches are compressed. It pays off where the network or the disk is slower than the processor. zstd"
        " is faster than gzip and smaller.",
        group="Producing",
        choices=("none", "zstd", "gzip"),
    )
    consumer_fetch_bytes: int = setting(
        SIZE,
        1 * MIB,
        "Bytes of batches in one answer to a consumer; one batch is always sent. Small values cost round trips, large ones memory.",
        group="Consuming",
        minimum=1,
        maximum=32 * MIB,
    )
    consumer_buffer_batches: int = setting(
        COUNT,
        16,
        "Number of batches fetched ahead of the application; each is decoded when it is due. When the buffer is"
        " full, the node stops sending. 0: none is fetched ahead.",
        group="Consuming",
        minimum=0,
        maximum=100_000,
    )
    consumer_idle_seconds: float = setting(
        DURATION,
        30.0,
        "Seconds of silence after which a consumer asks another replica: the one that it follows may be cut off."
        " Small values cost a request each time when nothing is produced.",
        group="Consuming",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    consumer_retry_seconds: float = setting(
        DURATION,
        300.0,
        "Seconds without any answer after which a consumer raises its last error. Keep it above an outage that should be survived.",
        group="Consuming",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )

    def __attrs_post_init__(self) -> None:
        if self.batch_bytes_max + 64 * KIB > self.message_bytes_max:
            raise refuse(
                "batch_bytes_max",
                self.batch_bytes_max,
                f"it does not fit message_bytes_max, {self.message_bytes_max}, less 64 KiB for what is around it",
            )
        if self.producer_batch_bytes > self.batch_bytes_max:
            raise refuse("producer_batch_bytes", self.producer_batch_bytes, f"it is above batch_bytes_max, {self.batch_bytes_max}")
        if self.retry_backoff_seconds_max < self.retry_backoff_seconds_min:
            raise refuse(
                "retry_backoff_seconds_max",
                self.retry_backoff_seconds_max,
                f"it is below retry_backoff_seconds_min, {self.retry_backoff_seconds_min}",
            )
