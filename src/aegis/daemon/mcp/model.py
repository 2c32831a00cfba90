"""What a verb is, who calls it, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from aegis.core.envelopes import Image
    from aegis.core.principals import Principal
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance


class Caller(NamedTuple):
    """Who calls, proven by the connection. `instance` and `session` are None for a person's own agent.

    `directory` is where that one works, an absolute path, by its own word; empty when it did not say. `converses`: it is the program of
    the session itself, whose model reads what comes back, not another program that runs in its sandbox.
    """

    principal: Principal
    instance: Instance | None = None
    session: str | None = None
    directory: str = ""
    converses: bool = False


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all arguments. Fields with `msgspec.Meta(description=...)` make the JSON schema that the model reads."""


class Said(msgspec.Struct, frozen=True):
    """What a verb answers: `text` for the model, the same as `data` for programs, pictures, and whether it failed."""

    text: str
    data: dict[str, Any] | None = None
    images: list[Image] = []
    failed: bool = False


class Verb(NamedTuple):
    """One tool. `run` may raise AegisError: its message and hint become the tool's error, which tells the agent what to do next.

    `family` says in which set it is: `core` is there by default, others on demand, `host` for a person's own agent alone.
    """

    name: str
    about: str  # what the model is told, in a sentence or two
    arguments: type[Arguments]
    run: Callable[[House, Caller, Any], Awaitable[Said]]
    family: str = "core"
    changes: bool = True  # whether it has an effect; a hint to the host
    audits: bool = True  # what it does is on record by the service that does it; else the call itself is

    @property
    def id(self) -> str:
        """What rules and the audit log call it: `aegis.handoff`."""
        return f"aegis.{self.name.removeprefix('aegis_')}"
