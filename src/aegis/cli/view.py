"""Shows what happens to agents as it happens: one event in, what a person should see of it out.

`watch`, `chat` and `transcript` all show turns through this. Texts stream in pieces; a whole text that follows its pieces is shown
only where pieces are missing. Of several conversations one streams at a time, the others show their texts when they are whole.
On a terminal words are kept together, and what goes on at the moment (a tool's newest output) has a passing line of its own.
Everything goes through `Output`, which takes the teeth out of what agents and tools say.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.cli import blocks
from aegis.cli.flow import Flow, folded
from aegis.cli.output import Output, Piece
from aegis.cli.render import when
from aegis.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.cli.blocks import Line

#: The most characters of a piece of reasoning, and lines of a message, that are shown.
THOUGHT: Final = 280
_MAIL_LINES: Final = 20
#: What was told longer ago, in seconds, rings nobody any more.
_FRESH: Final = 60.0
_NESTED: Final = "  │ "
#: States that an instance goes through by itself, of which a person need not hear.
_AWAKE: Final = frozenset({"created", "starting", "running", "paused"})
_DELETED: Final = "deleted"
_ORDINARY: Final = frozenset({"", "end_turn", "stop", "stop_sequence", "completed", "success"})

Place = tuple[str, str]  # an instance's id and a session


class Call(NamedTuple):
    """A tool at work: how deep in sub-agents it is, whose turn it belongs to, and what it is called."""

    depth: int
    place: Place
    name: str = ""


class Request(NamedTuple):
    """A request for leave that waits: for which call of a tool, since when, and the change that was shown with it."""

    call: str | None
    since: float
    change: tuple[str, str] | None


class Sums:
    """What is known of a conversation besides its texts."""

    def __init__(self) -> None:
        self.tools = self.errors = 0
        self.context = self.size = 0
        self.measured = False  # the program itself tells how full its context is
        self.plan: list[Any] = []
        self.failure = ""  # of the last turn


class View:
    """Shows events.

    Args:
        out: where to.
        name: what a conversation is called in the heading that tells several apart; None when there is only one.
        failures: whether turns that fail say why; a caller that reports errors itself does not want it twice.
        whole: whether long messages are shown to their end.
        here: whether the one who looks is asked here, and need not be told the commands that answer; then messages are their own.
    """

    def __init__(
        self, out: Output, *, name: Callable[[Place], str] | None = None, failures: bool = True, whole: bool = False, here: bool = False
    ) -> None:
        self._out = out
        self._name = name
        self._failures = failures
        self._whole_mail = whole
        self._here = here
        self._place: Place = ("", "")  # the one that speaks
        self._open: tuple[Place, str, str | None] | None = (
            None  # what the unfinished line holds: whose, text or thinking, of which sub-agent
        )
        self._fresh = self._first = True  # the unfinished line has nothing on it yet; nor has any before it
        self._flow = Flow(None)
        self._text: dict[tuple[Place, str | None], str] = {}  # what was shown of a text that is not yet whole
        self._thought = 0  # characters of the present piece of reasoning
        self._calls: dict[str, Call] = {}
        self._last: str | None = None  # the tool of the line above
        self._requests: dict[str, Request] = {}
        self._waited: dict[str, float] = {}  # seconds that a call of a tool has waited for a person
        self._refused: set[str] = set()
        self._seen: dict[str, set[tuple[str, str]]] = {}  # changes that were shown before the tool made them
        self._sums: dict[Place, Sums] = {}

    def close(self) -> bool:
        """End an unfinished line; False when there was none."""
        if self._open is None:
            return False
        self._put(self._flow.rest())
        self._out.say()
        self._open = None
        return True

    def show(self, event: dict[str, Any]) -> None:
        """Show one event, an object as the daemon sends it."""
        data: dict[str, Any] = event.get("data") or {}
        place = (str(event.get("instance") or ""), str(event.get("session") or ""))
        parent = data.get("parent")
        match event["type"]:
            case "turn.text.delta":
                self._piece(place, "text", str(data["text"]), parent)
            case "turn.thinking.delta":
                self._piece(place, "thinking", str(data["text"]), parent)
            case "turn.text":
                self._whole(place, str(data["text"]), parent)
            case "turn.thinking":
                self._thinking(place, data)
            case "mail.accepted":
                if not self._here:
                    self._message(place, data, event.get("ts"))
            case "mail.failed":
                if data["reason"] != self._of(place).failure:  # the turn that failed has told why
                    self._line(place, 0, ("✗ not delivered: ", "red"), str(data["reason"]))
            case "turn.tool.progress" | "turn.presence" | "instance.activity":
                self._passing(event["type"], place, data)
            case "attention.raised":
                self._attention(place, data, event.get("ts") or 0.0)
            case kind if kind.startswith("turn."):
                self._turn(kind, place, data, parent)
            case kind if kind.startswith("session."):
                self._session(kind, place, data)
            case kind if kind.startswith("approval."):
                self._approval(kind, place, data, event.get("ts") or 0.0)
            case kind if kind.startswith("instance."):
                self._instance(kind, place, data)

    def _turn(self, kind: str, place: Place, data: dict[str, Any], parent: str | None) -> None:
        sums, depth = self._of(place), self._depth(parent)
        match kind:
            case "turn.started":
                sums.tools = sums.errors = 0
                if data.get("origin") == "program":
                    self._line(place, 0, ("↻ work in the background has ended; it goes on by itself", "dim"))
            case "turn.tool.call":
                sums.tools += 1
                self._calls[str(data["call_id"])] = Call(depth, place, one_line(str(data.get("name") or ""), 60))
                self._lines(place, depth, [blocks.tool(data)])
                self._last = str(data["call_id"])
            case "turn.tool.result":
                sums.errors += not data.get("ok")
                alone = len([call for call in self._calls.values() if call.place == place and call.depth == depth]) <= 1
                ident = str(data["call_id"])
                self._calls.pop(ident, None)
                # The time that a person took to answer is none that the tool worked.
                ms = max((data.get("ms") or 0.0) - self._waited.pop(ident, 0.0) * 1000, 0.0)
                seen = self._seen.pop(ident, ())
                if ident in self._refused and not data.get("ok"):
                    self._refused.discard(ident)
                    return  # who said no, and why, stands there already
                self._lines(
                    place, depth, [["  ", *line] for line in blocks.result(data, named=not alone, room=self._room(), ms=ms, seen=seen)]
                )
            case "turn.stuck":
                self._line(place, 0, (f"⚠ it seems stuck: {blocks.stuck(data)}", "yellow"))
            case "turn.plan":
                if data["entries"] and data["entries"] != sums.plan:
                    sums.plan = data["entries"]
                    self._lines(place, depth, blocks.plan(data["entries"]))
            case "turn.retrying":
                delay = f" in {data['delay']:.0f} s" if data.get("delay") else ""
                why = " ".join(str(part) for part in (data.get("status"), data.get("reason")) if part)
                self._line(
                    place, 0, (f"↻ the model does not answer{': ' if why else ''}{one_line(why)}; try {data['attempt']}{delay}", "yellow")
                )
            case "turn.usage":
                if not sums.measured:
                    sums.context = (data.get("input") or 0) + (data.get("output") or 0)
            case "turn.finished":
                self._finished(place, data)

    def _finished(self, place: Place, data: dict[str, Any]) -> None:
        """The end of a turn: why, if it is not simply done, and the sums."""
        self._text = {key: text for key, text in self._text.items() if key[0] != place}
        self._calls = {ident: call for ident, call in self._calls.items() if call.place != place}
        sums, outcome, error = self._of(place), str(data.get("outcome")), data.get("error") or {}
        sums.failure = str(error.get("error") or "")
        if error.get("will_continue"):
            # Until when a limit lasts has been told.
            told = "… it waits until then" if outcome == "limited" else "… cut short, and continued"
            self._line(place, 0, (told, "yellow"))
            return
        if outcome == "completed":
            if data.get("reason", "") not in _ORDINARY:
                self._line(place, 0, (f"it stopped: {one_line(str(data['reason']))}", "yellow"))
        elif self._here and outcome == "cancelled":
            self._line(place, 0, ("✗ cut", "yellow"))
        elif self._failures:
            told = one_line(str(error.get("error") or ""), 1000)
            self._line(place, 0, (f"✗ {outcome}", "yellow" if outcome == "cancelled" else "red"), f": {told}" if told else "")
            if error.get("hint"):
                self._line(place, 0, ("  hint: ", "cyan"), one_line(str(error["hint"]), 1000))
        line = blocks.sums(data, context=sums.context, size=sums.size, tools=sums.tools, errors=sums.errors, ms=data.get("ms") or 0.0)
        self._lines(place, 0, [line] if line else [])
        self.close()

    def _session(self, kind: str, place: Place, data: dict[str, Any]) -> None:
        sums = self._of(place)
        match kind:
            case "session.opened":
                told = f"· {data['program']} {data.get('version', '')}".rstrip() + (" goes on" if data.get("resumed") else "")
                self._line(place, 0, (told + (f", a copy of {data['forked_from']}" if data.get("forked_from") else ""), "dim"))
            case "session.settings":
                told = ", ".join(f"{name} {one_line(str(data[name]), 80)}" for name in ("model", "mode", "effort") if data.get(name))
                if told:
                    self._line(place, 0, (f"· {told}", "dim"))
            case "session.title":
                self._line(place, 0, (f"· “{one_line(str(data['title']))}”", "dim"))
            case "session.context":
                sums.context, sums.size, sums.measured = data["used"], data.get("size") or sums.size, True
            case "session.compacted":
                sizes = f": {blocks.count(data['before'])} → {blocks.count(data.get('after') or 0)} tokens" if data.get("before") else ""
                self._line(place, 0, (f"✂ the conversation was shortened{sizes}", "dim"))

    def _approval(self, kind: str, place: Place, data: dict[str, Any], ts: float) -> None:
        ident = str(data["approval_id"])
        if kind == "approval.requested":
            call = str(data["call_id"]) if data.get("call_id") else None
            wanted = blocks.edit(data)
            self._requests[ident] = Request(call, ts, blocks.change(wanted) if wanted else None)
            again = self._last is not None and call == self._last
            self._lines(place, 0, blocks.request(data, ident, self._room(), again=again, commands=not self._here))
        elif kind == "approval.escalated":
            self._lines(place, 0, [blocks.escalated(data)])
        else:
            request = self._requests.pop(ident, None)
            if request is not None and request.call is not None:
                self._waited[request.call] = self._waited.get(request.call, 0.0) + max(ts - request.since, 0.0)
                if data.get("verdict") == "rejected":
                    self._refused.add(request.call)
                if request.change is not None:
                    self._seen.setdefault(request.call, set()).add(request.change)
            self._lines(place, 0, [["  ", *blocks.decided(data)]])

    def _attention(self, place: Place, data: dict[str, Any], ts: float) -> None:
        """What a person is told, with the bell; not what he sees or is asked here, and not in what is past."""
        if self._whole_mail or (self._here and data["kind"] in ("done", "needs-you")):
            return
        self._note(place, (one_line(str(data["text"]), 400), blocks.NOTICES.get(str(data["kind"]), "")))
        if data.get("bell", True) and time.time() - ts < _FRESH:
            self._out.bell()

    def _passing(self, kind: str, place: Place, data: dict[str, Any]) -> None:
        """What goes on at this moment, where nothing is being said."""
        if self._open is not None or (self._place not in (place, ("", "")) and place[0] != self._place[0]):
            return
        told = ""
        if kind == "turn.tool.progress":
            call = self._calls.get(str(data["call_id"]))
            last = next((line for line in reversed(printable(str(data.get("text") or "")).splitlines()) if line.strip()), "")
            told = last or str(data.get("title") or "") or (call.name if call else "")
        elif kind == "turn.presence":
            told = data["state"] if data["state"] == "thinking" else ""
        elif data["activity"] == "starting":
            told = "starting"
        if told:
            self._out.passing(f"⋯ {told}")

    def _instance(self, kind: str, place: Place, data: dict[str, Any]) -> None:
        match kind:
            case "instance.state" if data["state"] not in _AWAKE and data.get("reason") != _DELETED:  # which is told by itself
                failed = data["state"] == "failed"
                reason = f": {one_line(str(data['reason']))}" if data.get("reason") else ""
                self._note(place, (f"{data['state']}{reason}", "red" if failed else "dim"))
                for line in printable(str(data.get("stderr") or "")).splitlines()[-6:] if failed else ():
                    self._line(place, 0, ("  | ", "dim"), (one_line(line), "dim"))
            case "instance.limited":
                guess = "" if data.get("told", True) else " (a guess)"
                provider, until = one_line(str(data["provider"]), 60), blocks.limited(data["until"])
                self._line(place, 0, (f"⏸ {provider} gives no more {until}{guess}; then it goes on by itself", "yellow"))
            case "instance.egress" if not data.get("allowed"):
                self._line(place, 0, ("✗ ", "red"), f"no way to {data['host']}:{data['port']}", (f": {data.get('reason', '')}", "dim"))
            case "instance.exec":
                self._note(place, (f"{blocks.who_is(data['principal'])} ran {one_line(' '.join(data['argv']), 120)}", "dim"))
            case "instance.held" if data["state"] in ("held", "failed"):
                what = f"{one_line(data['path'])} {'was' if data['state'] == 'held' else 'could NOT be'} put aside"
                self._line(place, 0, ("✋ ", "yellow"), what, (f": {one_line(data.get('reason', ''))}; `aegis held list`", "dim"))
            case "instance.deleted":
                self._note(place, ("deleted", "dim"))

    def _message(self, place: Place, data: dict[str, Any], ts: Any) -> None:
        """A message to the agent."""
        lines = printable(str(data["text"])).splitlines() or [""]
        shown = lines if self._whole_mail else lines[:_MAIL_LINES]
        clock = f"  {when(ts)}" if self._whole_mail else ""
        pictures = f"  [{data['images']} image{'s' * (data['images'] > 1)}]" if data.get("images") else ""
        self._line(place, 0, (f"✉ {blocks.who_is(data.get('name') or data['sender'])}", "cyan"), (clock, "dim"), (pictures, "dim"))
        flow = Flow(self._out.columns, 2)
        for line in (flow.feed("\n".join(shown)) + flow.rest()).split("\n"):
            self._line(place, 0, "  ", (line, "bold"))
        if len(lines) > len(shown):
            self._line(place, 0, (f"  … {len(lines) - len(shown)} more lines", "dim"))

    def _thinking(self, place: Place, data: dict[str, Any]) -> None:
        """A whole piece of reasoning, of which pieces may have been shown."""
        parent = data.get("parent")
        if self._open == (place, "thinking", parent):
            self.close()
        elif data.get("text"):
            if self._text.get((place, parent)):
                return  # its pieces were shown before those of the text that is under way
            self._piece(place, "thinking", str(data["text"]), parent)
            self.close()
        elif data.get("tokens"):
            self._line(place, self._depth(parent), (f"∴ thought, about {blocks.count(data['tokens'])} tokens", "dim"))

    def _piece(self, place: Place, what: str, text: str, parent: str | None) -> None:
        """Part of a text, as it comes."""
        key = (place, what, parent)
        if self._open != key:
            if self._open is not None and self._open[0] != place:
                return  # another conversation is in the middle of a line; this text is shown when it is whole
            self.close()
            self._heading(place)
            self._open, self._thought, self._last = key, 0, None
            self._fresh = self._first = True
            self._flow = Flow(self._out.columns, len(_NESTED) * self._depth(parent) + (2 if what == "thinking" else 0))
            if what == "thinking":
                text = text.lstrip()
        if what == "text":
            self._text[place, parent] = self._text.get((place, parent), "") + text
        else:
            text = self._abridged(text)
        self._put(self._flow.feed(text))

    def _abridged(self, text: str) -> str:
        """As much of a piece of reasoning as is still to be shown, in one paragraph."""
        before, self._thought = self._thought, self._thought + len(text)
        if before >= THOUGHT:
            return ""
        text = text.replace("\n", " ")
        return text if self._thought < THOUGHT else text[: THOUGHT - before].rstrip() + " …"

    def _put(self, text: str) -> None:
        """Text of the unfinished line; every line of it begins with the margin."""
        if self._open is None or not text:
            return
        _, what, parent = self._open
        style, nested = ("dim" if what == "thinking" else ""), _NESTED * self._depth(parent)
        sign = "∴ " if what == "thinking" else ""
        for n, part in enumerate(text.split("\n")):
            if n:
                self._out.piece("\n")
                self._fresh, sign = True, " " * len(sign)
            if part:
                if self._fresh and (nested or sign):
                    self._out.piece(nested + (sign if n or self._first else " " * len(sign)), "dim")
                self._fresh = self._first = False
                self._out.piece(part, style)

    def _whole(self, place: Place, text: str, parent: str | None) -> None:
        """A whole text, of which pieces may have been shown: show what is missing. Pieces of the next one may be there already."""
        key = (place, parent)
        begun = self._text.pop(key, "")
        open_ = self._open == (place, "text", parent)
        if begun.startswith(text) and begun:
            rest = begun[len(text) :]
            if rest:
                self._text[key] = rest
            elif open_:
                self.close()
            return
        if not (text.startswith(begun) and open_):
            # Either nothing was shown, or something else since, or pieces were lost: all of it, on lines of its own.
            self.close()
            begun = ""
        self._piece(place, "text", text[len(begun) :], parent)
        self._text.pop(key, None)
        self.close()

    def _line(self, place: Place, depth: int, *pieces: Piece) -> None:
        self._lines(place, depth, [list(pieces)])

    def _lines(self, place: Place, depth: int, lines: list[Line]) -> None:
        """Lines of their own."""
        if not lines:
            return
        self.close()
        self._heading(place)
        self._last = None
        margin: list[Piece] = [(_NESTED * depth, "dim")] if depth else []
        width = self._out.columns
        for line in lines:
            for part in folded(line, None if width is None else width - len(_NESTED) * depth):
                self._out.say(*margin, *part)

    def _note(self, place: Place, piece: Piece) -> None:
        """A line about an instance as a whole, which changes nothing about whose the following is."""
        if self._name is None or place[0] == self._place[0]:
            self._line(place, 0, ("· ", "dim"), piece)
            return
        self.close()
        self._last = None
        self._out.say(("· ", "dim"), (f"{self._name(place)}  ", "dim"), piece)

    def _heading(self, place: Place) -> None:
        """Say whose the following is, if it is not clear."""
        if place == self._place or (not place[1] and place[0] == self._place[0]):
            return  # what is about an instance as a whole belongs wherever it is the one that speaks
        if self._name is not None:
            self._out.say((f"── {self._name(place)} ──", "dim"))
        self._place = place

    def _of(self, place: Place) -> Sums:
        return self._sums.setdefault(place, Sums())

    def _depth(self, parent: str | None) -> int:
        if parent is None:
            return 0
        call = self._calls.get(parent)
        return min(call.depth + 1 if call else 1, 4)

    def _room(self) -> int:
        """Columns for the variable part of a line."""
        return max((self._out.columns or blocks.WIDE) - 12, 20)
