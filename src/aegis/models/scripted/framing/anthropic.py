"""Anthropic Messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.models.scripted.acts import Call, Pause, Say, Think
from aegis.models.scripted.framing.base import SIGNATURE, Framing, argument_pieces, encode, event

if TYPE_CHECKING:
    from collections.abc import Iterator


class AnthropicFraming(Framing):
    """See `Framing`."""

    def whole(self) -> bytes:
        """See `Framing.whole`."""
        content: list[dict[str, Any]] = []
        for index, act in enumerate(self.acts):
            match act:
                case Say() if content and content[-1]["type"] == "text":
                    content[-1]["text"] += act.text
                case Say():
                    content.append({"type": "text", "text": act.text})
                case Think():
                    content.append({"type": "thinking", "thinking": act.text, "signature": SIGNATURE})
                case Call():
                    content.append({**self._call(index, act), "input": act.input})
        return encode(self._message(content, self._stop(), self.tokens.output))

    def frames(self) -> Iterator[bytes | float]:
        """See `Framing.frames`."""
        yield event("message_start", message=self._message([], None, 1))
        block = -1
        for index, act in enumerate(self.acts):
            if isinstance(act, Pause):
                yield act.seconds
                continue
            block += 1
            match act:
                case Say():
                    yield event("content_block_start", index=block, content_block={"type": "text", "text": ""})
                    if block == 0:
                        yield event("ping")
                    for piece in act.pieces:
                        yield act.every
                        yield event("content_block_delta", index=block, delta={"type": "text_delta", "text": piece})
                case Think():
                    yield event("content_block_start", index=block, content_block={"type": "thinking", "thinking": "", "signature": ""})
                    yield event("content_block_delta", index=block, delta={"type": "thinking_delta", "thinking": act.text})
                    yield event("content_block_delta", index=block, delta={"type": "signature_delta", "signature": SIGNATURE})
                case Call():
                    yield event("content_block_start", index=block, content_block=self._call(index, act))
                    for piece in argument_pieces(act):
                        yield event("content_block_delta", index=block, delta={"type": "input_json_delta", "partial_json": piece})
            yield event("content_block_stop", index=block)
        yield event(
            "message_delta", delta={"stop_reason": self._stop(), "stop_sequence": None}, usage={"output_tokens": self.tokens.output}
        )
        yield event("message_stop")

    def _call(self, index: int, act: Call) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"toolu_{self.ident}{index:02d}", "name": act.name, "input": {}}

    def _stop(self) -> str:
        return "tool_use" if self.calls else "end_turn"

    def _message(self, content: list[dict[str, Any]], stop: str | None, output: int) -> dict[str, Any]:
        usage = {"input_tokens": self.tokens.input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output}
        return {
            "id": f"msg_{self.ident}",
            "type": "message",
            "role": "assistant",
            "model": self.conversation.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }
