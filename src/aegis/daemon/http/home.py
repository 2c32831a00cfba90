"""Routes of the home itself: status, doctor, definitions, configuration."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.version import __version__
from aegis.daemon.http.answers import json_response, query_flag, read_json
from aegis.daemon.http.instances import house, principal
from aegis.daemon.http.policies import problems

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def status(request: Request) -> Response:
    """GET /v1/status?restored: with `restored` also every instance as it came back with this daemon, and why it could not be started."""
    parts = house(request)
    returning = parts.agents.returning
    restored = {"restored": await returning.report()} if query_flag(request, "restored") else {}
    strongest = await parts.doctor.strongest()
    return json_response(
        {
            "status": "running",
            "version": __version__,
            "pid": parts.pid,
            "home": str(parts.home),
            "started_at": parts.started_at,
            "uptime_s": round(parts.clock.now() - parts.started_at, 3),
            "backend": strongest,
            "head": parts.store.head,
            "instances": dict(Counter(i.state.value for i in parts.registry.all())),
            "disabled": sum(not i.enabled for i in parts.registry.all()),
            "put_aside": returning.put_aside,
            "hindered": returning.hindered,
            **restored,
            "capabilities": {"pause_resume": True, "persistent_pause": False, "boot_from_disk_layers": False, "network_backend": "tether"},
            "listen": parts.listens,
        }
    )


async def shutdown(request: Request) -> Response:
    """POST /v1/shutdown: 202, then the daemon ends."""
    parts = house(request)
    decision = await parts.gate.check(principal(request), "daemon.shutdown", str(parts.home))
    with contextlib.suppress(AegisError):  # a full disk must not keep the daemon from ending
        await parts.gate.record(decision)
    parts.stop.set()
    return json_response({"status": "stopping"}, 202)


async def doctor(request: Request) -> Response:
    """GET /v1/doctor?sandbox&store"""
    examine = house(request).doctor
    report = await examine.report()
    house(request).gate.policies.refresh()
    wrong = problems(house(request))
    detail = "; ".join(f"{one['source']}: {one['problem']}" for one in wrong) or "all rules are in force"
    report["checks"].append({"name": "policies", "ok": not wrong, "detail": detail, "mend": wrong[0]["hint"] if wrong else ""})
    report["instances"] = [
        {"name": one.handle, "ok": not one.obstacle, "detail": one.obstacle or "; ".join(one.notes), "mend": one.mend}
        for one in await house(request).agents.returning.report()
        if one.obstacle or one.notes
    ]
    if name := request.query_params.get("sandbox"):
        report["conformance"] = await examine.conformance(name)
    if query_flag(request, "store"):
        report["checks"] += [
            {"name": f"store: {c.name}", "ok": c.ok, "detail": c.detail, "mend": ""} for c in await house(request).store.check()
        ]
    return json_response(report)


class BackupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/backup: an absolute path of a file that does not exist."""

    target: str


async def backup(request: Request) -> Response:
    """POST /v1/backup: a copy of the database as it is now, while it stays in use. Secrets in it need `master.key` to be read."""
    target = Path((await read_json(request, BackupRequest)).target)
    if not target.is_absolute() or not target.parent.is_dir():
        raise AegisError(ErrorKind.USAGE, f"{target} is not a path in an existing folder", "give an absolute path of a new file")
    parts = house(request)
    await parts.gate.pass_through(principal(request), "home.backup", str(target))
    await parts.store.backup(target)
    return json_response({"path": str(target), "bytes": target.stat().st_size})


async def list_agents(request: Request) -> Response:
    """GET /v1/agents?project"""
    return json_response(house(request).config.agents(_project(request)))


async def show_agent(request: Request) -> Response:
    """GET /v1/agents/{name}?project"""
    return json_response(house(request).config.agent(request.path_params["name"], _project(request)))


async def show_config(request: Request) -> Response:
    """GET /v1/config?project"""
    return json_response({"values": house(request).config.show(_project(request))})


async def explain_config(request: Request) -> Response:
    """GET /v1/config/explain?key&project"""
    return json_response(house(request).config.explain(request.query_params.get("key", ""), _project(request)))


async def trust_state(request: Request) -> Response:
    """GET /v1/config/trust?project"""
    return json_response(house(request).config.trust_state(_required_project(request)))


class TrustRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/config/trust: trust goes to this content, not to whatever is there a moment later."""

    project: str
    hash: str


async def trust(request: Request) -> Response:
    """POST /v1/config/trust"""
    wanted = await read_json(request, TrustRequest)
    parts = house(request)
    await parts.gate.pass_through(principal(request), "config.trust", wanted.project, hash=wanted.hash)
    await parts.config.trust(Path(wanted.project), wanted.hash)
    answer: dict[str, Any] = {"trusted": True}
    return json_response(answer)


def _project(request: Request) -> Path | None:
    text = request.query_params.get("project")
    return Path(text) if text else None


def _required_project(request: Request) -> Path:
    project = _project(request)
    if project is None:
        raise AegisError(ErrorKind.USAGE, "no project is named", "add `?project=DIR`")
    return project
