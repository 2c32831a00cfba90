"""Ask an agent one question and print the answer as it comes: `python examples/ask.py [MODEL] [QUESTION]`."""

from __future__ import annotations

import asyncio
import sys

from aegis import Aegis
from aegis.core.events import TextDelta, TurnFinished


async def main(model: str, question: str) -> int:
    """Start an instance, run one turn, and forget the instance."""
    async with Aegis() as aegis:
        agent = await aegis.start("agent", model=model)
        try:
            outcome = ""
            async for event in agent.turn(question):
                match event.fact:
                    case TextDelta(text=text):
                        print(text, end="", flush=True)
                    case TurnFinished(outcome=how):
                        outcome = how
            print()
            return 0 if outcome == "completed" else 1
        finally:
            await agent.delete()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(asyncio.run(main(arguments[0] if arguments else "scripted/echo", arguments[1] if len(arguments) > 1 else "Are you there?")))
