"""The nouns: a request for leave with what became of it, and the wait for its answer."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.bounds import shortened
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import ToolKind
from aegis.drivers import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

#: The most of a tool's input that is kept and shown, in bytes of JSON; of a longer one the long texts are cut.
MAX_INPUT: Final = 64 * 1024

#: What is asked for is bound to its answer by all of it; with more bytes than this nobody is asked.
MAX_WHOLE: Final = 4 * 1024 * 1024


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
    """What two requests for the same have in common, whatever the order of the keys. Raises TOO_LARGE for what nobody could judge."""
    try:
        whole = msgspec.json.encode([tool, arguments], order="sorted")
    except RecursionError:
        raise AegisError(ErrorKind.TOO_LARGE, "the input is nested too deep") from None
    if len(whole) > MAX_WHOLE:
        raise AegisError(ErrorKind.TOO_LARGE, f"the input is over {MAX_WHOLE:,} bytes")
    return hashlib.sha256(whole).hexdigest()


def bounded(arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments` as they are kept: at most `MAX_INPUT` bytes of JSON."""
    return shortened(arguments, MAX_INPUT)
