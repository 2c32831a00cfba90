"""Rules: statements that were checked against the schema, each with an id, and what to say about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.text import one_line
from aegis.services.config.document import Place
from aegis.services.gate import obligations
from aegis.services.gate.model import Obligations
from aegis.services.gate.reading import MAX_BYTES, Statement, statements

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILT_IN: Final = "built in"
UNBOUND: Final = Obligations()
#: Rules with bounds on what runs and what comes back can be about these only, for nothing else would hold to them.
_BOUNDED: Final = frozenset({"tool.call", "egress.request"})
_NOT_FOUND: Final = re.compile(
    r"attribute `(?P<attribute>\w+)` (?:on|in) (?P<of>.*?) not found|unrecognized (?P<what>action|entity type) `(?P<name>[^`]+)`"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in force. `source` is the layer it is from: `built in`, `home` or the directory of a project."""

    id: str
    source: str
    statement: Statement
    ask: str | None = None
    reason: str | None = None
    doc: str = ""
    obligations: Obligations = UNBOUND
    context: str | None = None  # the security context that it was made of

    @property
    def place(self) -> Place:
        return self.statement.place

    @property
    def effect(self) -> str:
        return "ask" if self.ask is not None else self.statement.effect


def text_of(name: str) -> str:
    """A file that is shipped with the gate."""
    return resources.files("aegis.services.gate").joinpath(name).read_text("utf-8")


@cache
def schema() -> Any:
    """The schema, parsed."""
    import cedarpy

    return cedarpy.Schema.from_str(text_of("aegis.cedarschema"))


@cache
def words() -> dict[str, tuple[str, ...]]:
    """The names that rules can use: of actions, of types and of attributes."""
    text = re.sub(r"//[^\n]*", "", text_of("aegis.cedarschema"))
    heads = re.findall(r"^action\s+(.*?)\s*appliesTo", text, re.MULTILINE | re.DOTALL)
    return {
        "action": tuple(re.findall(r'"([^"]+)"', " ".join(heads))),
        "entity type": (*re.findall(r"^entity (\w+)", text, re.MULTILINE), "Action"),
        "attribute": tuple(dict.fromkeys(re.findall(r"(\w+)\??:\s*(?:String|Bool|Long|Set|Call)", text))),
    }


@cache
def built_in() -> tuple[Rule, ...]:
    """The rules that hold before anybody wrote one."""
    return tuple(read(text_of("builtin.cedar"), "builtin.cedar", BUILT_IN))


def decoded(content: bytes, file: str) -> str:
    """The text of a file of rules. Raises TOO_LARGE and USAGE."""
    if len(content) > MAX_BYTES:
        raise AegisError(ErrorKind.TOO_LARGE, f"{file} is larger than {MAX_BYTES:,} bytes", "split it, or make it smaller", place=file)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Place(file).error(f"not UTF-8 at byte {error.start}") from error


def read(text: str, file: str, source: str) -> list[Rule]:
    """The rules of a text. Raises USAGE with `file:line:column` and, where there is one, the nearest name."""
    found = statements(text, file)
    if found:
        _validate(text, found)
    stem = file.rsplit("/", 1)[-1].removesuffix(".cedar")
    rules = [_rule(each, n, stem, source) for n, each in enumerate(found, 1)]
    unique(rules)
    return rules


def unique(rules: Sequence[Rule]) -> None:
    """Raise USAGE for two rules of one name."""
    seen: dict[str, Rule] = {}
    for rule in rules:
        if rule.id in seen:
            raise rule.place.error(f"the rule `{rule.id}` is there twice", f"the first one is at {seen[rule.id].place}")
        seen[rule.id] = rule


def _rule(statement: Statement, n: int, stem: str, source: str) -> Rule:
    said, place = statement.annotations, statement.place
    ident = said.get("id", f"{stem}#{n}")
    if source != BUILT_IN and ident.startswith(("aegis.", "aegis/")):
        raise place.error(f"`{ident}` has a name like the rules that are built in", "choose one that does not begin with `aegis.`")
    bounds = [name for name in ("rate", "concurrent", "max_result") if name in said]
    if statement.effect == "permit" and "ask" in said:
        raise place.error("`@ask` on a `permit`", "put it on a `forbid`: what that forbids a person is asked about")
    if statement.effect == "forbid" and bounds:
        raise place.error(f"`@{bounds[0]}` on a `forbid`", "put it on a `permit`")
    if ("concurrent" in said or "max_result" in said) and not (statement.actions and _BOUNDED.issuperset(statement.actions)):
        raise place.error(
            "`@concurrent` and `@max_result` hold calls of tools alone", 'write `action == Action::"tool.call"` in the head of the rule'
        )
    return Rule(
        ident,
        source,
        statement,
        ask=said.get("ask"),
        reason=said.get("reason"),
        doc=said.get("doc", ""),
        obligations=UNBOUND
        if not bounds
        else Obligations(
            rate=obligations.rate(said["rate"], place) if "rate" in said else None,
            concurrent=obligations.count(said["concurrent"], place) if "concurrent" in said else None,
            max_result=obligations.size(said["max_result"], place) if "max_result" in said else None,
        ),
    )


class _Told(msgspec.Struct):
    policy_id: str = ""
    error: str = ""


class _Validated(msgspec.Struct):
    validation_passed: bool
    errors: list[_Told] = []


def _validated(text: str) -> _Validated:
    from cedarpy import _internal

    return msgspec.json.decode(_internal.validate_policies(text, schema()), type=_Validated)


def _validate(text: str, found: list[Statement]) -> None:
    """Raise USAGE for what the engine cannot read, or what speaks of things that there are not."""
    try:
        result = _validated(text)
        if result.validation_passed:
            return
        told = result.errors[0]
        at = told.policy_id.removeprefix("policy")
        if at.isdecimal() and int(at) < len(found):
            raise _wrong(found[int(at)], told.error)
    except ValueError:
        pass
    for statement in found:  # which one cannot be parsed
        try:
            result = _validated(statement.text)
        except ValueError as error:
            raise _wrong(statement, str(error)) from error
        if not result.validation_passed:
            raise _wrong(statement, result.errors[0].error)
    raise found[0].place.error("these rules cannot be read together")


def _wrong(statement: Statement, said: str) -> AegisError:
    """What is wrong, at the place of the word that is wrong, with the nearest that there is."""
    message = re.sub(r"^(?:for policy `policy\d+`, |Policy parse error: )", "", said)
    match = _NOT_FOUND.search(said)
    if match is not None:
        what = match["what"] or "attribute"
        name = match["attribute"] or match["name"]
        bare = re.sub(r'^Action::"(.*)"$', r"\1", name)
        near = unknown_name(what, bare, words()[what], "`aegis policy show --schema` lists what rules can speak of")
        place = _find(statement, f'"{bare}"' if what == "action" else bare)
        return place.error(near.message + (f" of {match['of']}" if match["of"] else ""), near.hint, nearest=near.data["nearest"])
    quoted = re.search(r"optional attribute `(\w+)` in context", message)
    if quoted is not None:
        return _find(statement, quoted[1]).error(
            f"not every call has `context.{quoted[1]}`",
            f"write `context has {quoted[1]} && ...`, and name the action in the head of the rule",
        )
    token = re.search(r"unexpected token `([^`]+)`", message)
    place = _find(statement, token[1]) if token is not None and statement.text.count(token[1]) == 1 else statement.place
    return place.error(one_line(message, 300), "`aegis policy show --schema` lists what rules can speak of")


def _find(statement: Statement, word: str) -> Place:
    at = statement.text.find(word)
    if at < 0:
        return statement.place
    before = statement.text[:at]
    line = before.count("\n")
    column = at - before.rfind("\n") if line else statement.place.column + at
    return Place(statement.place.file, statement.place.line + line, column)


def moved(rule: Rule, **changes: Any) -> Rule:
    """The same rule with something else about it."""
    return replace(rule, **changes)
