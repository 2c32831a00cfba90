"""What other rules would have said of what was asked: the audit record played again, against a draft. Nothing is done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aegis.services.gate import drafting, rules
from aegis.services.gate.audit import Filter
from aegis.services.gate.entities import between
from aegis.services.gate.model import Relation
from aegis.services.gate.policies import parse
from aegis.services.gate.questions import verdict
from aegis.services.gate.shards import Shards

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aegis.services.gate import Gate
    from aegis.services.gate.judging import Judged
    from aegis.services.gate.policies import InForce

MAX_ROWS: Final = 100_000
MAX_SHOWN: Final = 200
_PAGE: Final = 500


async def simulate(gate: Gate, since: float, draft: str | None, name: str = "draft.cedar") -> dict[str, Any]:
    """Each record whose verdict would be another one.

    With a draft, its rules are added to those in force, in the place of the home's file of the same name; the rules in force are what it
    is compared to. Without, the rules in force are compared to what was decided at the time. Raises USAGE for a draft that cannot be read.
    """
    new = parse(draft.encode(), name, "draft")[0] if draft is not None else None
    other: dict[str, InForce] = {}

    def drafted(project: str) -> InForce:
        if project not in other:
            now = gate.policies.rules(project)
            kept = [rule for rule in now if rule.source != "home" or rule.place.file.rsplit("/", 1)[-1] != name.rsplit("/", 1)[-1]]
            other[project] = gate.policies.of(project)._replace(shards=Shards([*kept, *(new or [])]), blind="")
        return other[project]

    changed: list[dict[str, Any]] = []
    counts = {"records": 0, "replayed": 0, "gone": 0, "incomplete": 0, "changed": 0}
    async for row in _rows(gate, Filter(since=since)):
        counts["records"] += 1
        facts = _facts(gate, row)
        if facts is None:
            counts["gone"] += 1
            continue
        if "facets_left_out" in row["data"]:
            counts["incomplete"] += 1
        counts["replayed"] += 1
        project = str(facts.get("project") or "")
        before = verdict(_again(gate, gate.policies.of(project), facts, row)) if new is not None else row["decision"]
        said = _again(gate, drafted(project) if new is not None else gate.policies.of(project), facts, row)
        if verdict(said) != before:
            counts["changed"] += 1
            if len(changed) < MAX_SHOWN:
                changed.append(_change(row, facts, before, said))
    return counts | {"changes": changed}


async def draft(gate: Gate, since: float) -> dict[str, Any]:
    """Rules for what was denied since then and would be denied still, for want of a permit; and what is forbidden, which none changes."""
    found: list[drafting.Denied] = []
    forbidden: dict[str, int] = {}
    count = 0
    async for row in _rows(gate, Filter(since=since, decision="deny")):
        facts = _facts(gate, row)
        if facts is None or between(row["action"]) or row["action"] not in rules.words()["action"]:
            continue
        said = _again(gate, gate.policies.of(str(facts.get("project") or "")), facts, row)
        if said.allow or said.ask:
            continue
        count += 1
        against = [rule.id for part in said.parts if not part.allow for rule in part.rules]
        if against:
            for ident in against:
                forbidden[ident] = forbidden.get(ident, 0) + 1
            continue
        effect = drafting.effect_of_record(row["resource"], row["data"])
        facets = tuple(part.facet for part in said.parts if not part.allow and part.facet is not None) if effect is not None else ()
        found.append(drafting.Denied(facts, row["action"], row["resource"], facets))
    texts = drafting.rules(found)
    if texts:
        rules.read("\n".join(texts), "draft.cedar", "draft")
    return {"denials": count, "rules": texts, "forbidden": forbidden}


async def _rows(gate: Gate, wanted: Filter) -> AsyncIterator[dict[str, Any]]:
    """The records of instances, oldest first, without holding up anybody else."""
    after = seen = 0
    while rows := gate.audit.list(after, _PAGE, wanted):
        for row in rows:
            if row["principal"].startswith("instance:") and isinstance(row["data"], dict):
                yield row
        after, seen = rows[-1]["id"], seen + len(rows)
        if seen >= MAX_ROWS:
            return
        await asyncio.sleep(0)


def _facts(gate: Gate, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return gate.facts(row["principal"].partition(":")[2])


def _again(gate: Gate, in_force: InForce, facts: Mapping[str, Any], row: Mapping[str, Any]) -> Judged:
    relation = ""
    if between(row["action"]):
        word = str(row["reason"]).partition(" ")[0]  # as it was then, where the record says so
        relation = word if word in tuple(Relation) else str(gate.relation(row["principal"].partition(":")[2], row["resource"]))
    effect = drafting.effect_of_record(row["resource"], row["data"])
    session = row["data"].get("session")
    return gate.judge.by(in_force, facts, row["action"], row["resource"], effect, session if isinstance(session, str) else None, relation)


def _change(row: Mapping[str, Any], facts: Mapping[str, Any], before: str, said: Judged) -> dict[str, Any]:
    return {
        "id": row["id"], "ts": row["ts"], "handle": facts["handle"], "action": row["action"], "resource": row["resource"],
        "before": before, "after": verdict(said), "reason": said.reason, "policies": list(said.policies),
    }  # fmt: skip
