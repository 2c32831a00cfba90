"""Accepting messages: what is asked of the gate, what an agent may not, and the one transaction that makes a message ours."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.envelopes import Envelope, Receipt
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.core.principals import PrincipalKind
from aegis.services.mail import model
from aegis.services.mail.checks import check
from aegis.services.mail.taking import Taking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aegis.core.clock import Clock
    from aegis.core.envelopes import Image
    from aegis.core.principals import Principal
    from aegis.services.gate import Decision, Gate
    from aegis.services.mail.model import Draft
    from aegis.store import Store, Tx

#: How many messages of a batch share a transaction, so that others who write need not wait for all of them.
_TOGETHER: Final = 250


class Checked(NamedTuple):
    """A draft that may be accepted, and what the gate said."""

    envelope: Envelope
    images: Sequence[Image]
    decisions: tuple[Decision, ...]
    warning: str


class Accepting(Taking):
    """The way in."""

    def __init__(self, store: Store, clock: Clock, gate: Gate) -> None:
        super().__init__(store, clock)
        self._gate = gate
        #: Raises AegisError when what an instance runs cannot be shown pictures; set by the wiring.
        self.admit_images: Callable[[str], None] = lambda _instance: None
        #: Raises AegisError when an instance takes no message, with `hold` not even one that waits until it is enabled; by the wiring.
        self.admit: Callable[[str, bool], None] = lambda _instance, _hold: None
        #: How often the mail that a session of an instance works on was passed on from agent to agent; set by the wiring.
        self.passed_on: Callable[[Tx, str, str], int] = lambda _tx, _instance, _session: 0

    async def accept(self, principal: Principal, draft: Draft) -> Receipt:
        """Store a message durably.

        Raises AegisError: USAGE (a NUL, an empty text, a bad msg_id, an end that is over, a picture that is none, a message to oneself),
        TOO_LARGE, LIMIT (the box is full, or agents have passed it on too often), NOT_FOUND (the instance was deleted meanwhile),
        CONFLICT (it is disabled, or pictures for an agent that cannot take them), DENIED, UNAVAILABLE (the disk does not take it). Then
        nothing was accepted.
        """
        checked = await self._check(principal, draft, {})
        point("mail.accept.before")

        def store(tx: Tx) -> Receipt:
            receipt = self._store_one(tx, checked)
            if not receipt.duplicate:
                for decision in checked.decisions:
                    self._gate.write(tx, decision)
                point("mail.accept.commit")
            return receipt

        receipt = await self._store.write(store)
        self._accepted(checked, receipt)
        point("mail.accept.after")
        return receipt

    async def accept_all(self, principal: Principal, drafts: Iterable[Draft]) -> list[Receipt | AegisError]:
        """Store many messages, in their order; for each its receipt, or why it was not accepted, as `accept` would raise it.

        What is accepted of a batch is accepted: a later refusal changes nothing of it.
        """
        results: list[Receipt | AegisError] = []
        for part in _parts(iter(drafts)):
            results += await self._accept_part(principal, part)
        return results

    async def _accept_part(self, principal: Principal, drafts: list[Draft]) -> list[Receipt | AegisError]:
        said: dict[tuple[object, ...], tuple[Decision, ...]] = {}
        checked: list[Checked | AegisError] = []
        for draft in drafts:
            try:
                checked.append(await self._check(principal, draft, said))
            except AegisError as error:
                checked.append(error)
        point("mail.accept.before")

        def store(tx: Tx) -> list[Receipt | AegisError]:
            results: list[Receipt | AegisError] = []
            counts: dict[int, tuple[Decision, int]] = {}
            for item in checked:
                if isinstance(item, AegisError):
                    results.append(item)
                    continue
                try:
                    receipt = self._store_one(tx, item)
                except AegisError as error:
                    if error.kind is ErrorKind.UNAVAILABLE:
                        raise
                    results.append(error)
                    continue
                results.append(receipt)
                for decision in () if receipt.duplicate else item.decisions:
                    counts[id(decision)] = decision, counts.get(id(decision), (decision, 0))[1] + 1
            for decision, count in counts.values():
                self._gate.write(tx, msgspec.structs.replace(decision, data={**decision.data, "messages": count}))
            point("mail.accept.commit")
            return results

        try:
            results = await self._store.write(store)
        except AegisError as error:
            return [item if isinstance(item, AegisError) else error for item in checked]
        last: dict[tuple[str, str], tuple[Checked, Receipt]] = {}
        for item, receipt in zip(checked, results, strict=True):
            if isinstance(item, Checked) and isinstance(receipt, Receipt):
                if item.envelope.interrupt:
                    self._accepted(item, receipt)
                else:
                    last[item.envelope.instance, item.envelope.session] = item, receipt
        for item, receipt in last.values():  # one look at a mailbox is enough for all that came into it
            self._accepted(item, receipt)
        point("mail.accept.after")
        return results

    async def _check(self, principal: Principal, draft: Draft, said: dict[tuple[object, ...], tuple[Decision, ...]]) -> Checked:
        """What is to be stored of a draft. `said` keeps what the gate said, for further drafts of one batch."""
        now = self._clock.now()
        check(principal, draft, now)
        self.admit(draft.instance, draft.hold)
        if draft.images:
            self.admit_images(draft.instance)
        asked = (draft.instance, draft.session, draft.interrupt, draft.report_to)
        if asked not in said:
            said[asked] = await self._ask(principal, draft)
        decisions = said[asked]
        cuts = draft.interrupt and decisions[-1].allow
        warning = "it does not cut the turn: you may only cut turns of agents that you started" if draft.interrupt and not cuts else ""
        agent = principal.kind is PrincipalKind.INSTANCE
        envelope = Envelope(
            id=new_id("msg"),
            instance=draft.instance,
            session=draft.session,
            sender=str(principal),
            text=draft.text,
            msg_id=draft.msg_id,
            user=None if agent else draft.user,  # an agent speaks for nobody else
            interrupt=cuts,
            expires=draft.expires,
            name=f"agent:{self.handle_of(principal.id)}" if agent else "",
            sender_session=draft.sender_session if agent else None,
            task=draft.task,
            status=draft.status,
            report=draft.report or draft.report_to is not None,
            report_to=draft.report_to,
            accepted_at=now,
        )
        return Checked(envelope, draft.images, tuple(d for d in decisions if d.allow), warning)

    async def _ask(self, principal: Principal, draft: Draft) -> tuple[Decision, ...]:
        """What the gate says to a message: DENIED is raised; whether it may cut a turn is the last of what comes back."""
        cutting: dict[str, Any] = {"interrupt": True} if draft.interrupt else {}
        decisions = [await self._gate.check(principal, "mail.send", draft.instance, session=draft.session, **cutting)]
        if draft.report_to is not None:  # a report is mail as well
            decisions.append(await self._gate.check(principal, "mail.send", draft.report_to, report=True))
        if draft.interrupt and principal.kind is PrincipalKind.INSTANCE:
            decisions.append(self._gate.decide(principal, "turn.interrupt", draft.instance, session=draft.session))
        return tuple(decisions)

    def _store_one(self, tx: Tx, checked: Checked) -> Receipt:
        envelope = checked.envelope
        if envelope.msg_id is not None:
            known = tx.execute(
                "SELECT id, seq FROM envelopes WHERE instance = ? AND sender = ? AND msg_id = ?",
                (envelope.instance, envelope.sender, envelope.msg_id),
            ).fetchone()
            if known is not None:
                return Receipt(known[0], known[1], duplicate=True)
        self.require(tx, envelope.instance)
        if envelope.name:
            envelope = msgspec.structs.replace(envelope, hops=self._hops(tx, envelope))
        self.make_room(tx, envelope.instance, envelope.sender)
        return Receipt(envelope.id, self._insert(tx, envelope, checked.images), warning=checked.warning)

    def _hops(self, tx: Tx, envelope: Envelope) -> int:
        """How often this was passed on, with what its sender works on."""
        sender = envelope.sender.partition(":")[2]
        hops = self.passed_on(tx, sender, envelope.sender_session or "") + 1
        if hops > model.MAX_HOPS:
            raise AegisError(
                ErrorKind.LIMIT,
                f"agents have passed this on {model.MAX_HOPS} times, one to the next",
                "end your turn and say what is open: a person has to write before it goes on",
            )
        return hops

    def _accepted(self, checked: Checked, receipt: Receipt) -> None:
        envelope = checked.envelope
        if receipt.duplicate:  # it cuts nothing a second time, least of all its own turn
            envelope = msgspec.structs.replace(envelope, id=receipt.id, interrupt=False)
        self.on_accepted(envelope)


def _parts(drafts: Iterator[Draft]) -> Iterator[list[Draft]]:
    while part := list(islice(drafts, _TOGETHER)):
        yield part
