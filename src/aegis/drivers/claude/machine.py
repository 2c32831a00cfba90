"""What Claude Code says over stream-json, as events; and what is said to it, as frames. Pure: bytes in, events and bytes out.

A turn begins with the CLI's word that it has taken up our message (`command_lifecycle`; versions without it: with the first frame
of work), or by itself when the model is called and nobody asked: then it is the program's own. It ends with a `result`. A result
does not end the work: tasks go on in the background, and their end makes the CLI begin a turn of its own. What is not work of
the main thread (notices, a repeated `init`, sub-agents) never begins one; what sub-agents do between turns waits for the next.

Tolerant of frames and fields that are unknown or of other types; lines that are no JSON are kept with stderr.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from aegis.core.events import (
    Fact,
    Outcome,
    Retrying,
    SessionCompacted,
    SessionContext,
    SessionOpened,
    SessionSettings,
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
from aegis.drivers import Accepted, Acknowledged, Answer, Began, Busy, DriverEvent, Finished, Happened, Message, Withdrawn
from aegis.drivers.claude import asking, frames, plan, results, tools
from aegis.drivers.claude.frames import a_count, a_dict, a_list, a_text
from aegis.drivers.claude.turn import Turn
from aegis.drivers.process import Output

#: Sub-agents' facts between turns, and calls without a result, that are kept; of the calls, so many bytes together.
_WAITING: Final = 2000
_CALLS: Final = 10_000
_CALL_BYTES: Final = 64 * 1024 * 1024
#: Requests that may wait for an answer, ids that are remembered, and tasks in the background.
_MOST_ASKED: Final = 256
_IDS: Final = 10_000
_TASKS: Final = 1000
_NAMESPACE: Final = uuid.UUID("5f1d9f5e-7c1c-5b0e-9c59-6a5c0f0d9a11")
_GO_ON: Final = (
    "You were interrupted in the middle of your work, by a restart or a limit of your provider. What you were just doing may have been "
    "done in part, in full, or not at all. Look, and go on where you stopped."
)
_CUT: Final = "[Request interrupted by user"


def frame_id(ids: list[str]) -> str:
    """The name of the frame that carries these messages: the same whenever they are sent, so that it is found in the transcript."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(ids)))


class Sent:
    """A turn's messages on their way to the program."""

    def __init__(self, ids: list[str], name: str, frame: bytes) -> None:
        self.ids, self.name, self.frame = ids, name, frame
        self.cut = False


class Machine:
    """One process of Claude Code."""

    def __init__(self, *, session: str, model: str, mode: str = "default", resumed: bool = False, metered: bool = False) -> None:
        self.session = session
        self._metered = metered  # it tells its usage, because nobody sees its model calls
        self._provider, self._model = model.partition("/")[0], model
        self._mode = mode
        self.output = Output("Claude Code", frames.MAX_LINE)
        self._numbers = 0
        self._turn: Turn | None = None
        self._sent: Sent | None = None  # written, not taken up
        self._held: deque[Sent] = deque()  # to be written when the turn of the program's own is over
        self._added: dict[str, list[str]] = {}  # written in the middle of the turn and not taken up: name of the frame -> our ids
        self._ending: Finished | None = None  # the end that the turn would have, were nothing of that left
        self._out: list[bytes] = []
        self._lifecycle = False  # the program says when it takes up a message
        self._counter = results.Counter(resumed=resumed)
        self._tasks: set[str] = set()
        self._busy = False
        self._plans = plan.Plans()
        self._calls: dict[str, tuple[str, dict[str, Any], float | None, int]] = {}
        self._size = 0  # bytes of the lines that told of these calls
        #: What it asked and waits for: our name of the request -> its own name of it, and what it wants. Ours is never used twice, so
        #: an answer reaches what it was given for, whatever the program asks under the same name meanwhile.
        self._asked: dict[str, tuple[str, asking.Question]] = {}
        self._used: set[str] = set()
        self._requests = 0
        self._expected: set[str] = set()  # our control requests without an answer
        self._waiting: deque[Fact] = deque(maxlen=_WAITING)
        self._context = SessionContext(0)
        self._sizes: dict[str, int] = {}
        self._limit: float | None = None
        self._now: float | None = None
        #: Answers to our control requests, by their id, for the shell to take.
        self.replies: dict[str, dict[str, Any]] = {}

    # What is said to the program.

    def request(self, subtype: str, **fields: Any) -> tuple[str, bytes]:
        """A control request; its answer appears in `replies` under the id."""
        self._numbers += 1
        ident = f"aegis-{self._numbers}"
        self._expected.add(ident)
        return ident, frames.line({"type": "control_request", "request_id": ident, "request": {"subtype": subtype, **fields}})

    def send(self, turn: str, messages: list[Message], *, continues: bool = False) -> bytes:
        """Begin a turn; see the port. All goes in one frame, so the program has all of it or nothing.

        Empty while the program is in a turn of its own: then `outgoing` gives the frame in time.
        """
        blocks: list[dict[str, Any]] = [{"type": "text", "text": _GO_ON}] if continues or not messages else []
        ids = [message.id for message in messages]
        name = frame_id(ids or [turn])
        sent = Sent(ids, name, _user_frame(name, [*blocks, *_blocks(messages)]))
        if self._turn is not None or self._sent is not None:
            self._held.append(sent)
            return b""
        self._sent = sent
        return sent.frame

    def add(self, messages: list[Message]) -> bytes:
        """Hand further messages to the running turn; see `Listening`. Empty when none runs that could take them.

        The CLI queues the frame and takes it up with the result of the next tool. When no tool is used any more it works on it after the
        `result`, and tells another one: both are one turn here.
        """
        if self._turn is None or self._turn.origin != "mail" or self._turn.told.cut or not self._lifecycle:
            return b""
        ids = [message.id for message in messages]
        name = frame_id(ids)
        self._added[name] = ids
        return _user_frame(name, _blocks(messages))

    def interrupt(self) -> bytes:
        """Cut the running turn; also one that is on its way. Empty between turns."""
        for sent in (self._sent, *self._held):
            if sent is not None:
                sent.cut = True
        if self._turn is None and self._sent is None:
            return b""
        refusals = b"".join(self.request("cancel_async_message", message_uuid=name)[1] for name in self._added)  # else it goes on with them
        if self._turn is not None:
            self._turn.told.cut = True
            if self._turn.origin == "asking":  # no work of the main thread that could be cut
                refusals += b"".join(self.answer(ident, Answer(False, "interrupted")) for ident in list(self._asked))
        return refusals + self.request("interrupt")[1]

    def answer(self, request: str, answer: Answer) -> bytes:
        """Answer what it asked; empty for what it does not wait for any more."""
        ident, question = self._asked.pop(request, ("", None))
        return b"" if question is None else asking.answered(ident, question, answer)

    def outgoing(self) -> bytes:
        """Frames that became due by what the program said. To be written after each `feed`."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @contextlib.contextmanager
    def expecting(self, *, model: str | None = None, mode: str | None = None) -> Iterator[None]:
        """While it is asked to take these settings: the events tell only of changes that others made. Undone where it refuses."""
        before = self._provider, self._model, self._mode
        if model is not None:
            self._provider, self._model = model.partition("/")[0], model
        self._mode = mode or self._mode
        try:
            yield
        except BaseException:
            self._provider, self._model, self._mode = before
            raise

    @property
    def working(self) -> bool:
        """Whether a turn runs or is on its way."""
        return self._turn is not None or self._sent is not None or bool(self._held)

    # What the program says.

    def feed(self, data: bytes) -> list[DriverEvent]:
        """The events that these bytes of stdout complete. Raises Broken."""
        out: list[DriverEvent] = []
        for line in self.output.lines(data):
            self._line(line, out)
        return out

    def _line(self, line: bytes, out: list[DriverEvent]) -> None:
        head = frames.head(line)
        if head is not None and head.type == "stream_event" and head.event is not None and head.event.type == "content_block_delta":
            self._delta(head, out)
            return
        if head is not None and head.subtype == "thinking_tokens" and self._turn is not None and head.parent_tool_use_id is None:
            self._turn.thinking_tokens = head.estimated_tokens
            return
        frame = frames.whole(line)
        if frame is None:
            self.output.aside(line + b"\n")
            return
        self._clock(frame)
        if self._turn is not None and self._turn.origin == "asking" and not self._asked and frame.get("type") != "control_response":
            outcome = Outcome.CANCELLED if self._turn.told.cut else Outcome.COMPLETED
            self._end(Finished(outcome, reason="background"), out)
        parent = frame.get("parent_tool_use_id")
        parent = parent if isinstance(parent, str) else None
        match frame.get("type"):
            case "stream_event":
                self._stream(a_dict(frame.get("event")), parent, out)
            case "assistant":
                self._assistant(frame, parent, len(line), out)
            case "user":
                self._user(frame, parent, out)
            case "result":
                self._result(frame, out)
            case "system":
                self._system(a_text(frame.get("subtype")), frame, parent, out)
            case "command_lifecycle":
                self._command(frame, out)
            case "control_request":
                self._control(frame, out)
            case "control_cancel_request":
                ident = a_text(frame.get("request_id"))
                for name in [name for name, (own, _) in self._asked.items() if own == ident]:
                    del self._asked[name]
                    out.append(Withdrawn(name))
            case "control_response":
                reply = a_dict(frame.get("response"))
                ident = a_text(reply.get("request_id"))
                if ident in self._expected:
                    self._expected.discard(ident)
                    self.replies[ident] = reply
            case "rate_limit_event":
                info = a_dict(frame.get("rate_limit_info"))
                at = info.get("resetsAt")
                self._limit = float(a_count(at)) if info.get("status") == "rejected" and a_count(at) else None
            case "tool_progress" if parent is None and self._turn is not None:
                seconds = a_count(frame.get("elapsed_time_seconds"))
                out.append(Happened(ToolProgress(a_text(frame.get("tool_use_id")), title=f"{a_text(frame.get('tool_name'))}, {seconds} s")))

    # Turns.

    def _work(self, out: list[DriverEvent]) -> Turn:
        """The turn that work of the main thread belongs to; one begins when there is none."""
        if self._turn is not None:
            self._turn.origin = "program" if self._turn.origin == "asking" else self._turn.origin
            return self._turn
        if self._sent is not None and not self._lifecycle:
            return self._taken(out)
        return self._begin("program", Began(), out)

    def _taken(self, out: list[DriverEvent]) -> Turn:
        """The program has taken up our message."""
        assert self._sent is not None
        sent, self._sent = self._sent, None
        if self._turn is not None:  # joined to a turn of its own, whose end is that of ours
            self._end(Finished(Outcome.COMPLETED, self._turn.told.text, reason="joined"), out)
        turn = self._begin("mail", Accepted(sent.ids), out)
        turn.unseen = sent.ids
        if sent.cut:  # the request to cut it came while it waited
            turn.told.cut = True
            self._out.append(self.request("interrupt")[1])
        return turn

    def _begin(self, origin: str, event: DriverEvent, out: list[DriverEvent]) -> Turn:
        self._turn = turn = Turn(origin)
        out += [event, Happened(TurnPresence("thinking")), *map(Happened, self._waiting)]
        self._waiting.clear()
        return turn

    def _end(self, event: Finished, out: list[DriverEvent]) -> None:
        out += [Withdrawn(ident) for ident in self._asked]
        self._asked.clear()
        out.append(_joined(self._ending, event))
        self._turn = self._ending = None
        self._added.clear()
        if self._sent is None and self._held:
            self._sent = self._held.popleft()
            self._out.append(self._sent.frame)

    def _end_held(self, out: list[DriverEvent]) -> None:
        """The end that was told already: the messages that it waited for are not taken up."""
        end, self._ending = self._ending, None
        assert end is not None
        self._end(end, out)

    def _command(self, frame: dict[str, Any], out: list[DriverEvent]) -> None:
        self._lifecycle = True
        ids = self._added.pop(a_text(frame.get("command_uuid")), None) if frame.get("state") != "queued" else None
        if ids is not None and self._turn is not None:
            if frame.get("state") == "started":
                self._turn.unseen = [*self._turn.unseen, *ids]
                out.append(Accepted(ids))
            elif self._ending is not None and not self._added:
                self._end_held(out)
            return
        if self._sent is None or frame.get("command_uuid") != self._sent.name:
            return
        match frame.get("state"):
            case "started":
                self._taken(out)
            case "cancelled" | "completed":  # without having been taken up
                turn = self._taken(out)
                self._end(Finished(Outcome.CANCELLED if turn.told.cut else Outcome.COMPLETED, reason=a_text(frame.get("state"))), out)

    def _result(self, frame: dict[str, Any], out: list[DriverEvent]) -> None:
        names = a_list(frame.get("user_message_uuids")) or [frame.get("user_message_uuid")]
        if self._sent is not None and (self._sent.name in names or (self._turn is None and not self._lifecycle)):
            self._taken(out)
        if self._turn is None and not a_count(frame.get("num_turns")) and not frame.get("is_error"):
            return  # a notice between turns
        turn = self._work(out)
        for name, told in a_dict(frame.get("modelUsage")).items():
            if (size := a_count(a_dict(told).get("contextWindow"))) and len(self._sizes) < 100:
                self._sizes[name] = size
        self._fill(self._context.used, turn.model, out)
        out += map(Happened, turn.rest())
        tokens = self._counter.turn(frame, turn.model)
        if self._metered:
            out += [Happened(_usage(name, part)) for name, part in tokens.items() if part.input or part.output]
        turn.told.resets_at, turn.told.limited, turn.told.now = self._limit, self._limit is not None, self._now
        self._limit = None
        end = results.finished(frame, turn.told, results.summed(tokens.values()))
        if self._added and not turn.told.cut:  # it goes on with those
            self._ending = _joined(self._ending, end)
            turn.told = results.Told()
        else:
            self._end(end, out)

    # The model's words.

    def _delta(self, head: frames.Head, out: list[DriverEvent]) -> None:
        assert head.event is not None
        delta, parent = head.event.delta, head.parent_tool_use_id
        turn = self._turn
        if delta is None or turn is None:
            return
        if delta.type == "text_delta" and delta.text:
            if parent is None:
                turn.piece(delta.text)
            out.append(Happened(TextDelta(delta.text, parent)))
        elif delta.type == "thinking_delta" and delta.thinking:
            out.append(Happened(ThinkingDelta(delta.thinking, parent)))

    def _stream(self, event: dict[str, Any], parent: str | None, out: list[DriverEvent]) -> None:
        if parent is not None:
            return
        match event.get("type"):
            case "message_start":
                turn = self._work(out)
                out += map(Happened, turn.rest())
                message = a_dict(event.get("message"))
                self._called(turn, a_text(message.get("model")), message.get("usage"), out)
            case "message_delta" if self._turn is not None:
                self._fill(results.prompt_tokens(event.get("usage")), self._turn.model, out)
                self._turn.told.stop = a_text(a_dict(event.get("delta")).get("stop_reason"))
            case "content_block_start" if self._turn is not None:
                if a_dict(event.get("content_block")).get("type") == "text":
                    out += map(Happened, self._turn.rest())

    def _assistant(self, frame: dict[str, Any], parent: str | None, size: int, out: list[DriverEvent]) -> None:
        message = a_dict(frame.get("message"))
        model, ident = a_text(message.get("model")), a_text(message.get("id"))
        made_up = model == "<synthetic>"
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else [a_dict(block) for block in a_list(content)]
        if parent is None and frame.get("aborted") is True and self._turn is None:
            return  # of a turn that is over
        if parent is None:
            turn = self._work(out)
            if made_up and (frame.get("is_api_error_message") or frame.get("isApiErrorMessage") or frame.get("error")):
                turn.told.word, turn.told.message = a_text(frame.get("error")), frames.texts(blocks)
                return
            if not made_up:
                self._called(turn, model, message.get("usage"), out)
        model = "" if made_up else model
        for block in blocks:
            fact = self._block(block, ident, model, parent, size)
            if fact is not None:
                self._tell(fact, parent, out)
            if isinstance(fact, ToolCall) and parent is None:
                out.append(Happened(TurnPresence(f"tool: {fact.name}")))

    def _block(self, block: dict[str, Any], message: str, model: str, parent: str | None, size: int) -> Fact | None:
        """A whole block as a fact; None for one that was told before, and for what says nothing."""
        kind, turn = block.get("type"), self._turn
        if kind in ("tool_use", "server_tool_use", "mcp_tool_use"):
            call, name, arguments = a_text(block.get("id")), a_text(block.get("name")), a_dict(block.get("input"))
            if call in self._calls or len(self._calls) >= _CALLS:
                return None
            self._calls[call] = (name, arguments, self._now, size)
            self._size += size
            while self._size > _CALL_BYTES and len(self._calls) > 1:  # the oldest are forgotten
                self._size -= self._calls.pop(next(iter(self._calls)))[3]
            places = tools.locations_of(arguments)
            return ToolCall(call, name, arguments, tools.kind_of(name), tools.title_of(name, arguments), places, parent)
        if kind == "text":
            text = a_text(block.get("text"))
            if not text or (turn is not None and not turn.first(message, text)):
                return None
            if parent is None and turn is not None:
                turn.forget()
                turn.told.text = text
            return Text(text, parent, model)
        if kind in ("thinking", "redacted_thinking"):
            text, tokens = a_text(block.get("thinking")), 0
            if turn is not None and parent is None:
                tokens, turn.thinking_tokens = turn.thinking_tokens, 0
            if not (text or tokens) or (text and turn is not None and not turn.first(message, "\0" + text)):
                return None
            return Thinking(text, parent, model, tokens)
        return None

    def _user(self, frame: dict[str, Any], parent: str | None, out: list[DriverEvent]) -> None:
        content = a_dict(frame.get("message")).get("content")
        if parent is None and self._turn is not None and frames.texts(content).startswith(_CUT):
            self._turn.told.cut = True
        results_ = [block for block in a_list(content) if a_dict(block).get("type") == "tool_result"]
        for block in results_:
            call = a_text(block.get("tool_use_id"))
            known = self._calls.pop(call, None)
            if known is None:
                continue
            name, arguments, started, size = known
            self._size -= size
            told = frame.get("tool_use_result") if len(results_) == 1 else None
            ok, output = block.get("is_error") is not True, frames.texts(block.get("content"))
            ms = max(0.0, round((self._now - started) * 1000, 1)) if self._now is not None and started is not None else 0.0
            diffs = tools.diffs_of(name, arguments, told) if ok else []
            self._tell(ToolResult(call, name, ok, output, False, ms, tools.kind_of(name), diffs, parent), parent, out)
            if ok and name in plan.TOOLS and (new := self._plans.result(parent, name, arguments, told, output)) is not None:
                self._tell(new, parent, out)
            self._plans.forget(call)

    def _tell(self, fact: Fact, parent: str | None, out: list[DriverEvent]) -> None:
        if self._turn is not None:
            out.append(Happened(fact))
        elif parent is not None:
            self._waiting.append(fact)

    # Requests and notices.

    def _control(self, frame: dict[str, Any], out: list[DriverEvent]) -> None:
        ident, request = a_text(frame.get("request_id")), a_dict(frame.get("request"))
        if not ident or len(ident) > 200 or any(own == ident for own, _ in self._asked.values()):
            return  # it could not tell our answer from another one
        if request.get("subtype") != "can_use_tool" or len(self._asked) >= _MOST_ASKED:
            self._out.append(asking.unsupported(ident, a_text(request.get("subtype"))[:100]))
            return
        question = asking.Question(a_text(request.get("tool_name")), a_dict(request.get("input")))
        if self._turn is None and self._sent is not None and not self._lifecycle:
            self._taken(out)
        elif self._turn is None:  # a sub-agent in the background asks
            self._begin("asking", Began(), out)
        name = self._name(ident)
        self._asked[name] = (ident, question)
        out.append(asking.asked(name, question, request))
        out.append(Happened(TurnPresence("waiting")))

    def _name(self, ident: str) -> str:
        """A name for a request that no other one ever had."""
        name, full = ident, len(self._used) >= _IDS
        while name in self._used or (full and name == ident):
            self._requests += 1
            name = f"#{self._requests} {ident}"
        if not full:
            self._used.add(name)
        return name

    def _system(self, subtype: str, frame: dict[str, Any], parent: str | None, out: list[DriverEvent]) -> None:
        match subtype:
            case "init":
                self._settings(a_text(frame.get("model")), a_text(frame.get("permissionMode")), out)
                session = a_text(frame.get("session_id"))
                if session and session != self.session:  # it began another one, as after `/clear`
                    self.session = session
                    out.append(Happened(SessionOpened("claude-code", session, a_text(frame.get("claude_code_version")))))
            case "status":
                self._settings("", a_text(frame.get("permissionMode")), out)
                if frame.get("status") == "requesting" and parent is None:
                    self._work(out)
            case "compact_boundary":
                told = a_dict(frame.get("compact_metadata"))
                before, after = a_count(told.get("pre_tokens")), a_count(told.get("post_tokens"))
                out.append(Happened(SessionCompacted(a_text(told.get("trigger")) or "auto", before, after)))
            case "api_retry" if self._turn is not None:
                delay, attempt = a_count(frame.get("retry_delay_ms")) / 1000, a_count(frame.get("attempt"))
                out.append(Happened(Retrying(attempt, delay, a_count(frame.get("error_status")), a_text(frame.get("error")))))
            case "session_state_changed" if frame.get("state") == "idle" and self._turn is not None and self._lifecycle:
                if self._ending is not None:
                    self._end_held(out)
                elif self._turn.origin != "asking":  # no result is to come any more
                    self._end(self._turn.without_result(), out)
            case "background_tasks_changed":
                self._tasks = {a_text(a_dict(task).get("task_id")) for task in a_list(frame.get("tasks"))[:_TASKS]}
            case "task_started" if frame.get("is_backgrounded", True) and len(self._tasks) < _TASKS:
                self._tasks.add(a_text(frame.get("task_id")))
            case "task_notification":
                self._tasks.discard(a_text(frame.get("task_id")))
            case "task_progress" if self._turn is not None and frame.get("tool_use_id"):
                out.append(Happened(ToolProgress(a_text(frame.get("tool_use_id")), title=a_text(frame.get("description")))))
        if bool(self._tasks) != self._busy:
            self._busy = not self._busy
            out.append(Busy(self._busy))

    def _settings(self, model: str, mode: str, out: list[DriverEvent]) -> None:
        """Tell of settings that changed by themselves, such as by a plan that was accepted."""
        known = self._model.partition("/")[2]
        changed = model if model and model.removesuffix("[1m]") != known.removesuffix("[1m]") else ""
        if changed:
            self._model = f"{self._provider}/{changed}"
        if changed or (mode and mode != self._mode):
            out.append(Happened(SessionSettings(self._model if changed else None, mode if mode and mode != self._mode else None)))
        self._mode = mode or self._mode

    def _called(self, turn: Turn, model: str, usage: object, out: list[DriverEvent]) -> None:
        """A model call of the main thread has been made."""
        turn.model = model or turn.model
        if turn.unseen:
            out.append(Acknowledged(turn.unseen))
            turn.unseen = []
        self._fill(results.prompt_tokens(usage), turn.model, out)

    def _fill(self, used: int, model: str, out: list[DriverEvent]) -> None:
        """Tell how full the context is, where that is news."""
        size = self._sizes.get(model) or _size(model)
        if used and (used, size) != (self._context.used, self._context.size):
            self._context = SessionContext(used, size)
            out.append(Happened(self._context))

    def _clock(self, frame: dict[str, Any]) -> None:
        stamp = frame.get("timestamp")
        if isinstance(stamp, str):
            try:
                self._now = datetime.fromisoformat(stamp).timestamp()
            except (ValueError, OverflowError):
                return


def _blocks(messages: list[Message]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for message in messages:
        if message.text or not message.images:
            blocks.append({"type": "text", "text": message.text})
        blocks += [
            {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": image.data}} for image in message.images
        ]
    return blocks


def _user_frame(name: str, blocks: list[dict[str, Any]]) -> bytes:
    return frames.line({"type": "user", "uuid": name, "message": {"role": "user", "content": blocks}})


def _joined(first: Finished | None, last: Finished) -> Finished:
    """The end of a turn that had two: all of its text, and what both used."""
    if first is None:
        return last
    cost = None if first.cost_usd is None and last.cost_usd is None else (first.cost_usd or 0.0) + (last.cost_usd or 0.0)
    return msgspec.structs.replace(
        last,
        text="\n\n".join(text for text in (first.text, last.text) if text),
        rounds=first.rounds + last.rounds,
        input=first.input + last.input,
        output=first.output + last.output,
        cached=first.cached + last.cached,
        cost_usd=cost,
    )


def _usage(model: str, tokens: results.Tokens) -> Usage:
    return Usage(model, tokens.input, tokens.output, tokens.cached, tokens.written, tokens.cost, source="program")


def _size(model: str) -> int:
    """The context of a model before the program has told it."""
    return 1_000_000 if "[1m]" in model else 200_000 if model.startswith("claude") else 0
