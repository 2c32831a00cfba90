"""What Codex says over its app-server, as events; and what is said to it, as frames. Pure: bytes in, events and bytes out.

A turn begins when the program has put our messages into its conversation, which it says by their name, or by itself; it ends with
`turn/completed`. What other threads than ours do is passed over. A command may outlive the turn that started it: then the program is
busy until it has ended, and its result is told with the next turn.

Tolerant of frames and fields that are unknown or of other types; lines that are no JSON are kept with stderr.
"""

from __future__ import annotations

import base64
from collections import deque
from typing import Any, Final

from aegis.core.events import (
    Fact,
    Outcome,
    Plan,
    PlanEntry,
    Retrying,
    SessionCompacted,
    SessionContext,
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
)  # fmt: skip
from aegis.drivers import Accepted, Acknowledged, Answer, Began, Busy, DriverEvent, Happened, Message, Noted, Withdrawn
from aegis.drivers.claude.frames import a_count, a_dict, a_list, a_text, whole
from aegis.drivers.codex import asking, frames, items, results
from aegis.drivers.codex.turn import Sent, Turn
from aegis.drivers.process import Output

#: Facts between turns, calls without a result and requests without an answer that are kept.
_WAITING: Final = 2000
_CALLS: Final = 10_000
_MOST_ASKED: Final = 256
_GO_ON: Final = (
    "You were interrupted in the middle of your work, by a restart or a limit of your provider. What you were just doing may have been "
    "done in part, in full, or not at all. Look, and go on where you stopped."
)
_PLAN: Final = {"inProgress": "in_progress", "completed": "completed"}
#: What stands between the ids of messages in the name that they have in the program's conversation.
_AND: Final = ","


def ids_of(name: object) -> list[str]:
    """The messages that went under a name."""
    return [ident for ident in a_text(name).split(_AND) if ident]


class Machine:
    """One process of Codex with one thread."""

    def __init__(self, *, model: str, effort: str | None = None, metered: bool = False) -> None:
        self.thread = ""  # the program's name of the session, once it is open
        self.model, self.effort = model, effort
        self.output = Output("Codex", frames.MAX_LINE)
        self._metered = metered  # it tells its usage, because nobody sees its model calls
        self._numbers = 0
        self._turn: Turn | None = None
        self._sent: Sent | None = None  # written, not begun
        self._held: deque[Sent] = deque()  # to be written when the turn of the program's own is over
        self._out: list[bytes] = []
        #: Calls without a result, and which of them are commands that run.
        self._calls: dict[str, items.Call] = {}
        self._running: set[str] = set()
        self._busy = False
        #: What it asked and waits for, by our name of the request. A name is never used twice, so an answer reaches what it was given for.
        self._asked: dict[str, asking.Question] = {}
        self._requests = 0
        self._expected: set[int] = set()  # requests of ours whose answers somebody waits for
        self._waiting: deque[Fact] = deque(maxlen=_WAITING)
        self._context = SessionContext(0)
        self._total = 0
        self._resets: float | None = None
        self._now = 0.0
        #: Answers to our requests, by their number, for the shell to take.
        self.replies: dict[int, dict[str, Any]] = {}

    # What is said to the program.

    def request(self, method: str, **params: Any) -> tuple[int, bytes]:
        """A request whose answer appears in `replies` under the number."""
        ident, data = self._request(method, params)
        self._expected.add(ident)
        return ident, data

    def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> bytes:
        """Begin a turn; see the port. All goes in one frame, so the program has all of it or nothing.

        Empty while the program is in a turn of its own: then `outgoing` gives the frame in time.
        """
        parts: list[dict[str, Any]] = [_text(_GO_ON)] if continues or not messages else []
        sent = Sent(turn, [message.id for message in messages], parts + _parts(messages))
        if self._turn is not None or self._sent is not None:
            self._held.append(sent)
            return b""
        return self._start(sent)

    def add(self, turn: str, messages: list[Message]) -> bytes:
        """Hand further messages to a turn of ours that runs or is on its way; empty for one that is over or was cut."""
        if self._turn is not None and self._turn.sent is not None and self._turn.sent.turn == turn and not self._turn.cut:
            return self._steer(self._turn, messages)
        if self._sent is not None and self._sent.turn == turn:
            self._sent.added.append(messages)
        return b""

    def interrupt(self) -> bytes:
        """Cut the running turn; also one that is on its way. Empty between turns."""
        for sent in (self._sent, *self._held):
            if sent is not None:
                sent.cut = True
        if self._turn is None:
            return b""
        self._turn.cut = True
        return self._cut(self._turn)

    def answer(self, request: str, answer: Answer) -> bytes:
        """Answer what it asked; empty for what it does not wait for any more.

        It does not tell its model why a command or a change was refused, so the reason follows as a message of its own.
        """
        question = self._asked.pop(request, None)
        if question is None:
            return b""
        data = frames.reply(question.ident, asking.answered(question, answer))
        if not answer.allow and answer.reason and self._turn is not None and not self._turn.cut:
            words = f"What you asked for was refused: {answer.reason}"
            params = {"threadId": self.thread, "expectedTurnId": self._turn.ident, "input": [_text(words)]}
            data += self._request("turn/steer", params)[1]
        return data

    def settings(self) -> bytes:
        """Tell a turn that runs of changed settings; every later one is begun with them. Empty between turns."""
        if self._turn is None:
            return b""
        params = {"threadId": self.thread, "turnId": self._turn.ident, "model": self.model, "effort": self.effort}
        return self._request("turn/settings/update", params)[1]

    def outgoing(self) -> bytes:
        """Frames that became due by what the program said. To be written after each `feed`."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def working(self) -> bool:
        """Whether a turn runs or is on its way."""
        return self._turn is not None or self._sent is not None or bool(self._held)

    def _request(self, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
        self._numbers += 1
        return self._numbers, frames.request(self._numbers, method, params)

    def _start(self, sent: Sent) -> bytes:
        params: dict[str, Any] = {"threadId": self.thread, "input": sent.items, "model": self.model}
        if sent.ids:
            params["clientUserMessageId"] = _AND.join(sent.ids)
        if self.effort is not None:
            params["effort"] = self.effort
        self._sent = sent
        sent.request, data = self._request("turn/start", params)
        return data

    def _steer(self, turn: Turn, messages: list[Message]) -> bytes:
        ids = [message.id for message in messages]
        name = _AND.join(ids)
        turn.added[name] = ids
        params = {"threadId": self.thread, "expectedTurnId": turn.ident, "input": _parts(messages), "clientUserMessageId": name}
        return self._request("turn/steer", params)[1]

    def _cut(self, turn: Turn) -> bytes:
        if turn.cutting:
            return b""
        turn.cutting = True
        return self._request("turn/interrupt", {"threadId": self.thread, "turnId": turn.ident})[1]

    # What the program says.

    def feed(self, data: bytes) -> list[DriverEvent]:
        """The events that these bytes of stdout complete. Raises Broken."""
        out: list[DriverEvent] = []
        for line in self.output.lines(data):
            self._line(line, out)
        return out

    def _line(self, line: bytes, out: list[DriverEvent]) -> None:
        found = frames.piece(line)
        if found is not None:
            self._piece(*found, out)
            return
        frame = whole(line)
        if frame is None:
            self.output.aside(line + b"\n")
            return
        method, ident = frame.get("method"), frame.get("id")
        if not isinstance(method, str):
            if isinstance(ident, int) and not isinstance(ident, bool) and ("result" in frame or "error" in frame):
                self._reply(ident, frame, out)
            return
        self._now = a_count(frame.get("emittedAtMs")) / 1000 or self._now
        params = a_dict(frame.get("params"))
        ours = params.get("threadId") in (self.thread, None)
        if isinstance(ident, int | str) and not isinstance(ident, bool):
            self._ask(frame, ours, out)
        elif ours:
            self._notice(method, params, out)

    def _reply(self, ident: int, frame: dict[str, Any], out: list[DriverEvent]) -> None:
        if ident in self._expected:
            self._expected.discard(ident)
            self.replies[ident] = frame
        elif self._sent is not None and ident == self._sent.request:
            error = frame.get("error")
            if isinstance(error, dict):
                turn = self._begin("", out)
                self._take(turn, out)
                turn.failed = {"message": a_text(error.get("message")) or "Codex refused the message"}
                self._end("failed", out)
            else:
                self._begin(a_text(a_dict(a_dict(frame.get("result")).get("turn")).get("id")), out)

    def _notice(self, method: str, params: dict[str, Any], out: list[DriverEvent]) -> None:
        turn = self._turn
        match method:
            case "turn/started":
                ident = a_text(a_dict(params.get("turn")).get("id"))
                if turn is None and ident:
                    self._begin(ident, out)
            case "turn/completed":
                told = a_dict(params.get("turn"))
                if turn is not None and turn.ident == told.get("id"):
                    turn.failed = told.get("error") or turn.failed
                    self._end(a_text(told.get("status")), out)
            case "item/started":
                self._item(a_dict(params.get("item")), True, out)
            case "item/completed":
                self._item(a_dict(params.get("item")), False, out)
            case "item/commandExecution/outputDelta" if turn is not None and params.get("itemId") in self._calls:
                out.append(Happened(ToolProgress(a_text(params.get("itemId")), a_text(params.get("delta")))))
            case "item/mcpToolCall/progress" if turn is not None and params.get("itemId") in self._calls:
                out.append(Happened(ToolProgress(a_text(params.get("itemId")), title=a_text(params.get("message")))))
            case "item/reasoning/summaryPartAdded" if turn is not None and a_count(params.get("summaryIndex")):
                out.append(Happened(ThinkingDelta("\n\n")))
            case "turn/plan/updated" if turn is not None:
                steps = [a_dict(step) for step in a_list(params.get("plan"))[:1000]]
                entries = [PlanEntry(a_text(step.get("step")), _PLAN.get(a_text(step.get("status")), "pending")) for step in steps]
                out.append(Happened(Plan(entries)))
            case "thread/tokenUsage/updated":
                self._tokens(a_dict(params.get("tokenUsage")), out)
            case "error" if turn is not None and turn.ident == params.get("turnId"):
                turn.failed = params.get("error")
                if params.get("willRetry") is True:
                    self._again(turn, results.failure(turn.failed), out)
            case "serverRequest/resolved":
                for name in [name for name, one in self._asked.items() if one.ident == params.get("requestId")]:
                    del self._asked[name]
                    out.append(Withdrawn(name))
            case "account/rateLimits/updated":
                self._resets = results.window_ends(params.get("rateLimits"))
            case "thread/name/updated" if a_text(params.get("threadName")):
                out.append(Happened(SessionTitle(a_text(params.get("threadName")))))
            case "mcpServer/startupStatus/updated" if params.get("status") == "failed":
                why = a_text(params.get("error")) or "it did not start"
                out.append(Noted(f"the MCP server {a_text(params.get('name'))} is not there: {why}"))

    def _again(self, turn: Turn, failed: results.Failure, out: list[DriverEvent]) -> None:
        """It wants to try a failed model call again. It does so after every answer but a few, also after those that are final."""
        if failed.final and not turn.cut:
            turn.final = failed
            self._out.append(self._cut(turn))
        elif turn.final is None:
            out.append(Happened(Retrying(results.attempt(turn.failed), 0.0, failed.status, failed.message)))

    # Turns.

    def _begin(self, ident: str, out: list[DriverEvent]) -> Turn:
        sent, self._sent = self._sent, None
        self._turn = turn = Turn(ident, sent)
        if sent is None:
            out.append(Began())
            self._opened(out)
            return turn
        self._out += [self._steer(turn, messages) for messages in sent.added if not sent.cut]
        if sent.cut:
            self._out.append(self._cut(turn))
        return turn

    def _take(self, turn: Turn, out: list[DriverEvent]) -> None:
        """The messages that the turn was begun with are in the conversation."""
        if turn.taken or turn.sent is None:
            return
        turn.taken = True
        turn.unseen += turn.sent.ids
        out.append(Accepted(turn.sent.ids))
        self._opened(out)

    def _opened(self, out: list[DriverEvent]) -> None:
        out += [Happened(TurnPresence("thinking")), *map(Happened, self._waiting)]
        self._waiting.clear()
        self._tell_busy(False, out)

    def _works(self, out: list[DriverEvent]) -> None:
        """The model has answered: with what it was told."""
        turn = self._turn
        if turn is None:
            return
        self._take(turn, out)
        if turn.unseen:
            out.append(Acknowledged(turn.unseen))
            turn.unseen = []

    def _end(self, status: str, out: list[DriverEvent]) -> None:
        turn = self._turn
        assert turn is not None
        self._take(turn, out)
        out += [Withdrawn(name) for name in self._asked]
        self._asked.clear()
        out += map(Happened, turn.rest(self.model))
        failed = turn.final or (results.failure(turn.failed) if turn.failed else None)
        if turn.final is not None and status == "interrupted" and not turn.cut:
            status = "failed"
        tokens = (turn.input, turn.output, turn.cached)
        end = results.finished(status, turn.text, failed, tokens, rounds=turn.rounds, cut=turn.cut, resets_at=self._resets, now=self._now)
        if end.outcome is Outcome.CANCELLED:  # what still runs of it is ended, and tells nothing any more
            self._running.clear()
            self._calls.clear()
        out.append(end)
        self._turn = None
        self._tell_busy(bool(self._running), out)
        if self._held:
            self._out.append(self._start(self._held.popleft()))

    def _tell_busy(self, busy: bool, out: list[DriverEvent]) -> None:
        if busy != self._busy:
            self._busy = busy
            out.append(Busy(busy))

    # Items.

    def _piece(self, thought: bool, piece: frames.Piece, out: list[DriverEvent]) -> None:
        turn = self._turn
        if turn is None or not piece.delta or piece.thread_id != self.thread or (piece.turn_id and piece.turn_id != turn.ident):
            return
        self._works(out)
        if thought:
            out.append(Happened(ThinkingDelta(piece.delta)))
        else:
            turn.piece(piece.item_id, piece.delta)
            out.append(Happened(TextDelta(piece.delta)))

    def _item(self, item: dict[str, Any], begins: bool, out: list[DriverEvent]) -> None:
        kind, ident, turn = item.get("type"), a_text(item.get("id")), self._turn
        if kind == "userMessage":
            if turn is not None and not begins:
                self._said(turn, a_text(item.get("clientId")), out)
        elif kind == "contextCompaction":
            if not begins:
                out.append(Happened(SessionCompacted("auto", self._context.used)))
        elif kind == "agentMessage" and turn is not None:
            self._works(out)
            text = a_text(item.get("text"))
            if not begins and text:
                turn.whole(ident, text)
                out.append(Happened(Text(text, model=self.model)))
        elif kind == "reasoning" and turn is not None:
            self._works(out)
            parts = a_list(item.get("summary")) or a_list(item.get("content"))
            text = "\n\n".join(part for part in parts if isinstance(part, str))
            if not begins and text:
                out.append(Happened(Thinking(text, model=self.model)))
        elif begins:
            self._called(item, ident, out)
        else:
            self._done(item, ident, out)

    def _said(self, turn: Turn, name: str, out: list[DriverEvent]) -> None:
        """A user's message is in the conversation."""
        self._take(turn, out)
        ids = turn.added.pop(name, None)
        if ids is not None:
            turn.unseen += ids
            out.append(Accepted(ids))

    def _called(self, item: dict[str, Any], ident: str, out: list[DriverEvent]) -> None:
        call = items.call_of(item)
        if call is None or self._turn is None or ident in self._calls or len(self._calls) >= _CALLS:
            return
        self._works(out)
        self._calls[ident] = call
        if item.get("type") == "commandExecution":
            self._running.add(ident)
        out.append(Happened(ToolCall(ident, call.name, call.input, call.kind, call.title, list(call.locations))))
        out.append(Happened(TurnPresence(f"tool: {call.name}")))

    def _done(self, item: dict[str, Any], ident: str, out: list[DriverEvent]) -> None:
        if ident not in self._calls:  # one that was never begun is told whole; one of a turn that was cut is not
            self._called(item, ident, out)
        call = self._calls.pop(ident, None)
        self._running.discard(ident)
        if call is not None:
            ended = items.result_of(item)
            fact = ToolResult(ident, call.name, ended.ok, ended.output, False, ended.ms, call.kind, list(ended.diffs))
            if self._turn is not None:
                out.append(Happened(fact))
            else:
                self._waiting.append(fact)
        if self._turn is None:
            self._tell_busy(bool(self._running), out)

    def _tokens(self, told: dict[str, Any], out: list[DriverEvent]) -> None:
        last, total = a_dict(told.get("last")), a_count(a_dict(told.get("total")).get("totalTokens"))
        used = a_count(last.get("inputTokens")) + a_count(last.get("outputTokens"))
        size = a_count(told.get("modelContextWindow"))
        if used and (used, size) != (self._context.used, self._context.size):
            self._context = SessionContext(used, size)
            out.append(Happened(self._context))
        if total == self._total:
            return
        self._total = total
        turn = self._turn
        if turn is None:
            return
        self._works(out)
        count = {name: a_count(last.get(name)) for name in ("inputTokens", "outputTokens", "cachedInputTokens", "cacheWriteInputTokens")}
        turn.rounds += 1
        turn.input += count["inputTokens"]
        turn.output += count["outputTokens"]
        turn.cached += count["cachedInputTokens"]
        if self._metered:
            written = count["cacheWriteInputTokens"]
            usage = Usage(self.model, count["inputTokens"], count["outputTokens"], count["cachedInputTokens"], written, source="program")
            out.append(Happened(usage))

    # Requests.

    def _ask(self, frame: dict[str, Any], ours: bool, out: list[DriverEvent]) -> None:
        ident = frame["id"]
        if (isinstance(ident, str) and len(ident) > 200) or any(one.ident == ident for one in self._asked.values()):
            return  # it could not tell our answer from another one
        self._requests += 1
        name = f"{self._requests}"
        found = asking.asked(name, frame, self._calls) if ours and self._turn is not None and len(self._asked) < _MOST_ASKED else None
        if found is None:
            self._out.append(frames.refusal(ident, f"nobody answers {a_text(frame.get('method'))[:100]} here"))
            return
        self._works(out)
        self._asked[name] = found[0]
        out += [found[1], Happened(TurnPresence("waiting"))]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _parts(messages: list[Message]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for message in messages:
        if message.text or not message.images:
            parts.append(_text(message.text))
        parts += [
            {"type": "image", "url": f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"} for image in message.images
        ]
    return parts
