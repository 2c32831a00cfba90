"""Gemini generateContent and streamGenerateContent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.models.scripted.acts import Act, Call, Pause, Say, Think
from aegis.models.scripted.framing.base import SIGNATURE, Framing, encode

if TYPE_CHECKING:
    from collections.abc import Iterator


class GeminiFraming(Framing):
    """See `Framing`. Every chunk is a whole answer with the parts that are new in it; calls are never cut."""

    def whole(self) -> bytes:
        """See `Framing.whole`."""
        parts: list[dict[str, Any]] = []
        for act in self.acts:
            if isinstance(act, Say) and parts and set(parts[-1]) == {"text"}:
                parts[-1]["text"] += act.text
            elif not isinstance(act, Pause):
                parts.append(_part(act))
        return encode(self._answer(parts, "STOP"))

    def frames(self) -> Iterator[bytes | float]:
        """See `Framing.frames`."""
        for act in self.acts:
            match act:
                case Pause():
                    yield act.seconds
                case Say():
                    for piece in act.pieces:
                        yield act.every
                        yield self._chunk([{"text": piece}])
                case _:
                    yield self._chunk([_part(act)])
        yield self._chunk([{"text": ""}], "STOP")

    def _chunk(self, parts: list[dict[str, Any]], finish: str | None = None) -> bytes:
        return b"data: " + encode(self._answer(parts, finish)) + b"\r\n\r\n"

    def _answer(self, parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        usage = {"promptTokenCount": self.tokens.input, "totalTokenCount": self.tokens.input}
        if finish:
            candidate["finishReason"] = finish
            usage["candidatesTokenCount"] = self.tokens.output - self.tokens.thoughts
            usage["totalTokenCount"] += self.tokens.output
            if self.tokens.thoughts:
                usage["thoughtsTokenCount"] = self.tokens.thoughts
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": self.conversation.model, "responseId": self.ident}


def _part(act: Act) -> dict[str, Any]:
    match act:
        case Think():
            return {"text": act.text, "thought": True}
        case Call():
            return {"functionCall": {"name": act.name, "args": act.input}, "thoughtSignature": SIGNATURE}
        case _:
            return {"text": act.text if isinstance(act, Say) else ""}
