"""The pinned agent programs that tests drive, and nobody's own.

They are looked for in the directory that AEGIS_TEST_CLIS names (its `node_modules`), else in `tests/clis`; never on PATH, where a
developer's own program with his login may be. Absent ones skip the test with the command that installs them; with
AEGIS_REQUIRE_CLIS=1 they fail it. Nothing is copied: a program is used where it is, read-only.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

HERE = Path(__file__).resolve().parents[1] / "clis"
MEND = "npm ci --ignore-scripts --prefix tests/clis (or ./dev clis)"


class Pinned(NamedTuple):
    """A program: the package whose version counts, and the file that is run, below `node_modules`."""

    package: str
    file: str


PROGRAMS = {
    "claude-code": Pinned("@anthropic-ai/claude-code-linux-x64", "@anthropic-ai/claude-code-linux-x64/claude"),
    "codex": Pinned("codex-linux-x64", "codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"),
    "gemini": Pinned("@google/gemini-cli", "@google/gemini-cli/bundle/gemini.js"),
    "opencode": Pinned("opencode-linux-x64", "opencode-linux-x64/bin/opencode"),
}


def cli(name: str) -> Path:
    """The pinned program of a provider (`claude-code`, `codex`, `gemini`, `opencode`), ready to be named as `programs.NAME.path`."""
    path, missing = _find(os.environ.get("AEGIS_TEST_CLIS", ""), name)
    if path is None:
        _missing(missing)
    return path


def overrides(*names: str) -> dict[str, str]:
    """The same as the mapping that `aegis.drivers.programs.Programs` takes; of all programs when none is named."""
    return {name: str(cli(name)) for name in names or PROGRAMS}


def pin(name: str) -> str:
    """The version that `tests/clis` pins."""
    lock = json.loads((HERE / "package-lock.json").read_text())
    return str(lock["packages"][f"node_modules/{PROGRAMS[name].package}"]["version"])


@cache
def _find(chosen: str, name: str) -> tuple[Path | None, str]:
    """The program, or why there is none."""
    modules = (Path(chosen) if chosen else HERE).resolve() / "node_modules"
    wanted = PROGRAMS[name]
    try:
        there = str(json.loads((modules / wanted.package / "package.json").read_text())["version"])
    except (OSError, ValueError, KeyError):
        return None, f"{name} is not installed in {modules}"
    if there != pin(name):
        return None, f"{name} in {modules} is {there}, pinned is {pin(name)}"
    path = modules / wanted.file
    if not os.access(path, os.R_OK | os.X_OK):
        return None, f"{path} cannot be run"
    return path, ""


def _missing(why: str) -> NoReturn:
    if os.environ.get("AEGIS_REQUIRE_CLIS") == "1":
        pytest.fail(f"{why}; {MEND}", pytrace=False)
    pytest.skip(f"{why}; {MEND}")
