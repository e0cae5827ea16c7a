"""A whole node, put together: the one place that knows every part. docs/design/agent.md says the same in more words.

A node is started inside out, so that "started" means "listening and able to work", and stopped outside in, so that nobody is cut
off who could have been served. Read in this order:

    node          `open_node`: opens directory, keys, port, runs the node, closes in the reverse order; `Node`: what programs use
    parts         the parts of a node, one line each, in the order in which they are made
    assembly      makes them, and hands each the functions that it calls
    life          in which order their tasks start and stop

and, each on its own, what a node does that no single part can:

    identity      who it is: id, name, addresses, release        credentials   certificates, the peer secret, their warnings
    peers         its hellos, and which nodes it trusts          traffic       Raft messages as frames on links
    lives         moments of its own life, claims of peers       hand_over     leaderships, when it stops
    readiness     whether it should be given work                status        what it answers when asked about itself
    services      what clients call                              edge          connections to its port
    surroundings  what it is given of the world
"""

from trio_eventlog.agent.identity import default_name
from trio_eventlog.agent.node import Node, open_node, run_node
from trio_eventlog.agent.surroundings import Surroundings

__all__ = ["Node", "Surroundings", "default_name", "open_node", "run_node"]
