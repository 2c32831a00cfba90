"""Pictures in messages: what is let in. A picture is what its first bytes say, not what its sender says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aegis.core.envelopes import IMAGE_TYPES, MAX_IMAGE, MAX_IMAGES
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.envelopes import Image

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def kind_of(data: bytes) -> str | None:
    """The media type of a picture by its first bytes; None for what is none of `IMAGE_TYPES`."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)


def check_images(images: Sequence[Image]) -> None:
    """Raise AegisError (USAGE, TOO_LARGE) for the first picture that cannot be sent, counting from 1."""
    if len(images) > MAX_IMAGES:
        raise AegisError(
            ErrorKind.TOO_LARGE, f"the message has {len(images)} pictures, the limit is {MAX_IMAGES}", "send them in several messages"
        )
    for n, image in enumerate(images, 1):
        if len(image.data) > MAX_IMAGE:
            raise AegisError(
                ErrorKind.TOO_LARGE,
                f"picture {n} has {len(image.data):,} bytes, the limit is {MAX_IMAGE:,}",
                "make it smaller, or put it into the workspace and name it in the message",
            )
        kind = kind_of(image.data)
        if image.media_type not in IMAGE_TYPES or kind is None:
            said = image.media_type if image.media_type not in IMAGE_TYPES else f"no {image.media_type.partition('/')[2]} inside"
            raise AegisError(ErrorKind.USAGE, f"picture {n} cannot be sent ({said[:60]})", f"send one of {', '.join(IMAGE_TYPES)}")
        if kind != image.media_type:
            raise AegisError(ErrorKind.USAGE, f"picture {n} is called {image.media_type} and is {kind}", f"call it {kind}")
