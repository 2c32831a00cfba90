"""An instance as the HTTP API shows it, and what its turns have used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.services.agents import sessions

if TYPE_CHECKING:
    from aegis.services.agents.activity import Activity
    from aegis.services.agents.model import Instance, Launch
    from aegis.services.agents.service import Live
    from aegis.services.agents.world import World

_TURNS = "count(*), coalesce(sum(tools), 0), coalesce(sum(tool_errors), 0), coalesce(sum(finished_at - started_at), 0)"
_CALLS = "count(*), coalesce(sum(input), 0), coalesce(sum(output), 0), coalesce(sum(cached), 0), sum(cost_usd), sum(cost_usd IS NULL)"

#: Counts of tokens are on record and are no calls, as in the totals of the ledger.
_REAL = "source != 'count'"


def describe(world: World, instance: Instance, live: Live | None, now: Activity) -> dict[str, Any]:
    """The instance object of the HTTP API."""
    launch = instance.launch
    kind = world.kinds[launch.sandbox]
    turns, used = world.store.read(
        lambda db: (
            dict(db.execute("SELECT session, count(*) FROM turns WHERE instance = ? GROUP BY session", (instance.id,)).fetchall()),
            world.models.totals(db, instance=instance.id),
        )
    )
    rows = sessions.rows(world.store, instance.id)
    queued = world.mail.queued(instance.id)
    workers = live.sessions if live else {}
    sandbox = live.life.sandbox if live else None
    problem = world.models.problem_of(launch.record) if launch.record else None
    driver = world.drivers.get(launch.driver or "")
    able = driver.capabilities if driver is not None else None
    memory_mb = launch.limits.memory_bytes / 2**20 if launch.limits.memory_bytes else None

    def session(key: str) -> dict[str, Any]:
        row, worker = rows.get(key, sessions.Row()), workers.get(key)
        return {
            "session": key,
            "turns": turns.get(key, 0),
            "busy": bool(worker and (worker.turn or worker.background)),
            "queued": queued.get(key, 0),
            "title": row.title,
            "model": row.model or launch.model,
            "mode": row.mode or launch.mode,
            "effort": row.effort or launch.effort,
            "context": {"used": row.context_used, "size": row.context_size},
            "fork_of": row.fork_of,
            "program_session": row.program_session,
        }

    return {
        "id": instance.id,
        "handle": instance.handle,
        "agent": launch.agent,
        "kit": launch.kit,
        "driver": launch.driver,
        "command": launch.command,
        "model": launch.model,
        "effort": launch.effort,
        "mode": launch.mode,
        "modes": list(able.modes) if able else [],
        "efforts": list(able.efforts) if able else [],
        "auth": launch.auth,
        "warnings": [*world.logins.warnings(launch), *_unanswered(launch), *([problem] if problem else [])],
        "state": instance.state,
        "reason": instance.reason,
        "activity": now.word,
        "activity_until": now.until,
        "activity_note": now.note,
        "enabled": instance.enabled,
        "sandbox": launch.sandbox,
        "boundary": kind.boundary,
        "permission": launch.permission,
        "approvals": launch.approvals,
        "open_approvals": world.approvals.open(instance.id),
        "egress": launch.egress,
        "workspace": launch.workspace,
        "read_only": launch.read_only,
        "mounts": [{"source": m.source, "target": m.target, "writable": m.writable} for m in launch.mounts],
        "secret_keys": launch.secrets,
        "exposed_secrets": launch.exposed,
        "env_keys": sorted(launch.env),
        "limits": {"memory_mb": memory_mb, "cpus": launch.limits.cpus, "pids": launch.limits.pids},
        "enforced": {name: {"ok": v.ok, "detail": v.detail} for name, v in sandbox.enforced.items()} if sandbox else {},
        "project": launch.project,
        "parent": parent.handle if instance.parent is not None and (parent := world.registry.find(instance.parent)) is not None else None,
        "children": [child.handle for child in world.registry.children(instance.id)],
        "spawn": {"depth": launch.spawn.depth, "children": launch.spawn.children, "total": launch.spawn.total},
        "created_at": instance.created_at,
        "last_active_at": instance.last_active_at,
        "stopped_at": instance.stopped_at,
        "sessions": [session(key) for key in sorted({*turns, *queued, *workers, *rows})],
        "usage": used,
        "budgets": world.budgets.brief(instance.id, acts="turns" if launch.auth == "login" else "call"),
    }


async def usage(world: World, instance: Instance, session: str | None, turn: str | None) -> dict[str, Any]:
    """What an instance, one of its sessions or one of its turns has used; without either also by session.

    `turns`, `tools`, `tool_errors`, `seconds` of finished turns, `calls`, `input`, `output`, `cached` (tokens) and `cost_usd`, which
    is None where the price of a call is not known.
    """
    where, values = "instance = ?", [instance.id]
    if session is not None:
        where, values = f"{where} AND session = ?", [*values, session]
    by_turn, by_call = (f"{where} AND id = ?", f"{where} AND turn = ?") if turn is not None else (where, where)
    if turn is not None:
        values = [*values, turn]

    def look(db: Any) -> dict[str, Any]:
        found = _used(
            db.execute(f"SELECT {_TURNS} FROM turns WHERE {by_turn}", values).fetchone(),
            db.execute(f"SELECT {_CALLS} FROM model_calls WHERE {by_call} AND {_REAL}", values).fetchone(),
        )
        if session is None and turn is None:
            turns = {key: rest for key, *rest in db.execute(f"SELECT session, {_TURNS} FROM turns WHERE {where} GROUP BY session", values)}
            by_session = f"SELECT session, {_CALLS} FROM model_calls WHERE {where} AND {_REAL} GROUP BY 1"
            calls = {key: rest for key, *rest in db.execute(by_session, values)}
            keys = sorted({*turns, *(key for key in calls if key is not None)})
            found["sessions"] = [{"session": key, **_used(turns.get(key), calls.get(key))} for key in keys]
        return found

    return await world.store.query(look)


def _unanswered(launch: Launch) -> list[str]:
    """A warning of an agent whose requests count as approved when nobody answers."""
    if launch.approvals_default != "approve":
        return []
    return ["`approvals_default: approve`: what nobody answers in time it may do, though nobody looked at it"]


def _used(turns: Any, calls: Any) -> dict[str, Any]:
    count, tools, errors, seconds = turns or (0, 0, 0, 0.0)
    made, given, taken, cached, cost, unpriced = calls or (0, 0, 0, 0, None, 0)
    return {
        "turns": count, "tools": tools, "tool_errors": errors, "seconds": round(seconds, 3),
        "calls": made, "input": given, "output": taken, "cached": cached, "cost_usd": None if unpriced else cost or 0.0,
    }  # fmt: skip
