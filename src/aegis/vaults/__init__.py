"""The vault port: where secret values rest.

A kind (`local`) implements `Vault`. Guaranteed by every kind: a value is never at rest in clear, `set` returns when it is
durable, a value that was changed by somebody else is never returned. Not done here: who may do what, and what a name or a
value may look like (`services/secrets`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class SecretInfo(msgspec.Struct, frozen=True):
    """All that may be shown of a secret. Times are wall time in seconds; `version` counts the values it has had, from 1."""

    name: str
    created_at: float
    updated_at: float
    version: int


class VersionInfo(msgspec.Struct, frozen=True):
    """One value that a secret has or had, without the value: its number, since when (wall seconds), whether it is the present one."""

    version: int
    at: float
    current: bool


class Vault(Protocol):
    """Keeps secret values by name, and some of those that each had before."""

    async def set(self, name: str, value: str) -> SecretInfo:
        """Store `value` in the place of an earlier one, which is kept, and count its version up."""
        ...

    async def get(self, name: str) -> str | None:
        """The value, or None when there is none. AegisError(UNAVAILABLE) naming the secret when it cannot be opened."""
        ...

    async def list(self) -> list[SecretInfo]:
        """What is there, by name; needs no key."""
        ...

    async def delete(self, name: str) -> bool:
        """Remove it with all values it had; False when there was none. Needs no key."""
        ...

    async def versions(self, name: str) -> Sequence[VersionInfo]:
        """The values that it has and had, as far as they are kept, the newest first; needs no key."""
        ...

    async def rollback(self, name: str, version: int) -> SecretInfo | None:
        """Make the value of an earlier version the present one again, under a new number; None when that version is not kept."""
        ...

    async def rotate_key(self) -> int:
        """Protect every value by a new master key and forget the old one; how many values that were. All of it or nothing."""
        ...

    async def values(self) -> Sequence[tuple[str, str]]:
        """Every value that can be opened, those of before included, with its name: for who must recognise them."""
        ...
