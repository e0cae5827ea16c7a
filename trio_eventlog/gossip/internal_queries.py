"""The queries that members answer without their application: about name conflicts, and operations on the keyring."""

import base64
from collections import Counter

import attrs

from trio_eventlog.errors import CodecError, SettingsError
from trio_eventlog.gossip.actions import Actions
from trio_eventlog.gossip.events import KeysChanged
from trio_eventlog.gossip.member_list import MemberList
from trio_eventlog.gossip.messages import CONFLICT_QUERY, PING_QUERY, ConflictAnswer, KeyAnswer, KeyOperation, Query, QueryResponse
from trio_eventlog.gossip.settings import SerfSettings
from trio_eventlog.gossip.wire import Keys, Wire


class InternalQueries:
    """Answers them.

    Arguments:
        keys: the keyring; None when gossip is not encrypted.
    """

    def __init__(
        self,
        settings: SerfSettings,
        *,
        name: str,
        members: MemberList,
        keys: Keys | None,
        wire: Wire,
        actions: Actions,
        counts: Counter[str],
    ) -> None:
        self._settings = settings
        self._name = name
        self._members = members
        self._keys = keys
        self._wire = wire
        self._actions = actions
        self._counts = counts

    def answer(self, query: Query) -> bytes | None:
        """The payload of the answer; None: this query is not answered, or not with a payload."""
        operations = {operation.value: operation for operation in KeyOperation}
        if query.name == CONFLICT_QUERY:
            return self._conflict(query)
        if query.name in operations:
            return self._keys_answer(query, operations[query.name])
        if query.name != PING_QUERY:
            self._counts["unknown internal queries"] += 1
        return None

    def _conflict(self, query: Query) -> bytes | None:
        """Whom do you know by this name? Not a question about ourselves: the asker is the other one then."""
        name = query.payload.decode("utf-8", "surrogateescape")
        if name == self._name:
            return None
        record = self._members.records.get(name)
        answer = None
        if record is not None:
            answer = ConflictAnswer(
                name=name,
                address=record.address,
                tags=record.tags,
                status=int(record.status),
                versions=record.versions,
            )
        return self._wire.encode_conflict_answer(answer)

    def _keys_answer(self, query: Query, operation: KeyOperation) -> bytes:
        answer = self._operate_on_keys(query, operation)
        # Keys that do not fit the answer are left out, as many as need be; the primary is always named.
        while True:
            payload = self._wire.encode_key_answer(answer)
            response = QueryResponse(time=query.time, query_id=query.query_id, sender=self._name, payload=payload)
            if len(self._wire.encode_body(response)) <= self._settings.query_response_bytes_max or not answer.keys:
                return payload
            answer = attrs.evolve(answer, keys=answer.keys[:-1], text="truncated: more keys than fit")

    def _operate_on_keys(self, query: Query, operation: KeyOperation) -> KeyAnswer:
        keys = self._keys
        if keys is None:
            return KeyAnswer(succeeded=False, text="no keyring: gossip is not encrypted on this node")
        if operation is KeyOperation.LIST:
            texts = tuple(base64.b64encode(key).decode() for key in keys.keys)
            return KeyAnswer(succeeded=True, keys=texts, primary_key=texts[0])
        try:
            key = self._wire.decode_key_request(query.payload)
            before = keys.keys
            change = {KeyOperation.INSTALL: keys.install, KeyOperation.USE: keys.use, KeyOperation.REMOVE: keys.remove}
            change[operation](key)
        except (CodecError, SettingsError) as error:
            return KeyAnswer(succeeded=False, text=str(error))
        if keys.keys != before:
            self._actions.events.append(KeysChanged())
        return KeyAnswer(succeeded=True)
