"""The conversation of a program that keeps its own files, as messages, from the events that told of it.

The form is that of the memory of Aegis's own agent (`aegis.tether.frames`), one message for each event, with the event's number as `n`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.core import events as e

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The types of the events that messages are made of.
SAYING: Final = tuple(kind.type for kind in (e.MailAccepted, e.Text, e.Thinking, e.ToolCall, e.ToolResult))


def said(events: Iterable[e.Event]) -> list[dict[str, Any]]:
    """The messages that these events tell of, in order; those of sub-agents have the `parent` that they worked for."""
    found = []
    for event in events:
        fact = event.fact
        role: str
        block: dict[str, Any]
        match fact:
            case e.MailAccepted(_, _, text):
                role, block = "user", {"type": "text", "text": text}
            case e.Text(text):
                role, block = "assistant", {"type": "text", "text": text}
            case e.Thinking(text):
                role, block = "assistant", {"type": "thinking", "text": text}
            case e.ToolCall(call_id, name, arguments):
                role, block = "assistant", {"type": "tool_call", "id": call_id, "name": name, "input": arguments}
            case e.ToolResult(call_id, name, ok, output):
                role, block = "user", {"type": "tool_result", "id": call_id, "name": name, "ok": ok, "output": output}
            case _:
                continue
        parent = getattr(fact, "parent", None)
        more = {"parent": parent} if parent is not None else {}
        found.append({"n": event.seq, "ts": event.ts, "turn": event.turn, "role": role, "content": [block], **more})
    return found
