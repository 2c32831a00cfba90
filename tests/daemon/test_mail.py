"""Mail through the real daemon: batches, receipts, dead letters, work that is handed over, ten thousand messages and a death."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon, wait_gone

from aegis import Aegis
from aegis.client import launch
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from pathlib import Path


def post(daemon: RealDaemon, path: str, body: bytes, kind: str) -> tuple[int, Any]:
    """One request with a body of any form."""
    connection = http.client.HTTPConnection("aegis")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(launch.socket_path(daemon.home)))
    connection.request("POST", path, body, {"content-type": kind})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


def test_a_batch(daemon: RealDaemon) -> None:
    for handle in ("a", "b"):
        daemon.start(handle, model="scripted/echo")
    letters: list[Any] = [
        {"to": "a", "text": "one", "msg_id": "1"},
        {"to": "b", "text": "two", "session": "host:other"},
        {"to": "bb", "text": "three"},
        {"to": "a", "text": " "},
        {"to": "a", "text": "four", "session": "no"},
        {"to": "a", "text": "again", "msg_id": "1"},
        {"to": "b", "text": "five", "report_to": "a"},
    ]
    told = daemon.client.mail.send_all(letters)
    assert [item.get("kind", "ok") for item in told] == ["ok", "ok", "not_found", "usage", "usage", "ok", "ok"]
    assert "`b`" in told[2]["hint"]
    assert (told[5]["id"], told[5]["duplicate"]) == (told[0]["id"], True)
    assert daemon.finish("a", told[0])["text"] == "echo: one"
    assert daemon.finish("b", told[6])["text"] == "echo: five"
    lines = b'{"to": "a", "text": "x"}\n\n{"to": "b", "text": "y"}\n'
    assert [sorted(item) for item in post(daemon, "/v1/mail/batch", lines, "application/x-ndjson")[1]] == [
        ["duplicate", "id", "ingress_seq"]
    ] * 2
    for body in (b"[1]", b'{"to": "a"}', b"[", b'[{"to": "a", "text": "x", "sender": "y"}]', b"\xff"):
        status, refused = post(daemon, "/v1/mail/batch", body, "application/json")
        assert (status, refused["kind"]) == (400, "usage"), body
    many = json.dumps([{"to": "a", "text": "x"}] * 10_001).encode()
    assert post(daemon, "/v1/mail/batch", many, "application/json")[0] == 413
    assert post(daemon, "/v1/mail/batch", b"[]", "application/json") == (200, [])


def test_receipts_and_dead_letters(daemon: RealDaemon) -> None:
    mail = daemon.client.mail
    daemon.start("a", model="scripted/echo")
    receipt = mail.send("a", "hello")
    daemon.finish("a", receipt)
    told = mail.get(receipt["id"][-8:])
    assert (told["id"], told["state"], told["handle"], told["text"]) == (receipt["id"], "acknowledged", "a", "hello")
    assert told["accepted_at"] <= told["injected_at"] <= told["acknowledged_at"] <= told["done_at"]  # type: ignore[operator, typeddict-item]
    daemon.client.instances.act("a", "disable")
    with pytest.raises(AegisError) as caught:
        mail.send("a", "nobody is there")
    assert caught.value.kind is ErrorKind.CONFLICT
    kept, late = mail.send("a", "kept", hold=True), mail.send("a", "late", hold=True, expires=0.01)
    assert [mail.get(r["id"]).get("position") for r in (kept, late)] == [0, 1]
    page = mail.poll("a", late["ingress_seq"], wait=20, types=("event.failed",))
    assert page["frames"][0]["payload"] == {"ids": [late["id"]], "reason": "expired"}
    assert [item["id"] for item in mail.all(dead=True)] == [late["id"]]
    assert mail.drop(kept["id"])["reason"] == "dropped"
    assert [item["id"] for item in mail.all("a", dead=True)] == [kept["id"], late["id"]]
    assert [item["id"] for item in mail.all("a", limit=1, before=late["ingress_seq"])] == [kept["id"]]
    for ident, kind in ((receipt["id"], ErrorKind.CONFLICT), ("msg_none", ErrorKind.NOT_FOUND), ("zz", ErrorKind.NOT_FOUND)):
        for act in (mail.drop, mail.retry):
            with pytest.raises(AegisError) as caught:
                act(ident)
            assert caught.value.kind is kind
    mail.retry(late["id"], hold=True)
    daemon.client.instances.act("a", "start")
    assert daemon.finish("a", late)["text"] == "echo: late"


async def test_the_same_from_python(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    daemon.client.instances.act("a", "disable")
    async with Aegis(daemon.home) as aegis:
        kept, refused = await aegis.mail.send_all([{"to": "a", "text": "x", "hold": True}, {"to": "a", "text": "y"}])
        assert refused["kind"] == "conflict"
        assert (await aegis.mail.drop(kept["id"][-6:]))["state"] == "failed"
        assert [item["id"] for item in await aegis.mail.all("a", dead=True)] == [kept["id"]]
        assert (await aegis.mail.retry(kept["id"], hold=True))["state"] == "accepted"
        assert (await aegis.mail.get(kept["id"])).get("position") == 0
        assert len(await aegis.mail.all()) == 1


def test_work_is_handed_over_from_one_to_the_next(daemon: RealDaemon) -> None:
    """A person gives work to one agent, whose report another one reads; the daemon is killed as soon as the work is accepted."""
    for handle in ("coder", "reviewer"):
        daemon.start(handle, model="scripted/echo")
    asked = daemon.client.mail.send("coder", "mend it", report_to="reviewer")
    daemon.kill()
    daemon.up()
    daemon.finish("coder", asked)
    page = daemon.client.mail.poll("reviewer", 0, wait=30, types=("assistant.done",))
    head, _, body = page["frames"][0]["payload"]["text"].removeprefix("echo: ").partition("\n")
    assert head.startswith("> from agent:coder · ")
    assert head.endswith(f" · task#{asked['id']} · ok")
    assert body == "  echo: mend it"


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_messages_to_a_sleeping_agent(daemon: RealDaemon, count: int) -> None:
    """All are delivered in their order, and each is in the memory of the agent once, though the daemon dies twice on the way."""
    daemon.start("a", model="scripted/echo")
    daemon.client.instances.act("a", "disable")
    told = daemon.client.mail.send_all([{"to": "a", "text": f"n{n}", "msg_id": str(n), "hold": True} for n in range(count)])
    ids = [item["id"] for item in told]
    assert len(set(ids)) == count
    daemon.client.instances.act("a", "start")
    for n in (count // 20, count // 2):
        daemon.client.mail.poll("a", told[n]["ingress_seq"], wait=30, types=("assistant.done",))
        daemon.kill()
        daemon.up()
    daemon.finish("a", told[-1], 60.0)
    heard = [ident for message in daemon.client.mail.transcript("a")["messages"] for ident in message.get("ids") or []]
    assert heard == ids
    assert {item["state"] for item in daemon.client.mail.all("a", limit=1000)} == {"acknowledged"}


def test_a_batch_that_breaks_off_is_all_or_nothing_for_who_sends_it_again(short_home: Path) -> None:
    """Killed in the transaction: what was told as accepted is there, and the same batch again makes every message one message."""
    daemon = RealDaemon(short_home)
    try:
        daemon.up(faults="mail.accept.commit=kill:3")
        daemon.start("a", model="scripted/echo")
        daemon.client.instances.act("a", "disable")
        letters: list[Any] = [{"to": "a", "text": f"n{n}", "msg_id": str(n), "hold": True} for n in range(1000)]
        with pytest.raises(AegisError) as caught:
            daemon.client.mail.send_all(letters)
        assert caught.value.kind is ErrorKind.UNREACHABLE
        wait_gone(daemon.pid)
        daemon.up()
        told = daemon.client.mail.send_all(letters)
        assert [item["duplicate"] for item in told] == [True] * 500 + [False] * 500
        assert [item["ingress_seq"] for item in told] == sorted(item["ingress_seq"] for item in told)
        assert len(daemon.client.mail.all("a", limit=1000)) == 1000
    finally:
        daemon.down()
