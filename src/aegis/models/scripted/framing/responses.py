"""OpenAI Responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.models.scripted.acts import Act, Call, Pause, Say, Think
from aegis.models.scripted.framing.base import Framing, argument_pieces, arguments, encode, event

if TYPE_CHECKING:
    from collections.abc import Iterator


class ResponsesFraming(Framing):
    """See `Framing`. Each act but a pause is one item of the output; the events of a stream are numbered."""

    def whole(self) -> bytes:
        """See `Framing.whole`."""
        return encode(self._response("completed", [self._item(index, act) for index, act in enumerate(self.acts) if _lasts(act)]))

    def frames(self) -> Iterator[bytes | float]:
        """See `Framing.frames`."""
        number = 0
        for frame in self._unnumbered():
            if isinstance(frame, float):
                yield frame
                continue
            kind, fields = frame
            yield event(kind, sequence_number=number, **fields)
            number += 1

    def _unnumbered(self) -> Iterator[tuple[str, dict[str, Any]] | float]:
        output: list[dict[str, Any]] = []
        yield "response.created", {"response": self._response("in_progress", [])}
        yield "response.in_progress", {"response": self._response("in_progress", [])}
        for index, act in enumerate(self.acts):
            if isinstance(act, Pause):
                yield float(act.seconds)
                continue
            item = self._item(index, act)
            yield "response.output_item.added", {"output_index": len(output), "item": _begun(item)}
            where = {"item_id": item["id"], "output_index": len(output)}
            match act:
                case Say():
                    yield from _text(act, item, {**where, "content_index": 0})
                case Think():
                    yield from _thought(act, item, {**where, "summary_index": 0})
                case Call():
                    for piece in argument_pieces(act):
                        yield "response.function_call_arguments.delta", {**where, "delta": piece}
                    yield "response.function_call_arguments.done", {**where, "name": item["name"], "arguments": item["arguments"]}
            yield "response.output_item.done", {"output_index": len(output), "item": item}
            output.append(item)
        yield "response.completed", {"response": self._response("completed", output)}

    def _item(self, index: int, act: Act) -> dict[str, Any]:
        """An act as it stands in the output when it is done."""
        ident = f"{self.ident}{index:02d}"
        match act:
            case Think():
                return {"id": f"rs_{ident}", "type": "reasoning", "summary": [{"type": "summary_text", "text": act.text}]}
            case Call():
                tool = self.conversation.tools.get(act.name)
                space = tool.namespace if tool else ""
                call = {
                    "id": f"fc_{ident}",
                    "type": "function_call",
                    "status": "completed",
                    "call_id": f"call_{ident}",
                    "name": act.name.removeprefix(f"{space}.") if space else act.name,
                    "arguments": arguments(act),
                }
                return {**call, "namespace": space} if space else call
            case _:
                text = act.text if isinstance(act, Say) else ""
                content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
                return {"id": f"msg_{ident}", "type": "message", "role": "assistant", "status": "completed", "content": content}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {
            "input_tokens": self.tokens.input,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.tokens.output,
            "output_tokens_details": {"reasoning_tokens": self.tokens.thoughts},
            "total_tokens": self.tokens.input + self.tokens.output,
        }
        return {
            "id": f"resp_{self.ident}",
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self.conversation.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": usage if status == "completed" else None,
        }


def _lasts(act: Act) -> bool:
    return isinstance(act, Say | Think | Call)


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item of the output before anything of it was said."""
    match item["type"]:
        case "message":
            return {**item, "status": "in_progress", "content": []}
        case "reasoning":
            return {**item, "summary": []}
        case _:
            return {**item, "status": "in_progress", "arguments": ""}


def _text(act: Say, item: dict[str, Any], where: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]] | float]:
    part = item["content"][0]
    yield "response.content_part.added", {**where, "part": {**part, "text": ""}}
    for piece in act.pieces:
        yield float(act.every)
        yield "response.output_text.delta", {**where, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**where, "text": act.text, "logprobs": []}
    yield "response.content_part.done", {**where, "part": part}


def _thought(act: Think, item: dict[str, Any], where: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]] | float]:
    part = item["summary"][0]
    yield "response.reasoning_summary_part.added", {**where, "part": {**part, "text": ""}}
    yield "response.reasoning_summary_text.delta", {**where, "delta": act.text}
    yield "response.reasoning_summary_text.done", {**where, "text": act.text}
    yield "response.reasoning_summary_part.done", {**where, "part": part}
