"""What a tool gives back, and how it says that it cannot."""

from __future__ import annotations

#: Characters of text that one tool passes on.
LIMIT = 50_000


class Output:
    """The result of a tool. `truncated` says that there was more; `pictures` are pairs of a media type and base64."""

    def __init__(self, text: str, *, ok: bool = True, truncated: bool = False, pictures: list[tuple[str, str]] | None = None) -> None:
        self.text = text
        self.ok = ok
        self.truncated = truncated
        self.pictures = pictures or []


class ToolError(Exception):
    """The tool cannot do it; the text says why and what to do instead."""


def lines(found: list[str], limit: int, more: bool, none: str) -> Output:
    """One line each, at most `limit` of them. `more` says that there were others, `none` is said when there is nothing."""
    kept, size = [], 0
    for line in found[:limit]:
        size += len(line) + 1
        if size > LIMIT:
            break
        kept.append(line)
    cut = more or len(kept) < len(found)
    text = "\n".join(kept) or none
    return Output(f"{text}\n[only the first {len(kept)} are shown; narrow it down]" if cut else text, truncated=cut)
