"""Connections to MCP servers that are reached by HTTP: to addresses that were looked at, and to private ones only where that is declared.

Imported when the first such server is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpcore

from aegis.services.egress.addresses import inside, is_own, unnameable
from aegis.services.egress.dialling import Unreachable, lookup
from aegis.services.egress.places import Malformed, read_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aegis.services.egress.addresses import Address
    from aegis.services.egress.dialling import Resolve
    from aegis.services.egress.rules import Rules

_PATIENCE: Final = 10.0
_MOST: Final = 6


class Dial(httpcore.AsyncNetworkBackend):
    """Opens connections for one server. `rules` are the private addresses that its declaration names."""

    def __init__(self, rules: Rules, resolve: Resolve, own: Callable[[Address], bool] = is_own) -> None:
        self._rules = rules
        self._resolve = resolve
        self._own = own
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address of `host` that answers, all of which may be reached."""
        addresses = await self._addresses(host, port)
        problem = f"{host} has no address"
        for address in addresses[:_MOST]:
            try:
                return await self._sockets.connect_tcp(str(address), port, timeout or _PATIENCE, socket_options=socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = str(error) or "nobody answers there"
        raise httpcore.ConnectError(problem)

    async def sleep(self, seconds: float) -> None:
        """Wait between attempts of httpcore's own, of which there are none here."""
        await self._sockets.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            place = read_place(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            found = [place.address] if place.address is not None else await lookup(self._resolve, place.host, port, _PATIENCE)
        except (Malformed, Unreachable) as error:
            raise httpcore.ConnectError(str(error)) from None
        for address in found:
            if (why := unnameable(address)) is not None:
                raise httpcore.ConnectError(f"{host} leads to {address}, which is never reached: {why}")
            what = inside(address) or ("this machine's own" if self._own(address) else None)
            named = place.address is not None or (place.host == "localhost" and address.is_loopback)
            if what is not None and not named and not self._rules.admits(address, port):
                raise httpcore.ConnectError(f"{host} leads to {address}, which is {what}, and no `egress` of the declaration names it")
        return found
