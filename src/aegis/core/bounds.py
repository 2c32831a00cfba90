"""How much one fact may say. A program that nobody has vouched for says them, and everybody who reads the log gets them.

What is too long is cut, what is too much is left out, and a number that cannot be stored counts as none. Control characters stay
in texts that may be a file's or a command's output: whoever shows those on a terminal removes them there.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from aegis.core.events import (
    MAX_DIFF,
    Diff,
    Fact,
    Location,
    Plan,
    PlanEntry,
    Retrying,
    SessionCompacted,
    SessionContext,
    SessionOpened,
    SessionSettings,
    SessionTitle,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolProgress,
    ToolResult,
    TurnPresence,
    Usage,
)
from aegis.core.text import one_line

#: The most characters of one text of an agent, and of one tool's output.
MAX_SAID: Final = 8_000_000
MAX_OUTPUT: Final = 200_000
#: The most bytes of a tool's input, as JSON, and how deep it may be; of more the long texts are cut.
MAX_INPUT: Final = 256 * 1024
MAX_DEPTH: Final = 64
_MOST_DIFFS: Final = 64
_MOST_LOCATIONS: Final = 100
_MOST_ENTRIES: Final = 500
_PATH: Final = 4096
_ID: Final = 200
#: Texts of an input that is too long are cut at so many characters, the next time at fewer.
_CUTS: Final = (8_000, 500, 60)
_LARGEST: Final = 2**53


def bounded(fact: Fact) -> Fact:
    """The fact, no larger than one may be."""
    match fact:
        case Text(text, parent, model) | Thinking(text, parent, model) if len(text) > MAX_SAID or len(model) > _ID:
            return msgspec.structs.replace(fact, text=text[:MAX_SAID], parent=_ident(parent), model=_word(model))
        case TextDelta(text) | ThinkingDelta(text) if len(text) > MAX_SAID:
            return msgspec.structs.replace(fact, text=text[:MAX_SAID])
        case ToolCall():
            return msgspec.structs.replace(
                fact,
                call_id=ident(fact.call_id),
                name=_word(fact.name),
                input=shortened(fact.input, MAX_INPUT),
                title=one_line(fact.title[:_PATH], 500),
                locations=_locations(fact.locations),
                parent=_ident(fact.parent),
            )
        case ToolProgress():
            title = one_line(fact.title[:_PATH], 500)
            return msgspec.structs.replace(
                fact, call_id=ident(fact.call_id), text=fact.text[:MAX_OUTPUT], title=title, parent=_ident(fact.parent)
            )
        case ToolResult():
            return msgspec.structs.replace(
                fact,
                call_id=ident(fact.call_id),
                name=_word(fact.name),
                output=fact.output[:MAX_OUTPUT],
                truncated=fact.truncated or len(fact.output) > MAX_OUTPUT,
                ms=number(fact.ms),
                diffs=_diffs(fact.diffs),
                parent=_ident(fact.parent),
            )
        case Plan(entries, parent):
            return Plan([_entry(each) for each in entries[:_MOST_ENTRIES]], _ident(parent))
        case Retrying():
            return Retrying(count(fact.attempt), number(fact.delay), count(fact.status), one_line(fact.reason[:_PATH], 500))
        case TurnPresence(state):
            return TurnPresence(one_line(state[:_PATH], 120))
        case Usage():
            numbers = {name: count(getattr(fact, name)) for name in ("input", "output", "cached", "cache_written")}
            cost = None if fact.cost_usd is None else number(fact.cost_usd)
            return msgspec.structs.replace(fact, model=_word(fact.model), cost_usd=cost, ms=number(fact.ms), **numbers)
        case SessionOpened():
            name = fact.program_session if len(fact.program_session) <= _ID else ""  # a part of it is another one's name
            return msgspec.structs.replace(fact, program_session=name, version=_word(fact.version))
        case SessionSettings(model, mode, effort):
            return SessionSettings(*(None if told is None else _word(told) for told in (model, mode, effort)))
        case SessionTitle(title):
            return SessionTitle(one_line(title[:_PATH], 300))
        case SessionContext(used, size):
            return SessionContext(count(used), count(size))
        case SessionCompacted(trigger, before, after):
            return SessionCompacted(_word(trigger), count(before), count(after))
    return fact


def shortened(arguments: dict[str, Any], most: int) -> dict[str, Any]:
    """A tool's input in at most `most` bytes of JSON, and not too deep for whoever reads it. What is cut says so."""
    if not _deeper(arguments, MAX_DEPTH) and len(msgspec.json.encode(arguments)) <= most:
        return arguments
    for cut in (most, *_CUTS):
        shorter = _shorter(arguments, cut, MAX_DEPTH if cut == most else 8)
        if len(msgspec.json.encode(shorter)) <= most:
            assert isinstance(shorter, dict)
            return shorter
    return {"truncated": msgspec.json.encode(_shorter(arguments, 60, 4))[: most // 8].decode("utf-8", "ignore")}


def ident(name: str) -> str:
    """A program's own id of something, short and still apart from others."""
    return name if len(name) <= _ID else f"{name[:100]}…{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:32]}"


def count(value: int) -> int:
    """A number that can be stored and summed, else 0."""
    return value if 0 <= value <= _LARGEST else 0


def number(value: float) -> float:
    """The same for one that need not be whole."""
    return value if 0.0 <= value <= float(_LARGEST) else 0.0


def _ident(name: str | None) -> str | None:
    return None if name is None else ident(name)


def _word(text: str) -> str:
    return text if len(text) <= _ID else one_line(text[:_PATH], _ID)


def _locations(found: list[Location]) -> list[Location]:
    return [Location(place.path[:_PATH], count(place.line or 0) or None) for place in found[:_MOST_LOCATIONS]]


def _diffs(found: list[Diff]) -> list[Diff]:
    """As many as fit into a few times what one may have."""
    kept: list[Diff] = []
    room = 4 * MAX_DIFF
    for diff in found[:_MOST_DIFFS]:
        room -= len(diff.new) + len(diff.old or "")
        if room < 0:
            break
        kept.append(diff if len(diff.path) <= _PATH else msgspec.structs.replace(diff, path=diff.path[:_PATH]))
    return kept


def _entry(entry: PlanEntry) -> PlanEntry:
    return PlanEntry(entry.content[:2000], _word(entry.status), _word(entry.priority))


def _deeper(value: Any, depth: int) -> bool:
    """Whether tables and lists in `value` are nested deeper than `depth`."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(inner, dict | list) and (depth <= 1 or _deeper(inner, depth - 1)) for inner in inside)


def _shorter(value: Any, most: int, depth: int) -> Any:
    """`value` with its long texts, lists and tables cut, and what lies deep left out."""
    match value:
        case str() if len(value) > most:
            return f"{value[:most]}… ({len(value) - most:,} more characters)"
        case dict() | list() if not depth:
            return "…"
        case dict():
            return {key[:most]: _shorter(inner, most, depth - 1) for key, inner in list(value.items())[:most]}
        case list():
            return [_shorter(inner, most, depth - 1) for inner in value[:most]]
    return value
