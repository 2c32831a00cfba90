"""Writing a script's acts as an answer in either dialect, streamed or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.models.scripted.acts import Act, Call, Pause, Say, Think

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aegis.core.clock import Clock
    from aegis.models.scripted.conversation import Conversation

#: A signature that no provider accepts, so that scripted reasoning can never pass for real reasoning.
_SIGNATURE: Final = "c2NyaXB0ZWQ="
_ARGUMENT_PIECE: Final = 4096
_encode = msgspec.json.encode


def estimate(size: int) -> int:
    """Tokens of so many characters, roughly."""
    return max(1, size // 4)


class Answer:
    """One answer. `ident` makes its ids, so that the same request gets the same ones."""

    def __init__(self, conversation: Conversation, acts: list[Act], ident: str, created: int) -> None:
        self._conversation = conversation
        self._acts = acts
        self._ident = ident
        self._created = created
        self._calls = any(isinstance(act, Call) for act in acts)

    def pause(self) -> float:
        """Seconds that an unstreamed answer takes."""
        return sum(
            act.seconds if isinstance(act, Pause) else act.every * len(act.pieces) for act in self._acts if isinstance(act, Pause | Say)
        )

    def _tokens(self) -> tuple[int, int]:
        sizes = (
            len(act.text) if isinstance(act, Say | Think) else len(_encode(act.input))
            for act in self._acts
            if isinstance(act, Say | Think | Call)
        )
        return estimate(self._conversation.size), estimate(sum(sizes))

    # -- Anthropic Messages --

    def anthropic(self) -> bytes:
        """The whole message."""
        content: list[dict[str, Any]] = []
        for index, act in enumerate(self._acts):
            match act:
                case Say() if content and content[-1]["type"] == "text":
                    content[-1]["text"] += act.text
                case Say():
                    content.append({"type": "text", "text": act.text})
                case Think():
                    content.append({"type": "thinking", "thinking": act.text, "signature": _SIGNATURE})
                case Call():
                    content.append({"type": "tool_use", "id": f"toolu_{self._ident}{index:02d}", "name": act.name, "input": act.input})
        return _encode(self._message(content, self._stop(), self._tokens()[1]))

    async def anthropic_events(self, clock: Clock) -> AsyncIterator[bytes]:
        """The message as server-sent events."""
        yield _event("message_start", message=self._message([], None, 1))
        block = -1
        for index, act in enumerate(self._acts):
            if isinstance(act, Pause):
                await clock.sleep(act.seconds)
                continue
            block += 1
            match act:
                case Say():
                    yield _event("content_block_start", index=block, content_block={"type": "text", "text": ""})
                    if block == 0:
                        yield _event("ping")
                    for piece in act.pieces:
                        if act.every:
                            await clock.sleep(act.every)
                        yield _event("content_block_delta", index=block, delta={"type": "text_delta", "text": piece})
                case Think():
                    yield _event("content_block_start", index=block, content_block={"type": "thinking", "thinking": "", "signature": ""})
                    yield _event("content_block_delta", index=block, delta={"type": "thinking_delta", "thinking": act.text})
                    yield _event("content_block_delta", index=block, delta={"type": "signature_delta", "signature": _SIGNATURE})
                case Call():
                    head = {"type": "tool_use", "id": f"toolu_{self._ident}{index:02d}", "name": act.name, "input": {}}
                    yield _event("content_block_start", index=block, content_block=head)
                    for piece in _argument_pieces(act):
                        yield _event("content_block_delta", index=block, delta={"type": "input_json_delta", "partial_json": piece})
            yield _event("content_block_stop", index=block)
        yield _event(
            "message_delta", delta={"stop_reason": self._stop(), "stop_sequence": None}, usage={"output_tokens": self._tokens()[1]}
        )
        yield _event("message_stop")

    def _stop(self) -> str:
        return "tool_use" if self._calls else "end_turn"

    def _message(self, content: list[dict[str, Any]], stop: str | None, output: int) -> dict[str, Any]:
        usage = {"input_tokens": self._tokens()[0], "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output}
        return {
            "id": f"msg_{self._ident}",
            "type": "message",
            "role": "assistant",
            "model": self._conversation.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    # -- OpenAI Chat Completions --

    def openai(self) -> bytes:
        """The whole completion."""
        text = "".join(act.text for act in self._acts if isinstance(act, Say))
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        thoughts = "".join(act.text for act in self._acts if isinstance(act, Think))
        if thoughts:
            message["reasoning_content"] = thoughts
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{self._ident}{index:02d}",
                    "type": "function",
                    "function": {"name": act.name, "arguments": _encode(act.input).decode()},
                }
                for index, act in enumerate(self._acts)
                if isinstance(act, Call)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish()}
        return _encode({**self._head("chat.completion"), "choices": [choice], "usage": self._openai_usage()})

    async def openai_events(self, clock: Clock) -> AsyncIterator[bytes]:
        """The completion as chunks; usage only when it was asked for, as the API does."""
        yield self._chunk({"role": "assistant", "content": ""})
        calls = 0
        for index, act in enumerate(self._acts):
            match act:
                case Pause():
                    await clock.sleep(act.seconds)
                case Say():
                    for piece in act.pieces:
                        if act.every:
                            await clock.sleep(act.every)
                        yield self._chunk({"content": piece})
                case Think():
                    yield self._chunk({"reasoning_content": act.text})
                case Call():
                    head = {
                        "index": calls,
                        "id": f"call_{self._ident}{index:02d}",
                        "type": "function",
                        "function": {"name": act.name, "arguments": ""},
                    }
                    yield self._chunk({"tool_calls": [head]})
                    for piece in _argument_pieces(act):
                        yield self._chunk({"tool_calls": [{"index": calls, "function": {"arguments": piece}}]})
                    calls += 1
        yield self._chunk({}, self._finish())
        if self._conversation.include_usage:
            yield b"data: " + _encode({**self._head("chat.completion.chunk"), "choices": [], "usage": self._openai_usage()}) + b"\n\n"
        yield b"data: [DONE]\n\n"

    def _finish(self) -> str:
        return "tool_calls" if self._calls else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self._ident}", "object": kind, "created": self._created, "model": self._conversation.model}

    def _openai_usage(self) -> dict[str, Any]:
        prompt, completion = self._tokens()
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + _encode({**self._head("chat.completion.chunk"), "choices": [choice]}) + b"\n\n"


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"


def _argument_pieces(act: Call) -> list[str]:
    text = _encode(act.input).decode()
    return [text[start : start + _ARGUMENT_PIECE] for start in range(0, len(text), _ARGUMENT_PIECE)]
