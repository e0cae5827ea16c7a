"""Membership: the SWIM failure detector with Lifeguard's corrections, and the Serf layer over it. No I/O.

Two classes, each owned by one task: `Swim` (swim.py) keeps the table of members (rows.py), probes them (probing.py) and spreads
rumors (packets.py); `Serf` (serf.py) drives it and adds tags and a long memory (member_list.py), user_events.py, queries.py and
graceful leaving. Both take the time, a `random.Random` and an encoder from outside, and return what they want done.

The whole of a caller's loop:

    while not serf.has_left:
        wait until serf.next_deadline(), or something arrives
        now = clock()
        serf.wake(now)                               # before anything else: were we standing still?
        for messages, sender in everything that has arrived:
            serf.receive(messages, sender, now)
        serf.tick(now)                               # only now may time act
        actions = serf.actions.take()
        send actions.datagrams; a failure is a lost packet
        for each of actions.exchanges, on a stream of its own: send serf.push_pull(...), read, serf.merge(...)
        for each of actions.stream_pings: send a ping, read, serf.stream_ack(...)
        deliver actions.events to the application

What a caller owes: times never go back; everything that has arrived is handed in before `tick`; accepted streams are answered with
what `receive_stream` returns. `node/gossip_driver.py` is that caller. docs/design/gossip.md has the wire format, the rules and
where we depart from memberlist and Serf.
"""

from trio_eventlog.gossip.actions import Actions, Datagram, Exchange, StreamPing
from trio_eventlog.gossip.events import Event, GossipStatus, Member
from trio_eventlog.gossip.messages import Address, Message, StreamMessage
from trio_eventlog.gossip.serf import Serf
from trio_eventlog.gossip.settings import LAN, LOCAL, WAN, SerfSettings, SwimSettings
from trio_eventlog.gossip.swim import Swim
from trio_eventlog.gossip.wire import Keys, Wire

__all__ = [
    "LAN",
    "LOCAL",
    "WAN",
    "Actions",
    "Address",
    "Datagram",
    "Event",
    "Exchange",
    "GossipStatus",
    "Keys",
    "Member",
    "Message",
    "Serf",
    "SerfSettings",
    "StreamMessage",
    "StreamPing",
    "Swim",
    "SwimSettings",
    "Wire",
]
