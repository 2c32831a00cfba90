"""The `local` kind: envelope encryption in the home's own store, the master key in a file beside it.

Each value is sealed with AES-256-GCM under a random key of its own, and that key under the master key; both bind the
secret's name and version, so that a row copied to another name or an older value put back under a newer version does not
open. Not protected: whoever reads `master.key` and the store reads every secret; whoever restores a whole old row restores
an old value.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.vaults import SecretInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_UPSERT: Final = (
    "INSERT INTO secrets (name, version, created_at, updated_at, master_key, wrapped_key, sealed) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at,"
    " master_key = excluded.master_key, wrapped_key = excluded.wrapped_key, sealed = excluded.sealed"
)
T = TypeVar("T")


class Statements(Protocol):
    """Runs SQL inside a transaction."""

    def execute(self, sql: str, params: Any = ..., /) -> Any: ...


class Tables(Protocol):
    """What the vault needs of the store."""

    async def write(self, fn: Callable[[Any], T]) -> T: ...

    def read(self, fn: Callable[[Any], T]) -> T: ...


class LocalVault:
    """See `aegis.vaults.Vault`."""

    def __init__(self, store: Tables, home: Path, *, clock: Clock | None = None) -> None:
        self._store = store
        self._file = home / "master.key"
        self._clock = clock or SystemClock()
        self._key: bytes | None = None

    async def set(self, name: str, value: str) -> SecretInfo:
        """See `Vault.set`."""
        key = self._master(create=True)
        now = self._clock.now()

        def store(tx: Statements) -> SecretInfo:
            row = tx.execute("SELECT CAST(version AS INTEGER), created_at FROM secrets WHERE name = ?", (name,)).fetchone()
            info = SecretInfo(name, row[1] if row else now, now, row[0] + 1 if row else 1)
            data_key = secrets.token_bytes(KEY_BYTES)
            sealed = (key_id(key), _seal(key, data_key, name, info.version), _seal(data_key, value.encode(), name, info.version))
            tx.execute(_UPSERT, (name, info.version, info.created_at, info.updated_at, *sealed))
            return info

        return await self._store.write(store)

    async def get(self, name: str) -> str | None:
        """See `Vault.get`."""
        row = self._store.read(
            lambda db: db.execute("SELECT version, master_key, wrapped_key, sealed FROM secrets WHERE name = ?", (name,)).fetchone()
        )
        if row is None:
            return None
        version, sealed_by, wrapped, sealed = row
        key = self._master(create=False)
        if sealed_by != key_id(key):
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                f"secret `{name}` was stored under another master key than {self._file}",
                f"restore that file, or store the value again: `aegis secret set {name}`",
            )
        try:
            return _open(_open(key, wrapped, name, version), sealed, name, version).decode()
        except (InvalidTag, ValueError, TypeError):
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                f"secret `{name}` was changed in the store and cannot be trusted",
                f"store the value again: `aegis secret set {name}`",
            ) from None

    async def list(self) -> list[SecretInfo]:
        """See `Vault.list`."""
        rows = self._store.read(lambda db: db.execute("SELECT name, created_at, updated_at, version FROM secrets ORDER BY name").fetchall())
        return [SecretInfo(*row) for row in rows]

    async def delete(self, name: str) -> bool:
        """See `Vault.delete`."""
        return bool(await self._store.write(lambda tx: tx.execute("DELETE FROM secrets WHERE name = ?", (name,)).rowcount))

    def _master(self, *, create: bool) -> bytes:
        """The master key, read once. A missing file is made only while no secret depends on a lost one."""
        if self._key is None:
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


def read_master_key(path: Path) -> bytes:
    """The key in `path`. FileNotFoundError when there is none, AegisError(UNAVAILABLE) when the file is not fit to be trusted."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AegisError(ErrorKind.UNAVAILABLE, f"the master key {path} cannot be read: {error.strerror}", f"see `ls -l {path}`") from None
    try:
        _check_file(path, os.fstat(fd))
        key = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise AegisError(ErrorKind.UNAVAILABLE, f"the master key {path} does not hold {KEY_BYTES} bytes", "restore the file from a copy")
    return key


def _check_file(path: Path, about: os.stat_result) -> None:
    """Refuse a file that somebody else could have written or read."""
    if not stat.S_ISREG(about.st_mode):
        raise AegisError(ErrorKind.UNAVAILABLE, f"the master key {path} is not a regular file", "put the key file back")
    if about.st_uid != os.geteuid():
        raise AegisError(ErrorKind.UNAVAILABLE, f"the master key {path} belongs to uid {about.st_uid}", f"chown {os.geteuid()} {path}")
    if about.st_mode & 0o077:
        mode = stat.S_IMODE(about.st_mode)
        raise AegisError(ErrorKind.UNAVAILABLE, f"the master key {path} is open to others (mode {mode:04o})", f"chmod 600 {path}")


def create_master_key(path: Path) -> bytes:
    """Make a new key in `path`, 0600, all of it or nothing, on disk; if somebody else was first, the key is theirs."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    key = secrets.token_bytes(KEY_BYTES)
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(fd)
        os.link(partial, path)  # unlike a rename, fails when the file is there
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        return read_master_key(path)
    except OSError as error:
        raise AegisError(
            ErrorKind.UNAVAILABLE, f"the master key {path} cannot be made: {error.strerror}", "make the home writable, or free some space"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return key


def key_id(key: bytes) -> str:
    """A name for a master key that tells nothing of it."""
    return hmac.new(key, b"aegis master key", hashlib.sha256).hexdigest()[:16]


def _bound(name: str, version: int) -> bytes:
    return f"aegis secret\0{name}\0{version}".encode()


def _seal(key: bytes, data: bytes, name: str, version: int) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, _bound(name, version))


def _open(key: bytes, sealed: bytes, name: str, version: int) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(name, version))
