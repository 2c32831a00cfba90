"""Who may use a secret, and where: the tables beside the values."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    import sqlite3

    from aegis.store import Store, Tx

#: The most hosts that a secret is bound to, and the most grants of it.
MOST: Final = 100
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}: ?[\x20-\x7e]{0,200}")

Kind = Literal["agent", "project"]


class Grant(msgspec.Struct, frozen=True):
    """Leave to use a secret: `kind` is `agent`, the name of a definition, or `project`, a directory. `at` is wall time in seconds."""

    kind: Kind
    target: str
    at: float


class Binding(msgspec.Struct, frozen=True):
    """The hosts that a secret may be sent to, none for any that a rule names; and the header that carries it, `{}` standing for it."""

    hosts: tuple[str, ...] = ()
    header: str | None = None

    def allows(self, host: str) -> bool:
        """Whether the secret may be sent to a host, a name of DNS or an address."""
        host = host.lower().rstrip(".").strip("[]")
        return not self.hosts or any(
            host == bound.strip("[]") or (bound.startswith("*.") and host.endswith(bound[1:]) and host != bound[2:]) for bound in self.hosts
        )


class Hosts(tuple[str, ...]):
    """Hosts that a secret is bound to. A host is `in` it when it is one of them, or below one that begins with `*.`; none is in an empty
    one."""

    __slots__ = ()

    def __contains__(self, host: object) -> bool:
        return bool(self) and isinstance(host, str) and Binding(tuple(self)).allows(host)


class Grants:
    """Reads and writes what a person said of secrets, by name, whether they are stored or not."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # By name, as it was last read: a request in a sandbox asks for both.
        self._bindings: dict[str, Binding] = {}
        self._granted: dict[str, tuple[Grant, ...]] = {}

    def of(self, name: str) -> tuple[Grant, ...]:
        """Who may use it; empty when nobody was named, and so whoever declares it may."""
        if name not in self._granted:
            self._granted[name] = self._store.read(lambda db: _grants(db, name))
        return self._granted[name]

    def binding(self, name: str) -> Binding:
        """Where it may be sent."""
        if name not in self._bindings:
            row = self._store.read(lambda db: db.execute("SELECT hosts, header FROM secret_bindings WHERE name = ?", (name,)).fetchone())
            self._bindings[name] = Binding(msgspec.json.decode(row[0], type=tuple[str, ...]), row[1]) if row else Binding()
        return self._bindings[name]

    async def bind(self, name: str, binding: Binding) -> None:
        """Say where it may be sent."""
        values = (name, msgspec.json.encode(binding.hosts).decode(), binding.header)

        def put(tx: Tx) -> None:
            tx.execute("INSERT OR REPLACE INTO secret_bindings VALUES (?, ?, ?)", values)
            tx.on_commit(lambda: self._drop(name))

        await self._store.write(put)

    async def add(self, name: str, kind: Kind, target: str, at: float) -> None:
        """Let one more use it. Raises USAGE when there are too many."""

        def put(tx: Tx) -> None:
            if tx.execute("SELECT count(*) FROM secret_grants WHERE name = ?", (name,)).fetchone()[0] >= MOST:
                raise AegisError(ErrorKind.USAGE, f"`{name}` has {MOST} grants already", f"`aegis secret revoke {name}` takes some away")
            tx.execute("INSERT OR IGNORE INTO secret_grants (name, kind, target, at) VALUES (?, ?, ?, ?)", (name, kind, target, at))
            tx.on_commit(lambda: self._drop(name))

        await self._store.write(put)

    async def remove(self, name: str, kind: Kind, target: str) -> bool:
        """Take it away again; False when it was not there."""

        def take(tx: Tx) -> bool:
            tx.on_commit(lambda: self._drop(name))
            where = "DELETE FROM secret_grants WHERE name = ? AND kind = ? AND target = ?"
            return bool(tx.execute(where, (name, kind, target)).rowcount)

        return await self._store.write(take)

    async def forget(self, name: str) -> None:
        """The secret is deleted: one that is stored later under its name begins anew."""

        def remove(tx: Tx) -> None:
            tx.execute("DELETE FROM secret_grants WHERE name = ?", (name,))
            tx.execute("DELETE FROM secret_bindings WHERE name = ?", (name,))
            tx.on_commit(lambda: self._drop(name))

        await self._store.write(remove)

    def _drop(self, name: str) -> None:
        self._bindings.pop(name, None)
        self._granted.pop(name, None)


def check_binding(hosts: list[str], header: str | None) -> Binding:
    """What a person wrote, in the form in which it is kept. Raises USAGE."""
    kept = []
    for host in hosts:
        name = host.strip().lower().rstrip(".")
        if (not _HOST.fullmatch(name) and not _address(name)) or len(name) > 253:
            raise AegisError(
                ErrorKind.USAGE,
                f"{host[:80]!r} is not a host",
                "write a name such as `api.example.com`, `*.example.com` for all below it, or an address; no port and no path",
            )
        kept.append(name)
    if len(kept) > MOST:
        raise AegisError(ErrorKind.USAGE, f"{len(kept)} hosts are too many", f"a secret is bound to {MOST} at most")
    if header is not None and (not _HEADER.fullmatch(header) or header.partition(":")[2].count("{}") != 1):
        raise AegisError(
            ErrorKind.USAGE,
            f"{header[:80]!r} is not a header with a place for the secret",
            'write it so: --header "Authorization: Bearer {}"',
        )
    return Binding(tuple(dict.fromkeys(kept)), header)


def _address(text: str) -> bool:
    """Whether it is an address, one of version 6 with brackets or without."""
    try:
        ipaddress.ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return False
    return True


def _grants(db: sqlite3.Connection, name: str) -> tuple[Grant, ...]:
    rows = db.execute("SELECT kind, target, at FROM secret_grants WHERE name = ? ORDER BY kind, target", (name,)).fetchall()
    return tuple(Grant(kind, target, at) for kind, target, at in rows)
