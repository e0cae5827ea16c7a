"""The status table: every class of errors there and back."""

import pytest

from trio_eventlog import errors
from trio_eventlog.rpc._purerpc import StatusCode
from trio_eventlog.rpc.status import (
    CODE_TRAILER,
    STATUS_TABLE,
    RpcFailed,
    decode_status_text,
    encode_status_text,
    error_details,
    error_from_code,
    error_of,
    status_of,
)

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.EventLogError) and cls not in (errors.EventLogError, errors.CallUnsent)
]
"""Those that a node answers with. That a call was never sent is known on the side that made it alone."""

EXAMPLES = {
    errors.NotLeader: {"leader_id": 2**64 - 1, "leader_address": "[::1]:8400"},
    errors.OffsetOutOfRange: {"log_start_offset": 17, "high_watermark": 2**63},
    errors.TopicNotFound: {"catalog_index": 2**64 - 1},
    errors.TopicRecreated: {"catalog_index": 3},
    errors.BatchTooLarge: {"limit_bytes": 4096},
    errors.WrongExpectedVersion: {"actual_version": 12, "expected_version": "11"},
    errors.AggregateClosed: {"actual_version": 3},
    errors.OutOfOrderSequence: {"expected_sequence": 9},
    errors.QuotaExceeded: {"retry_after_seconds": 1.25},
    errors.Overloaded: {"retry_after_seconds": 0.001},
}
HIDDEN = {errors.DamagedData, errors.DataDirectoryError, errors.ResourceShortage, errors.StorageFailed}


def test_the_table_is_complete():
    assert set(STATUS_TABLE) == set(CLASSES)
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_comes_back_as_it_left(cls):
    """Class, text and attributes survive the trailers."""
    attributes = EXAMPLES.get(cls, {})
    error = cls("what, why, what to do", **attributes)
    own = {name for name in vars(error) if not name.startswith("_")}
    assert own == set(attributes) or cls in HIDDEN, "an example with all attributes is missing"
    status = status_of(error)
    assert status.code is not StatusCode.OK
    assert status.details[CODE_TRAILER] == cls.code
    again = error_of(status.code.value, status.message, tuple(status.details.items()))
    assert type(again) is cls
    if cls not in HIDDEN:
        assert str(again) == str(error)
        assert vars(again) == vars(error)
    # And through the error message of a stream.
    assert type(error_from_code(cls.code, "text", error_details(error))) is cls


@pytest.mark.parametrize("cls", sorted(HIDDEN, key=lambda cls: cls.code))
def test_what_is_the_nodes_own_stays_there(cls):
    status = status_of(cls("/var/lib/eventlog/00001.log is damaged"))
    assert "/var" not in status.message
    assert "/var" not in str(status.details)


def test_a_subclass_is_its_nearest_class():
    class Special(errors.TopicNotFound):
        pass

    assert status_of(Special("x")).code is StatusCode.NOT_FOUND


def test_the_base_class_is_internal():
    status = status_of(errors.EventLogError("x"))
    assert (status.code, status.details[CODE_TRAILER]) == (StatusCode.INTERNAL, "INTERNAL")


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (3, errors.InvalidArgument),
        (7, errors.PermissionDenied),
        (14, errors.Unavailable),
        (16, errors.Unauthenticated),
        (12, RpcFailed),
        (99, RpcFailed),
    ],
)
def test_statuses_without_a_code(status, cls):
    error = error_of(status, "text", ())
    assert type(error) is cls
    if cls is RpcFailed:
        assert error.status is (StatusCode.UNIMPLEMENTED if status == 12 else StatusCode.UNKNOWN)


def test_unknown_codes_and_malformed_attributes_do_not_hurt():
    assert type(error_of(14, "", ((CODE_TRAILER, "FROM_THE_FUTURE"),))) is errors.Unavailable
    error = error_of(9, "m", ((CODE_TRAILER, "NOT_LEADER"), ("leader-id", "many"), ("leader-address", "a:1")))
    assert (error.leader_id, error.leader_address) == (0, "a:1")


@pytest.mark.parametrize("text", ["", "plain text, with ~ and \\", "100 %", "zwölf\n日本", "%41", "a" * 2048])
def test_messages_survive_percent_encoding(text):
    encoded = encode_status_text(text)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert decode_status_text(encoded) == text


def test_malformed_percent_encoding_is_shown_as_it_came():
    assert decode_status_text("50%") == "50%"
    assert decode_status_text("%zz") == "%zz"
    assert decode_status_text("%ff") == "\ufffd"
