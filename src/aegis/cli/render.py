"""How an instance, a time and a frame look to a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aegis.cli.output import Output, Piece, state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.client.shapes import Frame, InstanceInfo

#: Characters of a tool's input or output that are shown on its line.
BRIEF = 100


def moment(value: str | float | None) -> datetime | None:
    """A time of the API, seconds or RFC 3339, in local time; None for none."""
    if value is None or value == "":
        return None
    if isinstance(value, (int, float)):
        return datetime.fromtimestamp(value, UTC).astimezone()
    # Nanoseconds are more than `fromisoformat` reads.
    head, dot, tail = value.partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return datetime.fromisoformat(f"{head}{dot}{tail[: min(digits, 6)]}{tail[digits:]}").astimezone()


def when(value: str | float | None) -> str:
    """Date and time for a table."""
    found = moment(value)
    return f"{found:%Y-%m-%d %H:%M:%S}" if found else "-"


def clock(value: str | float | None) -> str:
    """The time of day with milliseconds."""
    found = moment(value)
    return f"{found:%H:%M:%S}.{found.microsecond // 1000:03d}" if found else "-"


def ago(value: str | float | None) -> str:
    """How long ago, in one word."""
    found = moment(value)
    if found is None:
        return "-"
    seconds = (datetime.now(UTC) - found).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit} ago"
    return "now"


def size(value: float | None) -> str:
    """Bytes for a table."""
    if value is None:
        return "-"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def workspace(item: InstanceInfo) -> str:
    """The workspace and how it may be used."""
    path = item.get("workspace")
    return f"{path} ({'read-only' if item.get('read_only') else 'read and write'})" if path else "a private one"


_ACTIVITIES = {"working": "green", "starting": "cyan", "needs-you": "alert", "limited": "yellow", "failed": "red", "idle": "dim"}


def activity(item: InstanceInfo) -> Piece:
    """What an instance is about, in a word or two: how many requests wait for a person, until when a limit lasts."""
    word = item.get("activity") or "-"
    style = _ACTIVITIES.get(word, "")
    if not item.get("enabled", True):
        return "disabled", "dim"
    if item.get("activity_note"):
        return f"{word} ({'stuck' if word in ('working', 'unknown', 'needs-you') else 'cannot start'})", "alert"
    if word == "needs-you" and (waiting := item.get("open_approvals")):
        return f"{word} ({waiting})", style
    if word == "limited" and (until := moment(item.get("activity_until"))):
        return f"{word} until {until:%H:%M}", style
    return word, style


def budget(item: InstanceInfo) -> Piece:
    """What was spent of the budget that is nearest to its cap."""
    nearest = max(item.get("budgets") or (), key=lambda each: float(each["spent"]) / float(each["limit"]), default=None)
    if nearest is None:
        return "-", "dim"
    style = {"warned": "yellow", "blocked": "red"}.get(str(nearest["state"]), "")
    if nearest["kind"] == "usd":
        return f"${nearest['spent']:.2f}/${nearest['limit']:.2f}", style
    return f"{nearest['spent']:,}/{nearest['limit']:,} tokens", style


def rule(value: Any) -> str:
    """An egress rule for people: the host, and what is said of requests to it."""
    if not isinstance(value, dict):
        return str(value)
    told = [", ".join(value.get("methods") or []), ", ".join(value.get("paths") or [])]
    if value.get("secret"):
        told.append(f"with the secret {value['secret']}" + (f" as `{value['header']}`" if value.get("header") else ""))
    return f"{value.get('host')} ({'; '.join(['inspected', *filter(None, told)])})"


def brief(item: InstanceInfo) -> list[tuple[str, Piece]]:
    """What a person should know of a fresh instance."""
    rows: list[tuple[str, Piece]] = [("workspace", workspace(item)), ("sandbox", item["sandbox"])]
    if item.get("model"):
        rows.append(("model", str(item["model"])))
    return rows


def cautions(out: Output, item: InstanceInfo, *, model: bool = True) -> None:
    """Warn of what a person might not expect of an instance; of its model only when that is used."""
    if item["sandbox"] == "process":
        out.warn("the sandbox `process` has no boundary: what runs in it can do all that you can")
    for told in item.get("warnings") or ():
        out.warn(str(told))
    if model and str(item.get("model") or "").startswith("scripted/"):
        out.warn(f"{item['model']} is a script, not a model; choose one with --model and store its key with `aegis secret set`")
    for name, verdict in (item.get("enforced") or {}).items():
        if not verdict.get("ok") and (item.get("limits") or {}).get({"memory": "memory_mb"}.get(name, name)):
            out.warn(f"the limit on {name} is not enforced here: {verdict.get('detail', '')}")


def details(item: InstanceInfo) -> list[tuple[str, Piece]]:
    """All about an instance."""
    limits = ", ".join(f"{name} {value:g}" for name, value in (item.get("limits") or {}).items() if value)
    usage = item.get("usage") or {}
    rows: list[tuple[str, Piece | None]] = [
        ("handle", (item["handle"], "bold")),
        ("id", item["id"]),
        ("state", state(item["state"])),
        ("reason", item.get("reason")),
        ("activity", activity(item)),
        ("note", (item.get("activity_note") or "", "yellow")),
        ("enabled", "yes" if item.get("enabled", True) else "no"),
        ("parent", item.get("parent")),
        ("children", ", ".join(item.get("children") or [])),
        ("agent", item.get("agent")),
        ("kit", item.get("kit")),
        ("driver", item.get("driver")),
        ("effort", item.get("effort")),
        ("mode", item.get("mode")),
        ("auth", item.get("auth")),
        ("permission", item.get("permission")),
        ("approvals", item.get("approvals")),
        ("egress", ", ".join(map(rule, item.get("egress") or []))),
        *brief(item),
        ("boundary", (str(item.get("boundary") or ""), "dim")),
        *(("mount", f"{m['source']} → {m['target']} ({'rw' if m['writable'] else 'ro'})") for m in item.get("mounts") or []),
        ("secrets", ", ".join(item.get("secret_keys") or [])),
        ("exposed", (", ".join(item.get("exposed_secrets") or []), "yellow")),
        ("environment", ", ".join(item.get("env_keys") or [])),
        ("limits", limits),
        ("created", when(item.get("created_at"))),
        ("last active", when(item.get("last_active_at"))),
        ("stopped", when(item["stopped_at"]) if item.get("stopped_at") else None),
        ("usage", tokens(usage) if usage.get("input") else None),
        *(("session", _session(entry)) for entry in item.get("sessions") or []),
    ]
    return [(name, value) for name, value in rows if value and value[0]]


def _session(entry: Mapping[str, Any]) -> str:
    busy = ", busy" if entry.get("busy") else ""
    queued = f", {entry['queued']} waiting" if entry.get("queued") else ""
    return f"{entry['session']}: {entry.get('turns', 0)} turns{busy}{queued}"


def tokens(usage: Mapping[str, Any]) -> str:
    """Tokens and money in one line."""
    text = f"{usage.get('input', 0):,} in, {usage.get('output', 0):,} out"
    if usage.get("cached"):
        text += f", {usage['cached']:,} cached"
    if usage.get("cost_usd") is not None:
        text += f", ${usage['cost_usd']:.4f}"
    return text


def compact(value: Any) -> str:
    """A value in few characters, for one line."""
    from aegis.core.text import one_line

    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), BRIEF)


def frame_line(frame: Frame) -> list[Piece]:
    """A frame as one line."""
    payload = frame.get("payload") or {}
    match frame["type"]:
        case "tool.call":
            said = f"{payload.get('name')} {compact(payload.get('input'))}"
        case "tool.result":
            said = f"{payload.get('name')} {'ok' if payload.get('ok') else 'failed'}: {compact(payload.get('output', ''))}"
        case "usage":
            said = tokens(payload)
        case "approval.requested":
            said = f"{payload.get('tool')} {payload.get('title') or compact(payload.get('input'))} ({str(payload.get('id'))[-6:]})"
        case "approval.escalated":
            said = f"still waits: {compact(payload.get('title'))} ({str(payload.get('id'))[-6:]})"
        case "approval.decided":
            said = f"{payload.get('verdict')} {str(payload.get('id'))[-6:]} {payload.get('reason', '')}"
        case "assistant.done":
            said = f"[{payload.get('outcome', 'completed')}] {payload.get('text', '')}"
        case _:
            said = str(payload.get("text") or payload.get("state") or payload.get("status") or "")
    session = ":".join((frame["session"]["channel"], frame["session"]["id"]))
    return [(f"{frame['seq']:>7} {clock(frame.get('ts'))} ", "dim"), f"{session} ", (f"{frame['type']} ", "cyan"), said]
