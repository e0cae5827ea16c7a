"""Who makes a call, in gRPC metadata."""

from urllib.parse import quote, unquote

from trio_eventlog.errors import InvalidArgument
from trio_eventlog.rpc import Context, Metadata
from trio_eventlog.service.values import ANONYMOUS, Caller

Pairs = tuple[tuple[str, str], ...]

FORWARDED = "eventlog-forwarded"
"""Metadata of a call that another node has forwarded here: it is answered here or refused, never forwarded again."""
SUBJECT = "eventlog-subject"
ADDRESS = "eventlog-client-address"
"""Beside FORWARDED: subject and address of the original caller. They are ignored unless a node sends them."""
TENANT = "x-scope-orgid"
"""The header that names the tenant in HTTP too."""
TEXT_LENGTH_MAX = 256


def caller_of(context: Context) -> Caller:
    """The caller of a call that has come in.

    Subject and address are taken from the metadata of a forwarded call only, where they are what the forwarding node says. Nothing
    is decided by them yet; rules have to check first that the connection is a node's (`context.peer`).
    """
    metadata = context.metadata
    tenant = _text(metadata, TENANT) or ANONYMOUS
    if metadata.get(FORWARDED):
        return Caller(
            subject=unquote(_text(metadata, SUBJECT)) or ANONYMOUS,
            tenant=tenant,
            address=_text(metadata, ADDRESS),
            deadline=context.deadline,
            is_forwarded=True,
        )
    return Caller(tenant=tenant, address=context.peer.address, deadline=context.deadline)


def forwarded_metadata(caller: Caller) -> Pairs:
    """What a call that is forwarded for `caller` says along."""
    pairs: Pairs = ((FORWARDED, "1"), *_tenant(caller))
    if caller.subject != ANONYMOUS:
        pairs += ((SUBJECT, quote(caller.subject)),)
    if caller.address:
        pairs += ((ADDRESS, caller.address),)
    return pairs


def client_metadata(caller: Caller) -> Pairs:
    """What a client's call says along.

    Raises:
        InvalidArgument: the caller has a subject. Nodes know a client by its connection, and it cannot call for others.
    """
    if caller.subject != ANONYMOUS:
        raise InvalidArgument(
            f"caller {caller.subject!r}: a client cannot call in the name of a subject; nodes know it by its own connection"
        )
    return _tenant(caller)


def _text(metadata: Metadata, name: str) -> str:
    text = metadata.get(name)
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidArgument(f"{name} has {len(text)} characters, and {TEXT_LENGTH_MAX} are the most")
    return text


def _tenant(caller: Caller) -> Pairs:
    if caller.tenant == ANONYMOUS:
        return ()
    if not (caller.tenant.isascii() and caller.tenant.isprintable()) or len(caller.tenant) > TEXT_LENGTH_MAX:
        raise InvalidArgument(f"tenant {caller.tenant!r}: it is a text of at most {TEXT_LENGTH_MAX} printable ASCII characters")
    return ((TENANT, caller.tenant),)
