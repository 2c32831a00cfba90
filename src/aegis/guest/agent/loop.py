"""Turns and rounds: ask the model, run what it asks for, until it is done.

Each message is committed before anything follows from it: the model's calls before the tools run, their results before the
model is asked again. However a turn ends, memory is left so that the next one can go on from it.
"""

from __future__ import annotations

import time

from aegis.guest.agent import context, tools
from aegis.guest.agent.dialects import CUT, EFFORTS, REFUSED, Call
from aegis.guest.agent.memory import UNKNOWN, result, text_of
from aegis.guest.agent.model import ModelError
from aegis.guest.agent.wire import Closed, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.dialects import Dialect, Reply
    from aegis.guest.agent.mcp.servers import Servers
    from aegis.guest.agent.memory import Memory
    from aegis.guest.agent.model import Model
    from aegis.guest.agent.wire import Wire

#: What the agent is told after its process died under it, or the provider of its model gave no more for a while.
GO_ON = "[You were interrupted in the middle of your work. Check what is done already, then go on.]"
NOT_RUN = "error: not run: the reply was cut off at its token limit. Make smaller calls, one at a time."
_LEAST_BUDGET = 512
SYSTEM = """You are an agent of Aegis. You work in a sandbox, in the current directory, the workspace; the person you work for sees \
your texts and the workspace, nothing else of the sandbox.

Use the tools to look before you act and to change files. Prefer edit over write for files that exist. Search with glob and grep \
rather than by reading everything. Do what was asked, no more. When you changed code, verify it: run its tests, or the program. \
If something fails, find out why instead of repeating it. Be concise: end with what you did, how you verified it, and what is open."""


class Settings:
    """What one session was started with, as `init` says it."""

    def __init__(self, init: dict[str, Any]) -> None:
        limits = init["limits"]
        self.model: str = init["model"]
        self.system: str = init["system"] if init.get("system") is not None else SYSTEM
        self.permission: str = init.get("permission", "write")
        self.effort: str = init.get("effort") or ""
        self.asks: bool = init.get("approvals") == "ask"
        self.rounds: int = limits["rounds"]
        self.turn_seconds: float = limits["turn_seconds"]
        self.tool_seconds: float = limits["tool_seconds"]
        self.context_tokens: int = limits["context_tokens"]
        self.max_tokens: int = limits["max_tokens"]
        self.mcp: list[dict[str, Any]] = init.get("mcp") or []

    def change(self, changes: dict[str, Any]) -> None:
        """Take what the session was told meanwhile."""
        self.model = changes.pop("model", self.model)
        self.effort = changes.pop("effort", self.effort)


class Loop:
    """The turns of one session, one after the other."""

    def __init__(self, wire: Wire, memory: Memory, model: Model, dialect: Dialect, settings: Settings) -> None:
        self._wire = wire
        self._memory = memory
        self._model = model
        self._dialect = dialect
        self._settings = settings
        self._unseen = set(memory.unseen())
        self._rounds = self._start = 0  # of the current turn: model calls made, and where it begins in memory
        self._turn = ""  # its id
        self._asked = 0
        self._servers: Servers | None = None
        self._offer(tools.offered(settings.permission))

    def close(self) -> None:
        """End what the session started beside itself."""
        if self._servers is not None:
            self._servers.close()

    def _offer(self, offered: list[dict[str, Any]]) -> None:
        """Offer the model these tools from now on."""
        self._tools = offered
        self._overhead = context.tokens(self._settings.system) + sum(context.tokens(str(tool)) for tool in offered)

    def turn(self, frame: dict[str, Any]) -> None:
        """Do one turn, from the frame that asks for it to `finished`. Raises Closed only."""
        self._rounds = 0
        self._start = len(self._memory.messages)
        self._turn = str(frame.get("turn", ""))
        self._wire.begin(self._settings.turn_seconds)
        try:
            if self._take(frame):
                self._work()
            else:
                self._start = 0
            self._finish("completed")
        except Stopped as stop:
            kind = "interrupted" if stop.outcome == "cancelled" else "limit"
            error = {"kind": kind, "message": stop.reason, **({"limit": stop.limit} if stop.limit else {})}
            self._finish(stop.outcome, error)
        except ModelError as failure:
            self._finish(failure.outcome, failure.error)
        except Closed:
            raise
        except Exception as defect:
            import traceback  # 10 ms, for defects only

            traceback.print_exc()
            self._finish("failed", {"kind": "internal", "message": f"{type(defect).__name__}: {defect}"})
        finally:
            self._wire.end()

    def _finish(self, outcome: str, error: dict[str, Any] | None = None) -> None:
        fields = {} if error is None else {"error": error}
        self._wire.send("finished", outcome=outcome, text=self._memory.last_text(self._start), rounds=self._rounds, **fields)

    def _take(self, frame: dict[str, Any]) -> bool:
        """Remember what the turn is about. Returns False when memory shows that it had ended already."""
        memory, known = self._memory, self._memory.ids()
        messages = frame.get("messages") or []
        fresh = [m for m in messages if m["id"] not in known]
        ended = memory.last_role() == "assistant" and not memory.dangling()
        if dangling := memory.dangling():
            memory.record("tool", [result(call, False, UNKNOWN) for call in dangling])
        self._listen(fresh, [{"type": "text", "text": GO_ON}] if frame.get("continues") and not ended else [])
        self._wire.send("accepted", ids=[m["id"] for m in messages])
        return not ended or bool(fresh)

    def _work(self) -> None:
        self._equip(turn=True)
        while self._rounds < self._settings.rounds:
            reply = self._ask()
            calls = self._remember(reply)
            if not calls:
                return
            self._run(calls, cut=reply.stop == CUT)
            self._hear()
            self._equip()
        raise Stopped("limited", f"the limit of {self._settings.rounds} rounds is reached", "rounds")

    def _equip(self, *, turn: bool = False) -> None:
        """Offer the tools of the MCP servers, which are started when the first turn begins. What does not work is told to the model."""
        settings = self._settings
        if not settings.mcp:
            return
        try:
            if self._servers is None:
                from aegis.guest.agent.mcp.servers import Servers  # only sessions that have servers pay for it

                self._servers = Servers(self._wire, settings.mcp, tools.TOOLS, settings.tool_seconds)
            if self._servers.ready(turn=turn):
                self._offer([*tools.offered(settings.permission), *self._servers.offered()])
        except Stopped as stop:
            self._model.begin()
            self._remember_cut(stop)
            raise
        if notes := self._servers.notes():
            self._memory.record("user", [{"type": "text", "text": notes}])

    def _hear(self) -> None:
        """Remember the messages that came while the tools ran, so that the next model call has them. What comes later waits for a turn."""
        self._wire.check()
        known = self._memory.ids()
        fresh = {m["id"]: m for m in self._wire.mail(self._turn) if m["id"] not in known}
        if fresh:
            self._listen([*fresh.values()], [])

    def _listen(self, fresh: list[dict[str, Any]], blocks: list[dict[str, Any]]) -> None:
        """Remember new messages, behind these blocks."""
        for m in fresh:
            blocks += [{"type": "text", "text": m["text"]}, *self._memory.pictures.take(m["id"], m.get("images") or [])]
        if blocks:
            self._memory.record("user", blocks, [m["id"] for m in fresh])
            self._unseen |= {m["id"] for m in fresh}

    def _ask(self) -> Reply:
        """One model call. When the turn is stopped in it, what the model had said is remembered."""
        settings = self._settings
        self._model.begin()
        try:
            self._wire.check()
            self._rounds += 1
            self._wire.send("presence", state="thinking")
            settings.change(self._wire.changes)
            messages = context.fit(self._memory.messages, self._budget())
            ids = self._unseen.intersection(id_ for m in messages for id_ in m.get("ids", ()))
            body = self._dialect.body(
                model=settings.model,
                system=settings.system,
                messages=self._memory.pictures.shown(messages),
                tools=self._tools,
                max_tokens=settings.max_tokens,
                effort=settings.effort,
            )
            started = time.monotonic()
            reply = self._model.call(body, lambda: self._acknowledge(ids))
        except Stopped as stop:
            self._remember_cut(stop)
            raise
        self._wire.send("usage", model=settings.model, ms=_ms_since(started), **reply.usage)
        return reply

    def _budget(self) -> int:
        """The tokens of context that are left for messages."""
        settings = self._settings
        return max(_LEAST_BUDGET, settings.context_tokens - settings.max_tokens - EFFORTS.get(settings.effort, 0) - self._overhead)

    def _acknowledge(self, ids: set[str]) -> None:
        if fresh := sorted(ids & self._unseen):
            self._unseen -= ids
            self._wire.send("acknowledged", ids=fresh)

    def _remember(self, reply: Reply) -> list[Call]:
        """Record the reply. Returns its calls; raises Stopped or ModelError when there is nothing to go on with."""
        parts = reply.parts()
        calls = [part for part in parts if isinstance(part, Call)]
        _number(calls, self._rounds)
        content = [part.block() if isinstance(part, Call) else part for part in parts]
        cut = f"the reply reached its limit of {self._settings.max_tokens} tokens"
        if reply.stop == CUT:
            content.insert(len(content) - len(calls), _mark(cut))
        if content:
            self._memory.record("assistant", content)
        if reply.stop == CUT and not calls:
            raise Stopped("limited", cut, "max_tokens")
        if reply.stop == REFUSED:
            raise ModelError("failed", {"kind": "denied", "message": "the model declined to answer"})
        return calls

    def _remember_cut(self, stop: Stopped) -> None:
        """Record what was said before the stop. A question is never left without any answer, or the next turn would answer it too."""
        content = [part for part in self._model.reply.parts() if not isinstance(part, Call)]
        if text_of(content) or self._memory.last_role() == "user":
            self._memory.record("assistant", [*content, _mark(stop.reason)])

    def _run(self, calls: list[Call], *, cut: bool) -> None:
        """Run the calls one after the other and record their results, all of them, however it ends."""
        results: list[dict[str, Any]] = []
        pictures: list[dict[str, Any]] = []
        stopped: Stopped | None = None
        for call in calls:
            block = call.block()
            if cut:
                results.append(result(block, False, NOT_RUN))
            elif stopped:
                results.append(result(block, False, f"error: not run: {stopped.reason}"))
            else:
                try:
                    results.append(self._use(call, pictures))
                except Stopped as stop:
                    stopped = stop
                    results.append(result(block, False, f"error: {stop.reason}\n{stop.output}".rstrip("\n")))
        self._memory.record("tool", results + pictures)
        if stopped:
            raise stopped

    def _use(self, call: Call, pictures: list[dict[str, Any]]) -> dict[str, Any]:
        self._wire.check()
        self._wire.send("presence", state=f"tool: {call.name}")
        started = time.monotonic()
        settings = self._settings
        waited = 0.0

        def leave(name: str, arguments: dict[str, Any]) -> str | dict[str, Any]:
            nonlocal waited
            asked = time.monotonic()
            answer = self._ask_leave(call.id, name, arguments)
            waited = _ms_since(asked)
            return answer

        asks = leave if settings.asks else None
        output = tools.use(self._wire, call.name, call.input, call.problem, settings.permission, settings.tool_seconds, asks, self._servers)
        if output.pictures:
            pictures += self._memory.pictures.made([{"media_type": kind, "data": data} for kind, data in output.pictures])
        return result(call.block(), output.ok, output.text, output.truncated, round(_ms_since(started) - waited, 3))

    def _ask_leave(self, call: str, name: str, arguments: dict[str, Any]) -> str | dict[str, Any]:
        """Wait for leave to use a tool: the arguments to use it with, or why it may not be used."""
        self._asked += 1
        ident = f"ask_{self._asked}"
        self._wire.send("ask", id=ident, call_id=call, tool=name, input=arguments)
        answer = self._wire.answer(ident)
        if not answer.get("allow"):
            return str(answer.get("reason") or "the person who was asked said no")
        changed = answer.get("input")
        return changed if isinstance(changed, dict) else arguments


def _mark(reason: str) -> dict[str, Any]:
    return {"type": "text", "text": f"[cut off: {reason}]"}


def _number(calls: list[Call], round_: int) -> None:
    """Give an id to each call that has none of its own: some servers send none, or the same twice."""
    seen: set[str] = set()
    for i, call in enumerate(calls):
        if not call.id or call.id in seen:
            call.id = f"call_{round_}_{i}"
        seen.add(call.id)


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 3)
