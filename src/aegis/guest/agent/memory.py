"""The conversation's memory: neutral messages, oldest first. The daemon's store holds the authoritative copy.

A message enters memory only after the daemon committed it, so what the model was told is always on disk. Memory is never
shortened or rewritten; what a request leaves out is the business of `context`.
"""

from __future__ import annotations

from aegis.guest.agent.pictures import Pictures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.wire import Wire

UNKNOWN = "error: the agent was interrupted while this tool ran; whether it ran and what it did is unknown. Look before you repeat it."


class Memory:
    """The messages of a session."""

    def __init__(self, wire: Wire, history: list[dict[str, Any]]) -> None:
        self._wire = wire
        self._n = 0
        self.pictures = Pictures()
        self.messages = self.pictures.learn(history)

    def record(self, role: str, content: list[dict[str, Any]], ids: list[str] | None = None) -> None:
        """Have a message committed, then remember it."""
        message: dict[str, Any] = {"role": role, "content": content}
        if ids:
            message["ids"] = ids
        self._n += 1
        self._wire.send("record", n=self._n, message=message)
        self._wire.committed(self._n)
        self.messages.append(message)

    def ids(self) -> set[str]:
        """The ids of all messages of users that are remembered."""
        return {id_ for message in self.messages for id_ in message.get("ids", ())}

    def unseen(self) -> list[str]:
        """The ids behind the last thing the model said: no answer shows that a model has had them."""
        ids: list[str] = []
        for message in self.messages:
            ids = [] if message["role"] == "assistant" else ids + message.get("ids", [])
        return ids

    def last_role(self) -> str:
        """Who spoke last; empty at the start."""
        return str(self.messages[-1]["role"]) if self.messages else ""

    def last_text(self, start: int) -> str:
        """The text of the newest message from `start` on that came from the model and has any."""
        for message in reversed(self.messages[start:]):
            if message["role"] == "assistant" and (text := text_of(message["content"])):
                return text
        return ""

    def dangling(self) -> list[dict[str, Any]]:
        """The tool calls at the end that have no result yet."""
        answered: set[str] = set()
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                return [b for b in message["content"] if b["type"] == "tool_call" and b["id"] not in answered]
            answered |= {b["id"] for b in message["content"] if b["type"] == "tool_result"}
        return []


def text_of(content: list[dict[str, Any]]) -> str:
    """All texts of a message, as one."""
    return "\n\n".join(block["text"] for block in content if block["type"] == "text")


def result(call: dict[str, Any], ok: bool, output: str, truncated: bool = False, ms: float = 0.0) -> dict[str, Any]:
    """The block that answers the block `call`."""
    return {"type": "tool_result", "id": call["id"], "name": call["name"], "ok": ok, "output": output, "truncated": truncated, "ms": ms}


def paired(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A copy in which every tool call is answered right behind it and no result stands alone, as every provider demands.

    Neighbours of one role become one message; messages before the first of a user are left out.
    """
    out: list[dict[str, Any]] = []
    open_calls: dict[str, dict[str, Any]] = {}
    for message in messages:
        content = [b for b in message["content"] if b["type"] != "tool_result" or open_calls.pop(b["id"], None)]
        if message["role"] != "tool":
            _answer(out, open_calls)
        if message["role"] == "assistant":
            open_calls = {b["id"]: b for b in content if b["type"] == "tool_call"}
        _append(out, {**message, "content": content})
    _answer(out, open_calls)
    return out


def _answer(out: list[dict[str, Any]], open_calls: dict[str, dict[str, Any]]) -> None:
    if open_calls:
        _append(out, {"role": "tool", "content": [result(call, False, UNKNOWN) for call in open_calls.values()]})
        open_calls.clear()


def _append(out: list[dict[str, Any]], message: dict[str, Any]) -> None:
    if not message["content"] or (not out and message["role"] != "user"):
        return
    if out and out[-1]["role"] == message["role"]:
        last = out.pop()
        ids = last.get("ids", []) + message.get("ids", [])
        message = {"role": message["role"], "content": last["content"] + message["content"], **({"ids": ids} if ids else {})}
    out.append(message)
