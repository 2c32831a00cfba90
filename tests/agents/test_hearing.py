"""What is told of a program that has a turn and says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.agents.test_sessions import begun

from aegis.core.events import Text, ToolCall, ToolResult
from aegis.drivers import Asked, Happened
from aegis.services.agents.hearing import LOGIN_SILENCE, SILENCE

if TYPE_CHECKING:
    import pytest
    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program

    from aegis.services.agents import Instance


async def taken(bench: Bench, conversation: Conversation) -> None:
    """The program takes the messages up, and that has been heard."""
    conversation.accept()
    await bench.until(lambda: bool(bench.facts("mail.injected")))


async def passes(bench: Bench, seconds: float) -> None:
    """Let time pass under those who wait for it."""
    await bench.until(lambda: bench.clock.due(seconds))
    await bench.clock.advance(seconds)


def word(bench: Bench, instance: Instance) -> str:
    return bench.house.agents.activity(instance).word


async def test_a_silent_program_is_unknown_until_it_says_something(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await begun(bench, program)
    await taken(bench, conversation)
    await bench.until(lambda: word(bench, instance) == "working")
    await passes(bench, SILENCE)
    await bench.until(lambda: word(bench, instance) == "unknown")
    assert not conversation.asked("interrupt")  # it is told of, not ended
    conversation.say(Happened(Text("still here")))
    await bench.until(lambda: word(bench, instance) == "working")
    await passes(bench, SILENCE)
    await bench.until(lambda: word(bench, instance) == "unknown")
    conversation.done()
    await bench.answer(receipt)
    await bench.until(lambda: word(bench, instance) == "idle")


async def test_a_tool_that_takes_long_is_work(bench: Bench, program: Program) -> None:
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    conversation.say(Happened(ToolCall("c", "Bash", {})))
    await bench.until(lambda: bool(bench.facts("turn.tool.call")))
    await passes(bench, SILENCE)
    await bench.until(lambda: bench.clock.due(SILENCE))  # it looks again later
    assert word(bench, instance) == "working"
    conversation.say(Happened(ToolResult("c", "Bash", True, "")))
    await bench.until(lambda: bool(bench.facts("turn.tool.result")))
    await passes(bench, SILENCE)
    await bench.until(lambda: word(bench, instance) == "unknown")


async def test_a_call_of_its_model_is_work(bench: Bench, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    monkeypatch.setattr(bench.house.agents._world.models, "busy", lambda *_: True)
    await passes(bench, SILENCE)
    await bench.until(lambda: bench.clock.due(SILENCE))
    assert word(bench, instance) == "working"


async def test_who_waits_for_a_person_is_not_unknown(bench: Bench, program: Program) -> None:
    await bench.launch(approvals="ask")
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    conversation.say(Asked(id="r", tool="Bash", input={}, kind="execute"))
    await bench.until(lambda: word(bench, instance) == "needs-you")
    await passes(bench, SILENCE)
    await bench.until(lambda: bench.clock.due(SILENCE))
    assert word(bench, instance) == "needs-you"


async def test_a_program_with_its_own_login_has_longer(bench: Bench, program: Program) -> None:
    await bench.launch(auth="login")
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    await bench.until(lambda: bench.clock.due(LOGIN_SILENCE))
    await bench.clock.advance(SILENCE)
    assert word(bench, instance) == "working"


async def test_a_paused_turn_is_not_at_work(bench: Bench, program: Program) -> None:
    from tests.agents.conftest import OWNER

    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    await bench.until(lambda: word(bench, instance) == "working")
    await bench.house.agents.pause(OWNER, instance)
    assert word(bench, instance) == "idle"
