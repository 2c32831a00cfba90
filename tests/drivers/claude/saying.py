"""Frames as Claude Code writes them, and what a machine makes of them."""

from __future__ import annotations

import json
from typing import Any

from aegis.drivers import DriverEvent, Finished, Happened, Message
from aegis.drivers.claude.machine import Machine, frame_id


def line(**frame: Any) -> bytes:
    return json.dumps(frame).encode() + b"\n"


def machine(**more: Any) -> Machine:
    return Machine(session="s", model="anthropic/claude-x", **more)


def started(one: Machine, ident: str = "m1") -> list[DriverEvent]:
    """A turn that the program has taken up."""
    one.send("t1", [Message(ident, "go")])
    queued = line(type="command_lifecycle", command_uuid=frame_id([ident]), state="queued")
    return one.feed(queued + line(type="command_lifecycle", command_uuid=frame_id([ident]), state="started"))


def text_frame(text: str, message: str = "msg_1", **more: Any) -> bytes:
    content = [{"type": "text", "text": text}]
    return line(type="assistant", message={"id": message, "model": "claude-x", "content": content}, **{"parent_tool_use_id": None, **more})


def use(call: str, name: str, **arguments: Any) -> bytes:
    content = [{"type": "tool_use", "id": call, "name": name, "input": arguments}]
    return line(type="assistant", message={"id": "msg_1", "model": "claude-x", "content": content})


def used(call: str, output: Any = "ok", told: Any = None, **block: Any) -> bytes:
    content = [{"type": "tool_result", "tool_use_id": call, "content": output, **block}]
    return line(type="user", message={"role": "user", "content": content}, tool_use_result=told)


def result(**more: Any) -> bytes:
    return line(**{"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "result": "done", **more})


def delta(text: str, **more: Any) -> bytes:
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    return line(type="stream_event", event=event, **more)


def start_of_message(**usage: Any) -> bytes:
    return line(type="stream_event", event={"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "usage": usage}})


def finished(events: list[DriverEvent]) -> Finished:
    [end] = [event for event in events if isinstance(event, Finished)]
    return end


def of(events: list[DriverEvent], kind: type) -> list[Any]:
    return [event.fact for event in events if isinstance(event, Happened) and isinstance(event.fact, kind)]
