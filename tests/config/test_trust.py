"""Declarations take effect only after a person accepted exactly their content."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config import Config
from aegis.services.config.sources import digest
from aegis.store import Store

DECLARED = "default_agent: x\nagents: {x: {model: a/b, sandbox: process, secrets: ['KEY:env'], mounts: [{path: /data, writable: true}]}}\n"


def test_an_untrusted_project_has_no_effect(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text(DECLARED)
    for use in (lambda: config.load(project), lambda: config.agent("x", project), lambda: config.agents(project)):
        with pytest.raises(AegisError) as caught:
            use()
        assert caught.value.kind is ErrorKind.DENIED
        assert "aegis config trust" in caught.value.hint
        assert caught.value.data["hash"] == config.trust_state(project).hash
    assert {value.key: value.value for value in config.show(project)}["default_agent"] == "agent"
    explained = config.explain("default_agent", project)
    assert (explained.value, explained.source) == ("agent", "default")
    assert [layer.source for layer in explained.layers] == ["project (not trusted)", "default"]
    with pytest.raises(AegisError) as caught:
        config.load(project)
    assert caught.value.kind is ErrorKind.DENIED


async def test_trust_is_in_one_content_and_survives_a_restart(config: Config, store: Store, home: Path, project: Path) -> None:
    file = project / ".aegis.yaml"
    file.write_text(DECLARED)
    state = config.trust_state(project)
    assert not state.trusted
    assert (await config.trust(project, state.hash)).trusted
    assert config.agent(None, project).name == "x"

    file.write_text(DECLARED.replace("KEY", "KAY"))
    with pytest.raises(AegisError, match="not trusted"):
        config.load(project)
    file.write_text(DECLARED)  # a switch back to a branch that was read before
    assert config.agent(None, project).name == "x"
    assert Config(store, SystemClock(), home, {}).agent(None, project).name == "x"

    (project / ".aegis").mkdir()
    (project / ".aegis" / "prompt.md").write_text("do evil")
    with pytest.raises(AegisError, match="not trusted"):
        config.load(project)


async def test_trust_needs_the_hash_that_was_shown(config: Config, project: Path) -> None:
    (project / ".aegis.yaml").write_text(DECLARED)
    shown = config.trust_state(project).hash
    (project / ".aegis.yaml").write_text(DECLARED + "# changed meanwhile\n")
    with pytest.raises(AegisError) as caught:
        await config.trust(project, shown)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert not config.trust_state(project).trusted


async def test_the_same_content_elsewhere_is_not_trusted(config: Config, project: Path, tmp_path: Path) -> None:
    (project / ".aegis.yaml").write_text(DECLARED)
    await config.trust(project, config.trust_state(project).hash)
    other = tmp_path / "other"
    other.mkdir()
    (other / ".aegis.yaml").write_text(DECLARED)
    assert not config.trust_state(other).trusted


def test_the_summary_says_what_would_take_effect(config: Config, project: Path) -> None:
    text = (
        DECLARED.replace("/data", '"/data\\x1b[31m"')
        + 'providers: {lab: {base_url: "http://127.0.0.1:1/", dialect: openai, secret: LAB}}\n'
    )
    (project / ".aegis.yaml").write_text(text)
    lines = config.trust_state(project).summary
    assert "agent x: NO sandbox (process): it acts as you, permission write, model a/b" in lines
    assert "agent x: can write /data" in lines
    assert "agent x: is given the value of the secret KEY" in lines
    assert "provider lab: model calls go to http://127.0.0.1:1/, with the secret LAB" in lines
    assert all(line.isprintable() for line in lines)


_FILES = st.dictionaries(st.text(max_size=6), st.binary(max_size=12), max_size=4)


@given(_FILES, _FILES)
def test_different_files_hash_differently(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_framing() -> None:
    snapshots: list[dict[str, bytes]] = [{}, {"a": b""}, {"ab": b"c"}, {"a": b"bc"}, {"a": b"b", "c": b""}, {"a": b"", "b": b"c"}]
    assert len({digest(files) for files in snapshots}) == len(snapshots)
