"""`gossip.wire.Wire` over the codecs of memberlist and Serf."""

from collections.abc import Mapping

from trio_eventlog.codec import memberlist, serf
from trio_eventlog.gossip.messages import ConflictAnswer, KeyAnswer, Message, SerfMessage


class GossipWire:
    """Has no state."""

    def encode(self, message: Message) -> bytes:
        """See `gossip.wire.Wire`, here and below."""
        return memberlist.encode_gossip_message(message)

    def encode_body(self, message: SerfMessage) -> bytes:
        return serf.encode_serf(message)

    def encode_tags(self, tags: Mapping[str, str]) -> bytes:
        return serf.encode_tags(tags)

    def decode_tags(self, meta: bytes) -> dict[str, str]:
        return serf.decode_tags(meta)

    def encode_key_request(self, key: bytes) -> bytes:
        return serf.encode_key_request(key)

    def decode_key_request(self, payload: bytes) -> bytes:
        return serf.decode_key_request(payload)

    def encode_key_answer(self, answer: KeyAnswer) -> bytes:
        return serf.encode_key_answer(answer)

    def encode_conflict_answer(self, answer: ConflictAnswer | None) -> bytes:
        return serf.encode_conflict_answer(answer)
