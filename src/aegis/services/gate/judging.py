"""What the rules say of one action: by everybody who answers for it, for everything that it touches.

An action is judged for the instance and, where it reaches out of the home, for each of its ancestors: a child has no more than any of
them. A call is judged once for each thing that it touches. All must allow it; what any of them denied, and why, is in the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.principals import PrincipalKind
from aegis.core.text import one_line
from aegis.services.gate import contexts
from aegis.services.gate.entities import UNKNOWN, Entities, Resource, between, call, instance, resource_of
from aegis.services.gate.model import Effect, Facet, Held, Obligations, Relation
from aegis.services.gate.obligations import together
from aegis.services.gate.rules import BUILT_IN, UNBOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aegis.core.principals import Principal
    from aegis.services.gate.policies import InForce, Policies
    from aegis.services.gate.rules import Rule
    from aegis.services.gate.shards import Said, Shard, Shards

#: What a child may do only if all that it descends from may.
INHERITED: Final = frozenset({"tool.call", "tool.list", "tool.use", "egress.connect", "egress.request", "secret.use", "model.call"})
#: What no rule can take from the owner, so that rules can always be mended.
UNTOUCHABLE: Final = ("policy.", "daemon.", "config.")
#: Actions that the built-in rules decide by what the other instance is, and give as the reason.
_RELATED: Final = frozenset({
    "mail.send", "peer.read", "instance.exec", "instance.pause", "instance.resume", "instance.restart", "instance.disable",
    "instance.delete", "turn.interrupt",
})  # fmt: skip
#: More than this is not judged, and so not allowed.
MAX_FACETS: Final = 1000
_MEMO: Final = 10_000
_encode: Final = msgspec.json.Encoder().encode
_TYPES: Final = {PrincipalKind.PERSON: "Person", PrincipalKind.SYSTEM: "System", PrincipalKind.INSTANCE: "Instance"}


class Part(NamedTuple):
    """What was said for one instance and one thing that is touched. `facet` is None for the call as a whole."""

    handle: str
    facet: Facet | None
    allow: bool
    ask: bool
    reason: str
    rules: tuple[Rule, ...]


class Judged(NamedTuple):
    """What the rules say of an action as a whole."""

    allow: bool
    ask: bool
    reason: str
    policies: tuple[str, ...]
    obligations: Obligations = Obligations()
    hint: str = ""
    parts: tuple[Part, ...] = ()


class _Ready(NamedTuple):
    """What does not depend on the call, kept while the rules and the facts of an instance are the same."""

    shards: Shards
    facts: Mapping[str, Any] | None
    about: object
    target: Resource
    shard: Shard
    entities: Any
    asked: dict[str, Any]


class Judge:
    """Asks the rules. What it answers to an action without effect is remembered until a rule changes."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._entities = Entities()
        self._memo: dict[tuple[Any, ...], tuple[Judged, object, object]] = {}
        self._ready: dict[tuple[Any, ...], _Ready] = {}
        self._version = -1
        self.relation: Callable[[str, str], Relation] = lambda _asker, _other: Relation.STRANGER
        self.facts: Callable[[str], Mapping[str, Any] | None] = lambda _instance: None
        #: The ids of those that an instance descends from.
        self.ancestors: Callable[[str], Sequence[str]] = lambda _instance: ()
        #: The id of an instance by its handle or id.
        self.identity: Callable[[str], str] = lambda name: name
        #: The family of a tool of Aegis's own, by its id; that of others is their server.
        self.family: Callable[[str], str] = lambda tool: tool.partition(".")[0]

    def judge(self, principal: Principal, action: str, resource: str, effect: Effect | None, session: str | None) -> Judged:
        """What the rules in force say."""
        kind = principal.kind
        if kind is PrincipalKind.INSTANCE:
            facts = self.facts(principal.id)
            found = self._one(principal, facts, action, resource, effect, session)
            if found.allow or found.ask:
                above = self.ancestors(principal.id) if action in INHERITED else ()
                for ident in above:
                    other = self._one(_of(principal, ident), self.facts(ident), action, resource, effect, session)
                    found = _both(found, other)
            return found
        found = self._one(principal, None, action, resource, effect, session)
        # The owner is who would be asked.
        return found._replace(allow=True, ask=False, reason="owner") if found.ask else found

    def offers(self, principal: Principal, tool: str) -> bool:
        """Whether somebody is to see a tool: no rule hides it, and some call of it could be allowed, whatever its arguments."""
        listed = self.judge(principal, "tool.list", tool, None, None)
        if any(part.rules for part in listed.parts if not part.allow and not part.ask):
            return False
        call = self.judge(principal, "tool.call", tool, None, None)
        denied = [part for part in call.parts if not part.allow and not part.ask]
        # A rule that looks at what a call touches says nothing of a call of which nothing is known.
        if any("context" not in rule.statement.words for part in denied for rule in part.rules):
            return False
        if listed.allow or listed.ask or call.allow or call.ask or principal.kind is not PrincipalKind.INSTANCE:
            return True
        facts = self.facts(principal.id) or UNKNOWN
        target, _ = self._target("tool.call", tool)
        in_force = self._policies.of(str(facts.get("project") or ""))
        permits = in_force.shards.of("tool.call", "Instance", _scope(target, facts)).rules
        return not in_force.blind and any("context" in rule.statement.words and rule.effect == "permit" for rule in permits)

    def by(
        self,
        in_force: InForce,
        facts: Mapping[str, Any],
        action: str,
        resource: str,
        effect: Effect | None,
        session: str | None,
        relation: str,
    ) -> Judged:
        """What other rules would say of an instance with these facts. For what only looks: nothing is remembered."""
        return self._judged(in_force, ("Instance", str(facts["handle"])), facts, action, resource, effect, session, relation, "(somebody)")

    def _one(
        self, principal: Principal, facts: Mapping[str, Any] | None, action: str, resource: str, effect: Effect | None, session: str | None
    ) -> Judged:
        relation, of = "", facts
        if principal.kind is PrincipalKind.INSTANCE:
            if between(action):
                relation = str(self.relation(principal.id, resource))
            facts = facts if facts is not None else UNKNOWN | {"handle": principal.id}
            in_force = self._policies.of(str(facts.get("project") or ""))
            uid = ("Instance", str(facts["handle"]))
        else:
            in_force = self._policies.of("")
            uid = (_TYPES[principal.kind], principal.id)
            if principal.kind is PrincipalKind.SYSTEM or action.startswith(UNTOUCHABLE):
                in_force = in_force._replace(shards=self._policies.built_in())
        if self._version != self._policies.version:
            self._memo.clear()
            self._ready.clear()
            self._version = self._policies.version
        if effect is not None or len(resource) > 300:
            return self._judged(in_force, uid, facts, action, resource, effect, session, relation, principal.id)
        key = (uid, principal.id, action, resource, relation, session)
        known = self._memo.get(key)
        about = self.facts(resource) if relation else None
        if known is not None and known[1] is of and known[2] is about:
            return known[0]
        judged = self._judged(in_force, uid, facts, action, resource, None, session, relation, principal.id)
        if len(self._memo) >= _MEMO:
            self._memo.clear()
        self._memo[key] = (judged, of, about)
        return judged

    def _judged(
        self,
        in_force: InForce,
        uid: tuple[str, str],
        facts: Mapping[str, Any] | None,
        action: str,
        resource: str,
        effect: Effect | None,
        session: str | None,
        relation: str,
        ident: str,
    ) -> Judged:
        if facts is not None:
            if in_force.blind:
                return _no(in_force.blind, "`aegis policy list` says what to mend")
            missing = [name for name in facts.get("security", ()) if name not in in_force.contexts]
            if missing:
                return _no(f"the security context `{missing[0]}` is not there any more", "`aegis policy list` shows those there are")
        ready = self._prepared(in_force, uid, facts, action, resource)
        facets: tuple[Facet | None, ...] = (None,)
        if effect is not None and effect.facets:
            facets = (*dict.fromkeys(effect.facets), *((None,) if effect.opaque else ()))
            if len(facets) > MAX_FACETS:
                return _no(f"it touches more than {MAX_FACETS} things, which is too much to judge", "make several calls")
        entities, asked = ready.entities, ready.asked
        common = _common(action, ready.target, effect, session, relation)
        if effect is not None and effect.arguments and "call" in ready.shard.words:
            entities = entities.with_added_json_str(call(effect.arguments))
            common["call"] = {"__entity": {"type": "Call", "id": "call"}}
        requests = [{**asked, "context": _encode(common if facet is None else common | _told(facet)).decode()} for facet in facets]
        parts = [
            self._part(said, facet, in_force, uid[1], action, ready.target.id, relation)
            for said, facet in zip(ready.shard.judge(requests, entities), facets, strict=True)
        ]
        return _whole(parts, ident, action, resource)

    def _prepared(self, in_force: InForce, uid: tuple[str, str], facts: Mapping[str, Any] | None, action: str, resource: str) -> _Ready:
        """What does not depend on the call: the rules that can be about it, who acts, and on what."""
        key = (uid, action, resource)
        known = self._ready.get(key)
        if known is not None and known.shards is in_force.shards and known.facts is facts and known.about is None:
            return known
        target, about = self._target(action, resource)
        made = _Ready(
            in_force.shards,
            facts,
            about,
            target,
            in_force.shards.of(action, uid[0], _scope(target, facts)),
            self._entities.of(uid, facts, target, about),
            {"principal": _uid(*uid), "action": _uid("Action", action), "resource": _uid(target.type, target.id)},
        )
        if not between(action) and len(resource) <= 300:
            if len(self._ready) >= _MEMO:
                self._ready.clear()
            self._ready[key] = made
        return made

    def _target(self, action: str, resource: str) -> tuple[Resource, object]:
        """What is acted on, and what it is made of where that is an instance."""
        if not between(action):
            return resource_of(action, resource, self.family(resource)), None
        facts = self.facts(resource)
        return (instance(facts), facts) if facts is not None else (Resource("Instance", resource, UNKNOWN | {"handle": resource}), None)

    def _part(self, said: Said, facet: Facet | None, in_force: InForce, handle: str, action: str, resource: str, relation: str) -> Part:
        """The answer for one thing that is touched, and the reason."""
        if said.broken:
            return Part(handle, facet, False, False, f"a rule cannot be evaluated: {one_line(said.broken, 300)}", said.rules)
        if said.allow:
            asks = said.asks
            if asks:
                return Part(handle, facet, False, True, "; ".join(dict.fromkeys(rule.ask or "" for rule in asks)), (*said.rules, *asks))
            own = next((rule for rule in said.rules if rule.source == BUILT_IN), said.rules[0])
            reason = own.reason or (f"{relation} of it" if own.source == BUILT_IN else f"the rule `{own.id}`")
            return Part(handle, facet, True, False, reason, said.rules)
        if not said.rules:
            reason = f"{relation} of it" if action in _RELATED else "default deny"
            return Part(handle, facet, False, False, reason, ())
        reasons = []
        for rule in said.rules:
            if rule.context is not None and rule.context in in_force.contexts:
                reasons.append(contexts.why_not(in_force.contexts[rule.context], resource, facet or Facet()))
            else:
                reasons.append(f"{rule.reason} (the rule `{rule.id}`)" if rule.reason else f"the rule `{rule.id}` forbids it")
        return Part(handle, facet, False, False, "; ".join(dict.fromkeys(reasons)), said.rules)


def _scope(target: Resource, facts: Mapping[str, Any] | None) -> tuple[tuple[str, ...], ...]:
    """What holds of an action, as far as rules are sorted by it."""
    about: list[tuple[str, ...]] = [("resource", target.type, target.id)]
    if facts is not None:
        about += [(name, str(facts.get(name, ""))) for name in ("agent", "handle", "project")]
        about += [("security", str(name)) for name in facts.get("security", ())]
    return tuple(about)


def _of(principal: Principal, ident: str) -> Principal:
    return msgspec.structs.replace(principal, id=ident)


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _no(reason: str, hint: str) -> Judged:
    return Judged(False, False, reason, (), hint=hint, parts=(Part("", None, False, False, reason, ()),))


def _common(action: str, target: Resource, effect: Effect | None, session: str | None, relation: str) -> dict[str, Any]:
    """The context that all requests of one action have."""
    found: dict[str, Any] = {}
    if relation or between(action):
        found["relation"] = relation or str(Relation.STRANGER)
    if session:
        found["session"] = session
    if target.type == "Host":
        found |= {"host": target.id} | ({"port": target.attributes["port"]} if target.attributes["port"] else {})
    if effect is not None:
        found |= {"tool": effect.tool or target.id, "size": effect.size, "opaque": effect.opaque}
        if effect.cwd:
            found["cwd"] = effect.cwd
        if effect.risk:
            found["risk"] = effect.risk
    return found


def _told(facet: Facet | None) -> dict[str, Any]:
    """One thing that is touched, as a context has it. What is not known of it is not there."""
    if facet is None:
        return {}
    found: dict[str, Any] = {}
    if facet.path is not None:
        found["path"], found["writes"] = facet.path, facet.writes
    if facet.command is not None:
        found["command"], found["args"] = facet.command, facet.args
        if facet.subcommand is not None:
            found["subcommand"] = facet.subcommand
    if facet.host is not None:
        found["host"] = facet.host
        for name in ("port", "method", "url_path"):
            if (said := getattr(facet, name)) is not None:
                found[name] = said
    return found


def shown(facet: Facet) -> str:
    """One thing that is touched, in a word for people."""
    if facet.command is not None:
        return one_line(" ".join([facet.command, *facet.args]), 100)
    if facet.path is not None:
        return one_line(facet.path, 200) + (" (to write)" if facet.writes else "")
    if facet.host is not None:
        method = f"{facet.method} " if facet.method else ""
        return one_line(f"{method}{facet.host}{f':{facet.port}' if facet.port else ''}{facet.url_path or ''}", 200)
    return "the call"


def _whole(parts: list[Part], ident: str, action: str, resource: str) -> Judged:
    """All parts together."""
    if len(parts) == 1 and parts[0].allow:  # the most frequent answer
        only = parts[0]
        if all(rule.obligations is UNBOUND for rule in only.rules):
            return Judged(True, False, only.reason, tuple([rule.id for rule in only.rules]), parts=(only,))
    denied = [part for part in parts if not part.allow and not part.ask]
    deciding = denied or [part for part in parts if part.ask] or parts
    policies = tuple(dict.fromkeys(rule.id for part in (denied or parts) for rule in part.rules))
    several = len(parts) > 1
    told = [
        f"`{shown(part.facet)}`: {part.reason}" if part.facet is not None and (several or denied) and not part.allow else part.reason
        for part in deciding
    ]
    reasons = list(dict.fromkeys(told))
    reason = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    if denied:
        return Judged(False, False, reason, policies, hint=_hint(denied, parts, action, resource), parts=tuple(parts))
    bounds = [
        msgspec.structs.replace(rule.obligations, held=_held(rule, ident))
        for part in parts
        for rule in part.rules
        if rule.obligations != Obligations()
    ]
    return Judged(not deciding[0].ask, deciding[0].ask, reason, policies, together(bounds), parts=tuple(parts))


def _held(rule: Rule, ident: str) -> tuple[Held, ...]:
    bounds = rule.obligations
    return (Held(rule.id, ident, bounds.rate, bounds.concurrent),) if bounds.rate or bounds.concurrent is not None else ()


def _hint(denied: list[Part], parts: list[Part], action: str, resource: str) -> str:
    """What a person would do about it."""
    rule = next((rule for part in denied for rule in part.rules), None)
    if rule is not None:
        return f"a person can read the rule with `aegis policy show {rule.id}`"
    if action in _RELATED or action not in INHERITED:
        return ""
    handle = denied[0].handle
    return f"no rule permits it: `aegis policy explain {handle} {action} {resource}`; `aegis policy draft` writes one for a person to read"


def _both(one: Judged, other: Judged) -> Judged:
    """What holds of both an instance and one that it descends from."""
    handle = other.parts[0].handle if other.parts else ""
    policies = tuple(dict.fromkeys((*one.policies, *other.policies)))
    if not other.allow and not other.ask:
        return other._replace(reason=f"its ancestor `{handle}` may not: {other.reason}", parts=(*one.parts, *other.parts))
    ask = one.ask or other.ask
    reason = one.reason if one.ask or not other.ask else f"for its ancestor `{handle}`: {other.reason}"
    return Judged(not ask, ask, reason, policies, together([one.obligations, other.obligations]), parts=(*one.parts, *other.parts))
