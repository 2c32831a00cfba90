"""What a server's tool gives back, as text and pictures for the model."""

from __future__ import annotations

from aegis.guest.agent.context import clip
from aegis.guest.agent.mcp import one_line
from aegis.guest.agent.tools.output import LIMIT, Output
from aegis.tether.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What every model takes as a picture, and the most of one in characters of base64; how many are passed on.
_PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_MAX_PICTURE, _MOST_PICTURES = 5 * 1024 * 1024, 8


def output(result: Any) -> Output:
    """The result of a call."""
    if not isinstance(result, dict):
        return Output("error: the server's answer is no result of a tool", ok=False)
    if result.get("resultType") == "input_required":
        return Output("error: the server wants something from a person first, and nobody can be asked here", ok=False)
    pictures: list[tuple[str, str]] = []
    content = result.get("content")
    parts = [_part(block, pictures) for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    if result.get("structuredContent") is not None and not any(parts):
        parts.append(_json(result["structuredContent"]))
    text = "\n".join(part for part in parts if part)
    ok = result.get("isError") is not True
    shown = clip(text, LIMIT)
    return Output(
        shown or ("(no output)" if ok else "error: it failed and said nothing"), ok=ok, truncated=len(text) > LIMIT, pictures=pictures
    )


def _part(block: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    """The text of a block; a picture goes to `pictures`."""
    kind, text = block.get("type"), block.get("text")
    if kind == "text":
        return text if isinstance(text, str) else ""
    if kind == "image":
        return _picture(block, pictures)
    if kind == "resource_link":
        return " ".join(part for part in ("[a link:", _word(block, "uri"), _word(block, "title") or _word(block, "name")) if part) + "]"
    if kind == "resource" and isinstance(inner := block.get("resource"), dict):
        if isinstance(inner.get("text"), str):
            return f"[{_word(inner, 'uri') or 'a resource'}]\n{inner['text']}"
        if _word(inner, "mimeType") in _PICTURES:
            return _picture({"data": inner.get("blob"), "mimeType": inner["mimeType"]}, pictures)
        return f"[a resource that cannot be shown: {_word(inner, 'uri')} {_word(inner, 'mimeType')}]"
    return f"[{_word(block, 'type') or 'something'} that cannot be shown: {_word(block, 'mimeType')}]"


def _picture(block: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    data, media_type = block.get("data"), _word(block, "mimeType")
    if media_type not in _PICTURES or not isinstance(data, str):
        return f"[a picture that cannot be shown: {media_type}]"
    if len(data) > _MAX_PICTURE or len(pictures) == _MOST_PICTURES:
        return f"[a picture is left out: {'it is too large' if len(data) > _MAX_PICTURE else 'there are too many'}]"
    import binascii  # 0.3 ms, for pictures only

    try:
        raw = binascii.a2b_base64(data.encode("ascii"))
    except (ValueError, binascii.Error):
        return "[a picture that is no base64]"
    if not raw:
        return "[an empty picture]"
    pictures.append((media_type, binascii.b2a_base64(raw, newline=False).decode()))
    return f"[picture {len(pictures)}: {media_type}, {len(raw)} bytes]"


def _word(block: dict[str, Any], name: str) -> str:
    value = block.get(name)
    return one_line(value, 500) if isinstance(value, str) else ""


def _json(value: Any) -> str:
    try:
        return dumps_text(value).decode()
    except (ValueError, TypeError, RecursionError):
        return "[a structure that cannot be shown]"
