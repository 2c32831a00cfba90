"""One message of a client, from its bytes to its answer: calls run side by side, and what cannot be done is an answer too."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.mcp import protocol
from aegis.daemon.mcp.model import Said
from aegis.daemon.mcp.offering import read
from aegis.services.tools import ToolCaller

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.daemon.mcp.model import Caller, Verb
    from aegis.daemon.mcp.offering import Shelf
    from aegis.daemon.mcp.protocol import Call, Message
    from aegis.daemon.wiring import House

_log = logging.getLogger(__name__)

#: The most characters of a text, and bytes of data, that a tool gives. More is cut: a model could not read it, and programs refuse it.
MAX_TEXT: Final = 64_000
MAX_DATA: Final = 256_000
#: The most characters of an error: what was wrong may be something very long that somebody sent.
_MESSAGE: Final = 2000
#: Whose calls a client may cancel: one session of one caller, within what the client calls its own session.
Scope = tuple[str, str, str]


class Calls:
    """Calls under way, so that a client can say that it does not wait for one any more."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[Scope, protocol.Ident], asyncio.Task[Any]] = {}

    def cancel(self, scope: Scope, ident: protocol.Ident) -> None:
        """End one, if it is there."""
        if (task := self._tasks.get((scope, ident))) is not None:
            task.cancel()

    def cancel_all(self, scope: Scope) -> None:
        """End all of a client."""
        for (whose, _), task in list(self._tasks.items()):
            if whose == scope:
                task.cancel()

    def begin(self, scope: Scope, call: Call, task: asyncio.Task[Any]) -> None:
        """Remember one until it is done. Of two by the same id the newer one is meant."""
        key = (scope, call.ident)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: tuple[Scope, protocol.Ident], task: asyncio.Task[Any]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]


class Exchange:
    """What one message of a client came to. Make it, then `run` it, once."""

    def __init__(self, house: House, calls: Calls, caller: Caller, shelf: Shelf) -> None:
        self._house = house
        self._calls = calls
        self._caller = caller
        self._shelf = shelf
        self.heard = protocol.Heard()

    def hear(self, body: bytes, headers: Mapping[str, str] | None, scope: Scope) -> None:
        """Read it, and end what it says is not waited for."""
        self._scope = scope
        self.heard = protocol.hear(body, self._shelf.offer, headers)
        for ident in self.heard.cancelled:
            self._calls.cancel(scope, ident)

    async def run(self) -> bytes:
        """The answer, encoded; empty when there is none. Cancelled, it ends what is under way."""
        heard = self.heard
        answers = heard.answers
        if heard.calls:
            tasks = [asyncio.ensure_future(self._do(call)) for call in heard.calls]
            for call, task in zip(heard.calls, tasks, strict=True):
                self._calls.begin(self._scope, call, task)
            try:
                await asyncio.wait(tasks)
            finally:
                for task in tasks:
                    task.cancel()
            answers = [*answers, *(_outcome(call, task) for call, task in zip(heard.calls, tasks, strict=True))]
        if not answers:
            return b""
        return msgspec.json.encode(answers if heard.batch else answers[0])

    async def _do(self, call: Call) -> Message:
        tool = self._shelf.tools.get(call.name)
        try:
            if tool is None:
                return await self._foreign(call)
            await self._judge(tool.verb)
            said = await tool.verb.run(self._house, self._caller, read(tool, call.arguments, self._caller))
        except AegisError as error:
            said = failure(error)
        except Exception:
            _log.exception("a defect in %s", call.name)
            return protocol.error(call.ident, protocol.INTERNAL_ERROR, "a defect of Aegis; the daemon's log says where")
        text, data = bounded(said)
        note = await self._note(call)
        if note:
            text, data = f"{text}\n\n{note}", {**(data or {}), "mail": note}
        return protocol.result(call, text, data, said.images, failed=said.failed)

    async def _judge(self, verb: Verb) -> None:
        """Have the gate say whether an instance may use one of Aegis's own verbs. Raises DENIED.

        The services behind the verbs are judged and recorded by themselves, with what is done. So a call is on record here only when it
        is denied, when a person is asked, and when no service records it; one that only looks leaves no record.
        """
        if self._caller.instance is None:
            return
        gate, principal = self._house.gate, self._caller.principal
        decision = gate.decide(principal, "tool.call", verb.id, session=self._caller.session)
        if decision.allow and not decision.obligations.held and (verb.audits or not verb.changes):
            return
        await gate.pass_through(principal, "tool.call", verb.id, session=self._caller.session)

    async def _foreign(self, call: Call) -> Message:
        """Call a tool of the registry. Raises AegisError."""
        caller = ToolCaller(principal=self._caller.principal, instance=self._caller.instance, session=self._caller.session)
        result = await self._house.tools.call(caller, call.name, call.arguments)
        content = result.content
        if note := await self._note(call):
            content = [*content, {"type": "text", "text": note}]
        return protocol.given(call, content, result.structured, failed=result.is_error)

    async def _note(self, call: Call) -> str:
        """Mail that came while the program works, where this is the only way to it; it is thereby taken into its turn."""
        house, instance, session = self._house, self._caller.instance, self._caller.session
        if instance is None or session is None or not self._caller.converses or call.name == "aegis_read_mail":
            return ""
        if house.agents.capabilities(instance).mid_turn_input:  # then it is told at once
            return ""
        try:
            return await house.mail.pending_note(instance.id, session)
        except AegisError as error:  # the disk takes nothing: it waits on
            _log.warning("mail of %s could not be put behind the result of %s: %s", instance.handle, call.name, error.message)
            return ""


def failure(error: AegisError) -> Said:
    """An error as a tool says it: what happened, and what to do next."""
    message = error.message if len(error.message) <= _MESSAGE else f"{error.message[:_MESSAGE]} …"
    text = f"{message}. {error.hint}" if error.hint else message
    return Said(text[:1].upper() + text[1:], error.to_dict() | {"error": message}, failed=True)


def bounded(said: Said) -> tuple[str, dict[str, Any] | None]:
    """Its text and data, cut where they are too much."""
    text, data = said.text, said.data
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}\n[{len(text) - MAX_TEXT} more characters were left out: ask for less]"
    if data is not None and len(msgspec.json.encode(data)) > MAX_DATA:
        data = {"left_out": "the data is too large; the text has its beginning", "kind": ErrorKind.TOO_LARGE.value}
    return text, data


def _outcome(call: Call, task: asyncio.Task[Message]) -> Message:
    if task.cancelled():
        return protocol.error(call.ident, protocol.CANCELLED, "cancelled, as you asked")
    return task.result()
