"""The pictures of a conversation. Memory names them by message and number; their bytes are here, and only the newest.

A block of memory is `{"type": "image", "media_type", "message", "n"}`. Its data comes with the message, or with the history that the
agent is started with, and is never sent back to the daemon, which has it by the same name. What a tool showed nobody else has: the
next process knows only that there was something.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    Block = dict[str, Any]

#: How much of pictures is kept, and goes into a request at most, in characters of base64; the broker takes 32 MiB in all.
LIMIT = 24 * 1024 * 1024
GONE = "[a picture was here; it is not kept any more]"


class Pictures:
    """The data of the newest pictures, as base64."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._data: dict[tuple[str, int], str] = {}

    def take(self, message: str, images: list[dict[str, Any]]) -> list[Block]:
        """Keep the pictures that come with a message; returns their blocks."""
        for n, image in enumerate(images):
            self._keep((message, n), image["data"])
        return [{"type": "image", "media_type": image["media_type"], "message": message, "n": n} for n, image in enumerate(images)]

    def made(self, images: list[dict[str, Any]]) -> list[Block]:
        """Keep the pictures that a tool gave back; returns their blocks. Only this process has them, by a name that nothing else has."""
        return self.take(f"tool_{os.urandom(8).hex()}", images)

    def learn(self, history: list[Message]) -> list[Message]:
        """Take the data out of the blocks of a history, oldest first, and keep it here; returns the history without it."""
        return [{**m, "content": [self._learned(block) for block in m["content"]]} for m in history]

    def shown(self, messages: list[Message]) -> list[Message]:
        """The messages with the data of their pictures, as a model is shown them."""
        return [{**m, "content": [self._shown(block) for block in m["content"]]} for m in messages]

    def _learned(self, block: Block) -> Block:
        if block["type"] != "image":
            return block
        block = dict(block)
        if data := block.pop("data", None):
            self._keep((block["message"], block["n"]), data)
        return block

    def _shown(self, block: Block) -> Block:
        if block["type"] != "image":
            return block
        data = self._data.get((block["message"], block["n"]))
        return {"type": "text", "text": GONE} if data is None else {**block, "data": data}

    def _keep(self, name: tuple[str, int], data: str) -> None:
        self._size += len(data) - len(self._data.pop(name, ""))
        self._data[name] = data
        while self._size > self._limit:
            self._size -= len(self._data.pop(next(iter(self._data))))
