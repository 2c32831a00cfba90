"""Data files: those that come with Aegis, a user's own, and what is wrong with one."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.acp import load, read, shipped, templates
from aegis.drivers.acp.spec import parse

LEAST = 'name = "mine"\ntitle = "Mine"\ndialects = ["openai"]\n[program]\ncommand = ["mine"]\n'


def test_what_comes_with_aegis() -> None:
    assert [spec.name for spec in shipped()] == ["claude-agent-acp", "gemini", "opencode", "qwen"]
    for spec in shipped():
        assert spec.program.install.endswith(f"@{spec.program.pinned}")


def test_the_least(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(LEAST)
    spec = read(tmp_path / "mine.toml")
    assert (spec.name, spec.program.command, spec.model.switch, spec.resume.how) == ("mine", ("mine",), "none", "load")


@pytest.mark.parametrize(
    ("more", "key", "words", "nearest"),
    [
        ("[quirks]\nwhole_thougts = true", "quirks.whole_thougts", "no such key", "whole_thoughts"),
        ("[resume]\nhow = 'lod'", "resume.how", "invalid enum value 'lod'", None),
        ("[resume.rename]\ndirectory='a'\nmatch='b'\ntoo='c'", "resume.rename.too", "no such key", "to"),
        ("[environment]\nURL = '{endpont}'", "environment.URL", "`{endpont}`", "endpoint"),
        ("[environment.CONF]\na = [{ b = '{modell}' }]", "environment.CONF", "`{modell}`", "model"),
        ("[files]\n'/etc/passwd' = 'x'", "files./etc/passwd", "below", None),
        ("[files]\n'{home}/../x' = 'x'", "files.{home}/../x", "below", None),
        ("[resume.rename]\ndirectory='/etc'\nmatch='b'\nto='c'", "resume.rename", "below HOME", None),
        ("[model]\nswitch = true", "model.switch", "expected `str`", None),
        ("[modes", "", "no TOML", None),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, more: str, key: str, words: str, nearest: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST + more)
    with pytest.raises(AegisError) as raised:
        read(path)
    error = raised.value
    assert error.kind is ErrorKind.USAGE
    assert str(path) in error.message
    assert words in error.message
    assert (error.data["key"], error.data["nearest"]) == (key, nearest)
    assert nearest is None or nearest in error.hint


@pytest.mark.parametrize("name", ["", "Mine", "../x", "a b", "x" * 41])
def test_names(name: str) -> None:
    with pytest.raises(AegisError, match="is no name"):
        parse(LEAST.replace('"mine"', f'"{name}"', 1), "mine.toml")


def test_a_bad_file_is_told_of_and_the_rest_works(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(LEAST)
    (tmp_path / "b.toml").write_text("nmae = 'b'\n")
    (tmp_path / "c.toml").write_bytes(b"\xff")
    (tmp_path / "d.toml").write_text(LEAST)
    (tmp_path / "e.toml").mkdir()
    (tmp_path / "f.txt").write_text("?")
    told: list[AegisError] = []
    assert [spec.name for spec in load(tmp_path, told.append)] == ["mine"]
    assert [Path(str(error.message.split(": ")[0]).removesuffix(" cannot be read")).name for error in told] == [
        "b.toml",
        "c.toml",
        "d.toml",
        "e.toml",
    ]
    assert "did you mean `name`?" in told[0].hint
    assert load(tmp_path / "none") == []


def test_templates() -> None:
    values = {"model": 'a"b', "context": 5, "endpoint": "http://x", "tmp": "/t"}
    assert templates.text("{endpoint}/v1?{x}{", values) == "http://x/v1?{x}{"
    document = templates.document({"m/{model}": ["{context}", "at most {context}", {"a": True}]}, values)
    assert msgspec.json.decode(document) == {'m/a"b': [5, "at most 5", {"a": True}]}
    assert templates.needs({"a": [{"{token}": 1}]}, "token")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    faults: list[AegisError] = []
    assert load(tmp_path, faults.append) == []
    assert "not a regular file" in faults[0].message


def test_a_folder_with_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis.drivers.acp.spec.MOST_FILES", 1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(LEAST.replace('"mine"', f'"{name}"', 1))
    faults: list[AegisError] = []
    assert [agent.name for agent in load(tmp_path, faults.append)] == ["a"]
    assert "more than 1 files" in faults[0].message


@pytest.mark.parametrize(("key", "value"), [("files", '["/etc/x"]'), ("files", '["a/../b"]'), ("egress", '["everything"]')])
def test_a_login_is_below_home_and_reaches_places(key: str, value: str) -> None:
    with pytest.raises(AegisError, match=f"login.{key}"):
        parse(f"{LEAST}[login]\n{key} = {value}\n", "a.toml")
