"""Errors in the shape a dialect's programs expect, and what a provider's own errors tell about its limits."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from aegis.models import Dialect, Headers

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The usual name of an error with this HTTP status."""
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


#: The names that Gemini gives to HTTP statuses.
_CANONICAL: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_NUMBER: Final = re.compile(r"[-+]?\d+(?:\.\d*)?")
_RETRY_DELAY: Final = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,9}(?:\.\d{1,12})?)s"')
#: Numbers above these are moments and not spans, in seconds and in milliseconds.
_EPOCH: Final = 1e9
_EPOCH_MS: Final = 1e11


def error_body(dialect: Dialect, message: str, *, status: int, type: str | None = None, **more: Any) -> bytes:
    """An error as a JSON body. `type` replaces the usual name of the status; `more` stands beside it.

    Not every program obeys `x-should-retry`. All of them repeat 408, 409, 429 and what is 500 or more, and Claude Code repeats
    400, 404 and 422 in other forms; 402 is repeated by none of them.
    """
    body = _error(dialect, message, status, type or error_type(status))
    body["error"].update(more)
    return msgspec.json.encode(body)


def error_event(dialect: Dialect, message: str, *, type: str = "api_error") -> bytes:
    """An error in the middle of a stream, as official clients raise on it."""
    body = _error(dialect, message, 500, type)
    match dialect:
        case "anthropic":
            return _event("error", body)
        case "openai":
            return b"data: " + msgspec.json.encode(body) + b"\n\n"
        case "responses":  # programs read the failed response, the official client reads the error
            failed = {"object": "response", "status": "failed", "error": {"code": "server_error", "message": message}, "output": []}
            error = {"type": "error", "sequence_number": 0, "code": type, "message": message, "param": None, **body}
            return _event("response.failed", {"type": "response.failed", "sequence_number": 0, "response": failed}) + _event("error", error)
        case "gemini":  # no event: its clients look for errors in what comes bare
            return msgspec.json.encode(body) + b"\r\n"


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def _error(dialect: Dialect, message: str, status: int, type: str) -> dict[str, Any]:
    match dialect:
        case "anthropic":
            return {"type": "error", "error": {"type": type, "message": message}}
        case "gemini":
            reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": type.upper(), "domain": "aegis"}
            named = _CANONICAL.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
            return {"error": {"code": status, "message": message, "status": named, "details": [reason]}}
        case _:
            return {"error": {"message": message, "type": type, "param": None, "code": type}}


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds the provider asks to wait (`retry-after-ms`, `retry-after` as seconds or date), or None. `now` is wall time."""
    found = dict(headers)
    try:
        if "retry-after-ms" in found:
            wait = float(found["retry-after-ms"]) / 1000
        elif (value := found.get("retry-after")) is None:
            return None
        elif _NUMBER.fullmatch(value.strip()):
            wait = float(value)
        else:
            wait = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait) if math.isfinite(wait) else None


def told_wait(body: bytes) -> float | None:
    """Seconds that the body of an error asks to wait, as Gemini's do (`RetryInfo`), or None."""
    found = _RETRY_DELAY.search(body)
    return float(found[1]) if found else None


def resets_at(headers: Headers, now: float, body: bytes = b"") -> float | None:
    """When the limit that a 429 speaks of is over, in wall seconds; None when the provider does not say.

    `retry-after` goes first, then what the body asks for, then the latest `-reset` of a limit of which nothing remains.
    """
    for wait in (retry_after(headers, now), told_wait(body)):
        if wait is not None:
            return now + wait
    found = dict(headers)
    whole = "anthropic-ratelimit-unified-reset" in found  # that one is of the limit that was hit, its parts are of each limit
    times = []
    for name, value in headers:
        if whole and name.startswith("anthropic-ratelimit-unified-") and name != "anthropic-ratelimit-unified-reset":
            continue
        limit = _limit_of(name)
        if limit is not None and _is_used_up(limit, found):
            times.append(_moment(value, now))
    known = [moment for moment in times if moment is not None and moment > now]
    return max(known, default=None)


def _limit_of(name: str) -> tuple[str, str] | None:
    """What the headers of the same limit are called before and after `remaining`, if this one tells when it begins anew."""
    if name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
        return name.removesuffix("reset"), ""
    if name.startswith("x-ratelimit-reset"):
        return "x-ratelimit-", name.removeprefix("x-ratelimit-reset")
    return None


def _is_used_up(limit: tuple[str, str], found: dict[str, str]) -> bool:
    before, after = limit
    remaining = found.get(f"{before}remaining{after}", "0")
    return remaining.strip() in ("0", "0.0") and found.get(f"{before}status{after}", "rejected") == "rejected"


def _moment(value: str, now: float) -> float | None:
    """A point in time written as epoch seconds or milliseconds, as seconds or a span from now (`6m0s`, `20ms`), or as RFC 3339."""
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        moment = number / 1000 if number > _EPOCH_MS else number if number > _EPOCH else now + number
        return moment if math.isfinite(moment) else None
    span = _DURATION.fullmatch(value.strip()) if len(value) < 40 else None
    if span and any(span.groups()):
        parts = zip(span.groups(), (86_400.0, 3600.0, 60.0, 1.0, 0.001), strict=True)
        return now + sum(float(part) * unit for part, unit in parts if part)
    try:
        moment_of = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment_of if moment_of.tzinfo else moment_of.replace(tzinfo=UTC)).timestamp()
