"""The table `approvals`, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.services.approvals.model import Approval

if TYPE_CHECKING:
    from aegis.store import Tx

#: The columns, in the order of the fields of `Approval`; the one of `default` is called `fallback`.
_NAMES: Final = tuple("fallback" if name == "default" else name for name in Approval.__struct_fields__)
COLUMNS: Final = ", ".join(_NAMES)
_JSON: Final = frozenset({"input", "edited", "argv", "policies"})
_FIELDS: Final = Approval.__struct_fields__

#: An earlier request for the same, of another turn of the session, that this one takes the place of: one that still waits, or whose
#: answer nobody ever had; or one of the turn that this one continues, and of those that that one continued. Taking its place moves
#: the row to the present turn, so it serves once. A row of the present turn never counts: it is asked for a second time.
EARLIER: Final = f"""
WITH RECURSIVE before (id) AS (
    SELECT continues FROM turns WHERE id = ?1
    UNION SELECT turns.continues FROM turns JOIN before ON turns.id = before.id
)
SELECT {COLUMNS} FROM approvals
WHERE instance = ?2 AND session = ?3 AND digest = ?4 AND turn <> ?1 AND action = ?5 AND resource = ?6 AND (
    state = 'pending' OR state IN ('approved', 'rejected') AND (delivered_at IS NULL OR turn IN (SELECT id FROM before))
)
ORDER BY asked_at, id LIMIT 1
"""
#: A request for the same, of this turn or of none, whose asker hung up before there was an answer, or before it had it.
DROPPED: Final = f"""
SELECT {COLUMNS} FROM approvals
WHERE instance = ?1 AND session = ?2 AND digest = ?3 AND action = ?4 AND resource = ?5
  AND (state = 'pending' OR state IN ('approved', 'rejected') AND delivered_at IS NULL)
ORDER BY asked_at, id
"""
#: A yes that counts for the same call again.
GRANTED: Final = f"""
SELECT {COLUMNS} FROM approvals
WHERE instance = ?1 AND session = ?2 AND digest = ?3 AND action = ?4 AND resource = ?5 AND state = 'approved' AND scope = 'session'
ORDER BY decided_at DESC LIMIT 1
"""


def approval(row: Any) -> Approval:
    """A row as it was read."""
    values = dict(zip(_FIELDS, row, strict=True))
    for name in _JSON:
        values[name] = msgspec.json.decode(values[name]) if values[name] is not None else None
    values["question"] = bool(values["question"])
    return Approval(**values)


def insert(tx: Tx, asked: Approval) -> None:
    """A row for a new request."""
    values = [_packed(name, getattr(asked, name)) for name in _FIELDS]
    tx.execute(f"INSERT INTO approvals ({COLUMNS}) VALUES ({', '.join('?' * len(_FIELDS))})", values)


def update(tx: Tx, ident: str, **changes: Any) -> None:
    """Change fields of a row."""
    sets = ", ".join(f"{name} = ?" for name in changes)
    tx.execute(f"UPDATE approvals SET {sets} WHERE id = ?", (*(_packed(name, value) for name, value in changes.items()), ident))


def _packed(name: str, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if name in _JSON and value is not None else value
