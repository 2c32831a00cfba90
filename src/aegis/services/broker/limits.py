"""Telling a provider's limit that lasts from one that passes.

A limit that passes within a minute is the program's to wait for; one that lasts holds every agent of the provider. Providers
say it in different places: headers of the answer (`resets_at`), a moment in the text, a list of details, or only a word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.text import one_line
from aegis.models.errors import resets_at

if TYPE_CHECKING:
    from aegis.models import Headers

#: Seconds up to which waiting is left to the program.
PASSES: Final = 60.0
#: No provider's limit lasts longer than this, in seconds: a moment beyond it is not believed.
_LONGEST: Final = 40 * 86_400.0
_QUOTA: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "quota_exceeded", "usage_limit_reached", "usage_limit"})
_USAGE_LIMIT: Final = re.compile(r"usage limit reached(?:\|(\d{9,13}))?|exceeded your current quota|insufficient[ _]quota", re.I)
_PER_DAY: Final = re.compile(r"PerDay|PerMonth|per day|per month|daily|monthly", re.I)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)s")


class Limit(msgspec.Struct, frozen=True):
    """What a provider said. `resets_at` is None where it does not say when."""

    resets_at: float | None
    said: str


def lasting(status: int, headers: Headers, body: bytes, now: float) -> Limit | None:
    """The limit that an error answer speaks of, if it is one that lasts; None for everything else. `now` is wall time."""
    told = _told(body)
    message = _text(told.get("message"))
    if status != 429 and not (400 <= status < 500 and message and (match := _USAGE_LIMIT.search(message)) and match[1]):
        return None
    said = one_line(message, 300)
    moments = (_moment(message), _detailed(told, now), _number(told.get("resets_at")), resets_at(headers, now))
    moment = next((each for each in moments if each is not None), None)
    if moment is not None and moment > now + PASSES:
        return Limit(moment if moment < now + _LONGEST else None, said)
    # A quota of a day may come with a wait of seconds, which would only meet it again.
    return Limit(None, said) if moments[0] is None and _is_quota(told, message) else None


def _told(body: bytes) -> dict[str, Any]:
    """The object `error` of a body; Gemini may put it into a list."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {"message": body[:2000].decode("utf-8", "replace")}
    if isinstance(data, list) and data:
        data = data[0]
    told = data.get("error") if isinstance(data, dict) else None
    if isinstance(told, dict):
        return told
    return {"message": told if isinstance(told, str) else _text(data.get("message")) if isinstance(data, dict) else ""}


def _is_quota(told: dict[str, Any], message: str) -> bool:
    """Whether it is something that is used up, rather than something that is asked for too often."""
    if any(isinstance(told.get(key), str) and told[key] in _QUOTA for key in ("type", "code", "status")):
        return True
    violations = (each.get("violations") for each in _details(told))
    names = [_text(one.get("quotaId")) for each in violations if isinstance(each, list) for one in each if isinstance(one, dict)]
    reasons = [_text(each.get("reason")) for each in _details(told)]
    return any(_PER_DAY.search(name) for name in names) or "QUOTA_EXHAUSTED" in reasons or _USAGE_LIMIT.search(message) is not None


def _detailed(told: dict[str, Any], now: float) -> float | None:
    """The moment that a RetryInfo among the details names."""
    for each in _details(told):
        match = _DURATION.fullmatch(_text(each.get("retryDelay")))
        if match:
            return now + float(match[1])
    return None


def _details(told: dict[str, Any]) -> list[dict[str, Any]]:
    found = told.get("details")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _moment(message: str) -> float | None:
    """The epoch second behind `usage limit reached|`."""
    match = _USAGE_LIMIT.search(message)
    if not match or not match[1]:
        return None
    value = float(match[1])
    return value / 1000 if value > 1e11 else value  # some say it in milliseconds


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
