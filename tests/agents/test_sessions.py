"""Programs that keep their own conversation: their names on disk, turns they begin themselves, deaths at every point."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from tests.agents.conftest import OWNER

from aegis.core import faults
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome, SessionContext, SessionSettings, SessionTitle, Text, ToolCall, ToolResult, Usage
from aegis.drivers import Acknowledged, Began, Busy, Capabilities, Died, Finished, Happened, McpServer
from aegis.services.agents import State
from aegis.services.agents.bearers import bearer_of, program_bearer_of
from aegis.services.agents.service import MAX_PROGRAMS
from aegis.services.agents.sessions import row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.agents.conftest import Bench
    from tests.agents.programs import Conversation, Program

    from aegis.core.envelopes import Receipt
    from aegis.services.agents import Instance

S = "host:default"


@pytest.fixture(autouse=True)
def _unarmed() -> Iterator[None]:
    yield
    faults.disarm()


async def begun(bench: Bench, program: Program, text: str = "hello", session: str = S) -> tuple[Instance, Conversation, Receipt]:
    """An instance whose program was sent its first message."""
    instance = bench.house.registry.find("a") or await bench.launch()
    count = len(program.conversations)
    receipt = await bench.send(instance, text, session)
    conversation = await program.started(count + 1)
    await conversation.until("send")
    return instance, conversation, receipt


async def talked(bench: Bench, program: Program, session: str = S) -> tuple[Instance, Conversation]:
    """An instance that has had a turn."""
    instance, conversation, receipt = await begun(bench, program, session=session)
    conversation.accept()
    conversation.done()
    assert (await bench.answer(receipt)).outcome is Outcome.COMPLETED
    return instance, conversation


async def by_itself(bench: Bench, instance: Instance) -> None:
    """Wait until a turn runs that the program began."""
    session = bench.house.agents._of(instance).session(S)
    await bench.until(lambda: session.pump is not None and session.pump.own is not None)


async def test_a_turn_of_a_foreign_program(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await begun(bench, program)
    (turn, messages, continues) = conversation.asked("send")[0]
    assert ([m.text for m in messages], continues) == (["hello"], False)
    name = conversation.opened.program_session
    assert row(bench.house.store, instance.id, S).program_session == name, "on disk before the first message is sent"
    (opened,) = bench.facts("session.opened")
    assert (opened.program, opened.program_session, opened.resumed) == ("fake", name, False)
    conversation.accept()
    conversation.say(
        Acknowledged([receipt.id]),
        Happened(Text("hi")),
        Happened(ToolCall("c1", "Bash", {"command": "ls"}, "execute")),
        Happened(ToolResult("c1", "Bash", False, "no")),
        Happened(SessionTitle("A title")),
        Happened(SessionContext(1000, 200_000)),
    )
    conversation.done("hi", reason="end_turn")
    answer = await bench.answer(receipt)
    assert (answer.outcome, answer.text, answer.reason) == (Outcome.COMPLETED, "hi", "end_turn")
    (mail,) = bench.house.mail.box(instance.id)
    assert mail["state"] == "acknowledged"
    assert mail["injected_at"] is not None
    assert mail["turn"] == turn
    (described,) = bench.house.agents.describe(instance)["sessions"]
    assert (described["title"], described["context"], described["program_session"]) == ("A title", {"used": 1000, "size": 200_000}, name)
    used = await bench.house.agents.usage(instance)
    assert (used["turns"], used["tools"], used["tool_errors"]) == (1, 1, 1)
    assert used["sessions"][0]["session"] == S
    assert (await bench.house.agents.usage(instance, S, turn))["tools"] == 1


async def test_what_a_program_is_started_with(bench: Bench, program: Program) -> None:
    instance = await bench.launch(system="be brief", effort="low", mode="plan", permission="read")
    await bench.send(instance, "hello")
    spec = (await program.started()).spec
    assert (spec.system, spec.effort, spec.mode, spec.permission) == ("be brief", "low", "plan", "read")
    link = bench.house.agents._of(instance).life.link
    assert link is not None
    assert spec.endpoint == f"{link.endpoint}/s/aG9zdDpkZWZhdWx0"
    assert (spec.token, spec.resume, spec.fork) == (instance.token, None, False)
    plane = f"{link.mcp}/s/aG9zdDpkZWZhdWx0/mcp"
    headers = {"Authorization": f"Bearer {bearer_of(instance.token, S)}"}
    assert spec.mcp == [McpServer(name="aegis", url=plane, headers=headers)]
    assert spec.env == {"AEGIS_MCP_URL": plane, "AEGIS_MCP_TOKEN": program_bearer_of(instance.token, S)}
    assert (spec.model, spec.dialect) == ("scripted/directives", "anthropic")


async def test_what_a_program_tells_of_its_use_counts_only_with_its_own_login(bench: Bench, program: Program) -> None:
    instance = await bench.launch(auth="login")
    receipt = await bench.send(instance, "hello")
    conversation = await program.started()
    await conversation.until("send")
    assert (conversation.spec.endpoint, conversation.spec.token) == ("", "")
    conversation.accept()
    conversation.say(Happened(Usage("m", 10, 5, source="program")))
    conversation.done()
    answer = await bench.answer(receipt)
    assert (answer.input, answer.output) == (10, 5)


async def test_a_program_that_is_not_installed_fails_the_instance_before_there_is_a_sandbox(bench: Bench, program: Program) -> None:
    program.missing = AegisError(ErrorKind.NOT_FOUND, "`fake` is not installed", "npm install fake")
    with pytest.raises(AegisError) as caught:
        await bench.launch()
    assert (caught.value.kind, caught.value.hint) == (ErrorKind.NOT_FOUND, "npm install fake")
    instance = bench.house.registry.get("a")
    assert (instance.state, instance.reason) == (State.FAILED, "`fake` is not installed")
    assert bench.house.agents.activity(instance).word == "failed"


# Turns that the program begins by itself.


async def test_a_turn_that_the_program_begins_by_itself(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    conversation.say(Busy(True))
    await bench.until(lambda: bench.house.agents.activity(instance).word == "working")
    await bench.clock.advance(3600.0)
    assert instance.state is State.RUNNING, "work in the background holds the sandbox awake"
    conversation.say(Began(), Happened(Text("it is built")))
    conversation.done("it is built")
    conversation.say(Busy(False))
    await bench.until(lambda: len(bench.facts("turn.finished")) == 2)
    started, finished = bench.facts("turn.started")[-1], bench.facts("turn.finished")[-1]
    assert (started.origin, started.in_reply_to) == ("program", [])
    assert (finished.outcome, finished.text, finished.in_reply_to) == (Outcome.COMPLETED, "it is built", [])
    await bench.until(lambda: bench.house.agents.activity(instance).word == "idle")
    await bench.clock.advance(61.0)
    await bench.until(lambda: instance.state is State.PAUSED)


async def test_a_message_that_arrives_meanwhile_waits_for_its_end(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    conversation.say(Began())
    await by_itself(bench, instance)
    receipt = await bench.send(instance, "and now?")
    conversation.say(Happened(Text("still at it")))
    await bench.until(lambda: len(bench.facts("turn.text")) == 1)
    assert len(conversation.asked("send")) == 1
    conversation.done("its own")
    await conversation.until("send", 2)
    conversation.accept()
    conversation.done("yours")
    assert (await bench.answer(receipt)).text == "yours"
    assert [fact.text for fact in bench.facts("turn.finished")] == ["done", "its own", "yours"]
    types = [e.type for e in bench.house.store.events(0, types=["turn.started", "turn.finished"]).events]
    assert types == ["turn.started", "turn.finished"] * 3


async def test_a_program_that_begins_by_itself_as_a_message_is_sent(bench: Bench, program: Program) -> None:
    """Its own turn goes first; what it says until its end is not the answer to the message."""
    instance, conversation = await talked(bench, program)
    receipt = await bench.send(instance, "and now?")
    await conversation.until("send", 2)
    conversation.say(Began(), Happened(Text("its own")))
    conversation.done("its own")
    conversation.accept()
    conversation.say(Happened(Text("yours")))
    conversation.done("yours")
    assert (await bench.answer(receipt)).text == "yours"
    by_turn = {e.turn: e.fact.text for e in bench.house.store.events(0, types=["turn.text"]).events}  # type: ignore[attr-defined]
    ends = {e.turn: e.fact.text for e in bench.house.store.events(0, types=["turn.finished"]).events}  # type: ignore[attr-defined]
    assert by_turn.items() <= ends.items()
    assert len(ends) == 3


async def test_an_interrupting_message_cuts_the_program_s_own_turn(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    conversation.say(Began())
    await by_itself(bench, instance)
    receipt = await bench.send(instance, "stop that", interrupt=True)
    await conversation.until("interrupt")
    await conversation.until("send", 2)
    conversation.accept()
    conversation.done("stopped")
    assert (await bench.answer(receipt)).text == "stopped"
    assert [fact.outcome for fact in bench.facts("turn.finished")] == ["completed", "cancelled", "completed"]


async def test_the_death_of_the_sandbox_ends_its_own_turn_for_good(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    conversation.say(Busy(True), Began())
    await by_itself(bench, instance)
    await bench.house.agents.restart(OWNER, instance)
    await bench.until(lambda: len(bench.facts("turn.finished")) == 2)
    end = bench.facts("turn.finished")[-1]
    assert end.outcome is Outcome.INTERRUPTED
    assert not end.error["will_continue"]
    life = bench.house.agents._of(instance).life
    await bench.until(lambda: not life.busy)


async def test_a_program_that_dies_between_turns_is_started_again(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    conversation.say(Busy(True), Died(-9, "out of memory"))
    await bench.until(lambda: bench.house.agents._of(instance).session(S).pump is None)
    assert not bench.house.agents._of(instance).life.busy
    assert "out of memory" in str(bench.house.agents.log(instance).tail(10))
    receipt = await bench.send(instance, "again")
    second = await program.started(2)
    assert second.spec.resume == conversation.opened.program_session
    await second.until("send")
    second.accept()
    second.done("here")
    assert (await bench.answer(receipt)).text == "here"
    assert [fact.resumed for fact in bench.facts("session.opened")] == [False, True]


async def test_a_program_that_dies_in_a_turn_fails_it(bench: Bench, program: Program) -> None:
    _instance, conversation, receipt = await begun(bench, program)
    conversation.say(Died(1, "segmentation fault"))
    answer = await bench.answer(receipt)
    assert answer.outcome is Outcome.FAILED
    assert answer.error is not None
    assert (answer.error["data"]["exit"], answer.error["data"]["stderr"]) == (1, "segmentation fault")


# Deaths of the daemon.


@pytest.mark.parametrize("point", ["opened", "sent", "kept", "accepted", "working"])
async def test_a_turn_that_a_dead_daemon_left_goes_on(open_bench: Callable[[], Awaitable[Bench]], program: Program, point: str) -> None:
    """Wherever it died, the program has each message once, and knows whether it goes on or begins."""
    bench = await open_bench()
    if point == "opened":
        faults.arm("session.opened", "raise")  # it is told nothing
        instance = await bench.launch()
        first = await bench.send(instance, "hello")
        assert (await bench.answer(first)).outcome is Outcome.FAILED
        receipt = await bench.send(instance, "hello")
        conversation = await program.started(2)
        await conversation.until("send")
    else:
        _instance, conversation, receipt = await begun(bench, program)
    if point == "kept":  # the program has it, and nobody could write that down
        program.transcripts[conversation.opened.program_session] += [receipt.id]
    if point in ("accepted", "working"):
        conversation.accept()
        await bench.until(lambda: bool(bench.facts("mail.injected")))
    if point == "working":
        conversation.say(Happened(ToolCall("c", "Bash", {"command": "make"})))
        await bench.until(lambda: bool(bench.facts("turn.tool.call")))
    has_it = point in ("kept", "accepted", "working")
    count = len(program.conversations)
    await bench.house.close()
    bench = await open_bench()
    again = await program.started(count + 1)
    _turn, messages, continues = await again.until("send")
    assert again.spec.resume == conversation.opened.program_session
    assert [m.id for m in again.spec.pending] == [receipt.id]
    assert ([m.id for m in messages], continues) == ([] if has_it else [receipt.id], has_it)
    (injected,) = [fact for fact in bench.facts("mail.injected") if receipt.id in fact.message_ids] or [None]
    assert (injected is not None) == has_it
    again.accept()
    again.done("at last")
    answer = await bench.answer(receipt)
    assert (answer.outcome, answer.text) == (Outcome.COMPLETED, "at last")
    assert program.transcripts[conversation.opened.program_session].count(receipt.id) == 1
    assert len([fact for fact in bench.facts("mail.injected") if receipt.id in fact.message_ids]) == 1


async def test_a_session_that_the_program_lost_begins_anew_and_says_so(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    await bench.house.agents.restart(OWNER, instance)
    program.transcripts.clear()
    receipt = await bench.send(instance, "do you remember?")
    again = await program.started(2)
    _turn, messages, _continues = await again.until("send")
    assert again.spec.resume is None
    assert "is lost" in messages[0].text
    assert messages[1].text == "do you remember?"
    again.accept()
    again.done("no")
    assert (await bench.answer(receipt)).text == "no"
    last = bench.facts("session.opened")[-1]
    assert (last.resumed, last.program_session) == (False, again.opened.program_session)
    assert last.program_session != conversation.opened.program_session
    assert "cannot be resumed" in str(bench.house.agents.log(instance).tail(20))


async def test_nothing_is_sent_while_the_name_of_the_session_is_not_on_disk(
    bench: Bench, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aegis.services.agents import sessions

    def full(*_: object, **__: object) -> None:
        raise AegisError(ErrorKind.UNAVAILABLE, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "change", full)
        instance = await bench.launch()
        answer = await bench.answer(await bench.send(instance, "hello"))
    assert answer.outcome is Outcome.FAILED
    (conversation,) = program.conversations
    assert conversation.asked("send") == []
    assert conversation.closed


# Bounds.


async def test_programs_that_are_idle_are_ended_when_there_are_too_many(bench: Bench, program: Program) -> None:
    for n in range(MAX_PROGRAMS):
        instance, _ = await talked(bench, program, f"host:s{n}")
        await bench.clock.advance(1.0)
    busy = program.conversations[0]
    receipt = await bench.send(instance, "work", "host:s0")  # the oldest works now
    await busy.until("send", 2)
    await talked(bench, program, "host:more")
    assert [c.closed for c in program.conversations[:3]] == [False, True, False]
    busy.accept()
    busy.done()
    await bench.answer(receipt)
    receipt = await bench.send(instance, "still there?", "host:s1")
    again = await program.started(MAX_PROGRAMS + 2)
    assert again.spec.resume == program.conversations[1].opened.program_session
    await again.until("send")
    again.accept()
    again.done()
    await bench.answer(receipt)
    assert sum(not c.closed for c in program.conversations) == MAX_PROGRAMS


async def test_the_time_of_a_turn_has_an_end(bench: Bench, program: Program) -> None:
    _instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    await bench.until(lambda: bool(bench.facts("mail.injected")))
    await bench.clock.advance(3601.0)
    await conversation.until("interrupt")
    answer = await bench.answer(receipt)
    assert answer.outcome is Outcome.FAILED
    assert answer.error is not None
    assert (answer.error["kind"], answer.error["data"]) == ("timeout", {"limit": "turn_seconds"})


async def test_a_program_that_does_not_stop_is_ended(bench: Bench, program: Program) -> None:
    program.obedient = False
    instance, conversation, receipt = await begun(bench, program)
    assert await bench.house.agents.interrupt(OWNER, instance, S)
    await conversation.until("interrupt")
    await asyncio.sleep(0)
    await bench.clock.advance(6.0)
    assert (await bench.answer(receipt)).outcome is Outcome.CANCELLED
    assert conversation.closed


async def test_the_rounds_of_a_turn_have_an_end(bench: Bench, program: Program) -> None:
    from aegis.drivers import AgentLimits

    instance = await bench.launch(turn=AgentLimits(rounds=2), auth="login")
    receipt = await bench.send(instance, "hello")
    conversation = await program.started()
    await conversation.until("send")
    conversation.accept()
    for n in range(2):
        conversation.say(Happened(Usage("m", 1, 1, source="program")), Happened(ToolResult(f"c{n}", "Bash", True, "")))
    await conversation.until("interrupt")
    answer = await bench.answer(receipt)
    assert answer.outcome is Outcome.LIMITED
    assert answer.error is not None
    assert answer.error["data"] == {"limit": "rounds"}
    assert bench.house.limits.held("scripted") is None, "it is our own limit, not the provider's"


# What a person changes.


async def test_settings_count_at_once_and_are_remembered(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    agents = bench.house.agents
    await agents.configure(OWNER, instance, S, model="scripted/echo", mode="plan", effort="high")
    assert conversation.asked("configure") == [("scripted/echo", "plan", "high")]
    assert bench.facts("session.settings") == [SessionSettings("scripted/echo", "plan", "high")]
    await agents.restart(OWNER, instance)
    receipt = await bench.send(instance, "again")
    again = await program.started(2)
    await again.until("send")
    assert (again.spec.model, again.spec.mode, again.spec.effort) == ("scripted/echo", "plan", "high")
    again.accept()
    again.done()
    await bench.answer(receipt)
    (described,) = agents.describe(instance)["sessions"]
    assert (described["model"], described["mode"], described["effort"]) == ("scripted/echo", "plan", "high")
    assert [r["action"] for r in bench.house.gate.list(limit=100)].count("session.configure") == 1


async def test_a_program_that_takes_settings_only_at_its_start_is_started_anew(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    program.rigid = AegisError(ErrorKind.CONFLICT, "only at the start")
    await bench.house.agents.configure(OWNER, instance, S, model="scripted/echo")
    assert not conversation.closed
    receipt = await bench.send(instance, "again")
    again = await program.started(2)
    assert conversation.closed
    assert (again.spec.model, again.spec.resume) == ("scripted/echo", conversation.opened.program_session)
    await again.until("send")
    again.accept()
    again.done()
    await bench.answer(receipt)


async def test_settings_that_the_program_refuses_are_not_remembered(bench: Bench, program: Program) -> None:
    instance, _conversation = await talked(bench, program)
    agents = bench.house.agents
    program.rigid = AegisError(ErrorKind.NOT_FOUND, "no mode `plan`")
    for wanted in ({"mode": "plan"}, {"mode": "pln"}, {"effort": "hihg"}, {"model": "nobody/x"}):
        with pytest.raises(AegisError) as caught:
            await agents.configure(OWNER, instance, S, **wanted)  # type: ignore[arg-type]
        assert caught.value.kind in (ErrorKind.NOT_FOUND, ErrorKind.USAGE)
    known = row(bench.house.store, instance.id, S)
    assert (known.model, known.mode, known.effort) == (None, None, None)


async def test_a_copy_of_a_session_goes_on_apart(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    agents = bench.house.agents
    await agents.fork(OWNER, instance, S, "host:copy")
    with pytest.raises(AegisError) as caught:
        await agents.fork(OWNER, instance, S, "host:copy")
    assert caught.value.kind is ErrorKind.CONFLICT
    with pytest.raises(AegisError) as caught:
        await agents.fork(OWNER, instance, "host:nothing", "host:else")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    receipt = await bench.send(instance, "and you?", "host:copy")
    copy = await program.started(2)
    assert (copy.spec.resume, copy.spec.fork) == (conversation.opened.program_session, True)
    await copy.until("send")
    copy.accept()
    copy.done("apart")
    assert (await bench.answer(receipt)).text == "apart"
    assert bench.facts("session.opened")[-1].forked_from == S
    assert len(program.transcripts[conversation.opened.program_session]) == 1
    assert len(program.transcripts[copy.opened.program_session]) == 2
    await agents.restart(OWNER, instance)
    await bench.send(instance, "again", "host:copy")
    assert (again := (await program.started(3)).spec).resume == copy.opened.program_session
    assert not again.fork


async def test_a_program_that_cannot_copy_says_so(bench: Bench, program: Program) -> None:
    program.capabilities = Capabilities(resume=True)
    instance, _conversation = await talked(bench, program)
    with pytest.raises(AegisError) as caught:
        await bench.house.agents.fork(OWNER, instance, S, "host:copy")
    assert caught.value.kind is ErrorKind.CONFLICT


async def test_a_copy_of_the_native_agent_s_session_remembers(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "[[say one]] heron"))
    await bench.house.agents.fork(OWNER, instance, S, "host:copy")
    assert "heron" in (await bench.answer(await bench.send(instance, "[[recall]] crane", "host:copy"))).text
    assert "crane" not in (await bench.answer(await bench.send(instance, "[[recall]]"))).text


async def test_settings_of_the_native_agent_count_from_its_next_turn(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "[[say one]]"))
    await bench.house.agents.configure(OWNER, instance, S, model="scripted/echo")
    assert (await bench.answer(await bench.send(instance, "parrot"))).text == "echo: parrot"


async def test_what_several_say_in_one_turn_has_their_names(bench: Bench, program: Program) -> None:
    instance, conversation, receipt = await begun(bench, program)
    conversation.accept()
    await bench.send(instance, "plain\n[person:tester]: not me", user={"name": "person:tester"})
    last = await bench.send(instance, "mine\n\n[Ann]: not hers")
    conversation.done()
    await bench.answer(receipt)
    _turn, messages, _continues = await conversation.until("send", 2)
    assert [message.text for message in messages] == [
        "[person.tester]: plain\n  [person:tester]: not me",
        "\n\n[person:tester]: mine\n  \n  [Ann]: not hers",
    ]
    assert [fact.text for fact in bench.facts("mail.accepted")][-1] == "mine\n\n[Ann]: not hers"  # as it was sent
    conversation.accept()
    conversation.done()
    await bench.answer(last)


# Pictures.

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32


async def test_pictures_reach_the_program_also_after_a_death(open_bench: Callable[[], Awaitable[Bench]], program: Program) -> None:
    from aegis.core.envelopes import Image

    bench = await open_bench()
    instance = await bench.launch()
    receipt = await bench.send(instance, "look", images=[Image("image/png", PNG), Image("image/gif", b"GIF89a..")])
    conversation = await program.started()
    _turn, messages, _continues = await conversation.until("send")
    assert [(i.media_type, i.data) for i in messages[0].images] == [("image/png", PNG), ("image/gif", b"GIF89a..")]
    assert bench.facts("mail.accepted")[0].images == 2
    await bench.house.close()
    bench = await open_bench()
    again = await program.started(2)
    _turn, messages, _continues = await again.until("send")
    assert len(messages[0].images) == 2
    again.accept()
    again.done()
    await bench.answer(receipt)
    await bench.house.agents.delete(OWNER, bench.house.registry.get("a"))
    for table in ("envelope_images", "sessions", "approvals"):
        assert bench.house.store.read(lambda db, t=table: db.execute(f"SELECT count(*) FROM {t}").fetchone()) == (0,), table


async def test_pictures_are_refused_where_nobody_can_see_them(bench: Bench, program: Program) -> None:
    from aegis.core.envelopes import Image

    program.capabilities = structs.replace(program.capabilities, images=False)
    instance = await bench.launch()
    with pytest.raises(AegisError) as caught:
        await bench.send(instance, "look", images=[Image("image/png", PNG)])
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "cannot be shown pictures" in caught.value.message
    assert bench.house.mail.box(instance.id) == []


async def test_a_cut_off_program_leaves_nothing_in_the_daemon(bench: Bench, program: Program) -> None:
    instance, conversation, _receipt = await begun(bench, program)
    conversation.accept()
    tasks = {t for t in asyncio.all_tasks() if "conversation" in t.get_name() or "time of" in t.get_name()}
    assert tasks
    await bench.house.agents.delete(OWNER, instance)
    await bench.until(lambda: all(t.done() for t in tasks))
    conversation.say(Finished(Outcome.COMPLETED))


async def test_the_way_out_is_there_with_rules_and_full_permission_only(bench: Bench, program: Program) -> None:
    rules = ["example.com:443"]
    links = {}
    for handle, launch in {
        "full": {"permission": "full", "egress": rules},
        "write": {"egress": rules},
        "unruled": {"permission": "full"},
    }.items():
        instance = await bench.launch(handle, **launch)
        links[handle] = bench.house.agents._of(instance).life.link
    assert links["full"] is not None
    assert links["full"].proxy.startswith("http://127.0.0.1:")
    for handle in ("write", "unruled"):
        assert links[handle] is not None
        with pytest.raises(AegisError):
            _ = links[handle].proxy  # type: ignore[union-attr]


async def test_what_is_told_of_an_instance(bench: Bench, program: Program) -> None:
    instance, conversation = await talked(bench, program)
    told = bench.house.agents.describe(instance)
    assert (told["driver"], told["permission"], told["approvals"], told["open_approvals"]) == ("fake", "write", "auto", 0)
    assert (told["auth"], told["egress"], told["effort"], told["mode"]) == ("broker", [], None, None)
    await bench.until(lambda: bench.house.agents.describe(instance)["activity"] == "idle")
    assert told["activity_until"] is None
    for used, size in ((1, 0), (1, 0), (2, 10), (2, 0), (3, 0)):
        conversation.say(Happened(SessionContext(used, size)))
    await bench.until(lambda: bench.house.agents.describe(instance)["sessions"][0]["context"] == {"used": 3, "size": 10})
    await bench.until(lambda: len(bench.facts("session.context")) == 3)  # what is described may be ahead of the log
    assert bench.facts("session.context") == [SessionContext(1, 0), SessionContext(2, 10), SessionContext(3, 10)]
