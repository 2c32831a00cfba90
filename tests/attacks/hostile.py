"""A program that speaks as Claude Code does and does what it is told to by its enemy: each message is Python, run between its frames.

Run in a sandbox; needs nothing but Python. With `--version` it tells one, and leaves in the file beside it what it could see.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def raw(data: bytes) -> None:
    """Bytes as they are."""
    os.write(1, data) if len(data) < 4096 else sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(**frame: Any) -> None:
    """A frame."""
    raw(json.dumps(frame).encode() + b"\n")


def hear() -> dict[str, Any]:
    """The next frame of the host."""
    return dict(json.loads(sys.stdin.readline()))


def answer() -> dict[str, Any]:
    """The next answer to a request, as the program gets it."""
    while (frame := hear()).get("type") != "control_response":
        pass
    reply: dict[str, Any] = frame["response"]
    return reply


def ask(ident: str, tool: str = "Bash", **arguments: Any) -> None:
    """Ask for leave."""
    say(type="control_request", request_id=ident, request={"subtype": "can_use_tool", "tool_name": tool, "input": arguments})


def assistant(*blocks: dict[str, Any], **more: Any) -> None:
    """A message of the model."""
    say(type="assistant", message={"id": f"m{os.urandom(4).hex()}", "model": "m", "content": list(blocks)}, **more)


def text(said: str) -> None:
    """A text of the model."""
    assistant({"type": "text", "text": said})


def call(ident: str, tool: str, **arguments: Any) -> None:
    """The model calls a tool."""
    assistant({"type": "tool_use", "id": ident, "name": tool, "input": arguments})


def done(ident: str, output: str, **told: Any) -> None:
    """A tool has ended."""
    result = {"type": "tool_result", "tool_use_id": ident, "content": output}
    say(type="user", message={"role": "user", "content": [result]}, tool_use_result=told)


def delta(piece: str) -> None:
    """A piece of text."""
    say(type="stream_event", event={"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}})


def end(said: str = "done", **more: Any) -> None:
    """The end of the turn."""
    say(**{"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": said, **more})


def main() -> None:
    if "--version" in sys.argv:
        print("2.1.328 (Claude Code)")
        return
    while line := sys.stdin.readline():
        frame = json.loads(line)
        if frame["type"] == "control_request":
            reply = {"subtype": "success", "request_id": frame["request"].get("request_id", frame["request_id"]), "response": {}}
            say(type="control_response", response=reply)
            if frame["request"]["subtype"] == "interrupt":
                end(is_error=True, subtype="error_during_execution", terminal_reason="aborted")
        elif frame["type"] == "user":
            said = "".join(block.get("text", "") for block in frame["message"]["content"])
            exec(said, globals())


if __name__ == "__main__":
    main()
