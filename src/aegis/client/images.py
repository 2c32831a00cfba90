"""Pictures for messages: from a file to what the daemon takes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from aegis.client.shapes import ImageSpec
from aegis.core.errors import AegisError, ErrorKind

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def read_image(path: str | Path) -> ImageSpec:
    """The picture in a file; what kind it is its first bytes say. Raises NOT_FOUND, and USAGE for what is no picture we can send."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise AegisError(ErrorKind.NOT_FOUND, f"the picture {path} cannot be read: {error.strerror}", "check the path") from None
    return image_of(data, str(path))


def image_of(data: bytes, name: str = "this") -> ImageSpec:
    """The picture of these bytes. Raises USAGE and TOO_LARGE; `name` stands for it in the message."""
    from aegis.core.envelopes import MAX_IMAGE

    kind = next((kind for beginning, kind in _BEGINNINGS if data.startswith(beginning)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise AegisError(ErrorKind.USAGE, f"{name} is no picture in PNG, JPEG, GIF or WebP", "convert it")
    if len(data) > MAX_IMAGE:
        raise AegisError(ErrorKind.TOO_LARGE, f"{name} has {len(data):,} bytes, the limit is {MAX_IMAGE:,}", "make it smaller")
    return ImageSpec(media_type=kind, data=base64.b64encode(data).decode())
