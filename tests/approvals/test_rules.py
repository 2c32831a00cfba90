"""Rules that are written with an answer: the narrowest, seen first, in force at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.drivers import Asked
from aegis.services.approvals import Approvals, ApprovedRules
from aegis.services.gate import Decision, Gate
from aegis.services.gate.calls import effect_of
from aegis.services.gate.prompts import written_by_a_person
from aegis.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aegis.core.events import ToolKind
    from aegis.services.approvals import Approval

OWNER = Principal(PrincipalKind.PERSON, "tester")
AGENT = Principal(PrincipalKind.INSTANCE, "inst_1")
FACTS: dict[str, Any] = {
    "handle": "coder", "agent": "coder", "project": "/home/me/shop", "permission": "write", "approvals": "ask", "sandbox": "bwrap",
    "program": "claude-code", "model": "", "security": [], "tools": ["core"], "servers": [], "depth": 0,
}  # fmt: skip


class Desk:
    """Approvals and rules over one home."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.path = store, home / "policies" / "approved.cedar"
        clock = ManualClock()
        self.facts = dict(FACTS)
        self.gate = Gate(store, clock)
        self.gate.policies.folder = home / "policies"
        self.gate.facts = lambda _ident: self.facts
        self.approvals = Approvals(store, clock, self.gate)
        self.approvals.rules = ApprovedRules(home / "policies", self.gate.facts, lambda _ident: "/workspace", self.gate.policies.refresh)

    async def ask(self, kind: ToolKind = "execute", tool: str = "Bash", policies: tuple[str, ...] = (), **given: Any) -> Approval:
        effect = effect_of(tool, kind, given, cwd="/workspace", workspace="/workspace")
        pending = await self.approvals.ask(
            instance="inst_1", session="host:default", turn="t1", effect=effect, policies=policies,
            request=Asked(id="d1", tool=tool, input=given, kind=kind, title=str(next(iter(given.values())))),
        )  # fmt: skip
        return self.approvals.get(pending.id)

    def text(self, asked: Approval) -> str:
        assert self.approvals.rules is not None
        return self.approvals.rules.propose(asked).text

    async def write(self, asked: Approval) -> Approval:
        return await self.approvals.decide(OWNER, asked.id, approve=True, scope="rule", rule=self.text(asked))

    def permits(self, kind: ToolKind = "execute", tool: str = "Bash", cwd: str = "/workspace", **given: Any) -> bool:
        """Whether a rule of a person permits every part of a call."""
        effect = effect_of(tool, kind, given, cwd=cwd, workspace="/workspace")
        return written_by_a_person(self.decide(effect)) and not effect.risk.startswith("never")

    def decide(self, effect: Any) -> Decision:
        return self.gate.decide(AGENT, "tool.use", effect.tool, effect=effect, session="host:default")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store = await Store.open(tmp_path / "aegis.db", ManualClock())
    yield Desk(store, tmp_path)
    await store.close()


async def test_a_rule_is_for_exactly_this_command(desk: Desk) -> None:
    asked = await desk.ask(command="make -n all", description="look what it would do")
    done = await desk.write(asked)
    assert done.rule.startswith("approved.")
    assert done.scope == "once"
    assert desk.path.stat().st_mode & 0o777 == 0o600
    assert "person:tester: make -n all" in desk.path.read_text()
    assert desk.permits(command="make -n all")
    assert desk.permits(command="make -n all", description="other words", timeout=60)
    for given in (
        {"command": "make -n  all"}, {"command": "make -n all; rm x"}, {"command": "make"}, {"command": "make -n all", "cwd": "/etc"},
        {"command": "make -n all", "env": {"PATH": "/tmp"}}, {"command": "make -n all", "dangerouslyDisableSandbox": True},
    ):  # fmt: skip
        assert not desk.permits(**given), given
    assert not desk.permits(command="make -n all", tool="Shell")
    assert not desk.permits(command="make -n all", cwd="/etc")
    desk.facts = FACTS | {"agent": "other"}
    assert not desk.permits(command="make -n all")
    desk.facts = FACTS | {"project": "/elsewhere"}
    assert not desk.permits(command="make -n all")
    actions = [(row["action"], row["decision"]) for row in desk.gate.list()]
    assert actions == [("policy.write", "allow"), ("approval.decide", "allow")]


async def test_a_command_that_cannot_be_told_is_permitted_by_its_whole_text_alone(desk: Desk) -> None:
    await desk.write(await desk.ask(command="python3 -c 'print(1)'"))
    assert desk.permits(command="python3 -c 'print(1)'")
    assert not desk.permits(command="python3 -c 'print(2)'")
    assert not desk.permits(command="python3")


async def test_a_rule_for_files_and_one_for_a_host(desk: Desk) -> None:
    await desk.write(await desk.ask("edit", "Edit", file_path="src/a.py", old_string="x", new_string="y"))
    assert desk.permits("edit", "Edit", file_path="/workspace/src/a.py", old_string="1", new_string="2")
    assert not desk.permits("edit", "Edit", file_path="src/b.py")
    assert not desk.permits("edit", "Edit", file_path="src/a.py/../b.py")
    assert not desk.permits("edit", "Write", file_path="src/a.py")
    await desk.write(await desk.ask("fetch", "WebFetch", url="https://docs.example/a", prompt="read"))
    assert desk.permits("fetch", "WebFetch", url="https://DOCS.example/b")
    assert not desk.permits("fetch", "WebFetch", url="https://docs.example.evil.example/a")
    assert not desk.permits("fetch", "WebFetch", url="http://docs.example/a")
    assert desk.path.read_text().count("permit (") == 2


@pytest.mark.parametrize(
    "command",
    [
        "echo \"a\\b\" 'c'",
        "echo 'tab\there'",
        "printf '%s' \"é\"",
        "x " * 2000,
        'a && context.path == "y" }; permit(principal,action,resource); //',
    ],
)
async def test_a_command_does_not_write_rules_of_its_own(desk: Desk, command: str) -> None:
    asked = await desk.ask(command=command)
    try:
        await desk.write(asked)
    except AegisError as error:
        assert error.kind is ErrorKind.USAGE
        assert not desk.path.exists()
    else:
        assert desk.permits(command=command)
        assert not desk.permits(command="rm -rf /")
        assert len([rule for rule in desk.gate.policies.rules() if rule.source != "built in"]) == 1


async def test_a_rule_is_written_only_as_it_was_shown(desk: Desk) -> None:
    asked = await desk.ask(command="make")
    for text in ("", "permit (principal, action, resource);", desk.text(asked).replace('"make"', '"rm"')):
        with pytest.raises(AegisError) as caught:
            await desk.approvals.decide(OWNER, asked.id, approve=True, scope="rule", rule=text)
        assert caught.value.kind is ErrorKind.CONFLICT
    with pytest.raises(AegisError) as caught:
        await desk.approvals.decide(AGENT, asked.id, approve=True, scope="rule", rule=desk.text(asked))
    assert caught.value.kind is ErrorKind.DENIED
    assert not desk.path.exists()
    assert desk.approvals.get(asked.id).state == "pending"


async def test_some_requests_have_no_rule(desk: Desk) -> None:
    ruled = await desk.ask(command="git push", policies=("mine.push",))
    with pytest.raises(AegisError, match="no other rule changes that"):
        desk.text(ruled)
    long = await desk.ask(command="echo " + "x" * 100_000)
    with pytest.raises(AegisError, match="too long"):
        desk.text(long)
    nothing = await desk.ask("other", "mcp.tool", deep={"a": 1})
    with pytest.raises(AegisError, match="narrow enough"):
        desk.text(nothing)
    unseen = await desk.ask(command="a \u202e b")
    with pytest.raises(AegisError, match="no rule can be written"):
        desk.text(unseen)
    await desk.write(await desk.ask(command="make\nmake test"))
    assert desk.permits(command="make\nmake test")
    assert not desk.permits(command="make make test")


async def test_a_rule_is_taken_out_again_when_somebody_else_was_quicker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.write(await desk.ask(command="make one"))
    before = desk.path.read_text()
    asked = await desk.ask(command="make two")
    text = desk.text(asked)
    assert desk.approvals.rules is not None
    write = desk.approvals.rules.write

    async def slow(*args: Any) -> str:
        found = await write(*args)
        await desk.approvals.decide(OWNER, asked.id, approve=False)
        return found

    monkeypatch.setattr(desk.approvals.rules, "write", slow)
    with pytest.raises(AegisError) as caught:
        await desk.approvals.decide(OWNER, asked.id, approve=True, scope="rule", rule=text)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert desk.path.read_text() == before
    assert not desk.permits(command="make two")


async def test_a_broken_file_is_not_made_worse(desk: Desk) -> None:
    desk.path.parent.mkdir()
    desk.path.write_text("permit (\n")
    asked = await desk.ask(command="make")
    with pytest.raises(AegisError) as caught:
        await desk.write(asked)
    assert caught.value.kind is ErrorKind.USAGE
    assert desk.path.read_text() == "permit (\n"
