"""Who gets in: the bearer, the address, the names; what HTTP is answered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.mcp.conftest import Rig, Wire, text

from aegis.services.agents.bearers import bearer_of, path_of, program_bearer_of, session_of

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def test_a_bearer_is_of_one_session_of_one_instance() -> None:
    found = {bearer_of(t, s) for t in ("one", "two") for s in ("host:default", "host:x")}
    found |= {program_bearer_of("one", "host:default")}
    assert len(found) == 5
    assert all(len(b) == 64 for b in found)
    for session in ("host:default", "a:" + "!" * 128, "x:~"):
        assert session_of(path_of(session).split("/")[2]) == session
    for key in ("", "!", "a=", "aG9zdDpkZWZhdWx0=", "_", "aG9zdDpkZWZhdWx0 "):
        assert session_of(key) is None


async def test_the_right_bearer(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        assert (await wire.post(PING)).json == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert (await wire.post(PING, path=path_of("host:default") + "/")).status == 200  # no redirect
        assert (await wire.post(PING, path="/mcp")).status == 200
        assert (await wire.post(PING, session="slack:c1")).status == 200
        assert (await wire.post(PING, headers=wire.as_program())).status == 200
        assert text(await wire.call("aegis_list_sessions", session="slack:c1")).startswith("alpha")
    assert rig.audit("mcp.call") == []


@pytest.mark.parametrize("which", ["other's", "another session's", "the instance's own", "garbage", "other scheme", "bytes"])
async def test_a_wrong_bearer_is_refused_and_on_record(rig: Rig, which: str) -> None:
    alpha, beta = rig.house.registry.get("alpha"), rig.house.registry.get("beta")
    given = {
        "other's": f"Bearer {bearer_of(beta.token, 'host:default')}",
        "another session's": f"Bearer {bearer_of(alpha.token, 'host:x')}",
        "the instance's own": f"Bearer {alpha.token}",
        "garbage": "Bearer " + "x" * 5000,
        "other scheme": f"Basic {bearer_of(alpha.token, 'host:default')}",
        "bytes": "Bearer \xff\xfe",
    }[which]
    async with rig.wire("alpha") as wire:
        reply = await wire.post(PING, headers={"authorization": given})
        assert reply.status == 401
        assert reply.json["kind"] == "denied"
        assert "AEGIS_MCP_TOKEN" in reply.json["hint"]
        assert reply.headers["connection"] == "close"
        assert await wire.reader.read() == b""
    (record,) = rig.audit("mcp.call")
    assert (record["principal"], record["resource"], record["decision"]) == (f"instance:{alpha.id}", "alpha", "deny")


async def test_no_bearer_is_refused(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        reply = await wire.post(PING, headers={"authorization": None})  # type: ignore[dict-item]
        assert (reply.status, reply.json["error"]) == (401, "no bearer was sent")
    assert rig.audit("mcp.call") == []


async def test_many_wrong_bearers_do_not_fill_the_record(rig: Rig) -> None:
    for _ in range(20):
        async with rig.wire("alpha") as wire:
            assert (await wire.post(PING, headers={"authorization": "Bearer x"})).status == 401
    assert len(rig.audit("mcp.call")) == 1
    await rig.bench.clock.advance(2)
    async with rig.wire("alpha") as wire:
        await wire.post(PING, headers={"authorization": "Bearer x"})
    assert rig.audit("mcp.call")[-1]["data"]["before"] == 19


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:80"},
        {"host": "localhost@evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": "null"},
        {"origin": "file://"},
    ],
)
async def test_a_page_that_rebinds_is_refused(rig: Rig, headers: dict[str, str]) -> None:
    async with rig.wire("alpha") as wire:
        reply = await wire.post(PING, headers=headers)
        assert reply.status == 403
        assert "may not speak" in reply.json["error"] or "not this server" in reply.json["error"]


async def test_names_of_this_machine_are_right(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        for host in ("localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:80"):
            assert (await wire.post(PING, headers={"host": host, "origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405), ("OPTIONS", 405), ("HEAD", 405), ("DELETE", 200)])
async def test_other_methods(rig: Rig, method: str, status: int) -> None:
    async with rig.wire("alpha") as wire:
        wire.writer.write(wire.request(method))
        head = (await wire.reader.readuntil(b"\r\n\r\n")).decode()
        assert f" {status} " in head.splitlines()[0]
        if status == 405:
            assert "allow: POST, DELETE" in head


@pytest.mark.parametrize(
    "path",
    ["/", "/s//mcp", "/s/!!/mcp", "/s/aG9zdDpkZWZhdWx0", "/s/aG9zdDpkZWZhdWx0/mcp/x", "/.well-known/oauth-protected-resource", "/s/../mcp"],
)
async def test_other_addresses(rig: Rig, path: str) -> None:
    async with rig.wire("alpha") as wire:
        assert (await wire.post(PING, path=path)).status == 404


async def test_what_is_too_large_or_no_http(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        reply = await wire.post(b"", headers={"content-length": str(17 * 1024 * 1024)})
        assert (reply.status, reply.json["kind"]) == (413, "usage")
    async with rig.wire("alpha") as wire:
        assert (await wire.raw(b"hello\r\n\r\n")).status == 400
    async with rig.wire("alpha") as wire:
        assert (await wire.post(PING, headers={"content-encoding": "gzip"})).status == 415


async def test_a_session_begins_with_the_handshake_alone(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        opened = await wire.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}})
        assert opened.headers["mcp-session-id"]
        assert opened.headers["content-type"] == "application/json"
        told = await wire.post(
            {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers={"mcp-session-id": opened.headers["mcp-session-id"]}
        )
        assert (told.status, told.body) == (202, b"")
        # A session that this daemon never began, as after a restart, is as good as any.
        assert (await wire.post(PING, headers={"mcp-session-id": "of-another-daemon"})).status == 200
        assert "mcp-session-id" not in (await wire.post(PING)).headers


async def test_a_list_of_messages(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "aegis_meta"}}
        found = (await wire.post([PING, call, {"jsonrpc": "2.0", "method": "x"}])).json
        assert sorted(one["id"] for one in found) == [1, 2]


async def test_requests_that_come_at_once(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        requests = [wire.request("POST", {**PING, "id": n}) for n in range(50)]
        wire.writer.write(b"".join(requests))
        assert [(await wire.read()).json["id"] for _ in requests] == list(range(50))


async def test_a_sandbox_is_held_while_it_waits_for_an_answer(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        await wire.post(PING)
        await wire.call("aegis_meta")
    assert rig.held == ["hold", "release"] * 2


def waiting(ident: Any, **more: Any) -> dict[str, Any]:
    params = {"name": "aegis_status", "arguments": {"wait_s": 600}, **more}
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}


async def underway(rig: Rig) -> None:
    await rig.bench.until(lambda: bool(rig.house.plane.calls._tasks))


async def test_a_call_that_waits_can_be_called_off(rig: Rig) -> None:
    async with rig.wire("alpha") as wire, rig.wire("alpha") as other:
        wire.writer.write(wire.request("POST", waiting(7), headers={"mcp-session-id": "s1"}))
        await underway(rig)
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        for headers in ({"mcp-session-id": "s2"}, {}):  # of somebody else, by the same id
            assert (await other.post(cancelled, headers=headers)).status == 202
        assert (await other.post(PING)).status == 200  # nothing is held up
        await other.post(cancelled, headers={"mcp-session-id": "s1"})
        assert (await wire.read()).json["error"]["message"] == "cancelled, as you asked"
        wire.writer.write(wire.request("POST", waiting("x"), headers={"mcp-session-id": "s1"}))
        await underway(rig)
        assert (await other.http("DELETE", headers={"mcp-session-id": "s1"})).status == 200
        assert "error" in (await wire.read()).json


async def test_who_goes_away_is_not_waited_for(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        wire.writer.write(wire.request("POST", waiting(1)))
        await underway(rig)
        wire.close()
        await rig.bench.until(lambda: not rig.house.plane.calls._tasks and rig.held == ["hold", "release"])


async def test_a_long_call_is_told_to_live(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis.daemon.mcp.plane.ALIVE", 0.02)
    async with rig.wire("alpha") as wire, rig.wire("beta") as other:
        wire.writer.write(wire.request("POST", waiting(1, _meta={"progressToken": "t"})))
        await underway(rig)
        asyncio.get_running_loop().call_later(
            0.2, lambda: asyncio.ensure_future(other.call("aegis_handoff", {"target_handle": "alpha", "context": "hi"}))
        )
        reply = await wire.read()
    assert reply.headers["content-type"] == "text/event-stream"
    events = [json.loads(line[5:]) for line in reply.body.decode().splitlines() if line.startswith("data:")]
    assert events[-1]["id"] == 1
    assert "result" in events[-1]
    assert {event["method"] for event in events[:-1]} == {"notifications/progress"}
    steps = [event["params"]["progress"] for event in events[:-1]]
    assert steps == sorted(set(steps))


async def test_who_takes_no_stream_gets_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis.daemon.mcp.plane.ALIVE", 0.02)
    async with rig.wire("alpha") as wire, rig.wire("beta") as other:
        wire.writer.write(wire.request("POST", waiting(1), headers={"accept": "application/json"}))
        await underway(rig)
        await asyncio.sleep(0.1)
        await other.call("aegis_handoff", {"target_handle": "alpha", "context": "hi"})
        assert (await wire.read()).headers["content-type"] == "application/json"


async def test_many_calls_at_once(rig: Rig) -> None:
    async with rig.wire("alpha") as wire:
        port: int = wire.port  # type: ignore[attr-defined]

        async def one(n: int) -> int:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            mine = Wire(reader, writer, wire.instance)
            try:
                reply = await mine.post({**PING, "id": n})
                return int(reply.json["id"])
            finally:
                mine.close()

        assert sorted(await asyncio.gather(*(one(n) for n in range(200)))) == list(range(200))
