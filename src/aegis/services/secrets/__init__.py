"""Secrets: values a person gives to Aegis by name, for brokers to present and no face to show.

Guaranteed: every change is authorised with the acting principal first; no method but `reveal_for_broker` returns a value,
and that one is handed to the brokers by the wiring and to nothing else. Not done here: encryption (`vaults`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.principals import Principal

if TYPE_CHECKING:
    from aegis.vaults import SecretInfo, Vault

#: The largest value, in bytes of UTF-8.
MAX_VALUE: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

#: `(principal, action, resource)`; raises AegisError(DENIED). Actions: `secret.set`, `secret.list`, `secret.delete`.
Authorize = Callable[[Principal, str, str], Awaitable[None]]


class Secrets:
    """The verbs on secrets."""

    def __init__(self, vault: Vault, authorize: Authorize) -> None:
        self._vault = vault
        self._authorize = authorize

    async def set(self, principal: Principal, name: str, value: str) -> SecretInfo:
        """Store a value under `name`, replacing an earlier one. Raises AegisError USAGE, TOO_LARGE or DENIED."""
        check_name(name)
        _check_value(name, value)
        await self._authorize(principal, "secret.set", name)
        return await self._vault.set(name, value)

    async def list(self, principal: Principal) -> list[SecretInfo]:
        """Names, times and versions; never values."""
        await self._authorize(principal, "secret.list", "*")
        return await self._vault.list()

    async def delete(self, principal: Principal, name: str) -> None:
        """Remove `name`. Raises AegisError NOT_FOUND with the nearest name, or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.delete", name)
        if not await self._vault.delete(name):
            raise unknown_name("secret", name, [info.name for info in await self._vault.list()], "`aegis secret list` shows them")

    async def reveal_for_broker(self, name: str) -> str | None:
        """The value, for a broker that presents it outside every sandbox at this moment; None when there is none."""
        return await self._vault.get(name)


def check_name(name: str) -> str:
    """Return `name` if it may name a secret, else raise a USAGE error."""
    if not _NAME.fullmatch(name):
        raise AegisError(
            ErrorKind.USAGE, f"{name[:60]!r} cannot name a secret", "use 1 to 128 ASCII letters, digits and `_`, not beginning with a digit"
        )
    return name


def _check_value(name: str, value: str) -> None:
    """Refuse a value that could not be stored or presented. The message never repeats it."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise AegisError(ErrorKind.USAGE, f"the value of secret `{name}` is not valid text", "secrets are UTF-8 text") from None
    if not value or "\0" in value:
        problem = "is empty" if not value else "contains a NUL character"
        raise AegisError(
            ErrorKind.USAGE,
            f"the value of secret `{name}` {problem}",
            f"`aegis secret set {name}` reads it from the terminal or standard input",
        )
    if size > MAX_VALUE:
        raise AegisError(ErrorKind.TOO_LARGE, f"the value of secret `{name}` has {size} bytes", f"at most {MAX_VALUE} bytes are kept")
