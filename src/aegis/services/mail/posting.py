"""Putting envelopes on disk, inside a transaction: those that somebody sent, and those that the house makes itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.envelopes import DEFAULT_SESSION, Envelope
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import MailAccepted
from aegis.core.faults import point
from aegis.core.ids import new_id
from aegis.services.mail import model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.core.clock import Clock
    from aegis.core.envelopes import Image
    from aegis.store import Tx

_AGENT = "instance:"


class Posting:
    """The writing half of acceptance. The callbacks are set by the wiring."""

    _clock: Clock

    def __init__(self) -> None:
        self._bounds: dict[tuple[str, str], int] = {}  # (instance, sender or "") -> at most so many wait; for the writer's thread alone
        #: Called in the event loop whenever an envelope is on disk, for a repeated one again.
        self.on_accepted: Callable[[Envelope], None] = lambda _envelope: None
        #: Sets the timer that calls `expire` when an envelope's time is over, in the transaction that stores it.
        self.set_expiry: Callable[[Tx, Envelope], None] = lambda _tx, _envelope: None
        #: Raises NOT_FOUND when the instance is gone, in the transaction that stores an envelope for it.
        self.require: Callable[[Tx, str], None] = lambda _tx, _instance: None
        #: The handle of an instance by its id.
        self.handle_of: Callable[[str], str] = lambda ident: ident

    def post(self, tx: Tx, envelope: Envelope, images: Sequence[Image] = ()) -> int:
        """Store an envelope as it is and return its number; who it is for is woken when that is on disk. No bound holds for it.

        For mail that the house itself makes within a transaction. Raises NOT_FOUND when the receiver is gone.
        """
        self.require(tx, envelope.instance)
        seq = self._insert(tx, envelope, images)
        tx.on_commit(lambda: self._wake(envelope))
        return seq

    def answer(self, tx: Tx, asked: Envelope, text: str, *, ok: bool) -> None:
        """Report the end of the work on an envelope to who wants to know it: nobody for most, and never for a report."""
        if not asked.report or asked.status is not None:
            return
        receiver = asked.report_to or (asked.sender.removeprefix(_AGENT) if asked.sender.startswith(_AGENT) else None)
        if receiver is None or receiver == asked.instance:
            return
        report = Envelope(
            id=new_id("msg"),
            instance=receiver,
            session=(None if asked.report_to else asked.sender_session) or DEFAULT_SESSION,
            sender=f"{_AGENT}{asked.instance}",
            sender_session=asked.session,
            name=f"agent:{self.handle_of(asked.instance)}",
            text=text.strip() or "(it ended without a word)",
            task=asked.task or asked.id,
            status="ok" if ok else "error",
            hops=asked.hops,
            accepted_at=self._clock.now(),
        )
        try:
            self.post(tx, report)
        except AegisError as error:
            if error.kind is not ErrorKind.NOT_FOUND:  # who asked is gone: nobody is to be told
                raise

    def _insert(self, tx: Tx, envelope: Envelope, images: Sequence[Image] = ()) -> int:
        seq = tx.append(
            MailAccepted(
                envelope.id,
                envelope.sender,
                envelope.text,
                envelope.msg_id,
                envelope.user,
                len(images),
                envelope.name,
                envelope.task,
                envelope.status,
                envelope.hops,
            ),
            instance=envelope.instance,
            session=envelope.session,
        )
        tx.execute(_INSERT, (seq, *model.row(envelope)))
        if images:
            tx.executemany(
                "INSERT INTO envelope_images (envelope, n, media_type, data) VALUES (?, ?, ?, ?)",
                [(envelope.id, n, image.media_type, image.data) for n, image in enumerate(images)],
            )
        if envelope.expires is not None:
            self.set_expiry(tx, envelope)
        return seq

    def make_room(self, tx: Tx, instance: str, sender: str) -> None:
        """Refuse what does not fit into the box. Counting costs, so it is done only when the bound since the last count is reached."""
        self._count(
            tx, instance, "", model.MAX_WAITING, "messages already wait for this instance", "let it work through them, or delete it"
        )
        if sender.startswith(_AGENT):
            hint = "wait until it has read them; `aegis_status` says when"
            self._count(tx, instance, sender, model.MAX_FROM_AGENT, "messages of yours already wait for this agent", hint)

    def forget_bounds(self, instance: str) -> None:
        """An instance is gone."""
        for key in [key for key in self._bounds if key[0] == instance]:
            del self._bounds[key]

    def _count(self, tx: Tx, instance: str, sender: str, most: int, what: str, hint: str) -> None:
        bound = self._bounds.get((instance, sender), most)
        if bound >= most:
            where, values = ("AND sender = ?", (instance, sender)) if sender else ("", (instance,))
            query = f"SELECT count(*) FROM envelopes WHERE instance = ? {where} AND {model.WAITS}"
            (bound,) = tx.execute(query, values).fetchone()
        if bound >= most:
            raise AegisError(ErrorKind.LIMIT, f"{bound:,} {what}", hint)
        self._bounds[instance, sender] = bound + 1

    def _wake(self, envelope: Envelope) -> None:
        try:
            point("mail.report.after")
        finally:
            self.on_accepted(envelope)


_INSERT = f"INSERT INTO envelopes (seq, state, {model.COLUMNS}) VALUES (?, 'accepted', {', '.join('?' * len(model.COLUMNS.split(', ')))})"
