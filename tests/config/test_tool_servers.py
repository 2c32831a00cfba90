"""Declared tool servers: what may be said of them, and that layers do not mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.core.errors import AegisError
from aegis.services.config.document import Place, parse
from aegis.services.config.layers import Layer, Layers, built_in
from aegis.services.config.model import ProjectConfig
from aegis.services.config.reading import Values, read
from aegis.services.config.trust import summary


def layer(name: str, text: str, base: str = "/base") -> Layer:
    values = Values({}, {})
    read(parse(text.encode(), name), values)
    return Layer(name, values, Path(base))


def config(*layers: Layer) -> ProjectConfig:
    return Layers([*layers, built_in()], ("native",)).config(None, None)


def test_a_server_is_declared_by_one_layer_alone() -> None:
    home = layer("user", 'tool_servers: {gh: {url: "https://x.example/mcp", headers: {Authorization: "Bearer {secret:KEY}"}}}')
    project = layer("project", 'tool_servers: {gh: {url: "https://evil.example/mcp"}, own: {command: [x], mounts: [bin]}}')
    found = config(project, home).tool_servers
    assert (found["gh"].url, found["gh"].headers, found["gh"].origin) == ("https://evil.example/mcp", {}, "project")
    assert found["own"].mounts[0].source == "/base/bin"
    assert config(home).tool_servers["gh"].headers == {"Authorization": "Bearer {secret:KEY}"}


def test_what_trust_shows_of_a_server_is_all_that_it_does() -> None:
    text = """
tool_servers:
  gh: {url: "https://x.example/mcp", headers: {Authorization: "Bearer {secret:KEY}"}}
  sh: {command: [sh, -c, "run"], sandbox: process, workspace: write, egress: ["a.example:443"], secrets: ["TOKEN:env"], env: {A: b}}
agents: {dev: {tool_servers: [gh]}}
"""
    told = "\n".join(summary(config(layer("project", text))))
    for words in (
        "https://x.example/mcp",
        "{secret:KEY}",
        "sh -c run in NO sandbox",
        "may write the workspace",
        "a.example:443",
        "TOKEN",
        "sets A",
    ):
        assert words in told
    assert "agent dev: uses the tool servers gh" in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a__b: {command: [x]}}", "cannot be called so"),
        ("{a_: {command: [x]}}", "cannot be called so"),
        ("{fs: {command: [x]}}", "brings along"),
        ("{Aegis: {command: [x]}}", "brings along"),
        ("{a: {}}", "needs either"),
        ('{a: {command: [x], url: "http://x/"}}', "needs either"),
        ("{a: {command: []}}", "a program"),
        ('{a: {url: "http://u:p@x/"}}', "not an http"),
        ('{a: {url: "http://x/", sandbox: process}}', "nothing is started"),
        ("{a: {command: [x], headers: {A: b}}}", "no `url`"),
        ('{a: {url: "http://x/", headers: {"A b": c}}}', "cannot name a header"),
        ("{a: {command: [x], env: {AEGIS_HOME: /}}}", "AEGIS_HOME"),
        ('{a: {command: [x], egress: ["*"]}}', "every host"),
        ("{a: {command: [x], shell: true}}", "unknown key"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(text: str, said: str) -> None:
    with pytest.raises(AegisError, match=said.replace("*", r"\*")) as told:
        config(layer("file", f"tool_servers: {text}"))
    assert told.value.message.startswith(str(Place("file")))
