"""Plans: what the model notes down of its steps, folded into one full picture after each change.

Older CLIs have `TodoWrite`, which always tells all of it; newer ones have tasks that are created and changed one by one and
that get their numbers from the result. After the program was started anew its list is known again from `TaskList`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from aegis.core.events import Plan, PlanEntry
from aegis.drivers.claude.frames import a_dict, a_list, a_text

_CREATED: Final = re.compile(r"Task #(\S+) created")
_LISTED: Final = re.compile(r"^#(\S+) \[(\w+)\] (.*?)(?: \(.*\))?(?: \[blocked by .*\])?$", re.MULTILINE)
_STATUS: Final = frozenset({"pending", "in_progress", "completed"})
#: The tools that change a plan.
TOOLS: Final = frozenset({"TodoWrite", "TaskCreate", "TaskUpdate", "TaskList"})
_MOST: Final = 1000


class Plans:
    """The plans of the main thread and of each sub-agent."""

    def __init__(self) -> None:
        self._plans: dict[str | None, dict[str, PlanEntry]] = {}

    def result(self, parent: str | None, name: str, arguments: dict[str, Any], told: object, output: str) -> Plan | None:
        """What a call that went well means for the plan of `parent`; None when nothing changed."""
        before = self._plans.get(parent, {})
        plan = _CHANGES[name](dict(before), arguments, a_dict(told), output)
        if plan == before or len(plan) > _MOST:
            return None
        self._plans[parent] = plan
        return Plan(list(plan.values()), parent)

    def forget(self, parent: str) -> None:
        """A sub-agent has ended."""
        self._plans.pop(parent, None)


def _entry(content: object, status: object, before: PlanEntry | None = None) -> PlanEntry:
    old = before or PlanEntry("")
    known = isinstance(status, str) and status in _STATUS
    return PlanEntry(a_text(content) or old.content, str(status) if known else old.status)


def _todo(_: dict[str, PlanEntry], arguments: dict[str, Any], told: dict[str, Any], output: str) -> dict[str, PlanEntry]:
    todos = [a_dict(todo) for todo in a_list(arguments.get("todos"))]
    return {str(n): _entry(todo.get("content"), todo.get("status")) for n, todo in enumerate(todos)}


def _create(plan: dict[str, PlanEntry], arguments: dict[str, Any], told: dict[str, Any], output: str) -> dict[str, PlanEntry]:
    found = _CREATED.search(output)
    number = a_text(a_dict(told.get("task")).get("id")) or (found[1] if found else "")
    return {**plan, number: _entry(arguments.get("subject"), "pending")} if number else plan


def _update(plan: dict[str, PlanEntry], arguments: dict[str, Any], told: dict[str, Any], output: str) -> dict[str, PlanEntry]:
    number = str(arguments.get("taskId", ""))
    if told.get("success") is False or not number:
        return plan
    if arguments.get("status") == "deleted":
        plan.pop(number, None)
        return plan
    return {
        **plan,
        number: _entry(arguments.get("subject") or f"#{number}" * (number not in plan), arguments.get("status"), plan.get(number)),
    }


def _list(plan: dict[str, PlanEntry], arguments: dict[str, Any], told: dict[str, Any], output: str) -> dict[str, PlanEntry]:
    if isinstance(told.get("tasks"), list):
        tasks = [a_dict(task) for task in told["tasks"]]
        return {str(task.get("id")): _entry(task.get("subject"), task.get("status")) for task in tasks}
    listed = {number: _entry(subject, status) for number, status, subject in _LISTED.findall(output)}
    return listed or plan


_CHANGES: Final = {"TodoWrite": _todo, "TaskCreate": _create, "TaskUpdate": _update, "TaskList": _list}
