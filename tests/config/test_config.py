"""Layers, definitions, explanations: the service as the daemon uses it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config import Config
from aegis.store import Store

FULL = """\
version: 1
default_agent: reviewer
defaults:
  sandbox: bwrap
  env: {LANG: C.UTF-8, SHARED: project}
agents:
  reviewer:
    provider: native
    model: fast
    permission: read
    workspace: src
    mounts:
      - ~/tools
      - {path: /opt/data, target: /data, writable: true}
    limits: {memory: 512M, cpus: 1.5, pids: 256, required: true, rounds: 7, turn: 1h, tool: 2m}
    system_file: reviewer.md
    secrets: [GITHUB_TOKEN, "NPM_TOKEN:env"]
    env: {SHARED: reviewer}
    idle: {pause: 30s, stop: 10m}
    on_interrupt: hold
    context_tokens: 50000
    max_tokens: 1000
  bare:
models:
  fast: {model: anthropic/claude-haiku}
providers:
  lab: {base_url: "http://127.0.0.1:9000/v1", dialect: openai, secret: LAB_KEY}
"""


async def declare(config: Config, project: Path, text: str, **files: str) -> None:
    (project / ".aegis.yaml").write_text(text)
    for name, content in files.items():
        path = project / ".aegis" / name.replace("__", "/").replace("_yaml", ".yaml").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    await config.trust(project, config.trust_state(project).hash)


async def test_a_full_definition(config: Config, project: Path) -> None:
    await declare(config, project, FULL, reviewer_md="You review.\n")
    agent = config.agent(None, project)
    assert agent.name == "reviewer"
    assert agent.source == f"{project}/.aegis.yaml:7:3"
    assert (agent.model, agent.sandbox, agent.permission) == ("anthropic/claude-haiku", "bwrap", "read")
    assert agent.workspace == str(project / "src")
    assert agent.system == "You review.\n"
    assert [mount.source for mount in agent.mounts] == [str((Path.home() / "tools").resolve()), "/opt/data"]
    assert (agent.mounts[1].target, agent.mounts[1].writable) == ("/data", True)
    assert (agent.limits.memory_bytes, agent.limits.cpus, agent.limits.pids, agent.limits.required) == (512 * 2**20, 1.5, 256, True)
    assert (agent.turn.rounds, agent.turn.turn_seconds, agent.turn.tool_seconds) == (7, 3600.0, 120.0)
    assert (agent.turn.context_tokens, agent.turn.max_tokens) == (50_000, 1000)
    assert (agent.secrets, agent.exposed) == (["GITHUB_TOKEN", "NPM_TOKEN"], ["NPM_TOKEN"])
    assert agent.env == {"LANG": "C.UTF-8", "SHARED": "reviewer"}
    assert (agent.pause_after, agent.stop_after, agent.on_interrupt) == (30.0, 600.0, "hold")
    assert msgspec.json.decode(msgspec.json.encode(agent), type=type(agent)) == agent

    whole = config.load(project)
    assert sorted(whole.agents) == ["agent", "bare", "reviewer"]
    assert whole.providers["lab"].base_url == "http://127.0.0.1:9000/v1"
    assert whole.agents["bare"].sandbox == "bwrap"
    assert whole.agents["bare"].on_interrupt == "resume"


def test_without_any_file_there_is_the_built_in_agent(config: Config) -> None:
    agent = config.agent(None, None)
    assert (agent.name, agent.source, agent.provider, agent.model, agent.sandbox) == ("agent", "built in", "native", None, None)
    assert config.agents(None) == [agent]
    assert (agent.pause_after, agent.stop_after) == (60.0, 300.0)


async def test_precedence(store: Store, home: Path, project: Path) -> None:
    (home / "config.yaml").write_text("defaults: {model: a/user, permission: read}\nagents: {x: {model: a/user-x, max_tokens: 5}}\n")
    config = Config(store, SystemClock(), home, {"AEGIS_DEFAULTS_MODEL": "a/environment"})
    await declare(config, project, "defaults: {model: a/project}\nagents: {x: {model: a/project-x}, y: {}}\n")
    assert config.agent("x", project).model == "a/project-x"
    assert config.agent("x", project).turn.max_tokens == 5
    assert config.agent("x", None).model == "a/user-x"
    assert config.agent("y", project).model == "a/environment"
    assert config.agent("y", project).permission == "read"

    explained = config.explain("agents.x.model", project)
    assert (explained.value, explained.source) == ("a/project-x", "project")
    assert [(layer.source, layer.value) for layer in explained.layers] == [
        ("project", "a/project-x"),
        ("user", "a/user-x"),
        ("environment", "a/environment"),
        ("project", "a/project"),
        ("user", "a/user"),
    ]
    assert explained.layers[0].place == f"{project}/.aegis.yaml:2:21"
    assert explained.layers[2].place == "environment variable AEGIS_DEFAULTS_MODEL"
    assert "provider/model" in explained.meaning

    unset = config.explain("agents.x.workspace", project)
    assert (unset.value, unset.source, unset.layers) == (None, "unset", [])
    assert config.explain("defaults.idle.pause", None).source == "default"


async def test_show_lists_every_value_in_effect(config: Config, project: Path) -> None:
    await declare(config, project, "agents: {x: {secrets: [A]}}\n")
    shown = {value.key: value for value in config.show(project)}
    assert shown["agents.x.secrets"].value == [{"name": "A", "exposed": False}]
    assert shown["agents.x.secrets"].source == "project"
    assert shown["default_agent"].value == "agent"
    msgspec.json.encode(config.show(project))


async def test_overlays(config: Config, project: Path) -> None:
    await declare(config, project, "", agents__helper_yaml="model: a/b\nsystem: Help.\n")
    helper = config.agent("helper", project)
    assert (helper.model, helper.system) == ("a/b", "Help.")
    assert helper.source == f"{project}/.aegis/agents/helper.yaml:1:1"
    (project / ".aegis.yaml").write_text("agents: {helper: {model: a/c}}\n")
    with pytest.raises(AegisError, match="declared twice") as caught:
        config.load(project)
    assert ".aegis.yaml:1:10" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("default_agent: nobody\n", "no agent `nobody`"),
        ("agents: {a: {model: fst}}\nmodels: {fast: {model: a/b}}\n", "no model alias `fst`"),
        ("models: {fast: {}}\n", "has no `model`"),
        ("providers: {p: {base_url: 'http://127.0.0.1'}}\n", "has no `dialect`"),
        ("agents: {a: {system: x, system_file: x.md}}\n", "both `system` and `system_file`"),
        ("agents: {a: {system_file: missing.md}}\n", "no file `missing.md`"),
        ("agents: {a: {system_file: ../secret.md}}\n", "no file"),
        ("agents: {a: {system_file: /etc/passwd}}\n", "no file"),
    ],
)
def test_names_that_refer_to_nothing(config: Config, project: Path, text: str, says: str) -> None:
    (project / "secret.md").write_text("x")
    (project / ".aegis.yaml").write_text(text)
    with pytest.raises(AegisError, match=says) as caught:
        config.load(project, require_trust=False)
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.data["place"].startswith(f"{project}/.aegis.yaml:1:")


def test_bad_files_beside_the_declaration(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text("")
    agents = project / ".aegis" / "agents"
    agents.mkdir(parents=True)
    for name, content, says in (
        ("x.yml", "", "not read"),
        ("a.b.yaml", "model: a/b", "cannot be a name"),
        ("x.yaml", "", "empty declaration"),
        ("deep/x.yaml", "model: a/b", "not a place"),
        ("../x.yaml", "model: a/b", "not a place"),
    ):
        path = agents / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        with pytest.raises(AegisError, match=says):
            config.load(project, require_trust=False)
        path.unlink()


def test_nothing_is_followed_out_of_the_project(config: Config, project: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("hunter2: x\n")
    (project / ".aegis.yaml").symlink_to(secret)
    assert config.project_of(project) == project
    with pytest.raises(AegisError, match="not an ordinary file") as caught:
        config.load(project, require_trust=False)
    assert "hunter2" not in caught.value.message
    (project / ".aegis.yaml").unlink()
    (project / ".aegis.yaml").write_text("agents: {a: {system_file: s.md}}\n")
    (project / ".aegis").symlink_to(tmp_path)
    with pytest.raises(AegisError, match="symbolic link"):
        config.load(project, require_trust=False)
    (project / ".aegis").unlink()
    (project / ".aegis").mkdir()
    (project / ".aegis" / "s.md").symlink_to(secret)
    with pytest.raises(AegisError, match="not an ordinary file"):
        config.load(project, require_trust=False)


def test_project_of(config: Config, project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    (project / ".aegis.yaml").write_text("")
    assert config.project_of(deep) == project
    assert config.project_of(project) == project
    assert config.project_of(project.parent) is None
    with pytest.raises(AegisError) as caught:
        config.load(deep)
    assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_project_around_the_home_does_not_take_the_home_for_its_overlays(store: Store, tmp_path: Path) -> None:
    home = tmp_path / ".aegis"
    home.mkdir()
    (home / "config.yaml").write_text("defaults: {permission: read}\n")
    (tmp_path / ".aegis.yaml").write_text("agents: {x: {}}\n")
    config = Config(store, SystemClock(), home, {})
    assert config.load(tmp_path, require_trust=False).agents["x"].permission == "read"


def test_unknown_names(config: Config) -> None:
    with pytest.raises(AegisError) as caught:
        config.agent("agnt", None)
    assert (caught.value.kind, caught.value.data["nearest"]) == (ErrorKind.NOT_FOUND, "agent")
    for key, nearest in (("defaults.modle", "model"), ("agents.x.limits.memroy", "memory"), ("default_agnt", "default_agent")):
        with pytest.raises(AegisError) as caught:
            config.explain(key, None)
        assert (caught.value.kind, caught.value.data["nearest"]) == (ErrorKind.NOT_FOUND, nearest)
    for key in ("agents.x", "version.x", "", "."):
        with pytest.raises(AegisError) as caught:
            config.explain(key, None)
        assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_wrong_variable_is_named(store: Store, home: Path) -> None:
    config = Config(store, SystemClock(), home, {"AEGIS_DEFAULTS_SANDBOX": "docker"})
    with pytest.raises(AegisError, match="environment variable AEGIS_DEFAULTS_SANDBOX: `docker` is not"):
        config.load(None)


def test_an_edit_is_seen(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text("default_agent: agent\nagents: {one: {}}\n")
    assert sorted(config.load(None).agents) == ["agent", "one"]
    (home / "config.yaml").write_text("agents: {two: {}, three: {}}\n")
    assert sorted(config.load(None).agents) == ["agent", "three", "two"]
    (home / "config.yaml").unlink()
    assert sorted(config.load(None).agents) == ["agent"]
