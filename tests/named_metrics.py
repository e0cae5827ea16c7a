"""Metrics that alerts and dashboards of others are written with, by the names that a scrape has them under."""

NAMED_METRICS = (
    "eventlog_wal_entries_total",
    "eventlog_wal_bytes",
    "eventlog_fsync_seconds_count",
    "eventlog_replication_lag_entries",
    "eventlog_elections_total",
    "eventlog_is_leader",
    "eventlog_term",
    "eventlog_commit_index",
    "eventlog_applied_index",
    "eventlog_high_watermark",
    "eventlog_produce_seconds_count",
    "eventlog_records_total",
    "eventlog_queue_bytes",
    "eventlog_event_loop_lag_seconds",
    "eventlog_members",
    "eventlog_disk_free_bytes",
    "ingest_requests_total",
    "storage_disk_bytes",
)
