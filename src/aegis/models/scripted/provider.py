"""The provider itself: picks the script of a model and answers with it."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, unknown_name
from aegis.models import Dialect, ModelRequest, ModelResponse
from aegis.models.errors import error_body
from aegis.models.names import SCRIPTED, SCRIPTS
from aegis.models.scripted.acts import Act, Fail, Pause, say
from aegis.models.scripted.conversation import Conversation, Use, User
from aegis.models.scripted.demo import demo
from aegis.models.scripted.directives import directives, echo
from aegis.models.scripted.framing import FRAMINGS, estimate
from aegis.models.scripted.reading import read
from aegis.models.scripted.schemas import smallest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SCRIPTS: Final[dict[str, Callable[[Conversation], list[Act]]]] = dict(zip(SCRIPTS, (demo, directives, echo), strict=True))
_REMEMBERED: Final = 256  # requests whose repetitions are counted


#: Programs ask for titles and summaries of a conversation on the side; the directives quoted in there are not meant.
_ASIDE: Final = re.compile(r"\btitles?\b|\bsummari[sz]e", re.I)


class ScriptedProvider:
    """See `aegis.models.Provider` and the module."""

    name = SCRIPTED
    dialects: frozenset[Dialect] = frozenset(FRAMINGS)
    secret: str | None = None
    free = True
    description = "scripted (offline, not a real model); token counts are estimates by length"
    models = SCRIPTS

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._failed: OrderedDict[bytes, int] = OrderedDict()

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        """See `Provider.stream`. A hang at the beginning of a script is waited for here, before any byte."""
        path = request.path.partition("?")[0]
        if path.endswith("/count_tokens"):
            return _json(200, msgspec.json.encode({"input_tokens": estimate(len(request.body))}))
        if path.endswith(":countTokens"):
            return _json(200, msgspec.json.encode({"totalTokens": estimate(len(request.body))}))
        script = _SCRIPTS.get(request.model)
        if script is None:
            missing = unknown_name("scripted model", request.model, _SCRIPTS)
            return _json(404, error_body(request.dialect, f"{missing.message}; {missing.hint}", status=404))
        try:
            conversation = read(request.dialect, request.body, path)
        except AegisError as error:
            return _json(400, error_body(request.dialect, error.message, status=400))
        acts = aside(conversation) or script(conversation)
        while acts and isinstance(acts[0], Pause):
            await self._clock.sleep(acts.pop(0).seconds)  # type: ignore[union-attr]  # looked at above
        for act in acts:
            if isinstance(act, Fail) and self._fails(act, conversation):
                return _json(act.status, error_body(request.dialect, f"scripted error {act.status}", status=act.status))
        ident = hashlib.blake2b(request.body, digest_size=9).hexdigest()
        spoken: list[Act] = [act for act in acts if not isinstance(act, Fail)]
        framing = FRAMINGS[request.dialect](conversation, spoken, ident, int(self._clock.now()))
        if conversation.stream:
            headers = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))
            return ModelResponse(200, headers, framing.events(self._clock))
        await self._clock.sleep(framing.pause())
        return _json(200, framing.whole())

    async def close(self) -> None:
        """See `Provider.close`."""

    def _fails(self, act: Fail, conversation: Conversation) -> bool:
        """Whether this error is due now; counts the repetitions of a request where the script asks for that.

        A request is known by where its conversation stands: programs change small things in the body when they repeat one.
        """
        if act.times is None:
            return True
        last = "".join(item.text[-2000:] for item in conversation.items[-1:] if not isinstance(item, Use))
        ident = hashlib.blake2b(f"{len(conversation.items)} {last}".encode(errors="replace"), digest_size=9).digest()
        count = self._failed.pop(ident, 0)
        if count >= act.times:
            return False
        self._failed[ident] = count + 1
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)
        return True


def aside(conversation: Conversation) -> list[Act]:
    """The answer to what a program asks for besides its work: a shape, a title. Empty when it is the work itself."""
    if conversation.schema is not None:
        return [say(msgspec.json.encode(smallest(conversation.schema) if conversation.schema else {}).decode())]
    if conversation.tools:
        return []
    asked = [conversation.system[:400], *(item.text[:400] for item in conversation.items if isinstance(item, User))]
    return [say("Scripted conversation")] if any(_ASIDE.search(text) and "[[" not in text for text in asked) else []


def _json(status: int, body: bytes) -> ModelResponse:
    async def one() -> AsyncIterator[bytes]:
        yield body

    return ModelResponse(status, (("content-type", "application/json"), ("content-length", str(len(body)))), one())
