"""The gate: the one place that says who may do what, and writes down that it said so.

Every effect passes `Gate.check`, which returns the decision or raises DENIED; the audit row is written before the effect, or in
the effect's own transaction. If the row cannot be written, the effect does not happen. The policy here is the owner's: the person
who owns the home may do everything, an instance only what its launch gave it. It does not look at tool arguments.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.store import Store, Tx

__all__ = ["Decision", "Gate", "Relation"]


class Relation(StrEnum):
    """What one instance is to another that wants something of it."""

    SELF = "self"
    DESCENDANT = "descendant"  # spawned by it, or by one that it spawned
    ACQUAINTED = "acquainted"  # of the same project, or its ancestor
    STRANGER = "stranger"


_OWN: Final = frozenset({Relation.SELF})
_BELOW: Final = frozenset({Relation.DESCENDANT})
_KNOWN: Final = frozenset({Relation.DESCENDANT, Relation.ACQUAINTED})
#: What an instance may do by itself, and to whom. The broker compares the model of a call, spawning what a child is to have.
_INSTANCE_MAY: Final[dict[str, frozenset[Relation]]] = {
    "model.call": _OWN,
    "mail.read": _OWN,
    "mail.send": _KNOWN,
    "peer.read": _KNOWN | _OWN,
    "instance.spawn": _OWN,
    "instance.exec": _BELOW,
    "instance.pause": _BELOW,
    "instance.resume": _BELOW,
    "instance.restart": _BELOW,
    "instance.disable": _BELOW,
    "instance.delete": _BELOW,
    "turn.interrupt": _BELOW,
}


class Decision(msgspec.Struct, frozen=True):
    """What the gate said about one action on one resource, and why. `data` is context worth keeping, never a secret."""

    principal: Principal
    action: str
    resource: str
    allow: bool
    reason: str
    data: dict[str, Any] = {}


class Gate:
    """Decides and records."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        #: What the second instance, by id or handle, is to the first, by id; set by the wiring.
        self.relation: Callable[[str, str], Relation] = lambda _asker, _other: Relation.STRANGER

    def decide(self, principal: Principal, action: str, resource: str, **data: Any) -> Decision:
        """The decision alone; no record, no effect may follow from it without one."""
        match principal.kind:
            case PrincipalKind.PERSON:
                allow, reason = True, "owner"
            case PrincipalKind.SYSTEM:
                allow, reason = True, "the daemon itself"
            case PrincipalKind.INSTANCE:
                allow, reason = self._of_instance(principal.id, action, resource)
        return Decision(principal, action, resource, allow, reason, data)

    def _of_instance(self, ident: str, action: str, resource: str) -> tuple[bool, str]:
        """Whether an instance may do this, and why."""
        wanted = _INSTANCE_MAY.get(action)
        if wanted is None:
            return False, "default deny"
        if wanted == _OWN:  # what it does with what is its own; the resource says with what
            return True, "granted at launch"
        relation = self.relation(ident, resource)
        return relation in wanted, f"{relation} of it"

    async def check(self, principal: Principal, action: str, resource: str, **data: Any) -> Decision:
        """The decision if it allows. A denial is recorded and raised as DENIED. Pair with `record` or `write`."""
        decision = self.decide(principal, action, resource, **data)
        if not decision.allow:
            await self.record(decision)
            raise AegisError(
                ErrorKind.DENIED,
                f"{principal} may not {action} {resource}: {decision.reason}",
                "see `aegis audit list`",
                reason=decision.reason,
            )
        return decision

    def write(self, tx: Tx, decision: Decision) -> None:
        """Put the audit row into the effect's own transaction."""
        tx.execute(
            "INSERT INTO audit (ts, principal, action, resource, decision, reason, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._clock.now(),
                str(decision.principal),
                decision.action,
                decision.resource,
                "allow" if decision.allow else "deny",
                decision.reason,
                msgspec.json.encode(decision.data).decode(),
            ),
        )

    async def record(self, decision: Decision) -> None:
        """Write the audit row; returns when it is on disk. For effects outside the database, call it before the effect."""
        await self._store.write(lambda tx: self.write(tx, decision))

    async def pass_through(self, principal: Principal, action: str, resource: str, **data: Any) -> None:
        """`check` and `record` in one: what an effect outside the database calls first."""
        await self.record(await self.check(principal, action, resource, **data))

    def list(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Audit rows with an id over `after`, oldest first."""
        rows = self._store.read(
            lambda db: db.execute(
                "SELECT id, ts, principal, action, resource, decision, reason, data FROM audit WHERE id > ? ORDER BY id LIMIT ?",
                (after, limit),
            ).fetchall()
        )
        names = ("id", "ts", "principal", "action", "resource", "decision", "reason")
        return [dict(zip(names, row[:7], strict=True)) | {"data": msgspec.json.decode(row[7])} for row in rows]
