"""Aegis's own agent behind the service: pictures, a person's leave, settings and copies, as with every other program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.agents.conftest import OWNER

from aegis.core.envelopes import Image
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.services.agents import memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.agents.conftest import Bench

S = "host:default"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32


async def test_pictures_are_seen_and_seen_again_by_the_next_process(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start()
    told = await bench.answer(await bench.send(instance, "[[images]]", images=[Image("image/png", PNG), Image("image/gif", b"GIF89a..")]))
    assert "2" in told.text
    assert "image/gif" in told.text
    stored = bench.house.store.read(lambda db: db.execute("SELECT group_concat(message) FROM memory").fetchone()[0])
    assert '"type":"image"' in stored
    assert '"data"' not in stored
    await bench.house.close()
    bench = await open_bench()
    instance = bench.house.registry.get("a")
    history = await memory.history(bench.house.store, instance.id, S)
    shown = await memory.with_pictures(bench.house.mail, instance.id, history)
    assert [b["data"] for b in shown[0]["content"] if b["type"] == "image"] == [PNG, b"GIF89a.."]
    assert (await bench.answer(await bench.send(instance, "hello"))).outcome is Outcome.COMPLETED
    other = await bench.start("b")  # whoever writes another's name into its memory sees nothing of it
    foreign = await memory.with_pictures(bench.house.mail, other.id, history)
    assert not any("data" in block for block in foreign[0]["content"])


async def test_a_person_is_asked_and_their_no_is_heard(bench: Bench) -> None:
    instance = await bench.launch(driver="native", approvals="ask")
    receipt = await bench.send(instance, '[[call bash {"command": "echo ran > proof; cat proof"}]][[lastresult]]')
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    [waiting] = bench.house.approvals.list()
    assert (waiting.tool, waiting.kind, waiting.title) == ("bash", "execute", "echo ran > proof; cat proof")
    assert bench.house.agents.activity(instance).word == "needs-you"
    await bench.house.approvals.decide(OWNER, waiting.id, approve=False, reason="not this")
    assert "not this" in (await bench.answer(receipt)).text
    receipt = await bench.send(instance, '[[call bash {"command": "echo ran > proof; cat proof"}]][[lastresult]]')
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    [waiting] = bench.house.approvals.list()
    await bench.house.approvals.decide(OWNER, waiting.id, approve=True)
    assert (await bench.answer(receipt)).text.strip() == "result: ran"


async def test_a_turn_that_waits_for_a_person_can_be_cut(bench: Bench) -> None:
    instance = await bench.launch(driver="native", approvals="ask")
    receipt = await bench.send(instance, '[[call bash {"command": "true"}]]')
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 1)
    assert await bench.house.agents.interrupt(OWNER, instance, S)
    assert (await bench.answer(receipt)).outcome is Outcome.CANCELLED
    await bench.until(lambda: bench.house.approvals.open(instance.id) == 0)


async def test_the_model_changes_under_the_running_agent(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "one"))
    pump = bench.house.agents._live[instance.id].sessions[S].pump
    await bench.house.agents.configure(OWNER, instance, S, model="scripted/echo", effort="high")
    assert (await bench.answer(await bench.send(instance, "[[say no directive]]"))).text == "echo: [[say no directive]]"
    assert bench.house.agents._live[instance.id].sessions[S].pump is pump  # no new process
    with pytest.raises(AegisError) as caught:
        await bench.house.agents.configure(OWNER, instance, S, effort="hardest")
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_a_copy_has_the_conversation_with_its_pictures(bench: Bench) -> None:
    instance = await bench.start()
    await bench.answer(await bench.send(instance, "first word", images=[Image("image/png", PNG)]))
    await bench.house.agents.fork(OWNER, instance, S, "host:copy")
    assert "first word" in (await bench.answer(await bench.send(instance, "[[recall]]", session="host:copy"))).text
    shown = await memory.with_pictures(bench.house.mail, instance.id, await memory.history(bench.house.store, instance.id, "host:copy"))
    assert [b["data"] for b in shown[0]["content"] if b["type"] == "image"] == [PNG]
