"""The Anthropic Messages format."""

from __future__ import annotations

from aegis.guest.agent.dialects import CUT, EFFORTS, END, REFUSED, Call, Dialect, Reply, StreamError, whole
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STOPS = {"max_tokens": CUT, "model_context_window_exceeded": CUT, "refusal": REFUSED}
_CACHE = {"type": "ephemeral"}


class Anthropic(Dialect):
    """POST /v1/messages. The system prompt and the end of the conversation are marked for the provider's prompt cache."""

    path = "/v1/messages"

    def headers(self, token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}", "x-api-key": token, "anthropic-version": "2023-06-01"}

    def body(
        self, *, model: str, system: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], max_tokens: int, effort: str = ""
    ) -> dict[str, Any]:
        out: list[dict[str, Any]] = []
        for message in messages:
            role = "assistant" if message["role"] == "assistant" else "user"
            content = [made for block in message["content"] if (made := _block(block))]
            if content and out and out[-1]["role"] == role:
                out[-1]["content"] += content
            elif content:
                out.append({"role": role, "content": content})
        if out:
            _mark_last(out[-1]["content"])
        room = EFFORTS.get(effort, 0)
        body: dict[str, Any] = {"model": model, "max_tokens": max_tokens + room, "stream": True, "messages": out}
        if room and _decides_itself(model):
            body |= {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
        elif room and _may_think(out):
            body["thinking"] = {"type": "enabled", "budget_tokens": room}
        if system:
            body["system"] = [{"type": "text", "text": system, "cache_control": _CACHE}]
        if tools:
            body["tools"] = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in tools]
        return body

    def reply(self) -> Reply:
        return _Reply()


def _decides_itself(model: str) -> bool:
    """Whether a model takes an effort and thinks as long as it sees fit. Claude does from 4.6 on; before, and as others imitate it,
    it takes the number of tokens.
    """
    words = model.rpartition("/")[2].split("-")
    if words[0] != "claude":
        return False
    numbers = [int(word) for word in words[1:] if word.isdigit() and len(word) < 3]
    return numbers[:2] >= [4, 6] if numbers else True


def _may_think(out: list[dict[str, Any]]) -> bool:
    """Between tools a model is only asked to think with a budget when the step before began with a thought: else it is an error."""
    if not out or not any(block["type"] == "tool_result" for block in out[-1]["content"]):
        return True
    return len(out) > 1 and out[-2]["content"][0]["type"] in ("thinking", "redacted_thinking")


def _mark_last(content: list[dict[str, Any]]) -> None:
    """Mark the end of the conversation for the cache; thinking cannot carry the mark."""
    if content[-1]["type"] in ("text", "image", "tool_result", "tool_use"):
        content[-1]["cache_control"] = _CACHE


def _block(block: dict[str, Any]) -> dict[str, Any] | None:
    kind = block["type"]
    if kind == "text":
        # Blank texts are refused by the API.
        return {"type": "text", "text": block["text"]} if block["text"].strip() else None
    if kind == "thinking":
        if "redacted" in block:
            return {"type": "redacted_thinking", "data": block["redacted"]}
        # Thinking without a signature comes from another dialect and cannot be sent back.
        return {"type": "thinking", "thinking": block["text"], "signature": block["signature"]} if block.get("signature") else None
    if kind == "image":
        return {"type": "image", "source": {"type": "base64", "media_type": block["media_type"], "data": block["data"]}}
    if kind == "tool_call":
        return {"type": "tool_use", "id": block["id"], "name": block["name"], "input": block["input"]}
    if kind == "tool_result":
        return {"type": "tool_result", "tool_use_id": block["id"], "content": block["output"] or "(no output)", "is_error": not block["ok"]}
    return None


class _Reply(Reply):
    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, dict[str, Any]] = {}

    def feed(self, data: dict[str, Any]) -> list[tuple[str, str]]:
        kind = data.get("type")
        if kind == "content_block_start":
            return self._start(data["index"], data["content_block"])
        if kind == "content_block_delta":
            return self._delta(self._blocks[data["index"]], data["delta"])
        if kind == "content_block_stop":
            self._blocks[data["index"]]["whole"] = True
        elif kind == "message_start":
            self._count(data["message"].get("usage") or {})
        elif kind == "message_delta":
            self._count(data.get("usage") or {})
            if reason := data["delta"].get("stop_reason"):
                self.stop, self.finished = _STOPS.get(reason, END), True
        elif kind == "message_stop":
            self.finished = self.over = True
        elif kind == "error":
            error = data.get("error") or {}
            raise StreamError(str(error.get("type", "error")), str(error.get("message", "the provider reported an error")))
        return []

    def parts(self) -> list[dict[str, Any] | Call]:
        return [part for _, block in sorted(self._blocks.items()) if (part := self._part(block))]

    @staticmethod
    def _part(block: dict[str, Any]) -> dict[str, Any] | Call | None:
        kind = block["type"]
        if kind == "text":
            return {"type": "text", "text": whole(block["text"])} if block["text"].strip() else None
        if kind == "tool_use":
            return Call(block["id"], block["name"], whole(block["json"]) or dumps_text(block["input"] or {}).decode())
        if kind == "redacted_thinking":
            return {"type": "thinking", "text": "", "redacted": block["data"]}
        if kind == "thinking" and block["whole"]:
            signature = {"signature": block["signature"]} if block["signature"] else {}
            return {"type": "thinking", "text": whole(block["text"]), **signature}
        return None

    def _start(self, index: int, start: dict[str, Any]) -> list[tuple[str, str]]:
        kind = start["type"]
        block: dict[str, Any] = {"type": kind, "whole": False}
        self._blocks[index] = block
        if kind == "text":
            block["text"] = start.get("text") or ""
        elif kind == "thinking":
            block.update(text=start.get("thinking") or "", signature=start.get("signature") or "")
        elif kind == "redacted_thinking":
            block["data"] = start.get("data", "")
        elif kind == "tool_use":
            block.update(id=start.get("id", ""), name=start.get("name", ""), json="", input=start.get("input"))
        text = block.get("text", "")
        return [(kind, text)] if text else []

    @staticmethod
    def _delta(block: dict[str, Any], delta: dict[str, Any]) -> list[tuple[str, str]]:
        kind = delta.get("type")
        if kind == "text_delta":
            block["text"] += delta["text"]
            return [("text", delta["text"])]
        if kind == "thinking_delta":
            block["text"] += delta["thinking"]
            return [("thinking", delta["thinking"])]
        if kind == "signature_delta":
            block["signature"] += delta["signature"]
        elif kind == "input_json_delta" and "json" in block:  # blocks of unknown types are passed over
            block["json"] += delta["partial_json"]
        return []

    def _count(self, usage: dict[str, Any]) -> None:
        cached, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
        if cached is not None:
            self.usage["cached"] = cached
        if written is not None:
            self.usage["cache_written"] = written
        if usage.get("input_tokens") is not None:
            self.usage["input"] = usage["input_tokens"] + self.usage["cached"] + self.usage["cache_written"]
        if usage.get("output_tokens") is not None:
            self.usage["output"] = usage["output_tokens"]
