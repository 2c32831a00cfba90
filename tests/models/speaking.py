"""How a program speaks each dialect, as much of it as tests need."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from aegis.models import Dialect, ModelRequest

DIALECTS: list[Dialect] = ["anthropic", "openai", "responses", "gemini"]
PNG = "iVBORw0KGgo="


class Asked(NamedTuple):
    """A tool call of the model."""

    id: str
    name: str
    input: dict[str, Any]


class Speaker:
    """A conversation in one dialect, kept as the program would keep it. `tools` are JSON schemas by name."""

    def __init__(self, dialect: Dialect, model: str, tools: dict[str, dict[str, Any]], *, stream: bool = False) -> None:
        self.dialect = dialect
        self.model = model
        self.tools = tools
        self.stream = stream
        self.messages: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}  # further keys of the body

    def user(self, *texts: str, images: tuple[str, ...] = ()) -> None:
        """One message of the user: a block for each text, then the images by their types."""
        match self.dialect:
            case "anthropic":
                blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
                blocks += [{"type": "image", "source": {"type": "base64", "media_type": kind, "data": PNG}} for kind in images]
                self.messages.append({"role": "user", "content": blocks})
            case "openai":
                blocks = [{"type": "text", "text": text} for text in texts]
                blocks += [{"type": "image_url", "image_url": {"url": f"data:{kind};base64,{PNG}"}} for kind in images]
                self.messages.append({"role": "user", "content": texts[0] if len(blocks) == 1 else blocks})
            case "responses":
                blocks = [{"type": "input_text", "text": text} for text in texts]
                blocks += [{"type": "input_image", "image_url": f"data:{kind};base64,{PNG}"} for kind in images]
                self.messages.append({"type": "message", "role": "user", "content": blocks})
            case "gemini":
                blocks = [{"text": text} for text in texts]
                blocks += [{"inlineData": {"mimeType": kind, "data": PNG}} for kind in images]
                self.messages.append({"role": "user", "parts": blocks})

    def results(self, *given: tuple[Asked, str, bool]) -> None:
        """What tools gave back for calls of one answer; the flag says whether it is no error."""
        match self.dialect:
            case "anthropic":
                blocks = [
                    {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": text}], "is_error": not ok}
                    for call, text, ok in given
                ]
                self.messages.append({"role": "user", "content": blocks})
            case "openai":
                self.messages += [{"role": "tool", "tool_call_id": call.id, "content": text} for call, text, _ in given]
            case "responses":
                self.messages += [{"type": "function_call_output", "call_id": call.id, "output": text} for call, text, _ in given]
            case "gemini":
                parts = [
                    {"functionResponse": {"name": call.name, "response": {"output" if ok else "error": text}}} for call, text, ok in given
                ]
                self.messages.append({"role": "user", "parts": parts})

    def request(self) -> ModelRequest:
        """The next request."""
        body: dict[str, Any] = {"model": self.model, "stream": self.stream}
        match self.dialect:
            case "anthropic":
                path = "/v1/messages"
                body |= {"messages": self.messages, "tools": [{"name": name, "input_schema": s} for name, s in self.tools.items()]}
            case "openai":
                path = "/chat/completions"
                tools = [{"type": "function", "function": {"name": name, "parameters": s}} for name, s in self.tools.items()]
                body |= {"messages": self.messages, "tools": tools, "stream_options": {"include_usage": True}}
            case "responses":
                path = "/responses"
                tools = [{"type": "function", "name": name, "parameters": s} for name, s in self.tools.items()]
                body |= {"input": self.messages, "tools": tools}
            case "gemini":
                path = f"/v1beta/models/{self.model}:{'streamGenerateContent?alt=sse' if self.stream else 'generateContent'}"
                declared = [{"name": name, "parametersJsonSchema": s} for name, s in self.tools.items()]
                body = {"contents": self.messages, "tools": [{"functionDeclarations": declared}]}
        data = json.dumps({**body, **self.more}).encode()
        return ModelRequest(dialect=self.dialect, path=path, body=data, model=self.model)

    def take(self, body: bytes) -> tuple[str, list[Asked]]:
        """Text and calls of an unstreamed answer, which joins the conversation."""
        answer = json.loads(body)
        match self.dialect:
            case "anthropic":
                content = answer["content"]
                self.messages.append({"role": "assistant", "content": content})
                calls = [Asked(b["id"], b["name"], b["input"]) for b in content if b["type"] == "tool_use"]
                return "".join(b["text"] for b in content if b["type"] == "text"), calls
            case "openai":
                message = answer["choices"][0]["message"]
                self.messages.append(message)
                made = [(c["id"], c["function"]) for c in message.get("tool_calls", [])]
                return message["content"] or "", [Asked(ident, f["name"], json.loads(f["arguments"])) for ident, f in made]
            case "responses":
                output = answer["output"]
                self.messages += output
                calls = [Asked(o["call_id"], o["name"], json.loads(o["arguments"])) for o in output if o["type"] == "function_call"]
                return "".join(part["text"] for o in output if o["type"] == "message" for part in o["content"]), calls
            case "gemini":
                content = answer["candidates"][0]["content"]
                self.messages.append(content)
                made = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
                calls = [Asked(str(number), c["name"], c["args"]) for number, c in enumerate(made)]
                return "".join(part.get("text", "") for part in content["parts"] if not part.get("thought")), calls


def retry_info(delay: str) -> bytes:
    """The body with which Gemini says how long to wait."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return json.dumps({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [info]}}).encode()
