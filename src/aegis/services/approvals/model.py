"""The nouns: a request for leave with what became of it, and the wait for its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.bounds import shortened
from aegis.core.events import ToolKind
from aegis.drivers import Answer
from aegis.services.gate.calls import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

#: The most of a tool's input that is kept and shown, in bytes of JSON; of a longer one the long texts are cut.
MAX_INPUT: Final = 64 * 1024

__all__ = ["MAX_INPUT", "Approval", "Pending", "Terms", "bounded", "digest_of"]


class Terms(NamedTuple):
    """How long somebody may answer, in seconds, and what counts after that: `reject` or `approve`."""

    seconds: float = 7 * 86400.0
    default: str = "reject"


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `approvals`. Times are wall seconds.

    `state` is `pending`, `approved`, `rejected` or `withdrawn`; `principal` and `reason` are whose answer it is and why; `edited` is
    the input that the person put in place of the tool's.

    `action` and `resource` are what the gate was asked; `policies` the rules that want a person asked, none where the agent asks by its
    own terms. `digest` binds the answer to the exact call: its tool, its arguments and its directory; `argv` and `cwd` show a command.
    `risk` says what is dangerous about it. At `deadline` it ends with `default` (`reject` or `approve`). `scope` is how far the answer
    goes: `once`, or `session` for the same call again; `rule` names the rule that was written with it.
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
    action: str = "tool.use"
    resource: str = ""
    argv: list[str] = []
    cwd: str = ""
    digest: str = ""
    risk: str = ""
    policies: list[str] = []
    deadline: float | None = None
    default: str = "reject"
    scope: str = "once"
    rule: str = ""
    escalated_at: float | None = None
    escalated_by: str = ""

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


def bounded(arguments: dict[str, Any]) -> dict[str, Any]:
    """`arguments` as they are kept: at most `MAX_INPUT` bytes of JSON."""
    return shortened(arguments, MAX_INPUT)
