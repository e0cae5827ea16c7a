"""The daemon: a node, signals around it, and the line that says it is there."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

import attrs
import trio

from trio_eventlog.agent import Node, Surroundings, open_node
from trio_eventlog.errors import SettingsError
from trio_eventlog.ids import format_id
from trio_eventlog.logs import set_up_logging
from trio_eventlog.settings import NodeSettings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP


def run_daemon(settings: NodeSettings, notes: Sequence[str] = ()) -> None:
    """Run a node until SIGTERM or Ctrl-C stops it gracefully; a second one ends the process at once. With TLS or a peer secret,
    SIGHUP makes it read its certificates and its secret again.

    Prints `listening on HOST:PORT node=NAME id=ID` to standard output when connections are accepted. Calls that come before the
    node has found its cluster wait.

    Args:
        notes: what the log is to say first, one line each.

    Raises:
        EventLogError: it cannot start, or cannot go on; the text says why and what to do.
    """
    if not __debug__:
        raise SettingsError(
            "the daemon does not run under python -O (or PYTHONOPTIMIZE): that removes the checks that stop a node before it"
            " does damage; start it without"
        )
    set_up_logging(settings.log_format, settings.log_level)
    for note in notes:
        logger.info("%s", note)
    if settings.raise_descriptor_limit is None:
        settings = attrs.evolve(settings, raise_descriptor_limit=True)  # The process is the node's own.
    trio.run(_run, settings)


async def _run(settings: NodeSettings) -> None:
    # Without TLS and secret there is nothing to read again, and a terminal that hangs up ends what runs in it.
    reload_signals = (RELOAD_SIGNAL,) if settings.has_tls or settings.peer_secret_file else ()
    with trio.open_signal_receiver(*STOP_SIGNALS, *reload_signals) as signals:
        async with trio.open_nursery() as nursery:
            stop = trio.Event()
            running: Node | None = None

            @nursery.start_soon
            async def listen_to_signals() -> None:
                async for number in signals:
                    if number == RELOAD_SIGNAL:
                        if running is not None:
                            _reload_certificates(running)
                        continue
                    if stop.is_set():
                        _exit_at_once(number)
                    logger.info("%s: stopping; once more to stop at once", signal.Signals(number).name)
                    stop.set()

            with trio.CancelScope() as starting:

                @nursery.start_soon
                async def give_up_starting() -> None:
                    await stop.wait()
                    if running is None:
                        starting.cancel()

                async with open_node(settings, Surroundings(host_name=host_name())) as node:
                    running = node
                    sys.stdout.write(f"listening on {node.listening_on} node={node.name} id={format_id(node.node_id)}\n")
                    sys.stdout.flush()
                    logger.info("listening on %s, told to others as %s", node.listening_on, node.address)

                    @nursery.start_soon
                    async def stop_when_removed() -> None:
                        await node.wait_removed()
                        logger.warning("this node was removed from its cluster, for ever: stopping")
                        sys.stdout.write(f"removed from the cluster node={node.name} id={format_id(node.node_id)}\n")
                        sys.stdout.flush()
                        stop.set()

                    await stop.wait()
            logger.info("stopped")
            nursery.cancel_scope.cancel()


def _reload_certificates(node: Node) -> None:
    try:
        node.reload_certificates()
    except SettingsError as error:
        logger.error("certificates not read again (nor the peer secret), those from before stay in use: %s", error)
    else:
        logger.info("certificates read again, and the peer secret")


def _exit_at_once(number: int) -> None:
    """Nothing acknowledged is lost: whatever was promised is on the disk."""
    sys.stdout.flush()
    os._exit(128 + number)


def host_name() -> str:
    """What a node that nobody has named is called after."""
    return os.uname().nodename.split(".")[0] or "node"
