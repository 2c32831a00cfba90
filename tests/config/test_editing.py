"""Declaring, changing and removing agents: only the entry changes, comments stay, and nothing invalid is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config import Config
from aegis.services.config.editing import changed
from aegis.store import Store

WRITTEN = """\
# ours
default_agent: one   # which

agents:
  # the first
  one:
    model: a/b  # cheap
    system: |
      Read.

      Then write.

    limits:
      memory: 1G
  two: {model: a/c}   # small

# short words
models:
  quick: {model: a/b}
"""


@pytest.fixture
def config(store: Store, home: Path) -> Config:
    return Config(store, SystemClock(), home, {}, lambda: ("native", "claude-code"))


def edit(text: str, *path: str, **values: Any) -> str:
    named = {key.replace("__", "."): value for key, value in values.items()}
    return changed(text.encode(), "f", ("agents", *path), named).decode()


def test_a_new_agent_stands_after_the_others() -> None:
    new = edit(WRITTEN, "three", model="a/d", egress=["a.example:443"], limits__pids=64, system="One.\nTwo.\n")
    added = """\
  three:
    model: a/d
    egress:
      - a.example:443
    limits:
      pids: 64
    system: |
      One.
      Two.
"""
    before, after = WRITTEN.split("\n# short words")
    assert new == f"{before}{added}\n# short words{after}"


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("", "agents:\n  x:\n    model: a/b\n"),
        ("version: 1", "version: 1\n\nagents:\n  x:\n    model: a/b\n"),
        ("# mine\n", "# mine\nagents:\n  x:\n    model: a/b\n"),
        ("agents:\n# none yet\n", "agents:\n# none yet\n  x:\n    model: a/b\n"),
        ("agents: {}\n", "agents:\n  x:\n    model: a/b\n"),
        ("agents: {y: {model: c/d}}  # all\n", "agents: {y: {model: c/d}, x: {model: a/b}} # all\n"),
        ("agents:\r\n  y:\r\n    model: c/d\r\n", "agents:\r\n  y:\r\n    model: c/d\r\n  x:\r\n    model: a/b\r\n"),
        ("agents:\n      y: {model: c/d}\nversion: 1\n", "agents:\n      y: {model: c/d}\n      x:\n        model: a/b\nversion: 1\n"),
    ],
)
def test_whatever_is_there(text: str, new: str) -> None:
    assert edit(text, "x", model="a/b") == new


def test_one_value_changes_and_its_comment_stays() -> None:
    assert edit(WRITTEN, "one", model="a/z") == WRITTEN.replace("model: a/b  # cheap", "model: a/z  # cheap")
    assert edit(WRITTEN, "two", model="a/z") == WRITTEN.replace("{model: a/c}", "{model: a/z}")
    assert edit(WRITTEN, "one", limits__memory="2G") == WRITTEN.replace("1G", "2G")
    assert edit(WRITTEN, "one", limits__pids=64) == WRITTEN.replace("memory: 1G\n", "memory: 1G\n      pids: 64\n")
    assert edit(WRITTEN, "one", limits__memory=None) == WRITTEN.replace("    limits:\n      memory: 1G\n", "")
    assert edit(WRITTEN, "one", system="Short.") == WRITTEN.replace(
        "    system: |\n      Read.\n\n      Then write.\n", "    system: Short.\n"
    )
    assert edit(WRITTEN, "one", mode=None) == WRITTEN


def test_removing() -> None:
    gone = changed(WRITTEN.encode(), "f", ("agents", "two"), None).decode()
    assert gone == WRITTEN.replace("  two: {model: a/c}   # small\n", "")
    assert changed(b"agents:\n  x:\n    model: a/b\nversion: 1\n", "f", ("agents", "x"), None) == b"version: 1\n"


_WORDS = st.sampled_from(
    ["a/b", "yes", "no", "1", "true", "~", "x: y", "# no", "- a", "é\u2028", " two\n\n lines \n", "''", '"', "*a", "&a", "{", "\t"]
)
_DOCUMENTS = st.sampled_from(
    [WRITTEN, "", "agents: {}", "agents:\n  x: {env: {A: b}}\n", "agents:\n- a\n", "agents:\n  x:\n    env: &e {A: b}\n  y:\n    env: *e\n"]
)


@given(
    _DOCUMENTS,
    st.sampled_from(["one", "two", "x", "new"]),
    st.dictionaries(st.sampled_from(["model", "system", "env.A", "limits.memory"]), _WORDS | st.none(), max_size=3),
)
def test_any_change_says_what_it_should_or_is_refused(text: str, name: str, values: dict[str, str | None]) -> None:
    from aegis.services.config.document import Node, parse

    try:
        new = changed(text.encode(), "f", ("agents", name), values)
    except AegisError as error:
        assert error.kind is ErrorKind.CONFLICT, error.message
        return
    root = parse(new, "f")
    for key, value in values.items():
        at: Any = root
        for part in ("agents", name, *key.split(".")):
            at = at.value.get(part) if isinstance(at, Node) and isinstance(at.value, dict) else None
        assert (at.value if at is not None else None) == value


async def test_the_life_of_a_declaration(config: Config, project: Path) -> None:
    added = await config.edit(project, "coder", {"provider": "claude-code", "permission": "full"}, new=True)
    assert (added.created, added.trusted, added.file) == (True, True, str(project / ".aegis.yaml"))
    assert config.agent("coder", project).provider == "claude-code"
    assert added.hash == config.trust_state(project).hash
    changed_ = await config.edit(project, "coder", {"effort": "high", "limits.memory": "1G", "egress": "[a.example:443]"})
    assert changed_.trusted
    agent = config.agent("coder", project)
    assert (agent.effort, agent.limits.memory_bytes, agent.egress) == ("high", 2**30, ["a.example:443"])
    removed = await config.edit(project, "coder", None)
    assert removed.agent is None
    assert "coder" not in config.load(project).agents
    mine = await config.edit(None, "helper", {}, new=True)
    assert (mine.trusted, config.load(None).agents["helper"].provider) == (True, "native")


async def test_an_untrusted_project_stays_untrusted(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text("agents: {theirs: {sandbox: process}}\n")
    edited = await config.edit(project, "mine", {}, new=True)
    assert not edited.trusted
    with pytest.raises(AegisError, match="not trusted"):
        config.load(project)


async def test_a_project_with_only_an_overlay_stays_untrusted(config: Config, project: Path) -> None:
    (project / ".aegis" / "agents").mkdir(parents=True)
    (project / ".aegis" / "agents" / "theirs.yaml").write_text("sandbox: process\n")
    assert not (await config.edit(project, "mine", {}, new=True)).trusted


async def test_an_overlay_is_changed_where_it_stands(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text("version: 1\n")
    overlay = project / ".aegis" / "agents" / "writer.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text("# of the writer\nmodel: a/b\n")
    edited = await config.edit(project, "writer", {"permission": "read"})
    assert edited.file == str(overlay)
    assert overlay.read_text() == "# of the writer\nmodel: a/b\npermission: read\n"
    await config.edit(project, "writer", None)
    assert not overlay.exists()
    assert (project / ".aegis.yaml").read_text() == "version: 1\n"


@pytest.mark.parametrize(
    ("name", "values", "kind", "says"),
    [
        ("one", {}, ErrorKind.CONFLICT, ".aegis.yaml:6:3"),
        ("a.b", {}, ErrorKind.USAGE, "cannot name"),
        ("x", {"modle": "a/b"}, ErrorKind.NOT_FOUND, "modle"),
        ("x", {"model": "plain"}, ErrorKind.USAGE, "plain"),
        ("x", {"provider": "claude"}, ErrorKind.USAGE, "claude"),
        ("x", {"permission": "all"}, ErrorKind.USAGE, "all"),
        ("x", {"limits.pids": "many"}, ErrorKind.USAGE, "many"),
        ("x", {"egress": ["http://a"]}, ErrorKind.USAGE, "egress"),
        ("x", {"egress": "[a"}, ErrorKind.USAGE, "egress"),
        ("x", {"mcp": {"bus": {}}}, ErrorKind.USAGE, "bus"),
        ("x", {"system": "a", "system_file": "b.md"}, ErrorKind.USAGE, "system_file"),
    ],
)
async def test_nothing_wrong_is_written(
    config: Config, project: Path, name: str, values: dict[str, Any], kind: ErrorKind, says: str
) -> None:
    (project / ".aegis.yaml").write_text(WRITTEN)
    with pytest.raises(AegisError) as caught:
        await config.edit(project, name, values, new=True)
    assert (caught.value.kind, says in caught.value.message) == (kind, True), caught.value.message
    assert (project / ".aegis.yaml").read_text() == WRITTEN


async def test_an_agent_that_others_need_is_not_removed(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text(WRITTEN)
    with pytest.raises(AegisError, match="no agent `one`"):
        await config.edit(project, "one", None)
    with pytest.raises(AegisError) as caught:
        await config.edit(project, "oen", {"model": "a/b"})
    assert "one" in caught.value.hint
    assert (project / ".aegis.yaml").read_text() == WRITTEN


async def test_a_change_is_for_the_content_it_was_made_for(config: Config, project: Path) -> None:
    first = await config.edit(project, "a", {}, new=True)
    await config.edit(project, "b", {}, new=True, expect=first.hash)
    with pytest.raises(AegisError) as caught:
        await config.edit(project, "c", {}, new=True, expect=first.hash)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert "c" not in config.load(project).agents


async def test_the_file_keeps_its_mode_and_links_are_not_followed(config: Config, project: Path, tmp_path: Path) -> None:
    file = project / ".aegis.yaml"
    file.write_text("version: 1\n")
    file.chmod(0o640)
    await config.edit(project, "a", {}, new=True)
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(project)) == [".aegis.yaml"]
    other = tmp_path / "other"
    other.write_text("version: 1\n")
    file.unlink()
    file.symlink_to(other)
    with pytest.raises(AegisError):
        await config.edit(project, "b", {}, new=True)
    assert other.read_text() == "version: 1\n"


async def test_the_home_is_no_project(config: Config, home: Path) -> None:
    with pytest.raises(AegisError) as caught:
        await config.edit(home, "a", {}, new=True)
    assert caught.value.kind is ErrorKind.DENIED
