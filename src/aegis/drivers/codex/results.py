"""How a turn ended: what the program says of it in Aegis's words, failures by their cause, limits with their time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.drivers import Finished
from aegis.drivers.claude.frames import a_count, a_dict, a_text

#: The program's words for what went wrong.
_WORDS: Final[dict[str, ErrorKind]] = {
    "contextWindowExceeded": ErrorKind.TOO_LARGE,
    "modelNotFound": ErrorKind.NOT_FOUND,
    "unauthorized": ErrorKind.DENIED,
    "cyberPolicy": ErrorKind.DENIED,
    "serverOverloaded": ErrorKind.UNAVAILABLE,
    "internalServerError": ErrorKind.UNAVAILABLE,
    "policyCapacityUnavailable": ErrorKind.UNAVAILABLE,
}
_LIMITS: Final = frozenset({"usageLimitExceeded", "rateLimitExceeded", "sessionBudgetExceeded"})
_STATUS: Final[dict[int, ErrorKind]] = {
    401: ErrorKind.DENIED,
    403: ErrorKind.DENIED,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    413: ErrorKind.TOO_LARGE,
    504: ErrorKind.TIMEOUT,
}
#: Answers of the model's provider that pass.
_PASSING: Final = frozenset({408, 409, 425, 429})
_URL: Final = re.compile(r", url: \S+")
_CODE: Final = re.compile(r"(?:status|error)[: ]+(\d{3})\b")
_AGAIN: Final = re.compile(
    r"try again (?:at|after|on) (?:(?P<month>[A-Z][a-z]{2})[a-z]* (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4}),? )?"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})\s*(?P<half>[AP]M)",
    re.IGNORECASE,
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ATTEMPT: Final = re.compile(r"(\d{1,4})/\d{1,4}")


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, as the program told it."""

    message: str = ""
    word: str = ""  # its own for the cause
    status: int = 0  # of the model's answer

    @property
    def limit(self) -> bool:
        """Whether a limit of the provider ended the turn."""
        return self.word in _LIMITS or self.status == 429

    @property
    def final(self) -> bool:
        """Whether the provider's answer stays the same when it is asked again."""
        return 400 <= self.status < 500 and self.status not in _PASSING


def failure(error: object) -> Failure:
    """An error of a turn. What the model's provider said in JSON is told as what stands in it."""
    told = a_dict(error)
    info = told.get("codexErrorInfo")
    word, status = "", 0
    if isinstance(info, str):
        word = info
    elif isinstance(info, dict) and info:
        status = a_count(a_dict(next(iter(info.values()))).get("httpStatusCode"))
    message = _URL.sub("", a_text(told.get("additionalDetails")) or a_text(told.get("message")))
    if not status and (found := _CODE.search(message)):
        status = int(found[1])
    return Failure(_unwrapped(message), "" if word == "other" else word, status)


def attempt(error: object) -> int:
    """Which try of a failed model call comes next."""
    found = _ATTEMPT.search(a_text(a_dict(error).get("message")))
    return int(found[1]) if found else 1


def _unwrapped(message: str) -> str:
    if not message.startswith("{"):
        return message
    try:
        told = msgspec.json.decode(message)
    except (msgspec.DecodeError, RecursionError):
        return message
    error = a_dict(told).get("error")
    return a_text(a_dict(error).get("message")) or a_text(error) or a_text(a_dict(told).get("message")) or message


def finished(
    status: str,
    text: str,
    failed: Failure | None,
    tokens: tuple[int, int, int],
    *,
    rounds: int,
    cut: bool,
    resets_at: float | None,
    now: float,
) -> Finished:
    """The end of a turn. `now` is the wall time by the program's clock; `resets_at` is when it said last that a limit ends."""
    outcome, error, reason = Outcome.COMPLETED, None, status
    if status == "interrupted" or (cut and status != "completed"):
        outcome = Outcome.CANCELLED
    elif status == "failed":
        failed = failed or Failure("Codex ended the turn with an error and gave no reason")
        outcome, error, reason = _failed(failed, resets_at, now)
    return Finished(outcome, text, error, rounds, reason, input=tokens[0], output=tokens[1], cached=tokens[2])


def _failed(failed: Failure, resets: float | None, now: float) -> tuple[Outcome, dict[str, Any], str]:
    data: dict[str, Any] = {"status": failed.status} if failed.status else {}
    if failed.word:
        data["type"] = failed.word
    reason = failed.word or "failed"
    if failed.limit:
        at = resets if resets is not None and resets > now else resets_at(failed.message, now)
        if at is not None:
            data["resets_at"] = at
        return Outcome.LIMITED, AegisError(ErrorKind.LIMIT, failed.message, **data).to_dict(), reason
    kind = _WORDS.get(failed.word) or _STATUS.get(failed.status) or (ErrorKind.UNAVAILABLE if failed.status >= 500 else ErrorKind.FAILED)
    hint = "log in with `codex login` by yourself once more, or leave out `auth: login`" if failed.word == "unauthorized" else ""
    return Outcome.FAILED, AegisError(kind, failed.message, hint, **data).to_dict(), reason


def resets_at(message: str, now: float) -> float | None:
    """When a limit ends, as people are told: `try again at Nov 30th, 2026 12:53 AM`, or a time of day, by the sandbox's clock, in UTC."""
    found = _AGAIN.search(message)
    if found is None:
        return None
    try:
        here = datetime.fromtimestamp(now, UTC)
        hour = int(found["hour"]) % 12 + (12 if found["half"].lower() == "pm" else 0)
        at = here.replace(hour=hour, minute=int(found["minute"]), second=0, microsecond=0)
        if found["month"]:
            at = at.replace(year=int(found["year"]), month=_MONTHS.index(found["month"].lower()) + 1, day=int(found["day"]))
        return at.timestamp() + (86_400 if at <= here and not found["month"] else 0)
    except (ValueError, OverflowError, OSError):
        return None


def window_ends(limits: object) -> float | None:
    """When the window of a limit that is used up ends, as the program's account tells; None while nothing is used up."""
    ends = [
        float(a_count(window.get("resetsAt")))
        for name in ("primary", "secondary")
        if a_count((window := a_dict(a_dict(limits).get(name))).get("usedPercent")) >= 100 and a_count(window.get("resetsAt"))
    ]
    return max(ends, default=None)
