"""Model calls of instances, joined to the rest: who may call (gate), what it used (ledger), which turn it belongs to (agents)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.principals import Principal, PrincipalKind
from aegis.models.catalogue import Catalogue
from aegis.services.broker import Broker, BrokerClient, Call
from aegis.services.broker.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aegis.core.clock import Clock
    from aegis.models.names import ProviderSpec
    from aegis.sandboxes.link import Channel
    from aegis.services.agents import Instance
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

#: How long the end of a turn waits for the record of a call that has ended, in seconds.
_SETTLE: Final = 1.0


class _Plane(NamedTuple):
    """The providers that instances with the same declared one see, and the broker that calls them."""

    catalogue: Catalogue
    broker: Broker


class Models:
    """The model plane of the agents service."""

    def __init__(self, store: Store, clock: Clock, gate: Gate, secret: Callable[[str], Awaitable[str | None]]) -> None:
        self._gate = gate
        self._ledger = Ledger(store, clock)
        self._clock = clock
        self._secret = secret
        self._planes: dict[ProviderSpec | None, _Plane] = {}
        self._turns: dict[str, str | None] = {}  # call id -> the turn it was made in
        self._turn_of: dict[str, Callable[[str | None], str | None]] = {}  # instance -> how to find its turns
        self._open: dict[tuple[str, str | None], int] = {}  # calls under way, by instance and session
        self._settled = asyncio.Event()

    def dialect(self, instance: Instance) -> str:
        """The dialect to speak: that of the provider, Anthropic Messages when it has both."""
        catalogue = self._plane(instance).catalogue
        dialects = catalogue.provider(catalogue.parse(instance.launch.model or "").provider).dialects
        return "anthropic" if "anthropic" in dialects else "openai"

    async def serve(self, channel: Channel, instance: Instance, turn_of: Callable[[str | None], str | None]) -> None:
        """Serve one connection of an instance."""
        self._turn_of[instance.id] = turn_of
        client = BrokerClient(instance=instance.id, token=instance.token, model=instance.launch.model or "")
        await self._plane(instance).broker.serve(channel, client)

    async def settled(self, instance: Instance, session: str) -> None:
        """Return when the calls of a session that have ended are in the ledger, at the latest after a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                while self._open.get((instance.id, session)):
                    self._settled.clear()
                    await self._settled.wait()

    def totals(self, tx: Any, *, turn: str | None = None, instance: str | None = None) -> dict[str, Any]:
        """What a turn or an instance has used."""
        return self._ledger.totals(tx, turn=turn, instance=instance)

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove what is known of a deleted instance."""
        self._ledger.forget(tx, instance)
        tx.on_commit(lambda: self._turn_of.pop(instance, None))

    async def close(self) -> None:
        """Let the last records be written and the connections go."""
        for plane in self._planes.values():
            await plane.broker.close()
            await plane.catalogue.close()

    def _plane(self, instance: Instance) -> _Plane:
        """The providers as the instance was launched with them: a name means what its own project declared."""
        declared = instance.launch.provider
        if declared not in self._planes:
            catalogue = Catalogue({declared.name: declared} if declared else None, clock=self._clock)
            broker = Broker(provider=catalogue.provider, secret=self._secret, admit=self._admit, record=self._record, clock=self._clock)
            self._planes[declared] = _Plane(catalogue, broker)
        return self._planes[declared]

    async def _admit(self, call: Call) -> None:
        find = self._turn_of.get(call.instance)
        self._turns[call.id] = find(call.session) if find else None
        await self._gate.pass_through(Principal(PrincipalKind.INSTANCE, call.instance), "model.call", call.model, session=call.session)
        key = (call.instance, call.session)
        self._open[key] = self._open.get(key, 0) + 1

    async def _record(self, call: Call) -> None:
        turn = self._turns.pop(call.id, None)
        try:
            await self._ledger.record(call, turn)
        finally:
            if call.admitted:
                key = (call.instance, call.session)
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
                self._settled.set()
