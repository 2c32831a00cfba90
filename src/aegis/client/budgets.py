"""Budgets, as the typed client reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aegis.client.transport import path_of

if TYPE_CHECKING:
    from aegis.client.transport import Transport


class Budgets:
    """What may be spent, and what was."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, instance: str | None = None) -> list[dict[str, Any]]:
        """Every budget in force, or those that the calls of an instance count in."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/budgets", query={"instance": instance}).body)

    def get(self, name: str) -> dict[str, Any]:
        """One budget; `@HANDLE` is that of an instance."""
        return cast("dict[str, Any]", self._transport.call("GET", path_of("budgets", name)).body)

    def set(self, name: str, wish: dict[str, Any]) -> dict[str, Any]:
        """Set a budget by `scope`, `agent`, `project`, `usd`, `tokens`, `output_tokens`, `window`, `warn`, `unpriced`.

        What is not given stays as it is; None takes an amount or the window away.
        """
        return cast("dict[str, Any]", self._transport.call("PUT", path_of("budgets", name), wish).body)

    def remove(self, name: str) -> dict[str, Any]:
        """Take away a budget that was set by hand."""
        return cast("dict[str, Any]", self._transport.call("DELETE", path_of("budgets", name)).body)
