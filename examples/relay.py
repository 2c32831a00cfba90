"""Agents of every kind hand work over to each other, and the daemon is killed in between: `python examples/relay.py`.

Whatever of Claude Code, Gemini CLI, OpenCode and Codex is installed takes part, and Aegis's own agent twice. Each writes its name
under the ones before and hands over to the next by itself, through Aegis; nobody but the first is told anything by a person. The
model is the offline one that does what a message spells out, so no key is needed; the programs are the real ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aegis import Aegis
from aegis.client.aio import Instance
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Event, MailAccepted, ToolCall, TurnFinished

RUNNERS = {"claude": "claude-code", "gemini": "gemini", "opencode": "opencode", "codex": "codex", "ada": "native", "bob": "native"}


def words(runner: str, rest: list[str]) -> str:
    """What a runner is told: to write its name once, and to hand over to the next with the same for all who follow."""
    line = f"grep -qx {runner} relay.txt 2>/dev/null || echo {runner} >> relay.txt"
    told = f"[[call bash {json.dumps({'command': line})}]]"
    if rest:
        told += f" [[call aegis_handoff {json.dumps({'target_handle': rest[0], 'context': words(rest[0], rest[1:])})}]]"
    return f"{told} [[say {runner} is done]]"


async def start(aegis: Aegis, handle: str, provider: str, workspace: Path) -> Instance | None:
    """Start a runner; None when its program is not on this machine."""
    spec: dict[str, Any] = {"handle": handle, "provider": provider, "model": "scripted/directives", "workspace": str(workspace)}
    try:
        return await aegis.start(**spec)
    except AegisError as error:
        if error.kind is not ErrorKind.NOT_FOUND:
            raise
        print(f"{handle} does not run: {error.message}")
        return None


async def watch(aegis: Aegis, names: dict[str, str], after: int) -> AsyncIterator[Event]:
    """Everything that happens from an event on, told line by line. It goes on when the daemon is another one."""
    async for event in aegis.events(after=after, follow=True):
        who, fact = names.get(event.instance or ""), event.fact
        match fact:
            case MailAccepted() if fact.name:
                print(f"{who}: has mail from {fact.name}")
            case ToolCall() if "handoff" in fact.name:
                print(f"{who}: hands over")
            case TurnFinished():
                print(f"{who}: {fact.text.strip() or fact.outcome}")
        yield event


async def main() -> None:
    """Run the relay."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        async with Aegis() as aegis:
            found = {handle: await start(aegis, handle, provider, workspace) for handle, provider in RUNNERS.items()}
            runners = {handle: instance for handle, instance in found.items() if instance is not None}
            order = list(runners)
            try:
                receipt = await runners[order[0]].send(words(order[0], order[1:]))
                names = {instance.id: handle for handle, instance in runners.items()}
                killed = False
                async with asyncio.timeout(300):
                    async for event in watch(aegis, names, receipt.seq - 1):
                        who, fact = names.get(event.instance or ""), event.fact
                        if isinstance(fact, MailAccepted) and who == order[len(order) // 2] and not killed:
                            killed = True
                            print("-- the daemon is killed --")
                            os.kill((await aegis.status())["pid"], signal.SIGKILL)
                        if isinstance(fact, TurnFinished) and who == order[-1] and fact.outcome == "completed":
                            break
                wrote = (workspace / "relay.txt").read_text().split()
                print("the file:", " ".join(wrote))
                assert wrote == order, f"expected {order}"
            finally:
                for instance in runners.values():
                    await instance.delete()


if __name__ == "__main__":
    asyncio.run(main())
