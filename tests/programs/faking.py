"""Installing the fake program: as Claude Code or Codex by its path in the configuration, or as an agent of a person's own data file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import RealDaemon
    from tests.programs.conftest import Lab

_SOURCE = Path(__file__).with_name("fake_program.py")
_DATA = """
name = "mine"
title = "My agent"
dialects = ["anthropic"]

[program]
command = ["my-agent"]
args = ["acp"]
oldest = "2.0.0"
install = "install-my-agent"

[login]
hint = "my-agent login"
"""
#: What is older does not work, where that is not below 2.0.0.
OLDEST = {"codex": "0.160.0"}
#: What they are called in errors.
TITLES = {"claude-code": "Claude Code", "codex": "Codex", "mine": "My agent"}


class Faked:
    """A laboratory whose program is the fake one."""

    def __init__(self, lab: Lab, path: Path) -> None:
        self.lab = lab
        self.path = path
        self.title = TITLES[lab.program]

    def install(self, start: str = "", version: str = "9.9.9") -> None:
        """Put the program there, with what goes wrong when it starts; in place, so that what runs sees it at its next start."""
        text = _SOURCE.read_text().replace('START = ""', f"START = {start!r}").replace('VERSION = "9.9.9"', f"VERSION = {version!r}")
        self.path.write_text(f"#!{os.path.realpath(sys.executable)}\n{text}")
        self.path.chmod(0o755)


def install(real: RealDaemon, program: str, folder: Path, make: Callable[[], Lab]) -> Faked:
    """Set up the home for a program and start the daemon."""
    folder.mkdir()
    path = folder / "program"
    real.home.mkdir(mode=0o700)
    (real.home / "config.yaml").write_text(f"programs: {{{program}: {{path: '{path}'}}}}\n")
    (real.home / "programs").mkdir()
    (real.home / "programs" / "mine.toml").write_text(_DATA)
    faked = Faked(make(), path)
    faked.install()
    real.up()
    return faked
