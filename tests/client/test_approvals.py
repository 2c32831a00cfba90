"""Approvals over HTTP, through both clients and a real daemon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.conftest import RealDaemon

from aegis import Aegis
from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers import Asked
from aegis.services.approvals import Approvals
from aegis.services.gate import Gate
from aegis.store import Store


@pytest.fixture
def asked(daemon: RealDaemon) -> list[str]:
    """Three requests of the instance `a`, as the daemon finds them on disk."""
    instance = daemon.start()["id"]
    daemon.down()

    async def ask() -> list[str]:
        clock = SystemClock()
        store = await Store.open(daemon.home / "aegis.db", clock)
        try:
            approvals = Approvals(store, clock, Gate(store, clock))
            place = {"instance": instance, "session": "host:default", "turn": "turn_1"}
            return [(await approvals.ask(**place, request=Asked(id=str(n), tool="Bash", input={"n": n}))).id for n in range(3)]
        finally:
            await store.close()

    idents = asyncio.run(ask())
    daemon.up()
    return idents


def test_both_clients_say_the_same(daemon: RealDaemon, asked: list[str]) -> None:
    client = daemon.client.approvals
    assert [item["id"] for item in client.list(instance="a")] == asked
    one = client.get(asked[0])
    assert (one["handle"], one["agent"], one["state"], one["input"]) == ("a", "agent", "pending", {"n": 0})
    assert client.decide(asked[0], True, input={"n": 7})["edited"] == {"n": 7}

    async def rest() -> list[Any]:
        async with Aegis(daemon.home) as aegis:
            waiting = await aegis.approvals.all(instance="a")
            done = await aegis.approvals.decide(asked[1], False, reason="no")
            with pytest.raises(AegisError) as caught:
                await aegis.approvals.decide(asked[1], True)
            assert caught.value.kind is ErrorKind.CONFLICT
            async for item in aegis.approvals.watch():
                return [[each["id"] for each in waiting], done["state"], item["id"], (await aegis.approvals.get(asked[0]))["state"]]
        raise AssertionError

    assert asyncio.run(rest()) == [asked[1:], "rejected", asked[2], "approved"]
    assert [item["state"] for item in client.list(None)] == ["approved", "rejected", "pending"]
    verdicts = [e["data"]["verdict"] for e in daemon.client.events(0, types=("approval.decided",))["events"]]
    assert verdicts == ["approved", "rejected"]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda client: client.get("appr_nobody"), ErrorKind.NOT_FOUND),
        (lambda client: client.decide("appr_nobody", True), ErrorKind.NOT_FOUND),
        (lambda client: client.list("asleep"), ErrorKind.USAGE),
        (lambda client: client.list(instance="nobody"), ErrorKind.NOT_FOUND),
    ],
)
def test_what_is_wrong_is_told(daemon: RealDaemon, call: Any, kind: ErrorKind) -> None:
    with pytest.raises(AegisError) as caught:
        call(daemon.client.approvals)
    assert caught.value.kind is kind


def test_frames_tell_of_it_too(daemon: RealDaemon, asked: list[str]) -> None:
    daemon.client.approvals.decide(asked[0], True)
    page = daemon.client.mail.poll("a", 0, types=("approval.requested", "approval.decided"))
    assert [frame["type"] for frame in page["frames"]] == ["approval.requested"] * 3 + ["approval.decided"]
    assert page["frames"][0]["payload"]["id"] == asked[0]
