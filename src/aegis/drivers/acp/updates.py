"""What `session/update` says, as facts: runs of text, the life of tool calls, plans, settings.

Everything is optional and may be of any shape: what cannot be read is passed over, never a reason to stop. One `Said` and one
`Calls` belong to one turn; `Settings` to the session.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec

from aegis.core.bounds import MAX_INPUT, MAX_SAID, shortened
from aegis.core.events import (
    MAX_DIFF,
    Diff,
    Fact,
    Location,
    Plan,
    PlanEntry,
    SessionSettings,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolKind,
    ToolProgress,
    ToolResult,
)

if TYPE_CHECKING:
    from aegis.drivers.acp.spec import Tools

#: The most characters of a tool's output that an event carries, and the most tool calls that one turn may have open.
MAX_OUTPUT: Final = 100_000
_MOST_CALLS: Final = 10_000
#: So many calls of a turn may be without a result, and so many diffs has one call.
_MOST_OPEN: Final = 200
_MOST_DIFFS: Final = 32
#: Configuration options, values of one, and characters of a value that are taken note of.
_MOST_OPTIONS: Final = 64
_MOST_VALUES: Final = 500
_VALUE: Final = 200
_KINDS: Final = frozenset(get_args(ToolKind))
_WORD: Final = re.compile(r"[\w.:-]{1,100}")
_OVER: Final = {"completed": True, "failed": False}


class Said:
    """The runs of text of a turn: chunks of the same kind and message, until something else comes."""

    def __init__(self, whole_thoughts: bool) -> None:
        self.last = ""  # the last whole text
        self._whole_thoughts = whole_thoughts
        self._thought = False
        self._message: Any = None
        self._pieces: list[str] = []
        self._size = 0  # characters of the run, with those that are not kept

    def chunk(self, text: str, thought: bool, message: Any) -> list[Fact]:
        """One chunk more."""
        facts: list[Fact] = []
        if self._pieces and (thought is not self._thought or (message != self._message and message is not None is not self._message)):
            facts = self.end()
        self._thought = thought
        self._message = message
        room = MAX_SAID - self._size
        self._size += len(text)
        if room > 0:
            self._pieces.append(text[:room])
        if thought:
            facts.append(ThinkingDelta(text))
            if self._whole_thoughts:
                facts += self.end()
        else:
            facts.append(TextDelta(text))
        return facts

    def end(self, model: str = "") -> list[Fact]:
        """The run is over."""
        if not self._pieces:
            return []
        text = "".join(self._pieces)
        self._pieces, self._size = [], 0
        self._message = None
        if not text.strip():
            return []
        if self._thought:
            return [Thinking(text, model=model)]
        self.last = text
        return [Text(text, model=model)]


class _Call:
    """One tool call."""

    __slots__ = ("diffs", "input", "kind", "known", "locations", "name", "output", "over", "refused", "shown", "since", "title", "told")

    def __init__(self, name: str, since: float) -> None:
        self.name = name
        self.kind: ToolKind = "other"
        self.title = ""
        self.input: dict[str, Any] | None = None
        self.locations: list[Location] = []
        self.output = ""
        self.diffs: list[Diff] = []
        self.since = since
        self.shown = False  # its ToolCall was told
        self.over = False  # its ToolResult was told
        self.refused: str | None = None  # the reason, when it was not allowed
        self.told = False  # the program told its input; else it was put together from what else it says
        self.known = False  # what the tool does follows from its name, not from the program's word


class Calls:
    """The tool calls of a turn. `now` gives seconds for their running time."""

    def __init__(self, rules: Tools, now: Callable[[], float]) -> None:
        self._rules = rules
        self._now = now
        self._calls: dict[str, _Call] = {}
        self._lost: list[tuple[str, _Call]] = []  # those whose id another call took before they were over
        self._open = 0

    def __contains__(self, ident: object) -> bool:
        return ident in self._calls

    @property
    def ids(self) -> list[str]:
        """All that there were."""
        return list(self._calls)

    def update(self, update: dict[str, Any]) -> list[Fact]:
        """A `tool_call` or `tool_call_update`."""
        ident = update.get("toolCallId")
        if not isinstance(ident, str) or (call := self._take(ident, update)) is None or call.over:
            return []
        status = _string(update.get("status"))
        facts: list[Fact] = []
        whole = (
            isinstance(update.get("rawInput"), dict)
            and bool(update["rawInput"])
            and not (status == "pending" and self._rules.pending_is_partial)
        )
        if not call.shown and (whole or status in ("in_progress", "completed", "failed")):
            facts.append(self._shown(ident, call))
        before = call.output
        self._content(call, update)
        if status in _OVER:
            facts.append(self._result(ident, call, _OVER[status], update))
        elif call.shown and call.output != before:
            more = call.output[len(before) :] if call.output.startswith(before) else call.output
            facts.append(ToolProgress(ident, more, call.title))
        return facts

    def asked(self, update: dict[str, Any]) -> tuple[list[Fact], str | None, bool, _Call]:
        """The `toolCall` of a request for leave: the facts, the call's id, whether its kind is only the program's word, and the call."""
        ident = update.get("toolCallId")
        call = self._take(ident, update) if isinstance(ident, str) else None
        if call is None or not isinstance(ident, str):
            kind = _kind(update.get("kind"))
            call = _Call(kind, self._now())
            call.kind, call.title, call.input = kind, _line(update.get("title")), _input(update)
            call.locations = _locations(update.get("locations"))
            return [], ident if isinstance(ident, str) else None, True, call
        self._content(call, update)
        output, call.output = call.output, ""  # what stands in a question is no output
        facts: list[Fact] = []
        if not call.shown:
            facts.append(self._shown(ident, call, output))
        elif not call.told:  # what is asked for counts, not what was shown before
            call.input = _shown_input(call, output)
        return facts, ident, not call.known, call

    def refuse(self, ident: str, reason: str) -> None:
        """The call was not allowed."""
        if call := self._calls.get(ident):
            call.refused = reason

    def end(self, why: str) -> list[Fact]:
        """The turn is over: calls that were told of and have no result get one that says so."""
        facts: list[Fact] = []
        for ident, call in [*self._lost, *self._calls.items()]:
            if call.shown and not call.over:
                call.output = call.output or (why if call.refused is None else f"refused: {call.refused}" if call.refused else "refused")
                facts.append(self._result(ident, call, False, {}))
        return facts

    def _take(self, ident: str, update: dict[str, Any]) -> _Call | None:
        call = self._calls.get(ident)
        title = update.get("title")
        if call is not None and _is_another(call, update):
            if not call.over:
                self._lost.append((ident, call))
            call = None
        if call is None:
            if len(self._calls) + len(self._lost) >= _MOST_CALLS or self._open >= _MOST_OPEN:
                return None
            self._open += 1
            call = self._calls[ident] = _Call(self._name(ident, update), self._now())
            call.known = call.name in self._rules.kinds
        if isinstance(title, str):
            call.title = _line(title)
        if "kind" in update or call.kind == "other":
            call.kind = _kind(self._rules.kinds.get(call.name) or update.get("kind") or call.kind)
        if isinstance(raw := update.get("rawInput"), dict) and raw and not call.shown:
            # A question may show another view of the input than the call itself: what the call said first stays.
            call.input = shortened(raw, MAX_INPUT) if call.input is None or update.get("sessionUpdate") else call.input
            call.told = True
        if update.get("locations"):
            call.locations = _locations(update["locations"])
        return call

    def _name(self, ident: str, update: dict[str, Any]) -> str:
        if isinstance(meta := update.get("_meta"), dict):
            for inner in meta.values():
                if isinstance(inner, dict) and isinstance(inner.get("toolName"), str):
                    return str(inner["toolName"])[:100]
        if self._rules.name == "id" and "__" in ident:
            return ident.partition("__")[0]
        title = update.get("title")
        if self._rules.name == "title" and isinstance(title, str) and _WORD.fullmatch(title):
            return title
        return _kind(update.get("kind"))

    def _shown(self, ident: str, call: _Call, content: str = "") -> ToolCall:
        call.shown = True
        if call.input is None:
            call.input = _shown_input(call, content)
        return ToolCall(ident, call.name, call.input, call.kind, call.title, call.locations)

    def _content(self, call: _Call, update: dict[str, Any]) -> None:
        content = update.get("content")
        if not isinstance(content, list) or not content:
            return
        texts: list[str] = []
        diffs: list[Diff] = []
        for item in content:
            if not isinstance(item, dict):
                continue
            if item.get("type") == "diff":
                if (diff := _diff(item)) is not None:
                    diffs.append(diff)
            elif isinstance(inner := item.get("content"), dict):
                texts.append(block_text(inner))
        if diffs:
            call.diffs = diffs[:_MOST_DIFFS]
        if texts:
            call.output = "\n".join(texts)[: MAX_OUTPUT + 1]

    def _result(self, ident: str, call: _Call, ok: bool, update: dict[str, Any]) -> ToolResult:
        call.over = True
        output = call.output or _raw_output(update.get("rawOutput"))
        cut = len(output) > MAX_OUTPUT
        ms = max(0.0, (self._now() - call.since) * 1000)
        diffs = call.diffs if ok else []
        self._open -= 1
        call.input, call.output, call.diffs, call.locations = None, "", [], []
        return ToolResult(ident, call.name, ok, output[:MAX_OUTPUT], cut, round(ms, 1), call.kind, diffs)


class Settings:
    """What the session runs with, as the program tells it. `name` turns its name of a model into that of the broker."""

    def __init__(self, name: Callable[[str], str], mode_option: str, model_option: str, effort_option: str) -> None:
        self.model = ""
        self.mode = ""
        self.effort = ""
        self.modes: list[str] = []
        self.options: dict[str, list[str]] = {}  # id of a configuration option -> its values
        self._name = name
        self._roles = {model_option: "model", mode_option or "mode": "mode", effort_option: "effort"}

    def opened(self, result: dict[str, Any]) -> None:
        """What the response to `session/new`, `load`, `resume` or `fork` says."""
        if isinstance(modes := result.get("modes"), dict):
            self.modes = [str(mode["id"])[:_VALUE] for mode in _dicts(modes.get("availableModes"))[:_MOST_VALUES] if mode.get("id")]
            self.mode = _string(modes.get("currentModeId"))[:_VALUE]
        if isinstance(models := result.get("models"), dict) and (current := _string(models.get("currentModelId"))):
            self.model = self._name(current)
        self.configured(result.get("configOptions"))

    def configured(self, options: Any) -> SessionSettings | None:
        """The whole list of configuration options; what changed by it."""
        changed: dict[str, str] = {}
        for option in _dicts(options):
            ident, value = _string(option.get("id"))[:_VALUE], _string(option.get("currentValue"))[:_VALUE]
            if ident not in self.options and len(self.options) >= _MOST_OPTIONS:
                continue
            values = [inner for entry in _dicts(option.get("options")) for inner in (_dicts(entry.get("options")) or [entry])]
            self.options[ident] = [_string(entry.get("value"))[:_VALUE] for entry in values[:_MOST_VALUES]]
            role = self._roles.get(ident) or {"model": "model", "mode": "mode", "thought_level": "effort"}.get(
                _string(option.get("category"))
            )
            if role is None or not value:
                continue
            if role == "mode":
                self.modes = self.options[ident]
            changed |= self._set(role, self._name(value) if role == "model" else value)
        return SessionSettings(**changed) if changed else None

    def set(self, *, model: str | None = None, mode: str | None = None, effort: str | None = None) -> SessionSettings | None:
        """Something was set; None when that is what it was."""
        changed: dict[str, str] = {}
        for role, value in (("model", model), ("mode", mode), ("effort", effort)):
            if value:
                changed |= self._set(role, value)
        return SessionSettings(**changed) if changed else None

    def _set(self, role: str, value: str) -> dict[str, str]:
        if getattr(self, role) == value:
            return {}
        setattr(self, role, value)
        return {role: value}


def plan(update: dict[str, Any]) -> Plan | None:
    """A whole plan."""
    entries = update.get("entries")
    if not isinstance(entries, list):
        return None
    return Plan(
        [
            PlanEntry(_string(entry.get("content")), _string(entry.get("status")) or "pending", _string(entry.get("priority")) or "medium")
            for entry in _dicts(entries)
        ]
    )


def block_text(block: dict[str, Any]) -> str:
    """The text of a content block, or a word for what is none."""
    kind = block.get("type")
    if kind == "text":
        return _string(block.get("text"))
    if kind == "resource" and isinstance(inner := block.get("resource"), dict):
        return _string(inner.get("text")) or f"[{_string(inner.get('uri')) or 'resource'}]"
    if kind == "resource_link":
        return f"[{_string(block.get('uri')) or _string(block.get('name'))}]"
    return f"[{kind}]" if isinstance(kind, str) else ""


def count(value: Any) -> int:
    """`value` if it is a whole number that is not negative and can be stored, else 0."""
    return value if isinstance(value, int) and 0 < value < 1e18 else 0


def _shown_input(call: _Call, content: str) -> dict[str, Any]:
    """What is known of an input that the program keeps to itself: enough to see what is asked, and to tell two calls apart."""
    if call.kind == "execute" and call.title:
        return {"command": call.title}
    shown: dict[str, Any] = {}
    if call.title:
        shown["title"] = call.title
    if call.locations:
        shown["path"] = call.locations[0].path
    if call.diffs:
        shown |= {"path": call.diffs[0].path, "old_text": call.diffs[0].old or "", "new_text": call.diffs[0].new}
    if content and not call.diffs:
        shown["content"] = content[:MAX_OUTPUT]
    return shown


def _is_another(call: _Call, update: dict[str, Any]) -> bool:
    """Whether an update is about another call of the same id. A model makes the ids up, and may use one twice."""
    begins = update.get("sessionUpdate") == "tool_call"
    if call.over:
        return begins or "sessionUpdate" not in update  # or a request for leave, which comes before a call and never behind it
    raw = update.get("rawInput")
    return begins and call.shown and call.told and isinstance(raw, dict) and bool(raw) and shortened(raw, MAX_INPUT) != call.input


def _input(update: dict[str, Any]) -> dict[str, Any]:
    raw = update.get("rawInput")
    return raw if isinstance(raw, dict) else {}


def _kind(value: Any) -> ToolKind:
    return value if isinstance(value, str) and value in _KINDS else "other"  # type: ignore[return-value]


def _locations(value: Any) -> list[Location]:
    return [Location(found["path"], count(found.get("line")) or None) for found in _dicts(value) if isinstance(found.get("path"), str)]


def _diff(item: dict[str, Any]) -> Diff | None:
    path, new, old = item.get("path"), item.get("newText"), item.get("oldText")
    if not isinstance(path, str) or not isinstance(new, str):
        return None
    meta = item.get("_meta")
    if not isinstance(old, str) or (not old and isinstance(meta, dict) and meta.get("kind") == "add"):
        old = None
    cut = len(new) > MAX_DIFF or len(old or "") > MAX_DIFF
    return Diff(path, new[:MAX_DIFF], None if old is None else old[:MAX_DIFF], cut)


def _raw_output(value: Any) -> str:
    if isinstance(value, dict):
        for key in ("output", "error", "text", "content", "message"):
            if isinstance(inner := value.get(key), str):
                return inner
    if value is None or value == {} or value == "":
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _line(value: Any) -> str:
    return " ".join(value.split())[:500] if isinstance(value, str) else ""


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
