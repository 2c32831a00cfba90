"""Declarations, pins, and servers that run: in sandboxes without a boundary, in the test's own process."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpcore
import msgspec
import pytest
from tests.kit.mcp_server import McpServer, web

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.sandboxes.process import ProcessKind
from aegis.services.config.model import ProjectConfig, ToolServer
from aegis.services.egress.rules import Rules
from aegis.services.gate import Gate
from aegis.services.tools import Definition, ToolCaller
from aegis.services.tools.declared import Declared
from aegis.services.tools.dialling import Dial
from aegis.services.tools.pinning import Origin, Pins
from aegis.services.tools.registry import Tools
from aegis.services.tools.servers import DEATHS, Ground, Servers
from aegis.store import Store

KIT = Path(__file__).resolve().parents[1] / "kit" / "mcp_server.py"
ME = Principal(PrincipalKind.PERSON, "me")
WHO = ToolCaller(principal=ME)


class Hurried(SystemClock):
    """A clock whose pauses are over at once, and count. Whoever waits for longer, waits."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    async def sleep(self, seconds: float) -> None:
        if seconds > 30:
            await asyncio.sleep(seconds)
        self.ahead += max(0.0, seconds)
        await asyncio.sleep(0)


class NoWay:
    """No way out."""

    async def serve(self, channel: Any, instance: Any) -> None:
        await channel.close(error="none")

    async def environment(self, launch: Any) -> dict[str, str]:
        return {}


class Rig:
    """A registry on a store of its own."""

    def __init__(self, store: Store, home: Path, clock: Hurried) -> None:
        self.store, self.home, self.clock = store, home, clock
        self.servers: dict[str, ToolServer] = {}
        self.secrets: dict[str, str] = {}
        self.gate = Gate(store, clock)
        self.declared = Declared(store, clock, self.gate, self._load)
        self.running = Servers(
            Ground(
                home=home, clock=clock, kinds={"process": ProcessKind()}, strongest=self._kind, egress=NoWay(), resolve=self._resolve,
                reveal=self._reveal,
            )
        )  # fmt: skip
        self.tools = Tools(store, clock, self.gate, self.declared, Pins(store, clock), self.running)

    def _load(self, project: Path | None) -> ProjectConfig:
        return ProjectConfig(project=None, hash=None, default_agent="a", agents={}, models={}, providers={}, tool_servers=self.servers)

    async def _kind(self) -> str:
        return "process"

    async def _resolve(self, host: str, port: int) -> list[str]:
        return {"inside.example": ["10.0.0.7"], "cloud.example": ["169.254.169.254"], "both.example": ["93.184.216.34", "127.0.0.1"]}[host]

    async def _reveal(self, name: str, instance: str | None, host: str) -> str | None:
        return self.secrets.get(name)

    def declare(self, name: str, *manners: str, **more: Any) -> None:
        given = {"command": [sys.executable, "-I", str(KIT), *manners]} | more
        self.servers[name] = ToolServer(name=name, source="here", origin="home", **given)

    async def text(self, tool: str, **arguments: Any) -> str:
        return str((await self.tools.call(WHO, tool, arguments)).content[0]["text"])

    async def names(self) -> set[str]:
        return {each.id for each in (await self.tools.offered(WHO)).tools}


@pytest.fixture
async def rig(short_home: Path) -> AsyncIterator[Rig]:
    short_home.mkdir()
    clock = Hurried()
    store = await Store.open(short_home / "aegis.db", clock)
    made = Rig(store, short_home, clock)
    yield made
    await made.tools.close()
    await store.close()


@pytest.fixture
def web_server() -> Iterator[Callable[..., tuple[str, list[dict[str, str]]]]]:
    """Starts an MCP server on the loopback; its URL, and the headers that it was sent."""
    running = []

    def start(*manners: str) -> tuple[str, list[dict[str, str]]]:
        server = McpServer(*manners)
        served = web(server)
        thread = threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        running.append((served, thread))
        return f"http://127.0.0.1:{served.server_address[1]}/mcp", server.headers

    yield start
    for served, thread in running:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.mark.parametrize("manners", [("modern",), ("legacy",), ("legacy", "frail"), ("both", "pages")], ids="-".join)
async def test_servers_of_both_eras_are_listed_and_called(rig: Rig, manners: tuple[str, ...]) -> None:
    rig.declare("kit", *manners)
    assert {"kit.add", "kit.echo"} <= await rig.names()
    assert await rig.text("kit.add", a=2, b=3) == "5"
    assert await rig.text("kit__add", a=2, b=3) == "5"
    assert await rig.text("kit.asks") == "asked"
    assert await rig.text("kit.stray") == "this"
    (row,) = [r for r in rig.gate.list() if r["resource"] == "kit.asks"]
    assert (row["action"], row["decision"]) == ("tool.call", "allow")


async def test_one_that_dies_at_once_is_tried_so_often_and_then_not_for_a_while(rig: Rig) -> None:
    rig.declare("dead", "legacy", "dead")
    for _ in range(DEATHS):
        with pytest.raises(AegisError, match="there is no such thing here") as told:
            await rig.text("dead.add")
        assert told.value.kind is ErrorKind.UNAVAILABLE
    with pytest.raises(AegisError, match="not started again for a while"):
        await rig.text("dead.add")
    rig.clock.ahead += 200.0
    rig.declare("dead", "legacy")  # it is another one now
    assert await rig.text("dead.add", a=1, b=1) == "2"


async def test_a_call_that_is_cancelled_is_told_to_the_server_and_others_go_on(rig: Rig) -> None:
    rig.declare("kit", "legacy")
    await rig.names()
    hanging = asyncio.create_task(rig.text("kit.hang", seconds=0.05))
    while not rig.running.all()[0].calls:
        await asyncio.sleep(0)
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    assert await rig.text("kit.add", a=1, b=1) == "2"


async def test_tools_of_a_server_come_and_go_only_as_they_were_accepted(rig: Rig) -> None:
    rig.declare("kit", "legacy")
    before = await rig.names()
    await rig.text("kit.change")
    rig.clock.ahead += 10.0
    assert await rig.names() == before
    with pytest.raises(AegisError, match="nobody has accepted it") as told:
        await rig.text("kit.new0")
    assert told.value.kind is ErrorKind.CONFLICT
    (event,) = [e for e in rig.store.events(0).events if e.type == "tools.changed"]
    assert msgspec.json.decode(event.data)["added"] == ["new0"]


async def test_pins_are_kept_and_belong_to_a_declaration(rig: Rig) -> None:
    pins, origin = Pins(rig.store, rig.clock), Origin("", "s", "d1")
    one = Definition(name="t", description="one", schema={"type": "object"})
    two = msgspec.structs.replace(one, description="two")
    await pins.first(origin, [one])
    await pins.first(origin, [two])  # not the first any more
    again = Pins(rig.store, rig.clock)
    assert again.of(origin)["t"][1] == one
    change = again.change(origin, [two])
    assert (change.changed, change.added, change.removed) == (["t"], [], [])
    assert [line for line in change.diff if line[0] in "+-"][-2:] == ['- "description": "one",', '+ "description": "two",']
    assert not again.change(Origin("", "s", "d2"), []).any
    assert again.change(origin, []).removed == ["t"]
    await rig.store.write(lambda tx: again.accept(tx, origin, [two]))
    assert not Pins(rig.store, rig.clock).change(origin, [two]).any


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is no JSON"),
        ("[]", "no object `mcpServers`"),
        ('{"mcpServers": {"x": 7}}', "no object"),
        ('{"mcpServers": {"x": {}}}', "needs either"),
        ('{"mcpServers": {"fs": {"command": "x"}}}', "brings along"),
        ('{"mcpServers": {"a__b": {"command": "x"}}}', "cannot be called so"),
        ('{"mcpServers": {"n\\nx": {"command": "x"}}}', "cannot be called so"),
        ('{"mcpServers": {"x": {"command": "x", "env": {"K": "${HOME}"}}}}', "variables or secrets"),
        ('{"mcpServers": {"x": {"url": "http://x/", "headers": {"A": "{secret:K}"}}}}', "variables or secrets"),
        ('{"mcpServers": {"x": {"command": "x", "args": "no list"}}}', "list of texts"),
        ('{"mcpServers": {"x": {"url": "file:///etc/passwd"}}}', "cannot be used"),
    ],
)
async def test_what_is_wrong_in_mcp_json_starts_nothing_and_is_said(rig: Rig, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / ".mcp.json").write_text(text)
    (found,) = rig.declared.servers(str(tmp_path)).values()
    assert problem in found.problem
    assert not found.trusted
    assert rig.declared.offers(str(tmp_path)) == []


async def test_a_link_in_the_place_of_mcp_json_is_not_followed(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"mcpServers": {"x": {"command": "x"}}}')
    (tmp_path / ".mcp.json").symlink_to("other.json")
    (found,) = rig.declared.servers(str(tmp_path)).values()
    assert "cannot be read" in found.problem


async def test_trust_is_in_one_declaration(rig: Rig, tmp_path: Path) -> None:
    def write(*args: str) -> None:
        (tmp_path / ".mcp.json").write_text(json.dumps({"mcpServers": {"x": {"command": "x", "args": args}}}))

    write("one")
    (offer,) = rig.declared.offers(str(tmp_path))
    assert any("starts x one" in line for line in offer.summary)
    await rig.tools.trust(ME, str(tmp_path), "x", offer.hash)
    assert rig.declared.servers(str(tmp_path))["x"].trusted
    write("two")
    assert not rig.declared.servers(str(tmp_path))["x"].trusted
    with pytest.raises(AegisError) as told:
        await rig.tools.trust(ME, str(tmp_path), "x", offer.hash)
    assert told.value.kind is ErrorKind.CONFLICT
    write("one")
    assert rig.declared.servers(str(tmp_path))["x"].trusted


@pytest.mark.parametrize(
    ("host", "rules", "said"),
    [
        ("inside.example", [], "is private"),
        ("both.example", [], "is loopback"),
        ("cloud.example", ["169.254.0.0/16:80"], "never reached"),
        ("0x7f.1", [], "neither a name nor an address"),
    ],
)
async def test_an_address_leads_to_no_inside_that_is_not_named(rig: Rig, host: str, rules: list[str], said: str) -> None:
    dial = Dial(Rules(rules), rig._resolve, own=lambda _: False)
    with pytest.raises(httpcore.ConnectError, match=said):
        await dial.connect_tcp(host, 80)


async def test_a_server_by_http_gets_the_secret_of_its_header_and_nobody_else_does(
    rig: Rig, web_server: Callable[..., tuple[str, list[dict[str, str]]]]
) -> None:
    url, headers = web_server("legacy", "sessions", "sse")
    rig.servers["web"] = ToolServer(name="web", source="here", origin="home", url=url, headers={"Authorization": "Bearer {secret:KEY}"})
    with pytest.raises(AegisError, match="`KEY` of the tool server `web` is not stored"):
        await rig.text("web.add", a=1, b=2)
    rig.secrets["KEY"] = "s3cret"
    rig.clock.ahead += 60.0
    assert await rig.text("web.add", a=1, b=2) == "3"
    assert await rig.text("web.asks") == "asked"
    assert all(one["authorization"] == "Bearer s3cret" for one in headers)
    assert "s3cret" not in json.dumps(rig.gate.list())
