"""Requests of the program: for leave to use a tool, and for things that no host of ours offers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aegis.drivers import Answer, Asked
from aegis.drivers.claude import frames, tools
from aegis.drivers.claude.frames import a_dict, a_list, a_text

_NO: Final = "This was not allowed."


class Question(NamedTuple):
    """What it wants to do."""

    tool: str
    input: dict[str, Any]


def asked(ident: str, question: Question, request: dict[str, Any]) -> Asked:
    """The request as an event."""
    tool, arguments = question
    return Asked(
        id=ident,
        tool=tool,
        input=arguments,
        kind=tools.kind_of(tool),
        title=tools.title_of(tool, arguments) or a_text(request.get("description")),
        call_id=a_text(request.get("tool_use_id")) or None,
        locations=tools.locations_of(arguments),
        question=request.get("requires_user_interaction") is True or tool in tools.QUESTIONS,
    )


def answered(ident: str, question: Question, answer: Answer) -> bytes:
    """The answer as a frame. With leave, the tool's input must stand in it, changed or not."""
    if not answer.allow:
        return _reply(ident, {"behavior": "deny", "message": answer.reason or _NO})
    wanted = question.input if answer.input is None else answer.input
    if question.tool == "AskUserQuestion":
        wanted = _with_answers(question.input, answer)
    return _reply(ident, {"behavior": "allow", "updatedInput": wanted})


def _with_answers(asked_: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Answers are `{"answers": {question: label}}`, or that mapping alone; a reason in words answers every question."""
    given = answer.input
    if given is not None and ("answers" in given or "questions" in given):
        return {**asked_, **given}
    if given:
        return {**asked_, "answers": given}
    questions = [a_text(a_dict(question).get("question")) for question in a_list(asked_.get("questions"))]
    return {**asked_, "answers": dict.fromkeys(questions, answer.reason) if answer.reason else {}}


def unsupported(ident: str, subtype: str) -> bytes:
    """The answer to a request that means nothing here; without one the program would wait."""
    error = f"unsupported request: {subtype}"
    return frames.line({"type": "control_response", "response": {"subtype": "error", "request_id": ident, "error": error}})


def _reply(ident: str, response: dict[str, Any]) -> bytes:
    return frames.line({"type": "control_response", "response": {"subtype": "success", "request_id": ident, "response": response}})
