"""Tools as a person sees them: what there is, calls, servers, and what was accepted of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from aegis.client.transport import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aegis.client.transport import Transport

#: A call may take as long as its server lets it; the daemon bounds it.
_LONG = 3700.0


class Tools:
    """The registry of tools."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def all(self, project: Path | None = None, *, instance: str | None = None, agent: str | None = None) -> dict[str, Any]:
        """Tools, and notes on servers that have none to show: all of a project, or what an instance or an agent is offered."""
        query = {"project": _text(project), "instance": instance, "agent": agent}
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/tools", query=query, timeout=60.0).body)

    def get(self, name: str, project: Path | None = None, *, instance: str | None = None) -> dict[str, Any]:
        """One tool, by its id."""
        query = {"project": _text(project), "instance": instance}
        return cast("dict[str, Any]", self._transport.call("GET", path_of("tools", name), query=query, timeout=60.0).body)

    def call(self, tool: str, arguments: Mapping[str, Any], *, instance: str | None = None, project: Path | None = None) -> dict[str, Any]:
        """Call a tool; its result: `content`, `structured`, `is_error`."""
        body = {"tool": tool, "arguments": dict(arguments), "instance": instance, "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/tools/call", body, timeout=_LONG).body)

    def servers(self, project: Path | None = None) -> list[dict[str, Any]]:
        """The declared servers, and how each is."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/tools/servers", query={"project": _text(project)}).body)

    def change(self, server: str, project: Path | None = None) -> dict[str, Any]:
        """How what a server offers now differs from what was accepted; `digest` is what to agree to."""
        query = {"server": server, "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/tools/pins", query=query, timeout=90.0).body)

    def pin(self, server: str, digest: str, project: Path | None = None) -> dict[str, Any]:
        """Accept what a server offers now, if it has this digest."""
        body = {"server": server, "digest": digest, "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/tools/pins", body, timeout=90.0).body)

    def offers(self, project: Path) -> list[dict[str, Any]]:
        """The servers of a project's `.mcp.json`: what each would do, and the hash to agree to."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/tools/trust", query={"project": _text(project)}).body)

    def trust(self, server: str, digest: str, project: Path) -> dict[str, Any]:
        """Accept one of them with exactly that declaration."""
        body = {"server": server, "hash": digest, "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/tools/trust", body).body)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
