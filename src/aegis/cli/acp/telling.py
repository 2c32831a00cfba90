"""What happens in a session, as updates of the protocol: a pure function of its events, with the little memory that takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from aegis.core import events as e

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.cli.acp.places import Places
    from aegis.core.events import Event

Update = dict[str, Any]

#: The most characters of a tool's output that are shown, and of its last ones while it runs.
_OUTPUT: Final = 20_000
_RUNNING: Final = 4_000
_STATUS: Final = frozenset({"pending", "in_progress", "completed"})
_PRIORITY: Final = frozenset({"high", "medium", "low"})
#: Tools whose output is shown as it is, not as Markdown.
_PLAIN: Final = frozenset({"execute", "read", "search"})


class Telling:
    """One session as its client hears of it. `own` are the ids that its client's messages were sent with: it shows those itself."""

    def __init__(self, places: Places) -> None:
        self.own: set[str] = set()
        self.used = 0
        self.size = 0
        self._places = places
        self._cost: float | None = None
        self._said = {"agent_message_chunk": "", "agent_thought_chunk": ""}  # pieces of a text that has not come whole yet
        self._count = 0  # of texts, by which pieces belong together
        self._open: dict[str, str] = {}  # calls without a result -> their output so far

    def of(self, event: Event) -> list[Update]:
        """The updates that tell of an event, in order."""
        try:
            fact = event.fact
        except KeyError:  # of a newer daemon
            return []
        match fact:
            case e.MailAccepted():
                return self._written(fact)
            case e.TextDelta(text, None):
                return self._piece("agent_message_chunk", text)
            case e.ThinkingDelta(text, None):
                return self._piece("agent_thought_chunk", text)
            case e.Text(text, None):
                return self._whole("agent_message_chunk", text)
            case e.Thinking(text, None):
                return self._whole("agent_thought_chunk", text)
            case e.ToolCall():
                return [self._called(event.turn, fact)]
            case e.ToolProgress():
                return self._progress(event.turn, fact)
            case e.ToolResult():
                return [self._result(event.turn, fact)]
            case e.Plan(entries, None):
                return [{"sessionUpdate": "plan", "entries": [_entry(each) for each in entries]}]
            case e.SessionTitle(title):
                return [{"sessionUpdate": "session_info_update", "title": title}]
            case e.SessionContext(used, size):
                self.used, self.size = used, size or self.size
                return self._usage()
            case e.TurnStarted():
                self._forget()
            case e.TurnFinished():
                return self._finished(fact)
        return []

    def call_id(self, turn: str | None, call: str) -> str:
        """The name of a call: programs use theirs again in later turns."""
        return f"{turn or ''}:{call}"

    def input_of(self, kind: str, title: str, name: str, given: dict[str, Any]) -> Update:
        """What a tool is about, in the words that a call and a request for leave share."""
        return {"title": title or name, "kind": kind, "rawInput": given, "locations": self._locations([], given)}

    def _written(self, fact: e.MailAccepted) -> list[Update]:
        if fact.msg_id in self.own:
            return []
        text = f"{fact.name}: {fact.text}" if fact.name else fact.text
        if fact.images:
            text += f"\n[{fact.images} picture{'s' if fact.images > 1 else ''}]"
        self._count += 1
        return [self._chunk("user_message_chunk", text)]

    def _piece(self, kind: str, text: str) -> list[Update]:
        if not text:
            return []
        self._said[kind] += text
        return [self._chunk(kind, text)]

    def _whole(self, kind: str, text: str) -> list[Update]:
        """The rest of a text whose pieces were told, or all of it."""
        said, self._said[kind] = self._said[kind], ""
        rest = text[len(said) :] if text.startswith(said) else text
        if said and not text.startswith(said):  # pieces were missed, because a daemon died
            self._count += 1
        told = [self._chunk(kind, rest)] if rest else []
        self._count += 1
        return told

    def _chunk(self, kind: str, text: str) -> Update:
        return {"sessionUpdate": kind, "content": {"type": "text", "text": text}, "messageId": f"{kind[:5]}-{self._count}"}

    def _called(self, turn: str | None, fact: e.ToolCall) -> Update:
        ident = self.call_id(turn, fact.call_id)
        self._open[ident] = ""
        about = self.input_of(fact.kind, fact.title, fact.name, fact.input)
        about["locations"] = self._locations(fact.locations, fact.input)
        return {"sessionUpdate": "tool_call", "toolCallId": ident, "status": "in_progress", **about}

    def _progress(self, turn: str | None, fact: e.ToolProgress) -> list[Update]:
        ident = self.call_id(turn, fact.call_id)
        if ident not in self._open:
            return []
        update: Update = {"sessionUpdate": "tool_call_update", "toolCallId": ident, "status": "in_progress"}
        if fact.title:
            update["title"] = fact.title
        if fact.text:
            self._open[ident] = (self._open[ident] + fact.text)[-_RUNNING:]
            update["content"] = [_text(_fenced(self._open[ident]))]
        return [update]

    def _result(self, turn: str | None, fact: e.ToolResult) -> Update:
        ident = self.call_id(turn, fact.call_id)
        known = ident in self._open
        self._open.pop(ident, None)
        content: list[Update] = []
        for diff in fact.diffs:
            made: Update = {"type": "diff", "path": self._places.outside(diff.path), "newText": diff.new}
            content.append(made | ({"oldText": diff.old} if diff.old is not None else {}))
        if fact.output.strip() and not (content and fact.ok):
            text = fact.output if len(fact.output) <= _OUTPUT else f"{fact.output[:_OUTPUT]}\n[cut]"
            content.append(_text(_fenced(text) if fact.kind in _PLAIN else text))
        update: Update = {"toolCallId": ident, "status": "completed" if fact.ok else "failed", "content": content}
        if fact.diffs:
            update["locations"] = [{"path": self._places.outside(diff.path)} for diff in fact.diffs]
        if not known:  # its call was never told
            return {"sessionUpdate": "tool_call", **update, "title": fact.name, "kind": fact.kind}
        return {"sessionUpdate": "tool_call_update", **update}

    def _finished(self, fact: e.TurnFinished) -> list[Update]:
        updates = [{"sessionUpdate": "tool_call_update", "toolCallId": ident, "status": "failed"} for ident in self._open]
        self._forget()
        if fact.cost_usd:
            self._cost = (self._cost or 0.0) + fact.cost_usd
            updates += self._usage()
        return updates

    def _usage(self) -> list[Update]:
        if not self.size:
            return []
        cost = {"cost": {"amount": round(self._cost, 6), "currency": "USD"}} if self._cost is not None else {}
        return [{"sessionUpdate": "usage_update", "used": self.used, "size": self.size, **cost}]

    def _locations(self, told: Iterable[e.Location], given: dict[str, Any]) -> list[Update]:
        found = [{"path": self._places.outside(each.path)} | ({"line": each.line} if each.line else {}) for each in told]
        path = given.get("path") or given.get("file_path")
        if not found and isinstance(path, str) and path:
            found = [{"path": self._places.outside(path)}]
        return found

    def _forget(self) -> None:
        """A turn ends or begins: no text is in the middle."""
        if any(self._said.values()):
            self._count += 1
        self._said = dict.fromkeys(self._said, "")
        self._open = {}


def _text(text: str) -> Update:
    return {"type": "content", "content": {"type": "text", "text": text}}


def _fenced(text: str) -> str:
    """`text` as a block of Markdown that nothing in it ends."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _entry(entry: e.PlanEntry) -> Update:
    status = entry.status if entry.status in _STATUS else "pending"
    return {"content": entry.content, "status": status, "priority": entry.priority if entry.priority in _PRIORITY else "medium"}
