"""What is noticed of an agent that goes round in circles, and what is not taken for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.agents.test_hearing import passes, taken, word
from tests.agents.test_sessions import begun

from aegis.core.events import Text, ToolCall, ToolResult
from aegis.drivers import Happened
from aegis.services.agents.hearing import SILENCE, STUCK
from aegis.services.agents.stuck import FAILING, IN_TURN, SAME, Circles, told

if TYPE_CHECKING:
    from tests.agents.conftest import Bench
    from tests.agents.programs import Program

    from aegis.core.events import TurnStuck


class Calls:
    """Calls of tools, as a program says them one after the other."""

    def __init__(self) -> None:
        self.circles = Circles()
        self.circles.begin()
        self.told: list[TurnStuck] = []
        self._n = 0

    def call(self, name: str, *, ok: bool = True, parent: str | None = None, **input: Any) -> None:
        """One call and its result."""
        self._n += 1
        for fact in (
            ToolCall(f"c{self._n}", name, input, parent=parent),
            ToolResult(f"c{self._n}", name, ok, f"output {self._n}", parent=parent),
        ):
            if (stuck := self.circles.heard(fact)) is not None:
                self.told.append(stuck)

    @property
    def stuck(self) -> bool:
        return self.circles.found is not None


def test_the_same_call_again_and_again() -> None:
    calls = Calls()
    for _ in range(SAME - 1):
        calls.call("Bash", command="make")
    assert not calls.told
    assert not calls.stuck
    for _ in range(50):
        calls.call("Bash", command="make")
    assert [(stuck.tool, stuck.count) for stuck in calls.told] == [("Bash", SAME)], "once"
    assert calls.circles.found is not None
    assert told(calls.circles.found) == "the same call again and again: Bash, 57 times"
    calls.call("Bash", command="make clean")
    assert not calls.stuck, "it does something else now"


def test_the_order_of_the_keys_makes_no_other_call() -> None:
    calls = Calls()
    for n in range(SAME):
        calls.call("Edit", **({"a": 1, "b": 2} if n % 2 else {"b": 2, "a": 1}))
    assert len(calls.told) == 1


def test_two_calls_in_turn() -> None:
    calls = Calls()
    for n in range(IN_TURN - 1):
        calls.call("Read" if n % 2 else "Bash", of=n % 2)
    assert not calls.told
    calls.call("Read", of=1)
    assert [(stuck.tool, stuck.count) for stuck in calls.told] == [("Bash and Read", IN_TURN)]


def test_failures_in_a_row_whatever_is_called() -> None:
    calls = Calls()
    for n in range(FAILING):
        calls.call(f"tool{n % 4}", ok=False, path=str(n))
    assert [stuck.count for stuck in calls.told] == [FAILING]
    for n in range(FAILING):
        calls.call(f"tool{n % 4}", ok=False, path=str(-n))
    assert len(calls.told) == 1, "the same cause, whichever tool it was that failed last"
    calls.call("Read", path="/there")
    assert not calls.stuck


@pytest.mark.parametrize(
    "work",
    [
        pytest.param([("Read", {"path": f"/{n}"}) for n in range(12)], id="twelve reads"),
        pytest.param([("Bash", {"command": f"gh run view {n}"}) for n in range(200)], id="polling with other input"),
        pytest.param([("Bash", {"command": "make"}), ("Edit", {"path": "/a", "to": 1})] * 2, id="build and mend"),
        pytest.param([(tool, {"n": n}) for n in range(40) for tool in ("Edit", "Bash")], id="another edit before each build"),
        pytest.param(
            [("Bash", {"command": "make"})] * (SAME - 1) + [("Read", {})] + [("Bash", {"command": "make"})] * (SAME - 1), id="few"
        ),
        pytest.param([(name, {}) for name in "abc"] * 30, id="three in turn"),
    ],
)
def test_work_is_not_taken_for_a_circle(work: list[tuple[str, dict[str, Any]]]) -> None:
    calls = Calls()
    for name, input in work:
        calls.call(name, **input)
    assert not calls.told
    assert not calls.stuck


def test_failures_between_which_something_works_are_work() -> None:
    calls = Calls()
    for n in range(100):
        calls.call("Bash", ok=n % 3 == 0, command=str(n))
    assert not calls.told


def test_sub_agents_are_told_apart() -> None:
    calls = Calls()
    for _ in range(SAME - 1):
        for parent in ("p1", "p2", None):
            calls.call("Read", parent=parent, path="/same")
    assert not calls.told
    calls.call("Read", parent="p2", path="/same")
    assert len(calls.told) == 1
    calls.call("Write", parent="p1", path="/other")
    assert calls.stuck, "the other one still does the same"


def test_more_about_a_call_is_no_other_call() -> None:
    circles = Circles()
    circles.begin()
    assert all(circles.heard(ToolCall("c", "Bash", {})) is None for _ in range(3 * SAME))


def test_a_flood_of_sub_agents_and_a_huge_input_are_bounded() -> None:
    circles = Circles()
    circles.begin()
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    for n in range(2000):
        assert circles.heard(ToolCall(f"c{n}", "x", {}, parent=f"p{n}")) is None
    for n in range(SAME):
        circles.heard(ToolCall(f"d{n}", "x", deep))
    assert len(circles._agents) <= 64


async def test_it_is_on_record_and_in_the_activity_and_nobody_is_stopped(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await begun(bench, program)
    await taken(bench, conversation)
    for n in range(SAME + 4):
        conversation.say(Happened(ToolCall(f"c{n}", "Bash", {"command": "make"})), Happened(ToolResult(f"c{n}", "Bash", True, str(n))))
    await bench.until(lambda: len(bench.facts("turn.tool.result")) == SAME + 4)
    (fact,) = bench.facts("turn.stuck")
    assert (fact.tool, fact.count) == ("Bash", SAME)
    now = bench.house.agents.activity(instance)
    assert now.word == "working"
    assert "Bash" in now.note
    shown = bench.house.agents.describe(instance)
    assert (shown["activity"], shown["activity_note"]) == ("working", now.note)
    assert not conversation.asked("interrupt")
    conversation.done()
    await bench.answer(receipt)
    await bench.until(lambda: bench.house.agents.activity(instance).note == "")


async def test_a_very_long_silence_is_stuck_until_something_is_heard(bench: Bench, program: Program) -> None:
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    await passes(bench, SILENCE)
    await bench.until(lambda: word(bench, instance) == "unknown")
    assert not bench.facts("turn.stuck"), "a minute of silence is no news"
    await passes(bench, (STUCK - 1) * SILENCE)
    await bench.until(lambda: bool(bench.facts("turn.stuck")))
    (fact,) = bench.facts("turn.stuck")
    assert fact.seconds == STUCK * SILENCE
    assert "5 min" in bench.house.agents.activity(instance).note
    conversation.say(Happened(Text("still here")))
    await bench.until(lambda: word(bench, instance) == "working")
    assert bench.house.agents.activity(instance).note == ""
    await passes(bench, SILENCE)
    await passes(bench, (STUCK - 1) * SILENCE)
    await bench.until(lambda: "5 min" in bench.house.agents.activity(instance).note)
    assert len(bench.facts("turn.stuck")) == 1, "once for each cause and turn"
    assert not conversation.asked("interrupt")


async def test_a_tool_that_runs_for_hours_is_work(bench: Bench, program: Program) -> None:
    instance, conversation, _receipt = await begun(bench, program)
    await taken(bench, conversation)
    conversation.say(Happened(ToolCall("c", "Bash", {"command": "make world"})))
    await bench.until(lambda: bool(bench.facts("turn.tool.call")))
    for _ in range(30):
        await passes(bench, SILENCE)
    assert word(bench, instance) == "working"
    assert not bench.facts("turn.stuck")
