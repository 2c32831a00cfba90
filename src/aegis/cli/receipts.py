"""How far a message came and when, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from aegis.cli import render

if TYPE_CHECKING:
    from aegis.client.shapes import Mail

#: The states of a message with their colours.
STATES: Final = {"accepted": "cyan", "injected": "yellow", "acknowledged": "green", "failed": "red", "expired": "red"}


def sender(item: Mail) -> str:
    """Who wrote it, as people say it."""
    told = item.get("name") or item["sender"]
    return f"{told} ({item['status']})" if item.get("status") else told


def later(item: Mail, key: Literal["injected_at", "acknowledged_at", "done_at"]) -> str:
    """How long after it was accepted."""
    then, accepted = render.moment(item.get(key)), render.moment(item["accepted_at"])
    if then is None or accepted is None:
        return "-"
    seconds = (then - accepted).total_seconds()
    return f"+{seconds * 1000:.0f} ms" if seconds < 1 else f"+{seconds:.1f} s" if seconds < 100 else f"+{seconds / 60:.0f} min"


def times(item: Mail) -> str:
    """How far it came and when, in a line."""
    steps = [f"accepted {render.clock(item['accepted_at'])}"]
    if item.get("injected_at"):
        steps.append(f"injected {later(item, 'injected_at')}")
    if item.get("acknowledged_at"):
        steps.append(f"acknowledged {later(item, 'acknowledged_at')}")
    if item.get("done_at"):
        steps.append(f"done {later(item, 'done_at')}")
    return ", ".join(steps)
