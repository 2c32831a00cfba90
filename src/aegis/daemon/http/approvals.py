"""Routes of approvals: what agents ask leave for, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.daemon.http.answers import json_response, query_int, read_json
from aegis.daemon.http.instances import house, principal
from aegis.services.approvals import Approval

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from aegis.daemon.wiring import House


class Verdict(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/approvals/{id}. `input` takes the place of the tool's, with a yes only.

    `scope` is how far a yes goes: `once`; `session`, the same exact call again in this session; `rule`, with `rule` written as it was
    shown.
    """

    approve: bool
    reason: str = ""
    input: dict[str, Any] | None = None
    scope: str = "once"
    rule: str = ""


class Escalation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/approvals/{id}/escalate. With `seconds` it waits that much longer from now, at least."""

    seconds: float | None = None
    reason: str = ""


class RuleProposal(msgspec.Struct, frozen=True):
    """The narrowest rule that spares the same question: its name, its text in Cedar, and the file that it would go to."""

    id: str
    text: str
    path: str


class ApprovalInfo(Approval, frozen=True, kw_only=True):
    """A request for leave, with the handle and the agent of its instance; None for one that is gone."""

    handle: str | None = None
    agent: str | None = None


async def index(request: Request) -> Response:
    """GET /v1/approvals?state&instance&limit: those that wait, unless `state` is another one or `all`."""
    parts, query = house(request), request.query_params
    state = query.get("state") or "pending"
    name = query.get("instance")
    found = parts.approvals.list(
        instance=parts.registry.get(name).id if name else None,
        state=None if state == "all" else state,
        limit=query_int(request, "limit", 100, 1, 1000),
    )
    return json_response([_shown(parts, each) for each in found])


async def show(request: Request) -> Response:
    """GET /v1/approvals/{id}"""
    parts = house(request)
    return json_response(_shown(parts, parts.approvals.get(request.path_params["id"])))


async def decide(request: Request) -> Response:
    """POST /v1/approvals/{id}: the request as it is now; 409 when somebody else was quicker."""
    body, parts = await read_json(request, Verdict), house(request)
    done = await parts.approvals.decide(
        principal(request), request.path_params["id"], approve=body.approve, reason=body.reason, input=body.input,
        scope=body.scope, rule=body.rule,
    )  # fmt: skip
    return json_response(_shown(parts, done))


async def escalate(request: Request) -> Response:
    """POST /v1/approvals/{id}/escalate: the request as it is now."""
    body, parts = await read_json(request, Escalation), house(request)
    done = await parts.approvals.escalate(principal(request), request.path_params["id"], seconds=body.seconds, reason=body.reason)
    return json_response(_shown(parts, done))


async def rule(request: Request) -> Response:
    """GET /v1/approvals/{id}/rule: what a yes with scope `rule` would write."""
    parts = house(request)
    found = parts.approvals.get(request.path_params["id"])
    if parts.approvals.rules is None:
        raise AegisError(ErrorKind.UNAVAILABLE, "no rules can be written here", "approve it once")
    return json_response(RuleProposal(*parts.approvals.rules.propose(found)))


def _shown(parts: House, approval: Approval) -> ApprovalInfo:
    """A request as the HTTP API shows it."""
    instance = parts.registry.find(approval.instance)
    about = {"handle": instance.handle, "agent": instance.launch.agent} if instance else {"handle": None, "agent": None}
    return ApprovalInfo(**msgspec.structs.asdict(approval), **about)
