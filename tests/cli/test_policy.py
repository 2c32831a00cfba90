"""Rules at the command line: what is in force, why, what would be; and what is wrong with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Program

PUSH = """\
@id("push") @ask("publishes")
forbid (principal is Instance, action == Action::"tool.call", resource == Tool::"cmd.run")
when { context has subcommand && context.subcommand == "push" };
"""


def test_rules(daemon: Program) -> None:
    folder = daemon.home / "policies"
    assert "no rules of yours" in daemon("policy", "list").stdout
    folder.mkdir()
    (folder / "git.cedar").write_text(PUSH)
    told = daemon.json("policy", "list")
    assert [rule["id"] for rule in told["policies"] if not rule["built_in"]] == ["push"]
    assert daemon("policy", "show", "push").stdout.endswith(PUSH)
    assert 'action "tool.call"' in daemon("policy", "show", "--schema").stdout
    assert '@id("aegis.owner")' in daemon("policy", "show", "--built-in").stdout
    assert "did you mean `push`" in daemon("policy", "show", "psh", code=3).stderr
    daemon("policy", "show", code=2)

    who = "agent=coder,tools=cmd"
    told = daemon.json("policy", "explain", who, "tool.call", "cmd.run", "--command", "make && git push origin")
    assert (told["verdict"], told["policies"]) == ("ask", ["aegis.tools", "push"])
    assert daemon("policy", "explain", "agent=coder,tools=", "tool.call", "cmd.run", code=4).stdout.startswith("deny")
    assert "not JSON" in daemon("policy", "explain", who, "tool.call", "cmd.run", "--arguments", "{", code=2).stderr
    assert "no attribute `agnt`" in daemon("policy", "explain", "agnt=x", "tool.call", "x", code=3).stderr

    cases = daemon.cwd / "cases.yaml"
    cases.write_text(daemon("policy", "test", "--example").stdout)
    assert "5 of 5 as expected" in daemon("policy", "test", str(cases)).stdout
    cases.write_text("cases: [{principal: owner, action: config.edit, resource: x, expect: deny}]")
    assert "FAILED" in daemon("policy", "test", str(cases), code=1).stdout

    draft = daemon.cwd / "draft.cedar"
    draft.write_text("permit (principal, action, resource);")
    assert "a `permit` for every action" in daemon("policy", "check", str(draft)).stderr
    assert "would be decided otherwise" in daemon("policy", "simulate", str(draft)).stdout
    assert "not a length of time" in daemon("policy", "simulate", "--since", "soon", code=2).stderr
    assert "nothing was denied" in daemon("policy", "draft").stdout
    assert "does not end" in daemon("policy", "check", "-", stdin=b"permit (", code=2).stderr

    (folder / "bad.cedar").write_text("forbid (")
    assert "bad.cedar:1:1: this rule does not end" in daemon("policy", "check", code=2).stderr
    assert "what was in force before stays" in daemon("policy", "list").stderr
    assert "✗ policies" in daemon("doctor", code=None).stdout
    assert "not in force" in (daemon.home / "aegisd.log").read_text()
    (folder / "bad.cedar").unlink()
    assert "1 rules of yours are in force" in daemon("policy", "check").stdout
