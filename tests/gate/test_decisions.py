"""What the gate says: what is built in, rules over what a call touches, questions, bounds, and files that change."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from tests.gate.rules_house import CHILD, CODER, OWNER, House

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import SYSTEM, Principal, PrincipalKind
from aegis.services.config.model import RuleFiles
from aegis.services.gate import Effect, Facet, Relation, Verdict

CALL = 'principal is Instance, action == Action::"tool.call", resource'
NO_RM = f'@id("no-rm") @reason("rm is for people") forbid({CALL}) when {{ context has command && context.command == "rm" }};'
PUSH = f'@id("push") @ask("pushes") forbid({CALL}) when {{ context has subcommand && context.subcommand == "push" }};'
RM, LS, GIT = Facet(command="rm"), Facet(command="ls"), Facet(command="git", subcommand="push", args=("push",))

#: What an instance may do to another one of each relation, without a rule of anybody's.
OWN = {Relation.SELF, Relation.DESCENDANT, Relation.ACQUAINTED, Relation.STRANGER}
KNOWN = {Relation.DESCENDANT, Relation.ACQUAINTED}
BELOW = {Relation.DESCENDANT}
TABLE = {
    "model.call": OWN, "mail.read": OWN, "instance.spawn": OWN, "mail.send": KNOWN, "peer.read": KNOWN | {Relation.SELF},
    **dict.fromkeys(
        ["instance.exec", "instance.pause", "instance.resume", "instance.restart", "instance.disable", "instance.delete", "turn.interrupt"],
        BELOW,
    ),
    **dict.fromkeys(
        ["instance.create", "instance.start", "session.configure", "session.fork", "mail.retry", "mail.drop", "config.edit", "config.trust",
         "daemon.shutdown", "home.backup", "secret.set", "secret.list", "secret.delete", "approval.decide", "attention.test", "something.new"],
        frozenset(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("action", TABLE)
async def test_what_is_built_in(house: House, action: str) -> None:
    for relation in Relation:
        house.gate.relation = lambda _one, _other, relation=relation: relation  # type: ignore[misc]
        assert house.gate.decide(CODER, action, f"other-{relation}").allow is (relation in TABLE[action]), relation
    assert house.gate.decide(OWNER, action, "x").reason == "owner"
    assert house.gate.decide(SYSTEM, action, "x").reason == "the daemon itself"


async def test_the_reasons_of_what_is_built_in(house: House) -> None:
    assert house.ask("model.call", "a/b").reason == "granted at launch"
    assert house.ask("mail.send", "bob").reason == "stranger of it"
    assert house.ask("config.edit", "x").reason == "default deny"
    assert house.ask("tool.use", "Bash", RM).policies == ("aegis.program",)


async def test_tools_are_of_the_families_and_servers_that_it_was_given(house: House) -> None:
    house.have(CODER, tools=("fs",), servers=("github",))
    assert house.ask("tool.call", "fs.read", Facet(path="/workspace/a")).allow
    assert house.ask("tool.call", "github.create_issue").allow
    assert not house.ask("tool.call", "cmd.run", LS).allow
    assert not house.ask("tool.list", "gitlab.create_issue").allow


async def test_a_call_is_judged_for_each_thing_that_it_touches_and_no_reason_is_lost(house: House) -> None:
    house.rules(NO_RM + f'@id("no-dd") forbid({CALL}) when {{ context has command && context.command == "dd" }};')
    assert house.ask("tool.call", "cmd.run", LS).allow
    said = house.ask("tool.call", "cmd.run", LS, RM, Facet(command="dd", args=("if=/dev/zero",)))
    assert said.verdict is Verdict.DENY
    assert said.policies == ("no-rm", "no-dd")
    assert said.reason == "`rm`: rm is for people (the rule `no-rm`); `dd if=/dev/zero`: the rule `no-dd` forbids it"
    assert "aegis policy show no-rm" in said.hint


async def test_every_thing_must_be_permitted_and_what_is_hidden_is_no_exception(house: House) -> None:
    house.have(CODER, tools=())
    house.rules(f'@id("make") permit({CALL}) when {{ context has command && context.command == "make" }};')
    make = Facet(command="make")
    assert house.ask("tool.call", "cmd.run", make).allow
    assert not house.ask("tool.call", "cmd.run", make, LS).allow
    assert not house.ask("tool.call", "cmd.run", make, opaque=True).allow
    assert not house.ask("tool.call", "cmd.run").allow


async def test_a_question_is_no_permission(house: House) -> None:
    house.rules(NO_RM + PUSH)
    assert house.ask("tool.call", "cmd.run", LS, GIT).verdict is Verdict.ASK
    assert house.ask("tool.call", "cmd.run", RM, GIT).verdict is Verdict.DENY
    house.have(CODER, tools=())
    assert house.ask("tool.call", "cmd.run", GIT).verdict is Verdict.DENY


async def test_a_person_answers_what_is_asked(house: House) -> None:
    house.rules(PUSH)
    with pytest.raises(AegisError) as caught:  # nobody is there
        await house.gate.check(CODER, "tool.call", "cmd.run", effect=Effect(facets=(GIT,)))
    assert (caught.value.kind, caught.value.data["reason"]) == (ErrorKind.DENIED, "pushes")
    assert house.gate.list()[-1]["reason"] == "pushes"


async def test_the_arguments_of_a_call_are_seen(house: House) -> None:
    house.rules(f'forbid({CALL}) when {{ context has call && context.call.hasTag("n") && context.call.getTag("n") == "3" }};')
    assert house.ask("tool.call", "fs.read", arguments={"n": 2}).allow
    assert not house.ask("tool.call", "fs.read", arguments={"n": 3}).allow
    assert not house.ask("tool.call", "fs.read", arguments={"n": "3"}).allow


async def test_rules_cannot_lock_the_owner_out_nor_the_daemon(house: House) -> None:
    house.rules('@id("all") forbid(principal, action, resource);')
    for action in ("config.edit", "daemon.shutdown", "policy.write"):
        assert house.gate.decide(OWNER, action, "x").allow
    assert house.gate.decide(SYSTEM, "instance.disable", "x").allow
    assert house.gate.decide(OWNER, "instance.delete", "x").policies == ("all",)
    house.rules('@id("all") @ask("sure?") forbid(principal, action, resource);')
    assert house.gate.decide(OWNER, "instance.delete", "x").allow  # whom else would it ask


async def test_the_head_of_a_rule_is_not_lost_where_it_is_sorted_by_it(house: House) -> None:
    action = 'action == Action::"model.call"'
    house.rules(
        f'@id("p") forbid(principal == Person::"you", {action}, resource);\n@id("i") forbid(principal == Instance::"child", {action}, resource);\n'
        f'@id("r") forbid(principal is Instance, {action}, resource == Model::"a/b");\n@id("n") forbid(principal in Person::"you", {action}, resource);'
    )
    house.have(CHILD)
    assert house.gate.decide(OWNER, "model.call", "x/y").allow
    assert house.gate.decide(Principal(PrincipalKind.PERSON, "you"), "model.call", "x/y").policies == ("p", "n")
    assert house.ask("model.call", "x/y").allow
    assert house.ask("model.call", "a/b").policies == ("r",)
    assert house.ask("model.call", "x/y", who=CHILD).policies == ("i",)


async def test_a_child_has_no_more_than_any_of_its_ancestors(house: House) -> None:
    house.have(CHILD, agent="deployer")
    house.above[CHILD.id] = [CODER.id]
    house.have(CODER, tools=())
    house.rules(f'@id("deploy") permit({CALL}) when {{ principal.agent == "deployer" }};')
    said = house.ask("tool.call", "ssh.run", who=CHILD)
    assert (said.allow, said.reason) == (False, "its ancestor `coder` may not: default deny")
    house.above.clear()
    assert house.ask("tool.call", "ssh.run", who=CHILD).policies == ("deploy",)


async def test_bounds_of_a_permit(house: House) -> None:
    house.rules(f'@id("some") @rate("2/60s") @concurrent("1") @max_result("1KiB") permit({CALL} == Tool::"fs.read");')
    call = Effect(tool="fs.read", facets=(Facet(path="/workspace/a"),))
    async with house.gate.passing(CODER, "tool.call", "fs.read", effect=call) as decision:
        assert (decision.obligations.max_result, decision.obligations.rate) == (1024, (2, 60.0))
        with pytest.raises(AegisError, match="at a time"):
            async with house.gate.passing(CODER, "tool.call", "fs.read", effect=call):
                pass
    with pytest.raises(AegisError) as caught:
        async with house.gate.passing(CODER, "tool.call", "fs.read", effect=call):
            pass
    assert caught.value.data["retry_after"] == 60.0
    assert [row["decision"] for row in house.gate.list()] == ["allow", "deny", "deny"]
    await house.clock.advance(61)
    async with house.gate.passing(CODER, "tool.call", "fs.read", effect=call):
        pass


async def test_a_rate_also_counts_for_the_ancestors(house: House) -> None:
    house.have(CHILD)
    house.above[CHILD.id] = [CODER.id]
    house.rules(f'@id("some") @rate("1/60s") permit({CALL} == Tool::"fs.read");')
    await house.gate.check(CHILD, "tool.call", "fs.read")
    with pytest.raises(AegisError, match="allows 1 in 60 s"):
        await house.gate.check(CODER, "tool.call", "fs.read")


async def test_files_are_read_again_when_they_change_and_a_bad_set_is_not_taken(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.rules(NO_RM)
    assert not house.ask("tool.call", "cmd.run", RM).allow
    with caplog.at_level(logging.WARNING):
        house.rules("forbid(", "bad.cedar")
    assert house.problem.endswith("bad.cedar:1:1: this rule does not end")
    assert "not in force" in caplog.text
    assert not house.ask("tool.call", "cmd.run", RM).allow
    (house.folder / "bad.cedar").unlink()
    (house.folder / "rules.cedar").unlink()
    assert not house.ask("tool.call", "cmd.run", RM).allow  # not looked at within a second
    await house.clock.advance(1.1)
    assert house.ask("tool.call", "cmd.run", RM).allow
    assert not house.problem


async def test_rules_that_never_could_be_read_leave_agents_nothing(house: House) -> None:
    house.rules("forbid(")
    said = house.ask("model.call", "a/b")
    assert (said.allow, "cannot be read" in said.reason) == (False, True)
    assert house.gate.decide(OWNER, "instance.create", "x").allow
    house.rules(NO_RM)
    assert house.ask("model.call", "a/b").allow


@pytest.mark.parametrize("kind", ["link", "loop", "folder link", "pipe", "large", "name", "look-alike", "newline", "many"])
async def test_what_is_no_file_of_rules_is_refused(house: House, tmp_path: Path, kind: str) -> None:
    house.rules(NO_RM)
    folder = house.folder
    match kind:
        case "link":
            (folder / "a.cedar").symlink_to("/etc/passwd")
        case "loop":
            (folder / "a.cedar").symlink_to(folder / "a.cedar")
        case "folder link":
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(folder / "a.cedar")
        case "large":
            (folder / "a.cedar").write_bytes(b"//" + b"a" * 10_000_000)
        case "name":
            (folder / "a.txt.rules").write_text("")
        case "look-alike":
            (folder / "\u0430.cedar").write_text("")
        case "newline":
            (folder / "a\nb.cedar").write_text("")
        case "many":
            for n in range(300):
                (folder / f"f{n}.cedar").write_text("")
    house.look()
    assert house.problem.isprintable()
    assert house.problem
    assert not house.ask("tool.call", "cmd.run", RM).allow


async def test_the_rules_of_a_project_hold_for_its_instances_once_they_are_trusted(house: House) -> None:
    house.have(CODER, project="/p")
    house.have(CHILD, project="/q")
    text = {"/p/.aegis/policies/a.cedar": NO_RM.encode()}
    house.projects["/p"] = RuleFiles(1, True, lambda: text)
    house.look()
    assert not house.ask("tool.call", "cmd.run", RM).allow
    assert house.ask("tool.call", "cmd.run", RM, who=CHILD).allow
    house.projects["/p"] = RuleFiles(2, False, dict)  # changed, and nobody accepted that
    house.look()
    assert not house.ask("tool.call", "cmd.run", RM).allow
    assert "accepted" in (house.gate.policies.layers("/p")[1].problem or "")
    del house.projects["/p"]
    house.gate.policies.refresh("/p")
    assert not house.ask("tool.call", "cmd.run", RM).allow
    house.projects["/p"] = RuleFiles(3, True, dict)
    house.look()
    assert house.ask("tool.call", "cmd.run", RM).allow


async def test_rules_that_nobody_accepted_leave_the_instances_of_their_project_nothing(house: House) -> None:
    house.have(CODER, project="/p")
    house.projects["/p"] = RuleFiles(1, False, lambda: {"/p/.aegis/policies/a.cedar": NO_RM.encode()})
    assert not house.ask("model.call", "a/b").allow
    house.projects["/p"] = RuleFiles(2, False, dict)  # a project that nobody trusts, without any
    house.have(CHILD, project="/q")
    house.projects["/q"] = RuleFiles(1, False, dict)
    assert house.ask("model.call", "a/b", who=CHILD).allow


async def test_what_is_remembered_is_not_what_was(house: House) -> None:
    assert house.ask("model.call", "a/b").allow
    house.rules('@id("m") forbid(principal is Instance, action == Action::"model.call", resource) when { resource.provider == "a" };')
    assert not house.ask("model.call", "a/b").allow
    house.gate.relation = lambda _one, _other: Relation.ACQUAINTED
    house.have(CHILD)
    assert house.ask("mail.send", "child").allow
    house.rules('forbid(principal is Instance, action == Action::"mail.send", resource) when { resource.agent == "boss" };')
    assert house.ask("mail.send", "child").allow
    house.have(CHILD, agent="boss")
    assert not house.ask("mail.send", "child").allow


async def test_hosts_are_seen_with_and_without_a_call(house: House) -> None:
    house.rules(
        'forbid(principal is Instance, action == Action::"egress.connect", resource) when { resource.name like "*.evil.example" };\n'
        '@ask("reads mail") forbid(principal is Instance, action == Action::"egress.request", resource == Host::"api.example") '
        'when { context has method && context.method == "GET" };'
    )
    assert not house.ask("egress.connect", "a.EVIL.example:443").allow
    assert house.ask("egress.connect", "evil.example:443").allow
    assert house.ask("egress.request", "api.example:443", Facet(host="api.example", port=443, method="GET")).ask
    assert house.ask("egress.request", "api.example:443", Facet(host="api.example", port=443, method="PUT")).allow


async def test_a_tool_is_offered_when_some_call_of_it_could_be_allowed(house: House) -> None:
    house.rules(NO_RM + f'@id("w") forbid({CALL} == Tool::"fs.write") unless {{ context has path && context.path like "/workspace/*" }};')
    assert house.gate.offers(CODER, "cmd.run")
    assert house.gate.offers(CODER, "fs.write")
    assert not house.gate.offers(CODER, "web.fetch")
    house.rules(
        f'forbid({CALL} == Tool::"cmd.run");\npermit({CALL} == Tool::"web.fetch") when {{ context has host && context.host == "a" }};'
    )
    assert not house.gate.offers(CODER, "cmd.run")
    assert house.gate.offers(CODER, "web.fetch")
    house.rules('forbid(principal is Instance, action == Action::"tool.list", resource == Tool::"fs.read");')
    assert not house.gate.offers(CODER, "fs.read")
    assert house.ask("tool.call", "fs.read", Facet(path="/workspace/a")).allow


async def test_many_rules_about_others_are_not_asked(house: House) -> None:
    text = "".join(f'@id("r{n}") forbid({CALL}) when {{ principal.agent == "agent{n}" }};\n' for n in range(500))
    house.rules(text + f'@id("mine") forbid({CALL}) when {{ principal.agent == "coder" }};')
    assert house.ask("tool.call", "cmd.run", LS).policies == ("mine",)
    shard = house.gate.policies.of("").shards.of("tool.call", "Instance", (("agent", "coder"), ("handle", "coder")))
    assert [rule.id for rule in shard.rules] == ["aegis.tools", "mine"]


async def test_names_of_rules_are_kept_in_a_large_set(house: House) -> None:
    house.rules("".join(f'@id("x{n}") forbid({CALL}) when {{ context has command && context.command == "c{n}" }};\n' for n in range(120)))
    for n in (0, 9, 10, 99, 100, 119):
        assert house.ask("tool.call", "cmd.run", Facet(command=f"c{n}")).policies == (f"x{n}",)


async def test_decisions_at_once_do_not_mix(house: House) -> None:
    house.rules(NO_RM)
    found = await asyncio.gather(
        *(house.gate.check(CODER, "tool.call", "cmd.run", effect=Effect(facets=(LS,))) for _ in range(5)),
        *(house.gate.check(CODER, "tool.call", "cmd.run", effect=Effect(facets=(RM,))) for _ in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(each, AegisError) for each in found] == [False] * 5 + [True] * 5
