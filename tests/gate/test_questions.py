"""Questions of people: cases, why, what other rules would have said, and rules for what was denied."""

from __future__ import annotations

import pytest
from tests.gate.rules_house import CODER, House

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate import Effect, Facet, rules
from aegis.services.gate.questions import Question, Questions
from aegis.services.gate.simulating import draft, simulate

CALL = 'principal is Instance, action == Action::"tool.call", resource'
NO_RM = f'@id("no-rm") forbid({CALL}) when {{ context has command && context.command == "rm" }};'


def ask(house: House, action: str = "tool.call", resource: str = "cmd.run", **more: object) -> dict[str, object]:
    return Questions(house.gate).explain(Question(action=action, resource=resource, **{"principal": "coder", **more}))  # type: ignore[arg-type]


def test_a_command_line_is_asked_command_by_command(house: House) -> None:
    house.rules(NO_RM)
    told = ask(house, command="ls && env X=1 rm -rf build")
    assert (told["verdict"], told["policies"]) == ("deny", ["no-rm"])
    assert len(told["parts"]) > 1  # type: ignore[arg-type]
    assert "`no-rm`" in told["change"][0]  # type: ignore[index]
    assert "without it the verdict is allow" in told["change"][1]  # type: ignore[index]


def test_what_no_rule_permits_is_answered_with_one_that_would(house: House) -> None:
    told = ask(house, principal={"agent": "x", "tools": []}, resource="fs.write", path="/workspace/a", writes=True)
    text = told["change"][-1]  # type: ignore[index]
    house.rules(text)
    assert not house.problem
    assert ask(house, principal={"agent": "x", "tools": []}, resource="fs.write", path="/workspace/a", writes=True)["verdict"] == "allow"
    assert ask(house, principal={"agent": "x", "tools": []}, resource="fs.write", path="/workspace/b", writes=True)["verdict"] == "deny"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ({"action": "tool.cal"}, ErrorKind.NOT_FOUND),
        ({"principal": "nobody"}, ErrorKind.NOT_FOUND),
        ({"principal": {"agnt": "x"}}, ErrorKind.NOT_FOUND),
        ({"principal": {"depth": "deep"}}, ErrorKind.USAGE),
        ({"relation": "friend"}, ErrorKind.NOT_FOUND),
        ({"path": "relative"}, ErrorKind.USAGE),
        ({"arguments": {"path": "a\0b"}}, ErrorKind.USAGE),
    ],
)
def test_a_question_that_is_none(house: House, question: dict[str, object], kind: ErrorKind) -> None:
    with pytest.raises(AegisError) as caught:
        ask(house, **question)
    assert caught.value.kind is kind


def test_cases(house: House) -> None:
    house.rules(NO_RM)
    found = Questions(house.gate).test(
        b"cases:\n"
        b"  - {name: one, principal: {agent: x, tools: [cmd]}, action: tool.call, resource: cmd.run, command: rm a, expect: deny, rule: no-rm}\n"
        b"  - {principal: owner, action: config.edit, resource: x, expect: deny}\n"
        b"  - {principal: coder, action: mail.send, resource: bob, relation: acquainted, expect: allow}\n",
        "cases.yaml",
    )
    assert [(case["name"], case["ok"]) for case in found] == [("one", True), ("case 2", False), ("case 3", True)]
    for text in (b"", b"cases: {}", b"cases: [{expect: allow}]", b"cases: [{action: tool.call, expect: maybe}]", b"cases: [a]", b"x: 1"):
        with pytest.raises(AegisError) as caught:
            Questions(house.gate).test(text, "cases.yaml")
        assert caught.value.message.startswith("cases.yaml")


async def test_the_record_is_asked_again(house: House) -> None:
    rm, ls = Effect(tool="cmd.run", facets=(Facet(command="rm"),)), Effect(tool="cmd.run", facets=(Facet(command="ls"),))
    for effect in (rm, ls):
        async with house.gate.passing(CODER, "tool.call", "cmd.run", effect=effect):
            pass
    told = await simulate(house.gate, 0.0, NO_RM)
    assert (told["replayed"], told["changed"]) == (2, 1)
    assert told["changes"][0]["policies"] == ["no-rm"]
    assert (await simulate(house.gate, house.clock.now() + 1, NO_RM))["records"] == 0
    assert (await simulate(house.gate, 0.0, None))["changed"] == 0
    house.rules(NO_RM, "git.cedar")
    assert (await simulate(house.gate, 0.0, None))["changed"] == 1
    assert (await simulate(house.gate, 0.0, "", "git.cedar"))["changed"] == 1  # the file as it would be
    with pytest.raises(AegisError, match=r"draft.cedar:1:1"):
        await simulate(house.gate, 0.0, "forbid(")


async def test_rules_for_what_was_denied(house: House) -> None:
    house.have(CODER, tools=(), project="/p")
    house.rules(NO_RM)
    calls = [
        ("fs.read", (Facet(path="/workspace/a"),)), ("fs.read", (Facet(path='/workspace/"b"'),)), ("cmd.run", (Facet(command="rm"),)),
        ("cmd.run", (Facet(command="git", subcommand="log"), Facet(command="ls"))), ("web.fetch", (Facet(host="a.example", port=443, method="GET"),)),
        ("github.list", ()),
    ]  # fmt: skip
    for tool, facets in calls:
        with pytest.raises(AegisError):
            await house.gate.check(CODER, "tool.call", tool, effect=Effect(tool=tool, facets=facets))
    told = await draft(house.gate, 0.0)
    assert (told["denials"], told["forbidden"]) == (6, {"no-rm": 1})
    made = rules.read("\n".join(told["rules"]), "draft.cedar", "draft")
    assert [rule.effect for rule in made] == ["permit"] * 5
    house.rules("\n".join(told["rules"]), "draft.cedar")
    assert not house.problem
    for tool, facets in calls:
        assert house.ask("tool.call", tool, *facets).allow is (facets != (Facet(command="rm"),)), tool
    assert not house.ask("tool.call", "fs.read", Facet(path="/workspace/c")).allow
    assert not house.ask("tool.call", "cmd.run", Facet(command="git", subcommand="push")).allow
