"""Placeholders in data files: `{endpoint}`, `{model}` and the like, in texts and in tables that become JSON.

Only what looks like a placeholder, a small word in braces, is one; all other braces stay as they are. In a table a text that
is nothing but `{context}` or `{output}` becomes the number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

#: What each one stands for is told in docs/agents-acp.md.
NAMES: Final = (
    "endpoint",
    "token",
    "model",
    "home",
    "tmp",
    "cwd",
    "effort",
    "mode",
    "permission",
    "system",
    "servers",
    "context",
    "output",
)
_NUMBERS: Final = ("context", "output")
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")

Values = Mapping[str, str | int]


def unknown(value: Any) -> str | None:
    """The first placeholder in a template, or anywhere in a table of them, that does not exist."""
    return next((name for name in _names(value) if name not in NAMES), None)


def needs(value: Any, name: str) -> bool:
    """Whether the placeholder `name` is anywhere in it."""
    return name in _names(value)


def text(template: str, values: Values) -> str:
    """The template with every placeholder filled in."""
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), template)


def document(value: Any, values: Values) -> str:
    """A template as it is, anything else as JSON with the texts in it filled in."""
    return text(value, values) if isinstance(value, str) else msgspec.json.encode(_filled(value, values)).decode()


def _filled(value: Any, values: Values) -> Any:
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        return values[whole[1]] if whole and whole[1] in _NUMBERS else text(value, values)
    if isinstance(value, dict):
        return {text(key, values): _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return _PLACEHOLDER.findall(value)
    if isinstance(value, dict):
        return [name for pair in value.items() for one in pair for name in _names(one)]
    if isinstance(value, list):
        return [name for one in value for name in _names(one)]
    return []
