"""Owner of the table `approvals` and of the events `approval.*`."""

from __future__ import annotations

import asyncio
from collections import Counter
from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core import bounds
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import ApprovalDecided, ApprovalEscalated, ApprovalRequested
from aegis.core.ids import new_id
from aegis.core.principals import SYSTEM, PrincipalKind
from aegis.core.text import one_line
from aegis.drivers import Answer
from aegis.services.approvals import rows
from aegis.services.approvals.model import MAX_INPUT, Approval, Pending, Terms, bounded, digest_of
from aegis.services.gate.calls import argv_of, line_of
from aegis.services.gate.model import Decision
from aegis.services.gate.prompts import asking_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aegis.core.clock import Clock
    from aegis.core.events import ToolKind
    from aegis.core.principals import Principal
    from aegis.drivers import Asked
    from aegis.services.approvals.rules import ApprovedRules
    from aegis.services.gate import Gate
    from aegis.services.gate.model import Effect
    from aegis.store import Store, Timer, Timers, Tx

STATES: Final = ("pending", "approved", "rejected", "withdrawn")
SCOPES: Final = ("once", "session", "rule")
#: The timer that ends a request which nobody answers.
TIMER: Final = "approval.deadline"
#: So many calls of one instance may wait for a person besides what its program asks for.
MOST_OPEN: Final = 64
#: A deadline is put off by no more than this, in seconds.
MOST_SECONDS: Final = 366 * 86400.0
_MAX_REASON: Final = 4000
_MAX_ARGV: Final = 200


class _Waiting(NamedTuple):
    """Somebody who waits for an answer, and the driver's own name of the request; a call that the gate holds has none."""

    instance: str
    session: str
    driver_id: str
    answer: asyncio.Future[Answer]


class Approvals:
    """All requests of the home. Belongs to the event loop of the store.

    Args:
        store, clock, gate: as everywhere.
        timers: end what nobody answers; without them nothing ends by itself.
    """

    def __init__(self, store: Store, clock: Clock, gate: Gate, timers: Timers | None = None) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._timers = timers
        self._waiting: dict[str, _Waiting] = {}
        self._held: set[str] = set()  # calls of the gate whose asker is there, from the request until it has the answer
        #: Called in the event loop with an instance whenever it has more or fewer open requests; set by the wiring.
        self.on_change: Callable[[str], None] = lambda _instance: None
        #: How long an instance's requests wait, and what counts then; set by the wiring.
        self.terms: Callable[[str], Terms] = lambda _instance: Terms()
        #: The turn that a session of an instance is in; set by the wiring.
        self.turn_of: Callable[[str, str], str | None] = lambda _instance, _session: None
        #: Who writes rules with an answer; set by the wiring.
        self.rules: ApprovedRules | None = None
        found = store.read(lambda db: db.execute("SELECT instance, count(*) FROM approvals WHERE state = 'pending' GROUP BY 1").fetchall())
        self._open: Counter[str] = Counter(dict(found))
        if timers is not None:
            timers.on(TIMER, self._expire)

    async def ask(
        self, *, instance: str, session: str, turn: str, request: Asked, effect: Effect | None = None, policies: Sequence[str] = ()
    ) -> Pending:
        """Put a request of a program on disk, unless it is one that was there before the program was cut down; see the module.

        Args:
            instance, session, turn: where it was made.
            request: what the program asks.
            effect: the exact call, as far as it was read.
            policies: the rules that want a person asked.

        Raises what `Store.write` raises; then nothing was asked.
        """
        digest = effect.digest if effect is not None else digest_of(request.tool, request.input)
        fresh = self._fresh(
            instance, session, turn, effect, tool=request.tool, kind=request.kind, title=request.title, given=request.input, digest=digest,
            call_id=None if request.call_id is None else bounds.ident(request.call_id), question=request.question,
            action="tool.use", resource=effect.tool if effect is not None else "", policies=list(policies), risk="",
        )  # fmt: skip

        def store(tx: Tx) -> Approval:
            row = tx.execute(rows.EARLIER, (turn, instance, session, digest, fresh.action, fresh.resource)).fetchone()
            if row is not None:
                rows.update(tx, row[0], turn=turn, call_id=fresh.call_id, delivered_at=None)
                return rows.approval(row)
            self._insert(tx, fresh)
            return fresh

        return self._pending(await self._store.write(store), request.id)

    async def for_effect(self, decision: Decision, effect: Effect | None) -> Decision:
        """What a person says of a call that a rule wants one asked about; behind `Gate.ask`.

        The request is on disk before it waits. A call that was cut off and is made again, exactly the same, is given the answer that
        was meant for it, once. Only agents' calls are asked about; any other decision comes back as it is.
        """
        if decision.principal.kind is not PrincipalKind.INSTANCE:
            return decision
        instance = decision.principal.id
        session = (effect.session if effect is not None else None) or str(decision.data.get("session") or "")
        turn = self.turn_of(instance, session) or ""
        given = effect.arguments if effect is not None else msgspec.to_builtins(decision.data)
        try:
            digest = effect.digest if effect is not None else digest_of(f"{decision.action} {decision.resource}", given)
        except AegisError as error:
            return _said(decision, allow=False, reason=error.message)
        key = (instance, session, digest, decision.action, decision.resource)
        if (granted := self.granted(*key)) is not None:
            return _said(decision, allow=True, reason=f"approved for this session by {granted.principal} ({granted.id})")
        if self._open[instance] >= MOST_OPEN:
            return _said(decision, allow=False, reason=f"{MOST_OPEN} requests wait for an answer already")
        title = _title(decision, effect, self._gate.facts(decision.resource))
        fresh = self._fresh(
            instance, session, turn, effect, tool=decision.resource if decision.action.startswith("tool.") else decision.action,
            kind=_kind(effect), title=title, given=given, digest=digest, call_id=None, question=False,
            action=decision.action, resource=decision.resource, policies=asking_rules(self._gate, decision), risk=decision.reason,
        )  # fmt: skip
        taken: list[str] = []

        def store(tx: Tx) -> Approval:
            taken.clear()
            row = tx.execute(rows.EARLIER, (turn, *key)).fetchone() if turn else None
            found = [row, *tx.execute(rows.DROPPED, key).fetchall()]
            free = next((each for each in found if each is not None and each[0] not in self._held), None)
            asked = fresh if free is None else rows.approval(free)
            self._held.add(asked.id)  # here, in the one writer, so that one answer never serves two calls
            taken.append(asked.id)
            if free is None:
                self._insert(tx, asked)
            else:
                rows.update(tx, asked.id, turn=turn, delivered_at=None)
            return asked

        try:
            pending = self._pending(await self._store.write(store), "")
            answer = await pending.verdict()
            await self.delivered(pending.id)
        except AegisError as error:
            return _said(decision, allow=False, reason=f"nobody can be asked: {error.message}")
        finally:
            self._held.difference_update(taken)
        if answer.allow:
            return _said(decision, allow=True, reason=f"approved ({pending.id})" + (f": {answer.reason}" if answer.reason else ""))
        return _said(decision, allow=False, reason=answer.reason or "a person said no")

    def granted(self, instance: str, session: str, digest: str, action: str, resource: str) -> Approval | None:
        """The yes that covers this exact call for the whole session; None when there is none."""
        key = (instance, session, digest, action, resource)
        row = self._store.read(lambda db: db.execute(rows.GRANTED, key).fetchone())
        return rows.approval(row) if row is not None else None

    def _fresh(
        self, instance: str, session: str, turn: str, effect: Effect | None, *, tool: str, kind: ToolKind, title: str,
        given: dict[str, Any], digest: str, risk: str, **more: Any,
    ) -> Approval:  # fmt: skip
        now, terms = self._clock.now(), self.terms(instance)
        risks = [risk, effect.risk if effect is not None else ""]
        return Approval(
            id=new_id("appr"), instance=instance, session=session, turn=turn, tool=one_line(tool[:4096]), kind=kind,
            title=one_line(title[:4096], 400), input=bounded(given), state="pending", asked_at=now, digest=digest,
            argv=_argv(effect), cwd=effect.cwd if effect is not None else "", risk=one_line("; ".join(filter(None, risks)), 1000),
            deadline=now + terms.seconds, default=terms.default if not more.get("question") else "reject", **more,
        )  # fmt: skip

    def _pending(self, asked: Approval, driver_id: str) -> Pending:
        """The wait for the answer of a request that is on disk."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if asked.state == "pending":
            # A person may have answered between the commit and this line.
            asked = self.get(asked.id)
        if asked.state == "pending":
            self._waiting[asked.id] = _Waiting(asked.instance, asked.session, driver_id, answer)
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
            self._untime(tx, ident)
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
        self,
        principal: Principal,
        approval_id: str,
        *,
        approve: bool,
        reason: str = "",
        input: dict[str, Any] | None = None,
        scope: str = "once",
        rule: str = "",
    ) -> Approval:
        """Answer a request.

        Args:
            principal: who answers.
            approval_id: the whole id.
            approve: yes or no.
            reason: why; a no tells it to the model.
            input: what the tool is to be given instead of what the agent wanted; only with a yes, and only for a program's own tool.
            scope: how far a yes goes: `once`; `session`, the same exact call again in this session; `rule`, with `rule` written.
            rule: the text of the rule as the person has seen it.

        Raises AegisError: NOT_FOUND, CONFLICT when it is not pending any more or the rule is another one, USAGE and TOO_LARGE, DENIED.
        """
        if scope not in SCOPES:
            raise AegisError(ErrorKind.USAGE, f"there is no scope {scope[:40]!r}", f"known: {', '.join(SCOPES)}")
        if input is not None and not approve:
            raise AegisError(ErrorKind.USAGE, "another input goes with a yes only", "leave `input` out, or approve")
        if scope != "once" and (not approve or input is not None):
            raise AegisError(ErrorKind.USAGE, "only a plain yes can count for more than once", "leave the scope out")
        if input is not None and len(msgspec.json.encode(input)) > 16 * MAX_INPUT:
            raise AegisError(ErrorKind.TOO_LARGE, f"the input is over {16 * MAX_INPUT:,} bytes", "give less")
        found = self.get(approval_id)
        if scope != "once" and found.question:
            raise AegisError(ErrorKind.USAGE, "a question wants an answer each time", "approve it once")
        if input is not None and found.action != "tool.use":
            raise AegisError(ErrorKind.USAGE, "what the gate holds can be allowed as it is, or not at all", "reject it, and say why")
        verdict, reason = "approved" if approve else "rejected", reason[:_MAX_REASON]
        more: dict[str, Any] = {"edited": True} if input is not None else {}
        if scope != "once":
            more["scope"] = scope
        decision = await self._gate.check(
            principal, "approval.decide", approval_id, instance=found.instance, tool=found.tool, verdict=verdict, **more
        )
        written = await self._write_rule(principal, found, rule) if scope == "rule" else ""

        def store(tx: Tx) -> Approval:
            now = self._still(tx, approval_id)
            self._gate.write(tx, decision)
            return self._settle(tx, now, verdict, str(principal), reason, edited=input, scope=scope, rule=written)

        try:
            return await self._store.write(store)
        except AegisError:
            if written and self.rules is not None:
                await self.rules.undo(written)
            raise

    async def _write_rule(self, principal: Principal, found: Approval, text: str) -> str:
        if self.rules is None:
            raise AegisError(ErrorKind.UNAVAILABLE, "no rules can be written here", "approve it once")
        if found.state != "pending":
            raise _over(found)
        self.rules.propose(found)
        await self._gate.pass_through(principal, "policy.write", "approved.cedar", rule=text[:_MAX_REASON], approval=found.id)
        return await self.rules.write(found, text, str(principal), self._clock.now())

    async def escalate(self, principal: Principal, approval_id: str, *, seconds: float | None = None, reason: str = "") -> Approval:
        """Have people told again of a request that waits, and by whom; with `seconds` it waits that much longer from now, at least.

        Raises AegisError: NOT_FOUND, CONFLICT when it is not pending any more, USAGE, DENIED.
        """
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise AegisError(ErrorKind.USAGE, "a deadline is put off by more than nothing and at most 366 days", "such as `--deadline 2d`")
        found = self.get(approval_id)
        decision = await self._gate.check(principal, "approval.escalate", approval_id, instance=found.instance, tool=found.tool)

        def store(tx: Tx) -> Approval:
            asked, now = self._still(tx, approval_id), self._clock.now()
            deadline = asked.deadline
            if seconds is not None and deadline is not None:
                deadline = max(deadline, now + seconds)
            rows.update(tx, approval_id, escalated_at=now, escalated_by=str(principal), deadline=deadline)
            self._time(tx, approval_id, deadline)
            self._gate.write(tx, decision)
            told = ApprovalEscalated(
                approval_id, str(principal), asked.title or asked.tool, asked.risk, deadline, one_line(reason[:_MAX_REASON], 400)
            )
            tx.append(told, **_place(asked))
            return msgspec.structs.replace(asked, escalated_at=now, escalated_by=str(principal), deadline=deadline)

        return await self._store.write(store)

    async def _expire(self, timer: Timer) -> None:
        """The deadline of a request has come: it ends with its default."""

        def store(tx: Tx) -> None:
            timer.done(tx)
            row = tx.execute(f"SELECT {rows.COLUMNS} FROM approvals WHERE id = ? AND state = 'pending'", (timer.key,)).fetchone()
            if row is None:
                return
            asked = rows.approval(row)
            if asked.deadline is not None and asked.deadline > self._clock.now():
                self._time(tx, asked.id, asked.deadline)
                return
            yes = asked.default == "approve"
            reason = "nobody answered in time" + (", and its default is yes" if yes else "")
            verdict = "approved" if yes else "rejected"
            about = {"instance": asked.instance, "tool": asked.tool, "verdict": verdict}
            self._gate.write(tx, Decision(SYSTEM, "approval.decide", asked.id, True, "the deadline passed", about, digest=asked.digest))
            self._settle(tx, asked, verdict, str(SYSTEM), reason)

        await self._store.write(store)

    def _still(self, tx: Tx, approval_id: str) -> Approval:
        """A request that waits. Raises NOT_FOUND and CONFLICT."""
        row = tx.execute(f"SELECT {rows.COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone()
        if row is None:
            raise _unknown(approval_id)
        found = rows.approval(row)
        if found.state != "pending":
            raise _over(found)
        return found

    def _settle(
        self, tx: Tx, asked: Approval, verdict: str, principal: str, reason: str, *,
        edited: dict[str, Any] | None = None, scope: str = "once", rule: str = "",
    ) -> Approval:  # fmt: skip
        """The answer, its event, and those who wait told of it."""
        changes = {"state": verdict, "decided_at": self._clock.now(), "principal": principal, "reason": reason, "edited": edited}
        changes |= {"scope": "once" if scope == "rule" else scope, "rule": rule}
        rows.update(tx, asked.id, **changes)
        self._untime(tx, asked.id)
        done = msgspec.structs.replace(asked, **changes)
        tx.append(ApprovalDecided(asked.id, verdict, principal, reason, intern(scope)), **_place(done))
        tx.on_commit(lambda: self._settled([asked.id], done.instance, done.answer()))
        return done

    async def delivered(self, approval_id: str) -> None:
        """The program has the answer."""
        await self._store.write(
            lambda tx: tx.execute(
                "UPDATE approvals SET delivered_at = ? WHERE id = ? AND delivered_at IS NULL", (self._clock.now(), approval_id)
            )
        )

    def get(self, approval_id: str) -> Approval:
        """One request. Raises NOT_FOUND."""
        row = self._store.read(lambda db: db.execute(f"SELECT {rows.COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone())
        if row is None:
            raise _unknown(approval_id)
        return rows.approval(row)

    def open(self, instance: str) -> int:
        """How many requests of an instance wait for a person."""
        return self._open[instance]

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove everything of a deleted instance."""
        for (ident,) in tx.execute("SELECT id FROM approvals WHERE instance = ? AND state = 'pending'", (instance,)).fetchall():
            self._untime(tx, ident)
        tx.execute("DELETE FROM approvals WHERE instance = ?", (instance,))
        tx.on_commit(lambda: self._forgotten(instance))

    def _insert(self, tx: Tx, asked: Approval) -> None:
        rows.insert(tx, asked)
        self._time(tx, asked.id, asked.deadline)
        tx.on_commit(lambda: self._count(asked.instance, 1))
        tx.append(
            ApprovalRequested(
                asked.id, asked.tool, asked.input, asked.kind, asked.title, asked.call_id,
                "" if asked.action == "tool.use" else asked.action, "" if asked.resource == asked.tool else asked.resource, asked.argv,
                asked.cwd, asked.digest, asked.risk, asked.deadline, intern(asked.default),
            ),
            **_place(asked),
        )  # fmt: skip

    def _time(self, tx: Tx, ident: str, deadline: float | None) -> None:
        if self._timers is not None and deadline is not None:
            self._timers.set(tx, TIMER, ident, deadline)

    def _untime(self, tx: Tx, ident: str) -> None:
        if self._timers is not None:
            self._timers.cancel(tx, TIMER, ident)

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
        sql = (
            f"SELECT {rows.COLUMNS} FROM approvals WHERE {which} AND (?2 IS NULL OR instance = ?2) ORDER BY asked_at DESC, id DESC LIMIT ?3"
        )
        found = self._store.read(lambda db: db.execute(sql, (state, instance, limit)).fetchall())
        return [rows.approval(row) for row in reversed(found)]


def _place(asked: Approval) -> dict[str, Any]:
    """Where the events of a request belong."""
    return {"instance": asked.instance, "session": asked.session or None, "turn": asked.turn or None}


def _argv(effect: Effect | None) -> list[str]:
    """The words of the command that a call runs."""
    runs = effect is not None and any(facet.command is not None for facet in effect.facets)
    return [word[:_MAX_REASON] for word in argv_of(effect.arguments)[:_MAX_ARGV]] if effect is not None and runs else []


def _kind(effect: Effect | None) -> ToolKind:
    """What a call does, as far as it shows."""
    facets = effect.facets if effect is not None else ()
    if any(facet.command is not None for facet in facets):
        return "execute"
    if any(facet.host is not None for facet in facets):
        return "fetch"
    if any(facet.path is not None for facet in facets):
        return "edit" if any(facet.writes for facet in facets) else "read"
    return "other"


def _title(decision: Decision, effect: Effect | None, other: Mapping[str, Any] | None) -> str:
    """What a call is about, in a line; `other` is known of the instance that it is about, if it is about one."""
    if effect is not None and (line := line_of(effect.arguments)) and any(facet.command is not None for facet in effect.facets):
        return line  # all of it: its first command may be the harmless one
    for facet in effect.facets if effect is not None else ():
        if facet.path is not None:
            return facet.path
        if facet.host is not None:
            return f"{facet.method or ''} {facet.host}{facet.url_path or ''}".strip()
    return f"{decision.action} {other['handle'] if other else decision.resource}"


def _said(decision: Decision, *, allow: bool, reason: str) -> Decision:
    """The decision with the answer of a person."""
    return msgspec.structs.replace(decision, allow=allow, ask=False, reason=reason)


def _over(found: Approval) -> AegisError:
    told = f" by {found.principal}" if found.state != "withdrawn" else f": {found.reason}"
    return AegisError(ErrorKind.CONFLICT, f"{found.id} is {found.state} already{told}", "see `aegis approvals list --all`")


def _unknown(approval_id: str) -> AegisError:
    return AegisError(ErrorKind.NOT_FOUND, f"there is no request {approval_id[:60]!r}", "see `aegis approvals list`")
