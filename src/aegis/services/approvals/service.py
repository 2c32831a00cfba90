"""Owner of the table `approvals` and of the events `approval.*`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core import bounds
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import ApprovalDecided, ApprovalRequested
from aegis.core.ids import new_id
from aegis.core.principals import SYSTEM
from aegis.core.text import one_line
from aegis.drivers import Answer
from aegis.services.approvals.model import MAX_INPUT, Approval, Pending, bounded, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.drivers import Asked
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

_COLUMNS: Final = (
    "id, instance, session, turn, tool, kind, title, input, call_id, question, state, asked_at, decided_at, delivered_at, "
    "principal, reason, edited"
)
STATES: Final = ("pending", "approved", "rejected", "withdrawn")
_MAX_REASON: Final = 4000

#: An earlier request for the same, of another turn of the session, that this one takes the place of: one that still waits, or whose
#: answer the program never had; or one of the turn that this one continues, and of those that that one continued. Taking its place
#: moves the row to the present turn, so it serves once. A row of the present turn never counts: the program asks for a second time.
_EARLIER: Final = f"""
WITH RECURSIVE before (id) AS (
    SELECT continues FROM turns WHERE id = ?1
    UNION SELECT turns.continues FROM turns JOIN before ON turns.id = before.id
)
SELECT {_COLUMNS} FROM approvals
WHERE instance = ?2 AND session = ?3 AND digest = ?4 AND turn <> ?1 AND (
    state = 'pending' OR state IN ('approved', 'rejected') AND (delivered_at IS NULL OR turn IN (SELECT id FROM before))
)
ORDER BY asked_at, id LIMIT 1
"""


class _Waiting(NamedTuple):
    """Somebody who waits for an answer, and the driver's own name of the request."""

    instance: str
    session: str
    driver_id: str
    answer: asyncio.Future[Answer]


class Approvals:
    """All requests of the home. Belongs to the event loop of the store."""

    def __init__(self, store: Store, clock: Clock, gate: Gate) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._waiting: dict[str, _Waiting] = {}
        #: Called in the event loop with an instance whenever it has more or fewer open requests; set by the wiring.
        self.on_change: Callable[[str], None] = lambda _instance: None
        rows = store.read(lambda db: db.execute("SELECT instance, count(*) FROM approvals WHERE state = 'pending' GROUP BY 1").fetchall())
        self._open: Counter[str] = Counter(dict(rows))

    async def ask(self, *, instance: str, session: str, turn: str, request: Asked) -> Pending:
        """Put a request on disk, unless it is one that was there before the program was cut down; see the module.

        Raises what `Store.write` raises; then nothing was asked.
        """
        digest = digest_of(request.tool, request.input)
        fresh = Approval(
            id=new_id("appr"), instance=instance, session=session, turn=turn, tool=one_line(request.tool[:4096]), kind=request.kind,
            title=one_line(request.title[:4096], 400), input=bounded(request.input),
            call_id=None if request.call_id is None else bounds.ident(request.call_id), question=request.question,
            state="pending", asked_at=self._clock.now(),
        )  # fmt: skip

        def store(tx: Tx) -> Approval:
            row = tx.execute(_EARLIER, (turn, instance, session, digest)).fetchone()
            if row is not None:
                tx.execute("UPDATE approvals SET turn = ?, call_id = ?, delivered_at = NULL WHERE id = ?", (turn, fresh.call_id, row[0]))
                return _approval(row)
            self._insert(tx, fresh, digest)
            tx.on_commit(lambda: self._count(instance, 1))
            return fresh

        asked = await self._store.write(store)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if asked.state == "pending":
            # A person may have answered between the commit and this line.
            asked = self.get(asked.id)
        if asked.state == "pending":
            self._waiting[asked.id] = _Waiting(instance, session, request.id, answer)
        else:
            answer.set_result(asked.answer())
        return Pending(asked.id, answer, self._unwait)

    async def withdraw(self, *, instance: str, session: str, reason: str, driver_id: str | None = None) -> None:
        """Nobody wants the answer any more: end all open requests of a session, or the one that its driver calls `driver_id`.

        With all of them also the answers end that the program never had. Nothing happens when there are none.
        """
        only = None
        if driver_id is not None:
            only = next(
                (i for i, w in self._waiting.items() if (w.instance, w.session, w.driver_id) == (instance, session, driver_id)), None
            )
            if only is None:
                return

        if only is not None or self._concerned(instance, session):
            await self._store.write(lambda tx: self._end(tx, instance, session, reason, only))

    def end(self, tx: Tx, *, instance: str, session: str, reason: str) -> None:
        """`withdraw` for all of a session, in the transaction that ends its turn."""
        self._end(tx, instance, session, reason, None)

    def _end(self, tx: Tx, instance: str, session: str, reason: str, only: str | None) -> None:
        now = self._clock.now()
        found = tx.execute(
            "SELECT id, turn FROM approvals WHERE state = 'pending' AND instance = ? AND session = ? AND (? IS NULL OR id = ?)",
            (instance, session, only, only),
        ).fetchall()
        for ident, turn in found:
            tx.execute(
                "UPDATE approvals SET state = 'withdrawn', decided_at = ?, principal = ?, reason = ? WHERE id = ?",
                (now, str(SYSTEM), reason, ident),
            )
            tx.append(ApprovalDecided(ident, "withdrawn", str(SYSTEM), reason), instance=instance, session=session, turn=turn)
        if only is None:
            tx.execute(
                "UPDATE approvals SET delivered_at = ? WHERE instance = ? AND session = ? AND delivered_at IS NULL "
                "AND state IN ('approved', 'rejected')",
                (now, instance, session),
            )
        if found:
            tx.on_commit(lambda: self._settled([row[0] for row in found], instance, Answer(allow=False, reason=reason)))

    async def decide(
        self, principal: Principal, approval_id: str, *, approve: bool, reason: str = "", input: dict[str, Any] | None = None
    ) -> Approval:
        """Answer a request.

        Args:
            principal: who answers.
            approval_id: the whole id.
            approve: yes or no.
            reason: why; a no tells it to the model.
            input: what the tool is to be given instead of what the agent wanted; only with a yes.

        Raises AegisError: NOT_FOUND, CONFLICT when it is not pending any more, USAGE and TOO_LARGE, DENIED.
        """
        if input is not None and not approve:
            raise AegisError(ErrorKind.USAGE, "another input goes with a yes only", "leave `input` out, or approve")
        if input is not None and len(msgspec.json.encode(input)) > 16 * MAX_INPUT:
            raise AegisError(ErrorKind.TOO_LARGE, f"the input is over {16 * MAX_INPUT:,} bytes", "give less")
        found = self.get(approval_id)
        verdict, reason = "approved" if approve else "rejected", reason[:_MAX_REASON]
        edited = {"edited": True} if input is not None else {}
        decision = await self._gate.check(
            principal, "approval.decide", approval_id, instance=found.instance, tool=found.tool, verdict=verdict, **edited
        )

        def store(tx: Tx) -> Approval:
            row = tx.execute(f"SELECT {_COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone()
            if row is None:
                raise _unknown(approval_id)
            now = _approval(row)
            if now.state != "pending":
                told = f" by {now.principal}" if now.state != "withdrawn" else f": {now.reason}"
                raise AegisError(ErrorKind.CONFLICT, f"{approval_id} is {now.state} already{told}", "see `aegis approvals list --all`")
            done = msgspec.structs.replace(
                now, state=verdict, decided_at=self._clock.now(), principal=str(principal), reason=reason, edited=input
            )
            tx.execute(
                "UPDATE approvals SET state = ?, decided_at = ?, principal = ?, reason = ?, edited = ? WHERE id = ?",
                (verdict, done.decided_at, done.principal, reason, _json(input) if input is not None else None, approval_id),
            )
            self._gate.write(tx, decision)
            place = {"instance": done.instance, "session": done.session, "turn": done.turn}
            tx.append(ApprovalDecided(approval_id, verdict, done.principal, reason), **place)
            tx.on_commit(lambda: self._settled([approval_id], done.instance, done.answer()))
            return done

        return await self._store.write(store)

    async def delivered(self, approval_id: str) -> None:
        """The program has the answer."""
        await self._store.write(
            lambda tx: tx.execute(
                "UPDATE approvals SET delivered_at = ? WHERE id = ? AND delivered_at IS NULL", (self._clock.now(), approval_id)
            )
        )

    def get(self, approval_id: str) -> Approval:
        """One request. Raises NOT_FOUND."""
        row = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone())
        if row is None:
            raise _unknown(approval_id)
        return _approval(row)

    def open(self, instance: str) -> int:
        """How many requests of an instance wait for a person."""
        return self._open[instance]

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance."""
        tx.execute("DELETE FROM approvals WHERE instance = ?", (instance,))
        tx.on_commit(lambda: self._forgotten(instance))

    def _insert(self, tx: Tx, asked: Approval, digest: str) -> None:
        tx.execute(
            "INSERT INTO approvals (id, instance, session, turn, digest, tool, kind, title, input, call_id, question, state, asked_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
            (
                asked.id, asked.instance, asked.session, asked.turn, digest, asked.tool, asked.kind, asked.title, _json(asked.input),
                asked.call_id, asked.question, asked.asked_at,
            ),
        )  # fmt: skip
        tx.append(
            ApprovalRequested(asked.id, asked.tool, asked.input, asked.kind, asked.title, asked.call_id),
            instance=asked.instance,
            session=asked.session,
            turn=asked.turn,
        )

    def _concerned(self, instance: str, session: str) -> bool:
        """Whether a session has anything to withdraw; spares a write."""
        return bool(
            self._store.read(
                lambda db: db.execute(
                    "SELECT 1 FROM approvals WHERE instance = ? AND session = ? AND (state = 'pending' "
                    "OR delivered_at IS NULL AND state IN ('approved', 'rejected')) LIMIT 1",
                    (instance, session),
                ).fetchone()
            )
        )

    def _settled(self, idents: Sequence[str], instance: str, answer: Answer) -> None:
        """These are not open any more: tell those who wait."""
        for ident in idents:
            waiting = self._waiting.pop(ident, None)
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_result(answer)
        self._count(instance, -len(idents))

    def _forgotten(self, instance: str) -> None:
        gone = [ident for ident, waiting in self._waiting.items() if waiting.instance == instance]
        self._settled(gone, instance, Answer(allow=False, reason="the instance was deleted"))
        self._open.pop(instance, None)

    def _unwait(self, ident: str, answer: asyncio.Future[Answer]) -> None:
        waiting = self._waiting.get(ident)
        if waiting is not None and waiting.answer is answer:
            del self._waiting[ident]

    def _count(self, instance: str, more: int) -> None:
        self._open[instance] += more
        self.on_change(instance)

    def list(self, *, instance: str | None = None, state: str | None = "pending", limit: int = 100) -> list[Approval]:
        """The newest `limit` requests of one instance or all, in one state or all, oldest first. Raises USAGE for an unknown state."""
        if state is not None and state not in STATES:
            raise AegisError(ErrorKind.USAGE, f"there is no state {state[:40]!r}", f"known: {', '.join(STATES)}")
        # The index of what is pending is used only where the statement says so in so many words.
        which = "state = 'pending'" if state == "pending" else "(?1 IS NULL OR state = ?1)"
        sql = f"SELECT {_COLUMNS} FROM approvals WHERE {which} AND (?2 IS NULL OR instance = ?2) ORDER BY asked_at DESC, id DESC LIMIT ?3"
        rows = self._store.read(lambda db: db.execute(sql, (state, instance, limit)).fetchall())
        return [_approval(row) for row in reversed(rows)]


def _approval(row: Any) -> Approval:
    names = [name.strip() for name in _COLUMNS.split(",")]
    values = dict(zip(names, row, strict=True))
    values |= {
        "input": msgspec.json.decode(values["input"]),
        "question": bool(values["question"]),
        "edited": msgspec.json.decode(values["edited"]) if values["edited"] else None,
    }
    return Approval(**values)


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _unknown(approval_id: str) -> AegisError:
    return AegisError(ErrorKind.NOT_FOUND, f"there is no request {approval_id[:60]!r}", "see `aegis approvals list`")
