"""The rules that can be about one request, parsed together once: so that what is not about it costs nothing.

A rule lies in the bucket of each action that it names, and of the one agent, handle, project or resource that it is about, as far as
that could be read. A shard is what a few buckets hold, and is parsed when it is asked for first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.services.gate.rules import Rule

#: How many shards are kept parsed.
_KEPT: Final = 2000
_ANY: Final = "*"


class _Diagnostics(msgspec.Struct):
    reason: list[str]
    errors: list[str]


class _Answer(msgspec.Struct):
    decision: str
    diagnostics: _Diagnostics


_decode: Final = msgspec.json.Decoder(_Answer).decode


class Said(NamedTuple):
    """What a shard says of one request. `rules` are those that matched; with `allow` the permits, else the forbids.

    `asks` are the rules that have a person asked. `broken` tells of a rule that could not be evaluated.
    """

    allow: bool
    rules: tuple[Rule, ...]
    asks: tuple[Rule, ...] = ()
    broken: str = ""


class Set:
    """Rules parsed together; the engine's ids of them are their places in the list."""

    def __init__(self, texts: list[str], rules: list[Rule]) -> None:
        import cedarpy

        self._rules = rules
        self._set = cedarpy.PolicySet.from_str("\n".join(texts))
        if len(self._set) != len(rules):
            raise AssertionError(f"{len(rules)} rules became {len(self._set)}")

    def ask(self, requests: list[dict[str, Any]], entities: Any) -> list[tuple[bool, tuple[Rule, ...], str]]:
        """Of each request: whether a permit holds and no forbid does, the rules that decided, what went wrong."""
        from cedarpy import _internal

        found = []
        for text in _internal.is_authorized_batch(requests, self._set, entities, None, False):
            answer = _decode(text)
            said = answer.diagnostics
            numbers = [int(name[6:]) for name in said.reason]
            rules = tuple([self._rules[n] for n in (numbers if len(numbers) < 2 else sorted(numbers))])
            found.append((answer.decision == "Allow", rules, said.errors[0] if said.errors else ""))
        return found


class Shard:
    """What can be about one kind of request. `words` are the names that its rules mention."""

    def __init__(self, rules: list[Rule], kind: str) -> None:
        rules = [rule for rule in rules if rule.statement.kind in (None, kind)]
        plain = [rule for rule in rules if rule.ask is None]
        asking = [rule for rule in rules if rule.ask is not None]
        self.rules = rules
        self.words: frozenset[str] = frozenset().union(*(rule.statement.words for rule in rules))
        self._plain = Set([_text(rule, rule.statement.effect) for rule in plain], plain) if plain else None
        # As permits: the engine then says which of them match, whatever else forbids.
        self._asking = Set([_text(rule, "permit") for rule in asking], asking) if asking else None

    def judge(self, requests: list[dict[str, Any]], entities: Any) -> list[Said]:
        """What is said of each request: denied unless a permit matches and no forbid does."""
        if self._plain is None:
            return [Said(False, ()) for _ in requests]
        found = [Said(allow, rules, (), broken) for allow, rules, broken in self._plain.ask(requests, entities)]
        if self._asking is not None:
            for n, (_, rules, broken) in enumerate(self._asking.ask(requests, entities)):
                found[n] = found[n]._replace(asks=rules, broken=found[n].broken or broken)
        return found


def _text(rule: Rule, effect: str) -> str:
    """A rule with this effect, without what its place in a shard says already: that costs with each request."""
    said = rule.statement
    if said.short is not None:
        return f"{effect}(principal, action, resource){said.short}"
    return effect + said.text[said.effect_at + len(said.effect) :]


class Shards:
    """Every rule in force for a project, or for the home alone."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._buckets: dict[tuple[str, tuple[str, ...] | None], list[tuple[int, Rule]]] = {}
        self._named: set[tuple[str, ...]] = set()
        self._shards: dict[tuple[str, str, tuple[tuple[str, ...], ...]], Shard] = {}
        for n, rule in enumerate(rules):
            only = rule.statement.only
            if only is not None:
                self._named.add(only)
            for action in (_ANY,) if rule.statement.actions is None else rule.statement.actions:
                self._buckets.setdefault((action, only), []).append((n, rule))

    def of(self, action: str, kind: str, about: tuple[tuple[str, ...], ...]) -> Shard:
        """The rules that can be about an action of a kind of principal, where `about` says what holds of it and the resource."""
        named = tuple(each for each in about if each in self._named)
        key = (action, kind, named)
        found = self._shards.get(key)
        if found is None:
            if len(self._shards) >= _KEPT:
                self._shards.clear()
            rules = dict(pair for name in (action, _ANY) for only in (None, *named) for pair in self._buckets.get((name, only), ()))
            found = self._shards[key] = Shard([rules[n] for n in sorted(rules)], kind)
        return found
