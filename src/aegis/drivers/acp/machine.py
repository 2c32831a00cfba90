"""The client's side of the Agent Client Protocol as a pure state machine: bytes in, events out, and frames to be written.

Tolerant: lines that are no JSON are kept with stderr, unknown updates are passed over, unknown requests are refused, and a field
of the wrong shape counts as one that is not there. What waits for an answer is told when it cannot come any more.

The ids of the two directions are apart: ours are numbers that we count, the agent's may be any, also the same ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Fact, Outcome, SessionContext, SessionTitle
from aegis.drivers import Accepted, Acknowledged, Answer, Asked, DriverEvent, Finished, Happened, Withdrawn
from aegis.drivers.acp import updates
from aegis.drivers.acp.failures import described
from aegis.drivers.acp.transcript import REFUSED, Transcript
from aegis.drivers.crowds import crowded
from aegis.drivers.process import Broken, Output

if TYPE_CHECKING:
    from aegis.drivers.acp.spec import AgentSpec

#: The largest frame, in bytes.
MAX_LINE: Final = 64 * 1024 * 1024
#: Tool calls and messages of earlier turns that are remembered, and the most requests that may wait for an answer.
_REMEMBERED: Final = 2000
_MOST_ASKED: Final = 256
#: Ids of requests that are remembered, and what is answered to an agent that does not read, in bytes.
_IDS: Final = 10_000
_MOST_UNREAD: Final = 128 * 1024 * 1024
#: How often in one turn an agent that stops after a refusal is told to go on.
_NUDGES: Final = 10
_METHOD_NOT_FOUND: Final = -32601
_CUT: Final = "the turn ended before the tool gave anything back"
_STOPS: Final = {
    "refusal": "the model refused to go on",
    "max_tokens": "the model's answer was cut: it reached the most tokens that it may write",
    "max_turn_requests": "the program stopped the turn: it reached the most model calls that it makes for one",
}
_decode = msgspec.json.Decoder().decode


class Reply(msgspec.Struct, frozen=True):
    """The answer to one of our requests: its result, or its error as one of ours."""

    id: int
    result: dict[str, Any]
    error: AegisError | None = None


class _Turn:
    __slots__ = ("acknowledged", "calls", "cancelled", "context", "cost", "ids", "model", "nudges", "prompt", "refused", "said")

    def __init__(self, prompt: int, ids: list[str], said: updates.Said, calls: updates.Calls) -> None:
        self.prompt = prompt
        self.ids = ids
        self.said = said
        self.calls = calls
        self.acknowledged = False
        self.cancelled = False
        self.refused: list[str] = []  # reasons of which the model does not know yet
        self.nudges = 0
        self.model = ""
        self.cost: float | None = None
        self.context: tuple[int, int] | None = None


class _Pending(msgspec.Struct, frozen=True):
    """A request for leave that waits: the agent's own id of it, its options by kind, the call it is for."""

    ident: Any
    own: str  # the same as JSON
    options: dict[str, str]
    call: str | None
    name: str


class Machine:
    """One session of one agent. `now` is a steady clock and `wall` the time of day, both in seconds."""

    def __init__(
        self, spec: AgentSpec, *, provider: str = "", now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self.session = ""
        self.transcript: Transcript | None = None  # while the program tells its history
        head, _, tail = spec.model.value.partition("{model}")

        def named(value: str) -> str:
            inner = value[len(head) : len(value) - len(tail)] if value.startswith(head) and value.endswith(tail) else value
            return f"{provider}/{inner}" if provider else inner

        self.settings = updates.Settings(named, spec.modes.option, spec.model.option, spec.effort.option)
        self._spec = spec
        self._now = now
        self._wall = wall
        self.output = Output("the program", MAX_LINE)
        self._frames: list[bytes] = []
        self._sent: list[DriverEvent] = []  # true once the frames are written
        self._ids = 0
        self._waiting: set[int] = set()
        self._turn: _Turn | None = None
        #: What it asked and waits for, by our name of the request. Ours is never used twice, so an answer reaches what it was given
        #: for, whatever the agent asks under the same id meanwhile.
        self._asked: dict[str, _Pending] = {}
        self._used: set[str] = set()
        self._requests = 0
        self._unread = 0  # bytes of frames that wait to be written
        self._old: deque[str] = deque(maxlen=_REMEMBERED)  # tool calls and messages of turns that are over
        self._gone: set[str] = set()
        self._spent: float | None = None  # the session's cost before this turn

    # What goes out.

    @property
    def busy(self) -> bool:
        """Whether a turn runs."""
        return self._turn is not None

    def take(self) -> tuple[bytes, list[DriverEvent]]:
        """What is to be written now, and the events that are true once it is."""
        data, events = b"".join(self._frames), self._sent
        self._frames, self._sent, self._unread = [], [], 0
        return data, events

    def request(self, method: str, params: dict[str, Any]) -> int:
        """Ask something; the answer comes as a `Reply` with this id."""
        ident = self._ids
        self._ids += 1
        self._waiting.add(ident)
        self._send(id=ident, method=method, params=params)
        return ident

    def prompt(self, blocks: list[dict[str, Any]], ids: list[str]) -> None:
        """Begin a turn. Raises AegisError(CONFLICT) while another one runs."""
        if self._turn is not None:
            raise AegisError(ErrorKind.CONFLICT, "the program still works on another turn")
        said = updates.Said(self._spec.quirks.whole_thoughts)
        self._turn = _Turn(self._prompt(blocks), ids, said, updates.Calls(self._spec.tools, self._now))
        self._sent.append(Accepted(ids))

    def cancel(self) -> list[DriverEvent]:
        """Cut the running turn, if there is one."""
        if self._turn is None or self._turn.cancelled:
            return []
        self._turn.cancelled = True
        self._send(method="session/cancel", params={"sessionId": self.session})
        return self._withdraw()

    def answer(self, request: str, answer: Answer) -> None:
        """Answer a request for leave; nothing happens for one that does not wait."""
        pending = self._asked.pop(request, None)
        if pending is None:
            return
        wanted = ("allow_once", "allow_always") if answer.allow else ("reject_once", "reject_always")
        option = next((pending.options[kind] for kind in wanted if kind in pending.options), None)
        outcome = {"outcome": "cancelled"} if option is None else {"outcome": "selected", "optionId": option}
        self._send(id=pending.ident, result={"outcome": outcome})
        if self._turn is not None and not answer.allow:
            if pending.call is not None:
                self._turn.calls.refuse(pending.call, answer.reason)
            if self._spec.quirks.reject_ends_turn or (self._spec.quirks.reject_hides_reason and answer.reason):
                self._turn.refused.append(f"`{pending.name}` was refused" + (f": {answer.reason}" if answer.reason else ""))

    def _prompt(self, blocks: list[dict[str, Any]]) -> int:
        ident = self.request("session/prompt", {"sessionId": self.session, "prompt": blocks})
        self._waiting.discard(ident)
        return ident

    def _send(self, **frame: Any) -> None:
        line = msgspec.json.encode({"jsonrpc": "2.0", **frame}) + b"\n"
        self._frames.append(line)
        self._unread += len(line)

    # What comes in.

    def feed(self, data: bytes) -> list[DriverEvent | Reply]:
        """The events that these bytes of stdout complete. Raises Broken."""
        return [event for line in self.output.lines(data) for event in self._frame(line)]

    def _frame(self, line: bytes) -> list[DriverEvent | Reply]:
        if self._unread > _MOST_UNREAD:
            raise Broken("the program asks and does not read the answers")
        try:
            frame = None if crowded(line) else _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.output.aside(line + b"\n")
            return []
        if type(frame) is list:  # a batch
            return [event for one in frame[:1000] if isinstance(one, dict) for event in self._known(one)]
        return self._known(frame) if type(frame) is dict else []

    def _known(self, frame: dict[str, Any]) -> list[DriverEvent | Reply]:
        method = frame.get("method")
        if method is None:
            return self._response(frame) if "id" in frame else []
        params = frame.get("params")
        params = params if type(params) is dict else {}
        if frame.get("id") is not None:
            return [*self._request(frame["id"], method, params)]
        if method == "session/update":
            return [*self._update(params)]
        if method in ("$/cancel_request", "$/cancelRequest"):
            return [*self._withdrawn(params.get("requestId", params.get("id")))]
        return []

    def _response(self, frame: dict[str, Any]) -> list[DriverEvent | Reply]:
        ident = frame["id"]
        if isinstance(ident, str) and ident.isdecimal() and len(ident) < 10:  # some answer with the number as a text
            ident = int(ident)
        if type(ident) is not int:
            return []
        error = described(frame["error"], self._wall()) if frame.get("error") is not None else None
        result = frame.get("result")
        result = result if type(result) is dict else {}
        if self._turn is not None and ident == self._turn.prompt:
            return [*self._ended(self._turn, result, error)]
        if ident not in self._waiting:
            return []
        self._waiting.discard(ident)
        return [Reply(ident, result, error)]

    # Updates.

    def _update(self, params: dict[str, Any]) -> list[DriverEvent]:
        update = params.get("update")
        if type(update) is not dict:
            return []
        if self.transcript is not None:
            self.transcript.add(update)
            self._session_update(update, None)
            return []
        if params.get("sessionId") != self.session:
            return []  # of another session, such as that of a sub-agent
        turn = self._turn
        kind = update.get("sessionUpdate")
        if turn is not None:
            if kind == "agent_message_chunk" or kind == "agent_thought_chunk":
                message = update.get("messageId")
                message = message if isinstance(message, str) else None
                if message in self._gone:
                    return []
                content = update.get("content")
                text = updates.block_text(content) if type(content) is dict else ""
                if not text:
                    return []
                return self._told(turn, turn.said.chunk(text, kind == "agent_thought_chunk", message), message)
            if kind == "tool_call" or kind == "tool_call_update":
                call = update.get("toolCallId")
                if kind == "tool_call_update" and isinstance(call, str) and call in self._gone and call not in turn.calls:
                    return []
                return self._told(turn, [*turn.said.end(), *turn.calls.update(update)])
            if kind == "plan":
                fact = updates.plan(update)
                return self._told(turn, [fact]) if fact is not None else []
        return [*self._session_update(update, turn)]

    def _session_update(self, update: dict[str, Any], turn: _Turn | None) -> list[Happened]:
        fact: Fact | None = None
        match update.get("sessionUpdate"):
            case "usage_update":
                used, size, cost = update.get("used"), update.get("size"), update.get("cost")
                amount = cost.get("amount") if isinstance(cost, dict) and cost.get("currency", "USD") == "USD" else None
                if isinstance(amount, int | float) and 0 < amount < 1e9:
                    if turn is not None:
                        turn.cost = float(amount)
                    else:
                        self._spent = float(amount)
                if updates.count(used):
                    fact = SessionContext(updates.count(used), updates.count(size))
            case "current_mode_update":
                mode = update.get("currentModeId", update.get("modeId"))
                fact = self.settings.set(mode=mode if isinstance(mode, str) else None)
            case "config_option_update":
                fact = self.settings.configured(update.get("configOptions"))
            case "session_info_update":
                title = update.get("title")
                fact = SessionTitle(title) if isinstance(title, str) and title else None
        return [Happened(fact)] if fact is not None else []

    def _told(self, turn: _Turn, facts: list[Fact], message: Any = None) -> list[DriverEvent]:
        events: list[DriverEvent] = [Happened(fact) for fact in facts]
        if events and not turn.acknowledged:
            turn.acknowledged = True
            events.insert(0, Acknowledged(turn.ids))
        if message is not None and (not self._old or self._old[-1] != message) and isinstance(message, str):
            self._old.append(message)
        return events

    # Requests of the agent.

    def _request(self, ident: Any, method: Any, params: dict[str, Any]) -> list[DriverEvent]:
        if method == "session/request_permission":
            return self._permission(ident, params)
        # Files and terminals are its own business in its own sandbox; nothing is ever done for it outside. An agent that asks
        # in spite of our saying so writes the file by itself, before or after.
        self._send(id=ident, error={"code": _METHOD_NOT_FOUND, "message": f"Method not found: {str(method)[:100]}"})
        return []

    def _permission(self, ident: Any, params: dict[str, Any]) -> list[DriverEvent]:
        turn = self._turn
        own = msgspec.json.encode(ident).decode()
        if len(own) > 200 or any(pending.own == own for pending in self._asked.values()):
            return []  # it could not tell our answer from another one
        if turn is None or turn.cancelled or params.get("sessionId") != self.session or len(self._asked) >= _MOST_ASKED:
            self._send(id=ident, result={"outcome": {"outcome": "cancelled"}})
            return []
        told = params.get("toolCall")
        facts, call, claimed, what = turn.calls.asked(told if isinstance(told, dict) else {})
        options = params.get("options")
        kinds = {
            str(option.get("kind")): option["optionId"]
            for option in reversed(options if isinstance(options, list) else [])
            if isinstance(option, dict) and isinstance(option.get("optionId"), str)
        }
        key = self._name(own)
        self._asked[key] = _Pending(ident, own, kinds, call, what.name)
        asked = Asked(
            id=key,
            tool=what.name,
            input=what.input or {},
            kind=what.kind,
            title=what.title,
            call_id=call,
            locations=what.locations,
            question=what.kind == "switch_mode" or what.name in self._spec.tools.questions,
            claimed=claimed,
        )
        return [*self._told(turn, [*turn.said.end(), *facts]), asked]

    def _name(self, own: str) -> str:
        """A name for a request that no other one ever had."""
        name, full = own, len(self._used) >= _IDS
        while name in self._used or (full and name == own):
            self._requests += 1
            name = f"#{self._requests} {own}"
        if not full:
            self._used.add(name)
        return name

    def _withdraw(self) -> list[DriverEvent]:
        asked, self._asked = self._asked, {}
        for pending in asked.values():
            self._send(id=pending.ident, result={"outcome": {"outcome": "cancelled"}})
        return [Withdrawn(key) for key in asked]

    def _withdrawn(self, ident: Any) -> list[DriverEvent]:
        own = msgspec.json.encode(ident).decode()
        key = next((name for name, pending in self._asked.items() if pending.own == own), None)
        if key is None:
            return []
        del self._asked[key]
        self._send(id=ident, error={"code": -32800, "message": "Request cancelled"})
        return [Withdrawn(key)]

    # The end of a turn.

    def _ended(self, turn: _Turn, result: dict[str, Any], error: AegisError | None) -> list[DriverEvent]:
        reason = result.get("stopReason")
        reason = reason if isinstance(reason, str) else ""
        tokens = _tokens(result)
        if self._nudged(turn, reason, error):
            return self._told(turn, turn.said.end(tokens["model"]))
        self._turn = None
        events = self._withdraw()
        events += self._told(turn, [*turn.said.end(tokens["model"]), *turn.calls.end(_CUT)])
        if error is None and not turn.acknowledged and not turn.cancelled:
            events.append(Acknowledged(turn.ids))
        self._old.extend(turn.calls.ids)
        self._gone = set(self._old)
        spent, self._spent = self._spent, turn.cost if turn.cost is not None else self._spent
        outcome, said = Outcome.COMPLETED, None
        if turn.cancelled or reason == "cancelled":
            outcome, reason = Outcome.CANCELLED, reason or "cancelled"
        elif error is not None:
            outcome, said = (Outcome.LIMITED if error.kind is ErrorKind.LIMIT else Outcome.FAILED), error.to_dict()
            reason = "error"
        elif reason in _STOPS:
            outcome, said = Outcome.FAILED, AegisError(ErrorKind.FAILED, _STOPS[reason], reason=reason).to_dict()
        cost = None if turn.cost is None or turn.cost <= (spent or 0) else turn.cost - (spent or 0)
        events.append(
            Finished(
                outcome,
                turn.said.last,
                said,
                0,
                reason,
                input=tokens["input"],
                output=tokens["output"],
                cached=tokens["cached"],
                cost_usd=cost,
            )
        )
        return events

    def _nudged(self, turn: _Turn, reason: str, error: AegisError | None) -> bool:
        """Whether the agent ended its turn without knowing why it was refused something, and was told, and to go on."""
        refused, turn.refused = turn.refused, []
        if not refused or turn.cancelled or error is not None or reason != "end_turn":
            return False
        if turn.nudges >= _NUDGES:
            return False
        turn.nudges += 1
        text = f"{REFUSED} {'; '.join(refused)}. Go on without it, or say why you cannot."
        turn.prompt = self._prompt([{"type": "text", "text": text}])
        return True


def _tokens(result: dict[str, Any]) -> dict[str, Any]:
    """The totals of a turn, from where agents tell them: `usage`, or `_meta.quota.token_count`."""
    meta = result.get("_meta")
    quota = meta.get("quota") if isinstance(meta, dict) else None
    quota = quota if isinstance(quota, dict) else {}
    usage = result.get("usage")
    if not isinstance(usage, dict):
        usage = quota.get("token_count")
    usage = usage if isinstance(usage, dict) else {}

    def count(*names: str) -> int:
        return sum(updates.count(usage.get(name)) for name in names)

    cached = count("cachedReadTokens", "cached_tokens")
    written = count("cachedWriteTokens")
    models = quota.get("model_usage")
    model = models[0].get("model") if isinstance(models, list) and len(models) == 1 and isinstance(models[0], dict) else ""
    # `inputTokens` of the protocol leaves the cached share out; Gemini's own count has it in.
    told = count("inputTokens") + cached + written if "inputTokens" in usage else count("input_tokens")
    output = count("outputTokens", "thoughtTokens") if "outputTokens" in usage else count("output_tokens")
    return {"input": told, "output": output, "cached": cached, "model": model if isinstance(model, str) else ""}
