"""Sessions, use, pictures and the picking of events over HTTP, through both clients and a real daemon."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon

from aegis import Aegis
from aegis.client.images import image_of, read_image
from aegis.core.envelopes import MAX_IMAGE
from aegis.core.errors import AegisError, ErrorKind

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def test_a_session_is_set_and_copied(daemon: RealDaemon) -> None:
    daemon.start()
    daemon.ask("a", "[[say remember this]]")
    sessions = daemon.client.sessions
    item = sessions.configure("a", ("host", "default"), model="scripted/echo")
    assert item["sessions"][0]["model"] == "scripted/echo"
    odd = ("host", "with/slash and".replace(" ", "%"))
    copied = sessions.fork("a", ("host", "default"), odd)
    assert {entry["session"] for entry in copied["sessions"]} == {"host:default", ":".join(odd)}

    async def rest() -> Any:
        async with Aegis(daemon.home) as aegis:
            agent = await aegis.instance("a")
            await agent.configure(odd, model="scripted/directives")
            await agent.fork(("host", "third"), session=odd)
            used = await agent.usage()
            assert {entry["session"] for entry in agent.info["sessions"]} == {"host:default", ":".join(odd), "host:third"}
            async for event in agent.watch(0, session=("host", "default")):
                if event.type == "turn.finished":
                    return used["turns"], (await agent.usage(turn=event.turn))["turns"], (await agent.usage(odd))["turns"]

    assert asyncio.run(rest()) == (1, 1, 0)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda s: s.configure("a"), ErrorKind.USAGE),
        (lambda s: s.configure("a", ("host", "default"), model="nobody/nothing"), ErrorKind.NOT_FOUND),
        (lambda s: s.configure("a", ("a b", "c"), mode="x"), ErrorKind.USAGE),
        (lambda s: s.fork("a", ("host", "none"), ("host", "copy")), ErrorKind.NOT_FOUND),
        (lambda s: s.usage("nobody"), ErrorKind.NOT_FOUND),
    ],
)
def test_what_is_wrong_is_told(daemon: RealDaemon, call: Any, kind: ErrorKind) -> None:
    daemon.start()
    with pytest.raises(AegisError) as caught:
        call(daemon.client.sessions)
    assert caught.value.kind is kind


def test_pictures_go_to_those_who_take_them(daemon: RealDaemon, tmp_path: Path) -> None:
    daemon.start()
    (tmp_path / "a.png").write_bytes(PNG)
    receipt = daemon.client.mail.send("a", "[[images]]", images=[read_image(tmp_path / "a.png")])
    assert "image/png" in daemon.finish("a", receipt)["text"]
    with pytest.raises(AegisError, match="request body"):
        daemon.client.mail.send("a", "look", images=[{"media_type": "image/png", "data": "not base64"}])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a.", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_a_picture_says_what_it_is(data: bytes, kind: str) -> None:
    assert image_of(data) == {"media_type": kind, "data": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"<svg/>", ErrorKind.USAGE), (b"", ErrorKind.USAGE), (PNG + bytes(MAX_IMAGE), ErrorKind.TOO_LARGE)],
    ids=["svg", "empty", "large"],
)
def test_what_is_no_picture_is_refused(data: bytes, kind: ErrorKind, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(AegisError) as caught:
        read_image(tmp_path / "x")
    assert caught.value.kind is kind
    with pytest.raises(AegisError, match="cannot be read"):
        read_image(tmp_path / "none")


def test_events_are_picked_by_session_and_type(daemon: RealDaemon) -> None:
    daemon.start()
    for session in ("one", "two"):
        daemon.ask("a", "[[say hi]]", session=("host", session))
    client = daemon.client
    head = client.status()["head"]
    ends = client.events(0, types=("turn.finished",))["events"]
    assert [event["session"] for event in ends] == ["host:one", "host:two"]
    newest = client.events(0, instance="a", types=("turn.started", "turn.finished"), before=head + 1, limit=1)["events"]
    assert newest == [ends[-1]]
    assert {event["session"] for event in client.events(0, session="host:one")["events"]} == {"host:one"}
    with client.follow_events(0, types=("turn.finished",)) as stream:
        found = iter(stream)
        assert [next(found)["seq"], next(found)["seq"]] == [event["seq"] for event in ends]
