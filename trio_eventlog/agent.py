"""A whole node, put together: the one place that knows every part.

Started inside out, so that "started" means "listening and able to work"; stopped outside in, so that nobody is cut off who could
have been served (docs/design/architecture.md has the picture).
"""

import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import attrs
import trio

from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.peer_frame import FrameKind, Hello, encode_frame
from trio_eventlog.codec.raft_message import decode_append, decode_message, encode_append_head, encode_message
from trio_eventlog.errors import CodecError, DataDirectoryError, SettingsError
from trio_eventlog.http.server import health_handler, serve_http
from trio_eventlog.ids import NO_CLUSTER, ClusterId, GroupId, NodeId, format_id, new_node_id
from trio_eventlog.net.discovery import (
    Bootstrap,
    DiscoveryEvent,
    DiscoverySettings,
    Join,
    MemberAppeared,
    MemberChanged,
    Refuse,
    StaticDiscovery,
)
from trio_eventlog.net.links import Lane, LinkSettings
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.network import Network
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.net.tls import FileTls, TlsSettings, TlsSource
from trio_eventlog.net.transport import LinkEvent, PeerConnected, PeerIntroduced, PeerRefused, PeerReset, Transport
