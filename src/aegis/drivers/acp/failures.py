"""What an agent's JSON-RPC errors mean, as the errors of Aegis.

Agents tell the same in many ways: an HTTP status as the code or somewhere in `data`, the provider's own error as JSON in the
message, the time at which a limit ends as a number, a date or words. Everything is looked for, nothing is expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

#: The code by which an agent says that one must log in first, and the one for a thing that is not there.
AUTH_REQUIRED: Final = -32000
NOT_FOUND: Final = -32002

_STATUS_KEYS: Final = frozenset({"status", "statuscode", "status_code", "httpstatus", "http_status", "code"})
_DELAY_KEYS: Final = frozenset(
    {"retrydelay", "retry_delay", "retryafter", "retry_after", "retry-after", "retrydelayms", "retry_after_seconds"}
)
_TIME_KEYS: Final = frozenset({"resetsat", "resets_at", "resetat", "reset_at", "resettime", "reset_time"})
_STATUS_TEXT: Final = re.compile(r"(?i)\b(?:http|status(?: code)?|error|code)[\s:=]*([45]\d\d)\b")
_LIMIT_TEXT: Final = re.compile(
    r"(?i)rate.?limit|usage limit|quota.{0,20}(?:exceeded|exhausted)|exceeded.{0,40}quota"
    r"|exhausted.{0,40}(?:quota|capacity)|RESOURCE_EXHAUSTED|too many requests"
)
_IN: Final = re.compile(
    r"(?i)(?:resets?|retry|again|try)\D{0,24}?\b(?:after|in)\s+"
    r"((?:\d+(?:\.\d+)?\s*(?:days?|hours?|min(?:ute)?s?|sec(?:ond)?s?|ms|[dhms])[\s,]*)+)"
)
_PIECE: Final = re.compile(r"(?i)(\d+(?:\.\d+)?)\s*(ms|d|h|m|s)")
_AT: Final = re.compile(
    r"(?i)resets?\D{0,16}?\b(?:at|on)?\s*(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?|\d{10,13}\b)"
)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: No limit lasts longer than this, in seconds: a time beyond it was read wrongly.
_LONGEST: Final = 370 * 86400.0


def described(error: Any, now: float) -> AegisError:
    """An agent's error as one of ours; `now` is the wall time. With a limit `resets_at` is in the data, where it was told."""
    error = error if isinstance(error, dict) else {"message": str(error)}
    text = str(error.get("message") or "the program gave no reason")
    inner = _json(text)
    pairs = list(_pairs([error.get("data"), inner], 0))
    if inner is not None:
        text = next((str(value) for key, value in pairs if key == "message" and isinstance(value, str) and value), text)
    elif details := next((value for key, value in pairs if key in ("details", "message") and isinstance(value, str) and value), ""):
        text = details if text.strip().lower() in ("internal error", "") else text if details in text else f"{text}: {details}"
    code = error.get("code")
    everything = " ".join([str(error.get("message")), *(str(value) for _, value in pairs if isinstance(value, str))])[:20_000]
    status = _status(code, pairs, everything)
    data: dict[str, Any] = {"code": code} if isinstance(code, int) and code != status else {}
    if status:
        data["status"] = status
    if status == 429 or (status in (0, 402, 403) and _LIMIT_TEXT.search(everything)):
        if (resets := _resets(pairs, everything, now)) is not None:
            data["resets_at"] = resets
        return AegisError(ErrorKind.LIMIT, f"the model's provider gives no more for now: {text}", **data)
    if code == AUTH_REQUIRED or status == 401:
        return AegisError(ErrorKind.DENIED, f"the program is not logged in: {text}", **data)
    return AegisError(ErrorKind.FAILED, text, **data)


def _status(code: Any, pairs: list[tuple[str, Any]], text: str) -> int:
    told = [code, *(value for key, value in pairs if key in _STATUS_KEYS)]
    for value in told:
        if isinstance(value, int) and 400 <= value < 600:
            return value
        if isinstance(value, str) and re.fullmatch("[45][0-9]{2}", value):
            return int(value)
    found = _STATUS_TEXT.search(text)
    return int(found[1]) if found else 0


def _resets(pairs: list[tuple[str, Any]], text: str, now: float) -> float | None:
    for key, value in pairs:
        at = _time(value) if key in _TIME_KEYS else None
        if at is None and key in _DELAY_KEYS and (delay := _delay(value, key)) is not None:
            at = now + delay
        if at is not None and now - 60 <= at <= now + _LONGEST:
            return max(at, now)
    if found := _AT.search(text):
        at = _time(found[1])
        if at is not None and now <= at <= now + _LONGEST:
            return at
    if found := _IN.search(text):
        return now + min(sum(float(n) * _UNITS[unit.lower()] for n, unit in _PIECE.findall(found[1])), _LONGEST)
    return None


def _delay(value: Any, key: str) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18:
        return value / 1000 if key.endswith("ms") else float(value)
    if isinstance(value, str):
        pieces = _PIECE.findall(value)
        if pieces:
            return sum(float(n) * _UNITS[unit.lower()] for n, unit in pieces)
        if value.replace(".", "", 1).isdecimal():
            return float(value)
    return None


def _time(value: Any) -> float | None:
    if isinstance(value, str) and not value.isdecimal():
        try:
            at = datetime.fromisoformat(value)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if not isinstance(value, str) and abs(value) >= 1e18:
        return None
    number = float(value)
    return number / 1000 if number > 1e11 else number


def _json(text: str) -> Any:
    start = text.find("{")
    if start < 0:
        return None
    try:
        found = msgspec.json.decode(text[start:])
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _pairs(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Every key and value in it, outermost first, with keys in small letters; bounded in depth."""
    if depth > 8:
        return
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, dict):
        yield from ((str(key).lower(), inner) for key, inner in value.items())
    for inner in inside:
        if isinstance(inner, str) and inner.lstrip().startswith("{"):
            inner = _json(inner)
        if isinstance(inner, dict | list):
            yield from _pairs(inner, depth + 1)
