"""The provider itself: picks the script of a model and answers with it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, unknown_name
from aegis.models import Dialect, ModelRequest, ModelResponse
from aegis.models.errors import error_body
from aegis.models.names import SCRIPTED, SCRIPTS
from aegis.models.scripted.acts import Act, Fail, Pause
from aegis.models.scripted.conversation import Conversation, read
from aegis.models.scripted.demo import demo
from aegis.models.scripted.directives import directives, echo
from aegis.models.scripted.framing import Answer, estimate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SCRIPTS: Final[dict[str, Callable[[Conversation], list[Act]]]] = dict(zip(SCRIPTS, (demo, directives, echo), strict=True))
_REMEMBERED: Final = 256  # requests whose repetitions are counted


class ScriptedProvider:
    """See `aegis.models.Provider` and the module."""

    name = SCRIPTED
    dialects: frozenset[Dialect] = frozenset({"anthropic", "openai"})
    secret: str | None = None
    free = True
    description = "scripted (offline, not a real model); token counts are estimates by length"
    models = SCRIPTS

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._failed: OrderedDict[str, int] = OrderedDict()

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        """See `Provider.stream`. A hang at the beginning of a script is waited for here, before any byte."""
        path = request.path.partition("?")[0]
        if path.endswith("/count_tokens"):
            return _json(200, msgspec.json.encode({"input_tokens": estimate(len(request.body))}))
        script = _SCRIPTS.get(request.model)
        if script is None:
            missing = unknown_name("scripted model", request.model, _SCRIPTS)
            return _json(404, error_body(request.dialect, f"{missing.message}; {missing.hint}", status=404))
        try:
            conversation = read(request.dialect, request.body)
        except AegisError as error:
            return _json(400, error_body(request.dialect, error.message, status=400))
        ident = hashlib.blake2b(request.body, digest_size=9).hexdigest()
        acts = script(conversation)
        while acts and isinstance(acts[0], Pause):
            await self._clock.sleep(acts.pop(0).seconds)  # type: ignore[union-attr]  # looked at above
        for act in acts:
            if isinstance(act, Fail) and self._fails(act, ident):
                return _json(act.status, error_body(request.dialect, f"scripted error {act.status}", status=act.status))
        answer = Answer(conversation, [act for act in acts if not isinstance(act, Fail)], ident, int(self._clock.now()))
        return await self._framed(conversation, answer)

    async def close(self) -> None:
        """See `Provider.close`."""

    async def _framed(self, conversation: Conversation, answer: Answer) -> ModelResponse:
        anthropic = conversation.dialect == "anthropic"
        if conversation.stream:
            events = answer.anthropic_events(self._clock) if anthropic else answer.openai_events(self._clock)
            headers = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
            return ModelResponse(200, headers, events)
        await self._clock.sleep(answer.pause())
        return _json(200, answer.anthropic() if anthropic else answer.openai())

    def _fails(self, act: Fail, ident: str) -> bool:
        """Whether this error is due now; counts the repetitions of a request where the script asks for that."""
        if act.times is None:
            return True
        count = self._failed.pop(ident, 0)
        if count >= act.times:
            return False
        self._failed[ident] = count + 1
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)
        return True


def _json(status: int, body: bytes) -> ModelResponse:
    async def one() -> AsyncIterator[bytes]:
        yield body

    return ModelResponse(status, (("content-type", "application/json"), ("content-length", str(len(body)))), one())
