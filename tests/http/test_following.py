"""Events by lines, server-sent events and WebSocket: one meaning of a cursor, and nothing is lost or told twice when the daemon dies."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.http.conftest import Api
from websockets.sync.client import ClientConnection, unix_connect

from aegis.client import launch
from aegis.core.events import FACTS
from aegis.daemon.http.following import News, as_lines, as_sse


def subscribe(api: Api, path: str = "/v1/events/ws", **options: Any) -> ClientConnection:
    """A WebSocket over the unix socket."""
    where = str(launch.socket_path(api.daemon.home))
    return unix_connect(where, f"ws://aegis{path}", **{"open_timeout": 30, "close_timeout": 0.5, **options})


class Wire:
    """One way to follow the log from a cursor: `read` gives `(seq, type)` and `close` ends it."""

    def __init__(self, api: Api, after: int) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[int, str]]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Lines(Wire):
    """NDJSON."""

    path, accept = "/v1/events?follow=1&after={after}", "application/x-ndjson"

    def __init__(self, api: Api, after: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
        self.connection.request("GET", self.path.format(after=after), headers=api.bearer | {"Accept": self.accept} | self.headers(after))
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200
        assert (self.answer.headers["content-type"] or "").startswith(self.accept)

    def headers(self, after: int) -> dict[str, str]:
        return {}

    def lines(self) -> Iterator[bytes]:
        while line := self.answer.readline():
            yield line.rstrip(b"\n")

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for line in filter(None, self.lines()):
            event = json.loads(line)
            yield event["seq"], event["type"]

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


class Sse(Lines):
    """Server-sent events, gone on with as a browser does: the same address, the last id in a header."""

    path, accept = "/v1/events?after=0", "text/event-stream"

    def headers(self, after: int) -> dict[str, str]:
        return {"Last-Event-ID": str(after)}

    def __iter__(self) -> Iterator[tuple[int, str]]:
        ident, kind = 0, ""
        for line in self.lines():
            name, _, value = line.decode().partition(": ")
            if name == "id":
                ident = int(value)
            elif name == "event":
                kind = value
            elif name == "data" and kind != "evicted":
                assert json.loads(value)["seq"] == ident
                yield ident, kind


class Frames(Wire):
    """WebSocket."""

    def __init__(self, api: Api, after: int) -> None:
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(subscribe(api))
        assert json.loads(self.socket.recv(30))["type"] == "hello"
        self.socket.send(json.dumps({"type": "subscribe", "id": "all", "after": after}))
        assert json.loads(self.socket.recv(30)) == {"type": "subscribed", "id": "all", "after": after}

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while True:
            frame = json.loads(self.socket.recv(30))
            if frame["type"] == "event":
                yield frame["event"]["seq"], frame["event"]["type"]

    def close(self) -> None:
        self.stack.close()


@pytest.mark.parametrize("wire", [Lines, Sse, Frames])
def test_across_the_death_of_the_daemon(api: Api, wire: type[Wire]) -> None:
    """Killed in the middle of a turn; what is read before and after is every durable event there is, once, in order."""
    handle, seen = wire.__name__.lower(), list[tuple[int, str]]()
    start = api.daemon.client.status()["head"]
    api.daemon.start(handle)
    receipt = api.daemon.client.mail.send(handle, "[[hang 1]] [[say after all]]")
    first = wire(api, start)
    for seq, kind in first:
        seen.append((seq, kind))
        if kind == "turn.started":
            break
    api.daemon.kill()
    first.close()
    launch.ensure_daemon(api.daemon.home, listen="127.0.0.1:0")
    api.daemon.pid = api.daemon.client.status()["pid"]
    second = wire(api, seen[-1][0])
    for seq, kind in second:
        seen.append((seq, kind))
        if kind == "turn.finished" and seq > receipt["ingress_seq"] and [k for _, k in seen].count("turn.finished") == 2:
            break
    second.close()
    numbers = [seq for seq, _ in seen]
    assert numbers == sorted(set(numbers)), "told twice, or out of order"
    there, cursor = [], start
    while page := api.daemon.client.events(cursor)["events"]:
        there += [(event["seq"], event["type"]) for event in page]
        cursor = page[-1]["seq"]
    durable = [item for item in there if item[0] <= numbers[-1] and not FACTS[item[1]].ephemeral]
    assert [item for item in seen if not FACTS[item[1]].ephemeral] == durable
    api.daemon.client.instances.delete(handle)


def test_the_cursor_of_a_browser_is_the_greater(api: Api) -> None:
    head = api.daemon.client.status()["head"]
    for query, header, first in ((f"after={head}", None, head), ("after=0", str(head), head), (f"after={head}", "1", head)):
        page = api.ask("GET", f"/v1/events?{query}", headers={} if header is None else {"Last-Event-ID": header}).json
        assert all(event["seq"] > first for event in page["events"])
    for wrong in ("x", "-1", "1e3", "99999999999999999999999", "٣"):
        page = api.ask("GET", "/v1/events?limit=1", headers={"Last-Event-ID": wrong.encode().decode("latin-1")}).json
        assert page["events"][0]["seq"] == 1, wrong


def test_what_is_no_event_is_no_cursor() -> None:
    gone = News([], 5, evicted=900)
    assert b"id:" not in as_sse(gone)
    assert as_lines(gone) == b""
    assert as_sse(News([], 7)) == b": alive\nid: 7\n\n"
    assert as_lines(News([], 7)) == b"\n"


def test_a_frame_that_tells_of_a_loss_keeps_the_cursor(api: Api) -> None:
    """Deltas of the life before are gone: whoever goes on from the number of that frame still misses no durable one."""
    api.daemon.start("gap")
    api.daemon.ask("gap", "[[slow 5 5]]")
    api.daemon.kill()
    launch.ensure_daemon(api.daemon.home, listen="127.0.0.1:0")
    api.daemon.pid = api.daemon.client.status()["pid"]
    with api.daemon.client.mail.stream("gap", 0, None) as stream:
        frames = iter(stream)
        lost = next(frames)
        assert (lost["type"], lost["seq"]) == ("event.evicted", 0)
        assert lost["payload"]["evicted"] > 0
        assert next(frames)["type"] == "user.message"
    with subscribe(api) as connection:
        connection.recv(30)
        connection.send(json.dumps({"type": "subscribe", "id": "x", "after": 0, "instance": "gap"}))
        kinds = [json.loads(connection.recv(30)) for _ in range(3)]
        assert [frame["type"] for frame in kinds] == ["subscribed", "evicted", "event"]
        assert kinds[1] == {"type": "evicted", "id": "x", "evicted": lost["payload"]["evicted"]}
        connection.send(json.dumps({"type": "subscribe", "id": "y", "after": 0, "instance": "gap", "types": ["turn.finished"]}))
        while (frame := json.loads(connection.recv(30)))["id"] != "y" or frame["type"] == "subscribed":
            pass
        assert frame["type"] == "event", "who asked for what is kept has lost nothing"
    api.daemon.client.instances.delete("gap")
