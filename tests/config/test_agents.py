"""What can be declared of an agent that is another program: its provider, what it may do, and what it reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers import McpServer
from aegis.models.names import FAMILIES
from aegis.services.config import Config
from aegis.store import Store

DECLARED = """\
agents:
  coder:
    provider: claude-code
    model: opus
    effort: high
    mode: plan
    permission: full
    approvals: ask
    auth: login
    egress: ["api.example.com:443", packages]
    tools: [core, children, core]
    mcp:
      bus: {url: "http://127.0.0.1:9/mcp", headers: {Authorization: Bearer x}}
      files: {command: [files-server, --all], env: {A: b}}
providers:
  loop: {base_url: "http://127.0.0.1:1", dialect: responses}
"""


@pytest.fixture
def config(store: Store, home: Path) -> Config:
    return Config(store, SystemClock(), home, {}, lambda: ("native", "claude-code", "gemini"))


def test_everything_that_can_be_said(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text(DECLARED)
    agent = config.agent("coder", None)
    assert (agent.provider, agent.model, agent.effort, agent.mode) == ("claude-code", FAMILIES["opus"], "high", "plan")
    assert (agent.permission, agent.approvals, agent.auth) == ("full", "ask", "login")
    assert agent.egress == ["api.example.com:443", "packages"]
    assert agent.mcp == [
        McpServer(name="bus", url="http://127.0.0.1:9/mcp", headers={"Authorization": "Bearer x"}),
        McpServer(name="files", command=["files-server", "--all"], env={"A": "b"}),
    ]
    assert config.load(None).providers["loop"].dialect == "responses"
    assert agent.tools == ["children", "core"]
    plain = config.agent("agent", None)
    assert plain.tools == ["core"]
    assert (plain.provider, plain.approvals, plain.auth, plain.egress, plain.mcp) == ("native", "auto", "broker", [], [])


def test_an_unknown_provider_is_named_with_its_place_and_the_nearest(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text("agents:\n  a: {provider: claude_code}\n")
    with pytest.raises(AegisError) as caught:
        config.load(None)
    assert caught.value.data["place"] == f"{home}/config.yaml:2:17"
    assert caught.value.data["nearest"] == "claude-code"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("egress: [https://a.example]", "egress rule"),
        ("egress: ['*:443']", "every host"),
        ("egress: a.example:443", "a list"),
        ("mcp: [a]", "a mapping"),
        ("mcp: {aegis: {command: [x]}}", "Aegis's own"),
        ("mcp: {Aegis-x: {command: [x]}}", "Aegis's own"),
        ("tools: [hosts]", "`core` or `children`"),
        ("tools: core", "a list"),
        ("mcp: {a: {}}", "`command` or `url`"),
        ("mcp: {a: {command: [x], url: 'http://h/'}}", "`command` or `url`"),
        ("mcp: {a: {command: x}}", "a list"),
        ("mcp: {a: {url: 'file:///x'}}", "address"),
        ("mcp: {a: {url: 'http://me:pw@h/'}}", "user name"),
        ("mcp: {a: {url: 'http://h/', env: {A: b}}}", "env"),
        ("mcp: {a: {command: [x], headers: {A: b}}}", "headers"),
        ("mcp: {a: {url: 'http://h/', headers: {'a b': c}}}", "a header"),
        ("mcp: {a: {url: 'http://h/', headers: {A: \"b\\nc\"}}}", "cannot be set"),
        ("mcp: {'a b': {command: [x]}}", "cannot name"),
        ("mcp: {a: {comand: [x]}}", "unknown key"),
        ("approvals: never", "`auto` or `ask`"),
        ("auth: key", "`broker` or `login`"),
        ("effort: 'very hard'", "a word"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(config: Config, home: Path, text: str, says: str) -> None:
    (home / "config.yaml").write_text(f"agents:\n  a:\n    {text}\n")
    with pytest.raises(AegisError) as caught:
        config.load(None)
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.data["place"].startswith(f"{home}/config.yaml:3:")
    assert says in caught.value.message


def test_where_a_program_is_can_only_be_said_at_home(config: Config, home: Path, project: Path) -> None:
    (home / "config.yaml").write_text("programs:\n  gemini: {path: /opt/gemini/bin/gemini}\n")
    assert config.load(None).programs == {"gemini": "/opt/gemini/bin/gemini"}
    (home / "config.yaml").write_text("programs:\n  gemni: {path: /x}\n")
    with pytest.raises(AegisError, match="no provider `gemni`"):
        config.load(None)
    (home / "config.yaml").unlink()
    (project / ".aegis.yaml").write_text("programs:\n  gemini: {path: ./evil}\n")
    for use in (config.trust_state, config.show, config.load):
        with pytest.raises(AegisError) as caught:
            use(project)
        assert caught.value.data["place"] == f"{project}/.aegis.yaml:2:18"
        assert "a project cannot set" in caught.value.message


def test_what_a_person_is_asked_to_trust_names_all_that_goes_beyond_the_sandbox(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text(DECLARED + "  # \n")
    lines = config.trust_state(project).summary
    assert f"agent coder: the strongest sandbox here, permission full, model {FAMILIES['opus']}" in lines
    assert "agent coder: runs claude-code, approvals ask: a person is asked before it uses a tool" in lines
    assert "agent coder: is given a COPY OF YOUR LOGIN to claude-code (auth login)" in lines
    assert "agent coder: may connect to api.example.com:443" in lines
    assert "agent coder: may connect to packages" in lines
    assert "agent coder: the MCP server bus is reached at http://127.0.0.1:9/mcp, with Authorization" in lines
    assert "agent coder: the MCP server files starts files-server --all, with A" in lines
    assert "agent agent: runs native, approvals auto: nobody is asked before it uses a tool" in lines
