"""What becomes of something that is new or changed: by the table, by what the agent was started with, by its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.services.guarding.classes import RULES, WORDS
from aegis.services.guarding.gitfiles import harmless_pointer

if TYPE_CHECKING:
    from aegis.services.guarding.model import Item


def judge(item: Item, content: bytes | None, before: bytes, guard: str) -> str:
    """`hold`, `tell` or `off`.

    Args:
        item: as it is now; `content` are its bytes, None for what is no file.
        before: the bytes that were there before, none where there was nothing.
        guard: what the agent was started with.
    """
    rule = RULES[item.rule]
    does = rule.does
    if item.kind == "file" and content is not None:
        if rule.name == "git directory" and harmless_pointer(item.path, content):
            return "off"
        if rule.harmless is not None and rule.harmless(content, before):
            does = "off" if rule.name == "git config" else "tell"
        elif rule.harmless is not None:
            does = "hold"
    return max(does, guard, key=WORDS.index)
