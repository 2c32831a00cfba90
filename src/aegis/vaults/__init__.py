"""The vault port: where secret values rest.

A kind (`local`) implements `Vault`. Guaranteed by every kind: a value is never at rest in clear, `set` returns when it is
durable, a value that was changed by somebody else is never returned. Not done here: who may do what, and what a name or a
value may look like (`services/secrets`).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SecretInfo(msgspec.Struct, frozen=True):
    """All that may be shown of a secret. Times are wall time in seconds; `version` counts the values it has had, from 1."""

    name: str
    created_at: float
    updated_at: float
    version: int


class Vault(Protocol):
    """Keeps secret values by name."""

    async def set(self, name: str, value: str) -> SecretInfo:
        """Store `value`, replacing an earlier one and counting its version up."""
        ...

    async def get(self, name: str) -> str | None:
        """The value, or None when there is none. AegisError(UNAVAILABLE) naming the secret when it cannot be opened."""
        ...

    async def list(self) -> list[SecretInfo]:
        """What is there, by name; needs no key."""
        ...

    async def delete(self, name: str) -> bool:
        """Remove it; False when there was none. Needs no key."""
        ...
