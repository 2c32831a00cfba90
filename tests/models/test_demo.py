"""The demo model against a real copy of the demo repository, with tools that really do what they are asked."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models.speaking import DIALECTS, Asked, Speaker

from aegis.core.clock import ManualClock
from aegis.models import Dialect
from aegis.models.scripted import ScriptedProvider
from aegis.models.scripted.demo import BUG, FIX, SOURCE

NATIVE = {"list": ["path"], "read": ["path", "start_line"], "edit": ["path", "old_text", "new_text"], "bash": ["command", "timeout"]}
FOREIGN = {"Read": ["file_path"], "Edit": ["file_path", "old_string", "new_string"], "Bash": ["command", "description"]}
LOST = "error: the agent was interrupted while this tool ran; whether it ran is unknown."
GO_ON = "[You were interrupted: the machine was restarted. Go on.]"
TASK = "The tests fail. Please fix the bug."


class Hasty(ManualClock):
    async def sleep(self, seconds: float) -> None:
        return


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "textkit").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "textkit/__init__.py").touch()
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "README.md").write_text("# textkit\n\nRun the tests with `python3 -m unittest -q`.\n")
    (tmp_path / SOURCE).write_text(f'"""Slugs."""\n\nimport re\n\n\ndef slugify(text: str) -> str:\n    """A slug."""\n    {BUG}\n')
    (tmp_path / "tests/test_slug.py").write_text(
        "import unittest\n\nfrom textkit.slug import slugify\n\n\nclass T(unittest.TestCase):\n"
        '    def test_it(self):\n        self.assertEqual(slugify("  Hello,   World! "), "hello-world")\n'
    )
    return tmp_path


class Program(Speaker):
    """A small agent: asks the model, runs its tools in the repository, remembers. Can be interrupted anywhere."""

    def __init__(self, root: Path, dialect: Dialect = "anthropic", tools: dict[str, list[str]] | None = None) -> None:
        schemas = {
            name: {"type": "object", "properties": {arg: {} for arg in args}, "required": args[:1]}
            for name, args in (tools or NATIVE).items()
        }
        super().__init__(dialect, "demo", schemas)
        self.root = root
        self.calls: list[str] = []

    async def ask(self) -> tuple[str, Asked | None]:
        response = await ScriptedProvider(clock=Hasty()).stream(self.request(), None)
        text, calls = self.take(b"".join([data async for data in response.body]))
        return text, calls[0] if calls else None

    def run(self, name: str, arguments: dict[str, Any]) -> tuple[str, bool]:
        self.calls.append(name.lower())
        path = arguments.get("path", arguments.get("file_path", ""))
        try:
            match name.lower():
                case "list":
                    return "\n".join(
                        sorted(f"{p.name}/" if p.is_dir() else f"{p.name}\t{p.stat().st_size}" for p in (self.root / path).iterdir())
                    ), True
                case "read":
                    lines = (self.root / path).read_text().splitlines()
                    return "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1)), True
                case "edit":
                    old, new = (arguments.get(f"{k}_text", arguments.get(f"{k}_string", "")) for k in ("old", "new"))
                    text = (self.root / path).read_text()
                    if text.count(old) != 1:
                        return "error: old_text is not there", False
                    (self.root / path).write_text(text.replace(old, new))
                    return "replaced 1", True
                case _:
                    command = re.sub(r"^python3", shlex.quote(sys.executable), arguments["command"])
                    done = subprocess.run(
                        ["/bin/sh", "-c", command],
                        cwd=self.root,
                        capture_output=True,
                        text=True,
                        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
                    )
                    return (
                        done.stdout + done.stderr + (f"\n[exit code {done.returncode}]" if done.returncode else "")
                    ), done.returncode == 0
        except OSError as error:
            return f"error: {error}", False

    async def turn(self, text: str, cut: int | None = None, *, happened: bool = True) -> str:
        """Work until the model is done. In round `cut` the machine dies during the tool call, which may have `happened`."""
        self.user(text)
        for round_ in range(40):
            said, call = await self.ask()
            if call is None:
                return said
            assert said, "a person should see why"
            if round_ == cut:
                if happened:
                    self.run(call.name, call.input)
                self.results((call, LOST, False))
                self.user(GO_ON)
            else:
                self.results((call, *self.run(call.name, call.input)))
        raise AssertionError("it never ends")


@pytest.mark.parametrize("tools", [NATIVE, FOREIGN])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_mends_the_demo(repository: Path, dialect: Dialect, tools: dict[str, list[str]]) -> None:
    program = Program(repository, dialect, tools)
    text = await program.turn(TASK)
    assert "failed before the change and pass now" in text
    assert "scripted offline model" in text
    source = (repository / SOURCE).read_text()
    assert f"    {FIX}\n" in source
    assert BUG not in source
    assert program.calls.count("edit") == 1
    assert program.calls.count("bash") == (2 if "list" in tools else 3)


@pytest.mark.parametrize("happened", [False, True])
@pytest.mark.parametrize("cut", range(8))
async def test_it_survives_an_interruption_in_any_round(repository: Path, cut: int, happened: bool) -> None:
    program = Program(repository)
    text = await program.turn(TASK, cut, happened=happened)
    assert "pass now" in text
    assert (repository / SOURCE).read_text().count(FIX) == 1


async def test_asked_again_it_finds_nothing_to_do(repository: Path) -> None:
    program = Program(repository)
    await program.turn(TASK)
    text = await program.turn("And fix the tests, please.")
    assert "already mended" in text
    assert "pass now" in text
    assert program.calls.count("edit") == 1


async def test_another_wish_is_declined_plainly(repository: Path) -> None:
    program = Program(repository)
    text = await program.turn("Write a poem about the sea.")
    assert "not a real model" in text
    assert "aegis secret set" in text
    assert "edit" not in program.calls


async def test_another_repository_is_looked_at_and_declined(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# other\n")
    program = Program(tmp_path)
    text = await program.turn(TASK)
    assert program.calls == ["list", "read", "bash"]
    assert "README.md" in text
    assert "not a real model" in text


async def test_a_file_that_is_not_the_demos_is_not_touched(repository: Path) -> None:
    (repository / SOURCE).write_text("import re\n")
    program = Program(repository)
    assert "do not touch" in await program.turn(TASK)
    assert "edit" not in program.calls


async def test_where_it_may_not_edit_it_says_what_it_would_change(repository: Path) -> None:
    program = Program(repository, tools={name: args for name, args in NATIVE.items() if name != "edit"})
    text = await program.turn(TASK)
    assert FIX in text
    assert "no tool for editing" in text


async def test_a_missing_source_ends_it(repository: Path) -> None:
    (repository / SOURCE).unlink()
    assert "could not read" in await Program(repository).turn(TASK)


async def test_without_tools_it_says_what_it_is(tmp_path: Path) -> None:
    program = Program(tmp_path, tools={"unknown": ["x"]})
    assert "not a real model" in await program.turn("hello")
