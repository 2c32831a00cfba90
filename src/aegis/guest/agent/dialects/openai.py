"""The OpenAI Chat Completions format, as OpenAI and the many servers that imitate it speak it."""

from __future__ import annotations

from aegis.guest.agent.dialects import CUT, EFFORTS, REFUSED, Call, Dialect, Reply, StreamError, whole
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_STOPS = {"length": CUT, "content_filter": REFUSED}


class OpenAI(Dialect):
    """POST /v1/chat/completions. Reasoning is shown but never sent back: the format has no place for it."""

    path = "/v1/chat/completions"

    def headers(self, token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    def body(
        self, *, model: str, system: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]], max_tokens: int, effort: str = ""
    ) -> dict[str, Any]:
        out: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for message in messages:
            out += _messages(message)
        # OpenAI's own newer models refuse the old name of the limit; most imitations know only that.
        limit = "max_completion_tokens" if model.startswith("openai/") else "max_tokens"
        body: dict[str, Any] = {"model": model, limit: max_tokens + EFFORTS.get(effort, 0), "messages": out}
        if effort:
            body["reasoning_effort"] = effort
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if tools:
            body["tools"] = [{"type": "function", "function": {k: t[k] for k in ("name", "description", "parameters")}} for t in tools]
        return body

    def reply(self) -> Reply:
        return _Reply()


def _messages(message: dict[str, Any]) -> list[dict[str, Any]]:
    blocks = message["content"]
    results = [b for b in blocks if b["type"] == "tool_result"]
    texts = [b["text"] for b in blocks if b["type"] == "text" and b["text"].strip()]
    out: list[dict[str, Any]] = [{"role": "tool", "tool_call_id": b["id"], "content": b["output"] or "(no output)"} for b in results]
    if message["role"] == "assistant":
        calls = [b for b in blocks if b["type"] == "tool_call"]
        if not texts and not calls:
            return []
        made: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(texts) or None}
        if calls:
            made["tool_calls"] = [_call(b) for b in calls]
        return [made]
    parts = [part for b in blocks if (part := _part(b))]
    if len(parts) == 1 and texts:
        out.append({"role": "user", "content": texts[0]})
    elif parts:
        out.append({"role": "user", "content": parts})
    return out


def _part(block: dict[str, Any]) -> dict[str, Any] | None:
    """A part of what a user said: a text that is not blank, or a picture."""
    if block["type"] == "image":
        return {"type": "image_url", "image_url": {"url": f"data:{block['media_type']};base64,{block['data']}"}}
    return {"type": "text", "text": block["text"]} if block["type"] == "text" and block["text"].strip() else None


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = dumps_text(block["input"]).decode()
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


class _Reply(Reply):
    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._thinking = ""
        self._calls: dict[int, dict[str, str]] = {}

    def feed(self, data: dict[str, Any]) -> list[tuple[str, str]]:
        if error := data.get("error"):
            error = error if isinstance(error, dict) else {"message": error}
            type_, message = error.get("type") or error.get("code") or "error", error.get("message", "the provider reported an error")
            raise StreamError(str(type_), str(message))
        self.over = "done" in data
        self._count(data.get("usage") or {})
        shown = []
        for choice in data.get("choices") or []:
            shown += self._delta(choice.get("delta") or {})
            if reason := choice.get("finish_reason"):
                self.finished = True
                self.stop = _STOPS.get(reason, self.stop)
        return shown

    def parts(self) -> list[dict[str, Any] | Call]:
        parts: list[dict[str, Any] | Call] = []
        if self._thinking:
            parts.append({"type": "thinking", "text": whole(self._thinking)})
        if self._text.strip():
            parts.append({"type": "text", "text": whole(self._text)})
        return parts + [Call(call["id"], call["name"], whole(call["arguments"])) for _, call in sorted(self._calls.items())]

    def _delta(self, delta: dict[str, Any]) -> list[tuple[str, str]]:
        shown = []
        if piece := delta.get("reasoning_content") or delta.get("reasoning"):
            self._thinking += piece
            shown.append(("thinking", piece))
        if piece := delta.get("content") or delta.get("refusal"):
            self._text += piece
            shown.append(("text", piece))
        for position, part in enumerate(delta.get("tool_calls") or []):
            index = part.get("index")
            call = self._calls.setdefault(position if index is None else index, {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            arguments = function.get("arguments") or ""
            call["id"] = call["id"] or part.get("id") or ""
            call["name"] = call["name"] or function.get("name") or ""  # some repeat it in every piece
            # Some servers send the arguments parsed instead of as text.
            call["arguments"] += arguments if isinstance(arguments, str) else dumps_text(arguments).decode()
        return shown

    def _count(self, usage: dict[str, Any]) -> None:
        if not usage:
            return
        details = usage.get("prompt_tokens_details") or {}
        self.usage["input"] = usage.get("prompt_tokens") or 0
        self.usage["output"] = usage.get("completion_tokens") or 0
        self.usage["cached"] = details.get("cached_tokens") or 0
