"""The `web` keys: in the home alone, because a project that could set them would say where a person's key is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from pathlib import Path

    from aegis.services.config import Config


def test_what_the_home_says_counts(config: Config, home: Path) -> None:
    web = config.load(None).web
    assert (web.search_url, web.search_secret) == ("https://api.search.brave.com/res/v1/web/search", None)
    (home / "config.yaml").write_text("web:\n  search_url: http://127.0.0.1:8932/search\n  search_secret: SEARCH_KEY\n")
    web = config.load(None).web
    assert (web.search_url, web.search_secret) == ("http://127.0.0.1:8932/search", "SEARCH_KEY")


@pytest.mark.parametrize("line", ["search_url: https://evil.example.com/", "search_secret: GITHUB_TOKEN"])
def test_a_project_cannot_say_any_of_it(config: Config, project: Path, line: str) -> None:
    (project / ".aegis.yaml").write_text(f"web:\n  {line}\n")
    with pytest.raises(AegisError) as caught:
        config.load(project, require_trust=False)
    assert caught.value.kind is ErrorKind.USAGE
    assert "a project cannot set `web." in caught.value.message


@pytest.mark.parametrize(
    "line", ["search_url: file:///etc/passwd", "search_url: http://user:pass@h/", "search_secret: not a name", "key: x"]
)
def test_bad_values_are_told_with_their_place(config: Config, home: Path, line: str) -> None:
    (home / "config.yaml").write_text(f"web:\n  {line}\n")
    with pytest.raises(AegisError) as caught:
        config.load(None)
    assert "config.yaml:2" in caught.value.message


def test_an_agent_is_given_families_of_tools(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text("agents:\n  a:\n    tools: [web, fs, cmd, fs]\n")
    assert config.load(None).agents["a"].tools == ["cmd", "fs", "web"]
