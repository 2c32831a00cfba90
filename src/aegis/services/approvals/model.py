"""The nouns: a request for leave with what became of it, and the wait for its answer."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.events import ToolKind
from aegis.drivers import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

#: The most of a tool's input that is kept and shown, in bytes of JSON; of a longer one the long texts are cut.
MAX_INPUT: Final = 64 * 1024
#: Texts of an input that is too long are cut at so many characters, the second time at fewer.
_CUTS: Final = (8_000, 500, 60)
_DEEP: Final = 8


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `approvals`. Times are wall seconds.

    `state` is `pending`, `approved`, `rejected` or `withdrawn`; `principal` and `reason` are whose answer it is and why; `edited` is
    the input that the person put in place of the tool's.
    """

    id: str
    instance: str
    session: str
    turn: str
    tool: str
    kind: ToolKind
    title: str
    input: dict[str, Any]
    call_id: str | None
    question: bool
    state: str
    asked_at: float
    decided_at: float | None = None
    delivered_at: float | None = None
    principal: str = ""
    reason: str = ""
    edited: dict[str, Any] | None = None

    def answer(self) -> Answer:
        """What the program is told; for one that is decided."""
        return Answer(allow=self.state == "approved", reason=self.reason, input=self.edited)


class Pending:
    """A request on disk, and the wait for its answer."""

    def __init__(self, ident: str, answer: asyncio.Future[Answer], forgotten: Callable[[str, asyncio.Future[Answer]], None]) -> None:
        self.id = ident
        self._answer = answer
        self._forgotten = forgotten

    async def verdict(self) -> Answer:
        """The answer, once there is one. A request that is withdrawn is answered no.

        A wait that is cancelled leaves the request as it is: somebody may still answer it, for whoever asks the same again.
        """
        try:
            return await asyncio.shield(self._answer)
        except asyncio.CancelledError:
            self._forgotten(self.id, self._answer)
            raise


def digest_of(tool: str, arguments: dict[str, Any]) -> str:
    """What two requests for the same have in common, whatever the order of the keys."""
    return hashlib.sha256(msgspec.json.encode([tool, arguments], order="sorted")).hexdigest()


def bounded(arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments` as they are kept: at most `MAX_INPUT` bytes of JSON."""
    if len(msgspec.json.encode(arguments)) <= MAX_INPUT:
        return arguments
    for most in _CUTS:
        shorter = _shorter(arguments, most, _DEEP)
        if len(msgspec.json.encode(shorter)) <= MAX_INPUT:
            assert isinstance(shorter, dict)
            return shorter
    return {"truncated": msgspec.json.encode(arguments)[: MAX_INPUT // 8].decode("utf-8", "ignore")}


def _shorter(value: Any, most: int, depth: int) -> Any:
    """`value` with its long texts, lists and tables cut, and what lies deep left out."""
    match value:
        case str() if len(value) > most:
            return f"{value[:most]}… ({len(value) - most:,} more characters)"
        case dict() | list() if not depth:
            return "…"
        case dict():
            return {key[:most]: _shorter(inner, most, depth - 1) for key, inner in list(value.items())[:most]}
        case list():
            return [_shorter(inner, most, depth - 1) for inner in value[:most]]
    return value
