"""Every setting that bounds something is used by a test of the part that it bounds, or stands in a list with a reason.

That a test names a setting does not show that it goes up to the limit: that is for reviewers. But a bound that no test names is
certainly not shown to hold, and it is easy to add a setting without a test.
"""

import re
from pathlib import Path

import attrs

from trio_eventlog.client.settings import ClientSettings
from trio_eventlog.settings import NodeSettings

TESTS = Path(__file__).resolve().parents[1]
BOUND = re.compile(r"_(max|min|bytes|seconds|batches|records|messages)(_|$)")

TESTED_UNDER_ANOTHER_NAME = {
    "inbox_messages_max": "node/test_inbox.py",
    "inbox_bytes_max": "node/test_inbox.py",
    "proposals_max": "node/test_proposals.py",
    "produce_stream_requests_max": "service/test_produce_stream.py",
    "retry_backoff_seconds_min": "client/test_routing.py",
    "retry_backoff_seconds_max": "client/test_routing.py",
    "producer_linger_seconds": "client/test_batching_producer.py",
}
"""The part takes the value as an argument, and its tests give it: the setting, and the file of those tests."""
WITHOUT_A_TEST = {
    "join_refresh_seconds": "an interval: too long a wait shows only as a node that joins later",
    "scrub_bytes_per_second": "a rate: the pace itself has no limit that an answer depends on",
    "event_index_cache_bytes": "given to SQLite, which keeps it",
    "fetch_bytes_max": "the smaller of it and what a request asks for counts; tests give the request's",
    "fetch_wait_seconds_max": "the smaller of it and what a request asks for counts; tests give the request's",
    "fetch_records_max": "the smaller of it and what a request asks for counts; tests give the request's",
    "producer_batch_records": "none yet: the default of what `client.producer` takes as `batch_records`",
    "consumer_fetch_bytes": "sent with a request, and bounded by the node as that of any other client",
}
"""The setting, and why no test names it."""


def test_every_bound_has_a_test_or_a_reason() -> None:
    """And the lists name nothing that has a test by its name, or is no setting any more."""
    bounds = {
        field.name for settings in (NodeSettings, ClientSettings) for field in attrs.fields(settings) if BOUND.search(field.name)
    }
    assert len(bounds) > 90
    text = "\n".join(path.read_text() for path in sorted(TESTS.rglob("*.py")) if path.parent.name != "settings")
    used = {name for name in bounds if re.search(rf'\b{name} *=|\.{name}\b|"{name}"', text)}
    assert bounds - used == TESTED_UNDER_ANOTHER_NAME.keys() | WITHOUT_A_TEST.keys()
    assert not TESTED_UNDER_ANOTHER_NAME.keys() & WITHOUT_A_TEST.keys()


def test_the_tests_under_another_name_are_there() -> None:
    assert [file for file in TESTED_UNDER_ANOTHER_NAME.values() if not (TESTS / file).is_file()] == []
