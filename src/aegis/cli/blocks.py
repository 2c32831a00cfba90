"""What a turn is made of, as lines: a tool at work and its result, a change in a file, a plan, a request for leave, the sums.

Pure: from the data of an event to pieces of lines; `view` says when and where they are shown. Every function bounds what it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.cli.output import Piece
from aegis.cli.render import compact, moment
from aegis.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Line = list[Piece]

#: The sign of each kind of tool.
GLYPHS: Final = {
    "read": "📖", "edit": "✏️", "execute": "⌬", "search": "🔎", "think": "✻", "fetch": "🌐", "move": "➡️", "delete": "🗑",
    "switch_mode": "🔄", "other": "⏺",
}  # fmt: skip
_PLAN: Final = {"completed": ("●", "green"), "in_progress": ("◐", "yellow"), "pending": ("○", "dim")}
#: The most lines of a change, of what a failed tool said, of a plan, and of the input of a request.
DIFF_LINES: Final = 14
ERROR_LINES: Final = 6
PLAN_LINES: Final = 20
INPUT_LINES: Final = 8
_DIFFED: Final = 2000  # the most lines of one side that are compared
#: Columns where there is no terminal.
WIDE: Final = 160


def count(number: float) -> str:
    """Tokens in few characters: 950, 1.2k, 34k, 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return f"{number:.0f}"


def cost(usd: float) -> str:
    """Money: 0.4¢, 12¢, $1.23."""
    cents = usd * 100
    if cents < 0.95:
        return f"{cents:.1f}¢" if cents >= 0.05 else "<0.1¢" if cents > 0 else "0¢"
    return f"{cents:.0f}¢" if cents < 99.5 else f"${usd:,.2f}"


def span(ms: float) -> str:
    """A time: 12 ms, 1.5 s, 2m 05s, 1h 02m."""
    seconds = ms / 1000
    if seconds < 0.9995:
        return f"{ms:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}m {seconds:02.0f}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02d}m"


def tool(data: Mapping[str, Any]) -> Line:
    """A tool that is about to run: its sign, its name, what for."""
    name = str(data.get("name") or data.get("tool") or "")
    return [f"{GLYPHS.get(data.get('kind', 'other'), GLYPHS['other'])} ", (one_line(name, 60), "bold"), f"  {_about(data)}"]


def result(data: Mapping[str, Any], *, named: bool, room: int) -> list[Line]:
    """What a tool gave back: one line where it went well, some more where not, and what it changed."""
    output = printable(str(data.get("output") or "")).strip()
    lines = output.splitlines()
    name: Line = [(f"{one_line(str(data.get('name') or ''), 40)}: ", "dim")] if named else []
    took: Piece = (f"  {span(data['ms'])}" if data.get("ms") else "", "dim")
    diffs = data.get("diffs") or []
    found: list[Line]
    if data.get("ok"):
        said = "" if diffs else one_line(lines[0] if lines else "", room)
        more: Piece = (f"  (+{len(lines) - 1} lines)" if len(lines) > 1 and not diffs else "", "dim")
        found = [[("✓ ", "green"), *name, (said, "dim"), more, took]]
    else:
        found = [[("✗ ", "red"), *name, (one_line(lines[0] if lines else "it failed", room), "red"), took]]
        found += [[("  ", ""), (one_line(line, room), "red")] for line in lines[1:ERROR_LINES] if line.strip()]
        found += _rest(len(lines) - ERROR_LINES)
    for each in diffs:
        found += diff(each, room)
    return found


def diff(data: Mapping[str, Any], room: int) -> list[Line]:
    """A change in a file: its path, how many lines came and went, the first of them."""
    from difflib import unified_diff

    old, new = (str(data.get(side) or "").splitlines() for side in ("old", "new"))
    # The first two lines of a unified diff name the files; the numbers of a hunk are in its head.
    changed = list(unified_diff(old[:_DIFFED], new[:_DIFFED], n=1, lineterm=""))[2:]
    plus, minus = (sum(line.startswith(sign) for line in changed) for sign in "+-")
    fresh = " (new)" if data.get("old") is None else ""
    cut = " (only the beginning was compared)" if data.get("truncated") or max(len(old), len(new)) > _DIFFED else ""
    found: list[Line] = [
        ["  ", (one_line(str(data.get("path") or ""), room), "bold"), fresh, (f"  +{plus}", "green"), (f" -{minus}", "red"), (cut, "dim")]
    ]
    shown = changed if data.get("old") else changed[1:]  # all of a new text is one hunk
    for line in shown[:DIFF_LINES]:
        text = one_line_kept(line, room)
        found.append(["    ", (text, {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "dim"))])
    return found + [["  ", *line] for line in _rest(len(shown) - DIFF_LINES)]


def plan(entries: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A plan: how much of it is done, and each step with its state."""
    done = sum(entry.get("status") == "completed" for entry in entries)
    found: list[Line] = [["📋 ", (f"{done}/{len(entries)}", "bold")]]
    for entry in entries[:PLAN_LINES]:
        status = entry.get("status", "pending")
        sign, style = _PLAN.get(status, _PLAN["pending"])
        found.append(["  ", (f"{sign} ", style), (one_line(str(entry.get("content") or "")), "dim" if status == "completed" else "")])
    return found + _rest(len(entries) - PLAN_LINES, "steps")


def request(data: Mapping[str, Any], ident: str, room: int, *, again: bool = False) -> list[Line]:
    """What an agent asks leave for, and the commands that answer it. `again`: the tool stands in the line above."""
    arguments = dict(data.get("input") or {})
    found: list[Line] = [[("⚠ needs you", "alert"), *([] if again else ["  ", *tool(data)])]]
    before, after = arguments.get("old_string", ""), arguments.get("new_string", arguments.get("content"))
    path = arguments.get("file_path") or arguments.get("path")
    if data.get("kind") == "edit" and path and isinstance(before, str) and isinstance(after, str):
        found += [["  ", *line] for line in diff({"path": path, "old": before, "new": after}, room)]
    else:
        details = [(key, value) for key, value in arguments.items() if compact(value) != _about(data)]
        found += [["    ", (f"{one_line(key, 40)}: ", "dim"), one_line(compact(value), room)] for key, value in details[:INPUT_LINES]]
        found += _rest(len(details) - INPUT_LINES)
    short = short_id(ident)
    found.append(["    ", (f"aegis approvals approve {short}", "cyan"), "   or   ", (f"aegis approvals reject {short}", "cyan")])
    return found


def decided(data: Mapping[str, Any]) -> Line:
    """The answer to a request."""
    verdict = str(data.get("verdict"))
    sign, style = {"approved": ("✓", "green"), "rejected": ("✗", "red")}.get(verdict, ("·", "dim"))
    who = "" if verdict == "withdrawn" else f" by {who_is(data.get('principal'))}"
    reason = one_line(str(data.get("reason") or ""))
    return [(f"{sign} {verdict}{who}", style), (f": {reason}" if reason else "", "dim")]


def sums(usage: Mapping[str, Any], *, context: int = 0, size: int = 0, tools: int = 0, errors: int = 0, ms: float = 0.0) -> Line:
    """The last line of a turn: tokens, context, money, tools, time."""
    total, cached = usage.get("input") or 0, usage.get("cached") or 0
    parts: list[Line] = []
    if total or usage.get("output"):
        share = f" ({cached * 100 // total}% cached)" if total and cached else ""
        parts.append([(f"↑{count(total)}{share} ↓{count(usage.get('output') or 0)}", "dim")])
    if context:
        full = context / size if size else 0.0
        told = f"ctx {count(context)}" + (f" ({full * 100:.0f}%)" if size else "")
        parts.append([(told, "red" if full >= 0.75 else "yellow" if full >= 0.5 else "dim")])
    if usage.get("cost_usd") is not None:
        parts.append([(cost(usage["cost_usd"]), "dim")])
    if tools:
        parts.append([(f"⚒ {tools}" + (f" ({errors} failed)" if errors else ""), "dim")])
    if ms:
        parts.append([(span(ms), "dim")])
    return [piece for n, part in enumerate(parts) for piece in ([(" · ", "dim"), *part] if n else part)]


def limited(until: float | None) -> str:
    """When a limit ends, for people; the day too when it is not today."""
    from datetime import UTC, datetime

    found = moment(until)
    if found is None:
        return "for now"
    today = datetime.now(UTC).astimezone().date() == found.date()
    return f"until {found:%H:%M}" if today else f"until {found:%a %H:%M}"


def short_id(ident: str) -> str:
    """The end of an id, which is random, as people type it."""
    return ident[-6:]


def who_is(principal: object) -> str:
    """A principal in one word: a person is meant unless it says otherwise."""
    return one_line(str(principal or "somebody").removeprefix("person:"), 60)


def one_line_kept(text: str, limit: int) -> str:
    """`text` as one printable line with its white space, cut to `limit` characters."""
    flat = printable(text).replace("\t", "    ").replace("\n", " ")
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _about(data: Mapping[str, Any]) -> str:
    """What a tool is used for, in a line."""
    title = one_line(str(data.get("title") or ""))
    if title:
        return title
    arguments = data.get("input") or {}
    if isinstance(arguments, dict) and len(arguments) == 1:
        return compact(next(iter(arguments.values())))
    return compact(arguments) if arguments else ""


def _rest(more: int, what: str = "lines") -> list[Line]:
    return [["  ", (f"… {more} more {what}", "dim")]] if more > 0 else []


def shown(lines: Iterable[Line]) -> str:
    """Lines as plain text; for tests and logs."""
    return "\n".join("".join(piece if isinstance(piece, str) else piece[0] for piece in line) for line in lines)
