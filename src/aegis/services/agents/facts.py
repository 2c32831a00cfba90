"""What rules may know of an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.services.agents.model import Launch
    from aegis.services.agents.registry import Registry


class Facts:
    """The attributes of instances as the gate sees them, made once for each launch."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[str, tuple[Launch, Mapping[str, Any]]] = {}

    def of(self, name: str) -> Mapping[str, Any] | None:
        """Those of an instance, by id or handle; None for one that does not exist. The same object until its launch changes."""
        instance = self._registry.find(name)
        if instance is None:
            return None
        launch = instance.launch
        known = self._made.get(instance.id)
        if known is not None and known[0] is launch:
            return known[1]
        if len(self._made) > 10_000:
            self._made.clear()
        facts = {
            "handle": instance.handle,
            "agent": launch.agent,
            "project": launch.project or "",
            "permission": launch.permission,
            "approvals": launch.approvals,
            "sandbox": launch.sandbox,
            "program": launch.driver or "",
            "model": launch.model or "",
            "security": launch.security,
            "tools": launch.tools,
            "servers": launch.tool_servers,
            "depth": len(self._registry.ancestors(instance.id)),
        }
        self._made[instance.id] = (launch, facts)
        return facts

    def identity(self, name: str) -> str:
        """The id of an instance by its handle or id; the name itself when there is none."""
        found = self._registry.find(name)
        return found.id if found is not None else name

    def ancestors(self, ident: str) -> list[str]:
        """The ids of those that an instance descends from."""
        return [above.id for above in self._registry.ancestors(ident)]
