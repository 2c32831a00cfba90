"""Security contexts: what is listed and nothing else, with a reason that names what was not."""

from __future__ import annotations

import pytest
from tests.gate.rules_house import CODER, House

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate import Effect, Facet
from aegis.services.gate.contexts import read

HEAD = "apiVersion: aegis/v1\nkind: SecurityContext\nmetadata: {name: strict}\n"
FULL = (
    HEAD
    + """\
spec:
  description: reads, and runs a few commands
  capabilities:
    - tool_pattern: fs.*
      path_allowlist: [/workspace/src, "/workspace/docs/*"]
      max_response_size: 64K
    - tool_pattern: cmd.run
      command_allowlist: [git, ls]
      subcommand_allowlist: {git: [status, log]}
      rate_limit: {calls: 2, per_seconds: 60}
      max_concurrent: 1
    - tool_pattern: web.fetch
      domain_allowlist: [docs.example, "*.docs.example"]
    - tool_pattern: aegis.status
  deny_list: [fs.delete]
"""
)


def bind(house: House, text: str, *names: str) -> None:
    house.have(CODER, tools=("core", "fs", "cmd", "web"), security=names or ("strict",))
    house.rules(text, "strict.yaml")
    assert not house.problem


def path(name: str) -> Facet:
    return Facet(path=name)


def git(word: str | None) -> Facet:
    return Facet(command="git", subcommand=word)


@pytest.mark.parametrize(
    ("tool", "facets", "allowed", "reason"),
    [
        ("fs.read", [path("/workspace/src/a.py")], True, ""),
        ("fs.read", [path("/workspace/src")], True, ""),
        ("fs.read", [path("/workspace/docs/a")], True, ""),
        ("fs.read", [path("/workspace/srcs/a")], False, "`/workspace/srcs/a` is outside of /workspace/src"),
        ("fs.read", [path("/workspace/src/a"), path("/etc/passwd")], False, "/etc/passwd"),
        ("fs.read", [], False, "cannot be told"),
        ("fs.delete", [path("/workspace/src/a")], False, "denies `fs.delete`"),
        ("cmd.run", [git("status")], True, ""),
        ("cmd.run", [git("push")], False, "`git push` is not among status, log of `git`"),
        ("cmd.run", [git(None)], False, "`git` is not among"),
        ("cmd.run", [Facet(command="ls")], True, ""),
        ("cmd.run", [Facet(command="ls"), Facet(command="rm")], False, "`rm` is not among git, ls"),
        ("web.fetch", [Facet(host="docs.example", port=443)], True, ""),
        ("web.fetch", [Facet(host="a.docs.example", port=443)], True, ""),
        ("web.fetch", [Facet(host="evildocs.example", port=443)], False, "`evildocs.example` is not among"),
        ("aegis.status", [], True, ""),
        ("aegis.spawn", [], False, "does not give `aegis.spawn`: it gives"),
        ("github.create_issue", [], False, "does not give"),
    ],
)
def test_what_a_context_gives(house: House, tool: str, facets: list[Facet], allowed: bool, reason: str) -> None:
    bind(house, FULL)
    said = house.ask("tool.call", tool, *facets)
    assert said.allow is allowed, said.reason
    assert reason in said.reason
    assert said.allow or said.policies


def test_a_command_that_hides_others_is_none_of_those_listed(house: House) -> None:
    bind(house, FULL)
    assert not house.ask("tool.call", "cmd.run", Facet(command="ls"), opaque=True).allow


def test_bounds_and_lists_of_a_context(house: House) -> None:
    bind(house, FULL)
    said = house.ask("tool.call", "cmd.run", Facet(command="ls")).obligations
    assert (said.rate, said.concurrent) == ((2, 60.0), 1)
    assert house.ask("tool.call", "fs.read", path("/workspace/src/a")).obligations.max_result == 65536
    assert [tool for tool in ("fs.read", "fs.delete", "cmd.run", "aegis.spawn") if house.gate.offers(CODER, tool)] == ["fs.read", "cmd.run"]


@pytest.mark.parametrize("empty", ["[]", "null", '[""]', "['', '  ']", ""])
@pytest.mark.parametrize("key", ["path_allowlist", "command_allowlist", "domain_allowlist", "subcommand_allowlist"])
def test_an_empty_list_denies(house: House, key: str, empty: str) -> None:
    if key == "subcommand_allowlist":
        empty = {"[]": "{}", "null": "null", "": ""}.get(empty, f"{{git: {empty}}}")
    bind(house, HEAD + f'spec:\n  capabilities:\n    - tool_pattern: "*"\n      {key}: {empty}\n')
    for facet in (path("/workspace/a"), git("status"), Facet(host="a.example")):
        touched = {"path_allowlist": facet.path, "domain_allowlist": facet.host}.get(key, facet.command)
        if touched is not None:
            assert not house.ask("tool.call", "fs.read", facet).allow
    assert not house.ask("tool.call", "fs.read").allow


@pytest.mark.parametrize("body", ["", "spec: {capabilities: []}\n", "spec: {capabilities: null}\n", "spec: {}\n", "capabilities: []\n"])
def test_a_context_without_capabilities_gives_nothing(house: House, body: str) -> None:
    bind(house, HEAD + body)
    for action in ("tool.call", "tool.list", "tool.use"):
        assert not house.ask(action, "fs.read").allow
    assert house.ask("model.call", "a/b").allow


def test_a_rule_that_permits_more_does_not_widen_a_context(house: House) -> None:
    bind(house, FULL)
    house.rules('permit(principal is Instance, action == Action::"tool.call", resource);')
    assert not house.ask("tool.call", "fs.read", path("/etc/passwd")).allow


def test_several_contexts_give_what_each_of_them_gives(house: House) -> None:
    wide = 'apiVersion: 100monkeys.ai/v1\nkind: SecurityContext\nmetadata: {name: wide}\nspec:\n  capabilities: [{tool_pattern: "*"}]\n'
    bind(house, FULL, "strict", "wide")
    house.rules(wide, "wide.yaml")
    assert house.ask("tool.call", "fs.read", path("/workspace/src/a")).allow
    assert not house.ask("tool.call", "fs.read", path("/etc/passwd")).allow
    assert not house.ask("tool.call", "web.search").allow


def test_a_context_that_is_gone_leaves_nothing(house: House) -> None:
    bind(house, FULL)
    (house.folder / "strict.yaml").unlink()
    house.look()
    said = house.ask("tool.call", "fs.read", path("/workspace/src/a"))
    assert (said.allow, said.reason) == (False, "the security context `strict` is not there any more")


def test_a_name_that_is_none_is_refused_with_the_nearest(house: House) -> None:
    bind(house, FULL)
    house.gate.policies.require_context("strict", "")
    with pytest.raises(AegisError) as caught:
        house.gate.policies.require_context("stric", "")
    assert (caught.value.kind, caught.value.data["nearest"]) == (ErrorKind.NOT_FOUND, "strict")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("kind: SecurityContext\n", "c.yaml:1:1"),
        ("apiVersion: v2\nkind: SecurityContext\n", "c.yaml:1:1"),
        ("apiVersion: aegis/v1\nkind: Workflow\n", "c.yaml:1:1"),
        (HEAD.replace("strict", "../x"), "c.yaml:1:1"),
        (HEAD.replace("strict", "stri\u0441t"), "c.yaml:1:1"),
        (HEAD + "spec:\n  capabilites: []\n", "c.yaml:5:3"),
        (HEAD + "spec:\n  capabilities:\n    - {tool: x}\n", "c.yaml:6:8"),
        (HEAD + "spec:\n  capabilities:\n    - {path_allowlist: []}\n", "c.yaml:6:7"),
        (HEAD + "spec:\n  capabilities:\n    - {tool_pattern: 'a\"b'}\n", "c.yaml:6:22"),
        (HEAD + "spec:\n  capabilities:\n    - {tool_pattern: x, path_allowlist: [../a]}\n", "c.yaml:6:42"),
        (HEAD + "spec:\n  capabilities:\n    - {tool_pattern: x, path_allowlist: [/a/../b]}\n", "c.yaml:6:42"),
        (HEAD + "spec:\n  capabilities:\n    - {tool_pattern: x, rate_limit: {calls: many, per_seconds: 1}}\n", "c.yaml:6:45"),
        (HEAD + "spec:\n  capabilities:\n    - {tool_pattern: x, rate_limit: {calls: 1, per_seconds: 0}}\n", "c.yaml:6:37"),
        (HEAD + "spec:\n  capabilities: yes\n", "c.yaml:5:17"),
        ("", "c.yaml"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, place: str) -> None:
    with pytest.raises(AegisError) as caught:
        read(text.encode(), "c.yaml")
    assert caught.value.message.startswith(f"{place}: "), caught.value.message


def test_text_cannot_break_out_of_the_rule_it_becomes(house: House) -> None:
    nasty = '/workspace/a\\" || true || context.path == \\"'
    bind(house, HEAD + f'spec:\n  capabilities:\n    - tool_pattern: "*"\n      path_allowlist: ["{nasty}"]\n')
    assert not house.ask("tool.call", "fs.read", path("/etc/passwd")).allow
    assert house.ask("tool.call", "fs.read", path(nasty.replace("\\", ""))).allow


def test_a_large_context_is_no_deep_one(house: House) -> None:
    paths = ", ".join(f"/workspace/d{n}" for n in range(200))
    many = "".join(f"    - tool_pattern: t{n}.*\n      path_allowlist: [{paths}]\n" for n in range(40))
    bind(house, HEAD + f"spec:\n  capabilities:\n{many}")
    assert house.ask("tool.call", "t39.x", path("/workspace/d199/a")).allow
    assert not house.ask("tool.call", "t39.x", path("/workspace/e/a")).allow


async def test_a_rate_of_a_context_is_held(house: House) -> None:
    bind(house, FULL)
    call = Effect(tool="cmd.run", facets=(Facet(command="ls"),))
    for _ in range(2):
        await house.gate.check(CODER, "tool.call", "cmd.run", effect=call)
    with pytest.raises(AegisError, match="allows 2 in 60 s"):
        await house.gate.check(CODER, "tool.call", "cmd.run", effect=call)
