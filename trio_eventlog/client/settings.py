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
        "Largest gRPC message taken or sent. The same as the nodes'.",
        group="Limits",
        minimum=64 * KIB,
        maximum=64 * MIB,
    )
    batch_bytes_max: int = setting(
        SIZE,
        1 * MIB,
        "Largest batch sent, as packed. Not above the nodes'.",
        group="Limits",
        minimum=1 * KIB,
        maximum=32 * MIB,
    )
    unpacked_bytes_max: int = setting(
        SIZE,
        64 * MIB,
        "Largest batch unpacked when consuming; a compressed batch that is larger is refused as corrupt.",
        group="Limits",
        minimum=1 * KIB,
        maximum=1024 * MIB,
    )
    request_timeout_seconds: float = setting(
        DURATION,
        30.0,
        "How long a call may take, retries included, unless the caller's own deadline comes first.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    attempt_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "How long one node may take to answer one attempt before the next one is tried. Above the longest election.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    stall_seconds: float = setting(
        DURATION,
        0.5,
        "A batch without an answer for this long makes the client ask other nodes whether another one leads by now.",
        group="Timeouts and retries",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    connect_timeout_seconds: float = setting(
        DURATION,
        2.0,
        "How long connecting to one node may take, TLS included.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    keepalive_seconds: float = setting(
        DURATION,
        5.0,
        "A connection without a byte from the node for this long is probed.",
        group="Timeouts and retries",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    keepalive_timeout_seconds: float = setting(
        DURATION,
        5.0,
        "A probed connection is given up when nothing comes for this long.",
        group="Timeouts and retries",
        minimum=0.1,
        maximum=3600,
    )
    delivery_timeout_seconds: float = setting(
        DURATION,
        60.0,
        "How long a batch is sent again before its producer is told that its outcome is unknown.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=DAY_SECONDS,
    )
    retry_backoff_seconds_min: float = setting(
        DURATION,
        0.02,
        "Wait before the first repetition; doubles each time, with jitter.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    retry_backoff_seconds_max: float = setting(
        DURATION,
        1.0,
        "Longest wait before a repetition.",
        group="Timeouts and retries",
        minimum=0.001,
        maximum=3600,
    )
    attempts_max: int = setting(
        COUNT,
        100,
        "How many attempts a call makes before its last error is raised, when the time has not run out before.",
        group="Timeouts and retries",
        minimum=1,
        maximum=1_000_000,
    )
    routing_refresh_seconds: float = setting(
        DURATION,
        5.0,
        "Knowledge of leaders and nodes older than this is asked for again at the next call; errors refresh it at once.",
        group="Routing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    channels_max: int = setting(
        COUNT,
        64,
        "How many nodes a client keeps connections to. The least recently used idle one is closed for a new one.",
        group="Routing",
        minimum=1,
        maximum=10_000,
    )
    connections_per_node_max: int = setting(
        COUNT,
        8,
        "Connections to one node. Another is opened when streams have used up the calls that the node allows on those there are.",
        group="Routing",
        minimum=1,
        maximum=1000,
    )
    producer_linger_seconds: float = setting(
        DURATION,
        0.005,
        "How long a batching producer waits for more records before it sends a batch that is not full.",
        group="Producing",
        minimum=0,
        maximum=3600,
    )
    producer_batch_bytes: int = setting(
        SIZE,
        256 * KIB,
        "A batching producer sends a batch when its records reach this size. 64 KiB to 256 KiB carry the most per second.",
        group="Producing",
        minimum=1,
        maximum=32 * MIB,
    )
    producer_batch_records: int = setting(
        COUNT,
        100_000,
        "A batching producer sends a batch when it has this many records.",
        group="Producing",
        minimum=1,
        maximum=1_000_000,
    )
    producer_buffer_bytes: int = setting(
        SIZE,
        16 * MIB,
        "Bytes of one partition's batches that wait to be acknowledged; then `send` and `produce` wait for room.",
        group="Producing",
        minimum=1 * KIB,
        maximum=4096 * MIB,
    )
    producer_in_flight_batches: int = setting(
        COUNT,
        5,
        "Batches of one partition on their way at once. Not above the nodes' `producer_window_batches`.",
        group="Producing",
        minimum=1,
        maximum=1000,
    )
    produce_stream_idle_seconds: float = setting(
        DURATION,
        30.0,
        "An open produce stream of a partition without work is closed after this long.",
        group="Producing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    sender_idle_seconds: float = setting(
        DURATION,
        60.0,
        "A partition that nothing has been produced to for this long has no task any more, until something is.",
        group="Producing",
        minimum=0.01,
        maximum=DAY_SECONDS,
    )
    compression: str = setting(
        TEXT,
        "none",
        "How batches are packed. zstd pays off where the network is slower than the processor.",
        group="Producing",
        choices=("none", "zstd", "gzip"),
    )
    consumer_fetch_bytes: int = setting(
        SIZE,
        1 * MIB,
        "Most bytes of batches that a node puts into one answer to a consumer. At least one batch comes.",
        group="Consuming",
        minimum=1,
        maximum=32 * MIB,
    )
    consumer_buffer_batches: int = setting(
        COUNT,
        16,
        "Batches fetched ahead of the application, each decoded when it is due. When full, the node is made to wait.",
        group="Consuming",
        minimum=0,
        maximum=100_000,
    )
    consumer_idle_seconds: float = setting(
        DURATION,
        30.0,
        "A consumer that hears nothing for this long asks another replica, lest it listens to one that is cut off.",
        group="Consuming",
        minimum=0.1,
        maximum=DAY_SECONDS,
    )
    consumer_retry_seconds: float = setting(
        DURATION,
        300.0,
        "How long a consumer goes on trying without a single answer before it raises its last error.",
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
