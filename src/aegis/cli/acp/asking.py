"""Requests for leave, as the protocol asks them, and what their answers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from aegis.cli.acp.telling import Telling
    from aegis.client.shapes import ApprovalInfo

_ALLOW: Final = "allow"
_REJECT: Final = "reject"
_ANSWER: Final = "answer-"


class Verdict(NamedTuple):
    """What a person decided; `input` takes the place of the tool's."""

    approve: bool
    input: dict[str, Any] | None = None


def request(item: ApprovalInfo, session: str, telling: Telling) -> dict[str, Any]:
    """The parameters of `session/request_permission`."""
    call = {
        "toolCallId": telling.call_id(item["turn"], item["call_id"] or item["id"]),
        "status": "pending",
        **telling.input_of(item["kind"], item["title"], item["tool"], item["input"]),
    }
    question, labels = _question(item)
    if question:
        call["title"] = question
        options = [{"optionId": f"{_ANSWER}{n}", "name": label, "kind": "allow_once"} for n, label in enumerate(labels)]
        decline = "Do not answer"
    else:
        options = [{"optionId": _ALLOW, "name": "Allow", "kind": "allow_once"}]
        decline = "Reject"
    options.append({"optionId": _REJECT, "name": decline, "kind": "reject_once"})
    return {"sessionId": session, "toolCall": call, "options": options}


def verdict(item: ApprovalInfo, result: dict[str, Any] | None) -> Verdict | None:
    """What the client's answer decides; None when it decides nothing and the request goes on waiting."""
    outcome = (result or {}).get("outcome")
    if not isinstance(outcome, dict) or outcome.get("outcome") != "selected":
        return None
    chosen = str(outcome.get("optionId"))
    if chosen == _REJECT:
        return Verdict(False)
    question, labels = _question(item)
    if not question:
        return Verdict(True) if chosen == _ALLOW else None
    number = chosen.removeprefix(_ANSWER)
    if not number.isdecimal() or int(number) >= len(labels):
        return None
    return Verdict(True, {**item["input"], "answers": {question: labels[int(number)]}})


def _question(item: ApprovalInfo) -> tuple[str, list[str]]:
    """A question with answers to choose from; of a request that puts several, or anything else, no question."""
    questions = item["input"].get("questions")
    if not isinstance(questions, list) or len(questions) != 1 or not isinstance(questions[0], dict):
        return "", []
    options = questions[0].get("options")
    labels = [str(each["label"]) for each in options if isinstance(each, dict) and each.get("label")] if isinstance(options, list) else []
    text = questions[0].get("question")
    return (text, labels) if isinstance(text, str) and labels else ("", [])
