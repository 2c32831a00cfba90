"""Budgets as people write them on a command line: `1.50`, `$2/24h`, `200000tokens`, `usd:1.00:1h`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.budgets.money import dollars
from aegis.services.config.bounds import LEAST_WINDOW, MAX_TOKENS
from aegis.services.config.model import Allowance

if TYPE_CHECKING:
    from collections.abc import Sequence

_WINDOW: Final = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|m|h|d)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_TOKENS: Final = re.compile(r"([0-9][0-9_,]{0,20}|[0-9]+(?:\.[0-9]+)?[kM])(?: ?(tokens|output_tokens))")
_PREFIXED: Final = re.compile(r"(usd|tokens|output_tokens):([^:]+)(?::([^:]+))?")
_HINT: Final = "write dollars such as `1.50`, or `200000tokens`; with `/24h` behind it, in what time"


def window(text: str) -> float:
    """A window such as `5h`, in seconds. Raises USAGE."""
    found = _WINDOW.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not LEAST_WINDOW <= seconds <= 366 * 86_400:
        raise AegisError(ErrorKind.USAGE, f"{one_line(text, 40)!r} is not a window", "write such as `90s`, `5h` or `7d`, 366 days at most")
    return seconds


def allowance(texts: Sequence[str]) -> Allowance:
    """What several such texts bound together, in one window. Raises USAGE."""
    amounts: dict[str, int] = {}
    spans: set[float | None] = set()
    for text in texts:
        kind, amount, within = _one(text)
        if kind in amounts:
            raise AegisError(ErrorKind.USAGE, f"two budgets of {kind}", "give one of each kind")
        amounts[kind] = amount
        spans.add(window(within) if within else None)
    if len(spans) > 1:
        raise AegisError(ErrorKind.USAGE, "all of these are in one window", "`budgets` in a file makes several")
    return Allowance(**amounts, window=spans.pop() if spans else None)


def _one(text: str) -> tuple[str, int, str | None]:
    kind, rest, within = "", text.strip(), None
    if found := _PREFIXED.fullmatch(rest):
        kind, rest, within = found[1], found[2], found[3]
    else:
        rest, slash, behind = rest.partition("/")
        within = behind if slash else None
        if tokens := _TOKENS.fullmatch(rest):
            kind, rest = tokens[2], tokens[1]
    amount = dollars(rest) if kind in ("", "usd") else _tokens(rest)
    if amount is None:
        raise AegisError(ErrorKind.USAGE, f"{one_line(text, 60)!r} is not a budget", _HINT)
    return kind or "usd", amount, within


def _tokens(text: str) -> int | None:
    try:
        scale = {"k": 1000, "M": 1_000_000}.get(text[-1:], 1)
        number = int(float(text[:-1]) * scale) if scale > 1 else int(text.replace("_", "").replace(",", ""))
    except (ValueError, OverflowError):
        return None
    return number if 0 < number <= MAX_TOKENS else None
