"""What a turn is made of, as lines: a tool at work and its result, a change in a file, a plan, a request for leave, the sums.

Pure: from the data of an event to pieces of lines; `view` says when and where they are shown. Every function bounds what it shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aegis.cli.output import Piece
from aegis.cli.render import compact, moment
from aegis.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

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
#: Where the workspace is inside, which need not be told.
_INSIDE: Final = "/workspace"
_WORKSPACE: Final = f"{_INSIDE}/"
#: Which part of a tool's input says best what it is about, and how the parts of a change in a file are called.
_SAYING: Final = ("command", "file_path", "filePath", "absolute_path", "path", "pattern", "query", "url", "description", "prompt")
_EDITED: Final = (
    ("file_path", "filePath", "absolute_path", "path"),
    ("old_string", "oldString", "old_text", "old"),
    ("new_string", "newString", "new_text", "new", "content"),
)
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
    name, about = str(data.get("name") or data.get("tool") or ""), _about(data)
    sign = GLYPHS.get(data.get("kind", "other"), GLYPHS["other"])
    return [f"{sign} ", (one_line(name, 60), "bold"), *([f"  {about}"] if about else [])]


def result(
    data: Mapping[str, Any], *, named: bool, room: int, ms: float | None = None, seen: Collection[tuple[str, str]] = ()
) -> list[Line]:
    """What a tool gave back: one line where it went well, some more where not, and what it changed.

    Args:
        ms: how long it worked, where that is not what it says itself.
        seen: changes, as `change` makes them, that a person has before their eyes already.
    """
    output = printable(str(data.get("output") or "")).strip()
    lines = output.splitlines()
    name: Line = [(f"{one_line(str(data.get('name') or ''), 40)}: ", "dim")] if named else []
    ms = data.get("ms") if ms is None else ms
    took: Line = [(f"  {span(ms)}", "dim")] if ms else []
    diffs = [(change(each) in seen, diff(each, room)) for each in data.get("diffs") or []]
    if data.get("ok") and len(diffs) == 1:
        known, (head, *body) = diffs[0]
        return [[("✓ ", "green"), *name, *head, *took], *([] if known else body)]
    found: list[Line]
    if data.get("ok"):
        said = [] if diffs or not lines else [(one_line(lines[0], max(room - 24, 20)), "dim")]
        more = [(f"  (+{len(lines) - 1} lines)", "dim")] if len(lines) > 1 and not diffs else []
        found = [[("✓", "green"), *([" "] if name or said else []), *name, *said, *more, *took]]
    else:
        found = [[("✗ ", "red"), *name, (one_line(lines[0] if lines else "it failed", max(room - 10, 20)), "red"), *took]]
        found += [["  ", (one_line(line, room), "red")] for line in lines[1:ERROR_LINES] if line.strip()]
        found += _rest(len(lines) - ERROR_LINES)
    for known, (head, *body) in diffs:
        found += [["  ", *head], *([] if known else body)]
    return found


def change(data: Mapping[str, Any]) -> tuple[str, str]:
    """What tells one change from another: the texts before and after, wherever they stand."""
    return str(data.get("old") or "").strip("\n"), str(data.get("new") or "").strip("\n")


def diff(data: Mapping[str, Any], room: int) -> list[Line]:
    """A change in a file: its path and how many lines came and went, then the first of them."""
    from difflib import unified_diff

    old, new = (str(data.get(side) or "").splitlines() for side in ("old", "new"))
    # The first two lines of a unified diff name the files; the numbers of a hunk are in its head.
    changed = list(unified_diff(old[:_DIFFED], new[:_DIFFED], n=1, lineterm=""))[2:]
    plus, minus = (sum(line.startswith(sign) for line in changed) for sign in "+-")
    fresh = " (new)" if data.get("old") is None else ""
    cut = " (only the beginning was compared)" if data.get("truncated") or max(len(old), len(new)) > _DIFFED else ""
    path = one_line(str(data.get("path") or "").removeprefix(_WORKSPACE), room)
    found: list[Line] = [[(path, "bold"), fresh, (f"  +{plus}", "green"), (f" -{minus}", "red"), *([(cut, "dim")] if cut else [])]]
    # Where the first hunk is at the beginning of what was compared, its head says nothing.
    shown = changed[1:] if changed and changed[0].startswith(("@@ -1 ", "@@ -1,", "@@ -0,0 ")) else changed
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


def request(data: Mapping[str, Any], ident: str, room: int, *, again: bool = False, commands: bool = True) -> list[Line]:
    """What an agent asks leave for, and the commands that answer it. `again`: the tool stands in the line above."""
    arguments = dict(data.get("input") or {})
    found: list[Line] = [[("⚠ needs you", "alert"), *([] if again else ["  ", *tool(data)])]]
    wanted = edit(data)
    if questions := asked_of_a_person(arguments):
        for question in questions:
            found.append(["    ", (one_line(str(question.get("question") or ""), 1000), "bold")])
            for n, option in enumerate(question["options"], 1):
                about = one_line(str(option.get("description") or ""), 300)
                found.append([
                    "    ", (f"{n} ", "cyan"), one_line(str(option.get("label") or ""), 200), (f"  {about}" if about else "", "dim")
                ])  # fmt: skip
    elif wanted is not None:
        head, *body = diff(wanted, room)
        found += [["    ", *head], *(["  ", *line] for line in body)]
    else:
        details = [
            (key, value) for key, value in arguments.items() if compact(value).removeprefix(_WORKSPACE) not in (_about(data), _INSIDE)
        ]
        found += [["    ", (f"{one_line(key, 40)}: ", "dim"), one_line(compact(value), room)] for key, value in details[:INPUT_LINES]]
        found += _rest(len(details) - INPUT_LINES)
    risk, until = one_line(str(data.get("risk") or ""), 300), moment(data.get("deadline"))
    if risk:
        found.append(["    ", ("risk: ", "yellow"), (risk, "yellow")])
    if until is not None:
        found.append(["    ", (f"until {until:%a %H:%M}; then it is {_THEN.get(str(data.get('default')), 'rejected')}", "dim")])
    short = short_id(ident)
    if commands:
        found.append(["    ", (f"aegis approvals approve {short}", "cyan"), "   or   ", (f"aegis approvals reject {short}", "cyan")])
    return found


#: What becomes of a request that nobody answers.
_THEN: Final = {"approve": "APPROVED"}


def escalated(data: Mapping[str, Any]) -> Line:
    """Somebody wants a request answered."""
    reason = one_line(str(data.get("reason") or ""), 200)
    told = f"⚠ still needs you, says {who_is(data.get('principal'))}: "
    return [(told, "alert"), one_line(str(data.get("title") or "")), (f" ({reason})" if reason else "", "dim")]


def edit(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The change in a file that a tool is to make, in whichever words the program says it; None when it is none that can be shown."""
    given = data.get("input") or {}
    if data.get("kind") != "edit":
        return None
    path, old, new = (next((given[key] for key in keys if given.get(key) is not None), None) for keys in _EDITED)
    if not isinstance(path, str) or not isinstance(new, str) or not isinstance(old, str | None):
        return None
    return {"path": path, "old": old or "", "new": new}  # what was there before need not be known


def asked_of_a_person(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The questions with answers to choose from that a tool puts to a person; none for a tool that asks nothing of the kind."""
    questions = given.get("questions")
    found = [each for each in questions if isinstance(each, dict)] if isinstance(questions, list) else []
    return [
        {**each, "options": [option for option in each["options"] if isinstance(option, dict)]}
        for each in found
        if each.get("question") and isinstance(each.get("options"), list)
    ]


def decided(data: Mapping[str, Any]) -> Line:
    """The answer to a request."""
    verdict = str(data.get("verdict"))
    sign, style = {"approved": ("✓", "green"), "rejected": ("✗", "red")}.get(verdict, ("·", "dim"))
    who = "" if verdict == "withdrawn" else f" by {who_is(data.get('principal'))}"
    reason = one_line(str(data.get("reason") or ""))
    scope = {"session": " for this session", "rule": " with a rule"}.get(str(data.get("scope")), "")
    return [(f"{sign} {verdict}{who}{scope}", style), (f": {reason}" if reason else "", "dim")]


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


#: The colours of what a person is told.
NOTICES: Final = {"needs-you": "alert", "stuck": "yellow", "failed": "red", "limited": "yellow", "done": "green"}


def stuck(data: Mapping[str, Any]) -> str:
    """Why an agent seems stuck."""
    if data.get("seconds"):
        return f"nothing was heard of it for {data['seconds'] / 60:.0f} min"
    return one_line(f"{data['reason']}: {data['tool']}, {data.get('count')} times" if data.get("tool") else str(data["reason"]), 200)


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
    title, name = one_line(str(data.get("title") or "")), str(data.get("name") or data.get("tool") or "")
    if title and title != name:
        return title.removeprefix(_WORKSPACE)
    arguments = data.get("input") or {}
    if not isinstance(arguments, dict):
        return compact(arguments)
    known = next((arguments[key] for key in _SAYING if isinstance(arguments.get(key), str)), None)
    if known is None and len(arguments) == 1:
        key, known = next(iter(arguments.items()))
        if isinstance(known, list | dict):
            return f"{len(known)} {one_line(key.removesuffix('s') if len(known) == 1 else key, 40)}"
    return compact(arguments if known is None else known).removeprefix(_WORKSPACE) if arguments else ""


def _rest(more: int, what: str = "lines") -> list[Line]:
    return [["  ", (f"… {more} more {what}", "dim")]] if more > 0 else []


def shown(lines: Iterable[Line]) -> str:
    """Lines as plain text; for tests and logs."""
    return "\n".join("".join(piece if isinstance(piece, str) else piece[0] for piece in line) for line in lines)
