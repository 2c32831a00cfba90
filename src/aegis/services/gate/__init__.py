"""The gate: the one place that says who may do what, and writes down that it said so.

Every effect passes `Gate.check`, which returns the decision or raises DENIED; the audit row is written before the effect, or in
the effect's own transaction. If the row cannot be written, the effect does not happen. What is allowed is said by Cedar rules: those
that are built in (`builtin.cedar`), those of the home, those of a trusted project. They see what a call touches, one thing at a time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate.audit import Audit
from aegis.services.gate.judging import Judge
from aegis.services.gate.model import Decision, Effect, Facet, Obligations, Relation, Verdict
from aegis.services.gate.obligations import Meters
from aegis.services.gate.policies import Policies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.store import Store, Tx

__all__ = ["Audit", "Decision", "Effect", "Facet", "Gate", "Obligations", "Relation", "Verdict"]


#: So many of the things that a call touches are kept with its record.
_KEPT_FACETS: Final = 40


class Gate:
    """Decides and records."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.audit = Audit(store, clock, store.path.with_name("audit.key"))
        self.policies = Policies(clock.monotonic)
        self.judge = Judge(self.policies)
        self._meters = Meters()
        #: Has a person decide what the rules want one asked about, and returns the decision; set by the wiring.
        self.ask: Callable[[Decision, Effect | None], Awaitable[Decision]] = _nobody

    @property
    def relation(self) -> Callable[[str, str], Relation]:
        """What the second instance, by id or handle, is to the first, by id; set by the wiring."""
        return self.judge.relation

    @relation.setter
    def relation(self, relation: Callable[[str, str], Relation]) -> None:
        self.judge.relation = relation

    @property
    def facts(self) -> Callable[[str], Mapping[str, Any] | None]:
        """The attributes of an instance, by id or handle, as rules see them; None for one that does not exist. Set by the wiring."""
        return self.judge.facts

    @facts.setter
    def facts(self, facts: Callable[[str], Mapping[str, Any] | None]) -> None:
        self.judge.facts = facts

    def decide(self, principal: Principal, action: str, resource: str, *, effect: Effect | None = None, **data: Any) -> Decision:
        """The decision alone; no record, no effect may follow from it without one."""
        session = effect.session if effect is not None and effect.session is not None else data.get("session")
        said = self.judge.judge(principal, action, resource, effect, session if isinstance(session, str) else None)
        return Decision(
            principal,
            action,
            resource,
            said.allow,
            said.reason,
            data if effect is None else data | _touched(effect),
            ask=said.ask,
            policies=said.policies,
            digest=effect.digest if effect is not None else "",
            obligations=said.obligations,
            hint=said.hint,
        )

    def offers(self, principal: Principal, tool: str) -> bool:
        """Whether somebody is to see a tool: no rule hides it, and some call of it could be allowed, whatever its arguments."""
        return self.judge.offers(principal, tool)

    async def check(self, principal: Principal, action: str, resource: str, *, effect: Effect | None = None, **data: Any) -> Decision:
        """The decision if it allows. A denial is recorded and raised as DENIED. Pair with `record` or `write`."""
        decision = self.decide(principal, action, resource, effect=effect, **data)
        if decision.ask:
            decision = await self.ask(decision, effect)
        if not decision.allow:
            raise await self._denied(decision)
        if decision.obligations.held and (full := self._meters.take(decision.obligations.held, self._clock.monotonic())) is not None:
            why, seconds = full
            raise await self._denied(_over(decision, why, f"try again in {seconds:.1f} s"), retry_after=round(seconds, 3))
        return decision

    async def _denied(self, decision: Decision, **more: Any) -> AegisError:
        """The error for a denial, which is on record now."""
        await self.record(decision)
        what = f"{decision.principal} may not {decision.action} {decision.resource}: {decision.reason}"
        hint = decision.hint or "see `aegis audit list`"
        return AegisError(ErrorKind.DENIED, what, hint, reason=decision.reason, policies=list(decision.policies), **more)

    def write(self, tx: Tx, decision: Decision) -> None:
        """Put the audit row into the effect's own transaction."""
        self.audit.write(tx, decision)

    async def record(self, decision: Decision) -> None:
        """Write the audit row; returns when it is on disk. For effects outside the database, call it before the effect."""
        await self.audit.record(decision)

    async def pass_through(self, principal: Principal, action: str, resource: str, **data: Any) -> None:
        """`check` and `record` in one: what an effect outside the database calls first."""
        await self.record(await self.check(principal, action, resource, **data))

    @contextlib.asynccontextmanager
    async def passing(
        self, principal: Principal, action: str, resource: str, *, effect: Effect | None = None, **data: Any
    ) -> AsyncIterator[Decision]:
        """`check` and `record`, then the effect itself: what the rules hold it to counts until the end."""
        decision = await self.check(principal, action, resource, effect=effect, **data)
        held = decision.obligations.held
        if held and (why := self._meters.enter(held)) is not None:
            raise await self._denied(_over(decision, why, "wait until one of them ends"))
        try:
            await self.record(decision)
            yield decision
        finally:
            self._meters.leave(held)

    def list(self, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Audit rows with an id over `after`, oldest first."""
        return self.audit.list(after, limit)


def _over(decision: Decision, why: str, hint: str) -> Decision:
    """A decision that would allow, had not so much been done already."""
    return msgspec.structs.replace(decision, allow=False, reason=why, hint=hint)


def _touched(effect: Effect) -> dict[str, Any]:
    """What a record keeps of the exact call, so that it can be judged again by other rules."""
    facets = msgspec.to_builtins(effect.facets[:_KEPT_FACETS])
    found: dict[str, Any] = {"tool": effect.tool} if effect.tool else {}
    if facets:
        found["facets"] = facets
    if len(effect.facets) > _KEPT_FACETS:
        found["facets_left_out"] = len(effect.facets) - _KEPT_FACETS
    if effect.session:
        found["session"] = effect.session
    if effect.cwd:
        found["cwd"] = effect.cwd
    if effect.opaque:
        found["opaque"] = True
    return found


async def _nobody(decision: Decision, effect: Effect | None) -> Decision:
    """There is nobody to ask."""
    return decision
