"""Whether an agent goes round in circles, as far as that can be told from outside.

Only three things are told, because nothing else is known: the same call with the same input again and again, two calls in turn again
and again, and one failing call after the other. What a call is about is its input, not what came back: a command that is asked twenty
times may answer something else each time and still lead nowhere. Different inputs, however many, are work. Silence is told by `hearing`.
Nobody is stopped for any of it; a person is told, once for each cause and turn.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.events import ToolCall, ToolResult, TurnStuck
from aegis.core.text import one_line

if TYPE_CHECKING:
    from aegis.core.events import Fact

#: So many calls that are the same, one after the other, are a circle; so many calls that are two in turn; so many that fail.
SAME: Final = 8
IN_TURN: Final = 12
FAILING: Final = 15
_FAILS: Final = "one call after the other fails"
#: Sub-agents work at the same time, each with calls of its own; so many are looked at, those that called last.
_SUB_AGENTS: Final = 64
#: The most of an input that is looked at, in bytes; what is longer is told apart by its length as well.
_INPUT: Final = 1024 * 1024


class Circles:
    """The calls of one turn."""

    def __init__(self) -> None:
        #: Why it looks as if it went round in circles, as long as it does.
        self.found: TurnStuck | None = None
        self._told: set[str] = set()
        self._agents: OrderedDict[str | None, _Calls] = OrderedDict()

    def begin(self) -> None:
        """A turn begins."""
        self.found = None
        self._told.clear()
        self._agents.clear()

    def heard(self, fact: Fact) -> TurnStuck | None:
        """Take note of what the program said; what a person is to be told of it, where that was not told in this turn."""
        if not isinstance(fact, ToolCall | ToolResult):
            return None
        calls = self._agents.setdefault(fact.parent, _Calls())
        self._agents.move_to_end(fact.parent)
        while len(self._agents) > _SUB_AGENTS:
            self._agents.popitem(last=False)
        found = calls.called(fact) if isinstance(fact, ToolCall) else calls.answered(fact)
        calls.found = found
        self.found = found or next((other.found for other in self._agents.values() if other.found is not None), None)
        return found if found is not None and self.first(found) else None

    def first(self, found: TurnStuck) -> bool:
        """Whether this cause was not told in this turn; it counts as told from here on."""
        cause = found.reason if found.reason == _FAILS else f"{found.reason} {found.tool}"
        fresh = cause not in self._told
        self._told.add(cause)
        return fresh


class _Calls:
    """The calls of one agent, or of one sub-agent, within a turn."""

    def __init__(self) -> None:
        self.found: TurnStuck | None = None
        self._last: deque[bytes] = deque(maxlen=2 * SAME)  # what the last calls were about, the newest last
        self._names: deque[str] = deque(maxlen=2 * SAME)
        self._ids: deque[str] = deque(maxlen=4 * SAME)
        self._same = self._turns = self._failed = 0

    def called(self, call: ToolCall) -> TurnStuck | None:
        if call.call_id in self._ids:  # more about a call that is under way
            return self.found
        self._ids.append(call.call_id)
        what = _digest(call)
        before = list(self._last)[-2:]
        self._same = self._same + 1 if before[-1:] == [what] else 1
        # A, B, A, B: as the one before the last, and not as the last.
        self._turns = self._turns + 1 if len(before) == 2 and before[0] == what != before[1] else 2 if before and before[-1] != what else 1
        self._last.append(what)
        self._names.append(one_line(call.name, 60))
        if self._same >= SAME:
            return TurnStuck("the same call again and again", self._names[-1], self._same)
        if self._turns >= IN_TURN:
            return TurnStuck("the same two calls in turn", " and ".join(dict.fromkeys((self._names[-2], self._names[-1]))), self._turns)
        return self._failing(self._names[-1])

    def answered(self, result: ToolResult) -> TurnStuck | None:
        self._failed = 0 if result.ok else self._failed + 1
        if self._same >= SAME or self._turns >= IN_TURN:
            return self.found
        return self._failing(one_line(result.name, 60))

    def _failing(self, tool: str) -> TurnStuck | None:
        return TurnStuck(_FAILS, tool, self._failed) if self._failed >= FAILING else None


def _digest(call: ToolCall) -> bytes:
    try:
        text = msgspec.json.encode(call.input, order="sorted")
    except RecursionError:
        text = call.call_id.encode()  # nobody can say what it is about
    return hashlib.blake2b(b"%b\0%d\0%b" % (call.name.encode("utf-8", "replace"), len(text), text[:_INPUT]), digest_size=16).digest()


def told(stuck: TurnStuck) -> str:
    """In a few words for people: what makes it look stuck."""
    if stuck.seconds:
        return f"nothing was heard of it for {stuck.seconds / 60:.0f} min"
    return f"{stuck.reason}: {stuck.tool}, {stuck.count} times" if stuck.tool else stuck.reason
