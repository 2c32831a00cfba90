"""OpenAI Chat Completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.models.scripted.acts import Call, Pause, Say, Think
from aegis.models.scripted.framing.base import Framing, argument_pieces, arguments, encode

if TYPE_CHECKING:
    from collections.abc import Iterator


class OpenAIFraming(Framing):
    """See `Framing`. The stream tells the usage only where that was asked for, as the API does."""

    def whole(self) -> bytes:
        """See `Framing.whole`."""
        text = "".join(act.text for act in self.acts if isinstance(act, Say))
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        thoughts = "".join(act.text for act in self.acts if isinstance(act, Think))
        if thoughts:
            message["reasoning_content"] = thoughts
        if self.calls:
            message["tool_calls"] = [self._call(index, act, arguments(act)) for index, act in enumerate(self.acts) if isinstance(act, Call)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish()}
        return encode({**self._head("chat.completion"), "choices": [choice], "usage": self._usage()})

    def frames(self) -> Iterator[bytes | float]:
        """See `Framing.frames`."""
        yield self._chunk({"role": "assistant", "content": ""})
        calls = 0
        for index, act in enumerate(self.acts):
            match act:
                case Pause():
                    yield act.seconds
                case Say():
                    for piece in act.pieces:
                        yield act.every
                        yield self._chunk({"content": piece})
                case Think():
                    yield self._chunk({"reasoning_content": act.text})
                case Call():
                    yield self._chunk({"tool_calls": [{"index": calls, **self._call(index, act, "")}]})
                    for piece in argument_pieces(act):
                        yield self._chunk({"tool_calls": [{"index": calls, "function": {"arguments": piece}}]})
                    calls += 1
        yield self._chunk({}, self._finish())
        if self.conversation.include_usage:
            yield b"data: " + encode({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _call(self, index: int, act: Call, given: str) -> dict[str, Any]:
        return {"id": f"call_{self.ident}{index:02d}", "type": "function", "function": {"name": act.name, "arguments": given}}

    def _finish(self) -> str:
        return "tool_calls" if self.calls else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.ident}", "object": kind, "created": self.created, "model": self.conversation.model}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.tokens.input,
            "completion_tokens": self.tokens.output,
            "total_tokens": self.tokens.input + self.tokens.output,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + encode({**self._head("chat.completion.chunk"), "choices": [choice]}) + b"\n\n"
