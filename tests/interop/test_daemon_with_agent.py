"""What `trio-eventlog members` shows of a real `serf agent`, and what it does not take it for; skipped without `serf`."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from daemons import Daemon, run_command
from serf_agents import SERF, opened, until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.agent,
    pytest.mark.skipif(SERF is None, reason="the program `serf` is not installed"),
]


async def command(home: Path, node: Daemon, *arguments: str) -> Any:
    """A client command, without stopping the clock of the rest."""
    return await trio.to_thread.run_sync(
        lambda: run_command(*arguments, "--target", f"eventlog://{node.address}", home=home), abandon_on_cancel=False
    )


async def test_an_agent_is_shown_as_what_it_is(tmp_path: Path) -> None:
    """Without an id, with its tags and status; never a server, never a voter, never to be removed as a node."""
    node = Daemon(tmp_path / "n0", "--node-name", "n0", "--listen", "127.0.0.1:0", "--gossip-profile", "local")
    try:
        await trio.to_thread.run_sync(node.start)
        async with opened(tmp_path) as place:
            agent = await place.agent("s1", "-tag=role=looker-on", f"-join={node.address}")
            await agent.wait_status("n0", "alive")
            await until(lambda: "s1 at " in node.log())

            async def shown() -> dict[str, Any]:
                listing = await command(tmp_path, node, "members", "--json")
                return {member["name"]: member for member in json.loads(listing.stdout)}

            members = await shown()
            assert set(members) == {"n0", "s1"}
            assert members["n0"]["tags"] == (await agent.members())["n0"]["tags"]
            assert (members["s1"]["id"], members["s1"]["status"], members["s1"]["role"]) == ("", "alive", "")
            assert members["s1"]["tags"] == {"role": "looker-on"}
            assert members["s1"]["address"] == agent.address
            assert "s1" in (await command(tmp_path, node, "members")).stdout
            assert "s1" not in (await command(tmp_path, node, "status")).stdout
            refused = await command(tmp_path, node, "node", "remove", "s1", "--yes")
            assert refused.returncode == 1
            assert "s1: no node of this name" in refused.stderr
            await agent.command("leave")
            await until(lambda: "s1 has left" in node.log())
            assert (await shown())["s1"]["status"] == "left"
    finally:
        node.close()
