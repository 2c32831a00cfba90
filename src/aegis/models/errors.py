"""Errors in the shape a dialect's programs expect, and what a provider's own errors tell about its limits."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from aegis.models import Dialect, Headers

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The usual name of an error with this HTTP status."""
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def error_body(dialect: Dialect, message: str, *, status: int, type: str | None = None, **more: Any) -> bytes:
    """An error as a JSON body. `type` replaces the usual name of the status; `more` stands beside it."""
    body = _error(dialect, message, type or error_type(status))
    body["error"].update(more)
    return msgspec.json.encode(body)


def error_event(dialect: Dialect, message: str, *, type: str = "api_error") -> bytes:
    """An error in the middle of a stream, as one server-sent event; official clients raise on it."""
    head = b"event: error\n" if dialect == "anthropic" else b""
    return head + b"data: " + msgspec.json.encode(_error(dialect, message, type)) + b"\n\n"


def _error(dialect: Dialect, message: str, type: str) -> dict[str, Any]:
    if dialect == "anthropic":
        return {"type": "error", "error": {"type": type, "message": message}}
    return {"error": {"message": message, "type": type, "param": None, "code": type}}


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds the provider asks to wait (`retry-after-ms`, `retry-after` as seconds or date), or None. `now` is wall time."""
    found = dict(headers)
    try:
        if "retry-after-ms" in found:
            return max(0.0, float(found["retry-after-ms"]) / 1000)
        value = found.get("retry-after")
        if value is None:
            return None
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def resets_at(headers: Headers, now: float) -> float | None:
    """When the limit that a 429 speaks of is over, in wall seconds; None when the provider does not say."""
    wait = retry_after(headers, now)
    if wait is not None:
        return now + wait
    found = dict(headers)
    times = []
    for name, value in headers:
        if name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
            if found.get(name.removesuffix("-reset") + "-remaining", "0") == "0":
                times.append(_moment(value))
    known = [moment for moment in times if moment is not None and moment > now]
    return max(known, default=None)


def _moment(value: str) -> float | None:
    """A point in time written as epoch seconds or RFC 3339."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
