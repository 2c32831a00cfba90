"""The `local` kind: envelope encryption in the home's own store, the master key in a file beside it.

Each value is sealed with AES-256-GCM under a random key of its own, and that key under the master key; both bind the
secret's name and version, so that a row copied to another name or an older value put back under a newer version does not
open. A new master key wraps the keys of the values anew in one transaction; it waits in a file beside the old one until that is on
disk, and whoever finds both files sees by the rows which of the two is right.

Not protected: whoever reads `master.key` and the store reads every secret; whoever restores a whole old row restores
an old value.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.vaults import SecretInfo, VersionInfo
from aegis.vaults.keyfile import KEY_BYTES, create_key, read_key, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: How many values of a secret are kept besides the present one.
KEPT: Final = 20
_NONCE_BYTES: Final = 12
_UPSERT: Final = (
    "INSERT INTO secrets (name, version, created_at, updated_at, master_key, wrapped_key, sealed) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at,"
    " master_key = excluded.master_key, wrapped_key = excluded.wrapped_key, sealed = excluded.sealed"
)
_PUT_ASIDE: Final = (
    "INSERT OR REPLACE INTO secret_versions (name, version, at, master_key, wrapped_key, sealed)"
    " SELECT name, version, updated_at, master_key, wrapped_key, sealed FROM secrets WHERE name = ?"
)
_EVERY: Final = (
    "SELECT name, version, master_key, wrapped_key, sealed FROM secrets"
    " UNION ALL SELECT name, version, master_key, wrapped_key, sealed FROM secret_versions"
)
T = TypeVar("T")


class Statements(Protocol):
    """Runs SQL inside a transaction."""

    def execute(self, sql: str, params: Any = ..., /) -> Any: ...


class Tables(Protocol):
    """What the vault needs of the store."""

    async def write(self, fn: Callable[[Any], T]) -> T: ...

    def read(self, fn: Callable[[Any], T]) -> T: ...


class _Row(NamedTuple):
    """A sealed value."""

    name: str
    version: int
    master_key: str
    wrapped_key: bytes
    sealed: bytes


class LocalVault:
    """See `aegis.vaults.Vault`."""

    def __init__(self, store: Tables, home: Path, *, clock: Clock | None = None) -> None:
        self._store = store
        self._file = home / "master.key"
        self._next = home / "master.key.next"
        self._clock = clock or SystemClock()
        self._key: bytes | None = None
        self._rotation: asyncio.Future[int] | None = None
        self._changing = asyncio.Lock()  # nobody seals by a key that is being given up

    async def set(self, name: str, value: str) -> SecretInfo:
        """See `Vault.set`."""
        async with self._changing:
            key = self._master(create=True)
            return await self._store.write(lambda tx: self._put(tx, key, name, value))

    def _put(self, tx: Statements, key: bytes, name: str, value: str) -> SecretInfo:
        now = self._clock.now()
        row = tx.execute("SELECT CAST(version AS INTEGER), created_at FROM secrets WHERE name = ?", (name,)).fetchone()
        info = SecretInfo(name, row[1] if row else now, now, row[0] + 1 if row else 1)
        if row:
            tx.execute(_PUT_ASIDE, (name,))
            tx.execute("DELETE FROM secret_versions WHERE name = ? AND version <= ?", (name, row[0] - KEPT))
        data_key = secrets.token_bytes(KEY_BYTES)
        sealed = (key_id(key), _seal(key, data_key, name, info.version), _seal(data_key, value.encode(), name, info.version))
        tx.execute(_UPSERT, (name, info.version, info.created_at, info.updated_at, *sealed))
        return info

    async def get(self, name: str) -> str | None:
        """See `Vault.get`."""
        row = self._store.read(
            lambda db: db.execute("SELECT name, version, master_key, wrapped_key, sealed FROM secrets WHERE name = ?", (name,)).fetchone()
        )
        if row is None:
            return None
        if self._changing.locked() and self._key is not None and row[2] != key_id(self._key):
            async with self._changing:  # the rows have the new key already, and the file is about to
                return self._value(_Row(*row))
        return self._value(_Row(*row))

    def _value(self, row: _Row) -> str:
        key, name = self._master(create=False), row.name
        if row.master_key != key_id(key):
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                f"secret `{name}` was stored under another master key than {self._file}",
                f"restore that file, or store the value again: `aegis secret set {name}`",
            )
        try:
            return _open(_open(key, row.wrapped_key, name, row.version), row.sealed, name, row.version).decode()
        except (InvalidTag, ValueError, TypeError):
            raise _changed(name) from None

    async def list(self) -> list[SecretInfo]:
        """See `Vault.list`."""
        rows = self._store.read(lambda db: db.execute("SELECT name, created_at, updated_at, version FROM secrets ORDER BY name").fetchall())
        return [SecretInfo(*row) for row in rows]

    async def delete(self, name: str) -> bool:
        """See `Vault.delete`."""

        def remove(tx: Statements) -> bool:
            tx.execute("DELETE FROM secret_versions WHERE name = ?", (name,))
            return bool(tx.execute("DELETE FROM secrets WHERE name = ?", (name,)).rowcount)

        return await self._store.write(remove)

    async def versions(self, name: str) -> Sequence[VersionInfo]:
        """See `Vault.versions`."""
        rows = self._store.read(
            lambda db: db.execute(
                "SELECT version, updated_at, 1 FROM secrets WHERE name = ?"
                " UNION ALL SELECT version, at, 0 FROM secret_versions WHERE name = ? ORDER BY version DESC",
                (name, name),
            ).fetchall()
        )
        return [VersionInfo(version, at, bool(current)) for version, at, current in rows]

    async def rollback(self, name: str, version: int) -> SecretInfo | None:
        """See `Vault.rollback`."""
        async with self._changing:
            row = self._store.read(
                lambda db: db.execute(
                    "SELECT name, version, master_key, wrapped_key, sealed FROM secret_versions WHERE name = ? AND version = ?",
                    (name, version),
                ).fetchone()
            )
            if row is None:
                return None
            value, key = self._value(_Row(*row)), self._master(create=False)
            return await self._store.write(lambda tx: self._put(tx, key, name, value))

    async def rotate_key(self) -> int:
        """See `Vault.rotate_key`."""
        # The rows may change after a caller has gone: the file must follow them, whoever is there to see it.
        self._rotation = asyncio.ensure_future(self._rotate())
        return await asyncio.shield(self._rotation)

    async def _rotate(self) -> int:
        async with self._changing:
            old = self._master(create=True)
            self._next.unlink(missing_ok=True)
            new = create_key(self._next, "new master key")

            def wrap(tx: Statements) -> int:
                rows = [_Row(*row) for row in tx.execute(_EVERY).fetchall()]
                for row in rows:
                    if row.master_key != key_id(old):
                        raise AegisError(
                            ErrorKind.UNAVAILABLE,
                            f"secret `{row.name}` was stored under another master key than {self._file}",
                            f"store the value again: `aegis secret set {row.name}`, or `aegis secret delete {row.name}`",
                        )
                    try:
                        wrapped = _seal(new, _open(old, row.wrapped_key, row.name, row.version), row.name, row.version)
                    except (InvalidTag, ValueError, TypeError):
                        raise _changed(row.name) from None
                    for table in ("secrets", "secret_versions"):
                        tx.execute(
                            f"UPDATE {table} SET master_key = ?, wrapped_key = ? WHERE name = ? AND version = ?",
                            (key_id(new), wrapped, row.name, row.version),
                        )
                return len(rows)

            self._key = None  # whatever becomes of it, the files and the rows say which key it is
            try:
                count = await self._store.write(wrap)
            finally:
                self._settle(fresh=new)
            return count

    async def values(self) -> Sequence[tuple[str, str]]:
        """See `Vault.values`."""
        async with self._changing:
            found = []
            for row in self._store.read(lambda db: db.execute(_EVERY).fetchall()):
                try:
                    found.append((row[0], self._value(_Row(*row))))
                except AegisError:  # whoever needs it is told
                    continue
            return found

    def _master(self, *, create: bool) -> bytes:
        """The master key, read once. A missing file is made only while no secret depends on a lost one."""
        if self._key is None:
            self._settle()
            try:
                self._key = read_master_key(self._file)
            except FileNotFoundError:
                count = self._store.read(lambda db: db.execute("SELECT count(*) FROM secrets").fetchone()[0])
                if count or not create:
                    raise AegisError(
                        ErrorKind.UNAVAILABLE,
                        f"{self._file} is missing, and {count} stored secrets cannot be opened without it",
                        "restore the file, or delete the secrets with `aegis secret delete NAME` and store them again",
                    ) from None
                self._key = create_master_key(self._file)
        return self._key

    def _settle(self, *, fresh: bytes | None = None) -> None:
        """Put a new master key that waits into its place if the rows have it, else forget it. `fresh` is one that no row need have."""
        try:
            waiting = read_key(self._next, "new master key")
        except FileNotFoundError:
            return
        used = {row[0] for row in self._store.read(lambda db: db.execute(f"SELECT DISTINCT master_key FROM ({_EVERY})").fetchall())}
        if key_id(waiting) in used or (not used and waiting == fresh):
            self._next.replace(self._file)
            sync(self._file.parent)
        else:
            self._next.unlink(missing_ok=True)


def read_master_key(path: Path) -> bytes:
    """The key in `path`. FileNotFoundError when there is none, AegisError(UNAVAILABLE) when the file is not fit to be trusted."""
    return read_key(path, "master key")


def create_master_key(path: Path) -> bytes:
    """Make a new key in `path`; see `create_key`."""
    return create_key(path, "master key")


def key_id(key: bytes) -> str:
    """A name for a master key that tells nothing of it."""
    return hmac.new(key, b"aegis master key", hashlib.sha256).hexdigest()[:16]


def _changed(name: str) -> AegisError:
    return AegisError(
        ErrorKind.UNAVAILABLE,
        f"secret `{name}` was changed in the store and cannot be trusted",
        f"store the value again: `aegis secret set {name}`",
    )


def _bound(name: str, version: int) -> bytes:
    return f"aegis secret\0{name}\0{version}".encode()


def _seal(key: bytes, data: bytes, name: str, version: int) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, _bound(name, version))


def _open(key: bytes, sealed: bytes, name: str, version: int) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(name, version))
