"""Mail that comes while a turn runs: it is read in that turn where the program can, and is never lost and never there twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.agents.conftest import OWNER
from tests.mail.conftest import S, states, write

from aegis.core.envelopes import Image
from aegis.core.events import Outcome, Text, ToolCall, ToolResult
from aegis.core.faults import arm, disarm
from aegis.drivers import Accepted, Acknowledged, Died, Finished, Happened
from aegis.services.mail import Joined, headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.agents.conftest import Bench
    from tests.agents.programs import Program

    from aegis.services.agents import Instance


@pytest.fixture(autouse=True)
def _no_faults() -> Iterator[None]:
    yield
    disarm()


# Aegis's own agent.


async def memory(bench: Bench, instance: Instance) -> list[dict[str, Any]]:
    """Its conversation."""
    return await bench.house.agents.transcript(instance, S)


async def waits_for(bench: Bench, instance: Instance, file: Path, then: str = "") -> Any:
    """Let it begin a turn in whose tool it waits for a file."""
    text = f'[[call bash {{"command": "until [ -e {file} ]; do sleep 0.01; done; echo came"}}]]{then}'
    receipt = await bench.send(instance, text)
    await bench.until(lambda: bench.facts("turn.tool.call") != [])
    return receipt


async def test_it_reads_between_rounds(bench: Bench, tmp_path: Path) -> None:
    a, b = await bench.start("a"), await bench.start("b")
    first = await waits_for(bench, a, tmp_path / "go")
    more = [await bench.send(a, "[[say read it]]"), await write(bench, b, a, "from b\nto a")]
    await bench.until(lambda: bench.house.mail.queued(a.id) == {})
    assert [bench.house.mail.receipt(r.id)["state"] for r in more] == ["accepted"] * 2, "nothing says that the program has them"
    (tmp_path / "go").touch()
    done = await bench.answer(first)
    assert done.in_reply_to == [first.id, *(r.id for r in more)]
    assert set(states(bench, a).values()) == {"acknowledged"}
    said = await memory(bench, a)
    assert [(m["role"], m.get("ids", [])) for m in said[:4]] == [
        ("user", [first.id]), ("assistant", []), ("tool", []), ("user", [r.id for r in more])
    ]  # fmt: skip
    assert said[3]["content"][1]["text"].lstrip().startswith("> from agent:b · ")
    assert len(bench.facts("turn.finished")) == 1
    assert [ids for fact in bench.facts("mail.injected") for ids in fact.message_ids] == done.in_reply_to


async def test_what_comes_too_late_has_the_next_turn(bench: Bench, tmp_path: Path) -> None:
    """The turn ends before the agent looks: what it was handed waits again, and is in its memory once."""
    a = await bench.start("a")
    first = await waits_for(bench, a, tmp_path / "go")
    late = await bench.send(a, "[[say the next]]")
    await bench.until(lambda: bench.house.mail.queued(a.id) == {})
    assert await bench.house.agents.interrupt(OWNER, a, S)
    assert (await bench.answer(first)).outcome is Outcome.CANCELLED
    done = await bench.answer(late)
    assert (done.in_reply_to, done.text) == ([late.id], "the next")
    assert [fact.message_ids for fact in bench.facts("mail.requeued")] == [[late.id]]
    ids = [ident for m in await memory(bench, a) for ident in m.get("ids", [])]
    assert ids == [first.id, late.id]


async def test_an_interrupting_message_cuts_and_does_not_join(bench: Bench, tmp_path: Path) -> None:
    a = await bench.start("a")
    first = await waits_for(bench, a, tmp_path / "go")
    stop = await bench.send(a, "[[say instead]]", interrupt=True)
    assert (await bench.answer(first)).outcome is Outcome.CANCELLED
    assert (await bench.answer(stop)).text == "instead"


async def test_a_picture_comes_with_a_message_in_the_middle(bench: Bench, tmp_path: Path) -> None:
    a = await bench.start("a")
    first = await waits_for(bench, a, tmp_path / "go")
    await bench.send(a, "[[images]]", images=[Image("image/png", b"\x89PNG\r\n\x1a\n" + b"\0" * 32)])
    await bench.until(lambda: bench.house.mail.queued(a.id) == {})
    (tmp_path / "go").touch()
    assert "1" in (await bench.answer(first)).text


@pytest.mark.parametrize("action", ["raise", "enospc"])
async def test_a_fault_while_it_joins_loses_nothing(bench: Bench, tmp_path: Path, action: str) -> None:
    a = await bench.start("a")
    first = await waits_for(bench, a, tmp_path / "go")
    arm("mail.joined", action)
    late = await bench.send(a, "[[say later]]")
    await bench.until(lambda: bench.facts("mail.requeued") != [])
    (tmp_path / "go").touch()
    assert (await bench.answer(first)).in_reply_to == [first.id]
    assert (await bench.answer(late)).text == "later"


async def test_the_daemon_dies_with_mail_on_its_way(open_bench: Callable[[], Awaitable[Bench]], tmp_path: Path) -> None:
    bench = await open_bench()
    a = await bench.start("a")
    first = await waits_for(bench, a, tmp_path / "go")
    late = await bench.send(a, "[[say late]]")
    await bench.until(lambda: bench.house.mail.queued(a.id) == {})
    await bench.house.close()
    bench = await open_bench()
    a = bench.house.registry.get("a")
    (tmp_path / "go").touch()
    await bench.answer(first)
    await bench.answer(late)
    ids = [ident for m in await memory(bench, a) for ident in m.get("ids", [])]
    assert ids == [first.id, late.id]


# Programs that get it with the result of a tool.


class Talk:
    """A turn of the program of the test in which a tool of Aegis is used."""

    def __init__(self, bench: Bench, program: Program, instance: Instance) -> None:
        self.bench, self.program, self.instance = bench, program, instance

    async def begin(self, text: str = "work") -> Any:
        self.first = await self.bench.send(self.instance, text)
        self.talk = await self.program.started()
        await self.talk.until("send")
        self.talk.accept()
        await self.bench.until(lambda: self.bench.facts("mail.injected") != [])
        return self

    async def note(self) -> str:
        return await self.bench.house.mail.pending_note(self.instance.id, S)

    def result(self, output: str) -> None:
        self.talk.say(Happened(ToolCall("c1", "aegis_status", {})), Happened(ToolResult("c1", "aegis_status", True, output)))


async def test_a_note_is_read_when_its_result_is_shown(bench: Bench, program: Program) -> None:
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    assert await turn.note() == ""
    await write(bench, b, a, "are you\nthere?")
    note = await turn.note()
    assert note.startswith(headers.NOTE + "\n\n> from agent:b · ")
    assert note.endswith("Z\n  are you\n  there?")
    assert await turn.note() == "", "once"
    assert states(bench, a)["are you\nthere?"] == "accepted"
    turn.result(f'{{"ok": true}}\n\n{note}')
    await bench.until(lambda: states(bench, a)["are you\nthere?"] == "injected")
    turn.talk.say(Happened(Text("I am")))
    await bench.until(lambda: states(bench, a)["are you\nthere?"] == "acknowledged")
    turn.talk.done()
    assert len((await bench.answer(turn.first)).in_reply_to) == 2


@pytest.mark.parametrize("end", ["completed", "failed", "died"])
async def test_a_note_whose_result_nobody_saw(bench: Bench, program: Program, end: str) -> None:
    """A program that does not show its results has read it when the turn ends well; else it waits again and is told anew."""
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    late = await write(bench, b, a, "hello")
    assert await turn.note() != ""
    if end == "died":
        turn.talk.say(Died(1, ""))
    else:
        turn.talk.say(Finished(Outcome(end), error=None if end == "completed" else {"error": "x", "kind": "failed"}))
    if end == "completed":
        await bench.answer(turn.first)
        assert states(bench, a)["hello"] == "acknowledged"
        return
    await bench.until(lambda: len(program.turns) == 2)
    [message] = program.turns[1].asked("send")[-1][1]
    assert message.id == late.id
    assert [fact.message_ids for fact in bench.facts("mail.requeued")] == [[late.id]]
    program.turns[1].accept()
    program.turns[1].done()
    assert (await bench.answer(late)).in_reply_to == [late.id]


async def test_read_hands_out_what_waits(bench: Bench, program: Program) -> None:
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    sent = [await write(bench, b, a, f"n{n}", report=n == 1) for n in range(3)]
    assert [e.id for e in await bench.house.mail.read(a.id, S, 2)] == [r.id for r in sent[:2]], "the agent asked itself: reports too"
    assert [e.id for e in await bench.house.mail.read(a.id, S)] == [sent[2].id]
    assert await bench.house.mail.read(a.id, S) == []
    assert await bench.house.mail.read(a.id, "host:other") == []
    turn.talk.done("the end")
    await bench.until(lambda: bench.house.mail.box(b.id) != [])
    [told] = bench.house.mail.box(b.id)
    assert (told["task"], told["text"]) == (sent[1].id, "the end")


async def test_what_a_note_does_not_bring(bench: Bench, program: Program) -> None:
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    await bench.send(a, "look", images=[Image("image/png", b"\x89PNG\r\n\x1a\n")])
    await bench.send(a, "behind it")
    assert await turn.note() == "", "pictures cannot be put into it, and nothing overtakes them"
    assert [e.text for e in await bench.house.mail.read(a.id, S)] == ["look", "behind it"]
    await write(bench, b, a, "a task", report=True)
    await bench.send(a, "behind the task")
    assert await turn.note() == "", "work with a report has a turn of its own"
    turn.talk.done()
    await turn.talk.until("send", 2)


async def test_nothing_is_handed_out_when_no_turn_runs(bench: Bench, program: Program) -> None:
    a = await bench.launch("a")
    turn = await Talk(bench, program, a).begin()
    turn.talk.done()
    await bench.answer(turn.first)
    await bench.house.agents.disable(OWNER, a)
    await bench.send(a, "waits")
    assert await bench.house.mail.read(a.id, S) == []
    assert await turn.note() == ""
    assert states(bench, a)["waits"] == "accepted"


async def test_a_turn_cut_after_a_note_goes_on_with_what_it_read(open_bench: Callable[[], Awaitable[Bench]], program: Program) -> None:
    """What came with a result that was shown is not told again; what came with one that was not is."""
    bench = await open_bench()
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    seen = await write(bench, b, a, "seen")
    turn.result(await turn.note())
    await bench.until(lambda: states(bench, a)["seen"] == "injected")
    unseen = await write(bench, b, a, "unseen")
    assert await turn.note() != ""
    await bench.house.close()
    bench = await open_bench()
    talk = await program.started(2)
    _, messages, continues = await talk.until("send")
    assert (messages, continues) == ([], True)
    talk.say(Accepted([]))
    talk.done()
    done = await bench.answer(turn.first)
    assert done.in_reply_to == [turn.first.id, seen.id]
    _, messages, _ = await talk.until("send", 2)
    assert [message.id for message in messages] == [unseen.id]


# Programs that take a message in the middle of a turn.


async def test_a_program_that_listens_is_handed_what_comes(bench: Bench, program: Program) -> None:
    program.capabilities = msgspec.structs.replace(program.capabilities, mid_turn_input=True)
    a, b = await bench.launch("a"), await bench.launch("b")
    early = await bench.send(a, "work")
    talk = await program.started()
    await talk.until("send")
    first = await write(bench, b, a, "before it had the first")
    assert talk.asked("add") == []
    talk.accept()
    turn, [message] = await talk.until("add")
    assert (turn, message.id) == (talk.asked("send")[0][0], first.id)
    second = await write(bench, b, a, "again")
    _, [message] = await talk.until("add", 2)
    talk.say(Accepted([first.id]), Acknowledged([first.id]), Happened(Text("I see")))
    await bench.until(lambda: states(bench, a)["before it had the first"] == "acknowledged")
    talk.done()
    assert (await bench.answer(early)).in_reply_to == [early.id, first.id]
    _, [message], _ = await talk.until("send", 2)
    assert message.id == second.id, "it never said that it had it"


async def test_who_asks_for_a_note_goes_away(bench: Bench, program: Program) -> None:
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    await write(bench, b, a, "hello")
    asking = asyncio.ensure_future(turn.note())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    await bench.until(lambda: bench.house.mail.queued(a.id) == {S: 1})
    assert (await turn.note()).endswith("hello")
    assert Joined.NOTE == 2
    turn.talk.done()
    await bench.answer(turn.first)


async def test_what_expired_in_a_turn_that_never_read_it(bench: Bench, program: Program) -> None:
    """Its timer came while a turn had it, and did nothing; it does not wait for ever."""
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    late = await write(bench, b, a, "hello", expires=bench.clock.now() + 5.0)
    assert await turn.note() != ""
    bench.clock.jump(10.0)
    await bench.house.store.write(lambda tx: bench.house.mail.expire(tx, late.id, instance=a.id, session=S))
    assert states(bench, a)["hello"] == "accepted"
    turn.talk.say(Finished(Outcome.FAILED, error={"error": "x", "kind": "failed"}))
    await bench.until(lambda: states(bench, a)["hello"] == "expired")


async def test_what_is_too_long_for_the_result_of_a_tool_waits(bench: Bench, program: Program) -> None:
    a, b = await bench.launch("a"), await bench.launch("b")
    turn = await Talk(bench, program, a).begin()
    await write(bench, b, a, "short")
    long = await write(bench, b, a, "\n".join("x" * 20_000))
    await write(bench, b, a, "behind")
    assert [e.text for e in await bench.house.mail.read(a.id, S)] == ["short"]
    assert await bench.house.mail.read(a.id, S) == []
    assert await turn.note() == ""
    turn.talk.done()
    _, messages, _ = await turn.talk.until("send", 2)
    assert messages[0].id == long.id
