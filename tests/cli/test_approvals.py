"""What agents ask leave for, at the command line: listed, answered by a part of an id, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.cli.terminal import Terminal

from aegis.core.clock import SystemClock
from aegis.drivers import Asked
from aegis.services.approvals import Approvals
from aegis.services.gate import Gate
from aegis.store import Store

pytestmark = pytest.mark.slow

Start = Callable[..., Any]
RM = Asked(id="1", tool="Bash", input={"command": "rm -r build", "description": "tidy up"}, kind="execute", title="rm -r build")
QUESTION = Asked(
    id="3",
    tool="AskUserQuestion",
    kind="other",
    question=True,
    input={"questions": [{"question": "Which one?", "options": [{"label": "A", "description": "first"}, {"label": "B"}]}]},
)
WRITE = Asked(id="2", tool="Edit", input={"file_path": "a.py", "old_string": "x = 1", "new_string": "x = 2"}, kind="edit", title="a.py")


@pytest.fixture
def asked(daemon: Program, start: Start) -> list[str]:
    """Two requests of an agent `echo`, as the daemon finds them on disk; returns their ids."""
    return _asked(daemon, start("echo")["id"], RM, WRITE)


def _asked(daemon: Program, instance: str, *requests: Asked) -> list[str]:
    daemon("down")

    async def ask() -> list[str]:
        clock = SystemClock()
        store = await Store.open(daemon.home / "aegis.db", clock)
        try:
            approvals = Approvals(store, clock, Gate(store, clock))
            place = {"instance": instance, "session": "host:default", "turn": "turn_1"}
            return [(await approvals.ask(**place, request=request)).id for request in requests]
        finally:
            await store.close()

    idents = asyncio.run(ask())
    daemon("up")
    return idents


def test_what_waits_is_listed(daemon: Program, asked: list[str]) -> None:
    shown = daemon("approvals", "list")
    assert asked[0][-6:] in shown.stdout
    assert "echo" in shown.stdout
    assert "rm -r build" in shown.stdout
    assert [item["id"] for item in daemon.lines("approvals", "list")] == asked
    assert daemon.lines("approvals", "list", "--instance", "echo")[0]["input"] == RM.input
    assert "needs-you (2)" in daemon("ls").stdout
    assert "aegis approvals list" in daemon("ls").stderr
    assert daemon.complete("aegis approvals approve ", 3) == [ident[-6:] for ident in asked]


def test_one_is_shown_whole(daemon: Program, asked: list[str]) -> None:
    shown = daemon("approvals", "show", asked[0][-6:]).stdout
    assert "⌬ Bash  rm -r build" in shown
    assert "description: tidy up" in shown
    assert f"aegis approvals approve {asked[0][-6:]}" in shown
    edit = daemon("approvals", "show", asked[1]).stdout
    assert "-x = 1" in edit
    assert "+x = 2" in edit


def test_answers_count_once(daemon: Program, asked: list[str]) -> None:
    assert "approved" in daemon("approvals", "approve", asked[0][-6:], "--reason", "fine").stdout
    again = daemon("approvals", "reject", asked[0], code=1)
    assert "approved already" in again.stderr
    told = daemon.json("approvals", "reject", asked[1][-8:], "--reason", "leave it")
    assert (told["state"], told["reason"]) == ("rejected", "leave it")
    assert "nothing waits for you" in daemon("approvals", "list").stdout
    assert [item["state"] for item in daemon.lines("approvals", "list", "--all")] == ["approved", "rejected"]
    assert "approved" in daemon("approvals", "list", "--all").stdout
    audited = [row["action"] for row in daemon.lines("audit", "list")]
    assert audited.count("approval.decide") == 2


def test_several_at_once_and_with_another_input(daemon: Program, asked: list[str]) -> None:
    edited = daemon.json("approvals", "approve", asked[0], "--input", '{"command": "ls"}')
    assert edited["edited"] == {"command": "ls"}
    done = daemon("approvals", "approve", "nosuchid", asked[1], code=3)
    assert "no request `nosuchid`" in done.stderr
    assert "approved" in done.stdout


def test_a_yes_for_the_session_and_one_with_a_rule(daemon: Program, asked: list[str]) -> None:
    done = daemon.json("approvals", "approve", asked[0], "--session")
    assert (done["state"], done["scope"]) == ("approved", "session")
    refused = daemon("approvals", "approve", asked[1], "--rule", code=2)
    assert "permit (" in refused.stdout
    assert "--yes" in refused.stderr
    assert daemon.json("approvals", "show", asked[1])["state"] == "pending"
    written = daemon.json("approvals", "approve", asked[1], "--rule", "--yes")
    text = (daemon.home / "policies" / "approved.cedar").read_text()
    assert written["rule"] in text
    assert 'resource == Tool::"' in text
    assert written["rule"] in daemon("approvals", "show", asked[1]).stdout


def test_one_argument_is_changed_and_the_others_stay(daemon: Program, asked: list[str]) -> None:
    assert "no argument" in daemon("approvals", "edit", asked[0], "comand=ls", code=3).stderr
    done = daemon.json("approvals", "edit", asked[0], "command=ls -l")
    assert done["edited"] == {**RM.input, "command": "ls -l"}


def test_somebody_is_told_again(daemon: Program, asked: list[str]) -> None:
    before = daemon.json("approvals", "show", asked[0])["deadline"]
    done = daemon.json("approvals", "escalate", asked[0][-6:], "--deadline", "30d", "--reason", "blocks the release")
    assert done["deadline"] > before
    assert done["escalated_by"].startswith("person:")
    shown = daemon("approvals", "show", asked[0]).stdout
    assert "escalated" in shown
    assert "then it is rejected" in shown
    assert "approval.escalate" in [row["action"] for row in daemon.lines("audit", "list")]
    daemon("approvals", "reject", asked[0])
    assert "rejected already" in daemon("approvals", "escalate", asked[0], code=1).stderr


def test_all_at_once(daemon: Program, asked: list[str]) -> None:
    told = daemon.lines("approvals", "reject", "--all", "--instance", "echo")
    assert [item["id"] for item in told] == asked
    assert "nothing waits" in daemon("approvals", "approve", "--all").stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("approve",), "name one or several IDs"),
        (("approve", "x", "--all"), "name one or several IDs"),
        (("reject", "x", "--instance", "echo"), "name one or several IDs"),
        (("approve", "x", "--input", "["), "not JSON"),
        (("approve", "x", "--input", "[]"), "JSON object"),
        (("approve", "x", "y", "--input", "{}"), "for one ID"),
        (("approve", "x", "y", "--rule"), "for one ID"),
        (("approve", "x", "--rule", "--session"), "choose one"),
        (("approve", "x", "--yes"), "choose one"),
        (("edit", "x"), "say what to change"),
        (("edit", "x", "command"), "NAME=VALUE"),
        (("edit", "x", "a=b", "--input", "{}"), "say what to change"),
        (("escalate", "x", "--deadline", "soon"), "not a span of time"),
    ],
)
def test_a_wrong_command_is_refused(aegis: Program, args: tuple[str, ...], told: str) -> None:
    assert told in aegis("approvals", *args, code=2).stderr


def test_part_of_an_id_must_be_that_of_one(daemon: Program, asked: list[str]) -> None:
    done = daemon("approvals", "approve", asked[0][5:10], code=2)
    assert "of 2 requests" in done.stderr


def test_an_answer_outlives_its_instance_no_longer(daemon: Program, asked: list[str]) -> None:
    daemon("instance", "delete", "echo")
    assert daemon.lines("approvals", "list", "--all") == []


def test_in_a_chat_it_is_asked_on_the_spot(daemon: Program, asked: list[str]) -> None:
    with Terminal(daemon, "chat", "echo") as terminal:
        terminal.expect("needs you")
        terminal.expect("rm -r build")
        terminal.expect("allow it?")
        terminal.type("n\n")
        terminal.expect("why not?")
        terminal.type("not today\n")
        terminal.expect("a.py")
        terminal.expect("allow it?")
        terminal.type("\n")
        terminal.expect("echo> ")
        terminal.type("\x04")
        assert terminal.wait() == 0
    first, second = daemon.lines("approvals", "list", "--all")
    assert (first["state"], first["reason"]) == ("rejected", "not today")
    assert second["state"] == "pending"


def test_an_answer_given_elsewhere_is_noticed_at_the_question(daemon: Program, asked: list[str]) -> None:
    with Terminal(daemon, "chat", "echo") as terminal:
        terminal.expect("allow it?")
        daemon("approvals", "approve", asked[0])
        shown = terminal.expect("allow it?")
        assert "a.py" in shown
        daemon("approvals", "reject", asked[1])
        terminal.expect("echo> ")
        terminal.type("hello\n")
        terminal.expect("echo: hello")


def test_what_was_typed_before_the_question_is_no_answer(daemon: Program, asked: list[str]) -> None:
    with Terminal(daemon, "chat", "echo", typed="y\ny\n") as terminal:
        terminal.expect("allow it?")
        assert [item["state"] for item in daemon.lines("approvals", "list", "--all")] == ["pending", "pending"]
        terminal.type("y\n")
        terminal.expect("allow it?")
    assert [item["state"] for item in daemon.lines("approvals", "list", "--all")] == ["approved", "pending"]


def test_a_question_is_answered_by_a_number_or_in_words(daemon: Program, start: Start) -> None:
    [ident] = _asked(daemon, start("echo")["id"], QUESTION)
    assert "1 A  first" in daemon("approvals", "show", ident).stdout
    with Terminal(daemon, "chat", "echo") as terminal:
        terminal.expect("Which one?")
        terminal.expect("your answer [1-2")
        terminal.type("\n")
        terminal.expect("it waits")
        terminal.expect("echo> ")
    assert daemon.json("approvals", "show", ident)["state"] == "pending"
    with Terminal(daemon, "chat", "echo") as terminal:
        terminal.expect("your answer")
        terminal.type("2\n")
        terminal.expect("echo> ")
    found = daemon.json("approvals", "show", ident)
    assert (found["state"], found["edited"]["answers"]) == ("approved", {"Which one?": "B"})
