"""Reading a request of any dialect into a conversation. Odd parts are passed over; only a body without messages is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.models.scripted.conversation import Conversation, Image, Item, Result, Said, Tool, Use, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aegis.models import Dialect

_Read = Item | Image

#: What programs wrap around a person's words.
_WRAPPED: Final = re.compile(
    r"<(system-reminder|session_context|environment_context|user_instructions|permissions instructions|collaboration_mode"
    r"|skills_instructions|apps_instructions|local-command-caveat|local-command-stdout|hook_context)>.*?</\1>",
    re.S,
)
_DATA_URL: Final = re.compile(r"data:([\w.+/-]{1,80})[;,]")
_URL_MODEL: Final = re.compile(r"/models/([^:?]+)")
_CAPITAL: Final = re.compile(r"[A-Z]")
_IMAGE_SIZE: Final = 6000  # bytes of text that cost about as many tokens as a picture
_SYSTEM: Final = 4000
#: Where the messages stand.
_MESSAGES: Final[dict[Dialect, str]] = {"anthropic": "messages", "openai": "messages", "responses": "input", "gemini": "contents"}


def read(dialect: Dialect, body: bytes, path: str = "") -> Conversation:
    """Read a request; Gemini names its model in the path. Raises AegisError(USAGE) when there is no list of messages in it."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise AegisError(ErrorKind.USAGE, f"the body is not JSON: {str(error)[:200]}") from None
    field = _MESSAGES[dialect]
    messages = data.get(field) if isinstance(data, dict) else None
    if dialect == "responses" and isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        raise AegisError(ErrorKind.USAGE, f"`{field}` is missing or not a list")
    found = [one for number, each in enumerate(_dicts(messages)) for one in _READERS[dialect](each, number)]
    items: list[Item] = [one for one in found if not isinstance(one, Image)]
    images = [one for one in found if isinstance(one, Image)]
    named = _URL_MODEL.search(path)
    return Conversation(
        dialect=dialect,
        model=named[1] if dialect == "gemini" and named else str(data.get("model", "")),
        stream=":streamGenerateContent" in path if dialect == "gemini" else data.get("stream") is True,
        include_usage=_dict(data.get("stream_options")).get("include_usage") is True,
        tools=dict(_tools(dialect, data.get("tools"))),
        items=_numbered(items) if dialect == "gemini" else items,
        images=images,
        system=_system(dialect, data)[:_SYSTEM],
        schema=_schema(dialect, data),
        size=max(0, len(body) - sum(image.size for image in images)) + _IMAGE_SIZE * len(images),
    )


# -- messages --


def _anthropic(message: dict[str, Any], number: int) -> Iterator[_Read]:
    role = message.get("role")
    for block in _blocks(message.get("content")):
        match block.get("type"):
            case "tool_use":
                yield Use(_string(block, "id"), _string(block, "name"), _dict(block.get("input")))
            case "tool_result":
                yield Result(_string(block, "tool_use_id"), _text(block.get("content")), block.get("is_error") is not True)
            case "image" if role == "user":
                source = _dict(block.get("source"))
                yield Image(_string(source, "media_type") or "image/*", number, len(_string(source, "data")))
            case "text":
                yield from _words(role, block.get("text"), number)


def _openai(message: dict[str, Any], number: int) -> Iterator[_Read]:
    role = message.get("role")
    if role == "tool":
        yield Result(_string(message, "tool_call_id"), _text(message.get("content")))
        return
    for block in _blocks(message.get("content")):
        if block.get("type") == "image_url" and role == "user":
            yield _linked(_dict(block.get("image_url")).get("url"), number)
        elif block.get("type") == "text":
            yield from _words(role, block.get("text"), number)
    for call in _dicts(message.get("tool_calls")):
        function = _dict(call.get("function"))
        if function:
            yield Use(_string(call, "id"), _string(function, "name"), _arguments(function.get("arguments")))


def _responses(item: dict[str, Any], number: int) -> Iterator[_Read]:
    match item.get("type", "message"):
        case "message":
            for block in _blocks(item.get("content")):
                if block.get("type") == "input_image":
                    yield _linked(block.get("image_url"), number)
                else:
                    yield from _words(item.get("role"), block.get("text"), number)
        case "function_call":
            yield Use(_string(item, "call_id"), _string(item, "name"), _arguments(item.get("arguments")))
        case "custom_tool_call":
            yield Use(_string(item, "call_id"), _string(item, "name"), {"input": item.get("input")})
        case "function_call_output" | "custom_tool_call_output":
            yield Result(_string(item, "call_id"), _text(item.get("output")))


def _gemini(content: dict[str, Any], number: int) -> Iterator[_Read]:
    role = "assistant" if content.get("role") == "model" else "user"
    for part in _dicts(content.get("parts")):
        call, given = _dict(_either(part, "functionCall")), _dict(_either(part, "functionResponse"))
        picture = _dict(_either(part, "inlineData") or _either(part, "fileData"))
        if call:
            yield Use("", _string(call, "name"), _dict(call.get("args")))
        elif given:
            answer = _dict(given.get("response"))
            yield Result(_string(given, "name"), _outcome(answer), "error" not in answer)
        elif picture and role == "user":
            yield Image(str(_either(picture, "mimeType") or "image/*"), number, len(_string(picture, "data")))
        elif part.get("thought") is not True:
            yield from _words(role, part.get("text"), number)


_READERS: Final[dict[Dialect, Callable[[dict[str, Any], int], Iterator[_Read]]]] = {
    "anthropic": _anthropic,
    "openai": _openai,
    "responses": _responses,
    "gemini": _gemini,
}


def _numbered(items: list[Item]) -> list[Item]:
    """Gemini's calls and results need no ids: the nth result of a name belongs to its nth call."""
    counts: dict[tuple[type, str], int] = {}
    numbered: list[Item] = []
    for item in items:
        if isinstance(item, Use | Result):
            name = item.name if isinstance(item, Use) else item.id
            count = counts[type(item), name] = counts.get((type(item), name), 0) + 1
            numbered.append(msgspec.structs.replace(item, id=f"{name}:{count}"))
        else:
            numbered.append(item)
    return numbered


def _words(role: Any, text: Any, number: int) -> Iterator[Item]:
    """A text of the user or of the model, without what programs wrap around it; nothing where nothing is left."""
    if role not in ("user", "assistant") or not isinstance(text, str):
        return
    text = _WRAPPED.sub("", text).strip() if "</" in text else text.strip()
    if text:
        yield User(text, number) if role == "user" else Said(text)


def _linked(url: Any, number: int) -> Image:
    url = url if isinstance(url, str) else ""
    found = _DATA_URL.match(url)
    return Image(found[1] if found else "image/*", number, len(url))


def _outcome(answer: dict[str, Any]) -> str:
    """The text of a Gemini tool's result, which by custom stands in `output` or `error`, elsewhere in `content` or `result`."""
    text = next((answer[key] for key in ("output", "error", "content", "result") if key in answer), None)
    return text if isinstance(text, str) else msgspec.json.encode(answer).decode()


# -- the rest of a request --


def _tools(dialect: Dialect, offered: Any) -> Iterator[tuple[str, Tool]]:
    for each in _dicts(offered):
        match dialect:
            case "anthropic":
                yield from _tool(each, "input_schema")
            case "openai":
                yield from _tool(_dict(each.get("function")), "parameters")
            case "responses" if each.get("type") == "namespace":
                for inner in _dicts(each.get("tools")):
                    yield from _tool(inner, "parameters", namespace=_string(each, "name"))
            case "responses":
                yield from _tool(each, "parameters")
            case "gemini":
                for declared in _dicts(_either(each, "functionDeclarations")):
                    schema = _either(declared, "parametersJsonSchema") or declared.get("parameters")
                    yield from _tool({"name": declared.get("name"), "parameters": schema}, "parameters")


def _tool(about: dict[str, Any], where: str, *, namespace: str = "") -> Iterator[tuple[str, Tool]]:
    name = about.get("name")
    if not isinstance(name, str):
        return
    schema = _dict(about.get(where))
    required = schema.get("required")
    wanted = tuple(each for each in required if isinstance(each, str)) if isinstance(required, list) else ()
    yield f"{namespace}.{name}" if namespace else name, Tool(_dict(schema.get("properties")), wanted, namespace)


def _system(dialect: Dialect, data: dict[str, Any]) -> str:
    match dialect:
        case "anthropic":
            return _text(data.get("system"))
        case "gemini":
            return _text(_dict(_either(data, "systemInstruction")).get("parts"))
        case _:
            messages = _dicts(data.get(_MESSAGES[dialect]))
            told = [_text(each.get("content")) for each in messages if each.get("role") in ("system", "developer")]
            return "\n".join([_string(data, "instructions"), *told]).strip()


def _schema(dialect: Dialect, data: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the answer; `{}` where it must be any JSON object; None where it is free."""
    match dialect:
        case "anthropic":
            wanted = _dict(_dict(data.get("output_config")).get("format")) or _dict(data.get("output_format"))
        case "openai":
            wanted = _dict(data.get("response_format"))
            wanted = {**wanted, **_dict(wanted.get("json_schema"))}
        case "responses":
            wanted = _dict(_dict(data.get("text")).get("format"))
        case "gemini":
            config = _dict(_either(data, "generationConfig"))
            wanted = {"schema": _either(config, "responseJsonSchema") or _either(config, "responseSchema")}
            if _either(config, "responseMimeType") == "application/json":
                wanted["type"] = "json_object"
    if isinstance(wanted.get("schema"), dict):
        return dict(wanted["schema"])
    return {} if wanted.get("type") == "json_object" else None


# -- shapes --


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _either(of: dict[str, Any], name: str) -> Any:
    """A field of Gemini, which takes both spellings of a name."""
    return of.get(name) or of.get(_CAPITAL.sub(lambda match: "_" + match[0].lower(), name))


def _string(of: dict[str, Any], key: str) -> str:
    value = of.get(key)
    return value if isinstance(value, str) else ""


def _blocks(content: Any) -> list[dict[str, Any]]:
    return _dicts(content) if isinstance(content, list) else [{"type": "text", "text": content}]


def _arguments(text: Any) -> dict[str, Any]:
    try:
        return _dict(msgspec.json.decode(text)) if isinstance(text, str) else {}
    except (msgspec.DecodeError, RecursionError):
        return {}


def _text(content: Any) -> str:
    """All text of a string or of a list of blocks."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in _dicts(content) if isinstance(block.get("text"), str))
