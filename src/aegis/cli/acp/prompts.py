"""What a person says in the editor, as a message: text, and pictures."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from aegis.client.images import image_of
from aegis.client.shapes import ImageSpec
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.cli.acp.places import Places


def message(blocks: Any, places: Places) -> tuple[str, list[ImageSpec]]:
    """The text and the pictures of a prompt's content blocks. Raises AegisError(USAGE) naming the block, counted from 1."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise AegisError(ErrorKind.USAGE, "`prompt` is a list of content blocks")
    pieces: list[str] = []
    attached: list[str] = []
    images: list[ImageSpec] = []
    for number, block in enumerate(blocks, 1):
        match block:
            case {"type": "text", "text": str(text)}:
                pieces.append(text)
            case {"type": "image", "data": str(data)}:
                images.append(_picture(number, data))
            case {"type": "resource_link", "uri": str(uri)}:
                pieces.append(_link(block.get("name"), places.named(uri)))
            case {"type": "resource", "resource": {"uri": str(uri), "text": str(text)}}:
                named = places.named(uri)
                pieces.append(_link(None, named))
                attached.append(f'<context ref="{named}">\n{text}\n</context>')
            case {"type": "resource", "resource": {"uri": str(uri), "blob": str(data), "mimeType": str(kind)}} if kind.startswith("image/"):
                pieces.append(_link(None, places.named(uri)))
                images.append(_picture(number, data))
            case {"type": kind}:
                told = f"block {number} of the prompt is of the type {str(kind)[:40]!r}, which cannot be sent to an agent"
                raise AegisError(ErrorKind.USAGE, told, "send text, pictures, or links to files")
            case _:
                raise AegisError(ErrorKind.USAGE, f"block {number} of the prompt has no type")
    text = "\n\n".join(["".join(pieces), *attached]).strip()
    if not text and images:
        text = "See the picture." if len(images) == 1 else "See the pictures."
    return text, images


def _link(name: Any, target: str) -> str:
    return f"[@{name}]({target})" if isinstance(name, str) and name and name != target else f"`{target}`"


def _picture(number: int, data: str) -> ImageSpec:
    try:
        return image_of(base64.b64decode(data, validate=True), f"block {number} of the prompt")
    except binascii.Error:
        raise AegisError(ErrorKind.USAGE, f"block {number} of the prompt is not base64") from None
