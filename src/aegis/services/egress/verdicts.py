"""What is said to a wish to connect or to a request, and how the rules of the gate come into it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.principals import Principal, PrincipalKind
from aegis.services.egress.addresses import Address, inside, unnameable
from aegis.services.egress.exchanging import Refused
from aegis.services.egress.places import Place
from aegis.services.gate import Decision, Effect, Facet, Obligations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.services.egress.paths import Read
    from aegis.services.egress.rules import Rule, Rules
    from aegis.services.egress.service import Placed
    from aegis.services.gate import Gate

CONNECT: Final = "egress.connect"
REQUEST: Final = "egress.request"
#: The longest path that is recorded, in characters.
_SHOWN: Final = 1000
#: So many readings of a path are recorded.
_FACETS: Final = 8


class Verdict(NamedTuple):
    """What is said. `addresses` are those that were looked at; `problem` is why an allowed one leads nowhere.

    `by` is the rule that looks at requests, `method` and `path` are those of one. `action`, `effect`, `bounds` and `policies` are what the
    gate was asked about, and what it said.
    """

    place: Place
    allowed: bool
    reason: str
    rule: str = ""
    hint: str = ""
    raw: bool = False
    addresses: tuple[Address, ...] = ()
    problem: str = ""
    by: Rule | None = None
    method: str = ""
    path: str = ""
    options: tuple[str, ...] = ()
    action: str = CONNECT
    effect: Effect | None = None
    bounds: Obligations = Obligations()
    policies: tuple[str, ...] = ()

    def refused(self) -> Refused:
        """The denial as the program gets it."""
        return Refused(403, self.reason, self.hint, rule=", ".join(self.policies) or self.rule, allowed=self.options)

    def denied(self, decision: Decision) -> Verdict:
        """The same, denied by the gate."""
        return self._replace(allowed=False, reason=decision.reason, hint=decision.hint, policies=decision.policies)

    def decision(self, principal: Principal) -> Decision:
        """What goes into the audit log."""
        data: dict[str, Any] = {"addresses": [str(address) for address in self.addresses]} if self.addresses else {}
        if self.rule:
            data["rule"] = self.rule
        if self.method:
            data |= {"method": self.method, "path": self.path}
        if self.effect is not None and self.action == REQUEST:
            data["facets"] = msgspec.to_builtins(self.effect.facets[:_FACETS])
        digest = self.effect.digest if self.effect is not None else ""
        return Decision(principal, self.action, str(self.place), self.allowed, self.reason, data, policies=self.policies, digest=digest)


class Policies:
    """Asks the gate, and, where its rules say so, a person, for a time."""

    def __init__(self, gate: Gate, patience: float) -> None:
        self._gate = gate
        self._patience = patience

    async def connect(self, instance: Placed, verdict: Verdict, *, asking: bool = True) -> Verdict:
        """The verdict on a connection, denied where a rule of the gate does not let it be."""
        place = verdict.place
        return await self._judge(instance, CONNECT, verdict, (Facet(host=place.host, port=place.port),), asking=asking)

    async def request(self, instance: Placed, verdict: Verdict, path: Read, *, asking: bool = True) -> Verdict:
        """The same for a request: each reading of its path must be let be."""
        place, method = verdict.place, verdict.method
        facets = tuple(Facet(host=place.host, port=place.port, method=method, url_path=reading) for reading in path.paths)
        return await self._judge(instance, REQUEST, verdict, facets, asking=asking)

    async def _judge(self, instance: Placed, action: str, verdict: Verdict, facets: tuple[Facet, ...], *, asking: bool) -> Verdict:
        arguments: dict[str, Any] = {"host": verdict.place.host, "port": verdict.place.port}
        if verdict.method:
            arguments |= {"method": verdict.method, "path": verdict.path}
        digest = hashlib.sha256(json.dumps([action, arguments], sort_keys=True).encode()).hexdigest()
        effect = Effect(facets=facets, arguments=arguments, digest=digest)
        verdict = verdict._replace(action=action, effect=effect)
        decision = self._gate.decide(principal_of(instance), action, str(verdict.place), effect=effect)
        if decision.allow:
            return verdict._replace(policies=decision.policies, bounds=decision.obligations)
        if decision.ask and not asking:
            return verdict.denied(msgspec.structs.replace(decision, reason=f"a person is asked: {decision.reason}"))
        if decision.ask:
            try:
                async with asyncio.timeout(self._patience):
                    decision = await self._gate.ask(decision, effect)
            except TimeoutError:
                said = f"a person was asked, and did not answer within {self._patience:g} s: {decision.reason}"
                decision = msgspec.structs.replace(decision, reason=said, hint="`aegis approvals list`, then try again")
        if not decision.allow:
            return verdict.denied(decision)
        return verdict._replace(reason=f"{verdict.reason}; {decision.reason}", policies=decision.policies)


def principal_of(instance: Placed) -> Principal:
    """The instance, as the gate knows it."""
    return Principal(PrincipalKind.INSTANCE, instance.id)


def unreachable_by_any(place: Place) -> str | None:
    """Why no rule reaches a place; None when one might."""
    if place.address is not None and (reason := unnameable(place.address)) is not None:
        return f"{place.host} is never reached from a sandbox: {reason}"
    if place.host == "localhost" or place.host.endswith(".localhost"):
        return "`localhost` is the sandbox itself; this machine is reached by a rule for its address, such as `127.0.0.1:PORT`"
    return None


def unnamed(instance: Placed, rules: Rules, place: Place) -> Verdict:
    """The denial of what no rule names."""
    if instance.launch.egress and instance.launch.permission != "full":
        said = f"`{instance.handle}` has rules for egress, but not the permission `full`, without which they do not count"
        return Verdict(place, False, said)
    what = inside(place.address) if place.address is not None else None
    if ports := rules.ports_of(place):
        said = f"{place.host} is allowed on port {', '.join(map(str, ports))}, not on {place.port}"
    elif what is not None:
        said = f"{place.host} is {what}, and no rule names that address"
    else:
        said = f"no egress rule of `{instance.handle}` allows {place}"
    return Verdict(place, False, said, hint=addition(place), options=options(rules))


def unmatched(place: Place, method: str, path: Read, rules: Sequence[Rule]) -> Verdict:
    """The denial of a request that no rule on requests to its host lets pass."""
    shown = shown_path(path)
    looks = [rule.inspect for rule in rules if rule.inspect is not None]
    allowed = tuple(f"{', '.join(sorted(look.methods))} {', '.join(p.text for p in look.paths)}" for look in looks)
    rule = " or ".join(r.text for r in rules)
    if path.problem is not None:
        said = f"the path {shown} may mean another one: {path.problem}"
        hint = "ask for the path itself"
        return Verdict(place, False, said, rule, hint, by=rules[0], method=method, path=shown, options=allowed, action=REQUEST)
    fits = any(look.allows(other, path) for look in looks for other in look.methods)
    said = f"{method} is not allowed on {shown} of {place}" if fits else f"no rule for {place} allows {method} {shown}"
    hint = f'to allow it, add to the agent: egress: [{{host: "{place}", inspect: true, methods: [{method}], paths: ["{shown}"]}}]'
    return Verdict(place, False, said, rule, hint, by=rules[0], method=method, path=shown, options=allowed, action=REQUEST)


def shown_path(path: Read) -> str:
    """The path as it is recorded."""
    text = path.paths[0]
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def why_not(address: Address, own: Callable[[Address], bool]) -> str | None:
    """What keeps an address that a name leads to from being reached without a rule of its own."""
    return inside(address) or ("this machine's own" if own(address) else None)


def addition(place: Place) -> str:
    """How a person allows a place."""
    return f'to allow it, add to the agent: egress: ["{place}"]'


def options(rules: Rules) -> tuple[str, ...]:
    """What rules allow, for whoever was denied something."""
    return tuple([rule.text for rule in rules.all] + (["packages"] if rules.packages else []))
