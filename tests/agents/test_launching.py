"""From a request to a launch: what does not fit together is refused before anything starts, with its mend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aegis.core.clock import SystemClock
from aegis.core.dialects import Dialect
from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers import Capabilities, ConversationSpec, Installation, McpServer
from aegis.drivers.login import Login
from aegis.models.names import FAMILIES
from aegis.sandboxes.link import Link
from aegis.services.agents.launching import Launching, StartRequest
from aegis.services.agents.logins import Logins
from aegis.services.agents.model import Launch
from aegis.services.agents.registry import Registry
from aegis.services.broker import check_recording
from aegis.services.config import Config
from aegis.store import Store


class Named:
    """A driver as far as launching looks at it."""

    def __init__(self, name: str, dialects: tuple[Dialect, ...], capabilities: Capabilities) -> None:
        self.name = name
        self.dialects = dialects
        self.capabilities = capabilities

    async def locate(self) -> Installation | None:
        return None

    async def start(self, link: Link, spec: ConversationSpec) -> Any:
        raise NotImplementedError


DRIVERS = {
    driver.name: driver
    for driver in (
        Named("native", ("anthropic", "openai"), Capabilities()),
        Named("claude-code", ("anthropic",), Capabilities(permission_requests=True, efforts=("low", "high"), modes=("default", "plan"))),
        Named("gemini", ("gemini",), Capabilities(permission_requests=True)),
        Named(
            "opencode",
            ("openai", "anthropic", "responses"),
            Capabilities(permission_requests=True, modes=("build", "wild"), unasking=("wild",)),
        ),
    )
}
LOGINS = {"claude-code": Login(files=(".claude/x",), egress=("api.example.com:443",))}


class Desk:
    """A home, its configuration, and launching over them."""

    def __init__(self, store: Store, home: Path) -> None:
        self.home = home
        self.stored: set[str] = set()
        self.config = Config(store, SystemClock(), home, {}, DRIVERS.keys)
        self.registry = Registry(store, SystemClock())
        self.launching = Launching(
            home=home,
            definitions=self.config,
            kinds=("bwrap", "process"),
            strongest=self._strongest,
            stored=self._stored,
            drivers=DRIVERS,
            logins=Logins(home.parent / "person", LOGINS, self.registry),
            check_recording=lambda path: check_recording(path, home),
        )

    async def _strongest(self) -> str:
        return "bwrap"

    async def _stored(self) -> set[str]:
        return self.stored

    def write(self, text: str) -> None:
        (self.home / "config.yaml").write_text(text)

    async def launch(self, **request: Any) -> Launch:
        return await self.launching.resolve(StartRequest(**request))

    async def refused(self, **request: Any) -> AegisError:
        with pytest.raises(AegisError) as caught:
            await self.launch(**request)
        return caught.value


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    store = await Store.open(home / "aegis.db", SystemClock())
    yield Desk(store, home)
    await store.close()


async def test_a_request_is_stronger_than_the_definition(desk: Desk) -> None:
    desk.write(
        "agents:\n  coder: {provider: claude-code, model: opus, effort: low, permission: full, egress: ['a.example:443'],"
        " mcp: {bus: {url: 'http://127.0.0.1:1/'}, files: {command: [f]}}}\n"
    )
    launch = await desk.launch(agent="coder", effort="high", mode="plan", approvals="ask", egress=["a.example:443", "packages"])
    assert (launch.driver, launch.model) == ("claude-code", FAMILIES["opus"])
    assert (launch.effort, launch.mode, launch.approvals, launch.permission) == ("high", "plan", "ask", "full")
    assert launch.egress == ["a.example:443", "packages"]
    own = [McpServer(name="bus", command=["mine"])]
    assert [server.command for server in (await desk.launch(agent="coder", mcp=own)).mcp] == [["mine"], ["f"]]
    assert (await desk.launch(agent="coder", provider="gemini", model="flash", effort=None)).driver == "gemini"


@pytest.mark.parametrize(
    ("provider", "stored", "model"),
    [
        ("native", set(), "scripted/echo"),
        ("claude-code", set(), "scripted/echo"),
        ("claude-code", {"OPENAI_API_KEY"}, "scripted/echo"),
        ("claude-code", {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}, "anthropic/"),
        ("gemini", {"ANTHROPIC_API_KEY", "GEMINI_API_KEY"}, "gemini/"),
        ("gemini", {"ANTHROPIC_API_KEY"}, "scripted/echo"),
        ("opencode", {"OPENAI_API_KEY"}, "openai/"),
    ],
)
async def test_the_model_of_a_program_when_nobody_names_one(desk: Desk, provider: str, stored: set[str], model: str) -> None:
    desk.stored = stored
    found = (await desk.launch(provider=provider)).model
    assert found is not None
    assert found.startswith(model)


async def test_a_family_means_its_newest_model_and_a_declared_alias_comes_first(desk: Desk) -> None:
    assert (await desk.launch(provider="claude-code", model="haiku")).model == FAMILIES["haiku"]
    desk.write("models: {haiku: {model: anthropic/mine}}\n")
    assert (await desk.launch(provider="claude-code", model="haiku")).model == "anthropic/mine"
    error = await desk.refused(model="opsu")
    assert (error.kind, error.data["nearest"]) == (ErrorKind.NOT_FOUND, "opus")


async def test_a_model_is_spoken_to_in_a_dialect_of_the_program(desk: Desk) -> None:
    error = await desk.refused(provider="claude-code", model="openai/gpt-4o")
    assert error.kind is ErrorKind.USAGE
    assert "claude-code speaks Anthropic Messages" in error.message
    assert "`openai` speaks OpenAI Chat Completions" in error.message
    assert "`anthropic`" in error.hint
    assert "`scripted`" in error.hint
    desk.write("providers: {loop: {base_url: 'http://127.0.0.1:1', dialect: gemini}}\n")
    assert (await desk.launch(provider="gemini", model="loop/x")).model == "loop/x"
    error = await desk.refused(provider="opencode", model="loop/x")
    assert "`loop` speaks Gemini" in error.message
    assert (await desk.launch(provider="opencode", model="scripted/demo")).model == "scripted/demo"


@pytest.mark.parametrize(
    ("request_", "kind", "says", "hint"),
    [
        ({"provider": "claude"}, ErrorKind.NOT_FOUND, "no provider `claude`", "claude-code"),
        ({"provider": "gemini", "effort": "high"}, ErrorKind.USAGE, "gemini cannot be told", "leave out"),
        ({"provider": "claude-code", "effort": "hgih"}, ErrorKind.NOT_FOUND, "effort of claude-code", "high"),
        ({"provider": "claude-code", "mode": "pla"}, ErrorKind.NOT_FOUND, "mode of claude-code", "plan"),
        ({"mode": "plan"}, ErrorKind.USAGE, "native agent has no modes", "leave out"),
        ({"approvals": "ask"}, ErrorKind.USAGE, "native does not ask", "leave out"),
        ({"provider": "gemini", "approvals": "never"}, ErrorKind.NOT_FOUND, "no approvals `never`", "auto"),
        ({"provider": "opencode", "approvals": "ask", "mode": "wild"}, ErrorKind.CONFLICT, "does not ask for everything", "`build`"),
        ({"provider": "gemini", "approvals": "ask", "sandbox": "process"}, ErrorKind.DENIED, "no boundary", "doctor"),
        ({"permission": "all"}, ErrorKind.NOT_FOUND, "no permission `all`", "full"),
        ({"permission": "read", "sandbox": "process"}, ErrorKind.DENIED, "no boundary", "doctor"),
        ({"egress": ["a.example:443"]}, ErrorKind.USAGE, "egress to a.example:443 needs", "--permission full"),
        ({"egress": ["a.example:443"], "permission": "full", "sandbox": "process"}, ErrorKind.DENIED, "no boundary", "doctor"),
        ({"egress": ["https://a"], "permission": "full"}, ErrorKind.USAGE, "egress rule", "HOST:PORT"),
        ({"mounts": ["/usr/share:/data:rw"]}, ErrorKind.USAGE, "the writable mount /usr/share needs", "--permission full"),
        ({"provider": "gemini", "mcp": [McpServer(name="a")]}, ErrorKind.USAGE, "`command` or `url`", "command"),
        ({"provider": "gemini", "auth": "login"}, ErrorKind.USAGE, "no login of its own", "leave out"),
        ({"provider": "claude-code", "auth": "login"}, ErrorKind.USAGE, "permission `full` and egress", "--egress api.example.com:443"),
        ({"auth": "key"}, ErrorKind.NOT_FOUND, "no auth `key`", "broker"),
        ({"record": "rel.jsonl"}, ErrorKind.USAGE, "not absolute", "whole path"),
        ({"replay": "/nowhere/rel.jsonl"}, ErrorKind.NOT_FOUND, "/nowhere/rel.jsonl", "--record"),
        ({"record": "/nowhere/rel.jsonl"}, ErrorKind.NOT_FOUND, "/nowhere", "mkdir"),
        ({"record": "/x", "replay": "/y"}, ErrorKind.USAGE, "not both", "leave out"),
    ],
)
async def test_what_does_not_fit_together_is_refused(desk: Desk, request_: dict[str, Any], kind: ErrorKind, says: str, hint: str) -> None:
    error = await desk.refused(**request_)
    assert (error.kind, says in error.message, hint in error.hint) == (kind, True, True), (error.message, error.hint)


@pytest.mark.parametrize("field", ["provider", "model", "effort", "mode", "approvals", "auth", "record", "replay", "system"])
async def test_a_plain_program_refuses_what_is_for_agents(desk: Desk, field: str) -> None:
    error = await desk.refused(command=["true"], **{field: "x"})
    assert (error.kind, f"--{field}" in error.message or f"`{field}`" in error.message) == (ErrorKind.USAGE, True)


async def test_a_plain_program_may_be_given_egress(desk: Desk) -> None:
    launch = await desk.launch(command=["true"], permission="full", egress=["a.example:443"])
    assert (launch.driver, launch.model, launch.egress) == (None, None, ["a.example:443"])


async def test_the_login_of_a_program_takes_all_that_is_said_of_it(desk: Desk) -> None:
    wanted: dict[str, Any] = {"provider": "claude-code", "auth": "login", "permission": "full", "egress": ["api.example.com:443"]}
    error = await desk.refused(**wanted)
    assert (error.kind, "have not logged in" in error.message) == (ErrorKind.NOT_FOUND, True)
    login = desk.home.parent / "person" / ".claude" / "x"
    login.parent.mkdir(parents=True)
    login.write_text("{}")
    launch = await desk.launch(**wanted)
    assert (launch.auth, launch.driver) == ("login", "claude-code")
    assert launch.model is not None
    assert launch.model.startswith("anthropic/")
    await desk.registry.create("first", launch, lambda tx: None)
    error = await desk.refused(**wanted)
    assert (error.kind, error.data["holder"]) == (ErrorKind.CONFLICT, "first")
    assert "aegis instance delete first" in error.hint


async def test_recordings_are_nowhere_where_an_agent_could_exchange_them(desk: Desk, tmp_path: Path) -> None:
    work, data, safe = (tmp_path / name for name in ("work", "data", "safe"))
    for folder in (work, data, safe):
        folder.mkdir()
    (safe / "r").write_text('{"aegis_model_calls": 1}\n')
    (safe / "letter").write_text("dear all")
    error = await desk.refused(replay=str(safe / "letter"))
    assert (error.kind, "no recording of model calls" in error.message) == (ErrorKind.USAGE, True)
    launch = await desk.launch(workspace=str(work), record=str(safe / "new"))
    assert launch.record == str(safe / "new")
    assert (await desk.launch(workspace=str(work), replay=str(safe / "r"))).replay == str(safe / "r")
    (safe / "link").symlink_to(work)
    for place in (work / "r", desk.home / "r", data / "deep" / "r", safe / "link" / "r"):
        error = await desk.refused(workspace=str(work), mounts=[str(data)], record=str(place))
        assert error.kind is ErrorKind.DENIED, place
