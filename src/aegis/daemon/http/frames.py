"""The tether's public frames: a rendering of events, with the names of the tether protocol.

One event is at most one frame, and a frame's `seq` is its event's, so that one cursor serves both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aegis.core import events as e

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Event type -> frame type.
FRAME_OF: Final[dict[str, str]] = {
    e.MailAccepted.type: "user.message",
    e.MailInjected.type: "event.ack",
    e.MailFailed.type: "event.failed",
    e.TurnPresence.type: "status.presence",
    e.TextDelta.type: "assistant.delta",
    e.ThinkingDelta.type: "reasoning.delta",
    e.Thinking.type: "reasoning.done",
    e.Text.type: "assistant.text",
    e.ToolCall.type: "tool.call",
    e.ToolResult.type: "tool.result",
    e.Usage.type: "usage",
    e.ApprovalRequested.type: "approval.requested",
    e.ApprovalEscalated.type: "approval.escalated",
    e.ApprovalDecided.type: "approval.decided",
    e.TurnFinished.type: "assistant.done",
}


def event_types(frame_types: Iterable[str] | None) -> list[str]:
    """The event types that are rendered as one of `frame_types`; all that have a frame when None."""
    wanted = None if frame_types is None else set(frame_types)
    return [event for event, frame in FRAME_OF.items() if wanted is None or frame in wanted]


def render(event: e.Event) -> dict[str, Any] | None:
    """The frame of an event, or None when it has none: what a sub-agent says to the agent is no answer to anybody outside."""
    kind = FRAME_OF.get(event.type)
    if kind is None or event.session is None:
        return None
    fact = event.fact
    if isinstance(fact, e.TextDelta | e.ThinkingDelta | e.Thinking | e.Text) and fact.parent is not None:
        return None
    channel, _, ident = event.session.partition(":")
    msg_ids, payload = _payload(fact)
    frame: dict[str, Any] = {
        "v": 1,
        "type": kind,
        "ts": datetime.fromtimestamp(event.ts, UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z"),
        "session": {"channel": channel, "id": ident},
        "seq": event.seq,
        "payload": payload,
    }
    if event.turn:
        frame["turn"] = event.turn
    if msg_ids:
        frame["msg_id"] = msg_ids[0]
    return frame


def answers(frame: dict[str, Any], msg_id: str) -> bool:
    """Whether a frame is about the message that its sender called `msg_id`."""
    return frame.get("msg_id") == msg_id or msg_id in frame["payload"].get("reply_to", ())


def _payload(fact: e.Fact) -> tuple[list[str], dict[str, Any]]:
    """The sender's own message ids that the frame is about, and the payload."""
    match fact:
        case e.MailAccepted(message_id, sender, text, msg_id, user):
            body: dict[str, Any] = {"text": text, "id": message_id, "sender": sender}
            told = {"user": user, "images": fact.images, "name": fact.name, "task": fact.task, "status": fact.status, "hops": fact.hops}
            more = {key: value for key, value in told.items() if value}
            return [msg_id] if msg_id else [], body | more
        case e.MailInjected(ids, msg_ids):
            return msg_ids, {"status": "received", "ids": ids}
        case e.MailFailed(ids, reason):
            return [], {"ids": ids, "reason": reason}
        case e.TurnPresence(state):
            return [], {"state": state}
        case e.TextDelta(text) | e.ThinkingDelta(text) | e.Thinking(text) | e.Text(text):
            return [], {"text": text}
        case e.ToolCall(call_id, name, arguments):
            return [], {"id": call_id, "name": name, "input": arguments}
        case e.ToolResult(call_id, name, ok, output, truncated, ms):
            return [], {"id": call_id, "name": name, "ok": ok, "output": output, "truncated": truncated, "ms": ms}
        case e.Usage():
            return [], {"model": fact.model, "input": fact.input, "output": fact.output, "cached": fact.cached, "cost_usd": fact.cost_usd}
        case e.ApprovalRequested(approval_id, tool, arguments, tool_kind, title):
            about: dict[str, Any] = {"risk": fact.risk, "deadline": fact.deadline, "default": fact.default}
            return [], {"id": approval_id, "tool": tool, "input": arguments, "kind": tool_kind, "title": title, **about}
        case e.ApprovalEscalated(approval_id, who, title, risk, deadline, reason):
            return [], {"id": approval_id, "principal": who, "title": title, "risk": risk, "deadline": deadline, "reason": reason}
        case e.ApprovalDecided(approval_id, verdict, who, reason):
            return [], {"id": approval_id, "verdict": verdict, "principal": who, "reason": reason}
        case e.TurnFinished():
            usage = {"input": fact.input, "output": fact.output, "cached": fact.cached, "cost_usd": fact.cost_usd}
            done: dict[str, Any] = {
                "text": fact.text,
                "outcome": fact.outcome,
                "in_reply_to": fact.in_reply_to,
                "reply_to": fact.reply_to,
                "usage": usage,
            }
            done |= {"rounds": fact.rounds, "ms": fact.ms}
            return fact.reply_to, done | ({"error": fact.error} if fact.error else {})
    raise AssertionError(f"no frame for {type(fact).__name__}")
