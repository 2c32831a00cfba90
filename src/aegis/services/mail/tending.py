"""What a person does in a mailbox: have a dead letter tried again, end a message that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import MailRequeued
from aegis.services.mail.model import COLUMNS, DEAD, envelope

if TYPE_CHECKING:
    from aegis.core.envelopes import Envelope
    from aegis.core.principals import Principal
    from aegis.services.mail.accepting import Accepting
    from aegis.store import Tx


async def retry(mail: Accepting, principal: Principal, ident: str, *, hold: bool = False) -> Envelope:
    """Let a message that failed or expired wait again, without an end to its time, where it stood in the order.

    Raises AegisError: NOT_FOUND, CONFLICT (it is no dead letter, or its receiver is disabled and not `hold`), LIMIT (the box is full).
    """
    told = mail.receipt(ident)
    _check_dead(told)
    mail.admit(told["instance"], hold)
    gate, store = mail._gate, mail._store
    decision = await gate.check(principal, "mail.retry", told["instance"], message=ident)

    def put_back(tx: Tx) -> Envelope:
        mail.require(tx, told["instance"])
        mail.make_room(tx, told["instance"], told["sender"])
        row = tx.execute(
            "UPDATE envelopes SET state = 'accepted', reason = '', turn = NULL, joined = 0, injected_at = NULL, acknowledged_at = NULL, "
            f"done_at = NULL, expires = NULL WHERE id = ? AND done_at IS NOT NULL AND state IN (?, ?) RETURNING {COLUMNS}",
            (ident, *DEAD),
        ).fetchone()
        if row is None:  # somebody else had it tried again meanwhile
            raise AegisError(ErrorKind.CONFLICT, f"`{ident}` is tried again already", f"see `aegis inbox show {ident}`")
        gate.write(tx, decision)
        tx.append(MailRequeued([ident], "somebody had it tried again"), instance=told["instance"], session=told["session"])
        return envelope(row)

    again = await store.write(put_back)
    mail.on_accepted(msgspec.structs.replace(again, interrupt=False))
    return again


async def drop(mail: Accepting, principal: Principal, ident: str) -> None:
    """End a message that waits; who wants a report of it is told. Raises AegisError: NOT_FOUND, CONFLICT when it does not wait."""
    told = mail.receipt(ident)
    gate = mail._gate
    decision = await gate.check(principal, "mail.drop", told["instance"], message=ident)

    def end(tx: Tx) -> bool:
        if not mail._end(tx, ident, "failed", "dropped", instance=told["instance"], session=told["session"]):
            return False
        gate.write(tx, decision)
        return True

    if not await mail._store.write(end):
        told = mail.receipt(ident)
        hint = "`aegis cancel` cuts the turn that has it" if told["done_at"] is None else f"see `aegis inbox show {ident}`"
        raise AegisError(ErrorKind.CONFLICT, f"`{ident}` does not wait any more: it is {told['state']}", hint)


def _check_dead(told: dict[str, Any]) -> None:
    if told["state"] not in DEAD:
        text = f"`{told['id']}` is {told['state']}: only what failed or expired can be tried again"
        raise AegisError(ErrorKind.CONFLICT, text, "send it anew")
