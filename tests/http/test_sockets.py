"""The WebSocket of events: subscriptions, their mistakes and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.http.conftest import Api
from tests.http.test_following import subscribe
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from aegis.core.clock import SystemClock
from aegis.core.events import InstanceDeleted
from aegis.daemon.http import following, make_app, sockets
from aegis.daemon.http.door import PeerProtocol
from aegis.daemon.wiring import build


class Talk:
    """A socket with its first frame read."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.hello = self.read()

    def read(self) -> dict[str, Any]:
        return dict(json.loads(self.connection.recv(30)))

    def say(self, **frame: Any) -> dict[str, Any]:
        """Send a frame; returns the next that is no event."""
        self.connection.send(json.dumps(frame))
        return self.answer()

    def answer(self) -> dict[str, Any]:
        while (frame := self.read())["type"] in ("event", "evicted", "alive"):
            pass
        return frame


@pytest.fixture
def talk(api: Api) -> Iterator[Talk]:
    with subscribe(api) as connection:
        yield Talk(connection)


def test_several_subscriptions_on_one_socket(api: Api, talk: Talk) -> None:
    assert talk.hello["type"] == "hello"
    head = api.daemon.client.status()["head"]
    api.daemon.start("one", model="scripted/echo")
    api.daemon.start("two", model="scripted/echo")
    asked = (
        {"id": "one", "instance": "one", "types": ["turn.finished"]},
        {"id": "second", "instance": "two", "session": "host:second"},
        {"id": "rest", "types": ["instance.created"]},
    )
    for subscription in asked:
        assert talk.say(type="subscribe", after=head, **subscription)["type"] == "subscribed"
    api.daemon.ask("one", "hello")
    api.daemon.ask("two", "elsewhere")
    api.daemon.ask("two", "hello", session=("host", "second"))
    heard: dict[str, list[dict[str, Any]]] = {"one": [], "second": [], "rest": []}
    while not (heard["one"] and len(heard["rest"]) == 2 and any(e["type"] == "turn.finished" for e in heard["second"])):
        frame = talk.read()
        if frame["type"] == "event":
            heard[frame["id"]].append(frame["event"])
    assert {event["type"] for event in heard["one"]} == {"turn.finished"}
    assert {event["session"] for event in heard["second"]} == {"host:second"}
    assert [event["data"]["handle"] for event in heard["rest"]] == ["one", "two"]
    for events in heard.values():
        assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    ended = talk.say(type="unsubscribe", id="one")
    assert ended["type"] == "unsubscribed"
    assert ended["cursor"] >= heard["one"][-1]["seq"]
    assert talk.say(type="subscribe", id="one", after=ended["cursor"])["type"] == "subscribed", "the id is free again"
    for handle in ("one", "two"):
        api.daemon.client.instances.delete(handle)


def test_the_socket_of_one_instance(api: Api) -> None:
    api.daemon.start("own", model="scripted/echo")
    api.daemon.start("other", model="scripted/echo")
    api.daemon.ask("own", "hello")
    with subscribe(api, "/v1/instances/own/events/ws") as connection:
        talk = Talk(connection)
        refused = talk.say(type="subscribe", id="x", after=0, instance="other")
        assert (refused["type"], refused["kind"], refused["id"]) == ("error", "denied", "x")
        assert talk.say(type="subscribe", id="x", after=0)["type"] == "subscribed"
        instance = api.daemon.client.instances.get("own")["id"]
        while (frame := talk.read())["type"] != "event" or frame["event"]["type"] != "turn.finished":
            if frame["type"] == "event":
                assert frame["event"]["instance"] == instance
    for handle in ("own", "other"):
        api.daemon.client.instances.delete(handle)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ({"type": "subscribe", "id": "x"}, "usage"),
        ({"type": "subscribe", "id": "x", "after": -1}, "usage"),
        ({"type": "subscribe", "id": "x", "after": 2**70}, "usage"),
        ({"type": "subscribe", "id": "x", "after": "0"}, "usage"),
        ({"type": "subscribe", "id": "", "after": 0}, "usage"),
        ({"type": "subscribe", "id": "x" * 65, "after": 0}, "usage"),
        ({"type": "subscribe", "id": "x", "after": 0, "instance": "nobody"}, "not_found"),
        ({"type": "subscribe", "id": "x", "after": 0, "types": ["turn.finnished"]}, "usage"),
        ({"type": "subscribe", "id": "x", "after": 0, "token": "y"}, "usage"),
        ({"type": "unsubscribe", "id": "none"}, "not_found"),
        ({"type": "delete"}, "usage"),
        ({}, "usage"),
        ([], "usage"),
        ("x", "usage"),
    ],
)
def test_mistakes_are_told_and_forgiven(talk: Talk, frame: Any, kind: str) -> None:
    talk.connection.send(json.dumps(frame))
    told = talk.answer()
    assert (told["type"], told["kind"]) == ("error", kind)
    assert told["error"]
    assert told["hint"]
    assert talk.say(type="ping", id="still there") | {"head": 0} == {"type": "pong", "id": "still there", "head": 0}


def test_a_subscription_is_begun_once(talk: Talk) -> None:
    assert talk.say(type="subscribe", id="x", after=0)["type"] == "subscribed"
    assert talk.say(type="subscribe", id="x", after=0)["kind"] == "conflict"


def test_too_many_of_anything(api: Api) -> None:
    with subscribe(api) as connection:
        talk, head = Talk(connection), api.daemon.client.status()["head"]
        for n in range(sockets.MAX_SUBSCRIPTIONS):
            assert talk.say(type="subscribe", id=str(n), after=head)["type"] == "subscribed"
        assert talk.say(type="subscribe", id="more", after=head)["kind"] == "limit"
        for _ in range(sockets.MAX_MISTAKES):
            connection.send("{")
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                talk.read()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == sockets.MISUSED


def test_a_frame_that_is_too_large_ends_it(talk: Talk) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        talk.connection.send(json.dumps({"type": "ping", "id": "x" * sockets.MAX_FRAME}))
        talk.read()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def test_who_comes_from_a_browser(api: Api) -> None:
    """A page cannot set headers: the token is a subprotocol, and the one that is chosen is not the token, if it offers another."""
    url = f"ws://127.0.0.1:{api.port}/v1/events/ws"
    with connect(url, subprotocols=["aegis.v1", f"aegis.bearer.{api.token}"], origin=f"http://localhost:{api.port}") as one:  # type: ignore[list-item, arg-type]
        assert one.subprotocol == "aegis.v1"
        assert Talk(one).hello["v"] == 1
    with connect(url, subprotocols=[f"aegis.bearer.{api.token}"]) as one:  # type: ignore[list-item]
        assert one.subprotocol == f"aegis.bearer.{api.token}"


@pytest.mark.parametrize("path", ["/v1/events/ws", "/v1/instances/x/events/ws"])
def test_a_plain_get_is_told_to_upgrade(api: Api, path: str) -> None:
    answer = api.ask("GET", path)
    assert (answer.status, answer.headers["upgrade"], answer.json["kind"]) == (426, "websocket", "usage")


def test_what_is_not_there_is_refused_before_the_upgrade(api: Api) -> None:
    for path, status in (("/v1/nothing", 404), ("/v1/instances/none/events/ws", 404), ("/v1/status", 404), ("/v1/shutdown", 404)):
        with pytest.raises(InvalidStatus) as caught, subscribe(api, path):
            pass
        assert caught.value.response.status_code == status
        assert json.loads(bytes(caught.value.response.body))["kind"] == "not_found"
    assert api.daemon.client.status()["status"] == "running"


def test_the_end_of_the_daemon_is_told(api: Api) -> None:
    from aegis.client import launch

    with subscribe(api) as connection:
        talk = Talk(connection)
        talk.say(type="subscribe", id="x", after=0)
        api.daemon.down()
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                talk.read()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == sockets.ENDED
    launch.ensure_daemon(api.daemon.home, listen="127.0.0.1:0")
    api.daemon.pid = api.daemon.client.status()["pid"]


@contextlib.asynccontextmanager
async def served(home: Path) -> AsyncIterator[tuple[Any, str]]:
    """A daemon's parts and its server within this process, where its patience can be shortened."""
    home.mkdir(mode=0o700)
    house = await build(home, SystemClock())
    path = str(home / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        config = uvicorn.Config(
            make_app(house), http=PeerProtocol, ws=sockets.PeerSocket, lifespan="off", log_config=None, ws_per_message_deflate=False,
            ws_max_size=sockets.MAX_FRAME, timeout_graceful_shutdown=2,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield house, path
        finally:
            server.should_exit = True
            await serving
            await house.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aegis-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_a_reader_that_does_not_keep_up_is_let_go_and_misses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PATIENCE", 0.3)
    async with served(folder / "h") as (house, path):
        big = "x" * 20_000
        for n in range(400):  # 8 MB: more than all buffers between the two ends
            await house.store.write(lambda tx, n=n: tx.append(InstanceDeleted(f"{n}{big}")))
        seen: list[int] = []

        async def read(after: int) -> int:
            async with unix_connect(path, "ws://aegis/v1/events/ws", max_queue=1) as connection:
                await connection.recv()
                await connection.send(json.dumps({"type": "subscribe", "id": "x", "after": after}))
                if not seen:
                    await _gone()
                try:
                    async for text in connection:
                        frame = json.loads(text)
                        if frame["type"] == "event":
                            seen.append(frame["event"]["seq"])
                            if seen[-1] == house.store.head:
                                return 0
                except ConnectionClosed:
                    pass
                assert connection.close_code is not None
                return connection.close_code

        assert await read(0) == sockets.TRY_AGAIN
        assert 0 < len(seen) < 400
        assert await read(seen[-1]) == 0
        assert seen == list(range(1, 401))


async def _gone() -> None:
    """Return when the daemon serves no socket any more, whether its end was read or not."""
    while sockets._open:
        await asyncio.sleep(0.01)


async def test_silence_is_told_with_the_cursor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HEARTBEAT", 0.05)
    async with served(folder / "h") as (house, path):
        for n in range(3):
            await house.store.write(lambda tx, n=n: tx.append(InstanceDeleted(str(n))))
        async with unix_connect(path, "ws://aegis/v1/events/ws") as connection:
            assert json.loads(await connection.recv())["heartbeat_s"] == 0.05
            await connection.send(json.dumps({"type": "subscribe", "id": "x", "after": 0, "types": ["turn.finished"]}))
            assert json.loads(await connection.recv())["type"] == "subscribed"
            assert json.loads(await connection.recv()) == {"type": "alive", "id": "x", "cursor": 3}
