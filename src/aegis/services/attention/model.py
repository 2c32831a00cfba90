"""The nouns: a notice, and how several are told at once. Texts are one printable line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.text import one_line
from aegis.services.config.telling import NOTICES

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The most characters of a notice, and names in the summary of several.
TEXT: Final = 300
_NAMES: Final = 5
#: What one agent does, and what several do, by the kind of notice.
_DO: Final = {
    "needs-you": ("needs you", "need you"),
    "stuck": ("seems stuck", "seem stuck"),
    "failed": ("failed", "failed"),
    "limited": ("waits for its provider", "wait for their provider"),
    "done": ("is done", "are done"),
}


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something to tell. Times are wall seconds. `cause` tells apart what is the same from what is new; `state` is how far it came."""

    kind: str
    instance: str
    cause: str
    handle: str
    text: str
    session: str | None = None
    turn: str | None = None
    id: int = 0
    state: str = "waiting"
    since: float = 0.0
    told_at: float | None = None


def together(notices: Sequence[Notice]) -> list[Notice]:
    """The newest of each kind of each instance, the most pressing first; its text says when it stands for several."""
    newest: dict[tuple[str, str], Notice] = {}
    counts: dict[tuple[str, str], int] = {}
    for notice in notices:
        place = notice.instance, notice.kind
        newest[place], counts[place] = notice, counts.get(place, 0) + 1
    found = []
    for place, notice in newest.items():
        more = f" (and {counts[place] - 1} more)" if counts[place] > 1 else ""
        found.append(msgspec.structs.replace(notice, text=one_line(notice.text + more, TEXT)))
    return sorted(found, key=lambda notice: NOTICES.index(notice.kind))


def summary(notices: Sequence[Notice], *, quiet: bool) -> str:
    """One line for all that is told at once; `quiet` when it came in quiet hours. `notices` are what `together` returned."""
    if len(notices) == 1:
        text = notices[0].text
    else:
        parts = []
        for kind in dict.fromkeys(notice.kind for notice in notices):
            handles = [notice.handle for notice in notices if notice.kind == kind]
            names = ", ".join(handles[:_NAMES]) + (f" and {len(handles) - _NAMES} more" if len(handles) > _NAMES else "")
            told = f"{len(handles)} agents {_DO[kind][1]}" if len(handles) > 1 else f"1 agent {_DO[kind][0]}"
            parts.append(f"{told}: {names}")
        text = "; ".join(parts)
    return one_line(f"while it was quiet: {text}" if quiet else text, TEXT)
