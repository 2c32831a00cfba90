"""How a turn ended: the `result` frame in Aegis's words, its counts as the turn's own, and limits with their time.

`total_cost_usd` and `modelUsage` count from the start of the process (after a graceful end even from before it); newer CLIs say
beside it what came since the last result. `usage` is the turn's, but knows nothing of sub-agents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.drivers import Finished
from aegis.drivers.claude.frames import a_count, a_dict, a_list, a_text

_STATUS: Final = {401: "denied", 403: "denied", 404: "not_found", 408: "timeout", 413: "too_large", 504: "timeout"}
_WORDS: Final = {
    "authentication_failed": "denied",
    "oauth_org_not_allowed": "denied",
    "billing_error": "denied",
    "overloaded": "unavailable",
}
#: What a used-up plan is called, by all versions so far.
_LIMIT: Final = re.compile(
    r"(usage|session|weekly|5-hour|opus|sonnet|spend\w*|monthly) limit|limit reached|hit your [\w -]*limit|out of extra usage", re.I
)
_EPOCH: Final = re.compile(r"\|\s*(\d{10})\b")
_RESETS: Final = re.compile(
    r"resets?\s+(?:at\s+|on\s+)?(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\s+(?P<day>\d{1,2})(?:,|\s+at)?\s+)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?\s*(?P<half>am|pm)?(?:\s*\((?P<zone>[\w/+-]+)\))?",
    re.I,
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Told(msgspec.Struct):
    """What was told of a turn before its result."""

    text: str = ""  # what the agent said last
    word: str = ""  # the CLI's word for what went wrong, from the message that it made up to say so
    message: str = ""  # and that message
    cut: bool = False  # it was interrupted: by us, or as the conversation says
    resets_at: float | None = None  # a limit's end, from a frame of its own
    limited: bool = False
    stop: str = ""  # why the model stopped last
    now: float | None = None  # wall time by the program's clock


class Tokens(NamedTuple):
    """Tokens and cost. `input` counts all of the prompt, with what was `cached` and `written` to the cache."""

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    cost: float | None = None


class Counter:
    """Makes each turn's own counts, by model, of what grows from result to result."""

    def __init__(self, *, resumed: bool) -> None:
        self._before: dict[str, Tokens] = {}
        self._unknown = resumed  # where the counts begin

    def turn(self, frame: dict[str, Any], model: str) -> dict[str, Tokens]:
        """The counts of the turn that this result ends; `model` is the one they belong to where the frame does not say."""
        total = {name: _tokens(part) for name, part in a_dict(frame.get("modelUsage")).items()}
        before, self._before = self._before, total
        unknown, self._unknown = self._unknown, False
        if isinstance(since := frame.get("model_usage_since_last_result"), dict):
            return {name: _tokens(part) for name, part in since.items()}
        if unknown or not total:
            return {model: _usage(frame.get("usage"))}
        return {name: _since(tokens, before.get(name, Tokens(cost=0.0))) for name, tokens in total.items()}


def summed(parts: Iterable[Tokens]) -> Tokens:
    """All of them together; the cost is unknown where that of no part is known."""
    parts = list(parts)
    costs = [part.cost for part in parts if part.cost is not None]
    return Tokens(
        sum(part.input for part in parts),
        sum(part.output for part in parts),
        sum(part.cached for part in parts),
        sum(part.written for part in parts),
        round(sum(costs), 9) if costs else None,
    )


def prompt_tokens(usage: object) -> int:
    """All tokens of a prompt: what was new, what was written to the cache, and what was read from it."""
    told = a_dict(usage)
    return sum(a_count(told.get(name)) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"))


def _usage(usage: object) -> Tokens:
    told = a_dict(usage)
    cached, written = a_count(told.get("cache_read_input_tokens")), a_count(told.get("cache_creation_input_tokens"))
    return Tokens(prompt_tokens(told), a_count(told.get("output_tokens")), cached, written)


def _tokens(usage: object) -> Tokens:
    told = a_dict(usage)
    cached, written = a_count(told.get("cacheReadInputTokens")), a_count(told.get("cacheCreationInputTokens"))
    cost = told.get("costUSD")
    cost = float(cost) if isinstance(cost, int | float) and 0 <= cost < 1e9 else None
    return Tokens(a_count(told.get("inputTokens")) + cached + written, a_count(told.get("outputTokens")), cached, written, cost)


def _since(now: Tokens, before: Tokens) -> Tokens:
    if now.input < before.input or now.output < before.output:  # it began to count anew
        return now
    cost = None if now.cost is None else max(0.0, round(now.cost - (before.cost or 0.0), 9))
    cached, written = max(0, now.cached - before.cached), max(0, now.written - before.written)
    return Tokens(now.input - before.input, now.output - before.output, cached, written, cost)


def finished(frame: dict[str, Any], told: Told, tokens: Tokens) -> Finished:
    """The end of a turn."""
    subtype, stop = a_text(frame.get("subtype")), a_text(frame.get("stop_reason")) or told.stop
    terminal = a_text(frame.get("terminal_reason"))
    text = a_text(frame.get("result")) or told.text
    outcome, error = Outcome.COMPLETED, None
    failed = frame.get("is_error") is True or subtype.startswith("error")
    if failed and (terminal.startswith("aborted") or (told.cut and subtype == "error_during_execution")):
        outcome, text, reason = Outcome.CANCELLED, told.text, terminal or "interrupted"
    elif subtype == "error_max_turns":
        outcome, text, reason = Outcome.LIMITED, told.text, "max_turns"
        rounds = a_count(frame.get("num_turns"))
        error = AegisError(ErrorKind.LIMIT, f"the turn needed more than the {rounds} rounds it may take", limit="rounds").to_dict()
    elif subtype == "error_max_budget_usd":
        outcome, text, reason = Outcome.LIMITED, told.text, "max_budget"
        error = AegisError(ErrorKind.LIMIT, "the turn needed more money than it may take", limit="cost").to_dict()
    elif failed:
        outcome, error = _failure(frame, told)
        text, reason = told.text, told.word or terminal or subtype
    elif stop == "refusal":
        outcome, reason = Outcome.FAILED, stop
        error = AegisError(ErrorKind.FAILED, "the model refused to answer", "say it differently, or use another model").to_dict()
    else:
        reason = stop or terminal or subtype
    return Finished(
        outcome,
        text,
        error,
        a_count(frame.get("num_turns")),
        reason,
        input=tokens.input,
        output=tokens.output,
        cached=tokens.cached,
        cost_usd=tokens.cost,
    )


def _failure(frame: dict[str, Any], told: Told) -> tuple[Outcome, dict[str, Any]]:
    errors = "; ".join(text for text in a_list(frame.get("errors")) if isinstance(text, str))
    message = a_text(frame.get("result")) or told.message or errors or "Claude Code ended the turn with an error and gave no reason"
    status = a_count(frame.get("api_error_status"))
    data: dict[str, Any] = {"status": status} if status else {}
    if told.word:
        data["type"] = told.word
    if told.limited or told.word == "rate_limit" or status == 429 or _LIMIT.search(message):
        at = told.resets_at if told.resets_at is not None else resets_at(message, told.now)
        if at is not None:
            data["resets_at"] = at
        return Outcome.LIMITED, AegisError(ErrorKind.LIMIT, message, **data).to_dict()
    word = _WORDS.get(told.word) or _STATUS.get(status) or ("unavailable" if status >= 500 else "failed")
    hint = ""
    if word == "denied" and not status:
        hint = "log in with `claude` by yourself once more, or leave out `auth: login`"
    return Outcome.FAILED, AegisError(ErrorKind(word), message, hint, **data).to_dict()


def resets_at(message: str, now: float | None) -> float | None:
    """When a limit ends, as people are told: `...|1700000000`, `resets 3pm (Europe/Berlin)`, `resets Oct 12, 3pm`. Wall seconds.

    A time of day is taken for the next one after `now`, in UTC where no zone is named.
    """
    if epoch := _EPOCH.search(message):
        return float(epoch[1])
    found = _RESETS.search(message)
    if found is None or now is None:
        return None
    try:
        zone = ZoneInfo(found["zone"]) if found["zone"] and found["zone"] != "UTC" else UTC
        here = datetime.fromtimestamp(now, zone)
        hour = int(found["hour"])
        if found["half"]:
            if hour > 12:
                return None
            hour = hour % 12 + (12 if found["half"].lower() == "pm" else 0)
        at = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            at = at.replace(month=_MONTHS.index(found["month"].lower()[:3]) + 1, day=int(found["day"]))
            if at < here - timedelta(days=1):
                at = at.replace(year=at.year + 1)
        elif at <= here:
            at += timedelta(days=1)
    except (ValueError, OverflowError, OSError, ZoneInfoNotFoundError):
        return None
    return at.timestamp()
