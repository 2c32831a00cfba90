"""What the agents service needs of the rest of the house, in one place; the wiring fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.core.clock import Clock
    from aegis.drivers import Driver
    from aegis.sandboxes import SandboxKind
    from aegis.sandboxes.link import Channel
    from aegis.services.agents.model import Instance
    from aegis.services.agents.registry import Registry
    from aegis.services.gate import Gate
    from aegis.services.mail import Mail
    from aegis.store import Store, Tx


#: The file in the home whose space is given up when the disk is full.
BALLAST: Final = "ballast"


class ModelPlane(Protocol):
    """Where model calls of an instance go."""

    def dialect(self, instance: Instance) -> str:
        """The dialect that the instance's model is spoken to in: `anthropic` or `openai`."""
        ...

    async def serve(self, channel: Channel, instance: Instance, turn_of: Callable[[str | None], str | None]) -> None:
        """Serve one connection to the model endpoint; `turn_of(session)` names the running turn that a call belongs to."""
        ...

    def totals(self, tx: Any, *, turn: str | None = None, instance: str | None = None) -> dict[str, Any]:
        """`calls`, `input`, `output`, `cached` and `cost_usd` of a turn or an instance; `tx` may be a reading connection."""
        ...

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove what is kept of a deleted instance, in the transaction that deletes it."""
        ...

    async def settled(self, instance: Instance, session: str) -> None:
        """Return when every call of that session which has ended is recorded."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Collaborators of the agents service."""

    home: Path
    store: Store
    clock: Clock
    gate: Gate
    mail: Mail
    registry: Registry
    models: ModelPlane
    kinds: Mapping[str, SandboxKind]
    drivers: Mapping[str, Driver]
    #: The value of a secret, for the environment of a sandbox that a person exposed it to; None when it is not stored.
    reveal: Callable[[str], Awaitable[str | None]]

    async def insist(self, fn: Callable[[Tx], Any]) -> None:
        """Write what must be written even when the disk is full: stop, disable, delete.

        The home keeps a file of reserved space for that; it is given up, and made again at the next start of the daemon.
        """
        try:
            await self.store.write(fn)
        except AegisError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            (self.home / BALLAST).unlink(missing_ok=True)
            await self.store.write(fn)
