"""What a person wants to be told: in the home alone, strict, and with defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config import NotifyDefinition
from aegis.services.config.telling import NOTICES

if TYPE_CHECKING:
    from pathlib import Path

    from aegis.services.config import Config


def test_the_defaults(config: Config) -> None:
    assert config.load(None).notify == NotifyDefinition(on=list(NOTICES))


def test_what_the_home_says_counts(config: Config, home: Path) -> None:
    (home / "config.yaml").write_text(
        "notify:\n  desktop: true\n  bell: false\n  command: [/usr/bin/logger, -t, aegis]\n  on: [needs-you, done, needs-you]\n"
        "  quiet: 22:00-07:00\n  again: 1h\n"
    )
    assert config.load(None).notify == NotifyDefinition(
        on=["needs-you", "done"], bell=False, desktop=True, command=["/usr/bin/logger", "-t", "aegis"], quiet=["22:00-07:00"], again=3600.0
    )


@pytest.mark.parametrize("line", ["command: [/bin/sh, -c, id]", "desktop: true", "on: []", "quiet: 00:00-23:00"])
def test_a_project_cannot_say_any_of_it(config: Config, project: Path, line: str) -> None:
    (project / ".aegis.yaml").write_text(f"notify:\n  {line}\n")
    with pytest.raises(AegisError) as caught:
        config.load(project, require_trust=False)
    assert caught.value.kind is ErrorKind.USAGE
    assert "a project cannot set `notify." in caught.value.message
    with pytest.raises(AegisError):
        config.trust_state(project)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("command: rm -rf /", "a list of texts"),
        ("command: [1]", "`1` is not a text"),
        ('command: [""]', "no name"),
        ('command: ["a\\0b"]', "is not a text"),
        ("on: [need-you]", "`needs-you`"),
        ("on: done", "is not a list"),
        ("again: 5", "not a time"),
        ("desktop: 'yes'", "is not `true` or `false`"),
        ("sound: true", "unknown key `sound`"),
    ],
)
def test_what_is_wrong_is_named(config: Config, home: Path, line: str, says: str) -> None:
    (home / "config.yaml").write_text(f"notify:\n  {line}\n")
    with pytest.raises(AegisError) as caught:
        config.load(None)
    assert says in caught.value.message
    assert caught.value.data["place"].startswith(str(home / "config.yaml"))
