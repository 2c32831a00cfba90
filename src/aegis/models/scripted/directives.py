"""The models `echo` and `directives`: answers that the message itself spells out.

Directives of the last user message that has any, one step per round of tools:

    [[say TEXT]]  [[think TEXT]]      text; reasoning
    [[call NAME {json}]]              a tool call; ends the step. NAME is a tool on offer, the end of its name, one of
                                      write, read, bash, edit, glob, list for whatever tool does that, or =NAME unchecked
    [[par]]                           the next call belongs to the same step as the one before
    [[slow N MS]]                     N pieces of text, MS milliseconds apart
    [[hang SECONDS]]                  nothing for so long
    [[error CODE]]  [[error CODE N]]  an HTTP error; only for the first N tries
    [[recall]]                        the earlier texts of the user
    [[lastresult]]                    the last tool result
    [[images]]                        how many images the message has, and of which types

A message without directives in the middle of a script, such as the word after an interruption, goes on with the next step;
after a script that is finished, or that a person stopped, it is echoed.
"""

from __future__ import annotations

import re
from json import JSONDecodeError, JSONDecoder
from typing import Final

from aegis.models.scripted.acts import Act, Fail, Pause, Say, Think, say
from aegis.models.scripted.conversation import Conversation, Item, Result, Said, Use, User, tells_of_interruption
from aegis.models.scripted.hands import Hands

_OPENING: Final = re.compile(r"\[\[(say|call|par|think|slow|hang|error|recall|lastresult|images)\b[ \t]*")
#: What programs put in the place of an answer or a result when a person stopped the work.
_STOPPED: Final = re.compile(r"\[Request interrupted by user|Operation Cancelled|Tool execution aborted|User (?:aborted|rejected)", re.I)
_MANY: Final = 10_000  # the most steps, pieces or acts of one message
_LONG: Final = 86_400.0  # the longest pause, in seconds


def echo(conversation: Conversation) -> list[Act]:
    """`echo: ` and the last text of the user."""
    return [say("echo: " + next((item.text for item in reversed(conversation.items) if isinstance(item, User)), ""))]


def directives(conversation: Conversation) -> list[Act]:
    """The step that is due."""
    items = conversation.items
    start = next((i for i in range(len(items) - 1, -1, -1) if _carries(items[i])), None)
    if start is None or _finished(items, start):
        return echo(conversation)
    steps = _steps(items[start].text)  # type: ignore[union-attr]  # only a User carries directives
    due = steps[min(_rounds(items[start + 1 :]), len(steps) - 1)]
    return [act for name, rest in due for act in _act(name, rest, conversation, start)] or [say("done")]


def _carries(item: Item) -> bool:
    return isinstance(item, User) and _OPENING.search(item.text) is not None


def _rounds(items: list[Item]) -> int:
    """Rounds of tools: a run of calls with the run of results that answers it."""
    kinds = [type(item) for item in items if isinstance(item, Use | Result)]
    return sum(1 for kind, before in zip(kinds, [None, *kinds], strict=False) if kind is Result and before is not Result)


def _finished(items: list[Item], start: int) -> bool:
    """Whether somebody has said something new since the script was given, and the script is not under way any more.

    It is over when the model had the last word or called a tool that never answered, when a person stopped it, and when it could
    only fail.
    """
    last = items[-1]
    if not isinstance(last, User) or len(items) - 1 == start or tells_of_interruption(last.text):
        return False
    after = items[start + 1 : -1]
    if any(isinstance(item, User | Result) and _STOPPED.search(item.text[:2000]) for item in after):
        return True
    answered = next((item for item in reversed(after) if not isinstance(item, User)), None)
    if answered is None:
        steps = _steps(items[start].text)  # type: ignore[union-attr]  # only a User carries directives
        return any(name == "error" and len(rest.split()) == 1 for name, rest in steps[0])
    return isinstance(answered, Said | Use)


def _steps(text: str) -> list[list[tuple[str, str]]]:
    """The directives of `text` by step, each as its name and the rest of it."""
    steps: list[list[tuple[str, str]]] = []
    current: list[tuple[str, str]] = []
    glue = False
    for count, (name, rest) in enumerate(_parse(text)):
        if count >= _MANY:
            break
        if name == "par":
            glue = True
        elif name != "call":
            current.append((name, rest))
        elif glue and steps and not current:
            steps[-1].append((name, rest))
            glue = False
        else:
            steps.append([*current, (name, rest)])
            current, glue = [], False
    return [*steps, current]


def _parse(text: str) -> list[tuple[str, str]]:
    """Every directive; the JSON of a call may itself contain `]]`."""
    found = []
    position = 0
    while match := _OPENING.search(text, position):
        position = match.end()
        if match[1] == "call":
            position = _end_of_call(text, position)
        end = text.find("]]", position)
        if end < 0:
            break
        found.append((match[1], text[match.end() : end].strip()))
        position = end + 2
    return found


def _end_of_call(text: str, position: int) -> int:
    """Where the JSON that follows the name of a call ends; `position` itself when there is none."""
    named = re.compile(r"[^\s\]]+\s*").match(text, position)
    if named is None or not text.startswith("{", named.end()):
        return position
    try:
        return JSONDecoder().raw_decode(text, named.end())[1]
    except (JSONDecodeError, RecursionError):
        return position


def _act(name: str, rest: str, conversation: Conversation, start: int) -> list[Act]:
    """What one directive does; one that cannot be read is answered with words."""
    try:
        match name:
            case "say":
                return [say(rest)]
            case "think":
                return [Think(rest)]
            case "slow":
                count, milliseconds = [*rest.split(), "20", "50"][:2] if len(rest.split()) != 1 else [rest, "50"]
                return [Say(tuple(f"t{i} " for i in range(min(_MANY, int(count)))), min(_LONG, float(milliseconds) / 1000))]
            case "hang":
                return [Pause(min(_LONG, max(0.0, float(rest))))]
            case "error":
                code, *times = rest.split()
                return [Fail(min(599, max(400, int(code))), int(times[0]) if times else None)]
            case "recall":
                earlier = (item.text for item in conversation.items[:start] if isinstance(item, User))
                return [say("recall: " + " | ".join(" ".join(text.split())[:60].replace("[[", "").replace("]]", "") for text in earlier))]
            case "lastresult":
                return [
                    say("result: " + next((item.text[:300] for item in reversed(conversation.items) if isinstance(item, Result)), "none"))
                ]
            case "images":
                return [say(_images(conversation, start))]
            case _:
                return [_call(rest, conversation)]
    except (ValueError, RecursionError) as error:
        return [say(f"cannot read the directive `{name} {rest[:100]}`: {error}")]


def _call(rest: str, conversation: Conversation) -> Act:
    name, _, text = rest.partition(" ")
    given = JSONDecoder().decode(text.strip() or "{}")
    if not isinstance(given, dict):
        raise ValueError("the arguments of a call are a JSON object")
    return Hands(conversation).called(name, given) or say(f"there is no tool `{name}` here")


def _images(conversation: Conversation, start: int) -> str:
    message = conversation.items[start].message  # type: ignore[union-attr]  # only a User carries directives
    types = [image.media_type for image in conversation.images if image.message == message]
    return f"{len(types)} image{'' if len(types) == 1 else 's'}{': ' if types else ''}{', '.join(types)}"
