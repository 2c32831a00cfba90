"""What the agents service needs of the rest of the house, in one place; the wiring fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from aegis.core.errors import AegisError, ErrorKind, unknown_name

if TYPE_CHECKING:
    from aegis.core.clock import Clock
    from aegis.core.dialects import Dialect
    from aegis.core.events import Usage
    from aegis.drivers import Answer, Asked, Driver
    from aegis.sandboxes import SandboxKind
    from aegis.sandboxes.link import Channel
    from aegis.services.agents.life import Life
    from aegis.services.agents.logins import Logins
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.registry import Registry
    from aegis.services.approvals import Approval
    from aegis.services.budgets import Budgets
    from aegis.services.egress import Entrusted
    from aegis.services.gate import Effect, Gate
    from aegis.services.limits import ProviderLimits
    from aegis.services.mail import Mail
    from aegis.store import Store, Tx


#: The file in the home whose space is given up when the disk is full.
BALLAST: Final = "ballast"


class LimitHit(Protocol):
    """A limit of a provider that a model call ran into."""

    @property
    def provider(self) -> str:
        """Its name."""
        ...

    @property
    def resets_at(self) -> float | None:
        """When it gives more again, in wall seconds, where it told that."""
        ...

    @property
    def message(self) -> str:
        """What it said."""
        ...


class ModelPlane(Protocol):
    """Where model calls of an instance go."""

    def dialects(self, instance: Instance, model: str | None = None) -> frozenset[Dialect]:
        """The dialects that the provider of a model speaks, of the instance's own unless another one is named."""
        ...

    async def serve(
        self,
        channel: Channel,
        instance: Instance,
        turn_of: Callable[[str | None], str | None],
        models: Callable[[], tuple[str, ...]] = ...,
    ) -> None:
        """Serve one connection to the model endpoint.

        `turn_of(session)` names the running turn that a call belongs to; `models()` the models that sessions were switched to.
        """
        ...

    def check_model(self, instance: Instance, model: str, speaks: Collection[Dialect]) -> str:
        """The full name of a model that a session of the instance may be switched to, whose program speaks these dialects.

        Raises AegisError (NOT_FOUND, USAGE).
        """
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

    def busy(self, instance: str, session: str) -> bool:
        """Whether a call of that session is under way."""
        ...

    def limit_of(self, turn: str) -> LimitHit | None:
        """The provider's limit that a call of this turn ran into."""
        ...

    def problem_of(self, path: str) -> str | None:
        """Why model calls are not recorded in a file as they should be; None when all is well."""
        ...

    def given_up(self, turn: str) -> str | None:
        """Why the calls of this turn were not tried any more, for people; None when that is not so."""
        ...

    async def tell(self, instance: Instance, session: str, turn: str | None, usage: Usage) -> None:
        """Record what a program told of its use, where nothing else knows it."""
        ...


class Pending(Protocol):
    """A request for leave that a person is to answer."""

    @property
    def id(self) -> str:
        """Our name for it."""
        ...

    async def verdict(self) -> Answer:
        """The person's answer, once it is there."""
        ...


class Approvals(Protocol):
    """Where requests for leave wait for a person."""

    async def ask(
        self, *, instance: str, session: str, turn: str, request: Asked, effect: Effect | None = None, policies: Sequence[str] = ()
    ) -> Pending:
        """Put a request on record; durable when it returns. `policies` are the rules that want a person asked."""
        ...

    def granted(self, instance: str, session: str, digest: str, action: str, resource: str) -> Approval | None:
        """The yes of a person that covers this exact call for the whole session."""
        ...

    async def withdraw(self, *, instance: str, session: str, reason: str, driver_id: str | None = None) -> None:
        """All open ones of a session, or the one that the driver calls so, want no answer any more."""
        ...

    def end(self, tx: Tx, *, instance: str, session: str, reason: str) -> None:
        """All open ones of a session, in the transaction that ends its turn."""
        ...

    async def delivered(self, approval_id: str) -> None:
        """The program has the answer."""
        ...

    def open(self, instance: str) -> int:
        """How many of an instance wait for a person."""
        ...

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance."""
        ...


class ToolPlane(Protocol):
    """Aegis's own MCP server, for the programs of an instance."""

    async def serve(self, channel: Channel, life: Life) -> None:
        """Serve one connection of a program; a call under way keeps the sandbox awake."""
        ...

    async def ended(self, instance: Instance) -> None:
        """The sandbox of an instance has gone: end what ran for its programs elsewhere."""
        ...


class Egress(Protocol):
    """The way out of a sandbox."""

    async def serve(self, channel: Channel, instance: Instance) -> None:
        """Serve one connection of a program to the proxy inside."""
        ...

    async def environment(self, launch: Launch) -> dict[str, str]:
        """What programs inside need in their environment beyond the proxy itself."""
        ...

    def entrust(self, instance: Instance) -> Entrusted:
        """Whom programs inside trust besides the usual, and what stands for secrets, for a sandbox that starts now."""
        ...

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance."""
        ...


class Guard(Protocol):
    """Who looks at what programs leave in their workspace; see `services/guarding`."""

    async def opening(self, instance: Instance) -> None:
        """Before a sandbox starts."""
        ...

    async def look(self, instance: Instance, *, kept: Collection[str] = ..., session: str | None = ..., turn: str | None = ...) -> object:
        """While there is one."""
        ...

    async def look_soon(self, instance: Instance, *, kept: Collection[str], session: str | None, turn: str | None) -> None:
        """At the end of a turn: waits a moment only."""
        ...

    async def recover(self, find: Callable[[str], Instance | None]) -> None:
        """At the start of a daemon, when no sandbox of the last one is there any more."""
        ...

    async def closing(self, instance: Instance, *, kept: Collection[str] = ...) -> None:
        """After a sandbox has gone."""
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
    limits: ProviderLimits
    budgets: Budgets
    approvals: Approvals
    egress: Egress
    logins: Logins
    #: The value of a secret, for the environment of the sandbox of an instance, by id, that a person exposed it to; None when it is not
    #: stored. Raises DENIED when it is granted to others.
    reveal: Callable[[str, str], Awaitable[str | None]]
    plane: ToolPlane
    guard: Guard

    def driver(self, name: str) -> Driver:
        """The driver of an instance. Raises NOT_FOUND when a person took away the file that described its program."""
        if name not in self.drivers:
            raise unknown_name("provider", name, self.drivers, "put its data file back; see `aegis doctor`")
        return self.drivers[name]

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
