"""What agents left in a workspace and Aegis put aside, as a client asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from aegis.client.transport import path_of

if TYPE_CHECKING:
    from aegis.client.transport import Transport

PAGE: Final = 1000


class HeldFiles:
    """What agents left in a workspace for other programs of the owner to act on, and Aegis put aside."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, state: str | None = "held", *, instance: str | None = None, limit: int = PAGE) -> list[dict[str, Any]]:
        """The newest in one state, or in all with None, oldest first."""
        query = {"state": state or "all", "instance": instance, "limit": limit}
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/held", query=query).body)

    def get(self, ident: str) -> dict[str, Any]:
        """One, by its whole id, with its `text` and its `diff`."""
        return cast("dict[str, Any]", self._transport.call("GET", path_of("held", ident)).body)

    def decide(self, ident: str, *, release: bool) -> dict[str, Any]:
        """Put it back, or remove it for good. Raises CONFLICT when that was done before, or something else stands there."""
        return cast("dict[str, Any]", self._transport.call("POST", path_of("held", ident), {"release": release}).body)

    def look(self, instance: str) -> Sequence[dict[str, Any]]:
        """Look at the workspace of an instance now; returns what is held of it."""
        return cast("list[dict[str, Any]]", self._transport.call("POST", "/v1/held", {"instance": instance}).body)
