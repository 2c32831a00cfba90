"""The model plane of the daemon, on a real store: whose call it was, what it used, which limit it met."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.broker.conftest import TcpChannel

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Usage
from aegis.daemon.models import Models
from aegis.models.names import FAMILIES, ProviderSpec
from aegis.services.agents import Instance, Launch, State
from aegis.services.gate import Gate
from aegis.store import Store

TOKEN = "token-of-the-sandbox"


class Plane:
    """The plane and a port to it."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self.home = home
        self.clock = ManualClock()
        self.models = Models(store, self.clock, Gate(store, self.clock), self.secret, home)
        self.limits: list[tuple[str, str, float | None, str]] = []
        self.models.on_limit = self.hit
        self.turn: str | None = "turn_1"
        self.switched: tuple[str, ...] = ()
        self.instance = self.of(model="scripted/directives")
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def secret(self, name: str) -> str | None:
        return "sk-secret"

    async def hit(self, instance: str, provider: str, resets_at: float | None, message: str) -> None:
        self.limits.append((instance, provider, resets_at, message))

    def of(self, **launch: Any) -> Instance:
        return Instance(
            id="inst_1",
            handle="a",
            idx=1,
            launch=Launch(agent="a", sandbox="process", **launch),
            state=State.RUNNING,
            reason="",
            enabled=True,
            token=TOKEN,
            created_at=0.0,
            last_active_at=0.0,
        )

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = self.models.serve(TcpChannel(reader, writer), self.instance, lambda session: self.turn, lambda: self.switched)  # type: ignore[arg-type]
        task = asyncio.ensure_future(serving)
        self.tasks.add(task)
        await task

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        data = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {TOKEN}\r\nx-aegis-session: a:b\r\n"
        writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]

    def rows(self, what: str) -> list[tuple[Any, ...]]:
        return self.store.read(lambda db: db.execute(f"SELECT {what} FROM model_calls ORDER BY rowid").fetchall())

    def facts(self) -> list[Any]:
        return [event.fact for event in self.store.events(0, types=("turn.usage",), limit=100).events]

    def totals(self, **of: str) -> dict[str, Any]:
        return self.store.read(lambda db: self.models.totals(db, **of))


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    home = tmp_path / "home"
    home.mkdir()
    store = await Store.open(home / "aegis.db", ManualClock())
    it = Plane(store, home)
    server = await asyncio.start_server(it.accept, "127.0.0.1", 0)
    it.port = server.sockets[0].getsockname()[1]
    yield it
    server.close()
    await asyncio.gather(*it.tasks, return_exceptions=True)
    await it.models.close()
    await store.close()


def ask(text: str = "hi", model: str = "directives") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


async def test_the_ledger_knows_who_told_and_how_long_the_first_byte_took(plane: Plane) -> None:
    assert (await plane.post("/v1/messages", ask()))[0] == 200
    assert (await plane.post("/v1/messages/count_tokens", ask()))[0] == 200
    assert plane.rows("turn, session, source, first_byte_ms, status") == [
        ("turn_1", "a:b", "broker", 0.0, 200),
        (None, "a:b", "count", 0.0, 200),  # a count is on record, but no use of the turn's
    ]
    (fact,) = plane.facts()
    assert (fact.source, fact.input > 0, fact.cost_usd) == ("broker", True, 0.0)
    assert plane.totals(turn="turn_1")["calls"] == plane.totals(instance="inst_1")["calls"] == 1


async def test_a_program_with_its_own_login_tells_itself(plane: Plane) -> None:
    told = Usage("anthropic/x", 10, 20, 5, 0, 0.25, source="program")
    await plane.models.tell(plane.instance, "a:b", "turn_1", told)
    assert plane.rows("*") == []
    await plane.models.tell(plane.of(model="anthropic/x", auth="login"), "a:b", "turn_1", told)
    assert plane.rows("model, source, input, output, cached, cost_usd, first_byte_ms") == [
        ("anthropic/x", "program", 10, 20, 5, 0.25, None)
    ]
    assert [fact.source for fact in plane.facts()] == ["program"]
    assert plane.totals(turn="turn_1")["cost_usd"] == plane.totals(instance="inst_1")["cost_usd"] == 0.25


def spec(url: str) -> ProviderSpec:
    return ProviderSpec(name="mine", base_url=url, dialect="anthropic", free=True)


async def test_a_limit_is_remembered_for_its_turn_and_then_held(plane: Plane) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error":{"message":"tomorrow","type":"rate_limit_error"}}'
        writer.write(b"HTTP/1.1 429 x\r\nretry-after: 5000\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    plane.instance = plane.of(model="mine/m", provider=spec(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert (await plane.post("/v1/messages", ask(model="m")))[0] == 402
    supply = f"mine at http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ((instance, provider, resets_at, message),) = plane.limits
    assert (instance, provider, resets_at) == ("inst_1", supply, plane.clock.now() + 5000)
    hit = plane.models.limit_of("turn_1")
    assert hit is not None
    assert (hit.provider, hit.resets_at, hit.message) == ("mine", resets_at, message)
    assert "tomorrow" in message
    server.close()
    plane.models.held = {supply: plane.clock.now() + 5000}.get
    plane.turn = "turn_2"
    assert (await plane.post("/v1/messages", ask(model="m")))[0] == 402
    held = plane.models.limit_of("turn_2")
    assert held is not None
    assert held.resets_at == resets_at
    assert len(plane.limits) == 1
    assert plane.models.limit_of("turn_3") is None


async def test_which_models_a_session_may_be_switched_to(plane: Plane) -> None:
    check: Callable[[str], str] = lambda name: plane.models.check_model(plane.instance, name, ("anthropic",))  # noqa: E731
    assert check("echo") == check("scripted/echo") == "scripted/echo"
    assert check("anthropic/claude-x") == "anthropic/claude-x"
    for wrong, kind in (
        ("scripted/ecko", ErrorKind.NOT_FOUND),
        ("antropic/x", ErrorKind.NOT_FOUND),
        ("a b", ErrorKind.USAGE),
        ("", ErrorKind.USAGE),
    ):
        with pytest.raises(AegisError) as caught:
            check(wrong)
        assert caught.value.kind is kind
    plane.instance = plane.of(model="anthropic/claude-x")
    assert plane.models.dialects(plane.instance) == frozenset({"anthropic"})
    with pytest.raises(AegisError, match="speaks the dialect openai"):
        check("openai/gpt-5")
    assert check("claude-y") == "anthropic/claude-y"
    assert check("opus") == FAMILIES["opus"]
    assert plane.models.check_model(plane.instance, "openai/gpt-5", ("anthropic", "openai")) == "openai/gpt-5"
    assert plane.models.dialects(plane.instance, "openai/gpt-5") == frozenset({"openai", "responses"})


async def test_sessions_use_what_they_were_switched_to(plane: Plane) -> None:
    assert (await plane.post("/v1/messages", ask(model="scripted/echo")))[0] == 403
    plane.switched = ("scripted/echo",)
    assert (await plane.post("/v1/messages", ask(model="scripted/echo")))[0] == 200
    assert plane.rows("model, status") == [("scripted/echo", 403), ("scripted/echo", 200)]


async def test_a_launch_records_and_another_replays(plane: Plane, tmp_path: Path) -> None:
    path = str(tmp_path / "calls.jsonl")
    plane.instance = plane.of(model="scripted/directives", record=path)
    first = await plane.post("/v1/messages", ask("[[say one]]"))
    plane.instance = plane.of(model="scripted/directives", replay=path)
    assert await plane.post("/v1/messages", ask("[[say two]]")) == first
    assert plane.rows("source, cost_usd") == [("broker", 0.0), ("replayed", 0.0)]
    assert [fact.source for fact in plane.facts()] == ["broker", "replayed"]
    status, body = await plane.post("/v1/messages", ask())
    assert (status, path in body.decode()) == (410, True)


async def test_a_recording_that_cannot_be_written_is_told(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    path = str(plane.home / "calls.jsonl")
    plane.instance = plane.of(model="scripted/directives", record=path)
    assert (await plane.post("/v1/messages", ask()))[0] == 200
    problem = plane.models.problem_of(path)
    assert problem is not None
    assert "is in the Aegis home" in problem
    assert problem in caplog.text
