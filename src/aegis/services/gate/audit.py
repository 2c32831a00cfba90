"""The audit record: one row per decision and effect, only ever added to, each holding the hash of the one before it.

Guaranteed: a row is written in the transaction of what it is about, or is on disk before it; if it cannot be written, that does not
happen. The hash of the row before is read in the same transaction, so that a write which undoes itself leaves no gap, however many writes
share a commit. What is known to be secret is not in a row, and no row is long. A head, which says by signature how far the record
reached, is made every `HEAD_EVERY` rows, when the daemon ends, and with each export.

Not protected: whoever can write the home as its owner has the key too, and can make a whole new record. An export that is kept
elsewhere tells.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from aegis.core.audit import FORMAT, START, AuditRow, Finding, Head, check, link, statement
from aegis.core.bounds import shortened
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import point
from aegis.vaults.keyfile import create_key, read_key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.services.gate.model import Decision
    from aegis.store import Store, Tx

#: A head is signed whenever so many rows have come.
HEAD_EVERY: Final = 1000
#: The most bytes of a row's `data`, and characters of its texts.
MAX_DATA: Final = 16 * 1024
MAX_TEXT: Final = 4096
#: How many rows are read at once where all are.
_PAGE: Final = 500
_COLUMNS: Final = "id, ts, principal, action, resource, decision, reason, policies, digest, data, cost, prev, hash"
_INSERT: Final = f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LAST: Final = "SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1"

_encode: Final = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class Filter(msgspec.Struct, frozen=True):
    """Which rows: of these principals, actions (`secret.*` for a family), this decision, at or after `since` in wall seconds."""

    principals: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    decision: str | None = None
    since: float | None = None


class Audit:
    """The record of one home. `key_file` is where its signing key is, or will be."""

    def __init__(self, store: Store, clock: Clock, key_file: Path) -> None:
        self._store = store
        self._clock = clock
        self._file = key_file
        self._key: Ed25519PrivateKey | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False
        #: Takes what must not be kept out of a text, or a piece of JSON, in UTF-8; set by the wiring.
        self.clean: Callable[[bytes], bytes] = bytes

    def write(self, tx: Tx, decision: Decision, *, cost: float | None = None) -> int:
        """Put the row of a decision into a transaction; returns its number. `cost` is in US dollars."""
        point("audit.write")
        data = self.clean(_told(decision.data)) if decision.data else b"{}"
        if len(data) > MAX_DATA:
            data = _encode(shortened(msgspec.json.decode(data), MAX_DATA))
        tail = (
            str(decision.principal),
            decision.action,
            self._text(decision.resource),
            decision.verdict.value,
            self._text(decision.reason),
            _encode(decision.policies).decode() if decision.policies else "[]",
            decision.digest,
            data.decode(),
            cost,
        )
        return self._append(tx, self._clock.now(), tail)

    def _text(self, text: str) -> str:
        """A text that may be kept: nothing secret, no longer than one may be, and one that can be stored."""
        return self.clean(text.encode("utf-8", "replace")).decode("utf-8", "replace")[:MAX_TEXT]

    def _append(self, tx: Tx, ts: float, tail: tuple[Any, ...]) -> int:
        last = tx.execute(_LAST).fetchone() or (0, START)
        if not last[1]:
            last = _adopt(tx)
        fields = (last[0] + 1, ts, *tail)
        hashed = link(last[1], fields)
        tx.execute(_INSERT, (*fields, last[1], hashed))
        if fields[0] % HEAD_EVERY == 0:
            try:
                self._sign(tx, fields[0], hashed)
            except AegisError as error:  # the row is in the chain; a later head speaks of it
                _log.error("the audit record is not signed: %s", error.message)
        tx.on_commit(self._came)
        return int(fields[0])

    async def record(self, decision: Decision, *, cost: float | None = None) -> int:
        """Write a row of its own; returns its number when it is on disk."""
        return await self._store.write(lambda tx: self.write(tx, decision, cost=cost))

    async def seal(self) -> Head | None:
        """Sign how far the record reaches now, unless that was done; None for an empty record. Raises what a bad key file raises."""

        def sign(tx: Tx) -> Head | None:
            ident, hashed = tx.execute(_LAST).fetchone() or (0, START)
            if ident and not hashed:
                ident, hashed = _adopt(tx)
            if not ident:
                return None
            known = tx.execute("SELECT id, ts, hash, key, signature FROM audit_heads WHERE id = ?", (ident,)).fetchone()
            return Head(*known) if known else self._sign(tx, ident, hashed)

        return await self._store.write(sign)

    def list(self, after: int = 0, limit: int = 100, wanted: Filter | None = None, *, newest: bool = False) -> list[dict[str, Any]]:
        """Rows with a number over `after`: the oldest `limit` of them, or the newest; always oldest first. At once: see `find`."""
        return self._store.read(lambda db: _found(db, after, limit, wanted, newest))

    async def find(
        self, after: int = 0, limit: int = 100, wanted: Filter | None = None, *, newest: bool = False
    ) -> Sequence[dict[str, Any]]:
        """As `list`, in a thread of its own: a filter that few rows pass looks at many."""
        return await self._store.query(lambda db: _found(db, after, limit, wanted, newest))

    def get(self, ident: int) -> dict[str, Any]:
        """One row. Raises NOT_FOUND."""
        row = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM audit WHERE id = ?", (ident,)).fetchone())
        if row is None:
            raise AegisError(ErrorKind.NOT_FOUND, f"there is no audit record {ident}", "`aegis audit list` shows them")
        return _shown(row)

    async def follow(self, after: int, wanted: Filter | None = None) -> AsyncIterator[Sequence[dict[str, Any]]]:
        """Rows with a number over `after` as they come, without end; ends with the daemon."""
        while not self._closed:
            came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(came)
            try:
                top, rows = await self._store.query(lambda db, after=after: (_top(db), _found(db, after, _PAGE, wanted)))  # type: ignore[misc]
                if rows:
                    yield rows
                # What does not pass is not looked at again.
                after = rows[-1]["id"] if len(rows) == _PAGE else max(after, top)
                if len(rows) < _PAGE:
                    await came
            finally:
                self._waiting.discard(came)

    async def verify(self) -> Finding:
        """Read all of it and say whether it is what was written."""
        return await self._store.query(lambda db: check(_rows(db), _heads(db), signed))

    async def export(self) -> AsyncIterator[bytes]:
        """The whole record as lines of JSON: what it is, the heads, then the rows up to the newest head."""
        head = await self.seal()
        if head is None:
            raise AegisError(ErrorKind.NOT_FOUND, "the audit record is empty")
        heads = await self._store.query(lambda db: list(_heads(db, head.id)))
        yield _encode({"format": FORMAT, "rows": head.id, "exported_at": self._clock.now(), "public_key": head.key}) + b"\n"
        yield b"".join(_encode({"head": each}) + b"\n" for each in heads)
        at = 0
        while at < head.id:
            rows = await self._store.query(lambda db, at=at: list(_rows(db, at, min(at + _PAGE, head.id))))  # type: ignore[misc]
            yield b"".join(_encode(row) + b"\n" for row in rows)
            at += _PAGE

    async def close(self) -> None:
        """Sign how far it came, and let go of those who follow it."""
        if self._closed:
            return
        self._closed = True
        self._came()
        try:
            await self.seal()
        except AegisError as error:  # the disk is full, the key is gone: the daemon ends all the same
            _log.error("the audit record is not signed: %s", error.message)

    def _sign(self, tx: Tx, ident: int, hashed: str) -> Head:
        if self._key is None:
            try:
                raw = read_key(self._file, "audit key")
            except FileNotFoundError:
                raw = create_key(self._file, "audit key")
            self._key = Ed25519PrivateKey.from_private_bytes(raw)
        now = self._clock.now()
        public = self._key.public_key().public_bytes_raw().hex()
        head = Head(ident, now, hashed, public, self._key.sign(statement(ident, now, hashed)).hex())
        tx.execute(
            "INSERT INTO audit_heads (id, ts, hash, key, signature) VALUES (?, ?, ?, ?, ?)",
            (head.id, head.ts, head.hash, head.key, head.signature),
        )
        return head

    def _came(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


def _told(data: dict[str, Any]) -> bytes:
    """The data of a decision as JSON, whatever is in its texts."""
    try:
        return _encode(data)
    except UnicodeEncodeError:  # half of a character, from a name that is no valid text
        return _encode({key: str(value).encode("utf-8", "replace").decode() for key, value in data.items()})


def signed(head: Head) -> bool:
    """Whether a head's signature is that of the key that it names."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.key))
        key.verify(bytes.fromhex(head.signature), statement(head.id, head.ts, head.hash))
    except (InvalidSignature, ValueError):
        return False
    return True


def _adopt(tx: Tx) -> tuple[int, str]:
    """Bring the rows that an earlier version wrote into the chain; the number and the hash of the last of them."""
    first = int(tx.execute("SELECT min(id) FROM audit WHERE hash = ''").fetchone()[0])
    before = tx.execute("SELECT hash FROM audit WHERE id < ? ORDER BY id DESC LIMIT 1", (first,)).fetchone()
    last, at = (before[0] if before else START), first - 1
    while rows := tx.execute(
        "SELECT id, ts, principal, action, resource, decision, reason, policies, digest, data, cost FROM audit WHERE id > ? ORDER BY id"
        " LIMIT ?",
        (at, _PAGE),
    ).fetchall():
        for row in rows:
            prev, last, at = last, link(last, tuple(row)), row[0]
            tx.execute("UPDATE audit SET prev = ?, hash = ? WHERE id = ?", (prev, last, at))
    return at, last


def _top(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(id), 0) FROM audit").fetchone()[0])


def _found(db: sqlite3.Connection, after: int, limit: int, wanted: Filter | None, newest: bool = False) -> list[dict[str, Any]]:
    where, params = _where(wanted or Filter())
    order = "DESC" if newest else "ASC"
    rows = db.execute(f"SELECT {_COLUMNS} FROM audit WHERE id > ?{where} ORDER BY id {order} LIMIT ?", (after, *params, limit)).fetchall()
    return [_shown(row) for row in (reversed(rows) if newest else rows)]


def _rows(db: sqlite3.Connection, after: int = 0, to: int = 2**62) -> Iterator[AuditRow]:
    found = db.execute(f"SELECT {_COLUMNS} FROM audit WHERE id > ? AND id <= ? ORDER BY id", (after, to))
    while page := found.fetchmany(_PAGE):
        for row in page:
            yield AuditRow(*row)


def _heads(db: sqlite3.Connection, to: int = 2**62) -> Iterator[Head]:
    for row in db.execute("SELECT id, ts, hash, key, signature FROM audit_heads WHERE id <= ? ORDER BY id", (to,)).fetchall():
        yield Head(*row)


def _where(wanted: Filter) -> tuple[str, tuple[Any, ...]]:
    """A filter as SQL."""
    where, params = "", ()  # type: tuple[str, tuple[Any, ...]]
    if wanted.principals:
        where += f" AND principal IN ({', '.join('?' * len(wanted.principals))})"
        params += wanted.principals
    if wanted.actions:
        where += f" AND ({' OR '.join(['action GLOB ?'] * len(wanted.actions))})"
        params += wanted.actions
    if wanted.decision is not None:
        where += " AND decision = ?"
        params += (wanted.decision,)
    if wanted.since is not None:
        where += " AND ts >= ?"
        params += (wanted.since,)
    return where, params


def _shown(row: Sequence[Any]) -> dict[str, Any]:
    """A row for people and programs: its JSON read."""
    told = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return told | {"policies": _read(told["policies"], []), "data": _read(told["data"], {})}


def _read(text: Any, otherwise: Any) -> Any:
    """JSON of a row; a text that is none any more, for somebody changed it, as that text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        return text if isinstance(text, str) else otherwise
