"""The chain of the audit record: what a row's hash is over, and how somebody who has the rows alone checks them.

The canonical bytes of a row are the JSON array, UTF-8, without white space, of `id, ts, principal, action, resource, decision, reason,
policies, digest, data, cost` exactly as they are stored: numbers in their shortest form that reads back the same, `policies` and `data`
as the texts of JSON that they are, `cost` null where none is known. The hash of a row is hex SHA-256 over the hash of the row before it
(64 zeros before the first), a newline, and the canonical bytes. A head is a signed statement that the row `id` had that hash: Ed25519 over
the JSON array `"aegis audit head 1", id, ts, hash`.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: The hash before the first row.
START: Final = "0" * 64
#: The first line of an export begins with this word; the number counts the shapes that there were.
FORMAT: Final = "aegis audit export 1"
_HEAD: Final = "aegis audit head 1"
_encode: Final = msgspec.json.Encoder().encode


class AuditRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row as it is stored. `policies` (a list of ids) and `data` (a table) are texts of JSON; `ts` is wall time in seconds, `cost` in
    US dollars."""

    id: int
    ts: float
    principal: str
    action: str
    resource: str
    decision: str
    reason: str
    policies: str
    digest: str
    data: str
    cost: float | None
    prev: str
    hash: str


class Head(msgspec.Struct, frozen=True):
    """A signed statement: the row `id` had this `hash` at `ts`. `key` is the public key and `signature` what it made, both hex."""

    id: int
    ts: float
    hash: str
    key: str
    signature: str


class Flaw(StrEnum):
    """What can be wrong with a record."""

    CHANGED = "changed"  # a row is not what was written
    MISSING = "missing"  # rows were taken out
    REORDERED = "reordered"  # rows stand in another order
    TORN = "torn"  # the last line of a file ends in the middle, or is not one
    CUT = "cut"  # rows at the end are gone that a signed head speaks of
    FORGED = "forged"  # a head was not made by the key that it names, or by none that is expected


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a check found. `rows` counts the good ones; `row` is the first that is not, None when it is none of them; `keys` signed."""

    ok: bool
    rows: int
    last: str
    heads: int
    keys: list[str] = []
    flaw: str = ""
    row: int | None = None
    detail: str = ""


def link(prev: str, fields: tuple[object, ...]) -> str:
    """The hash of the row with these eleven fields, after the row with the hash `prev`."""
    return hashlib.sha256(prev.encode() + b"\n" + _encode(fields)).hexdigest()


def fields_of(row: AuditRow) -> tuple[object, ...]:
    """What the hash of a row is over, besides the hash before it."""
    return (
        row.id, row.ts, row.principal, row.action, row.resource, row.decision, row.reason, row.policies, row.digest, row.data, row.cost,
    )  # fmt: skip


def statement(ident: int, ts: float, hashed: str) -> bytes:
    """What the signature of a head is over."""
    return _encode((_HEAD, ident, ts, hashed))


def check(
    rows: Iterable[AuditRow], heads: Iterable[Head], signed: Callable[[Head], bool], *, key: str | None = None, sealed: bool = False
) -> Finding:
    """Whether the rows, from the first on, are what was written, and reach as far as every head says.

    `signed` says whether a head's signature is that of its key; with `key` all heads must be of that one. `sealed` asks for a head of the
    last row: what stands behind the last head anybody could have added, who can compute a hash.
    """
    stated = {head.id: head for head in heads}
    keys = sorted({head.key for head in stated.values()})
    for head in stated.values():
        if not signed(head) or (key is not None and head.key != key):
            why = f"the head of row {head.id} is not signed by {'the expected key' if key is not None else 'the key that it names'}"
            return Finding(ok=False, rows=0, last=START, heads=len(stated), keys=keys, flaw=Flaw.FORGED, row=head.id, detail=why)
    last, count, at = START, 0, 0
    flow = iter(rows)
    for row in flow:
        wrong = _wrong(row, last, at, flow)
        if not wrong and (said := stated.get(row.id)) is not None and said.hash != row.hash:
            wrong = Flaw.CHANGED, row.id, f"row {row.id} or one before it was written anew: a signed head knows it otherwise"
        if wrong:
            flaw, bad, why = wrong
            return Finding(ok=False, rows=count, last=last, heads=len(stated), keys=keys, flaw=flaw, row=bad, detail=why)
        last, count, at = row.hash, count + 1, row.id
    beyond = max(stated, default=0)
    if beyond > at:
        why = f"the record ends with row {at}, and a signed head speaks of row {beyond}: what is between is gone"
        return Finding(ok=False, rows=count, last=last, heads=len(stated), keys=keys, flaw=Flaw.CUT, row=at + 1, detail=why)
    if sealed and beyond < at:
        why = f"no signed head speaks of the rows after row {beyond}"
        return Finding(ok=False, rows=count, last=last, heads=len(stated), keys=keys, flaw=Flaw.FORGED, row=beyond + 1, detail=why)
    return Finding(ok=True, rows=count, last=last, heads=len(stated), keys=keys)


def _wrong(row: AuditRow, last: str, at: int, rest: Iterable[AuditRow]) -> tuple[Flaw, int, str] | None:
    """What is wrong with a row that stands after the one with the id `at` and the hash `last`."""
    if row.prev == last:
        if link(last, fields_of(row)) != row.hash:
            return Flaw.CHANGED, row.id, f"row {row.id} is not what was written"
        return None if row.id > at else (Flaw.REORDERED, row.id, f"row {row.id} stands after row {at}")
    before = f"row {at}" if at else "the beginning"
    for later in rest:
        if later.prev == last and later.id != row.id:
            return Flaw.REORDERED, row.id, f"row {row.id} stands where row {later.id} belongs, after {before}"
    if row.id > at + 1:
        gone = f"row {at + 1} is" if row.id == at + 2 else f"rows {at + 1} to {row.id - 1} are"
        return Flaw.MISSING, at + 1, f"{gone} missing, before row {row.id}"
    return Flaw.CHANGED, row.id, f"row {row.id} does not go on from {before}: one of the two is not what was written"
