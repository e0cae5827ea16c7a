"""Starts a node as `trio-eventlog serve` does, until that command exists: the same flags, start line, signals and exit codes."""

import argparse
import logging
import os
import signal
import sys

import trio

from trio_eventlog import EventLogError, NodeSettings, open_node
from trio_eventlog.ids import format_id
from trio_eventlog.settings import add_flags, load_settings


async def main(settings: NodeSettings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_at_once() -> None:
                await signals.__anext__()
                os._exit(1)

            async with open_node(settings) as node:
                print(f"listening on {node.listening_on} node={node.name} id={format_id(node.node_id)}", flush=True)
                await signals.__anext__()
                nursery.start_soon(stop_at_once)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser, NodeSettings)
    try:
        settings = load_settings(NodeSettings, flags=vars(parser.parse_args()), environment=os.environ)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
        trio.run(main, settings)
    except* EventLogError as group:
        for error in group.exceptions:
            print(f"trio-eventlog: {error}", file=sys.stderr)
        sys.exit(1)
