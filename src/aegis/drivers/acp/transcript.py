"""The history of a session as the program replays it: enough to know which messages it has.

A prompt is one text, its parts set apart by empty lines (`words`), so that a message is found in it as a whole however the
program cuts or joins the blocks.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from aegis.core.envelopes import Image
from aegis.drivers import Message

#: What the program is told when it goes on with a turn that was cut.
GO_ON: Final = "You were interrupted in the middle of your work. See what is done already, and go on where you stopped."
#: How what it is told begins when it stopped because it was not allowed something.
REFUSED: Final = "Not everything that you asked for was allowed:"
_GAP: Final = "\n\n"
#: How many of the last prompts are kept, and how many characters of each.
_KEPT: Final = 64
_MOST: Final = 4_000_000
#: Updates that stand for neither side of the conversation.
_ASIDE: Final = frozenset(
    {"available_commands_update", "usage_update", "current_mode_update", "config_option_update", "session_info_update"}
)


def blocks(before: list[str], messages: list[Message]) -> list[dict[str, Any]]:
    """The content blocks of a prompt: texts in one block as long as no picture comes between."""
    made: list[dict[str, Any]] = []
    texts: list[tuple[str, list[Image]]] = [(text, []) for text in before] + [(message.text, message.images) for message in messages]
    pieces: list[str] = []
    for number, (text, images) in enumerate(texts):
        pieces.append((_GAP if number else "") + text)
        if images:
            made.append({"type": "text", "text": "".join(pieces)})
            made += [{"type": "image", "mimeType": image.media_type, "data": image.data} for image in images]
            pieces = []
    if pieces:
        made.append({"type": "text", "text": "".join(pieces)})
    return [block for block in made if block.get("text", "x")]


class Transcript:
    """The user's side of a history, newest last. `ignore` are beginnings of texts that are not a person's."""

    def __init__(self, ignore: tuple[str, ...], until: str = "") -> None:
        self.complete = not until  # the update that ends it was seen
        self._ignore = ignore
        self._until = until
        self._prompts: deque[list[str]] = deque(maxlen=_KEPT)
        self._size = 0  # characters of the last one
        self._open = False
        self._message: Any = None

    def add(self, update: dict[str, Any]) -> None:
        """One replayed update."""
        kind = update.get("sessionUpdate")
        if kind == self._until:
            self.complete = True
        if kind != "user_message_chunk":
            self._open = self._open and isinstance(kind, str) and kind in _ASIDE
            return
        content, message = update.get("content"), update.get("messageId")
        text = content.get("text") if isinstance(content, dict) else None
        if isinstance(text, str) and text.startswith(self._ignore) and self._ignore:
            self._open = False
            return
        if not self._open or (message is not None and message != self._message):
            self._prompts.append([])
            self._size = 0
        self._open, self._message = True, message
        if isinstance(text, str) and self._size < _MOST:
            self._size += len(text)
            self._prompts[-1].append(text)

    def known(self, pending: list[Message]) -> tuple[str, ...]:
        """The ids of those messages that it holds: they are looked for in the last prompt, and in what it only went on with."""
        last: list[str] = []
        for prompt in map("".join, reversed(self._prompts)):
            last.append(f"{_GAP}{_plain(prompt)}{_GAP}")
            if not _plain(prompt).startswith((GO_ON, REFUSED)):
                break
        return tuple(message.id for message in pending if any(f"{_GAP}{_plain(message.text)}{_GAP}" in prompt for prompt in last))


def _plain(text: str) -> str:
    """A text without what programs change about it: ends of lines and space around."""
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip()
