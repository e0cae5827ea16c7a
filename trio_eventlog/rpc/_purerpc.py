"""The one place that imports purerpc and h2, with what must be done before.

purerpc 0.8 was written for h2 3; on the 4 line one event class has lost its old name.
"""

import h2.events
import hyperframe.exceptions

if not hasattr(h2.events, "PingAcknowledged"):
    h2.events.PingAcknowledged = h2.events.PingAckReceived

from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.exceptions import FlowControlError, H2Error
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamInputs, StreamState
from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable
from hyperframe.frame import Frame
from purerpc.grpclib.events import (
    MessageReceived,
    RequestEnded,
    RequestReceived,
    ResponseEnded,
    ResponseReceived,
    WindowUpdated,
)
from purerpc.grpclib.status import Status, StatusCode

HyperframeError: type[Exception] = getattr(hyperframe.exceptions, "HyperframeError", ValueError)
"""Whatever hyperframe raises for a body it cannot read; the 5 line derives its errors from ValueError."""

__all__ = [
    "AllowedStreamIDs",
    "ConnectionInputs",
    "ConnectionState",
    "ErrorCodes",
    "FlowControlError",
    "Frame",
    "H2Configuration",
    "H2Connection",
    "H2ConnectionStateMachine",
    "H2Error",
    "H2Stream",
    "HPACKError",
    "HeaderTable",
    "HyperframeError",
    "MessageReceived",
    "RequestEnded",
    "RequestReceived",
    "ResponseEnded",
    "ResponseReceived",
    "SettingCodes",
    "Settings",
    "Status",
    "StatusCode",
    "StreamInputs",
    "StreamState",
    "WindowUpdated",
    "decode_huffman",
]
