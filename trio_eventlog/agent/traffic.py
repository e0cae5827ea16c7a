"""Raft messages and heartbeats of nodes, as frames on peer links."""

import logging
from collections.abc import Sequence

from trio_eventlog.agent.lives import NodeLives
from trio_eventlog.agent.parts import NodeParts
from trio_eventlog.codec.catch_up import CatchUpReport, decode_catch_up_report, encode_catch_up_report
from trio_eventlog.codec.entry import EntryFrame
from trio_eventlog.codec.peer_frame import HEARTBEATS_BODY, FrameKind, encode_frame, encode_frame_head
from trio_eventlog.codec.raft_message import decode_raft_message, encode_raft_message
from trio_eventlog.errors import CodecError
from trio_eventlog.ids import GroupId, NodeId, format_id
from trio_eventlog.net.line_budget import LineBudget
from trio_eventlog.net.links import Priority
from trio_eventlog.node.inbox import Received
from trio_eventlog.raft import Message, MessageType

logger = logging.getLogger(__name__)


class PeerTraffic:
    """Sends what replicas have for their peers, and hands on what peers send. Frames that cannot be read are dropped and logged."""

    def __init__(self, parts: NodeParts, lives: NodeLives) -> None:
        self._parts = parts
        self._lives = lives
        self._dropped_lines = LineBudget(logger, "messages that cannot be read")

    def send(self, group_id: GroupId, message: Message, frames: Sequence[EntryFrame]) -> bool:
        kind = FrameKind.APPEND if message.type is MessageType.APPEND else FrameKind.RAFT
        buffers = encode_frame(kind, group_id, encode_raft_message(message), [frame.raw for frame in frames])
        # Every APPEND keeps to one lane: one that overtakes another is refused and slows the follower down.
        return self._parts.transport.send(message.to, buffers, Priority.BULK if kind is FrameKind.APPEND else Priority.URGENT)

    def send_sleep(self, group_id: GroupId, message: Message) -> bool:
        frame = encode_frame_head(FrameKind.SLEEP, group_id, encode_raft_message(message))
        return self._parts.transport.send(message.to, frame, Priority.URGENT)

    def send_report(self, node_id: NodeId, group_id: GroupId, report: CatchUpReport) -> bool:
        frame = encode_frame_head(FrameKind.CATCH_UP, group_id, encode_catch_up_report(report))
        return self._parts.transport.send(node_id, frame, Priority.URGENT)

    def receive(self, node_id: NodeId, kind: int, group_id: GroupId, body: memoryview) -> None:
        """A frame has come on the link of `node_id`."""
        if kind == FrameKind.LIVES:
            self._lives.receive(node_id, body)
        if kind == FrameKind.HEARTBEATS and len(body) == HEARTBEATS_BODY.size:
            self._parts.liveness.heard(node_id, *HEARTBEATS_BODY.unpack(body))
            return
        if kind == FrameKind.SHORT_OF_SPACE:
            self._parts.disk_space.peer_is_short(node_id)
            return
        if kind not in (FrameKind.RAFT, FrameKind.APPEND, FrameKind.SLEEP, FrameKind.CATCH_UP):
            return
        try:
            if kind == FrameKind.CATCH_UP:
                self._parts.replicas.receive_report(group_id, node_id, decode_catch_up_report(body))
                return
            message, frames = decode_raft_message(body)
        except CodecError as error:
            self._dropped_lines.log(logging.WARNING, "a message of %s was dropped: %s", format_id(node_id), error)
            return
        if message.sender != node_id or message.to != self._parts.identity.node_id:
            logger.warning(
                "a message from %s to %s came on the link of %s: dropped",
                format_id(message.sender),
                format_id(message.to),
                format_id(node_id),
            )
            return
        self._parts.replicas.receive(group_id, Received(message, frames, kind == FrameKind.SLEEP))
