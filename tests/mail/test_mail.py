"""Mail by itself and with the agents it is for: limits, repetition, expiry, size."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.agents.conftest import OWNER, bench, open_bench

from aegis.core.envelopes import MAX_IMAGE, MAX_TEXT, Image
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.mail import Draft, model

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.agents.conftest import Bench

__all__ = ["bench", "open_bench"]


@pytest.mark.parametrize("expires", [float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1_800_000_000.0])
async def test_a_time_that_is_none_or_over_is_refused(bench: Bench, expires: float) -> None:
    instance = await bench.start()
    with pytest.raises(AegisError) as caught:
        await bench.send(instance, "hello", expires=expires)
    assert caught.value.kind is ErrorKind.USAGE
    assert bench.house.mail.box(instance.id) == []


async def test_a_time_far_away_is_a_time(bench: Bench) -> None:
    instance = await bench.start()
    assert (await bench.answer(await bench.send(instance, "[[say hi]]", expires=1e300))).text == "hi"


async def test_what_expired_while_nobody_looked_is_not_delivered(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start()
    await bench.house.agents.disable(OWNER, instance)
    late = await bench.send(instance, "[[say too late]]", expires=bench.clock.now() + 5.0)
    bench.clock.jump(10.0)
    await bench.house.agents.start(OWNER, instance)
    assert (await bench.answer(await bench.send(instance, "[[say next]]"))).in_reply_to != [late.id]
    assert late.id not in str(await bench.house.agents.transcript(instance, "host:default"))
    timers = asyncio.create_task(bench.house.timers.run())
    try:
        await bench.until(lambda: bench.house.mail.box(instance.id)[0]["state"] == "expired")
    finally:
        timers.cancel()


async def test_an_envelope_that_expires_as_it_is_taken_up_has_one_fate(bench: Bench) -> None:
    instance = await bench.start()
    await bench.house.agents.disable(OWNER, instance)
    receipt = await bench.send(instance, "[[say too late]]", expires=bench.clock.now() + 5.0)
    box = bench.house.mail

    def both(tx: object) -> list[str]:
        box.expire(tx, receipt.id, instance=instance.id, session="host:default")  # type: ignore[arg-type]
        return box.take(tx, [receipt.id], "turn_x")  # type: ignore[arg-type]

    assert await bench.house.store.write(both) == []
    assert [row["state"] for row in box.box(instance.id)] == ["expired"]


async def test_a_box_has_an_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_WAITING", 3)
    instance = await bench.start()
    await bench.house.agents.disable(OWNER, instance)
    for n in range(3):
        await bench.send(instance, f"n{n}", msg_id=f"n{n}")
    with pytest.raises(AegisError) as caught:
        await bench.send(instance, "n3")
    assert caught.value.kind is ErrorKind.LIMIT
    assert (await bench.send(instance, "n1", msg_id="n1")).duplicate, "what is in the box already is no further message"


async def test_the_same_msg_id_of_another_sender_is_another_message(bench: Bench) -> None:
    instance = await bench.start(model="scripted/echo")
    first = await bench.send(instance, "mine", msg_id="1")
    other = Principal(PrincipalKind.PERSON, "somebody")
    second = await bench.house.mail.accept(other, Draft(instance=instance.id, session="host:default", text="theirs", msg_id="1"))
    assert second.id != first.id
    assert not second.duplicate
    again = await bench.send(instance, "mine", session="host:other", msg_id="1")
    assert (again.id, again.duplicate) == (first.id, True), "one sender's id is one message, in whatever session it is repeated"
    assert (await bench.answer(second)).reply_to[-1] == "1"


async def test_nothing_is_accepted_for_an_instance_that_is_gone(bench: Bench) -> None:
    instance = await bench.start()
    await bench.house.agents.delete(OWNER, instance)
    with pytest.raises(AegisError) as caught:
        await bench.send(instance, "hello")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert bench.house.store.read(lambda db: db.execute("SELECT count(*) FROM envelopes").fetchone()) == (0,)


@pytest.mark.timeout(120)
async def test_the_largest_message_arrives_and_is_remembered(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start(model="scripted/echo")
    text = "é" * (MAX_TEXT // 2)
    answer = await bench.answer(await bench.send(instance, text))
    assert answer.outcome is Outcome.COMPLETED, answer.error
    await bench.house.close()
    bench = await open_bench()
    instance = bench.house.registry.get("a")
    assert (await bench.answer(await bench.send(instance, "hello again"))).text == "echo: hello again"
    messages = await bench.house.agents.transcript(instance, "host:default")
    assert messages[0]["content"][0]["text"] == text


async def test_what_waited_is_answered_in_order_by_the_next_daemon(open_bench: Callable[[], Awaitable[Bench]]) -> None:
    bench = await open_bench()
    instance = await bench.start(model="scripted/echo")
    await bench.house.agents.disable(OWNER, instance)
    receipts = [await bench.send(instance, f"n{n}", session=f"host:{n % 2}") for n in range(300)]
    await bench.house.close()
    bench = await open_bench()
    instance = bench.house.registry.get("a")
    await bench.house.agents.start(OWNER, instance)
    await bench.answer(receipts[-1])
    await bench.answer(receipts[-2])
    for session in (0, 1):
        heard = [i for m in await bench.house.agents.transcript(instance, f"host:{session}") for i in m.get("ids") or []]
        assert heard == [receipt.id for receipt in receipts[session::2]]


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("images", "kind", "text"),
    [
        ([("image/png", PNG)] * 9, ErrorKind.TOO_LARGE, "9 pictures"),
        ([("image/png", PNG), ("image/png", PNG + b"\0" * MAX_IMAGE)], ErrorKind.TOO_LARGE, "picture 2"),
        ([("image/svg+xml", b"<svg/>")], ErrorKind.USAGE, "image/svg"),
        ([("image/png", b"GIF89a")], ErrorKind.USAGE, "is image/gif"),
        ([("image/jpeg", b"")], ErrorKind.USAGE, "no jpeg inside"),
        ([("image/webp", b"RIFF....WAVE")], ErrorKind.USAGE, "no webp inside"),
    ],
)
async def test_pictures_that_are_none_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, images: list[tuple[str, bytes]], kind: ErrorKind, text: str
) -> None:
    monkeypatch.setattr(bench.house.mail, "admit_images", lambda _instance: None)
    instance = await bench.start()
    with pytest.raises(AegisError, match=text) as caught:
        await bench.send(instance, "look", images=[Image(*image) for image in images])
    assert caught.value.kind is kind
    assert bench.house.mail.box(instance.id) == []


async def test_pictures_are_kept_in_their_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.house.mail, "admit_images", lambda _instance: None)
    instance = await bench.start()
    await bench.house.agents.disable(OWNER, instance)
    webp, jpeg = b"RIFF1234WEBPVP8 ", b"\xff\xd8\xff\xe0"
    receipt = await bench.send(instance, "look", images=[Image("image/webp", webp), Image("image/png", PNG), Image("image/jpeg", jpeg)])
    assert [image.data for image in (await bench.house.mail.images(instance.id, [receipt.id]))[receipt.id]] == [webp, PNG, jpeg]
    assert await bench.house.mail.images("inst_other", [receipt.id]) == {}
    assert bench.house.mail.image_sizes([receipt.id]) == {receipt.id: len(webp + PNG + jpeg)}
