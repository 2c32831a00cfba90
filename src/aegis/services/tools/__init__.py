"""Tools: the one registry of what agents may call, whoever provides it.

A *source* provides tools under its own name: Aegis's built-in ones, or an MCP server that was declared. The registry shows an agent only
what it may call, has the gate judge each call with its parsed arguments, and holds results to a size and a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from aegis.core.events import ToolKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.core.principals import Principal
    from aegis.services.agents.model import Instance
    from aegis.services.gate import Effect

__all__ = ["Definition", "Result", "Source", "ToolCaller"]


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One tool of a source. `name` is the source's own name of it; `schema` the JSON schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]
    kind: ToolKind = "other"
    changes: bool = True  # whether it has an effect; a hint to the program


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a call gave: parts of content as MCP has them, or an error that tells the agent what to do next."""

    content: list[dict[str, Any]]
    structured: dict[str, Any] | None = None
    is_error: bool = False


class ToolCaller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, proven by the connection. `instance` is None for a person, `session` the conversation of an instance."""

    principal: Principal
    instance: Instance | None = None
    session: str | None = None
    project: str | None = None  # of a person: the directory whose declarations count
    servers: tuple[str, ...] | None = None  # of a person: which of the declared servers; all with None
    families: tuple[str, ...] | None = None  # of a person: which of those that come with Aegis; all with None


class Source(Protocol):
    """A provider of tools."""

    name: str

    async def tools(self, caller: ToolCaller) -> Sequence[Definition]:
        """What it has for this caller, by name. Raises AegisError(UNAVAILABLE) when it cannot be asked."""
        ...

    def effect(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Effect:
        """The exact call, parsed for the gate. Raises AegisError(USAGE) for arguments that cannot be understood."""
        ...

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any], *, limit: int) -> Result:
        """Do it, after the gate has agreed; at most `limit` bytes of content. When cancelled, what is under way ends."""
        ...
