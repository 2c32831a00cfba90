"""What rules would say, and why: questions of people, and cases in a file with the answers that are expected. Nothing is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.config.document import Node, parse
from aegis.services.gate import drafting
from aegis.services.gate.calls import effect_of
from aegis.services.gate.entities import UNKNOWN, between
from aegis.services.gate.judging import INHERITED, shown
from aegis.services.gate.model import Effect, Facet, Obligations, Relation
from aegis.services.gate.rules import BUILT_IN, words
from aegis.services.gate.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.core.events import ToolKind
    from aegis.services.gate import Gate
    from aegis.services.gate.judging import Judged, Part
    from aegis.services.gate.policies import InForce
    from aegis.services.gate.rules import Rule

OWNER: Final = "owner"
MAX_CASES: Final = 1000
WORKSPACE: Final = "/workspace"
_KINDS: Final[dict[str, ToolKind]] = {
    "fs.read": "read", "fs.list": "read", "fs.grep": "search", "fs.glob": "search", "fs.write": "edit", "fs.edit": "edit",
    "fs.multi_edit": "edit", "fs.create_dir": "edit", "fs.delete": "delete",
    "cmd.run": "execute", "web.fetch": "fetch", "web.search": "fetch",
}  # fmt: skip


class Question(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An action that somebody would do.

    `principal` is a handle, `owner`, or the attributes of an instance that need not exist, such as `{"agent": "coder"}`. `arguments` are
    those of a tool, `command` a command line; they are read as a call would be. The others are one thing that is touched.
    """

    principal: str | dict[str, Any] = OWNER
    action: str
    resource: str = ""
    arguments: dict[str, Any] = {}
    command: str | None = None
    path: str | None = None
    writes: bool = False
    host: str | None = None
    port: int | None = None
    method: str | None = None
    url_path: str | None = None
    session: str | None = None
    relation: str | None = None
    cwd: str = WORKSPACE


class Case(Question, forbid_unknown_fields=True, kw_only=True):
    """A question with the answer that is expected, and the rule that is to give it, where that matters."""

    name: str = ""
    expect: str
    rule: str | None = None


def effect(question: Question) -> Effect | None:
    """The call that a question is about; None where nothing is said of what it touches. Raises USAGE."""
    found: list[Facet] = []
    arguments = dict(question.arguments)
    opaque = False
    if question.command is not None:
        arguments.setdefault("command", question.command)
    if arguments:
        kind = "execute" if question.command is not None else _KINDS.get(question.resource, "other")
        made = effect_of(question.resource, kind, arguments, cwd=question.cwd, workspace=WORKSPACE, session=question.session)
        found, opaque = list(made.facets), made.opaque
    if question.path is not None:
        if not question.path.startswith("/"):
            raise AegisError(ErrorKind.USAGE, f"the path {question.path!r} is not absolute", f"write it as it is inside: `{WORKSPACE}/...`")
        found.append(Facet(path=question.path, writes=question.writes))
    if question.host is not None:
        found.append(Facet(host=question.host.lower(), port=question.port, method=question.method, url_path=question.url_path))
    if not found and not arguments:
        return None
    return Effect(
        tool=question.resource, facets=tuple(found), arguments=arguments, cwd=question.cwd, session=question.session, opaque=opaque,
        size=len(msgspec.json.encode(arguments)),
    )  # fmt: skip


class Questions:
    """Answers questions about the rules in force.

    Args:
        gate: whose rules.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def judged(self, question: Question, in_force: InForce | None = None) -> tuple[Judged, Mapping[str, Any] | None]:
        """What the rules say, and the attributes of the instance that was asked about. Raises USAGE and NOT_FOUND."""
        if question.action not in words()["action"]:
            raise unknown_name("action", question.action, words()["action"], "`aegis policy show --schema` lists them")
        if question.relation is not None and question.relation not in tuple(Relation):
            raise unknown_name("relation", question.relation, [str(each) for each in Relation])
        judge, call = self._gate.judge, effect(question)
        if isinstance(question.principal, str):
            if question.principal in (OWNER, "person"):
                person = Principal(PrincipalKind.PERSON, OWNER)
                return judge.judge(person, question.action, question.resource, call, question.session), None
            facts = judge.facts(question.principal)
            if facts is None:
                raise AegisError(
                    ErrorKind.NOT_FOUND,
                    f"no instance `{question.principal[:80]}`",
                    "see `aegis instance list`; `agent=NAME` asks for any of an agent",
                )
            if in_force is None and question.relation is None:
                instance = Principal(PrincipalKind.INSTANCE, judge.identity(question.principal))
                return judge.judge(instance, question.action, question.resource, call, question.session), facts
        else:
            facts = _facts(question.principal)
        in_force = in_force or self._gate.policies.of(str(facts["project"]))
        relation = question.relation or str(Relation.STRANGER)
        return judge.by(in_force, facts, question.action, question.resource, call, question.session, relation), facts

    def explain(self, question: Question) -> dict[str, Any]:
        """The verdict, what each part says and by which rules, and what would change it."""
        project = question.principal.get("project", "") if isinstance(question.principal, dict) else ""
        self._gate.policies.refresh(str(project))
        said, facts = self.judged(question)
        return {
            "verdict": verdict(said),
            "reason": said.reason,
            "policies": list(said.policies),
            "parts": [_told(part) for part in said.parts],
            "obligations": bounds(said.obligations),
            "change": self._change(question, said, facts),
        }

    def _change(self, question: Question, said: Judged, facts: Mapping[str, Any] | None) -> list[str]:
        """What would change the verdict, in lines for people."""
        if facts is None:
            if question.action.startswith(("policy.", "daemon.", "config.")):
                return ["nothing: no rule can take this from the owner"]
            return ["take the rule away that forbids it"] if not said.allow else ["a `forbid` of yours"]
        against = [rule for part in said.parts if not part.allow for rule in part.rules if rule.statement.effect == "forbid"]
        if said.allow:
            return [f"a `forbid`, or an end of {_names(rule for part in said.parts for rule in part.rules)}"]
        if against:
            left = self._without(question, facts, {rule.id for rule in against})
            lines = [f"{_names(against)}: change or remove it, at {', '.join(dict.fromkeys(str(rule.place) for rule in against))}"]
            if said.ask:
                return ["the answer of a person", *lines]
            return [*lines, f"without it the verdict is {verdict(left)}: {left.reason}"]
        if question.action in INHERITED or not between(question.action):
            return ["a rule that permits it, such as:", drafting.rule(facts, question.action, question.resource, effect(question))]
        return ["a rule that permits it: for no other rule does"]

    def _without(self, question: Question, facts: Mapping[str, Any], ids: set[str]) -> Judged:
        rules = [rule for rule in self._gate.policies.rules(str(facts["project"])) if rule.id not in ids]
        in_force = self._gate.policies.of(str(facts["project"]))._replace(shards=Shards(rules))
        return self.judged(msgspec.structs.replace(question, principal=dict(facts)), in_force)[0]

    def test(self, content: bytes, file: str) -> list[dict[str, Any]]:
        """Each case of a file and whether the rules say what it expects. Raises USAGE with the place."""
        self._gate.policies.refresh()
        results = []
        for n, case in enumerate(cases(content, file), 1):
            said, _ = self.judged(case)
            got = verdict(said)
            ok = got == case.expect and (case.rule is None or case.rule in said.policies)
            results.append({
                "name": case.name or f"case {n}", "ok": ok, "expect": case.expect, "verdict": got, "rule": case.rule,
                "policies": list(said.policies), "reason": said.reason,
            })  # fmt: skip
        return results


def cases(content: bytes, file: str) -> list[Case]:
    """The cases of a file: `cases:`, a list. Raises USAGE with the place."""
    root = parse(content, file)
    listed = root.value.get("cases") if root is not None and isinstance(root.value, dict) else None
    if root is None or listed is None or not isinstance(listed.value, list) or len(root.value) != 1:  # type: ignore[arg-type]
        raise (root.place if root is not None else _place(file)).error("not a file of cases", "write `cases:` and a list under it")
    if len(listed.value) > MAX_CASES:
        raise listed.place.error(f"more than {MAX_CASES} cases")
    found = []
    for node in listed.value:
        try:
            case = msgspec.convert(_plain(node), Case)
        except msgspec.ValidationError as error:
            raise node.place.error(f"not a case: {error}", "it needs `action` and `expect`") from error
        if case.expect not in ("allow", "deny", "ask"):
            raise node.place.error(f"`expect` is {case.expect!r}", "write `allow`, `deny` or `ask`")
        found.append(case)
    return found


def verdict(said: Judged) -> str:
    """The verdict in a word."""
    return "allow" if said.allow else "ask" if said.ask else "deny"


def bounds(held: Obligations) -> dict[str, Any]:
    """What a permit asks for besides, for programs."""
    rate = {"calls": held.rate[0], "seconds": held.rate[1]} if held.rate is not None else None
    return {"rate": rate, "concurrent": held.concurrent, "max_result": held.max_result}


def listed(rule: Rule) -> dict[str, Any]:
    """A rule for programs."""
    return {
        "id": rule.id,
        "effect": rule.effect,
        "source": rule.source,
        "place": str(rule.place),
        "actions": list(rule.statement.actions) if rule.statement.actions is not None else None,
        "says": rule.ask or rule.reason or rule.doc or "",
        "context": rule.context,
        "obligations": bounds(rule.obligations),
        "text": rule.statement.text,
        "built_in": rule.source == BUILT_IN,
    }


def _told(part: Part) -> dict[str, Any]:
    return {
        "instance": part.handle,
        "about": shown(part.facet) if part.facet is not None else "the call as a whole",
        "verdict": "allow" if part.allow else "ask" if part.ask else "deny",
        "reason": part.reason,
        "policies": [rule.id for rule in part.rules],
    }


def _names(rules: Any) -> str:
    return ", ".join(dict.fromkeys(f"`{rule.id}`" for rule in rules)) or "what permits it"


def _facts(given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of an instance that need not exist; what is not said is as with an agent of which nothing is said."""
    found = UNKNOWN | {"permission": "write", "approvals": "auto", "sandbox": "bwrap", "program": "native", "tools": ["core"]}
    for name, said in given.items():
        if name not in UNKNOWN:
            raise unknown_name("attribute", name[:80], UNKNOWN)
        wanted = type(UNKNOWN[name])
        if wanted is list and isinstance(said, (list, tuple)) and all(isinstance(each, str) for each in said):
            said = list(said)
        elif wanted is list and isinstance(said, str):
            said = [said]
        elif type(said) is not wanted:
            raise AegisError(ErrorKind.USAGE, f"the attribute `{name}` cannot be {said!r}", "see `aegis policy show --schema`")
        found[name] = said
    return found | {"handle": found["handle"] or "(any)"}


def _plain(node: Node) -> Any:
    if isinstance(node.value, list):
        return [_plain(each) for each in node.value]
    if isinstance(node.value, dict):
        return {key: _plain(each) for key, each in node.value.items()}
    return node.value


def _place(file: str) -> Any:
    from aegis.services.config.document import Place

    return Place(file)
