"""What the tools answer with: text within a size, and errors that say what to do next."""

from __future__ import annotations

from typing import Any

from aegis.services.tools import Result


class Kept:
    """Output as it comes, of which the middle is dropped when it is longer than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._head_size = limit // 3
        self._tail_size = limit - self._head_size
        self._head = bytearray()
        self._tail = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        """More of it."""
        room = self._head_size - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._tail_size:
            self._cut()

    def text(self) -> str:
        """What is kept."""
        self._cut()
        if not self.dropped:
            return (self._head + self._tail).decode("utf-8", "replace")
        head, tail = (bytes(part).decode("utf-8", "replace") for part in (self._head, self._tail))
        return f"{head}\n[... {self.dropped} bytes left out ...]\n{tail}"

    def _cut(self) -> None:
        over = len(self._tail) - self._tail_size
        if over > 0:
            del self._tail[:over]
            self.dropped += over


def said(text: str, data: dict[str, Any] | None = None, *, failed: bool = False) -> Result:
    """A result of one text, with the same as data for programs."""
    return Result(content=[{"type": "text", "text": text}], structured=data, is_error=failed)


def cut(text: str, limit: int) -> tuple[str, bool]:
    """The beginning of a text that has at most `limit` bytes, and whether there was more."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text, False
    return data[:limit].decode("utf-8", "ignore"), True
