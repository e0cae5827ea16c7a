"""A process that gossips and does nothing else: what it costs, and what becomes of it when it is stopped or killed.

    python tests/interop/gossip_node.py NAME HOST:PORT [--join HOST:PORT] [--profile lan|local|wan] [--key HEX]

Prints a line of JSON per event: `{"seconds": since the start, "event": "MemberFailed", "name": "s1"}`.
"""

import argparse
import ipaddress
import json
import random

import trio

from trio_eventlog.codec.gossip_crypto import Keyring
from trio_eventlog.gossip.events import Event
from trio_eventlog.gossip.messages import Address
from trio_eventlog.gossip.settings import LAN, LOCAL, WAN
from trio_eventlog.ids import NodeId
from trio_eventlog.net.mux import ConnectionInfo, Mux, MuxSettings
from trio_eventlog.net.network import split_address
from trio_eventlog.net.real_datagrams import RealDatagramNetwork
from trio_eventlog.net.real_network import RealNetwork
from trio_eventlog.node.gossip_discovery import node_tags
from trio_eventlog.node.gossip_driver import GossipDriver
from trio_eventlog.node.gossip_settings import GossipSettings
from trio_eventlog.testing.defaults import default


async def no_handler(stream: trio.abc.Stream, info: ConnectionInfo) -> None:
    """Nothing but gossip is spoken here."""


async def main(arguments: argparse.Namespace) -> None:
    (network, packets) = (RealNetwork(), RealDatagramNetwork())
    bound = await network.listen(arguments.address)
    (host, port) = split_address(arguments.address)
    began = trio.current_time()

    def tell(event: Event) -> None:
        name = getattr(getattr(event, "member", event), "name", None)
        line = {"seconds": round(trio.current_time() - began, 3), "event": type(event).__name__, "name": name}
        print(json.dumps(line), flush=True)

    rng = random.SystemRandom()
    driver = GossipDriver(
        name=arguments.name,
        address=Address(ipaddress.ip_address(host).packed, port),
        tags=node_tags(NodeId(port), address=arguments.address, cluster_name="interop", version="1"),
        settings=default(GossipSettings, swim={"lan": LAN, "local": LOCAL, "wan": WAN}[arguments.profile]),
        datagrams=await packets.bind(arguments.address),
        datagram_network=packets,
        network=network,
        rng=rng,
        on_event=tell,
        seeds=arguments.join,
        keyring=Keyring([bytes.fromhex(arguments.key)], rng) if arguments.key else None,
    )
    mux = Mux(default(MuxSettings), grpc=no_handler, http=no_handler, peer=no_handler, gossip=driver.streams.handle)
    async with trio.open_nursery() as nursery:
        await nursery.start(mux.serve, bound.listener)
        await nursery.start(driver.run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Gossip until killed.")
    parser.add_argument("name")
    parser.add_argument("address")
    parser.add_argument("--join", action="append", default=[])
    parser.add_argument("--profile", choices=["lan", "local", "wan"], default="lan")
    parser.add_argument("--key", default="")
    trio.run(main, parser.parse_args())
