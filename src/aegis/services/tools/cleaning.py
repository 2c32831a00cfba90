"""What strangers say of their tools and give as results, as a model may be shown it.

A definition is taken as it is or not at all: its name, its size and its shape have bounds, and what cannot be seen in its texts is
written out, so that whoever looks at it sees what the model sees. The server checks the arguments; its schema is a hint.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, NamedTuple

import msgspec

from aegis.core.events import ToolKind
from aegis.core.text import one_line
from aegis.services.tools import Definition, Result

#: What a tool may be called, and the longest name that programs take for `SERVER__tool`.
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}", re.ASCII)
LONGEST: Final = 64
#: The most of a description in characters, of a definition in bytes of JSON, of a schema in levels and in parts.
_ABOUT: Final = 8000
MAX_DEFINITION: Final = 64 * 1024
_DEPTH: Final = 24
_NODES: Final = 4000
_PICTURES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_MOST_PARTS: Final = 64
#: A line by which Aegis itself tells who wrote a message; nobody else's line may begin so.
_HEADER: Final = re.compile(r"^> from ", re.MULTILINE)


class Cleaned(NamedTuple):
    """What is left of a list: definitions, and why others were left out, by name."""

    tools: list[Definition]
    refused: dict[str, str]


def definitions(listed: list[dict[str, Any]]) -> Cleaned:
    """The definitions of a server's tools."""
    found: list[Definition] = []
    refused: dict[str, str] = {}
    for tool in listed:
        name = str(tool["name"])
        try:
            found.append(_definition(name, tool))
        except ValueError as error:
            refused[one_line(ascii(name).strip("'"), 80)] = str(error)
    return Cleaned(found, refused)


def _definition(name: str, tool: dict[str, Any]) -> Definition:
    """One definition. Raises ValueError with the reason why it is left out."""
    if not NAME.fullmatch(name):
        raise ValueError("its name has other characters than letters, digits and `_./-`")
    schema = tool.get("inputSchema")
    if schema is None:
        schema = {"type": "object"}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise ValueError("its arguments are no object")
    try:
        size = len(msgspec.json.encode(schema))
    except (RecursionError, ValueError, TypeError):
        raise ValueError("its schema cannot be written down") from None
    if size > MAX_DEFINITION:
        raise ValueError(f"its schema has {size} bytes, over {MAX_DEFINITION}")
    counted = [0]
    shown = _shown(schema, 0, counted)
    told = tool.get("description") or tool.get("title") or ""
    told = seen(told.strip()) if isinstance(told, str) else ""
    if len(told) > _ABOUT:
        raise ValueError(f"its description has {len(told)} characters, over {_ABOUT}")
    notes = tool.get("annotations")
    reads = isinstance(notes, dict) and notes.get("readOnlyHint") is True
    kind: ToolKind = "other"
    return Definition(name=name, description=told, schema={**shown, "type": "object"}, kind=kind, changes=not reads)


def _shown(value: Any, depth: int, counted: list[int]) -> Any:
    """A schema with what cannot be seen in its texts written out. Raises ValueError for one that is too deep or has too many parts."""
    counted[0] += 1
    if depth > _DEPTH or counted[0] > _NODES:
        raise ValueError("its schema is too deep or has too many parts")
    if isinstance(value, str):
        return seen(value)
    if isinstance(value, list):
        return [_shown(one, depth + 1, counted) for one in value]
    if isinstance(value, dict):
        if isinstance(ref := value.get("$ref"), str) and not ref.startswith("#"):
            raise ValueError("its schema refers to something outside of it")
        return {seen(str(name)): _shown(one, depth + 1, counted) for name, one in value.items()}
    return value


def seen(text: str) -> str:
    """A text in which each character that cannot be seen, but would be read by a model, is written out as `<U+200B>`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _hidden(c) else f"<U+{ord(c):04X}>" for c in text)


def _hidden(c: str) -> bool:
    """Control and format characters, lone surrogates, private use, tags and selectors."""
    point = ord(c)
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") or 0xFE00 <= point <= 0xFE0F or 0xE0100 <= point <= 0xE01EF


def plain(text: str) -> str:
    """A text of a result: what acts without being seen is written out, and no line looks like one of Aegis's own."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if c in "\n\t\r" or not _acts(c) else f"<U+{ord(c):04X}>" for c in text)
    return _HEADER.sub("> > from ", text)


def _acts(c: str) -> bool:
    """What terminals obey, what turns text around, and what spells words that nobody sees; joiners of emoji and scripts stay."""
    point = ord(c)
    return point < 32 or 0x7F <= point <= 0x9F or 0x202A <= point <= 0x202E or 0x2066 <= point <= 0x2069 or 0xE0000 <= point <= 0xE007F


def result(given: Any, limit: int) -> Result:
    """What a server's tool gave, at most `limit` bytes of it."""
    if not isinstance(given, dict):
        return _error("the answer of the server is no result of a tool")
    if given.get("resultType") == "input_required":
        return _error("the server wants something from a person first, and nobody can be asked here")
    blocks = given.get("content")
    parts = [_part(block) for block in blocks[:_MOST_PARTS] if isinstance(block, dict)] if isinstance(blocks, list) else []
    structured = given.get("structuredContent")
    if not isinstance(structured, dict):
        structured = None
    if structured is not None and not parts:
        parts = [{"type": "text", "text": plain(msgspec.json.encode(structured).decode())}]
    if isinstance(blocks, list) and len(blocks) > _MOST_PARTS:
        parts.append({"type": "text", "text": f"[{len(blocks) - _MOST_PARTS} more parts were left out]"})
    return bounded(Result(content=parts, structured=structured, is_error=given.get("isError") is True), limit)


def bounded(given: Result, limit: int) -> Result:
    """A result of at most about `limit` bytes: texts are cut, what cannot be cut is left out, and it is said."""
    left = limit
    kept: list[dict[str, Any]] = []
    for part in given.content:
        text = part.get("text")
        if not isinstance(text, str):
            size = len(part.get("data", "")) if isinstance(part.get("data"), str) else 0
            if size > left:
                part = {"type": "text", "text": f"[{part.get('mimeType', 'something')} of {size} bytes was left out: it is too large]"}
            else:
                left -= size
            kept.append(part)
            continue
        data = text.encode("utf-8", "replace")
        if len(data) > left:
            cut = data[: max(left, 0)].decode("utf-8", "ignore")
            part = {**part, "text": f"{cut}\n[{len(data) - len(cut.encode())} more bytes were left out: ask for less]"}
        left = max(0, left - len(data))
        kept.append(part)
    structured = given.structured
    if structured is not None:
        try:
            if len(msgspec.json.encode(structured)) > limit:
                structured = None
        except (RecursionError, ValueError, TypeError):
            structured = None
    return Result(content=kept, structured=structured, is_error=given.is_error)


def _error(text: str) -> Result:
    return Result(content=[{"type": "text", "text": text}], is_error=True)


def _part(block: dict[str, Any]) -> dict[str, Any]:
    """A block as it is passed on: text, or a picture of a kind that models take."""
    kind, text = block.get("type"), block.get("text")
    if kind == "text":
        return {"type": "text", "text": plain(text) if isinstance(text, str) else ""}
    if kind == "image" and block.get("mimeType") in _PICTURES and isinstance(block.get("data"), str):
        return {"type": "image", "data": block["data"], "mimeType": block["mimeType"]}
    if kind == "resource" and isinstance(inner := block.get("resource"), dict) and isinstance(inner.get("text"), str):
        return {"type": "text", "text": f"[{_word(inner, 'uri') or 'a resource'}]\n{plain(inner['text'])}"}
    if kind == "resource_link":
        return {"type": "text", "text": f"[a link: {_word(block, 'uri')} {_word(block, 'title') or _word(block, 'name')}]"}
    return {"type": "text", "text": f"[{_word(block, 'type') or 'something'} that cannot be shown: {_word(block, 'mimeType')}]"}


def _word(block: dict[str, Any], name: str) -> str:
    value = block.get(name)
    return one_line(value, 500) if isinstance(value, str) else ""
