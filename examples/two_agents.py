"""A writer and a reviewer share a workspace; the reviewer can only read it: `python examples/two_agents.py`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from aegis import Aegis
from aegis.client.aio import Instance
from aegis.core.events import TurnFinished


async def ask(agent: Instance, text: str) -> str:
    """Run one turn and return its text."""
    async for event in agent.turn(text):
        if isinstance(event.fact, TurnFinished):
            return event.fact.text
    return ""


async def main() -> None:
    """Let the writer write, and show that the reviewer reads it and cannot change it."""
    with tempfile.TemporaryDirectory() as folder:
        async with Aegis() as aegis:
            model = "scripted/directives"
            writer = await aegis.start("agent", model=model, workspace=folder)
            reviewer = await aegis.start("agent", model=model, workspace=folder, permission="read")
            try:
                await ask(writer, '[[call bash {"command": "echo a draft > draft.txt"}]] [[say written]]')
                print("reviewer reads: ", await ask(reviewer, '[[call bash {"command": "cat draft.txt"}]] [[lastresult]]'))
                print("reviewer writes:", await ask(reviewer, '[[call bash {"command": "echo changed > draft.txt"}]] [[lastresult]]'))
                print("the file:       ", (Path(folder) / "draft.txt").read_text())
            finally:
                await writer.delete()
                await reviewer.delete()


if __name__ == "__main__":
    asyncio.run(main())
