"""The mail service: everything about messages, under the names that other services and the faces use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.services.mail import headers, tending
from aegis.services.mail.accepting import Accepting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.core.clock import Clock
    from aegis.core.envelopes import Envelope
    from aegis.core.principals import Principal
    from aegis.services.gate import Gate
    from aegis.store import Store


class Mail(Accepting):
    """Owner of the table `envelopes` and of the events `mail.*`."""

    def __init__(self, store: Store, clock: Clock, gate: Gate) -> None:
        super().__init__(store, clock, gate)
        #: Takes waiting envelopes of a session, by instance id, into the turn that runs in it, as notes; set by the wiring. At most so
        #: many; with False only up to the first that has pictures.
        self.take_in: Callable[[str, str, int, bool], Awaitable[list[Envelope]]] = _nothing

    async def read(self, instance: str, session: str, limit: int = 16) -> list[Envelope]:
        """Hand out what waits for a session, oldest first: it is thereby taken into the turn that runs. For the agent itself.

        Empty when nothing waits, and when no turn runs: then a turn begins with it in any case. An envelope is injected when the program
        shows the result of the tool that brought it, at the latest when the turn ends well; in a turn that ends otherwise before that it
        waits again. Pictures are in `images`; `headers.note` makes a text of the envelopes.
        """
        if not self.waits(instance, session):
            return []
        return await self.take_in(instance, session, limit, True)

    async def pending_note(self, instance: str, session: str) -> str:
        """As `read`, as a text to be put behind the result of a tool; empty when there is nothing. What has pictures waits."""
        if not self.waits(instance, session):
            return ""
        taken = await self.take_in(instance, session, 16, False)
        return headers.note(taken) if taken else ""

    async def retry(self, principal: Principal, ident: str, *, hold: bool = False) -> Envelope:
        """Let a message that failed or expired wait again; see `tending.retry`."""
        return await tending.retry(self, principal, ident, hold=hold)

    async def drop(self, principal: Principal, ident: str) -> None:
        """End a message that waits; see `tending.drop`."""
        await tending.drop(self, principal, ident)


async def _nothing(_instance: str, _session: str, _limit: int, _pictures: bool) -> list[Envelope]:
    return []
