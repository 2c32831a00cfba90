"""Routes of the rules: which are in force, what they would say, what other rules would have said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.daemon.http.answers import json_response, read_json
from aegis.daemon.http.instances import house, principal
from aegis.services.gate import rules
from aegis.services.gate.policies import HOME, parse
from aegis.services.gate.questions import Question, Questions, listed
from aegis.services.gate.simulating import draft as drafted
from aegis.services.gate.simulating import simulate as simulated

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.daemon.wiring import House


class PolicyText(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/policies/check and /v1/policies/test: the content of a file, and its name, by which its kind is told."""

    text: str
    name: str = "draft.cedar"


class Simulation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/policies/simulate: records since then, in wall seconds, against a draft; without one the rules in force."""

    since: float
    text: str | None = None
    name: str = "draft.cedar"


async def index(request: Request) -> Response:
    """GET /v1/policies?project"""
    parts = house(request)
    project = _project(request)
    parts.gate.policies.refresh(project)
    return json_response({
        "policies": [listed(rule) for rule in parts.gate.policies.rules(project)],
        "contexts": [
            {"name": context.name, "description": context.description, "place": str(context.place)}
            for context in parts.gate.policies.of(project).contexts.values()
        ],
        "problems": problems(parts, project),
        "folder": str(parts.home / "policies"),
    })  # fmt: skip


async def schema(request: Request) -> Response:
    """GET /v1/policies/schema"""
    return json_response({"schema": rules.text_of("aegis.cedarschema"), "built_in": rules.text_of("builtin.cedar")})


async def show(request: Request) -> Response:
    """GET /v1/policies/{id}?project: every rule of that name; a project and the home may have one each."""
    parts, project, ident = house(request), _project(request), request.path_params["id"]
    parts.gate.policies.refresh(project)
    known = [rule for layer in parts.gate.policies.known() for rule in layer.rules] if not project else parts.gate.policies.rules(project)
    everything = [*rules.built_in(), *(rule for rule in known if rule not in rules.built_in())]
    found = [listed(rule) for rule in everything if ident in (rule.id, rule.context and f"security:{rule.context}")]
    if not found:
        raise unknown_name("rule", ident, [rule.id for rule in everything], "see `aegis policy list`")
    return json_response(found)


async def check(request: Request) -> Response:
    """POST /v1/policies/check: the rules that the text would be."""
    body = await read_json(request, PolicyText)
    _named(body.name)
    found, context = parse(body.text.encode(), body.name, "draft")
    return json_response({"policies": [listed(rule) for rule in found], "context": context.name if context is not None else None})


async def test(request: Request) -> Response:
    """POST /v1/policies/test: each case and whether the rules in force say what it expects."""
    body, parts = await read_json(request, PolicyText), house(request)
    return json_response({"cases": Questions(parts.gate).test(body.text.encode(), body.name)})


async def explain(request: Request) -> Response:
    """POST /v1/policies/explain: what the rules say to an action, which ones, what would change it."""
    question, parts = await read_json(request, Question), house(request)
    return json_response(Questions(parts.gate).explain(question))


async def simulate(request: Request) -> Response:
    """POST /v1/policies/simulate"""
    body, parts = await read_json(request, Simulation), house(request)
    _named(body.name)
    await parts.gate.pass_through(principal(request), "audit.read", "policy simulate")
    return json_response(await simulated(parts.gate, body.since, body.text, body.name))


async def draft(request: Request) -> Response:
    """GET /v1/policies/draft?since: rules for what was denied since then, in wall seconds; a day without."""
    parts = house(request)
    try:
        since = float(request.query_params.get("since") or parts.clock.now() - 86400.0)
    except ValueError as error:
        raise AegisError(ErrorKind.USAGE, "`since` is not a number of seconds", "give the wall time since which to look") from error
    return json_response(await drafted(parts.gate, since))


def problems(parts: House, project: str = "") -> list[dict[str, Any]]:
    """Why the files of rules are not in force as they are now: of the home and a project, or of all that have instances."""
    policies = parts.gate.policies
    if project:
        layers = policies.layers(project)
    else:
        used = {each.launch.project for each in parts.registry.all() if each.launch.project}
        for name in used:
            policies.refresh(name)
        layers = [layer for layer in policies.known() if layer.source == HOME or layer.source in used]
    return [
        {
            "source": layer.source,
            "problem": layer.problem,
            "hint": layer.hint,
            "kept": not layer.blind,
        }
        for layer in layers
        if layer.problem is not None
    ]


def _project(request: Request) -> str:
    named = request.query_params.get("project") or ""
    if named and not Path(named).is_absolute():
        raise AegisError(ErrorKind.USAGE, f"the project {named[:200]!r} is not an absolute path", "give the whole path")
    return named


def _named(name: str) -> None:
    if not name.endswith((".cedar", ".yaml")) or len(name) > 4096 or not name.isprintable():
        raise AegisError(ErrorKind.USAGE, f"{name[:80]!r} is not the name of a file of rules", "it ends with `.cedar` or `.yaml`")
