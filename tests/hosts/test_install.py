"""`aegis mcp install` and `uninstall`: the files of other programs, in a HOME of the test's own."""

from __future__ import annotations

import json
import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aegis.cli.main import main

FILES = {
    "claude": (".claude.json", ".mcp.json"),
    "gemini": (".gemini/settings.json", ".gemini/settings.json"),
    "opencode": (".config/opencode/opencode.json", "opencode.json"),
    "codex": (".codex/config.toml", ".codex/config.toml"),
}
CLAUDE_STATE = '{\n  "oauthAccount": {"secret": "not shown"},\n  "numStartups": 3,\n  "mcpServers": {\n    "x": {"command": "x"}\n  },\n  "last": 1\n}\n'


class Person:
    """Somebody with a HOME and a project; no program of the machine is on his PATH."""

    def __init__(self, base: Path, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[bytes]) -> None:
        self.home, self.project, self.bin = base / "home", base / "project", base / "bin"
        for folder in (self.home, self.project, self.bin):
            folder.mkdir()
        self.environment = {"HOME": str(self.home), "PATH": str(self.bin), "AEGIS_HOME": str(self.home / ".aegis")}
        self._patch, self._captured = patch, captured
        patch.chdir(self.project)

    def __call__(self, verb: str, *args: str, code: int = 0, **more: str) -> str:
        """What `aegis mcp VERB` says, on both ways."""
        with self._patch.context() as patch:
            for name in ("CLAUDE_CONFIG_DIR", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME", "CODEX_HOME"):
                patch.delenv(name, raising=False)
            for name, value in (self.environment | more).items():
                patch.setenv(name, value)
            ended = main(["mcp", verb, *args])
        said = b"".join(self._captured.readouterr()).decode()
        assert ended == code, said
        return said


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Person:
    return Person(tmp_path, monkeypatch, capfdbinary)


def entry(path: Path) -> Any:
    text = path.read_text()
    whole = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    return (whole.get("mcpServers") or whole.get("mcp_servers") or whole["mcp"])["aegis"]


@pytest.mark.parametrize("program", FILES)
def test_each_program_in_both_places(person: Person, program: str) -> None:
    """Added, there already, taken out, not there any more; nothing else is written."""
    user, project = person.home / FILES[program][0], person.project / FILES[program][1]
    assert "would add" in person("install", program, "--dry-run")
    assert list(person.home.iterdir()) == []
    said = person("install", program)
    assert "added" in said
    assert str(user) in said
    command = entry(user)["command"]
    words = command if isinstance(command, list) else [command, *entry(user)["args"]]
    assert words == [sys.executable, "-P", "-m", "aegis", "mcp", "serve"]
    assert stat.S_IMODE(user.stat().st_mode) == 0o600
    before = user.read_bytes()
    assert "unchanged" in person("install", program)
    assert user.read_bytes() == before
    aegis = person.bin / "aegis"
    aegis.write_text("#!/bin/sh\n")
    aegis.chmod(0o755)
    person("install", program, "--project")
    shared = entry(project)["command"]
    assert shared in ("aegis", ["aegis", "mcp", "serve"])
    assert str(person.home) not in project.read_text()
    for place in ([], ["--project"]):
        assert "removed" in person("uninstall", program, *place)
        assert "unchanged" in person("uninstall", program, *place)
    assert "aegis" not in user.read_text() + project.read_text()


def test_what_else_is_in_a_file_stays_and_is_not_shown(person: Person) -> None:
    file = person.home / ".claude.json"
    file.write_text(CLAUDE_STATE)
    file.chmod(0o640)
    said = json.loads(person("install", "claude", "--json"))
    assert said["change"] == "added"
    assert '+    "aegis": {' in said["diff"]
    assert "not shown" not in said["diff"]
    assert json.loads(file.read_text())["mcpServers"]["x"] == {"command": "x"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    person("uninstall", "claude")
    assert file.read_text() == CLAUDE_STATE


def test_an_entry_of_ours_is_brought_up_to_date_and_keeps_what_a_person_added(person: Person) -> None:
    file = person.project / ".mcp.json"
    file.write_text(json.dumps({"mcpServers": {"aegis": {"command": "/old/aegis", "args": ["mcp", "serve"], "timeout": 9}}}))
    assert "added" in person("install", "claude", "--project")
    assert entry(file)["timeout"] == 9
    assert entry(file)["command"] != "/old/aegis"


def test_another_home_goes_into_the_entry(person: Person) -> None:
    person("install", "codex", AEGIS_HOME=str(person.home / "other"))
    assert entry(person.home / ".codex/config.toml")["env"] == {"AEGIS_HOME": str(person.home / "other")}


def test_a_server_of_that_name_that_is_not_ours_is_left_alone(person: Person) -> None:
    file = person.project / ".mcp.json"
    text = json.dumps({"mcpServers": {"aegis": {"command": "something"}}})
    file.write_text(text)
    assert "--name" in person("install", "claude", "--project", code=1)
    assert "left alone" in person("uninstall", "claude", "--project", code=1)
    assert file.read_text() == text
    person("install", "claude", "--project", "--name", "aegis-2")
    assert set(json.loads(file.read_text())["mcpServers"]) == {"aegis", "aegis-2"}


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        (".mcp.json", b'{"a": 1,\n}', "line 2, column 1"),
        (".mcp.json", b"{// x\n}", "line 1, column 2"),
        (".mcp.json", b'{"mcpServers": []}', "no object"),
        (".mcp.json", b'{"a": "\xff"}', "not UTF-8 (line 1)"),
        (".mcp.json", b"[1]", "has to hold an object"),
        (".codex/config.toml", b"a = 1\nb = \n", "line 2"),
    ],
)
def test_a_bad_file_is_refused_and_left(person: Person, name: str, data: bytes, told: str) -> None:
    file = person.project / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    program = "codex" if name.endswith("toml") else "claude"
    assert told in person("install", program, "--project", code=2)
    assert file.read_bytes() == data
    assert [each.name for each in file.parent.iterdir()] == [file.name]


def test_links(person: Person) -> None:
    """A person's own is followed to the file it names; one that leads out of a project is not."""
    dotfiles = person.home / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "settings.json").write_text("// mine\n{}\n")
    (person.home / ".gemini").symlink_to(dotfiles)
    person("install", "gemini")
    assert (person.home / ".gemini").is_symlink()
    assert (dotfiles / "settings.json").read_text().startswith("// mine\n")
    person("uninstall", "gemini")
    assert (dotfiles / "settings.json").read_text() == "// mine\n{}\n"

    (person.project / ".mcp.json").symlink_to(person.home / ".bashrc")
    (person.project / ".codex").symlink_to(person.home)
    assert "leads out of the project" in person("install", "claude", "--project", code=4)
    assert "leads out of the project" in person("install", "codex", "--project", code=4)
    assert not (person.home / ".bashrc").exists()
    assert not (person.home / "config.toml").exists()


def test_files_that_are_not_to_be_written(person: Person) -> None:
    file = person.home / ".claude.json"
    file.write_text("{}")
    file.chmod(0o400)
    assert "write-protected" in person("install", "claude", code=4)
    file.unlink()
    file.mkdir()
    assert "is no file" in person("install", "claude", code=2)


def test_all_are_those_that_are_here(person: Person) -> None:
    assert "name the one you mean" in person("install", code=3)
    gemini = person.bin / "gemini"
    gemini.write_text("#!/bin/sh\n")
    gemini.chmod(0o755)
    (person.home / ".codex").mkdir()
    (person.home / ".codex/config.toml").write_text("broken =\n")
    said = person("install", code=2)  # one fails, the other is done
    assert "Gemini CLI" in said
    assert "broken" not in said
    assert entry(person.home / ".gemini/settings.json")
    assert not (person.home / ".claude.json").exists()


def test_wrong_words(person: Person) -> None:
    assert "exclude" in person("install", "claude", "--user", "--project", code=2)
    assert "is not a name" in person("install", "claude", "--name", "a b", code=2)
    assert "did you mean `claude`" in person("install", "clade", code=2)


def test_the_directories_that_programs_are_told_of(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for program, variable, name in (("claude", "CLAUDE_CONFIG_DIR", ".claude.json"), ("codex", "CODEX_HOME", "config.toml")):
        person("install", program, **{variable: str(folder)})
        assert os.path.exists(folder / name)
