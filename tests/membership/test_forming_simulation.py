"""Nodes form a cluster while links come and go, hellos arrive late and nodes without data restart: only one cluster begins.

There are more candidates than are expected, a mistake that has to do no harm. Pure: the decisions of `net.discovery`, and a disk
of one value for each node.
"""

import random

import attrs
import pytest

from trio_eventlog.codec.peer_frame import Hello
from trio_eventlog.ids import ClusterId, NodeId
from trio_eventlog.net.discovery import Bootstrap, decide_bootstrap, told_ids

EXPECT = 3


class Former:
    """A node that belongs to no cluster yet.

    Attributes:
        agreed: on its disk.
        is_saving: what it agrees to is being written, and lost in a crash.
    """

    def __init__(self, node_id: NodeId, *, writes_down: bool) -> None:
        self.node_id = node_id
        self.writes_down = writes_down
        self.agreed: tuple[NodeId, ...] = ()
        self.cluster_id = ClusterId(0)
        self.restart()

    def restart(self) -> None:
        self.known = {self.node_id, *self.agreed}
        self.heard: dict[NodeId, Hello] = {}
        self.is_saving = False

    def hello(self) -> Hello:
        known = tuple(sorted(self.known))
        return Hello(
            node_id=self.node_id,
            cluster_name="test",
            node_name="",
            address="",
            bootstrap_expect=EXPECT,
            cluster_id=self.cluster_id,
            has_data=bool(self.cluster_id),
            known_ids=told_ids(self.node_id, known, self.agreed, EXPECT) if self.writes_down else known,
        )

    def hear(self, hello: Hello) -> None:
        self.heard[hello.node_id] = hello
        if not self.cluster_id and not hello.cluster_id:
            self.known.add(hello.node_id)
        own = attrs.evolve(self.hello(), known_ids=tuple(sorted(self.known)))
        decision = decide_bootstrap(own, list(self.heard.values()))
        if isinstance(decision, Bootstrap):
            self.cluster_id = decision.cluster_id
        elif len(self.known) == EXPECT and not self.agreed:
            self.is_saving = self.writes_down

    def save(self) -> None:
        if self.is_saving and len(self.known) == EXPECT:
            self.agreed = tuple(sorted(self.known))
        self.is_saving = False


def clusters_begun(seed: int, *, writes_down: bool) -> set[ClusterId]:
    """All that any node has begun in one run."""
    rng = random.Random(seed)
    nodes = [Former(NodeId(number), writes_down=writes_down) for number in range(1, rng.choice((4, 5)) + 1)]
    begun: set[ClusterId] = set()
    for _ in range(rng.randrange(4, 12)):
        connected = rng.sample(nodes, rng.randrange(2, EXPECT + 1))
        under_way: list[tuple[Former, Hello]] = []
        for _ in range(rng.randrange(60)):
            match rng.choice(("send", "send", "arrive", "arrive", "save", "restart" if rng.random() < 0.1 else "send")):
                case "send":
                    sender, receiver = rng.sample(connected, 2)
                    under_way.append((receiver, sender.hello()))
                case "arrive" if under_way:
                    receiver, hello = under_way.pop(rng.randrange(len(under_way)))
                    receiver.hear(hello)
                case "save":
                    rng.choice(nodes).save()
                case "restart":
                    rng.choice(nodes).restart()
        for node in rng.sample(nodes, rng.randrange(3)):
            node.restart()
        begun |= {node.cluster_id for node in nodes if node.cluster_id}
    return begun


@pytest.mark.parametrize("first_seed", range(0, 1000, 250))
def test_only_one_cluster_begins_whoever_restarts_meanwhile(first_seed: int) -> None:
    """Any two sets of three of five nodes share one, which has told others of one of them only."""
    runs = [clusters_begun(seed, writes_down=True) for seed in range(first_seed, first_seed + 250)]
    assert max(map(len, runs)) == 1
    assert sum(map(len, runs)) > 20, "it does begin"


def test_nodes_that_forget_what_they_have_agreed_to_begin_two() -> None:
    """What this is about: were nothing written down, the runs above would not all end well."""
    runs = [clusters_begun(seed, writes_down=False) for seed in range(1000)]
    assert max(map(len, runs)) > 1
