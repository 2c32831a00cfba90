"""Requests of the program: for leave to run, to change or to use something, and for things that no host of ours offers."""

from __future__ import annotations

from typing import Any, NamedTuple

from aegis.core.text import one_line
from aegis.drivers import Answer, Asked
from aegis.drivers.claude.frames import a_dict, a_list, a_text
from aegis.drivers.codex import items
from aegis.drivers.codex.items import Call


class Question(NamedTuple):
    """What it wants."""

    ident: int | str  # its own name of the request
    method: str
    input: dict[str, Any]


def asked(name: str, frame: dict[str, Any], calls: dict[str, Call]) -> tuple[Question, Asked] | None:
    """The request as an event, under our name for it; None for what is not to be answered by anybody. `calls` are those that run."""
    ident, method, params = frame["id"], a_text(frame.get("method")), a_dict(frame.get("params"))
    call_id = a_text(params.get("itemId")) or None
    question = False
    match method:
        case "item/commandExecution/requestApproval":
            call = items.command(params)
            call = call._replace(kind="execute")  # what a command only reads is nothing that an answer may rest on
            if params.get("kind") not in (None, "command"):
                call = call._replace(name="write_stdin", title=one_line(f"input to: {call.title}", 200))
        case "item/fileChange/requestApproval":
            call = calls.get(call_id or "", Call("apply_patch", {}, "edit", a_text(params.get("reason"))))
        case "mcpServer/elicitation/request":
            meta, server = a_dict(params.get("_meta")), a_text(params.get("serverName"))
            tool, given = a_text(meta.get("tool_name")), a_dict(meta.get("tool_params"))
            message = one_line(a_text(params.get("message")), 200)
            if meta.get("codex_approval_kind") == "mcp_tool_call" and tool:
                call = Call(items.mcp_name(server, tool), given, "other", message)
                call_id = next((ident for ident, one in calls.items() if (one.name, one.input) == (call.name, given)), None)
            elif params.get("mode") in ("form", "openai/form", "openaiForm"):  # the server itself wants something of a person
                call, question = (
                    Call(f"mcp__{server}", {"message": message, "schema": params.get("requestedSchema")}, "other", message),
                    True,
                )
            else:
                return None
        case "item/tool/requestUserInput":
            told = [a_dict(one) for one in a_list(params.get("questions"))]
            title = next((a_text(one.get("question")) for one in told), "")
            call, question = Call("request_user_input", {"questions": told}, "think", one_line(title, 200)), True
        case "item/permissions/requestApproval":
            title = one_line(a_text(params.get("reason")) or "more permissions", 200)
            call = Call("request_permissions", {"permissions": params.get("permissions")}, "other", title)
        case _:
            return None
    event = Asked(
        id=name,
        tool=call.name,
        input=call.input,
        kind=call.kind,
        title=call.title,
        call_id=call_id,
        locations=list(call.locations),
        question=question,
    )
    return Question(ident, method, call.input), event


def answered(question: Question, answer: Answer) -> dict[str, Any]:
    """The answer as the result that the request wants. Of a refused command or change the model only hears that it was refused."""
    match question.method:
        case "mcpServer/elicitation/request":
            return {"action": "accept", "content": answer.input or {}} if answer.allow else {"action": "decline"}
        case "item/tool/requestUserInput":
            return {"answers": _answers(question.input, answer)}
        case "item/permissions/requestApproval":
            return {"permissions": (question.input.get("permissions") or {}) if answer.allow else {}, "scope": "turn"}
    return {"decision": "accept" if answer.allow else "decline"}


def _answers(wanted: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Answers are `{"answers": {id: label or labels}}`, or that mapping alone; a reason in words answers every question."""
    given = answer.input or {}
    given = a_dict(given.get("answers")) if "answers" in given else given
    told: dict[str, Any] = {}
    for one in a_list(wanted.get("questions")):
        name = a_text(a_dict(one).get("id"))
        said = given.get(name, given.get(a_text(a_dict(one).get("question")), answer.reason))
        words = said if isinstance(said, list) else a_list(a_dict(said).get("answers")) or ([said] if said else [])
        told[name] = {"answers": [str(word) for word in words]}
    return told
