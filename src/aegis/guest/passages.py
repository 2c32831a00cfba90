"""Passages in a text: finding the one that is meant, exchanging it, and saying what is there instead."""

from __future__ import annotations

#: The longest line that is shown of a text, in characters.
MAX_LINE = 2000
_SNIFF = 8192


class NotThere(Exception):
    """The passage is not there, or not there once; the text says what is, for whoever asked."""


def is_binary(data: bytes) -> bool:
    """Whether the beginning of a file looks like anything but text."""
    return b"\0" in data[:_SNIFF]


def exchange(name: str, text: str, old: str, new: str, *, every: bool = False, called: str = "old_text") -> tuple[str, list[int]]:
    """`text` with `old` replaced by `new`, and the lines where it stood. Raises NotThere unless it stands there exactly once, or `every`.

    `name` is what the text is called, `called` what `old` is called, both for the message. Where the text ends its lines with CRLF, the
    two may be given with LF.
    """
    if not old:
        raise NotThere(f"{called} is empty; to make a new file use write")
    if old == new:
        raise NotThere(f"{called} and its replacement are the same")
    if old not in text and "\r\n" in text:
        old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
    found = _places(text, old)
    if not found:
        raise NotThere(_not_found(name, text, old, called))
    if len(found) > 1 and not every:
        raise NotThere(f"{called} stands {len(found)} times in `{name}` (lines {listed(found)}); add lines around it to make it unique")
    return text.replace(old, new), found


def listed(numbers: list[int]) -> str:
    """The first of some numbers."""
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def _places(text: str, part: str) -> list[int]:
    places, at = [], text.find(part)
    while at >= 0:
        places.append(text.count("\n", 0, at) + 1)
        at = text.find(part, at + len(part))
    return places


def _not_found(name: str, text: str, old: str, called: str) -> str:
    """Say that `old` is not there, and show the place most like it."""
    have, want = text.splitlines(), old.splitlines()
    flat, wanted = [line.split() for line in have], [line.split() for line in want]
    for i in range(len(have) - len(want) + 1):
        end = i + len(want)
        if flat[i:end] == wanted:
            return f"{called} is not in `{name}` as given; lines {i + 1} to {end} differ in white space only:\n" + _excerpt(have, i, end)
    import difflib  # only here: it costs more than the tool

    first = next((line for line in want if line.strip()), "")
    near = difflib.get_close_matches(first.strip(), [line.strip() for line in have[:20_000]], n=1, cutoff=0.5)
    if not near:
        return f"{called} is not in `{name}`; read the file first"
    i = next(i for i, line in enumerate(have) if line.strip() == near[0])
    return f"{called} is not in `{name}`; the nearest lines are:\n" + _excerpt(have, max(0, i - 2), i + len(want) + 2)


def _excerpt(have: list[str], start: int, end: int) -> str:
    return "\n".join(f"{n}\t{line[:MAX_LINE]}" for n, line in enumerate(have[start : min(end, start + 40)], start + 1))
