"""Peers that say that they are there, fall silent, come back, and are other processes than before."""

from trio_eventlog.ids import NodeId
from trio_eventlog.node.liveness import PeerLiveness, Reach

TWO = NodeId(2)


class Kit:
    def __init__(self) -> None:
        self.links: set[NodeId] = {TWO}
        self.gone: list[NodeId] = []
        self.back: list[NodeId] = []
        self.liveness = PeerLiveness(3, is_connected=self.links.__contains__, on_gone=self.gone.append, on_back=self.back.append)

    def tick(self, count: int) -> None:
        for _ in range(count):
            self.liveness.tick()


def test_a_peer_is_unknown_then_alive_then_gone_then_back() -> None:
    """The limit of silence is exact, and each change is told once."""
    kit = Kit()
    assert kit.liveness.reach(TWO) is Reach.UNKNOWN
    kit.tick(10)
    assert kit.liveness.reach(TWO) is Reach.UNKNOWN, "one that never says anything does not fall silent"
    kit.liveness.heard(TWO, 1)
    kit.tick(3)
    assert kit.liveness.reach(TWO) is Reach.ALIVE
    assert kit.gone == []
    kit.tick(1)
    assert kit.liveness.reach(TWO) is Reach.GONE
    kit.tick(5)
    assert (kit.gone, kit.back) == ([TWO], [TWO])
    kit.liveness.heard(TWO, 1)
    assert kit.liveness.reach(TWO) is Reach.ALIVE
    assert (kit.gone, kit.back) == ([TWO], [TWO, TWO])


def test_another_process_of_the_same_node_has_been_gone() -> None:
    """It leads nothing of what the one before led, even when nobody has seen it go."""
    kit = Kit()
    kit.liveness.heard(TWO, 1)
    kit.liveness.heard(TWO, 2)
    assert (kit.gone, kit.back) == ([TWO], [TWO, TWO])
    assert kit.liveness.reach(TWO) is Reach.ALIVE


def test_without_a_link_a_peer_is_gone_whatever_it_says() -> None:
    """Nothing could be sent to it. On a new link it is unknown until it speaks: it may be of an older release now."""
    kit = Kit()
    kit.liveness.heard(TWO, 1)
    kit.links.clear()
    assert kit.liveness.reach(TWO) is Reach.GONE
    kit.liveness.lost(TWO)
    kit.links.add(TWO)
    assert kit.liveness.reach(TWO) is Reach.GONE
    kit.liveness.connected(TWO)
    assert kit.liveness.reach(TWO) is Reach.UNKNOWN
    kit.tick(10)
    assert kit.gone == [], "who sees a link break acts on that, once"
    kit.liveness.heard(TWO, 1)
    assert kit.back == [TWO, TWO]
